"""The number of devices and processes does not change the result."""

import socket

import numpy as np

from tests.helpers import wait_for


def responsibilities(workdir):
  """tau of a fit."""
  return np.load(workdir / 'responsibilities.npy')


def test_several_devices(commands, tmp_path):
  """The pilot, antithetic noise and races: 8 virtual devices agree with 1. (Without races
  this is of the tests of 2 below.)"""
  options = ('e_step.proposal=spread', 'e_step.noise=antithetic', 'e_step.max_draws=16',
             'em.max_iterations=1')
  for devices in (1, 8):
    outcome = commands.fit(tmp_path / str(devices), f'num_devices={devices}', *options)
    assert outcome.code == 0, outcome.err
    assert f'{devices} cpu device(s)' in outcome.err
  np.testing.assert_allclose(responsibilities(tmp_path / '8'),
                             responsibilities(tmp_path / '1'), atol=1e-3)


def test_resume_on_other_devices(commands, plain, tmp_path, monkeypatch):
  """Begun on 2 devices, ended on 1."""
  def interrupt(*args):
    raise KeyboardInterrupt
  with monkeypatch.context() as patch:
    patch.setattr('jdiffclust.training.loop.Fitter.e_phase', interrupt)
    assert commands.fit(tmp_path, 'num_devices=2').code == 130
  outcome = commands.fit(tmp_path)
  assert outcome.code == 0 and 'Resuming from checkpoint' in outcome.err
  np.testing.assert_allclose(responsibilities(tmp_path), responsibilities(plain),
                             atol=1e-3)


def spawn_two(commands, tmp_path, *options, of_second=()):
  """Starts two processes of one CPU device each; their logs are log0 and log1."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  return [commands.spawn(
      tmp_path / 'two', 'num_devices=0', f'distributed.coordinator=localhost:{port}',
      'distributed.num_processes=2', f'distributed.process_id={i}', *options,
      *(of_second if i else ()),
      log=tmp_path / f'log{i}') for i in range(2)]


def test_two_processes(commands, plain, tmp_path):
  """Two processes of one CPU device each, whose images Grain deals out, end with the
  result of one process. (Of images in memory this is test_cluster_ddpm's.)"""
  processes = spawn_two(commands, tmp_path, 'data.pipeline=grain')
  try:
    codes = [process.wait(timeout=120) for process in processes]
  finally:
    for process in processes:
      process.kill()
  logs = [(tmp_path / f'log{i}').read_text() for i in range(2)]
  assert codes == [0, 0], logs
  assert 'Traceback' not in ''.join(logs)
  np.testing.assert_allclose(responsibilities(tmp_path / 'two'),
                             responsibilities(plain), atol=1e-3)


def test_processes_with_other_images(commands, tmp_path):
  """One line that names the difference, where they would wait for each other."""
  processes = spawn_two(commands, tmp_path, of_second=('data.max_images=40',))
  try:
    assert processes[1].wait(timeout=60) == 2
  finally:
    for process in processes:
      process.kill()
  told = (tmp_path / 'log1').read_text()
  assert 'Process 1 of this run was given other options than process 0' in told, told
  assert 'data.max_images' in told and 'Traceback' not in told


def test_killed_process_takes_the_other_one_with_it(commands, tmp_path):
  """Exit code 3, and one line in the place of what JAX tells."""
  processes = spawn_two(commands, tmp_path, 'm_step.num_steps=5000')
  try:
    assert wait_for(tmp_path / 'log0', 'EM 1/2 M-step', processes[0])
    processes[0].kill()
    assert processes[1].wait(timeout=60) == 3
  finally:
    for process in processes:
      process.kill()
  told = [line for line in (tmp_path / 'log1').read_text().splitlines()
          if not line.startswith('[Gloo]')]  # on standard output
  assert len(told) == 1
  assert told[0].startswith('error: another process of this run has ended')
