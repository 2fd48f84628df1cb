"""Every option: its default, its check and its one-line meaning, in one place.

A config file (`configs/NAME.py`) starts from `default_config()` and changes what differs.
The names of methods, starts, sources, samplers, grids and schedules are those of
`jdiffclust.registry`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np

from jdiffclust.config.option import (
    AUTO, LARGEST, LONGEST, Option, auto_share, choice, closest, flag, integer, integers,
    names, nearest, real, text)
from jdiffclust.diffusion.tables import PREDICTORS
from jdiffclust.errors import UserError
from jdiffclust.registry import (
    BETAS, EMBEDDINGS, GRIDS, METHODS, PULLS, RESTORERS, SAMPLERS, SOURCES, SPACES,
    STARTS, UNINFORMED_STARTS)

ADVISED_WEIGHT = (.001, .1)  # ClusterDDPM's lambda, by its paper's section 4.4
BEST = 'best'  # the start of the best bound
# The default of start.spaces, and of images with embeddings.
PLAIN, EMBEDDED = ('pixels', 'edges', 'colours'), (EMBEDDINGS,)
QUICK, FULL = 'quick', 'full'  # how far a fit goes
CHOOSE_IMAGES = 5000  # by which num_clusters=auto chooses, at most
# Which maps leave the images' content alone; auto: it is found out when a run begins.
SYMMETRIES = ('views.flip', 'views.upside_down', 'views.quarter_turns')
# How images of other proportions are resized; auto: they decide when a run begins.
RESIZED = ('data.fit', 'data.ground')
FEWEST_STEPS = 50  # gradient steps of an EM iteration, however few the images
NEIGHBOURS = 5  # k of precision, recall, density and coverage
CANDIDATES = tuple(name for name in STARTS if name not in UNINFORMED_STARTS)

PERSON: dict[str, Any] = {'level': 'person'}
MACHINE: dict[str, Any] = {'level': 'machine'}
# Options of the machine, and of what is asked of a fitted model, which do not define it.
HERE: dict[str, Any] = {'level': 'machine', 'defines_run': False}
LATER: dict[str, Any] = {'level': 'model', 'defines_run': False}
ASKED: dict[str, Any] = {'level': 'person', 'defines_run': False}
# The methods that have a mixture of conditional DDPMs, that have latents, that have
# clusters, and that have low images.
MIXTURES: dict[str, Any] = {'methods': ('cddpm', 'latent_cddpm')}
LATENTS: dict[str, Any] = {'methods': ('cluster_ddpm', 'latent_cddpm')}
CLUSTERED: dict[str, Any] = {'methods': ('cddpm', 'cluster_ddpm', 'latent_cddpm')}
LOW: dict[str, Any] = {'methods': ('sr3',)}

OPTIONS: Mapping[str, Any] = {
    'method': choice(
        'cddpm', tuple(METHODS), 'the model: cddpm, a mixture of conditional DDPMs with '
        'a mean image each; cluster_ddpm, a DDPM conditioned on latents that a Gaussian '
        'mixture describes; latent_cddpm, cddpm of such latents; sr3, no clusters but a '
        'DDPM that restores images from low ones', **PERSON),
    'num_clusters': Option(
        10, "an integer >= 1, or 'auto'", lambda v: 1 <= v <= LARGEST, 'the number of '
        'clusters; '
        'auto: it is chosen from the images, see em.auto_clusters', word=AUTO, **PERSON),
    'seed': integer(0, 0, 'the number that every random draw follows from',
                    high=2**31 - 1, **PERSON),
    'effort': choice(FULL, (QUICK, FULL), 'how far a fit goes: quick ends with the '
                     'clusters of the start, their results and their page; full trains '
                     'the diffusion model, too, and goes on from what quick has left',
                     **ASKED),
    'num_devices': integer(0, 0, 'the number of devices that share the work; 0: all, and '
                           'on a CPU as many cores as divide the batch sizes, with 8 '
                           'images of a minibatch or more for each', **HERE),
    'data': {
        'source': choice('digits', tuple(SOURCES), 'the kind of data to read', **PERSON),
        'path': text('', 'the file (idx, npz; files: an image, or a list of images) or '
                     'folder (idx: all its files; folder, tfds) read', **ASKED),
        'labels_path': text('', 'the labels file of source=idx; empty: guessed from the '
                            "images' name", **ASKED),
        'name': text('', 'the name of the TensorFlow data set (source=tfds)', **PERSON),
        'split': text('train', 'the split of the TensorFlow data set (source=tfds)',
                      **PERSON),
        'image_key': text('', 'the name of the images in the file or data set (npz, '
                          'tfds); empty: the usual names are tried', **PERSON),
        'label_key': text('', 'the name of the labels in the file or data set (npz, '
                          'tfds); empty: the usual names are tried', **ASKED),
        'image_size': Option(
            0, f'an integer 0..{LONGEST} or two integers (HEIGHT, WIDTH) 1..{LONGEST}',
            lambda v: 0 <= v <= LONGEST if type(v) is int else len(v) == 2 and all(
                type(n) is int and 1 <= n <= LONGEST for n in v),
            'pixels a side, or (height, width), that images are resized to; 0: their own '
            'size', kinds=(tuple,), **PERSON),
        'fit': choice('auto', ('auto', 'crop', 'pad', 'squash'), 'how images of other '
                      'proportions are resized: crop keeps the middle, pad all of it '
                      'on a ground (data.ground), squash changes proportions; auto: pad '
                      'where their borders are of one colour, else crop', **PERSON),
        'ground': choice('auto', ('auto', 'own'), 'what surrounds padded images: own: '
                         'the colour of its border each; auto: that ground which most '
                         'images share, if there is one, where the border is of another '
                         'colour'),
        'channels': choice(0, (0, 1, 3), 'channels that images are converted to: 1 grey, '
                           '3 colour, 0 as they are', **PERSON),
        'padding': integer(0, 0, 'pixels added on every side of an image', high=LONGEST),
        'use_labels': flag(True, 'whether labels are read, only to score the result '
                           '(folder: the names of sub-folders)', **ASKED),
        'labels': text('', 'a table (.csv, .parquet) of file and label: the classes by '
                       'which the result is scored, in the place of others', **ASKED),
        'metadata': text('', 'a table (.csv, .parquet) of what is known of the images, '
                         'whose columns results.csv shows; rows are joined by the name '
                         'of the file', **ASKED),
        'unreadable': choice('refuse', ('refuse', 'skip'),
                             'what happens to files that are no readable images',
                             **ASKED),
        'range': Option(
            (), 'two numbers (LOW, HIGH) with LOW < HIGH, or ()',
            lambda v: not v or len(v) == 2 and all(
                isinstance(x, (int, float)) and not isinstance(x, bool) for x in v)
            and v[0] < v[1],
            'the stored pixel values that become black and white; (): the bits that are '
            'used, or the own range of floats', **PERSON),
        'percentile': real(0., 0., 49., 'the percentage of the pixels (of more than 8 '
                           'bits) that may lie beyond the range at either end'),
        'background': choice('auto', ('auto', 'black', 'white'), 'the ground under '
                             'transparent pixels; auto: the one against which pictures '
                             'have more contrast'),
        'frames': choice('first', ('first', 'all'), 'the pictures used of a file that '
                         'holds several, such as a stack or a film'),
        'embeddings': text('', 'a file of vectors that another network has made of the '
                           'images (npy, npz, parquet, csv), in their order or with '
                           'their file names: they decide the clusters', **ASKED),
        'max_images': Option(0, '0 (all) or an integer >= 2',
                             lambda v: v == 0 or 2 <= v <= LARGEST,
                             'the largest number of images to use; 0: all', **PERSON),
        'pipeline': choice('auto', ('auto', 'memory', 'grain'), 'whether images are kept '
                           'in device memory or read by Grain; auto: by their size',
                           **HERE),
        'memory_limit_mb': integer(2048, 1, 'megabytes of images above which '
                                   'data.pipeline=auto reads them by Grain', **HERE),
        'workers': integer(8, 0, 'threads by which Grain reads images', **HERE),
    },
    'start': {
        'kind': choice('recognition', (*STARTS, BEST), 'the starting partition: by '
                       'networks that learn to recognise what neighbours have in common, '
                       'by neighbours alone, by simpler means; best: the one of '
                       'start.candidates with the best bound; umap needs the extra umap, '
                       'latents a method that has them', **PERSON),
        'spaces': names(PLAIN, tuple(SPACES), 'what the starts compare, by '
                        'consensus: pixels over views, directions of edges, colours (of '
                        'images that are not grey), features of a denoiser, '
                        'data.embeddings; where these are given, they alone unless this '
                        'is set'),
        'embeddings_distance': choice('cosine', ('cosine', 'euclidean'), 'how '
                                      'data.embeddings are compared: by angle or by '
                                      'distance'),
        'candidates': Option(
            ('neighbours', 'gaussian_mixture', 'kmeans'), f'names out of {CANDIDATES}',
            lambda v: len(v) > 0 and all(name in CANDIDATES for name in v),
            'the starts among which start.kind=best chooses'),
        'trial_steps': integer(200, 1, 'gradient steps by which start.kind=best tries a '
                               'candidate'),
        'restarts': integer(10, 1, 'random restarts of K-means and of mixtures; the '
                            'likeliest is kept'),
        'components': integer(0, 0, 'principal components of the Gaussian mixture; 0: '
                              'all of more than the average variance'),
        'noise': real(.05, 0, 10, 'the variance added to every Gaussian of a starting '
                      'mixture, of images in [-1, 1]', open_low=True),
        'denoiser_steps': integer(1500, 1, 'gradient steps of the denoiser whose '
                                  'features start.spaces=denoiser compares'),
        'repeats': integer(0, 0, 'how often the start is made anew, from another seed '
                           'and a random half of the images, to tell whether there are '
                           'clusters and which of them come back; 0: not', **LATER),
        'max_images': integer(20000, 1, 'the largest number of images that a start is '
                              'fitted to (of large ones, 2 GB of floats or 20,000)'),
    },
    'views': {
        'num': integer(64, 1, 'random views of an image that starts of neighbours '
                       'compare'),
        'sets': integer(5, 1, 'independent sets of views (or of noise, for a denoiser), '
                        'over which the consensus is taken'),
        'rotation': real(.1, 0, 10, 'the rotation of a random view, standard deviation '
                         'in radians', **PERSON),
        'scale': real(.07, 0, 1, 'the scaling of a random view, standard deviation of '
                      'its logarithm', **PERSON),
        'shear': real(.07, 0, 1, 'the shear of a random view, standard deviation',
                      **PERSON),
        'shift': real(.05, 0, 1, 'the shift of a random view, standard deviation as a '
                      "share of the image's side", **PERSON),
        'flip': auto_share('the share of random views that are mirrored, left to right',
                           **PERSON, **CLUSTERED),
        'upside_down': auto_share('the share of random views of which top and bottom are '
                                  'exchanged', **CLUSTERED),
        'quarter_turns': auto_share('the share of random views that are turned by one, '
                                    'two or three quarters (square images only)',
                                    **CLUSTERED),
    },
    'recognition': {
        'max_side': integer(32, 8, 'pixels of the longer side up to which the '
                            'recognition networks see images, also where '
                            'data.image_size leaves the model fewer', high=LONGEST),
        'cells': real(2., 1, 20, 'cells that the recognition networks learn to tell '
                      'apart, in multiples of num_clusters; fewer where one would have '
                      'less than 20 images'),
        'channels': integer(32, 1, "a recognition network's channels at its first "
                            'stage; it has four times as many features'),
        'networks': integer(2, 1, 'recognition networks, whose features have the same '
                            'say'),
        'steps': integer(650, 1, 'gradient steps of each network for 5,000 images; for '
                         'others by the square root of their number'),
        'rounds': integer(2, 1, 'parts of the steps; after each but the last, networks '
                          'learn the cells of their features, too, if these are better'),
        'batch_size': integer(96, 2, 'images of a gradient step'),
        'most_visits': integer(60, 1, 'times that an image is used, at most: few images '
                               'train for fewer steps'),
        'learning_rate': real(4e-3, 0, 10, "AdamW's largest step size, of one cycle",
                              open_low=True),
        'dropout': real(.3, 0, .9, 'the share of the features that is hidden at random '
                        'in training'),
        'view_size': real(1.5, 0, 10, 'the size of the random views that the networks '
                          'learn from, in multiples of the section views'),
        'num_views': integer(4, 0, 'mild views of an image over which, and itself, its '
                             'features are averaged; more where images have symmetries'),
    },
    'em': {
        'posterior': choice('amortised', ('amortised', 'monte_carlo'), 'where the '
                            'responsibilities come from: an inference network, or a '
                            "table made by the E-step's draws", **MIXTURES),
        'schedule': choice('batch', ('batch', 'stepwise'), 'whether proportions and '
                           'means are updated once an EM iteration from all images, or '
                           'after every minibatch (posterior=amortised only)',
                           **MIXTURES),
        'max_iterations': integer(4, 1, 'the largest number of EM iterations', **PERSON),
        'bound_tolerance': real(1e-4, 0, 1, 'the relative change of the bound below '
                                'which EM stops'),
        'partition_tolerance': real(1e-3, 0, 1, 'the share of images changing cluster '
                                    'below which EM stops'),
        'reseed_empty': flag(False, 'whether an emptied cluster gets the images that the '
                             'model explains worst'),
        'auto_parts': integer(5, 1, 'random parts of the images that vote for a number '
                              'of clusters, with num_clusters=auto'),
        'auto_clusters': Option(
            (2, 20), 'two integers (LOW, HIGH) with 2 <= LOW < HIGH',
            lambda v: len(v) == 2 and all(type(n) is int for n in v) and 2 <= v[0] < v[1],
            'the range of the number of clusters that num_clusters=auto tries', **PERSON),
    },
    'posterior': {
        'channels': integer(32, 8, "the inference network's channels at its first layer, "
                            'a multiple of 8', **MIXTURES),
        'num_views': integer(8, 0, 'views of an image over which its responsibilities '
                             'are averaged; 0: the image alone', **CLUSTERED),
        'temper': real(1., 0, 1e9, "the weight of the inference network's divergence "
                       'from its prior', **MIXTURES),
        'anchor': real(1., 0, 1, 'the share of the starting partition in the prior of an '
                       "image's cluster; the rest is the clusters' proportions (with "
                       'latents: p(c | z))', **CLUSTERED),
        'pool': real(.5, 0, 1, 'the share of the starting partition, times '
                     'posterior.anchor, in the responsibilities; the rest is the '
                     'network, which new images have alone where the start is not by '
                     'recognition', **CLUSTERED),
        'balance': real(0., 0, 1e9, 'the weight of a prior for clusters of equal sizes',
                        **MIXTURES),
        'warmup': integer(600, 0, 'gradient steps over which the denoising errors come '
                          'to count for the inference network', **MIXTURES),
        'every': integer(4, 1, 'one image in so many of a minibatch is what the '
                         'inference network learns from; all are where this does not '
                         "divide a device's share", **MIXTURES),
        'noise_range': Option(
            (.1, .8), 'two numbers (LOW, HIGH) with 0 <= LOW < HIGH <= 1',
            lambda v: len(v) == 2 and all(type(n) in (int, float) for n in v)
            and 0 <= v[0] < v[1] <= 1, 'the noise levels whose errors count for the '
            'inference network, as shares of all', **MIXTURES),
    },
    'latent': {
        'size': integer(10, 1, 'the length J of a latent z', **LATENTS),
        'weight': real(.1, 0, 1, 'lambda, the weight of the prior-matching terms against '
                       'the noise error summed over pixels; .001 to .1 is advised',
                       open_low=True, **LATENTS),
        'responsibilities': choice('sampled', ('sampled', 'expected'), 'what training '
                                   'pools with the start: p(c | z) of a sampled z, or '
                                   "the bound's optimum exp(E log p(z, c)), normalised",
                                   **LATENTS),
        'covariance': choice('diagonal', ('diagonal', 'full'), 'the covariances of the '
                             'Gaussians that describe latents', **LATENTS),
        'mixture': choice('auto', ('auto', 'scikit', 'jax'), 'what fits the mixture of '
                          'latents: scikit-learn on one host, or JAX on all devices; '
                          'auto: by their number', level='machine', **LATENTS),
        'mixture_iterations': integer(0, 0, 'EM iterations of the mixture of latents, at '
                                      'most; 0: only its moments by the responsibilities '
                                      'so far', **LATENTS),
        'iterations': integer(1, 1, 'EM iterations of cluster_ddpm before cddpm takes '
                              'over its latents', methods=('latent_cddpm',)),
        'views': flag(True, 'whether the encoder learns from random views of the images '
                      'that the denoiser restores', **LATENTS),
        'context_dropout': real(.1, 0, .9, 'the share of training images whose latent is '
                                'hidden from the denoiser', **LATENTS),
    },
    'sr3': {
        'factor': integer(4, 2, 'how many times smaller than images low images are, '
                          'along either side', **LOW),
        'reduction': choice('averaging', ('averaging', 'bicubic'), 'how images are '
                            'reduced: to the means of blocks, or by bicubic '
                            'interpolation with antialiasing', **LOW),
        'noise': real(0., 0, 2, 'the standard deviation of noise that low images have, '
                      'of pixels in [-1, 1]', **LOW),
    },
    'diffusion': {
        'num_steps': integer(200, 2, 'T, the number of noise levels'),
        'betas': choice('linear', tuple(BETAS), 'the noise schedule, the form of beta_t'),
        'beta_start': real(1e-4, 0, 1, 'the first beta of a linear or sigmoid schedule',
                           open_low=True),
        'beta_end': real(.02, 0, 1, 'the last beta of a linear or sigmoid schedule',
                         open_low=True),
        'rescale_betas': flag(True, 'whether betas are meant for T = 1000 and multiplied '
                              'by 1000 / T'),
        'pull': choice('one_minus_sqrt_abar', tuple(PULLS), 'm_t, the pull of the '
                       "forward process to the cluster's mean", **MIXTURES),
        'reverse_variance': choice('step', ('step', 'posterior'), 'the variance of '
                                   'p(x_{t-1} | x_t): that of the forward step, or of '
                                   'its posterior given x_0'),
        'decoder': choice('auto', ('auto', 'gaussian', 'discretized'), 'the form of '
                          'p(x_0 | x_1); auto: discretized if pixels have grey levels'),
    },
    'network': {
        'conditioning': choice('shared_trunk', ('shared_trunk', 'concatenated'), 'where '
                               "the U-Net sees the cluster's mean: in a small head on "
                               'features that all clusters share, or beside x_t',
                               methods=('cddpm',)),
        'head': choice('deep', ('deep', 'small'), 'the layers of shared_trunk that see '
                       'the mean: three residual blocks, one of them at half the '
                       'resolution; or one', methods=('cddpm',)),
        'prediction': choice('residual', ('residual', 'noise'), 'what the network is '
                             'asked for: what a linear guess of the clean image, by the '
                             "cluster's mean, lacks; or the noise n_t",
                             methods=('cddpm',)),
        'channels': integer(32, 1, "the U-Net's channels at its first level"),
        'channel_multipliers': integers((1, 2), 1, "the U-Net's channels at each level, "
                                        'in multiples of network.channels'),
        'blocks_per_level': integer(2, 1, 'residual blocks at each level of the U-Net'),
        'attention_levels': integers((), 0, 'levels of the U-Net with self-attention (0: '
                                     'full resolution)', allow_empty=True),
        'middle_attention': flag(True, 'whether the U-Net has self-attention at its '
                                 'lowest resolution'),
        'num_heads': integer(4, 1, 'heads of each self-attention'),
        'num_groups': integer(8, 1, 'groups of the group normalisations'),
        'dropout': real(0., 0, .9, 'the dropout rate in residual blocks'),
        'dtype': choice('float32', ('float32', 'bfloat16'), 'the type of number that '
                        'networks compute with; parameters stay float32'),
    },
    'm_step': {
        'num_steps': integer(300, 1, 'gradient steps of an EM iteration'),
        'first_num_steps': integer(0, 0, 'gradient steps of the first EM iteration; 0: '
                                   'as many as of the others'),
        'batch_size': integer(128, 1, 'images of a gradient step'),
        'most_visits': integer(400, 0, 'times that an image is used in the gradient '
                               'steps of an EM iteration, at most: few images train for '
                               'fewer steps; 0: no limit'),
        'assignment': choice('sampled', ('sampled', 'summed', 'per_cluster'), 'the '
                             'clusters that an image is trained with: one, drawn by its '
                             'responsibilities; all, weighted by them; or the same one '
                             'for all images of a step, in turn. Where the start counts '
                             '(em.posterior=amortised; posterior.pool and anchor above '
                             '0) it is the likeliest one', **MIXTURES),
        'weighting': choice('auto', ('auto', 'residual', 'uniform', 'elbo'), 'the noise '
                            'levels of the loss: around those at which images take '
                            'shape, errors in units of what is lacking (residual); all '
                            'equal, errors in units of n_t (uniform); those of the '
                            'bound (elbo); auto: residual if network.prediction is, '
                            'else uniform'),
        'means': choice('weighted', ('weighted', 'gradient'), "where the clusters' means "
                        'come from: the images, weighted by responsibilities; or '
                        'gradient steps', **MIXTURES),
        'learning_rate': real(1e-3, 0, 10, "Adam's step size", open_low=True),
        'learning_rate_fall': real(.5, 0, 1, 'the last share of the gradient steps of an '
                                   'EM iteration over which the step size falls to 0; 0: '
                                   'it stays'),
        'learning_rate_warmup': integer(50, 0, 'gradient steps over which the step size '
                                        'rises'),
        'gradient_clip': real(1., 0, 1e9, 'the largest norm of a gradient; 0: no limit'),
        'ema_decay': real(.995, 0, .999999, 'the decay of the running average of the '
                          'weights'),
    },
    'e_step': {
        'num_draws': integer(32, 2, 'draws (t, eps) of each image, an even number'),
        'max_draws': integer(0, 0, 'draws that a cluster gets at most while it has not '
                             'lost an image, a multiple of e_step.num_draws; 0: no more '
                             'than these', **MIXTURES),
        'race_error': real(.01, 0, .5, 'the probability that an image loses its best '
                           'cluster before e_step.max_draws; 0: no cluster loses',
                           **MIXTURES),
        'weighting': choice('elbo', ('elbo', 'uniform'), 'the weights of the noise '
                            'levels by which draws decide: those of the bound, or all '
                            'equal'),
        'proposal': choice('auto', ('auto', 'spread', 'weight', 'uniform'), 'how noise '
                           'levels are drawn: by how much clusters differ there, which a '
                           'pilot measures; by their weight; or uniformly; auto: spread '
                           'where draws decide, else weight'),
        'noise': choice('independent', ('independent', 'antithetic'), 'the noise of the '
                        'draws: independent, or pairs of opposite sign'),
        'share_draws': flag(True, 'whether all clusters of an image see the same draws',
                            **MIXTURES),
        'stratify': flag(True, 'whether noise levels are drawn from strata'),
        'temperature': real(1., 0, 1e9, 'the temperature of responsibilities: the '
                            'posterior to the power 1 / temperature', open_low=True),
        'batch_size': integer(256, 1, 'images of an E-step call', **MACHINE),
        'draws_per_chunk': integer(1, 1, 'draws evaluated at once in the E-step',
                                   **MACHINE),
        'clusters_per_chunk': integer(10, 1, 'clusters evaluated at once in the E-step',
                                      level='machine', **MIXTURES),
    },
    'checkpoint': {
        'every_steps': integer(200, 1, 'gradient steps between checkpoints', **HERE),
        'every_seconds': integer(5, 0, 'seconds after which a step is followed by a '
                                 'checkpoint, too, in a run of one process; 0: never',
                                 **HERE),
        'keep': integer(3, 1, 'checkpoints that are kept', **HERE),
    },
    'log': {
        'every_steps': integer(50, 1, 'gradient steps between lines of metrics.jsonl',
                               **HERE),
    },
    'sample': {
        'clusters': Option((), 'numbers >= 0 or names of clusters.csv, as in 0,cats',
                           lambda v: all(q >= 0 if type(q) is int else type(q) is str
                                         and q.strip() for q in v),
                           'the clusters to generate images of, by number or name; '
                           'empty: all', **ASKED),
        'num_images': integer(8, 1, 'images generated of each cluster', **ASKED),
        'batch_size': integer(80, 1, 'images generated at once', **HERE),
        'seed': integer(0, 0, 'the number that the noise of generated images follows '
                        'from',
                        high=2**31 - 1, **ASKED),
        'sampler': choice('ddpm', tuple(SAMPLERS), 'how images are generated; adaptive '
                          'needs the extra ode', **ASKED),
        'num_steps': integer(0, 0, 'noise levels that a sampler visits; 0: all of the '
                             'model', **ASKED),
        'grid': choice('trailing', tuple(GRIDS), 'how the noise levels that a sampler '
                       'visits are spaced', **LATER),
        'eta': real(0., 0, 1, 'the noise of the sampler ddim: 0 none, 1 that of ddpm',
                    **LATER),
        'predictor': choice('reverse_diffusion', tuple(PREDICTORS), 'the steps of the '
                            'sampler predictor_corrector', **LATER),
        'snr': real(.16, 0, 10, 'the signal-to-noise ratio of the Langevin steps of '
                    'predictor_corrector', open_low=True, **LATER),
        'corrections': integer(1, 1, 'Langevin steps after each step of '
                               'predictor_corrector', **LATER),
        'tolerance': real(1e-3, 0, 1, 'the error of a step that the sampler adaptive '
                          'allows, of pixels in [-1, 1]', open_low=True, **LATER),
        'guidance': real(1., 0, 100, 'how far generated images exaggerate what sets '
                         'their cluster apart; 1: not at all', **ASKED),
        'interpolate': integer(0, 0, 'rows of images on the way from the first of two '
                               'clusters to the second; 0: none', **ASKED),
        'trajectory': integer(0, 0, 'pictures kept on the way from noise to image; 0: '
                              'none', **ASKED),
    },
    'quality': {
        'num_images': integer(100, 0, 'generated images of each cluster that evaluate '
                              'compares with real ones; 0: none', **ASKED),
        'splits': integer(5, 1, 'random halvings of the real images, over which measures '
                          'have means and standard deviations', **LATER),
    },
    'predict': {
        'num_draws': integer(0, 0, 'draws of each new image, an even number; 0: as many '
                             'as in the fit', **LATER),
        'likelihood': flag(False, 'whether predict gives log-likelihoods by the '
                           'probability-flow ODE too, at hundreds of evaluations an '
                           'image and cluster', methods=('cddpm',), **ASKED),
        'ode_steps': integer(25, 1, 'Runge-Kutta steps of the probability-flow ODE, of 4 '
                             'evaluations each', methods=('cddpm',), **LATER),
        'foreign_share': real(.01, 0, 1, 'the false alarm rate of the column foreign: '
                              'about this share of new images like the fitted ones is '
                              'called foreign, too', **ASKED),
    },
    'restore': {
        'operator': choice('mask', ('mask', 'box', 'random', 'averaging', 'subsampling',
                                    'bicubic', 'blur', 'kernel', 'grey', 'matrix'),
                           'what the images of restore have lost: pixels that '
                           'restore.mask hides, a box, random pixels; size (by means of '
                           'blocks, every n-th pixel, bicubic); sharpness (a Gaussian, '
                           'or any kernel); colour; or what a matrix tells', **ASKED),
        'mask': text('', 'an image or npy file of the size of the damaged images, or of '
                     'that at which the model sees them, white (or above 0) where pixels '
                     'are known', **ASKED),
        'box': Option((.25, .25, .5, .5), 'four numbers (TOP, LEFT, HEIGHT, WIDTH) from '
                      '0 to 1', lambda v: len(v) == 4 and all(
                          type(x) in (int, float) and 0 <= x <= 1 for x in v),
                      'the box that restore.operator=box hides, as shares of the height '
                      'and width', **LATER),
        'share': real(.5, 0, 1, 'the share of the pixels that restore.operator=random '
                      'hides', **LATER),
        'factor': integer(2, 2, 'how many times smaller the images are (averaging, '
                          'subsampling, bicubic)', **LATER),
        'blur': real(1., 0, 1e4, 'the standard deviation of restore.operator=blur, in '
                     'pixels', open_low=True, **LATER),
        'file': text('', 'an npy file: the kernel [h, w] of restore.operator=kernel, the '
                     'matrix [M, H W C] of restore.operator=matrix, which is applied to '
                     'the given images', **LATER),
        'sigma': real(0., 0, 1e12, 'the standard deviation of the noise in the given '
                      'images, in the units of their pixels (such as 0..255)', **ASKED),
        'method': choice('pigdm', tuple(RESTORERS), 'how images are restored: pigdm, '
                         'dps, ddrm and repaint are quick; mcgdiff and tds are exact in '
                         'the limit of many particles', **ASKED),
        'num_draws': integer(8, 1, 'restored images drawn of each', **ASKED),
        'by_examples': flag(True, "whether the fit's images under the same damage tell "
                            'the clusters of damaged ones, which takes a minute to '
                            'learn; else draws do', **LATER),
        'num_steps': integer(50, 0, 'network evaluations of a draw; 0: as many as the '
                             'model has noise levels', **LATER),
        'seed': integer(0, 0, 'the number that every draw follows from', high=2**31 - 1,
                        **LATER),
        'particles': integer(64, 1, 'particles of each image (mcgdiff, tds)', **LATER),
        'groups': integer(0, 0, 'groups of the particles that do not compete, each with '
                          'draws of its own; 0: one for each draw, about', **LATER),
        'batch_size': integer(64, 1, 'draws or particles computed at once; images are '
                              'restored so many at a time', **HERE),
        'resampling': choice('systematic', ('systematic', 'multinomial'), 'how particles '
                             'are resampled', **LATER),
        'threshold': real(.5, 0, 1, 'the share of the particles below which their '
                          'effective number leads to resampling', **LATER),
        'scale': real(1., 0, 1e9, "dps: the length of a step towards what is seen",
                      open_low=True, **LATER),
        'eta': real(.85, 0, 1, 'ddrm: the share of new noise', **LATER),
        'eta_b': real(1., 0, 1, 'ddrm: the weight of what is seen', **LATER),
        'jump': integer(10, 1, 'repaint: steps that are taken anew together', **LATER),
        'repeats': integer(10, 1, 'repaint: how often each step is taken', **LATER),
    },
    'programs': {
        'folder': text('auto', 'the folder where compiled programs are kept for the next '
                       "command; auto: jdiffclust's in your cache folder; empty: none is "
                       'kept. Of no effect where JAX_COMPILATION_CACHE_DIR names one',
                       **HERE),
        'limit_mb': integer(1000, 1, 'MB of compiled programs that are kept', **HERE),
    },
    'distributed': {
        'coordinator': text('', 'host:port of process 0 of several; empty: there is one '
                            'process', **HERE),
        'num_processes': integer(1, 1, 'the number of processes in a run', **HERE),
        'process_id': integer(0, 0, 'the number of this process, from 0', **HERE),
    },
}

# Options that came later -> what a run of before them did.
ADDED = {'data.fit': 'crop', 'data.ground': 'own', 'data.range': (),
         'data.percentile': 0., 'data.background': 'black', 'data.frames': 'first',
         'm_step.most_visits': 0, 'views.upside_down': 0., 'views.quarter_turns': 0.,
         'posterior.every': 1, 'network.head': 'small', 'network.prediction': 'noise',
         'm_step.learning_rate_fall': 0., 'start.embeddings_distance': 'cosine'} | {
             # No start of before reads them.
             f'recognition.{name}': option.default
             for name, option in OPTIONS['recognition'].items()}
# Names of before -> those of now.
RENAMED = {'em.init': 'start.kind'} | {
    f'em.init_{name}': f'start.{name}'
    for name in ('spaces', 'candidates', 'trial_steps', 'restarts', 'components', 'noise',
                 'denoiser_steps', 'max_images')}
# Options that have become constants, and their values.
FIXED = {'em.min_cluster_size': 1., 'em.auto_max_images': 5000,
         'em.init_denoiser_noise': .05, 'posterior.transform_denoised': False,
         'latent.min_variance': 1e-6, 'quality.max_images': 5000, 'quality.neighbours': 5,
         'predict.probes': 4}
# Two options that have become one of pairs.
PAIRED = {'posterior.noise_low': ('posterior.noise_range', 0),
          'posterior.noise_high': ('posterior.noise_range', 1)}


# What other programs call them.
MEANT = {
    'k': 'num_clusters', 'n_clusters': 'num_clusters', 'n_components': 'num_clusters',
    'clusters': 'num_clusters', 'lr': 'm_step.learning_rate',
    'epochs': 'm_step.num_steps', 'steps': 'm_step.num_steps',
    'iterations': 'em.max_iterations', 'n_iter': 'em.max_iterations',
    'random_state': 'seed', 'random_seed': 'seed', 'folder': 'data.path',
    'dir': 'data.path', 'directory': 'data.path', 'input': 'data.path',
    'images': 'data.path', 'size': 'data.image_size', 'resize': 'data.image_size',
    'init': 'start.kind', 'n_samples': 'sample.num_images', 'devices': 'num_devices'}


@functools.cache
def all_options() -> dict[str, Option]:
  """Every `Option` by its dotted name, in the order of definition."""
  return dict(options())


def options(tree: Mapping = OPTIONS, prefix: str = '') -> Iterator[tuple[str, Option]]:
  """Yields (dotted name, `Option`) of every option, in the order of definition."""
  for name, node in tree.items():
    if isinstance(node, Option):
      yield prefix + name, node
    else:
      yield from options(node, f'{prefix}{name}.')


class Config(ml_collections.ConfigDict):
  """A ConfigDict that tells a person in one line what is wrong with an assignment.

  NumPy's numbers and paths become what they mean.
  """

  def __setitem__(self, key: str, value: Any) -> None:
    """Sets an option.

    Raises:
      UserError: there is none of this name, or the value is of another type.
    """
    if isinstance(value, np.generic):
      value = value.item()
    elif isinstance(value, os.PathLike):
      value = os.fspath(value)
    if self.is_locked and key not in self:
      was = next((name for name in (*RENAMED, *FIXED, *PAIRED)
                  if name.split('.')[-1] == key), None)
      raise unknown_option(was or key, self.keys())
    try:
      super().__setitem__(key, value)
    except TypeError:
      if isinstance(self[key], Config):
        raise UserError(f'config.{key} is a section of options, and cannot become '
                        f'{value!r}: set the options in it, such as config.{key}.'
                        f'{next(iter(self[key]))}.') from None
      raise UserError(f'config option {key} = {value!r} is of type '
                      f'{type(value).__name__}: it must be of the type of '
                      f'{self[key]!r}, {type(self[key]).__name__}.') from None


def default_config() -> Config:
  """Returns a new, locked ConfigDict with the default of every option."""
  config = Config()
  for name, option in options():
    *sections, leaf = name.split('.')
    node = config
    for section in sections:
      if section not in node:
        node[section] = Config()
      node = node[section]
    node[leaf] = (option.default if option.of_one_type else
                  ml_collections.FieldReference(option.default, field_type=object))
  return config.lock()


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns {dotted name: value} of a config, tuples as tuples."""
  flat: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      flat |= {f'{name}.{key}': leaf for key, leaf in flatten(value).items()}
    else:
      flat[name] = tuple(value) if isinstance(value, (tuple, list)) else value
  return flat


def copied(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns a config of its own with the same values."""
  new = default_config()
  new.update_from_flattened_dict(flatten(config))
  return new


def unknown_option(name: str, known: Iterable[str] = ()) -> UserError:
  """Returns the error for an option nobody defined.

  Args:
    name: that was given.
    known: names among which the nearest is told; (): of all options.
  """
  every = [known for known, _ in options()]
  shown = name if name.isprintable() else repr(name)[1:-1]  # the message is one line
  if name in RENAMED:
    return UserError(f'config.{name} is called config.{RENAMED[name]} now.')
  if name in FIXED:
    return UserError(f'config.{name} is no option any more: it is {FIXED[name]!r}.')
  if name in PAIRED:
    return UserError(f'config.{name} is part of config.{PAIRED[name][0]} now.')
  section, _, leaf = name.rpartition('.')
  inside = {option.rpartition('.')[2]: option for option in every
            if option.rpartition('.')[0] == section}
  slips = closest(leaf, inside, .8)
  same = ([inside[slips[0]]] if slips else
          [MEANT[leaf]] if leaf in MEANT else
          [option for option in every if option.split('.')[-1] == leaf])
  hint = (f" Did you mean {' or '.join(map(repr, same))}?" if same else
          nearest(name, known or every) or nearest(leaf, every))
  return UserError(f'Unknown option config.{shown}.{hint} '
                   '`jdiffclust --help=all` lists them all.')
