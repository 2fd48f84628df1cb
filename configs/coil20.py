"""COIL-20 from a folder: 1,440 grey photographs of 20 objects, resized to 64x64.

Command:    python -m jdiffclust.main --config=configs/coil20.py --workdir=runs/coil20 \\
                --config.data.path=DIR
            DIR holds the images (obj1__0.png ...), as Columbia University hands them out;
            they are not part of TFDS. Labels are read if each object has a sub-folder.
Time:       meant for a GPU; not timed.
Provenance: 64 pixels keep the attention affordable; the rest as configs/mnist.py, one
            level deeper. Not tuned.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.data.source = 'folder'
  config.data.image_size = 64
  config.data.channels = 1
  config.num_clusters = 20
  config.diffusion.num_steps = 400
  config.network.channels = 64
  config.network.channel_multipliers = (1, 2, 2, 4)
  config.network.attention_levels = (3,)
  config.network.dropout = .1
  config.em.max_iterations = 10
  config.e_step.batch_size = 64
  config.e_step.clusters_per_chunk = 5
  config.m_step.batch_size = 64
  config.m_step.first_num_steps = 5000
  config.m_step.num_steps = 1000
  config.m_step.learning_rate = 2e-4
  config.m_step.ema_decay = .999
  config.checkpoint.every_steps = 500
  return config
