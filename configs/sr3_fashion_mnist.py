"""SR3 of Fashion-MNIST: 28x28 pixels from 7x7.

Command:    python -m jdiffclust.main --config=configs/sr3_fashion_mnist.py \\
                --workdir=runs/sr3_fashion_mnist
            without TFDS: --config.data.source=idx \\
                --config.data.path=DIR/train-images-idx3-ubyte.gz
            (Debian: apt install dataset-fashion-mnist, then
            DIR = /usr/share/datasets/fashion-mnist)
Time:       28 minutes on two CPU cores beside much other work; results in
            docs/benchmarks.md.
Provenance: Saharia et al. (2022), as far as the method goes. The schedule is the default;
            the U-Net, the images and the steps are what fits into that time. Not tuned.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.method = 'sr3'
  config.data.source = 'tfds'
  config.data.name = 'fashion_mnist'
  config.data.max_images = 10000
  config.data.use_labels = False  # of clusters, of which there are none
  config.num_clusters = 1
  config.sr3.factor = 4
  config.network.channels = 16
  config.network.channel_multipliers = (1, 2, 2)
  config.network.blocks_per_level = 1
  config.start.kind = 'random'
  config.start.max_images = 2000
  config.em.max_iterations = 2
  # One cluster changes nothing: that says nothing of when to stop.
  config.em.partition_tolerance = 0.
  config.em.bound_tolerance = 0.
  config.e_step.num_draws = 2
  config.m_step.batch_size = 64
  config.m_step.num_steps = 1000
  config.m_step.learning_rate_fall = 0.
  return config
