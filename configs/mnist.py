"""MNIST from TFDS: 60,000 grey images of 28x28 pixels.

Command:    python -m jdiffclust.main --config=configs/mnist.py --workdir=runs/mnist
            without TFDS: --config.data.source=idx \\
                --config.data.path=DIR/train-images-idx3-ubyte.gz
            a try-out on a CPU: --config.data.max_images=2000 \\
                --config.m_step.num_steps=200 --config.e_step.num_draws=4
Time:       meant for a GPU or TPU; not yet timed on one. On two CPU cores a gradient
            step takes about 2 seconds and the whole run days.
Provenance: T = 1000, linear betas and the U-Net's form (two residual blocks a level,
            attention at low resolution, EMA, dropout .1) are those of Ho, Jain and Abbeel
            (2020); width and levels give about ClusterDDPM's 2 M parameters for MNIST.
            Not tuned.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.data.source = 'tfds'
  config.data.name = 'mnist'
  config.num_clusters = 10
  config.diffusion.num_steps = 1000
  config.network.channels = 32
  config.network.channel_multipliers = (1, 2, 2)
  config.network.attention_levels = (2,)
  config.network.dropout = .1
  config.em.max_iterations = 10
  config.m_step.first_num_steps = 10000
  config.m_step.num_steps = 2000
  config.m_step.learning_rate = 2e-4
  config.m_step.ema_decay = .9995
  config.checkpoint.every_steps = 1000
  return config
