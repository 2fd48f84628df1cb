"""All 70,000 images of MNIST or of Fashion-MNIST, 28x28, on two CPU cores.

Command:    python -m jdiffclust.main --config=configs/mnist70k.py \\
                --workdir=runs/mnist70k --config.data.path=DIR
            DIR holds the four files, such as train-images-idx3-ubyte.gz, gzipped or not:
            those of training and of test are read one after the other (Fashion-MNIST:
            apt install dataset-fashion-mnist, then DIR is
            /usr/share/datasets/fashion-mnist)
Time:       on two CPU cores less than two hours, an hour of it for the start; parts and
            scores in docs/benchmarks.md (The start by number).
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
