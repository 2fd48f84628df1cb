"""All 70,000 images of MNIST or of Fashion-MNIST, 28x28, on two CPU cores.

Command:    python -m jdiffclust.main --config=configs/mnist70k.py \\
                --workdir=runs/mnist70k --config.data.path=DIR
            DIR holds the four files, such as train-images-idx3-ubyte.gz, gzipped or not:
            those of training and of test are read one after the other (Fashion-MNIST:
            apt install dataset-fashion-mnist, then DIR is
            /usr/share/datasets/fashion-mnist)
Time:       on two CPU cores some 2 hours, by the rates of a part: 100 images/s in
            training (half an hour), 35 images/s in each of two E-steps (70 minutes), the
            start (docs/benchmarks.md, The start by number) and the rest. Not yet run as
            a whole.
Provenance: the U-Net of configs/folder.py at 28x28; steps and draws are what fits into
            the time. Not tuned.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.data.source = 'idx'
  config.num_clusters = 10
  config.start.max_images = 70_000
  config.network.channels = 16
  config.network.channel_multipliers = (1, 2, 2)
  config.network.blocks_per_level = 1
  config.em.max_iterations = 2
  config.e_step.num_draws = 2
  config.posterior.num_views = 4
  config.m_step.batch_size = 64
  config.m_step.first_num_steps = 2500
  config.m_step.num_steps = 500
  return config
