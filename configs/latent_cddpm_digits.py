"""CDDPM in ClusterDDPM's latent space, of the embedded handwritten digits.

Command:    python -m jdiffclust.main --config=configs/latent_cddpm_digits.py \\
                --workdir=runs/latent_cddpm_digits
Time:       some 4 minutes of one CPU core.
Provenance: configs/cluster_ddpm_digits.py, and then CDDPM of its latents with the
            defaults: 4 EM iterations of 300 steps, a guess.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.method = 'latent_cddpm'
  config.data.source = 'digits'
  config.num_clusters = 10
  config.diffusion.num_steps = 400
  config.diffusion.rescale_betas = False
  config.network.channels = 16
  config.network.blocks_per_level = 1
  config.latent.size = 10
  config.latent.weight = .1
  config.em.max_iterations = 5
  config.em.bound_tolerance = 0.
  config.em.partition_tolerance = 0.
  config.e_step.num_draws = 2
  config.m_step.batch_size = 64
  config.m_step.first_num_steps = 1000
  config.m_step.learning_rate_fall = 0.
  return config
