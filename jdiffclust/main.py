"""Clusters images with a mixture of conditional diffusion models.

  python -m jdiffclust.main --config=configs/digits.py --workdir=runs/digits
  python -m jdiffclust.main --mode=predict --workdir=runs/digits \\
      --config=configs/folder.py --config.data.path=new_images
  python -m jdiffclust.main --mode=sample --workdir=runs/digits \\
      --config.sample.clusters=0,3
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import resource
import sys
import time

STARTED = time.perf_counter()  # before the slow imports: wall_seconds counts them

from jdiffclust.memory import keep_freed_memory  # noqa: E402

# The libraries below log what is of no use to a person who clusters images.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('GRPC_VERBOSITY', 'ERROR')
keep_freed_memory()  # before they start threads, each of which has a heap of its own

import absl.logging  # noqa: E402
import jax  # noqa: E402
import ml_collections  # noqa: E402
import numpy as np  # noqa: E402
from absl import flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from jdiffclust import config as config_lib  # noqa: E402
from jdiffclust import files, locks  # noqa: E402
from jdiffclust.data.dataset import load_source, read_images, scale_to_model  # noqa: E402
from jdiffclust.data.pipelines import make_pipeline  # noqa: E402
from jdiffclust.errors import UserError  # noqa: E402
from jdiffclust.evaluation import features, sample_quality  # noqa: E402
from jdiffclust.report import figures  # noqa: E402
from jdiffclust.report import results as results_lib  # noqa: E402
from jdiffclust.sharding import (  # noqa: E402
    check_batch_size, make_mesh, replicate, to_host)
from jdiffclust.streams import integer_seed, stream  # noqa: E402
from jdiffclust.clustering.choose import choose_number  # noqa: E402
from jdiffclust.clustering.initialise import fit_start  # noqa: E402
from jdiffclust.clustering.mixture import bits_per_dimension  # noqa: E402
from jdiffclust.training import loop, passes  # noqa: E402
from jdiffclust.training.checkpoints import Checkpoints  # noqa: E402
from jdiffclust.training.densities import densities_of_all  # noqa: E402
from jdiffclust.training.latents import latent_results  # noqa: E402
from jdiffclust.training.methods import build  # noqa: E402
from jdiffclust.training.progress import Reporter  # noqa: E402
from jdiffclust.training.sampling import draw_samples  # noqa: E402

MODES = ('fit', 'predict', 'sample', 'evaluate')


# ------------------------------------------------------------------ command line


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
  """Defines our flags: config, workdir, mode, quiet."""
  config_flags.DEFINE_config_file(
      'config', None, 'A file of configs/, and its options by --config.NAME=VALUE.',
      flag_values=values, lock_config=True, sys_argv=argv)
  flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
  flags.DEFINE_string('mode', 'fit', ' | '.join(MODES), flag_values=values)
  flags.DEFINE_boolean('quiet', False, 'Show warnings and errors only.',
                       flag_values=values)


def help_text() -> str:
  """The text of --help: the flags, then every option with default and meaning."""
  lines = [__doc__.strip(), '', 'Flags:',
           '  --config=FILE       one of configs/*.py (predict: of the new images)',
           '  --workdir=DIR       where results go, and where a fitted run is found',
           f"  --mode=MODE         {', '.join(MODES)} (default: fit)",
           '  --quiet             show warnings and errors only', '',
           'Options, as --config.NAME=VALUE (default in brackets):']
  for name, option in config_lib.options():
    lines.append(f'  {name} [{option.default!r}]')
    lines.append(f'      {option.meaning}; {option.allowed}')
  return '\n'.join(lines)


def parse(argv: list[str]):
  """Parses the command line.

  Args:
    argv: with the program's name first.

  Returns:
    (config or None, workdir, mode, quiet).

  Raises:
    UserError: an unknown flag, option or mode, a wrong value, a missing file.
  """
  values = flags.FlagValues()
  overrides = [arg for arg in argv[1:] if arg.startswith(('--config.', '-config.'))]
  for arg in overrides:
    name, equals, _ = arg.lstrip('-').removeprefix('config.').partition('=')
    if name not in dict(config_lib.options()):
      raise config_lib.unknown_option(name)
    if not equals:
      raise UserError(f'{arg} has no value: write {arg}=VALUE.')
  given = [arg.partition('=')[2] for arg in argv[1:]
           if arg.lstrip('-').partition('=')[0] == 'config']
  if not given:
    # Options without a config file: they apply to the workdir's own config.
    argv = [arg for arg in argv if arg not in overrides]
  for path in given:
    if not os.path.isfile(path):
      known = sorted(str(p) for p in pathlib.Path('configs').glob('*.py'))
      why = 'it is a folder' if os.path.isdir(path) else 'no such file'
      raise UserError(f'The config file {path!r} cannot be read ({why}).'
                      + config_lib.nearest(path, known)
                      + (f" There are: {', '.join(known)}." if known else ''))
  try:
    define_flags(values, argv)
    rest = values(argv)
    # The file is read here, when the value is first looked at.
    config = ml_collections.ConfigDict(values.config) if given else None
  except flags.UnrecognizedFlagError as error:
    raise UserError(f'Unknown flag --{error.flagname}.'
                    + config_lib.nearest(error.flagname,
                                         ('config', 'workdir', 'mode', 'quiet'))
                    + ' `python -m jdiffclust.main --help` lists them.') from None
  except flags.Error as error:
    raise UserError('The command line is wrong: '
                    + ' '.join(str(error).split())) from None
  except Exception as error:  # a config file is a program of the user's: anything goes
    raise UserError(
        f"The config file {given[-1] if given else ''!r} or an option is wrong: "
        f"{type(error).__name__}: {' '.join(str(error).split())}") from None
  if len(rest) > 1:
    raise UserError(f'Unexpected argument {rest[1]!r}: options are --NAME=VALUE.')
  if values.mode not in MODES:
    raise UserError(f'--mode={values.mode} is not allowed: it must be one of '
                    f"{', '.join(MODES)}." + config_lib.nearest(values.mode, MODES))
  if not values.workdir:
    raise UserError('--workdir is missing: name the folder of the run, such as '
                    '--workdir=runs/mine.')
  if config is None and values.mode == 'fit':
    raise UserError('--config is missing: name a file of configs/, such as '
                    '--config=configs/digits.py.')
  if config is None:
    config = apply_overrides(values.workdir, overrides)
  config_lib.check_config(config)
  return config, pathlib.Path(values.workdir), values.mode, values.quiet


def apply_overrides(workdir, overrides: list[str]):
  """The config of a fitted workdir, with options of the command line changed."""
  config = fitted_config(workdir)
  values = flags.FlagValues()
  argv = ['', *overrides]
  try:
    config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=argv)
    values(argv)
  except (flags.Error, TypeError, ValueError) as error:
    raise UserError('The command line is wrong: '
                    + ' '.join(str(error).split())) from None
  return ml_collections.ConfigDict(values.config)


def fitted_config(workdir):
  """The config of a fitted workdir.

  Raises:
    UserError: there is none.
  """
  path = pathlib.Path(workdir) / 'config.json'
  if not has_config(workdir):
    raise UserError(f'The workdir {str(workdir)!r} has no fitted model (no config.json): '
                    'run --mode=fit there first, or correct --workdir.')
  return config_lib.from_json(path.read_bytes())


def has_config(workdir) -> bool:
  """Whether a run has begun in the workdir; False also where it cannot be looked at."""
  return os.path.isfile(pathlib.Path(workdir) / 'config.json')


# ------------------------------------------------------------------------- fit


def fit(config, workdir: pathlib.Path, reporter: Reporter, started: float) -> None:
  """Fits the model and writes its results; continues a run that was cut off.

  `started` is the `time.perf_counter()` from which wall_seconds count.
  """
  begun = has_config(workdir)
  if begun:
    fitted = fitted_config(workdir)
    if config.num_clusters == config_lib.AUTO and results_lib.read_choice(workdir):
      config.num_clusters = fitted.num_clusters  # chosen when the run began
    different = config_lib.differences(fitted, config)
    if different:
      raise UserError(f'The workdir {str(workdir)!r} belongs to another config: '
                      f"{'; '.join(different)}. Choose another --workdir, or give the "
                      'same options.')
  mesh = make_mesh(config.num_devices)
  for name in ('e_step', 'm_step'):
    check_batch_size(f'{name}.batch_size', config[name].batch_size, mesh)
  source = load_source(config.data)
  config_lib.check_against_data(config, source.image_shape, source.num_images)
  machinery = build(config, source.image_shape, source.levels, mesh)
  for line in config_lib.cautions(config):
    reporter.warning(line)
  make_workdir(workdir)
  # The other processes of a left-over run on several hosts would be out of our reach.
  alone = jax.process_count() == 1
  with main_process_lock(workdir, reporter.warning if alone else None):
    if source.skipped:
      reporter.warning(f'{len(source.skipped)} unreadable files were skipped: '
                       f"{', '.join(source.skipped[:5])}"
                       + (' ...' if len(source.skipped) > 5 else ''))
    if not begun:
      number = given_or_chosen(config, source, workdir, reporter)
      if number != config.num_clusters:  # chosen: the inference network is of that width
        config.num_clusters = number
        machinery = build(config, source.image_shape, source.levels, mesh)
    shape = 'x'.join(map(str, source.image_shape))
    reporter.line(f'{source.name}: {source.num_images:,} images of {shape}, '
                  f'{config.num_clusters} clusters, {mesh.size} '
                  f'{mesh.devices.flat[0].platform} device(s); results go to {workdir}')
    if is_main_process():
      files.write_text(workdir / 'config.json', config_lib.to_json(config))
    pipeline = make_pipeline(source, config.data, config.m_step.batch_size,
                             config.seed, mesh)
    with contextlib.closing(Checkpoints(workdir, config.checkpoint.keep)) as checkpoints:
      finished = loop.Fitter(machinery, source, pipeline, checkpoints, reporter, workdir,
                             started).run()
    write_outputs(machinery, workdir, source, pipeline, finished, reporter)


def make_workdir(workdir: pathlib.Path) -> None:
  """Makes the folder of a run.

  Raises:
    UserError: it is a file, or may not be made or written.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    writable = os.access(workdir, os.W_OK | os.X_OK)
  except OSError as error:
    why = 'it is a file' if workdir.is_file() else error.strerror
    raise UserError(f'--workdir={workdir} cannot be made ({why}): name a folder that may '
                    'be written.') from None
  if not writable:
    raise UserError(f'--workdir={workdir} may not be written: choose another folder.')


def given_or_chosen(config, source, workdir, reporter) -> int:
  """The number of clusters of a new run; how it was chosen goes to the workdir."""
  options = config.em
  if config.num_clusters != config_lib.AUTO:
    if is_main_process():  # of a run that was cut off before it began
      (workdir / 'num_clusters.json').unlink(missing_ok=True)
    return config.num_clusters
  with reporter.task('num_clusters', 1 + options.auto_parts, 'parts') as task:
    sample = loop.fit_sample(source, options.auto_max_images, config.seed)
    choice = choose_number(sample, source.image_shape, config,
                           lambda: task.advance(1))
  low, high = options.auto_clusters
  reporter.line(f'{choice.chosen} clusters chosen among {low}..{high}: '
                f'{choice.share(0):.0%} of the votes, {choice.share(1):.0%} within '
                'one of it.')
  if choice.chosen == high or choice.chosen == low > 2:
    reporter.warning(f'{choice.chosen} clusters is an end of config.em.auto_clusters = '
                     f'({low}, {high}): a wider range may hold a better number.')
  if is_main_process():
    results_lib.write_choice(workdir, choice.as_dict())
  return choice.chosen


def write_outputs(machinery, workdir, source, pipeline, fit_result: loop.Fit, reporter,
                  with_quality: bool = False) -> None:
  """Baselines, samples and perhaps their quality, summary, figures and page of a fit."""
  config, progress = machinery.config, fit_result.progress
  began = time.perf_counter()
  labels = source.labels
  with reporter.task('baselines', 2, 'baselines') as task:
    baselines = {}
    sample = loop.fit_sample(source, config.em.init_max_images, config.seed)
    for name in ('kmeans', 'gaussian_mixture'):
      if name == progress['start']:  # the same fit, from the same seed
        baselines[name] = fit_result.start.argmax(axis=1)
      else:
        assign = fit_start(name, sample, source.image_shape, config)
        baselines[name] = loop.partition(assign, source).argmax(axis=1)
      task.advance(1)
  params, clusters = fit_result.state.ema, range(config.num_clusters)
  # Of the sampler's options those that say how, not of which clusters.
  options = ml_collections.ConfigDict(config.sample)
  options.interpolate = options.trajectory = 0

  def images_at(indices):
    return np.asarray(scale_to_model(read_images(source, indices), source.levels))

  def generate(name, count):
    options.num_images = count
    with reporter.task(name, config.num_clusters * count, 'images') as task:
      return draw_samples(machinery, params, clusters, options, task).images

  samples = generate('samples', options.num_images)
  means = mean_images(machinery, params, pipeline, fit_result.responsibilities)
  latents = None if machinery.encode is None else latent_results(
      machinery, params, pipeline, fit_result.responsibilities, labels, images_at,
      progress['history'], options, reporter)
  wall_seconds = progress['wall_seconds'] + time.perf_counter() - began
  judged = (generate('samples to judge', config.quality.num_images) if with_quality
            else None)
  if not is_main_process():
    return

  params = to_host(params)
  quality = None if judged is None else measure_quality(
      machinery, params, source, fit_result.responsibilities, images_at, judged, reporter)
  rate = lambda amount, seconds: amount / seconds if seconds else None
  facts = {
      'dataset': source.name, 'num_images': source.num_images,
      'image_shape': list(source.image_shape), 'method': config.method,
      'num_clusters': config.num_clusters, 'seed': config.seed,
      'init_method': progress['start'], 'init_trials': progress['starts'],
      'stop_reason': progress['stop_reason'],
      'warnings': progress['warnings'] + [
          f'{len(source.skipped)} unreadable files were skipped'] * bool(source.skipped),
      'train_images_per_second': rate(progress['train_images'],
                                      progress['train_seconds']),
      'e_step_evaluations_per_second': progress['e_step_evaluations_per_second'],
      'wall_seconds': wall_seconds,
      'peak_memory_mib': peak_memory_mib(),
      'devices': [f'{d.platform}:{d.device_kind}' for d in machinery.mesh.devices.flat],
  }
  outputs = results_lib.Results(
      responsibilities=fit_result.responsibilities, start=fit_result.start,
      baselines=baselines, bound=fit_result.bound, means=means,
      samples=samples, history=progress['history'], noise_bands=machinery.noise_bands(),
      facts=facts, choice=results_lib.read_choice(workdir), quality=quality,
      latents=latents)
  summary = results_lib.write_results(workdir, config.to_dict(), outputs, source,
                                      images_at, labels)
  print_summary(summary, workdir)


def mean_images(machinery, params, pipeline, responsibilities) -> np.ndarray:
  """The clusters' mean images [Q, H, W, C]: the model's own, or else tau's."""
  if machinery.means is not None:
    return to_host(machinery.means(params))
  indices = np.arange(pipeline.num_images)
  return to_host(passes.weighted_means(pipeline, indices,
                                       replicate(responsibilities, machinery.mesh),
                                       machinery.config.e_step.batch_size))


def measure_quality(machinery, params, source, responsibilities, images_at, generated,
                    reporter):
  """Compares generated images with real ones, as config.quality says.

  Args:
    machinery: the model.
    params: fitted parameters, on the host.
    source: the images.
    responsibilities: [N, Q].
    images_at: from indices [n] to images [n, H, W, C] in [-1, 1].
    generated: [Q, n, H, W, C].
    reporter: for progress.

  Returns:
    `sample_quality.Quality`.
  """
  config, options = machinery.config, machinery.config.quality
  indices = loop.sample_indices(source.num_images, options.max_images, config.seed)
  if len(indices) // 2 <= options.neighbours:
    reporter.warning(f'{source.num_images} images are too few to compare samples with, '
                     f'by config.quality.neighbours = {options.neighbours} neighbours.')
  real = sample_quality.RealImages(
      images_at(indices), responsibilities.argmax(axis=1)[indices],
      None if source.labels is None else source.labels[indices], indices)
  maps = {'random encoder': features.random_encoder(machinery.image_shape),
          'pca': features.pca(real.images), **machinery.features(params)}
  blocks = (images_at(block) for block in np.array_split(
      np.arange(source.num_images), -(-source.num_images // 1024)))
  with reporter.task('sample quality', 1 + options.splits, 'parts') as task:
    return sample_quality.measure(
        real, generated, np.exp(params.log_proportions), blocks, maps, source.levels,
        options.neighbours, options.splits, integer_seed(config.seed, 'quality'),
        lambda: task.advance(1))


def peak_memory_mib() -> float:
  """The largest resident memory this process has had, in MiB."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak / (2**20 if sys.platform == 'darwin' else 2**10)  # macOS counts bytes


def print_summary(summary: dict, workdir) -> None:
  """Prints the outcome in a few lines on standard output."""
  print(f"{summary['num_images']:,} images in {summary['num_clusters']} clusters of "
        f"{min(summary['cluster_sizes'])} to {max(summary['cluster_sizes'])}; bound "
        f"{summary['bound_bits_per_dim']:.4f} bits/dim; mean entropy "
        f"{summary['mean_entropy']:.3f} nats; {summary['wall_seconds']:.0f} s")
  if summary['acc'] is not None:
    rows = {'this fit': summary, f"start ({summary['init']['method']})": summary['init'],
            **summary['baselines']}
    for name, row in rows.items():
      print(f"  {name:<26} ACC {row['acc']:.3f}  NMI {row['nmi']:.3f}  "
            f"ARI {row['ari']:.3f}")
  print(f"Results: {workdir / 'report.html'} (and assignments.csv, summary.json, "
        'figures/)')


# ------------------------------------------------- a fitted workdir, used again


def restore(workdir, mesh, reporter, config=None):
  """Restores the newest checkpoint of a workdir, read-only.

  Args:
    workdir: of a fit.
    mesh: the devices.
    reporter: for warnings.
    config: of the fit, perhaps with other E-step or sample options.

  Returns:
    (machinery, snapshot).

  Raises:
    UserError: there is no checkpoint of a completed EM iteration.
  """
  config = fitted_config(workdir) if config is None else config
  missing = UserError(f'The workdir {str(workdir)!r} has no checkpoint of a completed EM '
                      'iteration: let --mode=fit run to its end first.')
  if not (pathlib.Path(workdir) / 'checkpoints').is_dir():
    raise missing
  made = {}

  def template(progress):
    if 'machinery' not in made:
      made['machinery'] = build(config, progress['image_shape'], progress['levels'], mesh)
    return loop.template(made['machinery'])(progress)

  with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
    restored = checkpoints.restore_newest(template, reporter.warning)
  if restored is None or not restored[1].progress['history']:
    raise missing
  if not restored[1].progress['stop_reason']:
    reporter.warning(f'the fit in {workdir} has not ended: using its checkpoint '
                     f'{restored[0]}.')
  return made['machinery'], restored[1]


def predict(config, workdir, reporter) -> None:
  """Assigns the images of `config.data` to the clusters of a fitted workdir."""
  fitted = fitted_config(workdir)
  with fitted.unlocked():
    fitted.num_devices = config.num_devices
    if config.predict.num_draws:
      fitted.e_step.num_draws = config.predict.num_draws
      fitted.e_step.max_draws = 0
  config_lib.check_config(fitted)
  mesh = make_mesh(config.num_devices)
  check_batch_size('e_step.batch_size', fitted.e_step.batch_size, mesh)
  machinery, snapshot = restore(workdir, mesh, reporter, fitted)
  height, width, channels = machinery.image_shape
  data = ml_collections.ConfigDict(config.data)
  data.channels, data.padding = channels, fitted.data.padding
  if height == width:  # else the new images must have the shape by themselves
    data.image_size = height - 2 * fitted.data.padding
  source = load_source(data, for_fit=False)
  if source.image_shape != machinery.image_shape:
    raise UserError(f'{source.name} has images of {source.image_shape}, but the model in '
                    f'{workdir} was fitted to {machinery.image_shape}: convert them.')
  levels = snapshot.progress['levels']
  if (source.levels is None) != (levels is None):
    raise UserError(
        f"{source.name} has {source.levels or 'no'} grey levels, but the model in "
        f"{workdir} was fitted to images of {levels or 'none'}: convert them to the "
        'same type.')
  if source.levels != levels:
    reporter.warning(f'{source.name} has {source.levels} grey levels, the model was '
                     f'fitted to images of {levels}; both are scaled to [-1, 1].')
  pipeline = make_pipeline(source, data, fitted.e_step.batch_size, fitted.seed, mesh)
  found = passes.assign_all(machinery, snapshot.state.ema, pipeline,
                          stream(fitted.seed, 'predict'), reporter, 'predict')
  densities = densities_of_all(
      machinery, snapshot.state.ema, pipeline, stream(fitted.seed, 'densities'),
      config.predict, reporter) if config.predict.likelihood else None
  if not is_main_process():
    return
  path, bound = workdir / 'predictions.csv', found.info.bound
  share = share_below(bound, to_host(snapshot.responsibilities)['bound'])
  foreign = share < config.predict.foreign_share
  further = {'bound': [f'{value:.2f}' for value in bound],
             'typicality': [f'{value:.4f}' for value in share],
             'foreign': [('no', 'yes')[value] for value in foreign.astype(int)]}
  message = (f'{source.num_images:,} images of {source.name} assigned, {foreign.sum():,} '
             f'of them foreign to all clusters: {path}')
  if densities is not None:
    likelihood = log_likelihood(densities.mixture, machinery)
    further |= {'log_likelihood': [f'{value:.2f}' for value in likelihood],
                'log_likelihood_error': [f'{v:.2f}' for v in densities.standard_error]}
    bits = [bits_per_dimension(np.mean(values, dtype=np.float64), machinery.image_shape)
            for values in (bound, likelihood)]
    message += ('\nBits per dimension, mean: {:.3f} by the bound, {:.3f} by the '
                'probability-flow ODE'.format(*bits))
  results_lib.write_assignments(path, source.ids, found.responsibilities, source.labels,
                                source.label_names, further)
  print(message)


def log_likelihood(nats: np.ndarray, machinery) -> np.ndarray:
  """Log densities [N] as log probabilities of grey levels, if the model has them.

  The density of dequantised images times the width of their bins: a lower bound of the
  log probability on average (Theis et al., 2016).
  """
  levels = machinery.levels
  if levels is None:
    return nats
  return nats + np.prod(machinery.image_shape) * np.log(2 / (levels - 1))


def share_below(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
  """The share of the reference [m] that is smaller than each of values [n], [n]."""
  return np.searchsorted(np.sort(reference), values) / len(reference)


def sample(config, workdir, reporter) -> None:
  """Draws images from clusters of a fitted workdir: samples.npy, and pictures."""
  machinery, snapshot = restore(workdir, make_mesh(config.num_devices), reporter)
  fitted, options = machinery.config, config.sample
  clusters = options.clusters or tuple(range(fitted.num_clusters))
  bad = [q for q in clusters if q >= fitted.num_clusters]
  if bad:
    raise UserError(f'config.sample.clusters names cluster {bad[0]}, but the model in '
                    f'{workdir} has clusters 0..{fitted.num_clusters - 1}.')
  rows = list(map(str, clusters))
  if options.interpolate:
    rows = [f'{share:.0%}' for share in np.linspace(0, 1, options.interpolate)]
    rows[0], rows[-1] = map(str, clusters)
  with reporter.task('samples', len(rows) * options.num_images, 'images') as task:
    drawn = draw_samples(machinery, snapshot.state.ema, clusters, options, task)
  if not is_main_process():
    return
  written = [workdir / 'samples.npy', workdir / 'samples.png']
  results_lib.write_array(written[0], drawn.images)
  figures.save_figure(figures.sample_grid(drawn.images, rows), written[1])
  if drawn.states is not None:
    written += [workdir / 'trajectory.png', workdir / 'trajectory.gif']
    film = figures.sample_grid(drawn.states[:, 0], rows, heading='from noise to image')
    figures.save_figure(film, written[2])
    figures.save_animation(drawn.states, written[3])
  count = drawn.images.shape[0] * drawn.images.shape[1]
  print(f'{count:,} images of shape {drawn.images.shape[2:]}, in [-1, 1], by '
        f'{options.sampler} in {drawn.evaluations:.0f} network evaluations each: '
        f"{', '.join(map(str, written))}")


def evaluate(config, workdir, reporter) -> None:
  """Recomputes tau from the newest checkpoint's weights, and all results from it."""
  fitted = fitted_config(workdir)
  with fitted.unlocked():
    fitted.quality, fitted.sample = config.quality, config.sample
  mesh = make_mesh(config.num_devices)
  check_batch_size('e_step.batch_size', fitted.e_step.batch_size, mesh)
  with main_process_lock(workdir):
    machinery, snapshot = restore(workdir, mesh, reporter, fitted)
    source = load_source(fitted.data)
    progress = snapshot.progress
    if source.num_images != progress['num_images']:
      raise UserError(f"The data have {source.num_images} images now, but the fit had "
                      f"{progress['num_images']}: restore the data.")
    pipeline = make_pipeline(source, fitted.data, fitted.m_step.batch_size, fitted.seed,
                             mesh)
    key = loop.e_step_key(fitted, progress['iteration'])
    start = loop.start_of_all(source, fitted, progress['start'],
                              to_host(snapshot.responsibilities)['start'])
    found = passes.assign_all(machinery, snapshot.state.ema, pipeline, key, reporter,
                              start=replicate(start, mesh))
    # The checkpoint's own record of the iteration stays, but for what was recomputed.
    tracked = loop.tracked_images(source.num_images, fitted)
    progress['history'][-1] |= loop.iteration_record(
        *jax.tree.map(lambda a: a[tracked], (found.responsibilities, found.info)),
        machinery.image_shape)
    write_outputs(machinery, workdir, source, pipeline, loop.Fit(
        snapshot.state, found.responsibilities, found.info.bound, start, progress),
        reporter, with_quality=config.quality.num_images > 0)


# ------------------------------------------------------------------- processes


def is_main_process() -> bool:
  """Whether this process writes files."""
  return jax.process_index() == 0


def main_process_lock(workdir, end_left_over=None):
  """The workdir's lock in the main process; the others rely on it."""
  return (locks.workdir_lock(workdir, end_left_over) if is_main_process()
          else contextlib.nullcontext())


def join_processes(options) -> None:
  """Connects several processes, if the config says there are several."""
  if options.num_processes > 1:
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.distributed.initialize(options.coordinator, options.num_processes,
                               options.process_id)


def run(argv: list[str], started: float | None = None) -> int:
  """Runs a command line.

  Args:
    argv: with the program's name first.
    started: the `time.perf_counter()` from which the seconds of a fit count; None: now.

  Returns:
    The exit code: 0 done, 1 the numbers went wrong, 2 a user's mistake, 130 stopped,
    141 nobody reads the output.
  """
  started = time.perf_counter() if started is None else started
  absl.logging.set_verbosity(absl.logging.ERROR)
  absl.logging.use_absl_handler()
  try:
    if any(arg in ('--help', '-h', '-?', '--helpfull') for arg in argv[1:]):
      print(help_text(), flush=True)
      return 0
    config, workdir, mode, quiet = parse(argv)
    if config is not None:
      join_processes(config.distributed)
    reporter = Reporter(quiet or not is_main_process())
    command = {'fit': functools.partial(fit, started=started), 'predict': predict,
               'sample': sample, 'evaluate': evaluate}
    with reporter.stopping_safely():
      command[mode](config, workdir, reporter)
  except passes.NonFiniteError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  except BrokenPipeError:  # the reader of our output has gone, as `head` does
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except KeyboardInterrupt:
    print('stopped: the same command goes on from the last checkpoint', file=sys.stderr)
    return 130
  return 0


def main() -> None:
  """The `jdiffclust` command."""
  sys.exit(run(sys.argv, STARTED))


if __name__ == '__main__':
  main()
