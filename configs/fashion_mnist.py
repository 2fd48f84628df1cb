"""Fashion-MNIST from TFDS: 60,000 grey images of 28x28 pixels.

Command:    python -m jdiffclust.main --config=configs/fashion_mnist.py \\
                --workdir=runs/fashion_mnist
            without TFDS: --config.data.source=idx \\
                --config.data.path=DIR/train-images-idx3-ubyte.gz
            (Debian: apt install dataset-fashion-mnist, then
            DIR = /usr/share/datasets/fashion-mnist)
            a try-out on a CPU: --config.data.max_images=2000 \\
                --config.m_step.num_steps=200 --config.e_step.num_draws=4
Time:       meant for a GPU or TPU; not yet timed on one. On two CPU cores a gradient
            step takes about 2 seconds and the whole run days.
Provenance: as configs/mnist.py, whose U-Net has about the 2 M parameters of
            ClusterDDPM's for Fashion-MNIST. Not tuned.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.data.source = 'tfds'
  config.data.name = 'fashion_mnist'
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
