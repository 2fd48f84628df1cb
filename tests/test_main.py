"""The command line: every mistake gets one line that says what to do."""

import contextlib
import io
import os
import pathlib
import shlex
import signal
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import jdiffclust
from jdiffclust import config as config_lib, main
from jdiffclust.clustering import method
from jdiffclust.errors import UserError
from jdiffclust.workdir import workdir_lock
from tests.helpers import refused

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = f'--config={ROOT}/configs/digits.py'
FEW = '--config.data.max_images=60'
LEVELS_3 = '--config.network.channel_multipliers=(1,1,1)'
LEVELS_4 = '--config.network.channel_multipliers=(1,1,1,1)'
LEVELS_5 = '--config.network.channel_multipliers=(1,1,1,1,1)'


def command(*argv):
  """Runs a command line in this process; returns its code, stdout and stderr."""
  def unused(*args):
    built = method.build(*args)
    built.init_state = mock.Mock(side_effect=AssertionError('the mistake is not noticed'))
    return built

  argv = ['jdiffclust', *map(str, argv)]
  out, err = io.StringIO(), io.StringIO()
  with (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
        mock.patch.object(sys, 'argv', argv)):
    code = main.run(argv, build=unused)
  return code, out.getvalue(), err.getvalue()


def test_a_quick_run_that_was_moved_goes_on_where_it_is():
  """By the command that it was made by, of whatever folder that told."""
  before = "jdiffclust 'my pics' --workdir=old --config.effort=quick --config.seed=1"
  goes_on = lambda command: shlex.split(main.with_full_effort(
      command, pathlib.Path('new place')))
  wanted = ['jdiffclust', 'my pics', '--config.seed=1', '--workdir=new place',
            '--config.effort=full']
  assert goes_on(before) == wanted
  assert goes_on(before.replace('--workdir=', '--workdir ')) == wanted
  assert '--workdir=old' in main.with_full_effort(before)


def check_refused(outcome, *fragments):
  """Asserts exit code 2 and one line on stderr that has all the fragments."""
  code, out, err = outcome
  assert code == 2 and out == ''
  assert err.startswith('error: ') and err.endswith('\n') and err.count('\n') == 1, err
  for fragment in fragments:
    assert fragment in err, err


MISTAKES = {
    'missing config': (['--config=configs/digit.py'], ["'configs/digits.py'"]),
    'config is a folder': ([f'--config={ROOT}/configs'], ['cannot be read']),
    'no config': ([], ['--config is missing', 'configs/digits.py']),
    'empty config': (['--config='], ['config']),
    'unknown option': ([DIGITS, '--config.num_cluster=3'], ["'num_clusters'"]),
    'unknown nested': ([DIGITS, '--config.m_step.learning_rat=1'],
                       ["'m_step.learning_rate'"]),
    'wrong section': ([DIGITS, '--config.learning_rate=1'], ['learning_rate']),
    'section as option': ([DIGITS, '--config.m_step=3'], ['m_step']),
    'integer as text': ([DIGITS, '--config.num_clusters=ten'], ['num_clusters', 'ten']),
    'integer as real': ([DIGITS, '--config.num_clusters=2.5'], ['num_clusters', '2.5']),
    'flag as number': ([DIGITS, '--config.data.use_labels=7'], ['use_labels']),
    'tuple of text': ([DIGITS, "--config.network.channel_multipliers=('a',)"],
                      ['channel_multipliers']),
    'no value': ([DIGITS, '--config.num_clusters'], ['num_clusters', 'VALUE']),
    'out of range': ([DIGITS, '--config.m_step.learning_rate=-1'],
                     ['m_step.learning_rate', '(0, 10]']),
    'not a number': ([DIGITS, '--config.m_step.learning_rate=nan'],
                     ['m_step.learning_rate', '(0, 10]']),
    'huge seed': ([DIGITS, '--config.seed=2147483648'], ['seed', '2147483647']),
    'choice': ([DIGITS, '--config.diffusion.betas=cosin'],
               ['diffusion.betas', "'cosine'"]),
    'no clusters': ([DIGITS, '--config.num_clusters=0'], ['num_clusters', '>= 1']),
    'too many clusters': ([DIGITS, FEW, '--config.num_clusters=61'],
                          ['num_clusters = 61', '60 images', '1..60']),
    'another word': ([DIGITS, '--config.num_clusters=automatic'],
                     ["'automatic'", "'auto'"]),
    'range of one': ([DIGITS, '--config.em.auto_clusters=(3,)'],
                     ['auto_clusters', 'LOW']),
    'falling range': ([DIGITS, '--config.em.auto_clusters=(5, 5)'], ['LOW < HIGH']),
    'range from one': ([DIGITS, '--config.em.auto_clusters=(1, 5)'], ['2 <= LOW']),
    'wide range': ([DIGITS, FEW, '--config.num_clusters=auto',
                    '--config.em.auto_clusters=(2, 30)'],
                   ['auto_clusters = (2, 30)', 'below 30']),
    'option of before': ([DIGITS, '--config.quality.neighbours=3'],
                         ['quality.neighbours', 'no option any more', '5']),
    'half of a pair': ([DIGITS, '--config.posterior.noise_low=.2'],
                       ['noise_low', 'posterior.noise_range']),
    'falling pair': ([DIGITS, '--config.posterior.noise_range=(.5, .4)'],
                     ['noise_range = (0.5, 0.4)', 'LOW < HIGH']),
    'unknown mode': ([DIGITS, '--mode=evalute'], ["'evaluate'", 'fit, predict']),
    'unknown flag': ([DIGITS, '--quite'], ["'quiet'"]),
    'option as flag': ([DIGITS, '--n_clusters=3'], ['--config.num_clusters']),
    'stray argument': ([DIGITS, 'digits'], ["'digits'", '--NAME=VALUE']),
    'single dash': ([DIGITS, '-x'], ['x']),
    'too many devices': ([DIGITS, '--config.num_devices=9'],
                         ['num_devices = 9', '1..8']),
    'E-step batch': ([DIGITS, '--config.e_step.batch_size=12'],
                     ['e_step.batch_size = 12', '8 devices']),
    'M-step batch': ([DIGITS, '--config.num_devices=3'],
                     ['batch_size', 'multiple of the 3 devices']),
    'odd draws': ([DIGITS, '--config.e_step.num_draws=5'], ['num_draws = 5', 'even']),
    'odd predict draws': ([DIGITS, '--config.predict.num_draws=5'], ['even']),
    'too deep': ([DIGITS, LEVELS_5], ['too deep', '8x8', '5 levels']),
    'indivisible': ([DIGITS, LEVELS_3, '--config.data.padding=1'],
                    ['10x10', '--config.data.padding=2']),
    'indivisible, odd': ([DIGITS, LEVELS_4, '--config.data.image_size=9'],
                         ['9x9', '--config.data.image_size', 'multiple of 8']),
    'attention level': ([DIGITS, '--config.network.attention_levels=(2,)'],
                        ['attention_levels', 'level 2', '0..1']),
    'groups': ([DIGITS, '--config.network.num_groups=5'], ['num_groups = 5', '16']),
    'heads': ([DIGITS, '--config.network.num_heads=3'], ['num_heads = 3', '32']),
    'falling betas': ([DIGITS, '--config.diffusion.beta_start=.5'], ['beta_start']),
    'steep betas': ([DIGITS, '--config.diffusion.num_steps=20'], ['beta_20', '(0, 1)']),
    'pull': ([DIGITS, '--config.diffusion.pull=cdiffuse'],
             ["'cdiffuse'", 'first at t = ', '--config.diffusion.pull=']),
    'sample cluster': ([DIGITS, '--config.sample.clusters=(0,10)'],
                       ['cluster 10', '0..9']),
    'process number': ([DIGITS, '--config.distributed.process_id=1'], ['process_id']),
    'no coordinator': ([DIGITS, '--config.distributed.num_processes=2'],
                       ['coordinator', 'host:port']),
    'no such data': ([DIGITS, '--config.data.source=npz',
                      '--config.data.path=nowhere.npz'], ['nowhere.npz']),
    'one image': ([DIGITS, '--config.data.max_images=1'], ['max_images']),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistake_is_refused_in_one_line(name, tmp_path):
  """Exit code 2, one line naming the option and the remedy, and no workdir."""
  argv, fragments = MISTAKES[name]
  workdir = tmp_path / 'run'
  check_refused(command(*argv, f'--workdir={workdir}'), *fragments)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('argv', [[DIGITS], [DIGITS, '--workdir=']])
def test_missing_workdir(argv):
  """--workdir is asked for."""
  check_refused(command(*argv), '--workdir is missing')


def test_first_bad_step_of_a_pull_is_named(tmp_path):
  """The error of an invalid pull names the first t, found here from its variances."""
  outcome = command(DIGITS, '--config.diffusion.pull=cdiffuse',
                    f'--workdir={tmp_path}/w')
  steps = 200
  alpha = 1 - np.concatenate([[0], np.linspace(1e-4, .02, steps) * 1000 / steps])
  abar = np.cumprod(alpha)
  m = np.sqrt((1 - abar) / np.sqrt(abar))
  t = 0
  while m[t] < 1 and (t == 0 or 1 - abar[t] > m[t]**2 * abar[t]):
    t += 1
  check_refused(outcome, f'first at t = {t} ')


def test_padding_that_the_message_proposes_is_accepted(tmp_path):
  """The message names padding=2; with it only the next mistake is left to report."""
  outcome = command(DIGITS, LEVELS_3, '--config.data.padding=2',
                    '--config.num_clusters=2000', f'--workdir={tmp_path}/w')
  check_refused(outcome, '2000', '1797')


def test_discretized_decoder_needs_levels(tmp_path):
  """Real-valued images have no levels."""
  images = np.random.default_rng(0).uniform(-1, 1, (20, 8, 8)).astype(np.float32)
  np.savez(tmp_path / 'x.npz', images=images)
  outcome = command(DIGITS, '--config.data.source=npz', f'--workdir={tmp_path}/w',
                    f'--config.data.path={tmp_path}/x.npz',
                    '--config.diffusion.decoder=discretized')
  check_refused(outcome, 'discretized', 'gaussian')
  assert not (tmp_path / 'w').exists()


def test_workdir_is_a_file(tmp_path):
  """A file is not overwritten."""
  (tmp_path / 'file').write_text('mine')
  check_refused(command(DIGITS, FEW, f'--workdir={tmp_path}/file'), 'is a file')
  check_refused(command(DIGITS, FEW, f'--workdir={tmp_path}/file/below'), 'file')
  assert (tmp_path / 'file').read_text() == 'mine'


def test_workdir_that_cannot_be_made(tmp_path):
  """The system's reason is given."""
  denied = mock.patch.object(pathlib.Path, 'mkdir', side_effect=PermissionError(
      13, 'Permission denied'))
  with denied:
    check_refused(command(DIGITS, FEW, f'--workdir={tmp_path}/w'), 'ermission')


@pytest.mark.parametrize('mode', ['predict', 'sample', 'evaluate'])
@pytest.mark.parametrize('config', [(), (DIGITS,)])
def test_modes_need_a_fit(mode, config, tmp_path):
  """Without config.json, a fit is proposed, runs are named and no folder made."""
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'config.json').write_text('{}')
  outcome = command(*config, f'--mode={mode}', f'--workdir={tmp_path}/w')
  check_refused(outcome, f'jdiffclust FOLDER --workdir={tmp_path}/w',
                f'{tmp_path}/other')
  assert list(tmp_path.iterdir()) == [tmp_path / 'other']


def test_a_part_of_a_run(tmp_path):
  """Its folder is told."""
  (tmp_path / 'config.json').write_text('{}')
  (tmp_path / 'checkpoints').mkdir()
  for name in ('config.json', 'checkpoints/9'):
    check_refused(command('--mode=decide', f'--workdir={tmp_path}/{name}'),
                  f'give --workdir={tmp_path}.')


@pytest.mark.parametrize('mode', ['predict', 'sample', 'evaluate'])
def test_modes_need_a_checkpoint(mode, tmp_path):
  """A config.json alone is no fit."""
  text = config_lib.to_json(config_lib.default_config())
  (tmp_path / 'config.json').write_text(text)
  check_refused(command(f'--mode={mode}', f'--workdir={tmp_path}'), 'no checkpoint')


@pytest.mark.parametrize('name', ['config.json', 'clusters.csv'])
def test_files_of_a_run_that_may_not_be_read(name, tmp_path):
  """They are named, and what is to be changed."""
  config = config_lib.default_config()
  config.num_clusters = 3
  (tmp_path / 'config.json').write_text(config_lib.to_json(config))
  (tmp_path / 'clusters.csv').write_text('cluster,name\n0,cats\n')
  read = pathlib.Path.read_bytes

  def refused(path):
    if path.name == name:
      raise PermissionError(13, 'Permission denied', str(path))
    return read(path)

  with mock.patch.object(pathlib.Path, 'read_bytes', refused), mock.patch(
      'jdiffclust.deciding.write_decided', lambda folder, _: refused(folder / name)):
    outcome = command('--mode=decide', f'--workdir={tmp_path}')
  check_refused(outcome, str(tmp_path / name), 'permissions')


def test_a_folder_where_a_file_is_written(tmp_path):
  """It is named, whatever file it is."""
  (tmp_path / 'config.json').write_text(config_lib.to_json(config_lib.default_config()))
  (tmp_path / '.lock').mkdir()
  check_refused(command('--mode=decide', f'--workdir={tmp_path}'), f'{tmp_path}/.lock',
                'Rename it')


def test_two_of_one_mode(tmp_path):
  """The second is refused before it writes, the list of its images included."""
  (tmp_path / 'config.json').write_text(config_lib.to_json(config_lib.default_config()))
  images = [tmp_path / 'a.png', tmp_path / 'b.png']
  for path in images:
    Image.new('L', (8, 8)).save(path)
  with workdir_lock(tmp_path, mode='predict'):
    outcome = command(*images, '--mode=predict', f'--workdir={tmp_path}')
  check_refused(outcome, f'--mode=predict (process {os.getpid()})', 'wait')
  assert not (tmp_path / 'files_new.json').exists()


@pytest.mark.parametrize('text', ['{"num_clusters": 1', '', '[1, 2]', 'null', '3',
                                  '{"num_clusters": "ten"}', '{"nonsense": 1}',
                                  '{"m_step": 3}', '\x00\x01'])
@pytest.mark.parametrize('mode', ['fit', 'evaluate', 'predict', 'sample'])
def test_damaged_config_json(mode, text, tmp_path):
  """What config.json should not be is refused, and left as it is."""
  (tmp_path / 'config.json').write_text(text)
  check_refused(command(DIGITS, FEW, f'--mode={mode}', f'--workdir={tmp_path}'))
  assert [p.name for p in tmp_path.iterdir()] == ['config.json']
  assert (tmp_path / 'config.json').read_text() == text


def test_changed_config_names_what_differs(tmp_path):
  """Options that define the run are compared with config.json, others are not."""
  stored = config_lib.default_config()
  (tmp_path / 'config.json').write_text(config_lib.to_json(stored))
  outcome = command(DIGITS, '--config.seed=5', '--config.log.every_steps=1',
                    f'--workdir={tmp_path}')
  check_refused(outcome, 'config.seed: 0 there, 5 now', 'config.network.channels: 32')
  assert 'log.every_steps' not in outcome[2]


def test_second_run_on_a_workdir_is_refused(tmp_path):
  """The process that holds the lock is named; nothing is written."""
  with workdir_lock(tmp_path):
    outcome = command(DIGITS, FEW, '--quiet', f'--workdir={tmp_path}')
  check_refused(outcome, f'process {os.getpid()}', '--workdir')
  assert [p.name for p in tmp_path.iterdir()] == ['.lock']


DEFAULT = """from jdiffclust.config import default_config
def get_config():
  c = default_config()
  c.%s
  return c
"""
WRONG_FILES = {
    'syntax': 'def get_config(:\n',
    'unknown option': DEFAULT % 'sead = 1',
    'type': DEFAULT % 'seed = "x"',
    'range': DEFAULT % 'num_clusters = 0',
    'empty': '',
    'name': 'def get_config():\n  return nonsense\n',
    'none': 'def get_config():\n  return None\n',
    'dict': 'def get_config():\n  return {}\n',
    'import': 'import nonsense\n',
    'division': '1 / 0\n',
    'section': DEFAULT % 'data = 3',
    'exit': 'raise SystemExit(3)\n',
    'own': 'import ml_collections\nget_config = ml_collections.ConfigDict\n',
}


@pytest.mark.parametrize('name', WRONG_FILES)
def test_config_file_that_is_wrong(name, tmp_path):
  """A mistake in the user's own config file is one line, too."""
  path = tmp_path / 'mine.py'
  path.write_text(WRONG_FILES[name])
  main.parse(['jdiffclust', DIGITS, '--workdir=w'])  # nothing of it stays behind
  check_refused(command(f'--config={path}', f'--workdir={tmp_path}/w'))
  assert not (tmp_path / 'w').exists()


def test_arguments_are_those_given():
  """`run` parses its own argument, not sys.argv."""
  argv = ['jdiffclust', DIGITS, '--config.seed=7', '--workdir=w', '--quiet']
  with mock.patch.object(sys, 'argv', ['pytest']):
    config, workdir, mode, quiet, _ = main.parse(argv)
  assert (config.seed, str(workdir), mode, quiet) == (7, 'w', 'fit', True)


def test_options_in_two_words():
  """--config.NAME VALUE means what --config.NAME=VALUE means, or is refused."""
  try:
    argv = ['jdiffclust', DIGITS, '--config.seed', '7', '--workdir=w']
    with mock.patch.object(sys, 'argv', argv):
      config, *_ = main.parse(argv)
  except main.UserError as error:
    assert '--config.seed=VALUE' in str(error)
  else:
    assert config.seed == 7


def test_last_of_two_values_counts():
  """An option given twice has its last value."""
  argv = ['jdiffclust', DIGITS, '--config.seed=7', '--config.seed=8', '--workdir=w']
  with mock.patch.object(sys, 'argv', argv):
    assert main.parse(argv)[0].seed == 8


@pytest.mark.parametrize('flag', ['--help', '-h', 'help', '--helpfull', '--help=all'])
def test_help_names_the_options(flag):
  """--help lists what a person needs, --help=all every option, on stdout."""
  code, out, err = command(flag)
  assert code == 0 and err == ''
  told = ' '.join(out.split())  # lines are broken anywhere
  for name, option in config_lib.options():
    line = ' '.join(f' {name} [{option.default!r}] {option.meaning};'.split())
    assert (f' {line}' in told) == (option.level == 'person' or 'all' in flag
                                    or 'full' in flag)
  shown = sum(option.level == 'person' for _, option in config_lib.options())
  assert 25 <= shown <= 45


def test_version_and_nothing():
  """Either spelling tells the version; a bare command says how to begin."""
  for word in ('--version', 'version'):
    assert command(word) == (0, f'jdiffclust {jdiffclust.__version__}\n', '')
  check_refused(command(), 'jdiffclust FOLDER', '--help')


def test_a_mistake_is_answered_without_jax():
  """What a command says of itself and of mistakes needs none of the slow libraries."""
  code = ('import sys; from jdiffclust import main; '
          'code = main.run(["", "--config=nowhere.py", "--workdir=w"]); '
          'sys.exit(code if not {"jax", "sklearn", "flax"} & set(sys.modules) else 9)')
  assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True,
                        timeout=60).returncode == 2


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_stopped_before_it_begins(number):
  """At once, wherever an import is; what is to be ignored is."""
  handler = 'default_int_handler' if number == signal.SIGINT else 'SIG_DFL'
  default = f'signal.signal({int(number)}, signal.{handler}); '
  code = ('import os, sys, signal, time; {}from jdiffclust import main; '
          'main.prepare_process(); os.kill(os.getpid(), int(sys.argv[1])); '
          'time.sleep(.1); print("goes on")')
  run = lambda before: subprocess.run(
      [sys.executable, '-c', code.format(before), str(int(number))], cwd=ROOT,
      capture_output=True, text=True, timeout=60)
  done = run(default)  # a shell has jobs in its background ignore Ctrl-C
  assert (done.returncode, done.stdout, done.stderr) == (128 + number, '', 'stopped\n')
  assert run(f'signal.signal({int(number)}, signal.SIG_IGN); ').stdout == 'goes on\n'


@pytest.mark.parametrize('words, fragments', [
    ([DIGITS, '--config=folder'], ['--config is given 2 times', 'folder.py']),
    ([DIGITS, '--flagfile=x'], ['--flagfile is not read'])])
def test_flags_that_cannot_be(words, fragments):
  """Of absl's own lines one spoke of its files, the other was a traceback."""
  said = refused(main.parse, ['jdiffclust', *words, '--workdir=w'])
  assert all(fragment in said for fragment in fragments)


def test_old_names_of_options():
  """They mean the new ones, and a line says so."""
  argv = ['jdiffclust', DIGITS, '--config.em.init=kmeans', '--workdir=w']
  err = io.StringIO()
  with mock.patch.object(sys, 'argv', argv), contextlib.redirect_stderr(err):
    config, *_ = main.parse(argv)
  assert config.start.kind == 'kmeans'
  assert err.getvalue() == 'warning: config.em.init is called config.start.kind now.\n'


def test_what_is_of_the_fit_is_not_of_new_images(tmp_path):
  """Classes, tables and vectors of the fit's; of the same images they are."""
  config = config_lib.default_config()
  config.data.update({'source': 'idx', 'path': 'old-images-idx3-ubyte', 'max_images': 9,
                      'labels_path': 'old', 'labels': 'old.csv', 'metadata': 'old.csv',
                      'embeddings': 'old.npy'})
  (tmp_path / 'config.json').write_text(config_lib.to_json(config))
  words = ['jdiffclust', '--mode=predict', f'--workdir={tmp_path}']
  names = ('max_images', 'labels_path', 'labels', 'metadata', 'embeddings')
  of = lambda *more: [main.parse([*words, *more])[0].data[name] for name in names]
  assert of() == [9, 'old', 'old.csv', 'old.csv', 'old.npy']
  new = '--config.data.path=new-images-idx3-ubyte'
  assert of(new) == [0, '', '', '', '']
  assert of(new, '--config.data.labels_path=new') == [0, 'new', '', '', '']


def test_import_leaves_the_process_alone():
  """Only the command sets environment variables and the memory's ways."""
  code = ('import os, ctypes; before = dict(os.environ); import jdiffclust.main; '
          'from jdiffclust import memory; '
          'assert dict(os.environ) == before, set(os.environ) ^ set(before)')
  environment = {name: value for name, value in os.environ.items()
                 if name not in ('TF_CPP_MIN_LOG_LEVEL', 'GRPC_VERBOSITY')}
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True, timeout=60,
                 env=environment)


def test_module_runs_as_a_script(tmp_path):
  """`python -m jdiffclust.main` passes on the exit code, without a traceback."""
  done = subprocess.run(
      [sys.executable, '-m', 'jdiffclust.main', DIGITS, '--config.num_clusters=0',
       f'--workdir={tmp_path}/w'], cwd=ROOT, capture_output=True, text=True,
      timeout=60)
  check_refused((done.returncode, done.stdout, done.stderr), 'num_clusters')


def started(*args, **kwargs):
  """A command line as a process of its own."""
  return subprocess.run([sys.executable, '-m', 'jdiffclust.main', *args], cwd=ROOT,
                        timeout=60, check=False, **kwargs)


@pytest.mark.parametrize('stream', ['stdout', 'stderr'])
@pytest.mark.parametrize('how', ['gone', 'closed'])
def test_nobody_reads_the_output(stream, how):
  """A mistake keeps its code; what was to be told ends with 141, not in a traceback."""
  number, others = {'stdout': (1, {'stderr': subprocess.PIPE}),
                    'stderr': (2, {'stdout': subprocess.PIPE})}[stream]
  for args, code in ((['--help'], 141), (['--bad'], 2)):
    if how == 'closed':
      command = shlex.join([sys.executable, '-m', 'jdiffclust.main', *args])
      done = subprocess.run(['sh', '-c', f'exec {command} {number}>&-'], cwd=ROOT,
                            timeout=60, check=False, **others)
    else:
      ours, theirs = os.pipe()
      os.close(ours)
      done = started(*args, **{stream: theirs}, **others)
      os.close(theirs)
    said = done.stderr if stream == 'stdout' else done.stdout
    assert b'Traceback' not in said
    wrote_there = (args == ['--help']) == (stream == 'stdout')
    assert done.returncode == (code if wrote_there or code == 2 else 0)


def test_an_encoding_that_lacks_a_letter():
  """It is written by its number; the command goes on."""
  done = started('--mode=sample', '--workdir=ä', capture_output=True,
                 env={**os.environ, 'PYTHONIOENCODING': 'ascii'})
  assert done.returncode == 2 and b'Traceback' not in done.stderr
  assert b"'\\xe4' has no fitted model" in done.stderr


@pytest.mark.parametrize('config, argument', [
    ('digits', '--config={}'), ('digits', '--workdir={}'),
    ('folder', '--config.data.path={}')])
def test_names_that_are_too_long(config, argument, tmp_path):
  """One line, as for any other file that is not there."""
  outcome = command(f'--config={config}', f'--workdir={tmp_path}/w',
                    argument.format('x' * 300))
  check_refused(outcome, 'x' * 300)


def test_a_config_in_two_words_and_after_its_options():
  """What people write besides --config=FILE first."""
  for args in (['--config', 'digits', '--config.seed=3', '--workdir=w'],
               ['--config.seed=3', '--workdir=w', '--config=digits']):
    config, workdir, mode, *_ = main.parse(['', *args])
    assert (config.seed, str(workdir), mode) == (3, 'w', 'fit')
    assert config.data.source == 'digits'


def test_a_dry_run_needs_no_folder_that_may_be_written(tmp_path):
  """It tells what would be done, of a run on a disk that is read-only, too."""
  with main.held_for('sort', tmp_path / 'locked', writes=False):
    assert not (tmp_path / 'locked').exists()
  with pytest.raises(UserError, match='Nothing can be written'):
    main.held_for('sort', tmp_path / 'locked')
