"""Your own folder of images, made small enough for a try-out on a CPU.

Command:    python -m jdiffclust.main --config=configs/folder.py --workdir=runs/mine \\
                --config.data.path=DIR --config.num_clusters=5
            finer images: --config.data.image_size=32; colour: --config.data.channels=3
Time:       on two CPU cores about 10 minutes for 1,000 images and 5 clusters.
Provenance: the general default: the U-Net of configs/digits.py, on images of 16x16, one
            level deeper. Settings were not tuned on any labelled folder.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.data.source = 'folder'
  config.data.image_size = 16
  config.num_clusters = 5
  config.start.repeats = 3
  config.network.channels = 16
  config.network.channel_multipliers = (1, 2, 2)
  config.network.blocks_per_level = 1
  config.em.max_iterations = 3
  config.e_step.num_draws = 4
  config.m_step.first_num_steps = 600
  config.m_step.num_steps = 150
  return config
