"""Does a change of the code change a number? The bytes of short fits, written down.

  python -m benchmarks.proof --record=FILE     before a change
  python -m benchmarks.proof --check=FILE      after it, on the same machine

Question:  which of the fits below, of all methods, resumed, on two devices, sampled,
           evaluated and predicted with, have other bytes than those in FILE?
Time:      some 10 minutes on two cores, half of it compilation; `--cases=a,b` runs some.
Kept:      benchmarks/results/proof.json, of the processor and the versions named in it:
           another processor or jax rounds otherwise.

Times, speeds and memory are left out of what is compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
OUT = ROOT / 'benchmarks' / 'results' / 'proof.json'

# 60 digits in 3 clusters by a small U-Net: 2 EM iterations of 6 gradient steps.
SMALL = {
    'num_clusters': 3, 'data.max_images': 60, 'network.channels': 8,
    'network.channel_multipliers': '(1,2)', 'network.blocks_per_level': 1,
    'diffusion.num_steps': 20, 'diffusion.rescale_betas': True, 'diffusion.beta_end': .01,
    'em.max_iterations': 2, 'em.bound_tolerance': 0., 'em.partition_tolerance': 0.,
    'start.restarts': 1, 'e_step.num_draws': 4, 'e_step.batch_size': 32,
    'm_step.num_steps': 6, 'm_step.first_num_steps': 6, 'm_step.batch_size': 16,
    'log.every_steps': 2, 'checkpoint.every_steps': 4, 'checkpoint.keep': 100,
    'sample.num_images': 2, 'posterior.channels': 8, 'posterior.num_views': 2,
    'views.num': 8, 'views.sets': 2, 'quality.num_images': 12, 'quality.splits': 1}
# Case -> (config, options beside SMALL, devices, further commands on the workdir).
SAMPLE = ('--mode=sample',)
CASES = {
    'cddpm': ('digits', {}, 1, (
        SAMPLE, (*SAMPLE, 'sample.sampler=ddim', 'sample.num_steps=5', 'sample.eta=.5'),
        (*SAMPLE, 'sample.sampler=heun', 'sample.num_steps=5', 'sample.grid=karras'),
        (*SAMPLE, 'sample.sampler=adaptive'),
        (*SAMPLE, 'sample.sampler=predictor_corrector', 'sample.num_steps=5'),
        (*SAMPLE, 'sample.sampler=dpm_solver_pp_2m', 'sample.num_steps=5'),
        (*SAMPLE, 'sample.guidance=2.', 'sample.clusters=(0,2)', 'sample.interpolate=3'),
        (*SAMPLE, 'sample.trajectory=4', 'sample.seed=1'),
        ('--mode=predict', 'predict.likelihood=True', 'predict.ode_steps=4',
         'predict.num_draws=8'),
        ('--mode=evaluate',))),
    'cddpm-2': ('digits', {}, 2, (SAMPLE,)),
    'cddpm-resumed': ('digits', {}, 1, ('resume 4', 'resume 11')),
    'cddpm-raced': ('digits', {
        'em.posterior': 'monte_carlo', 'start.kind': 'gaussian_mixture',
        'e_step.max_draws': 16, 'e_step.noise': 'antithetic', 'e_step.num_draws': 8,
        'm_step.weighting': 'elbo', 'm_step.means': 'gradient',
        'm_step.assignment': 'summed'}, 1, (SAMPLE, 'resume 4')),
    'cddpm-stepwise': ('digits', {
        'em.schedule': 'stepwise', 'start.max_images': 40, 'data.pipeline': 'grain',
        'start.kind': 'kmeans'}, 1, (SAMPLE, 'resume 8')),
    'cddpm-concatenated': ('digits', {
        'network.conditioning': 'concatenated', 'start.kind': 'random',
        'em.posterior': 'monte_carlo', 'network.dropout': .1}, 1,
        ((*SAMPLE, 'sample.guidance=2.', 'sample.sampler=ddim'),)),
    'cddpm-best': ('digits', {
        'start.kind': 'best', 'start.candidates': "('kmeans','gaussian_mixture')",
        'start.trial_steps': 4, 'num_clusters': 'auto', 'em.auto_clusters': '(2,4)',
        'em.auto_parts': 2}, 1, ()),
    'cddpm-denoiser': ('digits', {
        'start.spaces': "('denoiser','edges')", 'start.denoiser_steps': 4}, 1, ()),
    'cluster_ddpm': ('cluster_ddpm_digits', {'latent.size': 4}, 1, (
        SAMPLE, (*SAMPLE, 'sample.guidance=2.', 'sample.sampler=ddim',
                 'sample.num_steps=5'),
        ('--mode=predict',), ('--mode=evaluate',))),
    'cluster_ddpm-2': ('cluster_ddpm_digits', {'latent.size': 4}, 2, (SAMPLE,)),
    'cluster_ddpm-resumed': ('cluster_ddpm_digits', {'latent.size': 4}, 1,
                             ('resume 4', 'resume 11')),
    'cluster_ddpm-paper': ('cluster_ddpm_digits', {
        'latent.size': 4, 'start.kind': 'latents', 'posterior.anchor': 0.,
        'latent.views': False, 'latent.mixture_iterations': 5,
        'latent.covariance': 'full', 'latent.responsibilities': 'expected'}, 1,
        (SAMPLE,)),
    'latent_cddpm': ('latent_cddpm_digits', {'latent.size': 4, 'em.max_iterations': 3}, 1,
                     (SAMPLE, ('--mode=predict',), ('--mode=evaluate',))),
    'latent_cddpm-2': ('latent_cddpm_digits', {'latent.size': 4, 'em.max_iterations': 3},
                       2, (SAMPLE,)),
    'latent_cddpm-resumed': ('latent_cddpm_digits',
                             {'latent.size': 4, 'em.max_iterations': 3}, 1,
                             ('resume 8', 'resume 16')),
}
# Of summary.json: what follows from the numbers alone.
COMPARED = ('acc', 'nmi', 'ari', 'init', 'baselines', 'bound_bits_per_dim',
            'bound_terms_nats', 'cluster_sizes', 'mean_entropy', 'uncertain_fraction',
            'num_em_iterations', 'noise_bands', 'num_clusters_choice', 'sample_quality',
            'latents', 'init_trials', 'stop_reason')


def digest(content: bytes) -> str:
  """The first letters of a SHA-256."""
  return hashlib.sha256(content).hexdigest()[:16]


def option(name: str, value) -> str:
  """An argument of the command."""
  return f'--config.{name}={value}'


def outputs(workdir: pathlib.Path) -> dict[str, str]:
  """Digests of what a command has left in a workdir."""
  found = {}
  for name in ('responsibilities.npy', 'assignments.csv', 'samples.npy',
               'predictions.csv'):
    if (workdir / name).exists():
      found[name] = digest((workdir / name).read_bytes())
  path = workdir / 'summary.json'
  if path.exists():
    summary = json.loads(path.read_bytes())
    found['summary.json'] = digest(json.dumps(
        {name: summary.get(name) for name in COMPARED}, sort_keys=True).encode())
  return found


def command(*argv: str) -> None:
  """Runs the command in this process.

  Raises:
    SystemExit: it ended with another code than 0.
  """
  from jdiffclust import main  # the device count is known by now
  sys.argv = ['jdiffclust', *argv]
  code = main.run(sys.argv)
  if code:
    sys.exit(f'exit code {code}: {argv}')


def measure(case: str, folder: pathlib.Path) -> dict[str, dict[str, str]]:
  """Runs a case: {step: {file: digest}}."""
  config, changes, _, further = CASES[case]
  workdir = folder / case
  start = [f'--config=configs/{config}.py', f'--workdir={workdir}', '--quiet',
           *(option(*item) for item in {**SMALL, **changes}.items())]
  command(*start)
  found = {'fit': outputs(workdir)}
  for step in further:
    if isinstance(step, str):  # 'resume NUMBER': checkpoints after NUMBER are lost
      last = int(step.split()[1])
      numbers = [int(path.name) for path in (workdir / 'checkpoints').iterdir()
                 if path.name.isdigit()]
      assert min(numbers) <= last < max(numbers), f'{case}: checkpoints {numbers}'
      for number in numbers:
        if number > last:
          shutil.rmtree(workdir / 'checkpoints' / str(number))
      (workdir / 'responsibilities.npy').unlink()
      command(*start)
      found[step] = outputs(workdir)
      continue
    mode, *options = step
    command(mode, f'--workdir={workdir}', '--quiet',
            *(option(*item.split('=', 1)) for item in options))
    found[' '.join(step)] = outputs(workdir)
  return found


def run_here(cases: list[str], out: pathlib.Path) -> None:
  """Measures cases of one device count in this process."""
  with tempfile.TemporaryDirectory() as folder:
    found = {}
    for case in cases:
      found[case] = measure(case, pathlib.Path(folder))
      print(case, flush=True)
      out.write_text(json.dumps(found))


def cache(devices: str) -> dict[str, str]:
  """JAX's folder of compiled programs, if one is given: one for each device count.

  On it, which JAX's keys leave out, depends how a program is cut into threads.
  """
  folder = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  return {'JAX_COMPILATION_CACHE_DIR': f'{folder}/{devices}'} if folder else {}


def run_all(cases: list[str]) -> dict:
  """Measures cases, in two processes at a time."""
  with tempfile.TemporaryDirectory() as folder:
    shares = {f'{devices}-{turn}': [case for case in cases if CASES[case][2] == devices
                                    ][turn::turns]
              for devices, turns in ((1, 2), (2, 1)) for turn in range(turns)}
    running, results = [], []
    for name, share in shares.items():
      if not share:
        continue
      if len(running) == 2:
        running[0].wait()
        running = [process for process in running if process.poll() is None]
      result = pathlib.Path(folder) / f'{name}.json'
      results.append(result)
      flags = f'--xla_force_host_platform_device_count={name[0]}'
      running.append(subprocess.Popen(
          [sys.executable, '-m', 'benchmarks.proof', f"--cases={','.join(share)}",
           f'--here={result}'], cwd=ROOT,
          env={**os.environ, **cache(name[0]), 'XLA_FLAGS': flags,
               'JAX_PLATFORMS': 'cpu'}))
    for process in running:
      process.wait()
    return {case: steps for result in results if result.exists()
            for case, steps in json.loads(result.read_text()).items()}


def differences(old: dict, new: dict) -> list[str]:
  """A line for each file of each step that differs, or is missing."""
  lines = []
  for case, steps in new.items():
    for step, files in steps.items():
      was = old.get(case, {}).get(step, {})
      lines += [f'{case}, {step}: {name}' for name in sorted({*files, *was})
                if files.get(name) != was.get(name)]
  return lines


def machine() -> dict[str, str]:
  """What rounding depends on."""
  import jax
  lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
  return {'processor': (names or [platform.processor()])[0], 'jax': jax.__version__,
          'python': platform.python_version()}


def main() -> int:
  """The command line; returns 1 if something differs."""
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--record', type=pathlib.Path)
  parser.add_argument('--check', type=pathlib.Path)
  parser.add_argument('--here', type=pathlib.Path, help=argparse.SUPPRESS)
  parser.add_argument('--cases', default=','.join(CASES))
  args = parser.parse_args()
  cases = args.cases.split(',')
  unknown = set(cases) - set(CASES)
  if unknown:
    parser.error(f"{sorted(unknown)}: choose from {', '.join(CASES)}")
  if args.here:
    run_here(cases, args.here)
    return 0
  found = run_all(cases)
  missing = sorted(set(cases) - set(found))
  if args.record:
    args.record.write_text(json.dumps({'machine': machine(), **found}, indent=1) + '\n')
  lines = []
  if args.check:
    lines = differences(json.loads(args.check.read_text()), found)
  for line in lines:
    print('differs:', line)
  for case in missing:
    print('failed:', case)
  steps = sum(len(steps) for steps in found.values())
  print(f'{len(found)} cases, {steps} steps, {len(lines)} files differ, '
        f'{len(missing)} failed')
  return int(bool(lines or missing))


if __name__ == '__main__':
  sys.exit(main())
