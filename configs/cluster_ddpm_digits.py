"""ClusterDDPM on the embedded handwritten digits: 1,797 images of 8x8 pixels.

Command:    python -m jdiffclust.main --config=configs/cluster_ddpm_digits.py \\
                --workdir=runs/cluster_ddpm_digits
Time:       meant for a quarter of an hour on two CPU cores; not timed.
Provenance: a first draft: the loss and schedule of configs/cluster_ddpm_mnist.py; the
            U-Net of configs/digits.py, with its step size and averaging of weights;
            lambda, gradient steps and EM iterations by guess. Not tuned.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.method = 'cluster_ddpm'
  config.data.source = 'digits'
  config.num_clusters = 10
  config.diffusion.num_steps = 400
  config.diffusion.rescale_betas = False
  config.diffusion.pull = 'zero'
  config.network.channels = 16
  config.network.blocks_per_level = 1
  config.latent.size = 10
  config.latent.weight = .1
  config.em.max_iterations = 41
  config.em.bound_tolerance = 0.
  config.em.partition_tolerance = 0.
  config.e_step.num_draws = 2
  config.m_step.first_num_steps = 1000
  config.m_step.num_steps = 100
  return config
