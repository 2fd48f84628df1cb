"""ClusterDDPM on Fashion-MNIST from TFDS: its 70,000 grey images of 28x28 pixels.

Command:    python -m jdiffclust.main --config=configs/cluster_ddpm_fashion_mnist.py \\
                --workdir=runs/cluster_ddpm_fashion_mnist
            without TFDS, 60,000 images: --config.data.source=idx \\
                --config.data.path=DIR/train-images-idx3-ubyte.gz
            (Debian: apt install dataset-fashion-mnist, then
            DIR = /usr/share/datasets/fashion-mnist)
Time:       meant for a GPU or TPU; not timed.
Provenance: Yan, Liu and Zhang (2023), published ACC .705 and NMI .661. Theirs: J, lambda,
            T and betas as they stand, Adam 1e-4 (no warm-up, clipping or averaging of
            weights is named), batch 128, context dropout, 10 epochs before the first
            E-step and 570 with one each; training and test images, as in their Table 1.
            Filled in, as the paper only gives the 2.01 M parameters: the U-Net, that of
            configs/cluster_ddpm_mnist.py, 1.95 M with the larger J. Not tuned.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.method = 'cluster_ddpm'
  config.data.source = 'tfds'
  config.data.name = 'fashion_mnist'
  config.data.split = 'train+test'
  config.num_clusters = 10
  config.diffusion.num_steps = 400
  config.diffusion.rescale_betas = False
  config.network.channels = 32
  config.network.channel_multipliers = (1, 1, 2)
  config.network.attention_levels = (1, 2)
  config.latent.size = 64
  config.latent.weight = .001
  config.latent.responsibilities = 'sampled'
  config.latent.mixture_iterations = 100
  config.latent.views = False
  config.latent.context_dropout = .1
  config.m_step.batch_size = 128
  epoch = 70_000 // config.m_step.batch_size
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
