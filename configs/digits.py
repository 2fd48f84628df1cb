"""The embedded handwritten digits: 1,797 images of 8x8 pixels.

Command:    python -m jdiffclust.main --config=configs/digits.py --workdir=runs/digits
Time:       about 2 minutes on two CPU cores; results in docs/benchmarks.md.
Provenance: the model, its start and its posterior are the general defaults of
            jdiffclust/config/options.py, for all data sets the same (how they came about:
            docs/benchmarks.md); the U-Net's width, the gradient steps and their size, EM
            iterations and draws are what fits into that time.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.data.source = 'digits'
  config.num_clusters = 10
  config.network.channels = 16
  config.network.blocks_per_level = 1
  config.em.max_iterations = 2
  config.e_step.num_draws = 4
  config.m_step.first_num_steps = 400
  config.m_step.num_steps = 300
  config.m_step.learning_rate = 2e-3
  return config
