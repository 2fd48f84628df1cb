"""The estimator: scikit-learn's contract, what X may be, the same fit as elsewhere."""

import csv
import pathlib
import pickle
import types
import warnings
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn import datasets
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from jdiffclust.data.dataset import images_at
from jdiffclust.estimator import InputError
from jdiffclust.inverse import operators
from tests.tiny import NO_PICTURES, SMALL, Small, small

IMAGES = datasets.load_digits().images[:40].astype(np.uint8)


def refusal(function, *args, **kwargs) -> str:
  """The one line of a ValueError that is the project's own, too."""
  with pytest.raises(ValueError) as caught:
    function(*args, **kwargs)
  assert isinstance(caught.value, InputError)
  assert '\n' not in str(caught.value)
  return str(caught.value)


pytestmark = pytest.mark.usefixtures('as_of_a_user')


@pytest.fixture(scope='module')
def fitted(compiled):
  """A fit to 40 digits, not to be changed."""
  del compiled
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    return small().fit(IMAGES)


# ---------------------------------------------------------------------- the contract


def test_attributes(fitted):
  """Of the right shapes, and one says what the other does."""
  assert fitted.n_features_in_ == 64 and fitted.n_clusters_ == 3
  assert fitted.responsibilities_.shape == (40, 3)
  np.testing.assert_array_equal(fitted.labels_, fitted.responsibilities_.argmax(axis=1))
  assert fitted.bound_.shape == (40,) and len(fitted.history_) == 1
  assert fitted.history_[0]['bound_nats'] == pytest.approx(fitted.bound_.mean(), 1e-5)
  tau = fitted.responsibilities_.astype(np.float64)
  np.testing.assert_allclose(
      fitted.cluster_means_, np.einsum('nq,nhw->qhw', tau, IMAGES) / tau.sum(axis=0)[
          :, None, None], atol=1e-3)  # of 0..16


def test_of_new_images(fitted):
  """Probabilities, the clusters they tell, the mean of the bounds."""
  tau = fitted.predict_proba(IMAGES)
  np.testing.assert_allclose(tau.sum(axis=1), 1, atol=1e-5)
  np.testing.assert_array_equal(fitted.predict(IMAGES), tau.argmax(axis=1))
  np.testing.assert_array_equal(fitted.transform(IMAGES), tau)
  found = fitted.fitted_.assign(IMAGES)
  np.testing.assert_allclose(tau, found.responsibilities, atol=1e-6)
  np.testing.assert_allclose(fitted.score_samples(IMAGES), found.info.bound, rtol=1e-5)
  assert fitted.score(IMAGES) == pytest.approx(fitted.score_samples(IMAGES).mean(), 1e-5)


def test_nothing_before_a_fit():
  """Nor after one that failed."""
  model = small()
  for name in ('predict', 'transform', 'score_samples', 'save', 'sample'):
    with pytest.raises(NotFittedError):
      getattr(model, name)(IMAGES)
  with pytest.raises(ValueError):
    model.fit(IMAGES.astype(float) * np.nan)
  with pytest.raises(NotFittedError):
    model.predict(IMAGES)


def test_copies_after_a_fit_that_failed(fitted):
  """They have none either: not the fit of before, which is of other images."""
  model = pickle.loads(pickle.dumps(fitted))
  with pytest.raises(ValueError):
    model.fit(IMAGES[:, :5].astype(float) * np.nan)
  for copy in (model, pickle.loads(pickle.dumps(model))):
    with pytest.raises(NotFittedError):
      copy.predict(IMAGES)


def test_pickle_and_clone(fitted):
  """A pickle has the fit, and goes on as it was; a clone has the arguments alone."""
  again = pickle.loads(pickle.dumps(fitted))
  np.testing.assert_array_equal(again.predict_proba(IMAGES), fitted.predict_proba(IMAGES))
  np.testing.assert_array_equal(again.labels_, fitted.labels_)
  found, before = (model.sample(3, num_steps=3, sampler='ddim')[0]
                   for model in (again, fitted))
  np.testing.assert_array_equal(found, before)
  new = clone(fitted)
  assert new.get_params() == fitted.get_params() and not hasattr(new, 'labels_')


def test_named_columns(fitted):
  """`set_output` makes a DataFrame of the responsibilities."""
  pd = pytest.importorskip('pandas')
  model = pickle.loads(pickle.dumps(fitted)).set_output(transform='pandas')
  found = model.transform(IMAGES)
  assert isinstance(found, pd.DataFrame)
  assert list(found.columns) == ['small0', 'small1', 'small2']
  np.testing.assert_array_equal(found.to_numpy(), fitted.transform(IMAGES))


def test_pipeline_and_search():
  """Over the number of clusters, by the bound of images left out."""
  mirrored = FunctionTransformer(lambda images: images[:, :, ::-1])
  pipeline = make_pipeline(mirrored, small())
  search = GridSearchCV(pipeline, {'small__n_clusters': [2, 3]}, cv=2)
  search.fit(IMAGES)
  scores = search.cv_results_['mean_test_score']
  assert np.isfinite(scores).all() and scores[0] != scores[1]
  best = search.best_params_['small__n_clusters']
  assert best == 2 + np.argmax(scores)
  assert search.best_estimator_[-1].cluster_means_.shape == (best, 8, 8)
  assert set(search.predict(IMAGES)) <= set(range(best))


# -------------------------------------------------------------------- the same fit


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
  """The images in a file: options of them, of both sides."""
  path = tmp_path_factory.mktemp('estimator') / 'digits.npz'
  np.savez(path, images=IMAGES)
  return {'data.source': 'npz', 'data.path': str(path)}


@pytest.fixture(scope='module')
def fit_there(commands, stored):
  """A function: fits in a workdir by the command, with seed 7."""
  def fit(workdir):
    config = workdir.parent / 'config.py'
    config.write_text('from jdiffclust.config import default_config as get_config\n')
    options = SMALL | stored | {'num_clusters': 3, 'seed': 7}
    with mock.patch.object(
        commands, 'build', lambda *given, networks: Small._build(*given)):
      outcome = commands.run(
          f'--config={config}', f'--workdir={workdir}', *(
              f'--config.{name}={value}' for name, value in options.items()),
          parts=NO_PICTURES)
    assert outcome.code == 0, outcome.err
    return workdir

  return fit


@pytest.fixture(scope='module')
def run(fit_there, tmp_path_factory):
  """The workdir of such a fit."""
  return fit_there(tmp_path_factory.mktemp('estimator') / 'run')


@pytest.fixture(scope='module')
def ours(compiled, stored):
  """The estimator of the same."""
  del compiled
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    return small(random_state=7, options=stored).fit(IMAGES)


def test_the_command_gives_the_same_bytes(run, ours, fitted):
  """Of the same seed; another seed gives others."""
  found = np.load(run / 'responsibilities.npy')
  assert found.dtype == ours.responsibilities_.dtype
  assert found.tobytes() == ours.responsibilities_.tobytes()
  assert (found != fitted.responsibilities_).any()


def test_the_command_goes_on(commands, fit_there, ours, tmp_path):
  """With what `save` wrote: it predicts the same, and finds the fit at its end."""
  workdir = tmp_path / 'saved'
  ours.save(workdir)
  assert 'has a fit already' in refusal(ours.save, workdir)
  checkpoints = sorted(path.name for path in (workdir / 'checkpoints').iterdir())
  assert checkpoints == ['5']  # 4 steps and an E-step
  np.save(tmp_path / 'new.npy', IMAGES[:5])
  outcome = commands.small('--mode=predict', f'--workdir={workdir}',
                           f'--config.data.path={tmp_path}/new.npy')
  assert outcome.code == 0, outcome.err
  with open(workdir / 'predictions.csv', newline='', encoding='utf-8') as file:
    rows = list(csv.DictReader(file))
  assert [int(row['cluster']) for row in rows] == ours.predict(IMAGES[:5]).tolist()
  np.testing.assert_allclose([float(row['bound']) for row in rows],
                             ours.score_samples(IMAGES[:5]), rtol=1e-4)
  found = np.load(fit_there(workdir) / 'responsibilities.npy')
  assert found.tobytes() == ours.responsibilities_.tobytes()
  assert sorted(path.name for path in (workdir / 'checkpoints').iterdir()) == ['5']


def test_load(run, ours, tmp_path):
  """What was saved, all of it, also where the fit kept some images only; and the fit of a
  command."""
  vectors = small(image_shape=(8, 8)).fit(IMAGES.reshape(40, 64))
  some = small(options={'em.schedule': 'stepwise', 'start.max_images': 20}).fit(IMAGES)
  for number, model in enumerate((ours, vectors, some)):
    rows = IMAGES.reshape(40, *model.cluster_means_.shape[1:])
    model.save(tmp_path / f'{number}')
    again = Small.load(tmp_path / f'{number}')
    for name in ('labels_', 'responsibilities_', 'bound_', 'cluster_means_'):
      np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    for found in (again, pickle.loads(pickle.dumps(again))):
      np.testing.assert_array_equal(found.predict_proba(rows), model.predict_proba(rows))
    assert again.n_features_in_ == 64
    assert clone(again).fit(rows).responsibilities_.tobytes() == (
        model.responsibilities_.tobytes())
  theirs = Small.load(run)
  np.testing.assert_array_equal(theirs.labels_, ours.labels_)
  np.testing.assert_array_equal(theirs.score_samples(IMAGES), ours.score_samples(IMAGES))
  theirs.save(tmp_path / 'theirs')
  for found in (theirs, Small.load(tmp_path / 'theirs')):
    assert not hasattr(found, 'cluster_means_')
    np.testing.assert_array_equal(found.labels_, ours.labels_)
  assert 'no config.json' in refusal(Small.load, tmp_path / 'nowhere')
  (tmp_path / '0' / 'estimator.npz').write_bytes(b'x')  # without it: another fit
  assert 'estimator.npz is damaged' in refusal(Small.load, tmp_path / '0')


def test_seeds():
  """An integer is the seed of the config; a RandomState gives one, None too."""
  seed_of = lambda state: small(random_state=state)._settings().seed
  assert seed_of(5) == 5 and seed_of(np.int64(6)) == 6
  expected = np.random.RandomState(3).randint(2**31 - 1)
  assert seed_of(np.random.RandomState(3)) == expected
  assert seed_of(None) != seed_of(None)
  for wrong in (-1, 'a', np.random.default_rng(0)):
    assert 'seed' in refusal(small(random_state=wrong).fit, IMAGES)


# ----------------------------------------------------------- alone and among others


@pytest.mark.parametrize('options', [
    {'posterior.num_views': 2, 'views.rotation': .2, 'start.kind': 'recognition'},
    {'method': 'cluster_ddpm', 'latent.size': 2}], ids=str)
def test_an_image_alone_has_the_same_bits(options):
  """As among others, in any order and any number, and by other devices' share."""
  method = options.pop('method', 'cddpm')
  model = small(method=method, options={
      **options, 'num_devices': 2, 'e_step.batch_size': 20}).fit(IMAGES)
  tau, bound = model.predict_proba(IMAGES[:32]), model.score_samples(IMAGES[:32])
  order = np.random.default_rng(0).permutation(32)
  for rows in ([5], [7, 3], order):
    np.testing.assert_array_equal(model.predict_proba(IMAGES[rows]), tau[rows])
    np.testing.assert_array_equal(model.score_samples(IMAGES[rows]), bound[rows])
  np.testing.assert_allclose(model.score_samples(IMAGES)[:32], bound, rtol=1e-4)
  noise = model.score_samples(IMAGES[:2]) - model.fitted_.rescored(IMAGES).bound[:2]
  assert np.abs(noise).max() > 1e-3  # these draws are of others


# ------------------------------------------------------------------ what X may be


def test_images_of_every_container(fitted):
  """The same images, however they are given, have the same clusters, to the bit."""
  tensor = types.SimpleNamespace(detach=lambda: IMAGES, device='cpu')
  for X, arguments in ((IMAGES[..., None], {}), (IMAGES.tolist(), {}),
                       (IMAGES.astype(np.int64), {}), (tensor, {}),
                       (IMAGES.reshape(40, 64), {'image_shape': (8, 8)})):
    model = small(**arguments).fit(X)
    assert model.responsibilities_.tobytes() == fitted.responsibilities_.tobytes()
    assert model.predict_proba(X).tobytes() == fitted.predict_proba(IMAGES).tobytes()
    shape = np.shape(X)[1:] or (8, 8)
    assert model.cluster_means_.shape == (3, *shape)
    assert model.n_features_in_ == 64 and model.image_shape_ == (8, 8, 1)


def test_tensors_elsewhere():
  """One line says what to do."""
  device = types.SimpleNamespace(type='cuda')
  tensor = types.SimpleNamespace(detach=None, device=device)
  assert 'X.cpu()' in refusal(small().fit, tensor)


def test_tensors_of_pytorch(fitted):
  """Those that have a gradient, too."""
  torch = pytest.importorskip('torch')
  images = torch.tensor(IMAGES.astype(np.float32), requires_grad=True)
  model = small().fit(images)
  np.testing.assert_array_equal(model.predict(images), model.predict(IMAGES))
  # NumPy has no such type; whole numbers up to 256 are exact in it.
  np.testing.assert_array_equal(model.predict(images.bfloat16()), model.predict(IMAGES))


def test_a_data_frame(fitted):
  """Of a pixel a column; the names are looked at."""
  pd = pytest.importorskip('pandas')
  frame = pd.DataFrame(IMAGES.reshape(40, 64)).rename(columns='p{}'.format)
  model = small(image_shape=(8, 8)).fit(frame)
  assert model.responsibilities_.tobytes() == fitted.responsibilities_.tobytes()
  assert list(model.feature_names_in_[:2]) == ['p0', 'p1']
  with pytest.raises(ValueError, match='feature names'):
    model.predict(frame[frame.columns[::-1]])


def test_a_table_of_images(fitted):
  """Each cell an image."""
  pd = pytest.importorskip('pandas')
  column, known = pd.Series(list(IMAGES[:3])), fitted.predict_proba(IMAGES[:3])
  for X in (column, column.to_frame('image')):
    np.testing.assert_array_equal(fitted.predict_proba(X), known)


def test_what_is_misread_is_told(fitted):
  """One image alone, paths among other things, colours of a fit to grey images."""
  assert 'np.asarray(X)[None]' in refusal(fitted.predict, IMAGES[0])
  assert "'a.png'" in refusal(fitted.predict, ['a.png', None])
  assert 'type ndarray at place 0' in refusal(fitted.predict, [IMAGES[0], 'a.png'])
  colours = np.stack([IMAGES[:3], IMAGES[:3], IMAGES[3:6]], -1)
  with pytest.warns(UserWarning, match='brightness alone is seen'):
    fitted.predict(colours)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    fitted.predict(np.stack([IMAGES[:3]] * 3, -1))


def test_one_image_in_colour():
  """It is not as many grey ones, whose last sides are 7 and 3."""
  model = small()
  model.image_shape_, model.n_features_in_ = (8, 8, 3), 192
  assert 'np.asarray(X)[None]' in refusal(model._as_images, np.ones((8, 7, 3)), False)
  assert model._as_images(np.ones((2, 8, 8)), False).shape == (2, 8, 8)


@pytest.mark.parametrize('stored, levels, top', [
    (IMAGES * np.uint16(250), 256, 4095),  # 12 bits of 16
    (IMAGES, 17, 16), (IMAGES > 8, 2, 1), (IMAGES / 3, None, 16 / 3)])
def test_scales(stored, levels, top):
  """By the rule of the documentation."""
  model = small()
  source = model._opened(stored, model._settings())
  assert source.levels == levels
  np.testing.assert_allclose(images_at(source, range(40))[..., 0],
                             stored.astype(float) / top * 2 - 1, atol=.006)


def test_floats(fitted):
  """What comes back is in the units of X; whole numbers are floats, too."""
  stored = IMAGES / 4. - 1
  model = small().fit(stored)
  np.testing.assert_allclose(
      np.einsum('q,qhw->hw', model.responsibilities_.mean(axis=0), model.cluster_means_),
      stored.mean(axis=0), atol=1e-3)
  images, clusters = model.sample(6, num_steps=3, sampler='ddim')
  assert images.shape == (6, 8, 8) and clusters.shape == (6,)
  assert -1 <= images.min() < images.max() <= 3 and (images != np.rint(images)).any()
  whole = np.clip(IMAGES[:3], 0, 3)
  np.testing.assert_array_equal(*(
      model.predict_proba(X) for X in (whole, whole.astype(np.float32))))
  assert 'whole numbers of 0 to 16' in refusal(fitted.predict, stored)


def test_new_images_are_read_together(fitted):
  """Not a batch of 4 after the other, of which one may look as if in other units."""
  X = np.concatenate([IMAGES[:4], IMAGES[4:8] * np.uint16(4000)])
  with pytest.warns(UserWarning, match='4 of 8 images'):
    found = fitted.predict_proba(X)
  np.testing.assert_allclose(found, fitted.fitted_.tell(X), atol=1e-5)
  assert 'last axis' in refusal(fitted.predict, np.moveaxis(IMAGES, 0, -1))


@pytest.fixture
def files(tmp_path):
  """A folder with 20 pictures of the digits, and their paths, the last one first."""
  paths = [tmp_path / 'pictures' / f'{k:02}.png' for k in range(20)][::-1]
  paths[0].parent.mkdir()
  for path in paths:
    Image.fromarray(IMAGES[int(path.stem)] * np.uint8(15)).save(path)
  return paths[0].parent, paths


@pytest.mark.parametrize('given', [
    lambda: IMAGES.astype(object), lambda: np.array([*IMAGES, None], object)[:-1],
    lambda: pytest.importorskip('pandas').DataFrame(
        IMAGES.reshape(40, 64), dtype=object),
    lambda: np.ma.masked_array(IMAGES, False)])
def test_numbers_held_as_objects(given):
  """Integers are read as integers, not as floats of a range of their own."""
  model = small(image_shape=(8, 8))
  source = model._opened(given(), model._settings())
  assert source.levels == 17
  np.testing.assert_array_equal(np.asarray(source.images)[..., 0], IMAGES)


def test_hidden_pixels(fitted):
  """A masked array's own values would show below its mask."""
  masked = np.ma.masked_array(IMAGES, IMAGES > 15)
  for function in (small().fit, fitted.predict):
    assert 'masked array are hidden' in refusal(function, masked)


def test_files(files):
  """A folder and a list of paths: the same images, in the order of each."""
  folder, paths = files
  given = IMAGES[:20] * np.uint8(15)
  model, other = small().fit(folder), small().fit(given)
  assert model.responsibilities_.tobytes() == other.responsibilities_.tobytes()
  assert model.n_features_in_ == 64 and model.cluster_means_.shape == (3, 8, 8, 1)
  tau = model.predict_proba(folder)
  np.testing.assert_allclose(model.predict_proba(paths), tau[::-1], atol=1e-5)
  np.testing.assert_allclose(model.predict_proba(given), tau, atol=1e-5)
  names = np.array(list(map(str, paths)), object)
  np.testing.assert_array_equal(model.predict_proba(names), model.predict_proba(paths))
  resized = small(image_shape=(4, 4))
  source = resized._opened(list(names), resized._settings())
  assert source.image_shape == resized.image_shape_ == (4, 4, 1)
  np.testing.assert_allclose(
      images_at(source, [19])[0, ..., 0], given[0].astype(float).reshape(4, 2, 4, 2).mean(
          axis=(1, 3)) / 255 * 2 - 1, atol=.2)
  missing = refusal(model.predict, [*paths, pathlib.Path('missing.png')])
  assert 'missing.png' in missing
  some = tau[::-1][:3]
  np.testing.assert_array_equal(model.predict_proba(iter(paths[:3])),
                                model.predict_proba(paths[:3]))
  np.testing.assert_allclose(model.predict_proba(iter(paths[:3])), some, atol=1e-5)
  assert '[path]' in refusal(model.predict, paths[0])
  assert 'no such folder' in refusal(small().fit, str(folder / 'nowhere'))


def test_tables_of_paths(files):
  """The one column is taken; of several, a line says which to give."""
  pd = pytest.importorskip('pandas')
  _, paths = files
  table = pd.DataFrame({'file': list(map(str, paths)), 'size': 8})
  model = small()
  source = model._opened(table[['file']], model._settings())
  assert list(source.ids) == list(map(str, paths))
  assert "X['file']" in refusal(model.fit, table)


@pytest.mark.parametrize('X, told', [
    ({'a.png', 'b.png'}, 'sorted(X)'), ({'images': IMAGES}, 'X[NAME]'),
    ([], 'none was found'), (iter(()), 'none was found')])
def test_what_holds_images_in_another_way(X, told):
  """A set, a dict, a search that has found nothing: what to give."""
  assert told in refusal(small().fit, X)


def test_the_values_of_a_dict():
  """Are taken one by one."""
  assert 'a.png' in refusal(small().fit, {1: 'a.png', 2: 'b.png'}.values())


@pytest.mark.parametrize('shape, told', [(64, '(8, 8)'), (192, '(8, 8, 3)'), (60, '')])
def test_vectors_that_look_like_images(shape, told):
  """A warning says how to tell; other vectors are rows of pixels, silently."""
  rows = np.random.default_rng(0).random((6, shape))
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    images = small()._as_images(rows, reset=True)
  assert images.shape == (6, 1, shape, 1)
  assert [f'image_shape={told}' in str(line.message) for line in caught] == (
      [True] if told else [])


COLOUR = np.random.default_rng(0).random((9, 3, 8, 6))


@pytest.mark.parametrize('X, arguments, told', [
    (COLOUR, {}, 'np.moveaxis(X, 1, -1)'),
    (COLOUR[:, :1], {}, 'channels come first'),
    (COLOUR[..., :2], {}, 'channels'),
    (IMAGES[:4], {'n_clusters': 5}, 'n_samples=4 should be >= n_clusters=5'),
    (IMAGES, {'image_shape': (8, 7)}, 'image_shape = (8, 7)'),
    (IMAGES.reshape(40, 64), {'image_shape': (8, 7)}, 'has 56 numbers, but X has 64'),
    (IMAGES, {'image_shape': 8}, 'give (height, width)'),
    (IMAGES, {'image_shape': (8, 8, 2)}, '1, 3 or 4 channels'),
    (IMAGES, {'config': 7}, 'config is of type int'),
    (IMAGES, {'config': {'em.iterations': 1}}, 'Unknown option config.em.iterations'),
    (IMAGES, {'config': {'em.max_iterations': 0}}, 'em.max_iterations = 0'),
    (IMAGES, {'config': {'em.max_iterations': 'a'}}, 'max_iterations'),
    (IMAGES, {'config': {'num_clusters': 7}}, 'give n_clusters=7'),
    (IMAGES, {'config': {'seed': 3}}, 'give random_state=3'),
    (IMAGES, {'method': 'kmeans'}, 'method'),
    (IMAGES, {'n_clusters': 0}, 'num_clusters = 0'),
    (IMAGES * 0, {}, 'nothing to cluster'),
    ([IMAGES[0], IMAGES[0, 1:]], {}, 'images of one shape'),
    ('nowhere', {}, 'no such folder')], ids=str)
def test_mistakes(X, arguments, told):
  """One line each."""
  assert told in refusal(Small(**arguments).fit, X)


# --------------------------------------------------------------------- and further


def test_sample(fitted):
  """Whole numbers in the range of X, of clusters by their shares; the same again."""
  images, clusters = fitted.sample(50, num_steps=3, sampler='ddim')
  assert images.shape == (50, 8, 8)
  np.testing.assert_array_equal(images, np.rint(images))
  assert 0 <= images.min() and images.max() <= 16
  assert (np.diff(clusters) >= 0).all()
  share = np.bincount(clusters, minlength=3) / 50
  expected = np.exp(np.asarray(fitted.fitted_.params.log_proportions))
  np.testing.assert_allclose(share, expected, atol=4 * (.25 / 50)**.5)
  np.testing.assert_array_equal(
      images, fitted.sample(50, num_steps=3, sampler='ddim')[0])
  assert (images != fitted.sample(50, num_steps=3, sampler='ddim', seed=1)[0]).any()
  assert 'n_samples=0' in refusal(fitted.sample, 0)
  for seed in (None, 'a', -1):
    assert 'sample.seed' in refusal(fitted.sample, 2, seed=seed)
  assert 'takes no num_images' in refusal(fitted.sample, 2, num_images=3)


def test_restore(fitted):
  """It is passed on to the `Fitted`."""
  model = pickle.loads(pickle.dumps(fitted))
  asked = mock.Mock(return_value='restored')
  model.fitted_ = types.SimpleNamespace(restore=asked)
  assert model.restore('operator', IMAGES, 2., num_draws=3) == 'restored'
  assert asked.call_args.args == ('operator', IMAGES, 2.)
  assert asked.call_args.kwargs['num_draws'] == 3
  assert 'sigma' in refusal(fitted.restore, operators.box((8, 8, 1), 0, 0, .5, .5),
                            IMAGES, sigma=-1)
