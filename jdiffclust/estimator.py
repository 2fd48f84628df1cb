"""A fit as scikit-learn's users know it: `fit`, `predict`, pipelines, searches, pickles.

    model = jdiffclust.DiffusionClustering(n_clusters=10)
    clusters = model.fit_predict(images)       # an array, vectors, files or a folder

It is thin: `jdiffclust.fit` does the work, and its attribute `fitted_` is the outcome.
The same images and seed give the same bytes as on the command line.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Set, ValuesView
from typing import Any

import ml_collections
import numpy as np
from sklearn.base import (
    BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin)
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from jdiffclust import config as config_lib
from jdiffclust import files
from jdiffclust.clustering.method import build
from jdiffclust.data.dataset import (
    ImageSource, array_source, files_source, load_source, snap_to_levels)
from jdiffclust.data.fingerprint import reordered
from jdiffclust.data.passes import weighted_means
from jdiffclust.data.preprocess import arrays_of
from jdiffclust.data.sources.arrays import check_whole
from jdiffclust.errors import NonFiniteError, UserError, on_one_line
from jdiffclust.fitted import (
    Fitted, Restored, data_like_the_fit, finest_of, fit, of_snapshot, pipeline_of, read,
    tell_of)
from jdiffclust.progress import Reporter
from jdiffclust.sharding import mesh_of_fit, replicate, to_host
from jdiffclust.streams import integer_seed
from jdiffclust.training.checkpoints import Snapshot, numbers_in
from jdiffclust.training.storage import Memory
from jdiffclust.workdir import Workdir

# Images asked about at once, unless they are more than e_step.batch_size. Programs of
# other sizes round in another way: with one size, an image has the same bits alone as
# among others.
BLOCK = 32
SMALLEST_SIDE = 4  # of images whose pixels a number of features is taken for
OURS = 'estimator.npz'  # what only the estimator knows, in the folder of a fit
# Options that are arguments, and what these are called.
ARGUMENTS = {'num_clusters': 'n_clusters', 'method': 'method', 'seed': 'random_state'}
SEEDS = 2**31 - 1  # as many as the option `seed` allows


class InputError(UserError, ValueError):
  """A mistake of the user's, as scikit-learn expects it: a ValueError."""


class _Warner(Reporter):
  """Warns as Python does, so that warnings can be filtered."""

  def warning(self, text: str) -> None:
    """See `Reporter`."""
    warnings.warn(on_one_line(text), UserWarning, stacklevel=2)


@contextlib.contextmanager
def _told() -> Iterator[None]:
  """Makes the project's own error one that scikit-learn knows; the one place for it."""
  try:
    yield
  except (NonFiniteError, InputError):
    raise
  except UserError as error:
    raise InputError(str(error)) from None


def _telling(method):
  """The method with `_told` around it."""
  @functools.wraps(method)
  def told(*args, **kwargs):
    with _told():
      return method(*args, **kwargs)
  return told


class DiffusionClustering(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin,
                          BaseEstimator):
  """Clusters images by a mixture of diffusion models.

  X may be
    - images [N, H, W] or [N, H, W, C] with C 1, 3 or 4, channels last: NumPy's arrays,
      lists, tensors of PyTorch on the CPU, anything that NumPy can read;
    - vectors [N, D], also a DataFrame: the pixels of images of `image_shape`, row by row,
      channels last. Without it, each is one row of D pixels, since nothing tells how
      pixels lie; where D is a square, or three times one, a warning says so;
    - a list of N paths of image files, or the path of a folder. They are brought to
      `image_shape`, if it is given, else they must be of one size.

  Pixels are scaled to [-1, 1] by one rule for all of X (`sources.arrays.raw_array`):
  truth values and integers of 0..255 as they are stored; integers of more bits, such as
  uint16, from the range of the bits that they use; both from their own range, where that
  is under a tenth of it or begins below 0; floats from their own smallest and largest
  value. The option data.range names another range. New images are read by what was found
  at the fit.

  Args:
    n_clusters: Q, or 'auto': chosen from the images.
    method: the model: 'cddpm', 'cluster_ddpm' or 'latent_cddpm'.
    random_state: the seed, 0..2^31 - 1, as --config.seed of the command line; or a
      RandomState or None (NumPy's own), from which a seed is drawn at each fit.
    image_shape: (H, W) or (H, W, C) of the images in vectors or files; None: see above.
    config: further options: a dict such as {'em.max_iterations': 2}, or a whole config
      as of `jdiffclust.default_config`, of which num_clusters, method and seed give way
      to the arguments, and data.max_images to all of X. None: the defaults.
    verbose: show progress.

  Attributes:
    labels_: the cluster of each image of the fit, int [N].
    responsibilities_: tau, how probable each cluster is, float32 [N, Q].
    cluster_means_: mean image of each cluster, weighted by tau, in the units and the
      shape of the rows of X, float32 [Q, ...].
    bound_: the variational bound on log p(x) of each image, nats, [N].
    history_: a dict for each EM iteration.
    n_clusters_: Q.
    n_features_in_: numbers in a row of X, such as H W C.
    feature_names_in_: names of the columns, if X is a DataFrame.
    image_shape_: (H, W, C) of the images in X; of files, as they were brought to.
    fitted_: the `Fitted`: densities, denoiser, samplers and more.

  In the fit, an image's cluster follows from its neighbours as well as from itself. Those
  of a new image are among the fit's, where the start is by recognition; else it is judged
  alone. So `predict(X)` of the fit's own X agrees with `labels_` but
  for a few doubtful images. With em.posterior='amortised', the default, what is said of a
  new image does not depend on those asked about with it: it has the same bits among up
  to e_step.batch_size images, and the same numbers up to rounding among more.
  """

  _build = staticmethod(build)  # makes the model; tests put a smaller one in its place

  def __init__(self, n_clusters=10, *, method='cddpm', random_state=0, image_shape=None,
               config=None, verbose=False):
    """Keeps the arguments; they are looked at by `fit`."""
    self.n_clusters = n_clusters
    self.method = method
    self.random_state = random_state
    self.image_shape = image_shape
    self.config = config
    self.verbose = verbose

  # ------------------------------------------------------------------ scikit-learn's

  @_telling
  def fit(self, X, y=None, embeddings=None) -> DiffusionClustering:
    """Fits the model.

    Args:
      X: of N >= 2 images, see the class.
      y: ignored.
      embeddings: vectors that another network has made of the images, [N, E], or a file
        of them; they decide the clusters. None: the option data.embeddings.

    Returns:
      The estimator.

    Raises:
      ValueError: an argument or the images are wrong.
      NonFiniteError: training diverged.
    """
    del y
    for name in ('fitted_', '_kept'):  # if this fails, there is none, nor in a copy
      self.__dict__.pop(name, None)
    config = self._settings()
    source = self._opened(X, config, _on_host(embeddings))
    asked, number = config.num_clusters, source.num_images
    if asked != config_lib.AUTO and asked > number:
      raise InputError(f'n_samples={number} should be >= n_clusters={asked}: give more '
                       'images, or ask for fewer clusters.')
    self._kept = Memory()
    self.fitted_ = fit(config, source, self._kept, self._reporter, self._build)
    self._describe(self.fitted_)
    means = weighted_means(
        pipeline_of(self.fitted_.method, source), np.arange(number),
        replicate(self.responsibilities_, self.fitted_.method.mesh),
        config.e_step.batch_size)
    self.cluster_means_ = self._as_rows(to_host(means))
    return self

  def predict(self, X, embeddings=None) -> np.ndarray:
    """The most probable cluster of each image, int [n].

    Args:
      X: n >= 1 images, as of `fit`. Those of another size are brought to that of the
        fit; vectors must have as many numbers.
      embeddings: of these images, [n, E] or a file, where the fit had some; None: the
        network that has learnt the clusters tells them, by the pixels.

    Raises:
      NotFittedError: before `fit`.
      ValueError: the images are of another kind than those of the fit.
    """
    return self.predict_proba(X, embeddings).argmax(axis=1)

  def predict_proba(self, X, embeddings=None) -> np.ndarray:
    """How probable each cluster is, float32 [n, Q]; args and raises as of `predict`."""
    return self._asked(X, Fitted.tell, embeddings)

  def transform(self, X) -> np.ndarray:
    """An image as its responsibilities: those of `predict_proba`, [n, Q].

    Not distances: the model has none. They are what is known of an image's cluster, in
    [0, 1] and of sum 1, whatever the method. Of the type of X, if that is float64.
    Args and raises as of `predict`.
    """
    found, wide = self.predict_proba(X), getattr(X, 'dtype', None) == np.float64
    return found.astype(np.float64) if wide else found

  def score_samples(self, X) -> np.ndarray:
    """The variational bound on log p(x) of each image, nats, float32 [n].

    It is estimated by draws of noise, the same for the same image. Of images with grey
    levels p is a probability, of floats a density of pixels in [-1, 1]. Args and raises
    as of `predict`, but there are no embeddings.
    """
    return self._asked(X, lambda *given: Fitted.assign(*given).info.bound)

  def score(self, X, y=None) -> float:
    """The mean of `score_samples`, nats an image: for searches, the higher the better.

    Args:
      X: as of `predict`.
      y: not looked at.
    """
    del y
    return float(np.mean(self.score_samples(X), dtype=np.float64))

  @_telling
  def sample(self, n_samples=1, **options) -> tuple[np.ndarray, np.ndarray]:
    """Generates images, of clusters drawn by their proportions.

    Args:
      n_samples: n >= 1.
      **options: of the section `sample` of the config: sampler, num_steps, guidance,
        seed.

    Returns:
      Images in the units and the shape of the rows of X, float32 [n, ...]; of integers,
      whole numbers. And their clusters, rising, int [n].
    """
    check_is_fitted(self)
    if not isinstance(n_samples, (int, np.integer)) or n_samples < 1:
      raise InputError(f'n_samples={n_samples!r} is not allowed: give an integer >= 1.')
    for name in {'clusters', 'num_images', 'interpolate', 'trajectory'} & set(options):
      raise InputError(f'sample(n_samples) takes no {name}: fitted_.sample does.')
    fitted = self.fitted_
    seed = fitted.with_options('sample', options).sample.seed
    share = np.exp(to_host(fitted.params.log_proportions).astype(np.float64))
    counts = np.random.default_rng(integer_seed(seed, 'sample_clusters')).multinomial(
        n_samples, share / share.sum())
    drawn = np.flatnonzero(counts)
    # An image depends on its cluster and number alone: those too many change nothing.
    found = fitted.sample(drawn, reporter=self._reporter, num_images=int(counts.max()),
                          **options).images
    images = np.concatenate([found[k, :counts[q]] for k, q in enumerate(drawn)])
    levels = fitted.progress['levels']
    images = self._as_rows(snap_to_levels(images, levels))
    return np.rint(images) if levels else images, np.repeat(drawn, counts[drawn])

  @_telling
  def restore(self, operator, y, sigma=0., **options) -> Restored:
    """Draws images given what is seen of them; args and raises as of `Fitted.restore`."""
    check_is_fitted(self)
    return self.fitted_.restore(operator, y, sigma, reporter=self._reporter, **options)

  # ------------------------------------------------------------------------- storage

  @_telling
  def save(self, path) -> None:
    """Writes the fit as the command line keeps it, which can go on with it.

    Args:
      path: a folder, of no run yet; it is made. See `Workdir`.

    Raises:
      NotFittedError: before `fit`.
      ValueError: the folder has a run, or cannot be written.
    """
    check_is_fitted(self)
    config, kept = config_lib.from_json(self._kept.config), self._kept
    extras = self._extras()
    folder = Workdir(path, config.checkpoint.keep)
    if folder.resumes or numbers_in(path):
      raise InputError(f'{str(path)!r} has a fit already: name another folder.')
    with folder.held():
      folder.restore(None, self._reporter.warning)  # nothing: it begins
      folder.keep_symmetries(kept.symmetries())
      folder.keep_choice(kept.choice())
      if (arrays := kept.recogniser()) is not None:
        folder.keep_recogniser(arrays)
      if kept.examples() is not None:
        folder.keep_examples(kept.examples())
      folder.keep_fingerprint(kept.images)
      files.write_npz(folder.path / OURS, {
          name: np.asarray(() if value is None else value)
          for name, value in extras.items()})
      assert kept.snapshot is not None  # the fit has ended
      folder.save(kept.number, kept.snapshot)
      folder.finish()
      folder.keep_config(config)  # the last: without it, there is no fit

  def _extras(self) -> dict:
    """What the estimator knows and no other fit needs."""
    found = {'image_shape': self.image_shape,
             'feature_names': getattr(self, 'feature_names_in_', None)}
    for name in ('n_features_in_', 'image_shape_', '_row_shape', 'responsibilities_',
                 'bound_'):
      found[name] = getattr(self, name)
    # Of a folder of the command line there are none.
    found['cluster_means_'] = getattr(self, 'cluster_means_', None)
    return found

  @classmethod
  @_telling
  def load(cls, path) -> DiffusionClustering:
    """The estimator of a folder that `save`, `jdiffclust.fit` or the command line wrote.

    Its arguments have all that defines the fit. If it was not `save`, vectors are taken
    for images of the model's size, and there are no `cluster_means_`.

    Args:
      path: the folder.

    Raises:
      ValueError: there is no finished fit.
    """
    folder, kept = Workdir(path), Memory()
    config = config_lib.fitted_config(path)
    method, snapshot = read(path, config, _Warner(quiet=True), cls._build)
    if not snapshot.progress['stop_reason']:
      if config.effort == config_lib.QUICK:
        raise InputError(
            f'The run in {str(path)!r} has clusters, but no diffusion model, which the '
            'estimator has: train it by its command with --config.effort=full, which '
            'goes on from there; or take jdiffclust.load, which needs none.')
      raise InputError(f'The fit in {str(path)!r} has not ended: let it run to its end, '
                       'by jdiffclust.fit or the command line.')
    default = config_lib.all_options()
    changed = {name: value for name, value in config_lib.flatten(config).items()
               if value != default[name].default and name not in ARGUMENTS}
    model = cls(config.num_clusters, method=config.method, random_state=config.seed,
                config=changed)
    model.fitted_ = of_snapshot(method, snapshot, folder)
    kept.keep_config(config)
    kept.keep_choice(folder.choice())
    kept.keep_symmetries(folder.symmetries())
    if model.fitted_.recogniser is not None:  # else there is no file of it
      kept.keep_recogniser(folder.recogniser() or {})
    kept.keep_examples(model.fitted_.examples)
    kept.images = folder.fingerprint()
    kept.save(int(snapshot.state.step) + snapshot.progress['iteration'], snapshot)
    model._kept = kept
    border, (height, width, channels) = config.data.padding, method.image_shape
    model.image_shape_ = height - 2 * border, width - 2 * border, channels
    model.n_features_in_ = math.prod(model.image_shape_)
    model._row_shape = method.image_shape
    model._describe(model.fitted_)
    known = files.read_npz(folder.path / OURS)
    if known is None and (folder.path / OURS).exists():
      raise InputError(f'{folder.path / OURS} is damaged: restore it, or remove it; the '
                       'fit is taken for one of the command line then.')
    if known is not None:
      tuple_of = lambda name: tuple(known[name].tolist())
      model.image_shape = tuple_of('image_shape') or None
      model.image_shape_, model._row_shape = map(tuple_of, ('image_shape_', '_row_shape'))
      model.n_features_in_ = int(known['n_features_in_'])
      model.responsibilities_ = known['responsibilities_']
      model.labels_ = model.responsibilities_.argmax(axis=1)
      model.bound_ = known['bound_']
      if known['cluster_means_'].size:
        model.cluster_means_ = known['cluster_means_']
      if len(known['feature_names']):
        model.feature_names_in_ = known['feature_names'].astype(object)
    return model

  def __getstate__(self) -> dict:
    """What can be pickled: numbers and texts, no compiled programs."""
    return {name: value for name, value in super().__getstate__().items()
            if name != 'fitted_'}

  def __setstate__(self, state: dict) -> None:
    """The same estimator, on the devices of this process."""
    super().__setstate__(state)
    if '_kept' in state and self._kept.snapshot is not None:
      self.fitted_ = self._revived()

  def _revived(self) -> Fitted:
    """The fit of what is kept in memory."""
    kept = self._kept
    assert kept.snapshot is not None  # the fit has ended
    config, (state, tau, progress) = config_lib.from_json(kept.config), kept.snapshot
    mesh = mesh_of_fit(config, config.num_devices, self._reporter.warning)
    method = self._build(config_lib.for_collection(config, progress['num_images']),
                         tuple(progress['image_shape']), progress['levels'], mesh)
    return of_snapshot(method, Snapshot(replicate(state, mesh), tau, progress), kept)

  # ----------------------------------------------------------------------- in between

  @property
  def _n_features_out(self) -> int:
    return self.n_clusters_

  @property
  def _reporter(self) -> Reporter:
    return _Warner(quiet=not self.verbose)

  def __sklearn_is_fitted__(self) -> bool:
    """Whether there is a fit, also after one that failed."""
    return hasattr(self, 'fitted_')

  def __sklearn_tags__(self):
    """That X may be images."""
    tags = super().__sklearn_tags__()
    tags.input_tags.three_d_array = True
    tags.transformer_tags.preserves_dtype = ['float64', 'float32']
    return tags

  def _settings(self):
    """The config of the fit."""
    given = self.config
    config = config_lib.default_config()
    if isinstance(given, ml_collections.ConfigDict):
      config = config_lib.copied(given)
    elif isinstance(given, Mapping):
      for name, value in given.items():
        if name not in config_lib.all_options():
          raise config_lib.unknown_option(str(name))
        if name in ARGUMENTS:
          raise InputError(f'config has {name}, which is an argument of the estimator: '
                           f'give {ARGUMENTS[name]}={value!r} in its place.')
        *sections, leaf = name.split('.')
        functools.reduce(getattr, sections, config)[leaf] = value
    elif given is not None:
      raise InputError(f'config is of type {type(given).__name__}: it must be a dict of '
                       'options, or come from jdiffclust.default_config().')
    if config.effort != config_lib.FULL:
      raise InputError(f'The option effort = {config.effort!r} is of jdiffclust.fit and '
                       'the command line: the estimator has a diffusion model. Leave it '
                       'out.')
    config.num_clusters, config.method = self.n_clusters, self.method
    config.data.max_images = 0
    seed = self.random_state
    if seed is None or isinstance(seed, np.random.RandomState):
      seed = check_random_state(seed).randint(SEEDS)
    config.seed = seed
    if self.image_shape is not None:
      _checked_shape(self.image_shape)
    config_lib.check_config(config)
    return config

  def _opened(self, X, config, embeddings=None) -> ImageSource:
    """X of a fit as a source with embeddings, its shape remembered."""
    X = _given(X)
    if not _are_files(X):
      images = self._as_images(X, reset=True)
      self.image_shape_ = (*images.shape[1:], 1)[:3]
      source = array_source(images, config.data, finest=finest_of(config),
                            embeddings=embeddings)
    else:
      if self.image_shape is not None:
        shape = _checked_shape(self.image_shape)
        config.data.image_size = shape[:2]
        if len(shape) == 3:
          config.data.channels = shape[2]
      finest = finest_of(config)
      if _is_path(X):
        config.data.source, config.data.path = 'folder', _folder(X)
        source = load_source(config.data, finest=finest, embeddings=embeddings)
      else:
        source = files_source(X, config.data, finest=finest, embeddings=embeddings)
      border, (height, width, channels) = config.data.padding, source.image_shape
      self.image_shape_ = height - 2 * border, width - 2 * border, channels
      self.n_features_in_ = math.prod(self.image_shape_)
      self._row_shape: tuple[int, ...] = self.image_shape_
    if self.image_shape_ != source.image_shape:
      self._row_shape = source.image_shape
    return source

  def _as_images(self, X, reset: bool) -> np.ndarray:
    """An array as images [n, H, W] or [n, H, W, C], checked as scikit-learn does."""
    if getattr(X, 'shape', None) is None:
      X = _as_array(X)
    X = _of_one_type(X)
    fewest = 2 if reset else 1
    one = not reset and (X.shape == self.image_shape_[:2] and (
        X.shape[1] != self.n_features_in_) or len(X.shape) == 3
        and X.shape[2] == self.image_shape_[2] > 1 and self.image_shape_[1] != X.shape[2])
    if one:
      raise InputError(f'X has the shape {X.shape} of one image of the fit: give an '
                       'array of images, such as np.asarray(X)[None].')
    if len(X.shape) <= 2:
      X = validate_data(self, X, reset=reset, ensure_min_samples=fewest)
      if reset:
        self._row_shape = X.shape[1:]
        return X.reshape(len(X), *self._shape_of_vectors(X.shape[1]))
      return X.reshape(len(X), *self.image_shape_)
    X = check_array(X, allow_nd=True, ensure_min_samples=fewest, estimator=self,
                    input_name='X')
    if X.ndim == 4 and X.shape[1] in (1, 3) and X.shape[3] not in (1, 3, 4):
      raise InputError(f'X has the shape {X.shape}: its channels come first, as '
                       "PyTorch's do, but must come last. Give np.moveaxis(X, 1, -1), "
                       '[N, H, W, C].')
    if reset:
      self.n_features_in_, self._row_shape = math.prod(X.shape[1:]), X.shape[1:]
      self.__dict__.pop('feature_names_in_', None)
      if self.image_shape is not None:
        asked, found = _checked_shape(self.image_shape), (*X.shape[1:], 1)[:3]
        if (*asked, found[2])[:3] != found:
          raise InputError(f'image_shape = {self.image_shape!r}, but X has images of '
                           f'{found}: leave it out, or set the option data.image_size, '
                           'to which images are resized.')
    return X

  def _shape_of_vectors(self, count: int) -> tuple[int, int, int]:
    """(H, W, C) of the images in vectors of a length."""
    if self.image_shape is not None:
      height, width, channels = (*_checked_shape(self.image_shape), 1)[:3]
      shape = height, width, channels
      if math.prod(shape) != count:
        raise InputError(
            f'image_shape = {self.image_shape!r} has {math.prod(shape)} numbers, but X '
            f'has {count} features: they must be equal.')
      return shape
    for channels in (1, 3):
      side = math.isqrt(count // channels)
      if side >= SMALLEST_SIDE and channels * side**2 == count:
        shape = (side, side) if channels == 1 else (side, side, channels)
        warnings.warn(
            f'X has {count} features, as images of {side}x{side} pixels'
            f'{" in colour" * (channels == 3)} have, but image_shape is not given: each '
            f'sample is taken for one row of {count} pixels. Set image_shape={shape} if '
            'they are images.', UserWarning, stacklevel=5)
    return 1, count, 1

  def _as_rows(self, images: np.ndarray) -> np.ndarray:
    """Images of the model, in [-1, 1], in the units and shape of the rows of X."""
    return self.fitted_.units.stored(images).reshape(len(images), *self._row_shape)

  def _describe(self, fitted: Fitted) -> None:
    """Sets what there is to know of a fit."""
    self.n_clusters_ = fitted.config.num_clusters
    self.responsibilities_, self.labels_ = fitted.responsibilities, fitted.clusters
    self.bound_, self.history_ = fitted.bound, fitted.history

  @_telling
  def _asked(self, X, question, embeddings=None) -> np.ndarray:
    """What a function (fitted, source, reporter) -> [n, ...] says of new images.

    All are read before any is asked about: how pixels are meant is seen of them all.
    """
    check_is_fitted(self)
    fitted, X = self.fitted_, _given(X)
    if _are_files(X):
      return question(fitted, self._new_files(X, embeddings), self._reporter)
    images = self._as_images(X, reset=False)
    if fitted.progress['levels'] is None:
      images = images.astype(np.float64, copy=False)  # whole numbers are floats, too
    source = fitted.read(images, self._reporter, _on_host(embeddings))
    size = fitted.config.e_step.batch_size
    if len(images) <= size:
      size = min(size, BLOCK)
    parts = []
    for start in range(0, len(images), size):
      rows = np.minimum(np.arange(start, start + size), len(images) - 1)
      found = question(fitted, reordered(source, rows), self._reporter)
      parts.append(found[:len(images) - start])
    return np.concatenate(parts)

  def _new_files(self, X, embeddings=None) -> ImageSource:
    """New image files, read as those of the fit."""
    fitted = self.fitted_
    data = data_like_the_fit(fitted, fitted.config.data)
    data.max_images, data.embeddings = 0, ''
    how = {'for_fit': False, 'rendering': fitted.rendering, 'finest': fitted.finest,
           'embeddings': embeddings}
    if _is_path(X):
      data.source, data.path, data.use_labels = 'folder', _folder(X), False
      source = load_source(data, **how)
    else:
      source = files_source(X, data, **how)
    tell_of(source, self._reporter)
    return source


def _is_path(X) -> bool:
  return isinstance(X, (str, os.PathLike))


def _are_files(X) -> bool:
  """Whether X is a path, or a sequence of paths, such as a list or a column of texts."""
  if _is_path(X):
    return True
  shape = getattr(X, 'shape', None)
  listed = isinstance(X, (list, tuple)) if shape is None else (
      len(shape) == 1 and hasattr(X, '__iter__'))
  paths = [_is_path(item) for item in X] if listed else []
  if any(paths) and not all(paths):
    row = paths.index(False)
    other = list(X)[row]
    raise InputError(f'X has paths, such as {os.fspath(list(X)[paths.index(True)])!r}, '
                     f'and other things, such as of type {type(other).__name__} at place '
                     f'{row}: give paths alone, or images alone.')
  return any(paths)


def _folder(X) -> str:
  """The path of a folder, as a text."""
  path = os.path.expanduser(os.fspath(X))
  if os.path.isfile(path):
    raise InputError(f'X is the path of a file, {path!r}: give a list of the paths of '
                     'image files, such as [path], the path of a folder, or an array, '
                     'such as np.load(path).')
  if not os.path.isdir(path):
    raise InputError(f'X is the path {path!r}, but there is no such folder: give that of '
                     'a folder of image files.')
  return path


def _given(X) -> Any:
  """X as it is looked at: a tensor as an array, what yields things one by one as a list.

  So are the values of a dict. Of a table whose only column has texts that column is
  taken, for paths.
  """
  if isinstance(X, (Iterator, ValuesView)):  # such as Path.glob returns
    return _given(list(X))
  _check_holder(X)
  columns = getattr(X, 'columns', None)
  if columns is not None and len(getattr(X, 'shape', ())) == 2 and len(X):
    texts = [name for name, cell in zip(columns, X.iloc[0]) if _is_path(cell)] if (
        hasattr(X, 'iloc')) else []
    if len(texts) == 1 == X.shape[1]:
      return X.iloc[:, 0]
    if not texts and X.shape[1] == 1 and hasattr(X, 'iloc') and np.ndim(X.iloc[0, 0]) > 1:
      return list(X.iloc[:, 0])  # each cell an image
    if texts:
      raise InputError(f'X is a table whose column {texts[0]!r} has texts: give that '
                       f'column alone if it names image files, X[{texts[0]!r}], or the '
                       'columns of pixels alone.')
  if len(getattr(X, 'shape', ())) == 1 and hasattr(X, 'iloc') and len(X) and (
      np.ndim(X.iloc[0]) > 1):
    return list(X)
  return arrays_of(_on_host(X))


def _check_holder(X) -> None:
  """Refuses what may hold images, but not one by one, and what holds nothing."""
  if isinstance(X, (Set, Mapping)) and not hasattr(X, 'shape'):  # else a sparse matrix
    raise InputError(f'X is of type {type(X).__name__}, '
                     + ('which has no order: give a list, such as sorted(X).'
                        if isinstance(X, Set) else
                        'which names arrays, or images: give one of them, such as '
                        'X[NAME], or list(X.values()).'))
  if isinstance(X, (list, tuple)) and not X:
    raise InputError(f'X is an empty {type(X).__name__}, with no images: if paths were '
                     'looked for, none was found.')


def _on_host(X) -> Any:
  """X, a tensor of PyTorch as an array."""
  if not (hasattr(X, 'detach') and hasattr(X, 'device')):
    return X
  if getattr(X.device, 'type', 'cpu') != 'cpu':
    raise InputError(f'X is a tensor on {X.device}: give X.cpu().')
  try:
    return np.asarray(X.detach())
  except TypeError:  # NumPy has no bfloat16
    return np.asarray(X.detach().float())


def _as_array(X) -> np.ndarray:
  """A list, or something else that says how it is read, as an array."""
  try:
    return np.asarray(X)
  except ValueError as error:
    raise InputError(f'X is no array of numbers ({error}): images of one shape are '
                     'needed.') from None


def _of_one_type(X) -> Any:
  """X whose numbers, if they are held as objects, have a type: 0..255 stay integers.

  Raises:
    UserError: pixels of a masked array are hidden.
  """
  check_whole(X, 'X')
  if hasattr(X, 'infer_objects'):  # a table
    return X.infer_objects()
  if isinstance(X, np.ndarray) and X.dtype == object:
    typed = _as_array(X.tolist())
    return typed if typed.dtype.kind in 'biuf' else X
  return X


def _checked_shape(shape) -> tuple[int, ...]:
  """An image_shape as a tuple of two or three numbers."""
  try:
    found = tuple(int(side) for side in shape)
    right = len(found) in (2, 3) and min(found) >= 1 and found == tuple(shape)
  except (TypeError, ValueError):
    right = False
  if not right or len(found) == 3 and found[2] not in (1, 3, 4):
    raise InputError(f'image_shape = {shape!r} is not allowed: give (height, width) or '
                     '(height, width, channels), with 1, 3 or 4 channels.')
  return found
