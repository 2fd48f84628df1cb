"""ClusterDDPM on COIL-20 from a folder: 1,440 grey photographs of 20 objects, 128x128.

Command:    python -m jdiffclust.main --config=configs/cluster_ddpm_coil20.py \\
                --workdir=runs/cluster_ddpm_coil20 --config.data.path=DIR
            DIR holds the images (obj1__0.png ...), as Columbia University hands them out;
            they are not part of TFDS. Labels are read if each object has a sub-folder.
Time:       meant for a GPU; not timed.
Provenance: Yan, Liu and Zhang (2023), published ACC .824 and NMI .906. Theirs: J, lambda,
            T and betas as they stand, Adam 1e-4 (no warm-up, clipping or averaging of
            weights is named), batch 128, context dropout, 10 epochs before the first
            E-step and 570 with one each.
            Filled in, as the paper only gives the 11.14 M parameters: the U-Net. Here
            11.30 M, in the form of Ho, Jain and Abbeel (2020), attention at 16x16.
            Not tuned.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.method = 'cluster_ddpm'
  config.data.source = 'folder'
  config.data.image_size = 128
  config.data.channels = 1
  config.num_clusters = 20
  config.diffusion.num_steps = 400
  config.diffusion.rescale_betas = False
  config.network.channels = 64
  config.network.channel_multipliers = (1, 1, 2, 2)
  config.network.attention_levels = (3,)
  config.latent.size = 10
  config.latent.weight = .05
  config.latent.responsibilities = 'sampled'
  config.latent.mixture_iterations = 100
  config.latent.views = False
  config.latent.context_dropout = .1
  config.m_step.batch_size = 128
  epoch = 1_440 // config.m_step.batch_size
  config.start.kind = 'latents'
  config.posterior.anchor = 0.
  config.em.max_iterations = 571
  config.em.bound_tolerance = 0.
  config.em.partition_tolerance = 0.
  config.e_step.num_draws = 2
  config.e_step.batch_size = 128
  config.m_step.first_num_steps = 10 * epoch
  config.m_step.num_steps = epoch
  config.m_step.learning_rate = 1e-4
  config.m_step.learning_rate_warmup = 0
  config.m_step.gradient_clip = 0.
  config.m_step.ema_decay = 0.
  config.checkpoint.every_steps = 50 * epoch
  config.m_step.learning_rate_fall = 0.
  return config
