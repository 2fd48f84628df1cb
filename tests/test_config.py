"""The options: their checks, their JSON and the files of configs/."""

import importlib.util
import json
import pathlib
import re

import hypothesis
from hypothesis import strategies as st
import ml_collections
import numpy as np
import pytest

from jdiffclust import config as config_lib
from jdiffclust.clustering.method import m_options_of
from jdiffclust.errors import UserError
from jdiffclust.registry import METHODS
from tests.helpers import refused

check_config = config_lib.check_config

ROOT = pathlib.Path(__file__).parents[1]
OPTIONS = dict(config_lib.options())
MANY = hypothesis.settings(max_examples=200, deadline=None)
JUNK = st.one_of(st.none(), st.booleans(), st.integers(-10, -1), st.text(max_size=4),
                 st.floats(), st.lists(st.text(max_size=2), max_size=2).map(tuple),
                 st.dictionaries(  # ConfigDict itself refuses dots in names
                     st.text(max_size=2).filter(lambda name: '.' not in name),
                     st.integers(), max_size=2))


def changed(name, value):
  """The default config with one option set, whatever its type."""
  config = config_lib.default_config()
  *sections, leaf = name.split('.')
  node = config
  for section in sections:
    node = node[section]
  with config.unlocked(), config.ignore_type():
    node[leaf] = value
  return config


def test_defaults_pass():
  """Every option's default is allowed by its own check, and all are together."""
  config_lib.check_config(config_lib.default_config())
  for name, option in OPTIONS.items():
    assert option.check(option.default), name


@pytest.mark.parametrize('name', OPTIONS)
def test_every_option_is_documented(name):
  """A meaning and the allowed values, each one line."""
  option = OPTIONS[name]
  for text in (option.meaning, option.allowed):
    assert text.strip() and '\n' not in text
  assert len(option.meaning) > 5


@pytest.mark.parametrize('name', OPTIONS)
def test_another_type_is_refused(name):
  """A value of a wrong type is refused by name: these fit nowhere."""
  for value in (object(), b'', ((),), 1j):
    assert f'config.{name}' in refused(check_config, changed(name, value))


@MANY
@hypothesis.given(st.sampled_from(sorted(OPTIONS)), JUNK)
@hypothesis.example('checkpoint.every_steps', {'\n': 0})
@hypothesis.example('views.flip', 0.)
@hypothesis.example('views.flip', True)
def test_junk_is_refused_or_of_the_right_kind(name, value):
  """No value makes `check_config` fail otherwise; what it takes has the type."""
  config = changed(name, value)
  value = config_lib.flatten(config).get(name)  # ConfigDict turns True into 1.0
  try:
    config_lib.check_config(config)
  except UserError as error:
    assert '\n' not in str(error)
    return
  kind = type(OPTIONS[name].default)
  if kind is float:
    assert isinstance(value, (int, float)) and value == value
  else:
    assert isinstance(value, (kind, *OPTIONS[name].kinds))
  if isinstance(value, (int, float)) and kind is not bool:
    assert not isinstance(value, bool) and value >= 0


LOWEST = {'num_clusters': 1, 'seed': 0, 'diffusion.num_steps': 2, 'e_step.num_draws': 2,
          'e_step.batch_size': 1, 'm_step.num_steps': 1, 'checkpoint.keep': 1,
          'checkpoint.every_steps': 1, 'log.every_steps': 1, 'em.max_iterations': 1,
          'sample.num_images': 1, 'm_step.gradient_clip': 0}


@pytest.mark.parametrize('name', LOWEST)
def test_least_value(name):
  """The least sensible value is taken, the one below is not."""
  config_lib.check_config(changed(name, LOWEST[name]))
  assert f'config.{name}' in refused(check_config, changed(name, LOWEST[name] - 1))


@pytest.mark.parametrize('name', ['m_step.learning_rate', 'e_step.temperature',
                                  'diffusion.beta_start', 'start.noise'])
def test_zero_is_out_of_open_ranges(name):
  """Rates, temperatures and variances are positive and finite."""
  for value in (0., -1., float('nan'), float('inf'), '1'):
    assert f'config.{name}' in refused(check_config, changed(name, value))


def test_number_of_clusters_may_be_auto():
  """Read back from JSON too; no other word, and nowhere else."""
  config = changed('num_clusters', 'auto')
  config_lib.check_config(config)
  assert config_lib.from_json(config_lib.to_json(config)).num_clusters == 'auto'
  for name, value in (('num_clusters', 'Auto'), ('num_clusters', 2.), ('seed', 'auto')):
    assert f'config.{name}' in refused(check_config, changed(name, value))


@pytest.mark.parametrize('name', [name for name, option in OPTIONS.items()
                                  if type(option.default) is int])
def test_counts_are_what_an_integer_of_jax_holds(name):
  """Beyond 32 bits NumPy and JAX fail, deep within: no option asks for that."""
  message = refused(check_config, changed(name, 2**31))
  assert f'config.{name} = 2147483648' in message and re.search(
      r'at most 2,147,483,647|\.\.2147483647|\.\.4096|one of', message)


def test_a_section_is_no_option():
  """What is in it is not recited; one of its options is named."""
  message = refused(setattr, config_lib.default_config(), 'data', 3)
  assert 'config.data is a section' in message and len(message) < 150


def test_sizes_beyond_what_can_be():
  """Within tuples, too. An image of 100,000 pixels a side would be made for minutes."""
  message = refused(check_config, changed('network.channel_multipliers', (2**31, 8)))
  assert 'at most 2,147,483,647' in message
  for name, value in (('data.image_size', 100_000), ('data.image_size', (16, 4097)),
                      ('data.padding', 4097), ('recognition.max_side', 4097)):
    assert '4096' in refused(check_config, changed(name, value))


def test_integer_for_a_real_number():
  """1 is as good as 1.0."""
  config_lib.check_config(changed('e_step.temperature', 2))


@pytest.mark.parametrize('value', [(True,), (1.5,), (), (0,), 1, ('1',), [[1]]])
def test_bad_multipliers(value):
  """Tuples hold integers of at least 1."""
  assert 'channel_multipliers' in refused(
      check_config, changed('network.channel_multipliers', value))


def test_list_is_a_tuple():
  """JSON knows lists only."""
  config_lib.check_config(changed('network.channel_multipliers', [1, 2]))


def test_num_heads_matter_only_with_attention():
  """Without attention anywhere, the number of heads is free."""
  config = changed('network.num_heads', 3)
  with config.unlocked():
    config.network.middle_attention = False
    config.network.attention_levels = ()
  config_lib.check_config(config)


@pytest.mark.parametrize('changes,named', [
    ({'max_draws': 48}, '64, 128'), ({'max_draws': 32}, '64, 128'),
    ({'max_draws': 64, 'share_draws': False}, 'share_draws'),
    ({'noise': 'antithetic', 'num_draws': 6}, 'multiple of 4')])
def test_draws_that_do_not_fit_together(changes, named):
  """Races need whole replicates and shared draws, antithetic noise halves of pairs."""
  config = config_lib.default_config()
  config.e_step.update(changes)
  assert named in refused(check_config, config)
  config = config_lib.default_config()
  config.e_step.update({'max_draws': 64, 'noise': 'antithetic', 'proposal': 'spread'})
  config_lib.check_config(config)


@MANY
@hypothesis.given(st.sampled_from(sorted(OPTIONS)), st.data())
def test_misspelt_option_is_corrected(name, data):
  """One letter left out: the error names the option meant."""
  leaf = name.split('.')[-1]
  hypothesis.assume(len(leaf) > 4)
  at = len(name) - data.draw(st.integers(1, len(leaf)))
  wrong = name[:at] + name[at + 1:]
  hypothesis.assume(wrong not in OPTIONS)
  text = str(config_lib.unknown_option(wrong))
  assert wrong in text and f'{leaf!r}' in text.replace("'" + name + "'", repr(leaf))


def test_missing_and_unknown_options_are_refused():
  """A config made by hand is checked for completeness."""
  assert 'default_config' in refused(check_config, ml_collections.ConfigDict())
  config = config_lib.default_config()
  with config.unlocked():
    config.m_step.learning_rates = 1.
  assert "'m_step.learning_rate'" in refused(check_config, config)


@MANY
@hypothesis.given(st.integers(1, 50), st.floats(1e-6, 1.), st.booleans(),
                  st.lists(st.integers(1, 4), min_size=1, max_size=4),
                  st.text(max_size=5))
def test_json_round_trip(clusters, rate, labels, multipliers, path):
  """What was written is read back, tuples included."""
  config = config_lib.default_config()
  config.num_clusters, config.m_step.learning_rate = clusters, rate
  config.data.use_labels, config.data.path = labels, path
  config.network.channel_multipliers = tuple(multipliers)
  text = config_lib.to_json(config)
  json.loads(text)
  found = config_lib.from_json(text)
  assert config_lib.flatten(found) == config_lib.flatten(config)
  assert config_lib.differences(found, config) == []


@pytest.mark.parametrize('name', ['sample.seed', 'seed'])
def test_config_of_an_older_version(name):
  """An option that came later: its default, unless results depend on it."""
  stored = json.loads(config_lib.to_json(config_lib.default_config()))
  *section, leaf = name.split('.')
  del (stored[section[0]] if section else stored)[leaf]
  if OPTIONS[name].defines_run:
    with pytest.raises(UserError, match='another version.*it lacks seed'):
      config_lib.from_json(json.dumps(stored))
  else:
    found = config_lib.from_json(json.dumps(stored))
    assert config_lib.flatten(found)[name] == OPTIONS[name].default


def test_a_run_of_before_predicts_noise():
  """Its network and its step size stay what they were; its loss is written there."""
  stored = json.loads(config_lib.to_json(config_lib.default_config()))
  for section, name in (('network', 'prediction'), ('network', 'head'),
                        ('m_step', 'learning_rate_fall')):
    del stored[section][name]
  stored['m_step']['weighting'] = 'uniform'
  found = config_lib.from_json(json.dumps(stored))
  assert (found.network.prediction, found.network.head) == ('noise', 'small')
  assert found.m_step.learning_rate_fall == 0
  assert m_options_of(found).weighting == 'uniform'


def test_weighting_follows_the_prediction():
  """auto: errors in the units of what the network is asked for."""
  noise = {'network.prediction': 'noise'}
  for changes, expected in (({}, 'residual'), (noise, 'uniform'),
                            ({'method': 'cluster_ddpm'}, 'uniform'),
                            ({'m_step.weighting': 'elbo'}, 'elbo')):
    config = config_lib.default_config()
    config.update_from_flattened_dict(changes)
    assert m_options_of(config).weighting == expected
    assert config.m_step.weighting == changes.get('m_step.weighting', 'auto')
  config.update_from_flattened_dict({**noise, 'm_step.weighting': 'residual'})
  assert 'network.prediction' in refused(check_config, config)


def test_differences_are_of_options_that_define_the_run():
  """Only these are listed, each with both values."""
  free = {
      'num_devices', 'data.workers', 'checkpoint.every_steps', 'checkpoint.keep',
      'checkpoint.every_seconds',
      'log.every_steps', 'data.path', 'data.labels', 'data.labels_path',
      'data.metadata', 'data.label_key', 'programs.folder', 'programs.limit_mb',
      'data.use_labels', 'data.unreadable', 'data.pipeline', 'data.memory_limit_mb',
      'data.embeddings', 'effort', 'start.repeats',
      *(f'sample.{name}' for name in config_lib.OPTIONS['sample']),
      *(f'quality.{name}' for name in config_lib.OPTIONS['quality']),
      *(f'predict.{name}' for name in config_lib.OPTIONS['predict']),
      *(f'restore.{name}' for name in config_lib.OPTIONS['restore']),
      'distributed.coordinator', 'distributed.num_processes', 'distributed.process_id'}
  assert {n for n, option in OPTIONS.items() if not option.defines_run} == free
  old = config_lib.default_config()
  for name, option in OPTIONS.items():
    if type(option.default) is not int:
      continue
    found = config_lib.differences(old, changed(name, option.default + 2))
    assert len(found) == (name not in free and option.read_by('cddpm'))
    assert all(f'config.{name}: {option.default}' in line
               and str(option.default + 2) in line for line in found)


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('*.py')),
                         ids=lambda path: path.name)
def test_config_files_load(path):
  """Every file of configs/ is a valid config and says how to run it."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config_lib.check_config(module.get_config())
  assert f'--config=configs/{path.name}' in module.__doc__


def test_levels_and_methods_of_options():
  """Each is for somebody, and is read by a method; a text stands alone."""
  methods = set(METHODS)
  for name, option in OPTIONS.items():
    assert option.level in config_lib.LEVELS
    assert set(option.methods) < methods or not option.methods
    assert len(option.meaning.split()) >= 3, name
    assert not option.meaning.startswith(
        ('which ', 'and ', 'their ', 'its ', 'of ')), name


UNREAD = {'cluster_ddpm': ('diffusion.pull', 'zero'), 'cddpm': ('latent.size', 3),
          'latent_cddpm': ('network.conditioning', 'concatenated'),
          'sr3': ('posterior.anchor', .5)}


@pytest.mark.parametrize('method', UNREAD)
def test_options_that_a_method_does_not_read(method):
  """They are warned about by name, and bind no workdir."""
  name, value = UNREAD[method]
  config, plain = config_lib.default_config(), config_lib.default_config()
  config.method = plain.method = method
  assert config_lib.cautions(config) == []
  config.update_from_flattened_dict({name: value})
  line, = config_lib.cautions(config)
  assert f'config.{name} = {value!r} has no effect' in line and repr(method) in line
  assert config_lib.differences(plain, config) == []
  plain.method = config.method = next(iter(OPTIONS[name].methods))
  assert len(config_lib.differences(plain, config)) == 1


def test_config_json_of_before():
  """Old names are read; a constant that had another value is refused by name."""
  stored = json.loads(config_lib.to_json(config_lib.default_config()))
  start = stored.pop('start')
  stored['em'] |= {'init': 'kmeans', 'min_cluster_size': 1., **{
      f'init_{name}': value for name, value in start.items()
      if name not in ('kind', 'embeddings_distance', 'repeats')}}
  low, high = stored['posterior'].pop('noise_range')
  stored['posterior'] |= {'noise_low': low, 'noise_high': .7, 'transform_denoised': False}
  config = config_lib.from_json(json.dumps(stored))
  assert config.start.kind == 'kmeans' and config.start.restarts == start['restarts']
  assert config.posterior.noise_range == (low, .7)
  stored['em']['min_cluster_size'] = 2.
  message = refused(config_lib.from_json, json.dumps(stored))
  assert 'em.min_cluster_size = 2.0' in message and '1.0' in message


def test_a_run_of_before_recognition_is_read():
  """It lacks the whole section, which its start does not read."""
  stored = json.loads(config_lib.to_json(config_lib.default_config()))
  del stored['recognition']
  stored['start']['kind'] = 'neighbours'
  config = config_lib.from_json(json.dumps(stored))
  assert config.start.kind == 'neighbours'
  assert config.recognition == config_lib.default_config().recognition


def test_spaces_of_images_with_embeddings():
  """They alone, unless spaces are named; a run that goes on has those that it began with.
  """
  config, named = config_lib.default_config(), ('pixels', 'embeddings')
  plain = config.start.spaces
  assert config_lib.spaces_for(config, False) == plain
  assert config_lib.spaces_for(config, True) == ('embeddings',)
  fitted = changed('start.spaces', ('embeddings',))
  config_lib.settle_like(fitted, config)
  assert config.start.spaces == ('embeddings',)
  config = changed('start.spaces', named)
  assert config_lib.spaces_for(config, True) == named
  config_lib.settle_like(fitted, config)
  assert config.start.spaces == named
  assert 'names embeddings' in refused(config_lib.spaces_for, config, False)
  best = changed('start.kind', 'best')
  assert config_lib.spaces_for(best, True) == ('embeddings',)
  best.start.candidates = ('kmeans',)
  assert 'no effect' in refused(config_lib.spaces_for, best, True)


def test_a_run_resizes_as_it_began():
  """Runs that lack the options kept the middle, or each picture's own ground; what is
  named is compared."""
  stored = json.loads(config_lib.to_json(config_lib.default_config()))
  del stored['data']['fit'], stored['data']['ground']
  fitted = config_lib.from_json(json.dumps(stored))
  assert (fitted.data.fit, fitted.data.ground) == ('crop', 'own')
  config = config_lib.default_config()
  config_lib.settle_like(fitted, config)
  assert config_lib.differences(fitted, config) == []
  config = changed('data.fit', 'pad')
  config_lib.settle_like(fitted, config)
  assert config.data.fit == 'pad' and config.data.ground == 'own'
  assert len(config_lib.differences(fitted, config)) == 1


def test_symmetries_of_a_run_of_before():
  """Runs that lack the options made no such views; what is left to the images is as a run
  has it, what is given stays."""
  stored = json.loads(config_lib.to_json(config_lib.default_config()))
  stored['views']['flip'] = .5
  for name in ('upside_down', 'quarter_turns'):
    del stored['views'][name]
  fitted = config_lib.from_json(json.dumps(stored))
  assert [config_lib.flatten(fitted)[name] for name in config_lib.SYMMETRIES] == [
      .5, 0., 0.]
  config = config_lib.default_config()
  config.views.upside_down = .25
  config_lib.settle_like(fitted, config)
  assert config_lib.differences(fitted, config) == [
      'config.views.upside_down: 0.0 there, 0.25 now']
  assert 'auto' in refused(check_config, changed('views.flip', 'Auto'))


def test_a_copy_is_of_its_own():
  """Sections too; an automatic number may become a number."""
  config = config_lib.default_config()
  config.num_clusters = 'auto'
  copy = config_lib.copied(config)
  copy.num_clusters, copy.views.flip = 7, .5
  assert (config.num_clusters, config.views.flip) == ('auto', 'auto')


def test_assignments_that_mean_an_option():
  """NumPy's numbers and paths are what they stand for; JSON can hold them."""
  config = config_lib.default_config()
  config.seed, config.views.flip = np.int64(3), np.float32(.5)
  config.data.use_labels, config.data.path = np.bool_(False), pathlib.Path('a') / 'b'
  config.num_clusters, config.data.image_size = np.int32(7), (16, 24)
  assert json.loads(config_lib.to_json(config))['data']['image_size'] == [16, 24]
  found = config_lib.from_json(config_lib.to_json(config))
  assert config_lib.flatten(found) == config_lib.flatten(config)
  assert (found.seed, found.views.flip, found.data.path) == (3, .5, 'a/b')


@pytest.mark.parametrize('section, name, value, fragments', [
    ('', 'num_cluster', 3, ['num_cluster', "'num_clusters'"]),
    ('em', 'init', 'kmeans', ['config.em.init is called config.start.kind now']),
    ('posterior', 'noise_low', .1, ['part of config.posterior.noise_range']),
    ('data', 'max_imags', 3, ['max_imags', "'max_images'"]),
    ('', 'seed', [3], ['seed = [3]', 'int']),
    ('views', 'shift', 'x', ["shift = 'x'", 'float'])])
def test_assignments_that_mean_none(section, name, value, fragments):
  """One line that names the option meant, or the type."""
  config = config_lib.default_config()
  with pytest.raises(UserError) as caught:
    setattr(config[section] if section else config, name, value)
  assert '\n' not in str(caught.value)
  assert all(fragment in str(caught.value) for fragment in fragments)


@pytest.mark.parametrize('num_images, visits, asked, steps', [
    (5, 400, (300, 600), (50, 50)), (60, 400, (300, 600), (188, 188)),
    (150, 400, (300, 600), (300, 469)), (5000, 400, (300, 600), (300, 600)),
    (5, 0, (300, 600), (300, 600)), (5, 400, (20, 0), (20, 0))])
def test_steps_follow_the_collection(num_images, visits, asked, steps):
  """ceil(visits N / B) steps of B = 128, at least 50, and no more than asked for."""
  config = config_lib.default_config()
  config.m_step.most_visits = visits
  config.m_step.num_steps, config.m_step.first_num_steps = asked
  found = config_lib.for_collection(config, num_images)
  assert (found.m_step.num_steps, found.m_step.first_num_steps) == steps
  assert (config.m_step.num_steps, config.m_step.first_num_steps) == asked
  assert config_lib.flatten(config_lib.for_collection(found, num_images)) == (
      config_lib.flatten(found))


@pytest.mark.parametrize('name, options', [
    ('n_clusters', ['num_clusters']), ('lr', ['m_step.learning_rate']),
    ('batch_size', ['m_step.batch_size', 'e_step.batch_size', 'sample.batch_size']),
    ('data.folder', ['data.path']), ('views.rotate', ['views.rotation']), ('xyzzy', [])])
def test_unknown_options_are_guessed(name, options):
  """What other programs call them, and of which section; nothing where nothing fits."""
  message = str(config_lib.unknown_option(name))
  assert ('Did you mean' in message) == bool(options)
  assert all(repr(option) in message and option in OPTIONS for option in options)
