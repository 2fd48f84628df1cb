"""Algorithm 1 of the CDDPM paper, to the letter, on the digits.

Command:    python -m jdiffclust.main --config=configs/digits_paper.py \\
                --workdir=runs/digits_paper
Time:       about 6 minutes on two CPU cores.
Provenance: Niang, Bouveyron, Corneli and Latouche (2024), Algorithm 1 and equation 22.
  To the letter: tau starts at random (the paper names no start); each gradient step takes
  one cluster q for its whole minibatch and weighs each image's error by tau_iq;
  t is uniform; mu_q is learned by gradient, with the penalty abar_T / 2 norm2(mu_q);
  tau is a table; the U-Net sees x_t and mu side by side;
  the E-step draws (t, eps) for every cluster by itself, t uniformly; pi = N_q / N;
  no averaging of weights; 1 / (2 delta~_t) weighs the errors.
  Filled in, where the paper is silent: the U-Net, T, the noise schedule, Adam's step size
  and the number of draws are those of configs/digits.py; a minibatch of images stands for
  its single image. Corrected, where the printed formula cannot be meant: delta_t,
  delta_{t|t-1}, the single 1 / (2 delta~_t), KL_T whole and the decoder term kept (see
  jdiffclust/diffusion/process.py and jdiffclust/clustering/bound/terms.py). CDiffuSE's
  m_t, which the paper builds on, is invalid on this schedule: m_t = 1 - sqrt(abar_t).
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.data.source = 'digits'
  config.num_clusters = 10
  config.network.conditioning = 'concatenated'
  config.network.prediction = 'noise'
  config.network.channels = 16
  config.network.blocks_per_level = 1
  config.em.max_iterations = 3
  config.e_step.num_draws = 8
  config.m_step.first_num_steps = 600
  config.m_step.num_steps = 150
  config.diffusion.reverse_variance = 'posterior'
  config.start.kind = 'random'
  config.em.posterior = 'monte_carlo'
  config.e_step.share_draws = False
  config.e_step.noise = 'independent'
  config.e_step.stratify = False
  config.e_step.proposal = 'uniform'
  config.m_step.assignment = 'per_cluster'
  config.m_step.weighting = 'uniform'
  config.m_step.means = 'gradient'
  config.m_step.ema_decay = 0.
  config.m_step.learning_rate_fall = 0.
  return config
