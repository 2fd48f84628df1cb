"""ClusterDDPM on CIFAR-10 from TFDS: its 60,000 colour images of 32x32 pixels.

Command:    python -m jdiffclust.main --config=configs/cluster_ddpm_cifar10.py \\
                --workdir=runs/cluster_ddpm_cifar10
            from a folder of images: --config.data.source=folder --config.data.path=DIR
Time:       meant for several GPUs or TPUs; not timed.
Provenance: Yan, Liu and Zhang (2023), published ACC .305 and NMI .173. Theirs: J, lambda,
            T and betas as they stand, Adam 1e-4 (no warm-up, clipping or averaging of
            weights is named), batch 128, context dropout, 10 epochs before the first
            E-step and 570 with one each; training and test images, as in their Table 1.
            Filled in, as the paper only gives the 46.2 M parameters: the U-Net. Here
            46.1 M, in the form of Ho, Jain and Abbeel (2020) for CIFAR-10 (128 channels,
            attention at 16x16, here at 8x8 as well, dropout .1), the first two levels of
            equal width, in bfloat16. Not tuned.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.method = 'cluster_ddpm'
  config.data.source = 'tfds'
  config.data.name = 'cifar10'
  config.data.split = 'train+test'
  config.num_clusters = 10
  config.diffusion.num_steps = 400
  config.diffusion.rescale_betas = False
  config.network.channels = 128
  config.network.channel_multipliers = (1, 1, 2, 2)
  config.network.attention_levels = (1, 2)
  config.network.num_groups = 32
  config.network.dropout = .1
  config.network.dtype = 'bfloat16'
  config.latent.size = 512
  config.latent.weight = .01
  config.latent.responsibilities = 'sampled'
  config.latent.mixture_iterations = 100
  config.latent.views = False
  config.latent.context_dropout = .1
  config.m_step.batch_size = 128
  epoch = 60_000 // config.m_step.batch_size
  config.start.kind = 'latents'
  config.posterior.anchor = 0.
  config.em.max_iterations = 571
  config.em.bound_tolerance = 0.
  config.em.partition_tolerance = 0.
  config.e_step.num_draws = 2
  config.e_step.batch_size = 512
  config.m_step.first_num_steps = 10 * epoch
  config.m_step.num_steps = epoch
  config.m_step.learning_rate = 1e-4
  config.m_step.learning_rate_warmup = 0
  config.m_step.gradient_clip = 0.
  config.m_step.ema_decay = 0.
  config.checkpoint.every_steps = 10 * epoch
  config.m_step.learning_rate_fall = 0.
  return config
