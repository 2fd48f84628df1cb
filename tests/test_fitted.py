"""The library's doors: `fit` and `load`, and every sampler with every method."""

import contextlib
import dataclasses
import functools
import json
import os
import tempfile

import jax
import numpy as np
import pytest
from sklearn import datasets

import jdiffclust
from jdiffclust import config as config_lib
from jdiffclust import main, outputs
from jdiffclust.clustering.generation import sampler_of
from jdiffclust.config import check_config, default_config
from jdiffclust.data.dataset import array_source, load_source
from jdiffclust.diffusion.paths import from_process
from jdiffclust.diffusion.samplers import run
from jdiffclust.errors import UserError
from jdiffclust.progress import Reporter
from jdiffclust.registry import BETAS, GRIDS, METHODS, SAMPLERS
from jdiffclust.training.storage import Store
from jdiffclust.workdir import images_of_run
from tests import tiny
from tests.helpers import refused

IMAGES = datasets.load_digits().images.astype(np.uint8)[:60]
# What is compiled is shared between equal methods.
BUILD = functools.partial(tiny.SHARED, tiny.TINY_NETWORKS)
# A sampler sees a method's denoiser and condition only where it asks for an estimate. All
# but adaptive, which is slow to compile, ask by the same program, row by row of a table:
# the methods other than cddpm, which has all, are tried with one of few and one of many
# rows a step (ddpm, heun). Where adaptive asks, at times between the steps, `estimate` is
# asked of every method (`test_denoiser_is_of_its_condition_alone`).
PAIRS = [(sampler, method) for method in METHODS for sampler in SAMPLERS
         if method == 'cddpm' or sampler == 'ddpm'
         or (sampler, method) == ('heun', 'sr3')]


def clusters_of(method):
  """The clusters of a tiny fit; sr3 has none, and counts as one."""
  return range(1 if method == 'sr3' else 3)


def config_of(method, **changes):
  """The options of a tiny fit."""
  config = default_config()
  options = dict(option.removeprefix('--config.').split('=', 1) for option in tiny.TINY)
  for name, value in {**options, 'method': method, 'latent.size': 4,
                      'em.posterior': 'amortised', 'posterior.channels': 8,
                      'num_clusters': str(len(clusters_of(method))),
                      'em.max_iterations': 2, **changes}.items():
    *sections, leaf = name.split('.')
    node = functools.reduce(lambda node, section: node[section], sections, config)
    old = node[leaf]
    if isinstance(value, str) and not isinstance(old, str) and value != 'auto':
      value = type(old)(eval(value))  # the option's own text
    node[leaf] = value
  check_config(config)
  return config


@pytest.fixture(autouse=True)
def promoting():
  """Optax promotes implicitly."""
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    yield


@functools.cache
def fitted(method):
  """A tiny fit of a method, in memory: nothing is written, the config not changed."""
  config = config_of(method)
  before = config.to_json_best_effort()
  with (jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'),
        tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder)):
    found = jdiffclust.fit(config, IMAGES, build=BUILD)
    assert os.listdir(folder) == []
  assert config.to_json_best_effort() == before
  return found


@pytest.mark.parametrize('method', METHODS)
def test_fit_needs_no_workdir(method):
  """An array in, responsibilities out."""
  found = fitted(method)
  shape = 60, len(clusters_of(method))
  assert found.responsibilities.shape == shape and len(found.history) == 2
  np.testing.assert_allclose(found.responsibilities.sum(axis=1), 1, atol=1e-5)
  np.testing.assert_array_equal(found.clusters, found.responsibilities.argmax(axis=1))
  assert found.bound.shape == (60,) and found.start.shape == shape


def test_advice_is_of_the_last_iteration(tmp_path):
  """What an earlier one gave cause for is no finding, nor is what an earlier version of
  the project wrote down of it."""
  found = fitted('cddpm')
  source = array_source(IMAGES, found.config.data)
  sharp, flat = {'mean_entropy': .01}, {'mean_entropy': 1.09}  # of log 3 = 1.0986
  for first, last in ((flat, sharp), (sharp, flat)):
    history = [found.history[0] | first | {'advice': {'overlap': '0 and 1 may be one'}},
               found.history[1] | last]
    facts = outputs.facts_of(dataclasses.replace(found, progress=found.progress | {
        'history': history, 'warnings': ['EM 1: 0 and 1 may be one', 'EM 1: empty']}),
                             source, tmp_path, 1.)
    assert ('melting' in facts['advice']) == (last is flat)
    assert 'EM 1: empty' in facts['warnings']
    assert not any('may be one' in text for text in facts['warnings'])


@pytest.mark.parametrize('sampler, method', PAIRS)
def test_every_sampler_with_every_method(sampler, method):
  """Images of the right shape, finite, the same again, other ones of another seed."""
  clusters = clusters_of(method)[::2]
  of = lambda **options: fitted(method).sample(
      list(clusters), sampler=sampler, num_steps=5, num_images=2, **options).images
  images = of()
  assert images.shape == (len(clusters), 2, 8, 8, 1) and np.isfinite(images).all()
  np.testing.assert_array_equal(of(), images)
  assert np.abs(of(seed=1) - images).max() > .01
  if method == 'sr3':
    assert 'guidance = 50.0' in refused(of, guidance=50.)
  if method == 'sr3' or sampler == 'adaptive':  # which does not know of guidance
    return
  guided = of(guidance=50.)  # the network has hardly been trained
  assert np.isfinite(guided).all() and np.abs(guided - images).max() > 1e-4


@pytest.mark.parametrize('sampler, method', [
    pair for pair in PAIRS if 'adaptive' not in pair])
def test_steps_from_the_host_are_those_of_the_scan(sampler, method):
  """`run` with scan=False: the same bits, of the fitted denoiser of every method.

  (Of adaptive, too: diffusion/test_sampler_steps.py.)
  """
  found = fitted(method)
  options = found.config.copy_and_resolve_references().sample
  options.sampler, options.num_steps = sampler, 4
  own, table = sampler_of(options, 'step', from_process(found.method.process))
  condition = found.method.conditions(found.params, clusters_of(method)[-1], 3, 0)
  keys = jax.random.split(jax.random.key(3), 3)
  given = table, found.denoiser(), keys, condition
  scanned = jax.jit(run, static_argnums=0)(own, *given)
  driven = run(own, *given, scan=False)
  np.testing.assert_array_equal(driven.images, scanned.images)
  np.testing.assert_array_equal(driven.evaluations, scanned.evaluations)


@pytest.mark.parametrize('method', METHODS)
def test_denoiser_is_of_its_condition_alone(method):
  """A row of E[x_0 | x_t, condition] does not see the other rows, at a time
  between two steps; shapes; its centre.
  """
  found = fitted(method)
  denoiser = found.denoiser()
  clusters = clusters_of(method)
  condition = np.concatenate([found.method.conditions(found.params, q, 6 // len(clusters),
                                                      0) for q in clusters])
  x = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
  t = np.full(6, 7.5, np.float32)
  whole = denoiser.estimate(x, t, condition)
  assert whole.shape == x.shape and np.isfinite(whole).all()
  assert denoiser.centre(condition).shape[1:] == x.shape[1:]
  part = denoiser.estimate(x[4:], t[4:], condition[4:])
  np.testing.assert_allclose(part, whole[4:], rtol=1e-4, atol=1e-4)
  other = denoiser.estimate(x, t, 5 * condition[::-1])
  assert np.abs(other - whole).max() > 1e-5


@pytest.mark.parametrize('method', METHODS)
def test_assign(method):
  """New images get responsibilities and a bound, whatever comes with them."""
  found = fitted(method)
  whole = found.assign(IMAGES)
  assert whole.responsibilities.shape == (60, len(clusters_of(method)))
  assert np.isfinite(whole.info.bound).all()
  again = found.assign(IMAGES[..., None])
  np.testing.assert_array_equal(again.responsibilities, whole.responsibilities)
  assert 'such as np.rint(x * 16)' in refused(found.assign, IMAGES / 16)
  np.testing.assert_allclose(found.tell(np.rint(IMAGES / 16 * 16)),
                             whole.responsibilities, atol=1e-4)


def test_whole_numbers_as_floats():
  """What a fit had as integers may come as floats; not what lies between, or beyond."""
  found = fitted('cddpm')
  np.testing.assert_array_equal(found.tell(IMAGES.astype(np.float32)),
                                found.tell(IMAGES))
  for other in (IMAGES + .5, IMAGES * 2., -1. * IMAGES, np.minimum(IMAGES, 1.)):
    assert 'whole numbers of 0 to 16' in refused(found.tell, other)


def test_log_density():
  """Of cddpm: log p(x) is the mixture of the clusters'; of the others: refused."""
  found = fitted('cddpm')
  options = found.config.copy_and_resolve_references().predict
  options.ode_steps = 4
  density = found.log_density(IMAGES[:5], options)
  assert density.clusters.shape == (5, 3)
  joint = density.clusters + np.asarray(found.params.log_proportions)
  np.testing.assert_allclose(density.mixture, np.log(np.exp(
      joint - joint.max(axis=1, keepdims=True)).sum(axis=1)) + joint.max(axis=1),
                             rtol=1e-5)
  assert 'no densities' in refused(fitted('cluster_ddpm').log_density, IMAGES[:5])


@pytest.mark.parametrize('options,fragments', [
    ({'clusters': [3]}, ['cluster 3', '0..2']), ({'number': 4}, ['sample.number']),
    ({'sampler': 'nonsense'}, ['nonsense', 'ddim']), ({'num_steps': 99}, ['99', '20']),
    ({'guidance': -1.}, ['guidance'])])
def test_sampling_that_makes_no_sense(options, fragments):
  """One line that names the option."""
  message = refused(fitted('cddpm').sample, **options)
  assert all(fragment in message for fragment in fragments), message


@pytest.mark.parametrize('images,fragment', [
    (np.zeros((4, 8)), '(4, 8)'), (np.arange(64.).reshape(1, 8, 8), 'at least 2'),
    (np.full((4, 8, 8), np.nan), 'NaN'), (np.zeros((4, 8, 8), np.uint8), 'every pixel'),
    (np.array(['a', 'b']), 'shape'), (IMAGES[:2], '1..2')])
def test_arrays_that_are_no_images(images, fragment):
  """One line, before anything is compiled."""
  assert fragment in refused(jdiffclust.fit, config_of('cddpm'), images)


def test_load_is_the_fit_of_the_command(tmp_path, capsys):
  """The same numbers from the command line, from `fit` and from `load`."""
  np.savez(tmp_path / 'x.npz', images=IMAGES)
  (tmp_path / 'config.py').write_text(  # what is compiled for `config_of` serves here
      'from jdiffclust.config import default_config as get_config\n', encoding='utf-8')
  options = [option for option in tiny.TINY if 'max_images' not in option]
  code = main.run([
      '', f'--config={tmp_path}/config.py', f'--workdir={tmp_path}/w', '--quiet',
      *options, '--config.em.posterior=amortised', '--config.posterior.channels=8',
      '--config.latent.size=4',
      '--config.data.source=npz', f'--config.data.path={tmp_path}/x.npz'],
                  build=BUILD, parts=tiny.NO_PICTURES)
  assert code == 0
  loaded = jdiffclust.load(tmp_path / 'w', build=BUILD)
  here = jdiffclust.fit(loaded.config, IMAGES, build=BUILD)
  tau = np.load(tmp_path / 'w' / 'responsibilities.npy')
  np.testing.assert_array_equal(loaded.responsibilities, tau)
  np.testing.assert_array_equal(here.responsibilities, tau)
  for one, other in zip(jax.tree.leaves(here.params), jax.tree.leaves(loaded.params)):
    np.testing.assert_array_equal(one, other)
  np.testing.assert_array_equal(here.sample(num_images=2).images,
                                loaded.sample(num_images=2).images)
  assert 'no fitted model' in refused(jdiffclust.load, tmp_path / 'nowhere')
  # Made on more devices than there are, it is read on these.
  path = tmp_path / 'w' / 'config.json'
  path.write_text(path.read_text().replace('"num_devices": 1,', '"num_devices": 64,'))
  capsys.readouterr()
  elsewhere = jdiffclust.load(tmp_path / 'w', build=BUILD)
  assert elsewhere.method.mesh.size == 8
  assert '8 of 8 cpu device(s) are used; the fit asked for 64' in capsys.readouterr().err


def test_a_store_is_asked_for_all_that_is_kept():
  """What a run keeps goes through `Store`: config, states, metrics, in that order."""
  class Listening(Store):
    """Notes what it is asked for."""

    def __init__(self):
      super().__init__()
      self.calls = []

    def keep_config(self, config):
      self.calls.append('config')

    def save(self, number, snapshot):
      self.calls.append(number)

    def write(self, step, iteration, **values):
      self.calls.append('metrics')

    def finish(self):
      self.calls.append('end')

  store = Listening()
  jdiffclust.fit(config_of('cddpm'), IMAGES, store, build=BUILD)
  saved = [call for call in store.calls if isinstance(call, int)]
  # Two EM iterations of 6 steps, a checkpoint every 4 and at each end, and after E-steps.
  assert store.calls[0] == 'config' and store.calls[-1] == 'end'
  assert saved == [0, 4, 6, 7, 9, 13, 14]


@pytest.mark.usefixtures('few_cuts')
def test_number_of_clusters_may_be_chosen():
  """num_clusters=auto: the choice is part of the fit."""
  found = jdiffclust.fit(
      config_of('cddpm', **{'em.auto_clusters': '(2, 3)', 'em.auto_parts': 1,
                            'num_clusters': 'auto'}), IMAGES, build=BUILD)
  assert found.config.num_clusters in (2, 3)
  assert found.responsibilities.shape == (60, found.config.num_clusters)


def test_names_are_read_from_the_registries():
  """What the config allows is what there is: nothing more, nothing less."""
  allowed = {'sample.sampler': SAMPLERS, 'sample.grid': GRIDS, 'method': METHODS,
             'diffusion.betas': BETAS}
  known = dict(jdiffclust.config.options())
  for name, registry in allowed.items():
    assert all(known[name].allows(word) for word in registry)
    assert not any(known[name].allows(word) for word in ('', 'x', 'Heun'))
    with pytest.raises(UserError, match=next(iter(registry))):
      registry['x']


def test_a_fit_that_is_kept_in_a_folder(tmp_path):
  """It is loaded again, goes on when asked again, and knows its images."""
  config = config_of('cddpm')
  here = jdiffclust.fit(config, IMAGES, tmp_path / 'w', build=BUILD)
  loaded = jdiffclust.load(tmp_path / 'w', build=BUILD)
  np.testing.assert_array_equal(loaded.responsibilities, here.responsibilities)
  for same in (config, loaded.config):
    again = jdiffclust.fit(same, IMAGES, str(tmp_path / 'w'), build=BUILD)
    np.testing.assert_array_equal(again.responsibilities, here.responsibilities)
  other = IMAGES.copy()
  other[7] = 16 - other[7]
  assert "'7'" in refused(jdiffclust.fit, config, other, tmp_path / 'w')
  config.seed = 5
  assert 'config.seed' in refused(jdiffclust.fit, config, IMAGES, tmp_path / 'w')
  assert 'config.seed: 0 there, 5 now' in refused(jdiffclust.load, tmp_path / 'w', config)
  # The command line knows no arrays: it says how to give them.
  message = refused(images_of_run, load_source(loaded.config.data), tmp_path / 'w')
  assert 'an array that was given to jdiffclust.fit' in message and '.npy' in message


def test_a_run_of_before_resizes_as_it_began(tmp_path, monkeypatch, capsys):
  """Without an option that is of later: it kept the middle, whatever auto is now."""
  images, seen = np.full((24, 8, 12), 255, np.uint8), []
  images[np.arange(24), 2 + np.arange(24) % 3, 2:8] = 0
  stored = json.loads(config_lib.to_json(config_of('cddpm', **{'data.image_size': '8'})))
  del stored['data']['fit'], stored['data']['ground']
  (tmp_path / 'config.json').write_text(json.dumps(stored))

  def stop(source, folder):
    seen.append(source.rendering.fit)
    raise UserError('read')

  monkeypatch.setattr('jdiffclust.fitted.images_of_run', stop)
  begun = lambda **options: refused(
      jdiffclust.fit, config_of('cddpm', **{'data.image_size': '8', **options}), images,
      tmp_path, Reporter())
  assert begun() == 'read' and seen == ['crop']
  assert "config.data.fit = 'crop', as the run" in capsys.readouterr().err
  assert "data.fit: 'crop' there, 'pad' now" in begun(**{'data.fit': 'pad'})


def test_one_line_for_what_is_no_config_or_no_image():
  found = fitted('cddpm')
  assert 'default_config' in refused(jdiffclust.fit, None, IMAGES)
  assert 'default_config' in refused(jdiffclust.fit, 'configs/digits.py', IMAGES)
  assert 'no images' in refused(found.assign, IMAGES[:0])
  assert 'not an array' in refused(found.assign, [[1, 2], [3]])
  assert 'guidance' in refused(found.denoiser, -1)
  assert 'guidance' in refused(found.denoiser, 'x')
  assert len(repr(found)) < 100


@pytest.mark.parametrize('clusters', [
    '0,1', [], [.7], [True], np.array([[0, 1]]), [3], -1])
def test_clusters_that_are_none(clusters):
  assert 'cluster' in refused(fitted('cddpm').sample, clusters)


@pytest.mark.parametrize('options', [
    {'num_images': 'a'}, {'num_images': 2.5}, {'seed': -1}, {'sampler': 'best'}])
def test_sample_options_that_are_wrong(options):
  name, = options
  assert f'{name} = ' in refused(fitted('cddpm').sample, **options)


def test_one_cluster_by_its_number():
  found = fitted('cddpm')
  one = found.sample(1, num_images=np.int64(2), num_steps=4, sampler='ddim').images
  np.testing.assert_array_equal(
      one, found.sample([1], num_images=2, num_steps=4, sampler='ddim').images)


def test_floats_are_read_by_the_range_of_the_fit():
  """Alone, faint or constant: as among the others."""
  images = np.random.default_rng(0).random((60, 8, 8))
  found = jdiffclust.fit(config_of('cddpm', **{'em.max_iterations': '1'}), images,
                         build=BUILD)
  mixed = np.concatenate([images[:2] * .1, images[2:4], np.full((1, 8, 8), .5)])
  whole = found.assign(mixed)
  for rows in ([0, 1, 0, 1, 0], [0, 1, 2, 3, 0]):  # five each: by the same program
    alone = found.assign(mixed[rows])
    np.testing.assert_allclose(alone.info.bound, whole.info.bound[rows], rtol=1e-4)
    np.testing.assert_allclose(alone.responsibilities, whole.responsibilities[rows],
                               atol=1e-4)
  assert np.isfinite(found.assign(mixed[[4] * 5]).info.bound).all()
