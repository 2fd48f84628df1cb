"""CIFAR-10 from TFDS: 50,000 colour images of 32x32 pixels.

Command:    python -m jdiffclust.main --config=configs/cifar10.py --workdir=runs/cifar10
            from a folder of images: --config.data.source=folder --config.data.path=DIR
Time:       meant for several GPUs or TPUs; not timed.
Provenance: the U-Net and schedule of Ho, Jain and Abbeel (2020) for CIFAR-10 (T = 1000,
            128 channels times 1, 2, 2, 2, attention at 16x16, dropout .1, step size 2e-4,
            batch 128, EMA .9999), 35.7 M parameters there. Views of photographs may be
            mirrored. Not tuned.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.data.source = 'tfds'
  config.data.name = 'cifar10'
  config.num_clusters = 10
  config.diffusion.num_steps = 1000
  config.network.channels = 128
  config.network.channel_multipliers = (1, 2, 2, 2)
  config.network.attention_levels = (1,)
  config.network.num_groups = 32
  config.network.num_heads = 4
  config.network.dropout = .1
  config.network.dtype = 'bfloat16'
  config.views.flip = .5
  config.em.max_iterations = 20
  config.start.components = 50
  config.e_step.batch_size = 512
  config.m_step.first_num_steps = 50000
  config.m_step.num_steps = 10000
  config.m_step.learning_rate = 2e-4
  config.m_step.learning_rate_warmup = 5000
  config.m_step.ema_decay = .9999
  config.checkpoint.every_steps = 2000
  return config
