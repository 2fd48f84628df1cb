"""--mode=restore on tiny fits: what it writes, in which units, and what it refuses."""

import csv
import html.parser
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

import jdiffclust
from jdiffclust.config import default_config
from jdiffclust.data.dataset import array_source
from jdiffclust.errors import NonFiniteError
from jdiffclust.fitted import Fitted, doubts, looks_turned
from jdiffclust.inverse import operators
from jdiffclust.inverse.units import Units
from jdiffclust.report.restored import file_names
from tests.helpers import (
    LITTLE, check_error, done, refused, restore, restored_rows)
from tests.tiny import build

SHAPE = 8, 8, 1
RESTORE = Fitted.restore
DIGITS = datasets.load_digits().images.astype(np.uint8)
FILES = 'restored.npy', 'restored.csv', 'restored.html', 'figures/restored.png'


@pytest.fixture(scope='module')
def small(commands, tmp_path_factory):
  """The workdir of a fit whose networks that tell damaged images are small, too."""
  return commands.new_workdir(
      tmp_path_factory, 'small', 'recognition.channels=8', 'recognition.networks=1',
      'recognition.steps=400', 'recognition.batch_size=16')


@pytest.fixture
def run(small, tmp_path):
  """A copy of a fitted workdir."""
  return shutil.copytree(small, tmp_path / 'run')


@pytest.fixture(scope='module')
def fit(commands, small):
  """The same fit, loaded."""
  with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
    return jdiffclust.load(small, build=commands.build)


pytestmark = pytest.mark.usefixtures('promotion')


@pytest.fixture
def mask(tmp_path):
  """(known pixels [8, 8], the path of a picture of them): the lower third is hidden."""
  known = np.ones((8, 8), bool)
  known[5:, 1:7] = False
  path = tmp_path / 'mask.png'
  Image.fromarray(np.where(known, 255, 0).astype(np.uint8)).save(path)
  return known, path


def folder_of(path, images, names=None, kind=np.uint8):
  """Writes images as PNGs; returns the options that name them."""
  for i, image in enumerate(images):
    file = path / (names[i] if names else f'{i}.png')
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.astype(kind)).save(file)
  return 'data.source=folder', f'data.path={path}'


class Page(html.parser.HTMLParser):
  """What a page says: the text of its heading cells, its tags."""

  def __init__(self, text):
    """Reads it."""
    super().__init__()
    self.tags, self.names, self._inside = [], [], False
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    """Counts."""
    self.tags.append(tag)
    self._inside = tag == 'th' and not attrs

  def handle_data(self, data):
    """Keeps the text of a row's heading."""
    if self._inside and data.strip():
      self.names.append(data)
      self._inside = False


# ------------------------------------------------------------------ end to end


def test_a_folder_with_a_mask(commands, run, mask, tmp_path):
  """Known pixels are those given, in the units asked for; files of all names."""
  known, path = mask
  names = ['a/b c.png', 'a_b_c.png', 'A_B_C.png', '1_x.png', 'x$y$<&>.png',
           'Zahl ' + 'ä' * 100 + '.png']
  images = DIGITS[100:106] * 15
  damaged = np.where(known, images, 77)
  options = folder_of(tmp_path / 'new', damaged, names)
  (run / 'restored').mkdir()  # of an earlier command, and of the user's own
  for name in ('restored/old.png', 'restored/mine.png', 'x.png'):
    (run / name).write_bytes(b'')
  (run / 'restored.csv').write_text('index,file\n0,restored/old.png\n1,x.png\n')
  outcome = done(restore(commands, run, *options, 'data.range=(0,255)',
                         f'restore.mask={path}', 'data.use_labels=False',
                         'restore.method=ddrm'))
  assert 'pixels 0 to 255, sigma 0' in outcome.out
  assert 'warning' not in outcome.err, outcome.err
  found, rows = np.load(run / 'restored.npy'), restored_rows(run)
  assert found.shape == (6, 2, 8, 8, 1) and found.dtype == np.float32
  order = np.argsort(names)
  assert [row['id'] for row in rows] == [names[i] for i in order]
  seen = np.where(known, images[order], 0.)[:, None, :, :, None]
  assert np.abs(np.where(known[..., None], found, 0) - seen).max() < .5
  assert np.abs(found[:, :, ~known] - 77).max() > 5  # hidden ones are not what was given
  assert list(rows[0]) == ['index', 'id', 'cluster', 'probability', 'log_evidence',
                           'effective_sample_size', 'residual', 'sigma', 'file']
  assert {row['log_evidence'] + row['effective_sample_size'] for row in rows} == {''}
  assert all(float(row['residual']) < .5 and row['sigma'] == '0' for row in rows)
  for row, image in zip(rows, found):
    with Image.open(run / row['file']) as picture:
      pixels = np.asarray(picture, float)
    want = np.clip(image.mean(axis=0)[..., 0], 0, 255)
    assert pixels.shape == (8, 8) and np.abs(pixels - want).max() < .51
  assert len({row['file'].lower() for row in rows}) == 6
  assert (run / 'x.png').exists() and {row['file'] for row in rows} == {
      f'restored/{one.name}' for one in (run / 'restored').iterdir()} - {
          'restored/mine.png'}
  page = Page((run / 'restored.html').read_text(encoding='utf-8'))
  assert page.names == ['image', *(row['id'] for row in rows)]
  assert page.tags.count('img') == 1
  with Image.open(run / 'figures' / 'restored.png') as picture:
    assert min(picture.size) > 50


def test_16_bits(commands, run, mask, tmp_path):
  """12 bits in 16-bit files, by the range of theirs."""
  known, path = mask
  images = DIGITS[10:12].astype(np.int64) * 255
  options = folder_of(tmp_path / 'new', np.where(known, images, 0), kind=np.uint16)
  done(restore(commands, run, *options, 'data.range=(0,4095)', f'restore.mask={path}',
               'restore.method=repaint'))
  found = np.load(run / 'restored.npy')[:, :, known]
  assert np.abs(found - images[:, known][:, None, :, None]).max() < 4095 / 255


def test_floats_of_which_the_fit_tells_nothing(commands, run, tmp_path):
  """Faint ones would become bright by their own range: they are refused before it."""
  np.save(tmp_path / 'x.npy', DIGITS[:2] / 64)
  outcome = restore(commands, run, 'data.source=npz', f'data.path={tmp_path}/x.npy',
                    'restore.operator=box')
  check_error(outcome, 'from 0 to 0.25', '--config.data.range="(0,1)"', 'whole numbers')
  # Noise goes beyond black and white, which are not its ends.
  np.save(tmp_path / 'x.npy', DIGITS[:2] + np.linspace(-5.5, 2, 64).reshape(8, 8))
  outcome = restore(commands, run, 'data.source=npz', f'data.path={tmp_path}/x.npy',
                    'restore.operator=box')
  check_error(outcome, 'from -5.5', 'such as --config.data.range="(0,')


def test_floats_and_a_border(commands, tmp_path):
  """A fit of floats from 0 to 1 with a border: neither mask nor result have it.

  Images of 6x6 become 8x8, so that the programs are those of the other tests.
  """
  images = DIGITS[:60, 1:7, 1:7] / 16
  images[0, 0, 0], images[0, 0, 1] = 0, 1
  np.savez(tmp_path / 'x.npz', images=images)
  of = 'data.source=npz', f'data.path={tmp_path}/x.npz'
  done(commands.fit(tmp_path / 'run', *of, 'data.padding=1'))
  known = np.ones((6, 6), bool)
  known[2:4] = False
  np.save(tmp_path / 'mask.npy', known)
  for name, options in {'mask': (f'restore.mask={tmp_path}/mask.npy',),
                        'box': ('restore.operator=box',
                                'restore.box=(.34, 0, .34, 1)')}.items():
    done(restore(commands, tmp_path / 'run', 'data.max_images=3', *options,
                 'restore.method=mcgdiff', 'restore.particles=4'))
    found = np.load(tmp_path / 'run' / 'restored.npy')
    assert found.shape == (3, 2, 6, 6, 1), name
    ids = [int(row['id']) for row in restored_rows(tmp_path / 'run')]
    seen = images[ids][:, None, :, :, None]
    assert np.abs(found - seen)[:, :, known].max() < 1 / 256, name
    assert np.abs(found - seen)[:, :, ~known].max() > .05, name
  check_error(restore(commands, tmp_path / 'run', 'restore.operator=blur'), 'border')
  check_error(restore(commands, tmp_path / 'run', 'restore.operator=averaging'),
              'config.data.padding = 1')


def test_every_operator(commands, run, tmp_path, monkeypatch):
  """The fit's own images are damaged by it, and by noise; they are known, too.

  By a method that uses all of an operator's coordinates, and is compiled the fastest.
  """
  given = []
  monkeypatch.setattr(Fitted, 'restore', lambda self, operator, y, *args, **options: (
      given.append((operator, y)), RESTORE(self, operator, y, *args, **options))[1])
  np.save(tmp_path / 'kernel.npy', np.full((3, 3), 1 / 9))
  np.save(tmp_path / 'matrix.npy', np.eye(64)[::2])
  cases = {'box': ('restore.box=(.5,0,.5,1)',), 'random': ('restore.share=.3',),
           **dict.fromkeys(('averaging', 'subsampling', 'bicubic'), (
               'restore.factor=4',)),
           'blur': ('restore.blur=.7',),
           'kernel': (f'restore.file={tmp_path}/kernel.npy',),
           'matrix': (f'restore.file={tmp_path}/matrix.npy',)}
  for name, options in cases.items():
    outcome = done(restore(commands, run, 'data.max_images=2',
                           f'restore.operator={name}', 'restore.sigma=.5',
                           'restore.method=ddrm', *options))
    found, rows = np.load(run / 'restored.npy'), restored_rows(run)
    assert found.shape == (2, 2, 8, 8, 1) and np.isfinite(found).all(), name
    assert 'resized' not in outcome.err, name
    whole = DIGITS[[int(row['id']) for row in rows], :, :, None].astype(np.float32)
    [(operator, y)] = given
    noise = np.asarray(y - operator.apply(whole))
    assert (noise != 0).all() and abs(noise.std() - .5) < 4 * .5 / (2 * noise.size)**.5
    if not isinstance(operator, operators.Inpainting):  # of a mask the hidden ones
      np.testing.assert_allclose([float(row['error']) for row in rows], np.sqrt(
          ((found.mean(axis=1) - whole)**2).mean(axis=(1, 2, 3))), rtol=1e-3)
    given.clear()


def test_a_matrix_damages_other_images(commands, run, tmp_path, monkeypatch):
  """Which come whole: by itself, and by noise of sigma."""
  given = []
  monkeypatch.setattr(Fitted, 'restore', lambda self, operator, y, *args, **options: (
      given.append((operator, y)), RESTORE(self, operator, y, *args, **options))[1])
  np.save(tmp_path / 'matrix.npy', np.eye(64)[::2])
  np.savez(tmp_path / 'x.npz', images=DIGITS[100:104])
  done(restore(commands, run, 'data.source=npz', f'data.path={tmp_path}/x.npz',
               'restore.operator=matrix', f'restore.file={tmp_path}/matrix.npy',
               'restore.sigma=.5', 'restore.method=ddrm'))
  [(operator, y)] = given
  noise = np.asarray(y - operator.apply(DIGITS[100:104, :, :, None].astype(np.float32)))
  assert (noise != 0).all() and abs(noise.std() - .5) < 4 * .5 / (2 * noise.size)**.5


def test_options_without_effect(commands, run):
  """Each is told, with what would read it; one that is read is not."""
  outcome = done(restore(commands, run, 'data.max_images=2', 'restore.operator=box',
                         'restore.factor=4', 'restore.jump=3', 'restore.seed=3',
                         'restore.method=ddrm'))
  warnings = [line for line in outcome.err.splitlines() if line.startswith('warning')]
  assert len(warnings) == 2 and 'restore.factor = 4 has no effect' in warnings[0]
  assert 'bicubic would' in warnings[0] and 'repaint would' in warnings[1]


def test_a_mask_of_the_files_own_size(commands, run, tmp_path):
  """Pixels that hidden ones do not reach are known, as they would be without damage."""
  large = [np.kron(image * 15, np.ones((4, 4))) for image in DIGITS[3:5]]
  known = np.ones((32, 32), bool)
  known[16:, 8:24] = False  # of 8x8: rows 4 to 7, columns 2 to 5, and those beside them
  path = picture(tmp_path / 'mask.png', np.where(known, 255, 0))
  found = []
  for name, fill in (('dark', 0), ('light', 255)):
    options = folder_of(tmp_path / name, [np.where(known, image, fill)
                                          for image in large])
    outcome = done(restore(commands, run, *options, 'data.range=(0,255)',
                           f'restore.mask={path}', 'restore.method=ddrm'))
    assert '34 of 64 pixels are known' in outcome.err and 'warning' not in outcome.err
    found.append(np.load(run / 'restored.npy'))
  inside = np.ones((8, 8), bool)
  inside[3:, 1:7] = False
  assert inside.sum() == 34
  assert np.abs(found[0] - found[1])[:, :, inside].max() < 5
  folder_of(tmp_path / 'dark', [np.zeros((20, 30))], ['z.png'])
  check_error(restore(commands, run, *options[:1], f'data.path={tmp_path}/dark',
                      f'restore.mask={path}'), '32x32', 'z.png', '20x30', '8x8')


def test_images_of_other_sizes_are_told(commands, run, mask, tmp_path):
  """Resizing mixes what is hidden with what is known."""
  options = folder_of(tmp_path / 'new', [np.kron(DIGITS[3] * 15, np.ones((2, 2))),
                                         DIGITS[4] * 15])
  outcome = done(restore(commands, run, *options, 'data.range=(0,255)',
                         f'restore.mask={mask[1]}'))
  assert '1 of 2 files (0.png: 16x16) were resized to 8x8' in outcome.err


# ------------------------------------------------- clusters by the fit's own images


def test_images_of_the_fit_are_known(commands, run):
  """Of which half is hidden: by the images themselves, as they are nearest."""
  outcome = done(restore(commands, run, 'restore.by_examples=True',
                         'restore.operator=box'))
  assert 'kept none of its images' not in outcome.err
  with open(run / 'assignments.csv', newline='', encoding='utf-8') as file:
    fitted = {row['id']: row['cluster'] for row in csv.DictReader(file)}
  rows = restored_rows(run)
  same = [fitted[row['id']] == row['cluster'] for row in rows]
  assert len(same) == 60 and np.mean(same) > .8  # at random: a third
  # What was hidden is known of them, and how far from it the mean comes.
  whole = DIGITS[[int(row['id']) for row in rows]][..., None]
  away = (np.load(run / 'restored.npy').mean(axis=1) - whole)[:, 2:6, 2:6]
  np.testing.assert_allclose([float(row['error']) for row in rows],
                             np.sqrt((away**2).mean(axis=(1, 2, 3))), rtol=1e-3)
  assert 'The model was fitted to them' in ' '.join(
      (run / 'restored.html').read_text(encoding='utf-8').split())


def test_clusters_of_an_image_alone(fit):
  """The same as among others, to the bit; draws are of the clusters that it may have."""
  seen = operators.box((8, 8, 1), .5, 0, .5, 1)
  y = seen.apply(DIGITS[100:103, :, :, None].astype(np.float32))
  of = lambda some, **more: fit.restore(seen, some, **LITTLE | {
      'by_examples': True, **more})
  all_of_them = of(y)
  assert all_of_them.responsibilities.shape == (3, 3)
  np.testing.assert_allclose(all_of_them.responsibilities.sum(axis=1), 1, rtol=1e-5)
  alone = of(y[:1])
  for name in ('images', 'responsibilities'):
    np.testing.assert_array_equal(getattr(alone, name), getattr(all_of_them, name)[:1])
  np.testing.assert_array_equal(fit.assign_damaged(seen, y[:1]),
                                all_of_them.responsibilities[:1])
  # Methods do not matter for clusters, which are those of what is seen.
  np.testing.assert_array_equal(
      of(y, method='mcgdiff', particles=4).responsibilities, all_of_them.responsibilities)


def test_without_images_of_the_fit(commands, run):
  """A fit of an earlier version: draws tell the clusters, and that is said."""
  options = 'data.max_images=2', 'restore.operator=box'
  (run / 'examples.npz').write_bytes(b'no archive')
  check_error(restore(commands, run, 'restore.by_examples=True', *options),
              'examples.npz is damaged')
  (run / 'examples.npz').unlink()
  outcome = done(restore(commands, run, 'restore.by_examples=True', *options))
  assert 'kept none of its images' in outcome.err
  first = (run / 'restored.csv').read_bytes()
  outcome = done(restore(commands, run, *options))
  assert 'kept none of its images' not in outcome.err
  assert (run / 'restored.csv').read_bytes() == first


# ------------------------------------------------------------------ the library


def test_the_library_is_the_command(commands, run, fit, tmp_path):
  """To the bit."""
  np.save(tmp_path / 'new.npy', DIGITS[100:103])
  done(restore(commands, run, 'data.source=npz', f'data.path={tmp_path}/new.npy',
               'restore.operator=box', 'restore.sigma=2.', 'restore.seed=5'))
  images = DIGITS[100:103, :, :, None].astype(float)
  seen = operators.box(SHAPE, .25, .25, .5, .5)
  found = fit.restore(seen, images, 2., **LITTLE, seed=5)
  np.testing.assert_array_equal(np.load(run / 'restored.npy'), found.images)
  assert found.mean.shape == found.std.shape == (3, 8, 8, 1)
  assert found.clusters.tolist() == [int(row['cluster']) for row in restored_rows(run)]


@pytest.mark.parametrize('options', [{}, {'method': 'mcgdiff', 'particles': 4}],
                         ids=['pigdm', 'mcgdiff'])
def test_an_image_knows_of_no_other(fit, options):
  """Alone, or in a batch, or last of one: the same bits; another seed: others."""
  seen = operators.box(SHAPE, .5, 0., .5, 1.)
  y = DIGITS[:9, :, :, None].astype(float)
  of = lambda y, **more: fit.restore(seen, y, 1., **LITTLE, **options,
                                     **more)
  many, again = of(y), of(y)
  np.testing.assert_array_equal(many.images, again.images)
  # An image's noise follows from its number: it stays where it is, the others change.
  other = of(np.concatenate([y[:1], 16 - y[1:4], y[4:5], 16 - y[5:]]))
  np.testing.assert_array_equal(many.images[[0, 4]], other.images[[0, 4]])
  np.testing.assert_array_equal(many.responsibilities[[0, 4]],
                                other.responsibilities[[0, 4]])
  np.testing.assert_array_equal(of(y[:1]).images[0], many.images[0])
  assert np.abs(of(y[:1], seed=1).images[0] - many.images[0]).max() > .1


def test_devices(fit, small):
  """8 devices and 1 agree up to rounding."""
  config = jdiffclust.config.copied(fit.config)
  config.num_devices = 8
  many = jdiffclust.load(small, config, build=build)
  seen, y = operators.box(SHAPE, .5, 0., .5, 1.), DIGITS[:3, :, :, None]
  one, other = (each.restore(seen, y, 1., **LITTLE)
                for each in (fit, many))
  np.testing.assert_allclose(one.images, other.images, atol=2e-3)
  np.testing.assert_allclose(one.responsibilities, other.responsibilities, atol=1e-3)


def test_pixel_range_and_hidden_pixels(fit):
  """Other units, the same images; NaN or anything where a mask hides."""
  seen, y = operators.box(SHAPE, .5, 0., .5, 1.), DIGITS[:2, :, :, None].astype(float)
  of = lambda *args, **more: fit.restore(seen, *args, **LITTLE, **more)
  one, other = of(y, 1.), of(y * 10 - 100, 10., pixel_range=(-100, 60))
  np.testing.assert_allclose(other.images, one.images * 10 - 100, atol=.05)
  np.testing.assert_allclose(other.residual, one.residual * 10, rtol=1e-3)
  hidden = np.where(np.asarray(seen.mask)[None] > 0, y, np.nan)
  np.testing.assert_array_equal(of(hidden, 1.).images, one.images)
  np.testing.assert_array_equal(
      of(np.nan_to_num(hidden, nan=1e9), 1.).residual, one.residual)
  # Nor do they say of which units the others are.
  np.testing.assert_array_equal(
      of(np.nan_to_num(hidden, nan=.5), 1.).residual, one.residual)
  assert 'pixel_range' in refused(of, np.nan_to_num(hidden / 16, nan=7.), 1.)


def test_evidence_of_clusters(fit):
  """[n, Q], finite; in any units the same."""
  seen, y = operators.box(SHAPE, .5, 0., .5, 1.), DIGITS[:2, :, :, None].astype(float)
  of = lambda *args, **more: fit.evidence(
      seen, *args, **LITTLE, particles=4, method='mcgdiff', **more)
  found = of(y, 1.)
  assert found.shape == (2, 3) and np.isfinite(found).all()
  np.testing.assert_allclose(of(y / 16, 1 / 16, pixel_range=(0, 1)), found, rtol=1e-3)
  assert 'mcgdiff or tds' in refused(fit.evidence, seen, y, 1.)


def test_units_by_brute_force():
  """A (a p + b) is what the model's observation says, for any A; and back."""
  rng = np.random.default_rng(0)
  pixels = rng.uniform(10, 90, (3, 4, 4, 1))
  units = Units(10., 90.)
  inside = (pixels - 10) / 80 * 2 - 1
  shape = (4, 4, 1)
  np.testing.assert_allclose(units.stored(inside), pixels, rtol=1e-6)
  for operator in (operators.averaging(2, shape), operators.gaussian_blur(1., shape),
                   operators.matrix(rng.normal(size=(5, 16)), shape),
                   operators.box(shape, 0., 0., .5, .5),
                   operators.convolution(np.full((3, 3), .2), shape)):
    y = np.asarray(operator.apply(pixels.astype(np.float32)))
    found = units.problem(operator, y, 4.)
    np.testing.assert_allclose(found.observation, operator.apply(
        inside.astype(np.float32)), atol=2e-4)
    assert np.isclose(found.noise, .1)


def test_kernels_below_zero_reach_further_than_their_sum():
  """Edges: 4 x - its neighbours is 0 of any even image, and up to 8 of others."""
  edges = operators.convolution([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], (8, 8, 1))
  chess = np.float32(255) * (np.indices((8, 8)).sum(axis=0) % 2)[None, ..., None]
  chess = chess.astype(np.float32)
  y = np.asarray(edges.apply(chess))
  found = Units(0, 255).problem(edges, y, 0.)
  np.testing.assert_allclose(found.observation, edges.apply(chess / 127.5 - 1), atol=1e-4)
  assert 'pixel' in refused(Units(0, 255).problem, edges, 2 * y, 0.)


@pytest.mark.parametrize('operator', [
    operators.separable(np.diff(np.eye(8), axis=0), np.eye(8), SHAPE),
    operators.separable(np.eye(8), np.eye(8) - np.eye(8, k=1), SHAPE),
    operators.bicubic(2, SHAPE), operators.averaging(2, SHAPE),
    operators.grey((8, 8, 3), (1., -1., .5))])
def test_weights_of_both_signs_reach_further(operator):
  """All that images of the range may show is taken, and no more."""
  apply = lambda image: np.asarray(operator.apply(image[None].astype(np.float32)))[0]
  size = int(np.prod(operator.shape))
  weights = np.stack([
      apply(one).ravel() for one in np.eye(size).reshape(size, *operator.shape)])
  row = np.abs(weights).sum(axis=0).argmax()
  extreme = np.where(weights[:, row] > 0, 255, 0).reshape(operator.shape)
  y = apply(extreme)[None]
  found = Units(0, 255).problem(operator, y, 0.)
  np.testing.assert_allclose(found.observation[0], apply(extreme / 127.5 - 1), atol=1e-4)
  assert 'pixel' in refused(Units(0, 255).problem, operator, 4 * y + 255, 0.)


def test_names_of_files():
  """One each, short enough, told apart in any file system; empty ids too."""
  ids = ['', '.', '/', '..', 'x', 'x.jpg', '1_x', 'a/b', 'a_b', 'A/b.png', 'film.tif#0',
         'film.tif#1', '目' * 300, 'dir/' + 'n' * 400, '.hidden', '-', 'con']
  found = file_names(ids)
  assert len({name.lower() for name in found}) == len(ids)
  assert all(len(name.encode()) < 200 and name.endswith('.png') for name in found)
  assert not any('/' in name or name.startswith('.') for name in found)
  assert file_names(['cats/1.png', 'dogs/2.jpg']) == ['cats_1.png', 'dogs_2.png']


# ------------------------------------------------------------------ mistakes


def picture(path, pixels, **save):
  """Writes an image; returns its path."""
  Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **save)
  return path


def test_bad_masks(commands, run, tmp_path):
  """A line each; nothing is written."""
  (tmp_path / 'text.png').write_text('no image')
  half = np.kron([[255, 0]], np.ones((8, 4)))
  cases = {
      picture(tmp_path / 'large.png', np.ones((9, 1)) * (np.arange(8) > 3)): [
          '9x8', '8x8'],
      picture(tmp_path / 'white.png', np.full((8, 8), 255)): ['all of the pixels'],
      picture(tmp_path / 'black.png', np.zeros((8, 8))): ['none of the pixels'],
      tmp_path / 'missing.png': ['missing.png', 'cannot be read'],
      tmp_path / 'missing.npy': ['missing.npy', 'cannot be read'],
      tmp_path / 'text.png': ['text.png', 'cannot be read'],
      tmp_path: ['cannot be read'], '': ['restore.mask']}
  for shape in ((8,), (8, 8, 1, 1), (8, 8, 2), (0, 8)):
    np.save(tmp_path / f'{len(shape)}.npy', np.arange(np.prod(shape)).reshape(shape) % 2)
    cases[tmp_path / f'{len(shape)}.npy'] = ['shape']
  np.save(tmp_path / 'nan.npy', np.where(half > 0, np.nan, 1))
  cases[tmp_path / 'nan.npy'] = ['nan.npy', 'NaN']
  pages = [Image.fromarray(half.astype(np.uint8))] * 2
  pages[0].save(tmp_path / 'pages.tif', save_all=True, append_images=pages[1:])
  cases[tmp_path / 'pages.tif'] = ['pages.tif', '2 pictures']
  for name in ('pipe.png', 'pipe.npy'):
    os.mkfifo(tmp_path / name)
    cases[tmp_path / name] = [name, 'it is a pipe']
  for path, fragments in cases.items():
    check_error(restore(commands, run, f'restore.mask={path}'), *fragments)
  good = {'soft.jpg': half, 'zero_one.png': half / 255,
          'alpha.png': np.stack([half * 0 + 255] * 3 + [half], -1),
          'colour.png': np.stack([half] * 3, -1),
          'red.png': np.stack([half * 0 + 255, half, half], -1)}  # what is lost is red
  from jdiffclust.data.masks import read_mask
  told = []
  for name, pixels in good.items():
    found = read_mask(str(picture(tmp_path / name, pixels)), told.append)
    np.testing.assert_array_equal(found[..., 0], half > 0, err_msg=name)
  wide = tmp_path / 'wide.png'
  Image.fromarray(np.where(half > 0, 65535, 300).astype(np.uint16)).save(wide)
  np.testing.assert_array_equal(read_mask(str(wide), told.append)[..., 0], half > 0)
  assert not told
  ramp = np.tile(np.arange(8.) * 36, (8, 1))  # 72, 108, 144, 180: nearer to half
  found = read_mask(str(picture(tmp_path / 'ramp.png', ramp)), told.append)
  np.testing.assert_array_equal(found[..., 0], ramp > 127.5)
  assert len(told) == 1 and 'ramp.png' in told[0] and 'grey in 50%' in told[0]
  assert not any((run / name).exists() for name in FILES)


MISTAKES = {
    'sigma': (['restore.operator=box', 'restore.sigma=-1.'], ['restore.sigma = -1']),
    'factor': (['restore.operator=averaging', 'restore.factor=3'], ['by 3', 'divide']),
    'box': (['restore.operator=box', 'restore.box=(0, 0, 1, 1)'], ['hides all']),
    'box of three': (['restore.operator=box', 'restore.box=(0, 0, 1)'], ['four numbers']),
    'colour': (['restore.operator=grey'], ['3 channels']),
    'repaint': (['restore.operator=box', 'restore.method=repaint', 'restore.sigma=1.'],
                ['repaint', 'set it to 0']),
    'near': (['restore.particle=3'], ["'restore.particles'"]),
    'near operator': (['restore.operator=blurr'], ["'blur'"]),
    'near method': (['restore.method=mcgdif'], ["'mcgdiff'"]),
    'steps': (['restore.operator=box', 'restore.num_steps=21'],
              ['21', '20', '0 for all']),
    'no file': (['restore.operator=kernel'], ['restore.file']),
    'missing kernel': (['restore.operator=kernel', 'restore.file=nowhere.npy'],
                       ['nowhere.npy']),
    'path of digits': (['restore.operator=box', 'data.path=/tmp'],
                       ['data.source', 'has no effect']),
    'another fit': (['restore.operator=box', 'num_clusters=4'], ['num_clusters = 4']),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes(name, commands, run):
  """A line each; nothing is written."""
  options, fragments = MISTAKES[name]
  check_error(restore(commands, run, *options), *fragments)
  assert not any((run / name).exists() for name in FILES)


def test_bad_arrays(commands, run, tmp_path):
  """Kernels and matrices of another shape, of objects, of zeros."""
  arrays = {'even': np.ones((2, 2)), 'large': np.ones((9, 9)), 'zero': np.zeros((3, 3)),
            'objects': np.array([{}, None], object), 'nan': np.full((3, 3), np.nan),
            'line': np.ones(3)}
  for name, array in arrays.items():
    np.save(tmp_path / 'x.npy', array, allow_pickle=True)
    for operator in ('kernel', 'matrix'):
      check_error(restore(commands, run, f'restore.operator={operator}',
                          f'restore.file={tmp_path}/x.npy'), '')
  np.save(tmp_path / 'x.npy', np.zeros((4, 64)))
  check_error(restore(commands, run, 'restore.operator=matrix',
                      f'restore.file={tmp_path}/x.npy'), 'zero')
  assert not any((run / name).exists() for name in FILES)


def test_without_a_fit(commands, tmp_path):
  """A fit is proposed, and no folder made."""
  check_error(commands.small('--mode=restore', f'--workdir={tmp_path}/w'),
              'jdiffclust FOLDER')
  assert list(tmp_path.iterdir()) == []


def test_no_room_for_writing(commands, run, monkeypatch):
  """It is told before the work."""
  monkeypatch.setattr('os.access', lambda *_: False)
  for mode in ('restore', 'sample', 'predict'):
    check_error(commands.small(f'--mode={mode}', f'--workdir={run}'), 'written')


class Wrong(operators.Operator):
  """Its adjoint is none."""

  shape = SHAPE

  def apply(self, x):
    """The upper half."""
    return x[:, :4]

  def adjoint(self, y):
    """Zeros."""
    return 0 * np.pad(np.asarray(y), ((0, 0), (0, 4), (0, 0), (0, 0)))


def test_mistakes_in_the_library(fit):
  """A line each."""
  seen, y = operators.box(SHAPE, .5, 0., .5, 1.), DIGITS[:2, :, :, None].astype(float)
  of = lambda *args, **options: refused(fit.restore, *args, **options)
  assert 'adjoint' in of(Wrong(), y[:, :4], 1.)
  assert '(9, 8, 1)' in of(operators.box((9, 8, 1), 0., 0., .5, 1.), y)
  assert 'inpainting' in of(np.ones((8, 8, 1)), y)
  bad = y.copy()
  bad[1, 0, 0] = np.nan
  assert 'Observation 1' in of(seen, bad)
  assert '916' in of(seen, y + 900) and 'pixel_range' in of(seen, y + 900)
  assert 'sigma = -1' in of(seen, y, -1.) and 'sigma' in of(seen, y, 'much')
  assert '(2, 8, 8)' in of(seen, y[..., 0]) and 'shape' in of(seen, y[:0])
  assert 'no array' in of(seen, [[1, 'a']])
  assert "'restore.num_draws'" in of(seen, y, num_draw=3)
  assert 'num_draws = 0' in of(seen, y, num_draws=0)
  assert 'takes no mask' in of(seen, y, mask='x.png')
  assert 'pixel_range' in of(seen, y, pixel_range=(1, 0))
  assert 'such as by pixel_range=(0, 1)' in of(seen, y / 16)  # not nearly black
  # Refused before the process is ended for want of memory.
  assert 'more than there is room for' in of(seen, y, num_draws=10**9)
  assert 'particles = 1000000000' in of(seen, y, 1., method='mcgdiff', particles=10**9)
  assert 'finite' in refused(operators.convolution, np.full((3, 3), np.nan), SHAPE)
  assert 'zero' in refused(operators.convolution, np.zeros((3, 3)), SHAPE)


def test_a_mask_the_wrong_way_round():
  """What it calls known is of one colour in all images; what it hides is not."""
  images, lost = DIGITS[:20] * 15, np.zeros((8, 8, 1), bool)
  lost[:4] = True
  damaged = array_source(np.where(lost[..., 0], 0, images), default_config().data, False)
  assert looks_turned(damaged, lost) and not looks_turned(damaged, ~lost)
  for whole in (lost | True, lost & False):
    assert not looks_turned(damaged, whole)
  black = array_source(0 * images, default_config().data, False)
  assert not looks_turned(black, lost)


def test_what_is_seldom_meant():
  """Noise in other units, a kernel that was not divided by its sum: a line each."""
  units, box = Units(0, 255), operators.box(SHAPE, .5, 0., .5, 1.)
  assert not doubts(box, 254., units) and 'sigma = 255' in doubts(box, 255., units)[0]
  ones, edges = np.ones((3, 3)), np.array([[1., 0, -1]] * 3)
  of = lambda kernel: doubts(operators.convolution(kernel, SHAPE), 1., units)
  assert of(ones / 9) == of(ones / 9.3) == of(edges) == []
  assert 'sum to 9:' in of(ones)[0] and len(of(ones)) == 1
  assert 'sum to 0.5:' in of(ones / 18)[0]


def test_draws_that_do_not_show_what_is_seen(fit, capsys):
  """A network of no use, few steps: a warning; a method that holds what is known."""
  seen, y = operators.box(SHAPE, .5, 0., .5, 1.), DIGITS[:2, :, :, None].astype(float)
  fit.restore(seen, y, **LITTLE | {'num_steps': 1})
  assert '2 of 2 images' in (err := capsys.readouterr().err) and 'num_steps' in err
  assert 'by ddrm and mcgdiff)' in err.replace('\n', ' ')
  found = fit.restore(seen, y, **LITTLE, method='ddrm')
  assert capsys.readouterr().err == '' and found.residual.max() < .1


def test_particles_that_are_lost(fit, capsys):
  """Few effective ones: a warning with what to do; none at all: an error."""
  seen, y = operators.box(SHAPE, .5, 0., .5, 1.), DIGITS[:2, :, :, None].astype(float)
  few = dict(**LITTLE, method='mcgdiff', particles=4)
  found = fit.restore(seen, y, .01, **few, groups=1)
  err = capsys.readouterr().err
  assert ((1 <= found.ess) & (found.ess < 2)).any()  # not what it is once resampled
  assert 'one particle of 4 on the way (' in err and 'draws are alike' in err
  fit.restore(seen, y, .01, **few)  # two draws
  err = capsys.readouterr().err
  assert 'one particle of 2 on the way in each of 2 groups' in err
  assert 'config.restore.particles' in err


def test_dead_particles(commands, run, monkeypatch):
  """Exit code 1 and a line."""
  def dead(*_, **__):
    raise NonFiniteError('All particles of observation 0 have died: set a larger sigma')
  monkeypatch.setattr('jdiffclust.fitted.restore_all', dead)
  outcome = restore(commands, run, 'restore.operator=box')
  assert outcome.code == 1 and 'Traceback' not in outcome.err
  assert outcome.err.splitlines()[-1].startswith('error: All particles')
  assert not any((run / name).exists() for name in FILES)


def test_stopped(commands, run, monkeypatch):
  """Exit code 130, nothing is written, and a line that promises nothing of a fit."""
  def stopped(*_, **__):
    raise KeyboardInterrupt
  monkeypatch.setattr('jdiffclust.fitted.restore_all', stopped)
  outcome = restore(commands, run, 'restore.operator=box')
  assert outcome.code == 130 and 'restore begins anew' in outcome.err
  assert not any((run / name).exists() for name in FILES)
