"""SR3 of the embedded handwritten digits: 8x8 pixels from 4x4.

Command:    python -m jdiffclust.main --config=configs/sr3_digits.py \\
                --workdir=runs/sr3_digits
Time:       2 to 3 minutes on two CPU cores; results in docs/benchmarks.md.
Provenance: Saharia et al. (2022), as far as the method goes. The schedule is the default,
            the U-Net that of configs/digits.py, the steps are what fits into that time.
            Not tuned.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.method = 'sr3'
  config.data.source = 'digits'
  config.data.use_labels = False  # of clusters, of which there are none
  config.num_clusters = 1
  config.sr3.factor = 2
  config.network.channels = 16
  config.network.blocks_per_level = 1
  config.start.kind = 'random'
  config.em.max_iterations = 3
  # One cluster changes nothing: that says nothing of when to stop.
  config.em.partition_tolerance = 0.
  config.em.bound_tolerance = 0.
  config.e_step.num_draws = 8
  config.m_step.num_steps = 500
  config.m_step.learning_rate_fall = 0.
  return config
