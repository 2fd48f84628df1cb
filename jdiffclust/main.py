"""Clusters images with a mixture of conditional diffusion models.

  jdiffclust path/to/images                           # results in runs/images
  jdiffclust path/to/images --config.effort=full      # and the diffusion model
  jdiffclust --mode=decide --workdir=runs/images      # names, from its clusters.csv
  jdiffclust --mode=sort --workdir=runs/images --action=copy
  jdiffclust new_images --mode=predict --workdir=runs/images
  jdiffclust --mode=sample --workdir=runs/images --config.sample.clusters=0,3
  jdiffclust damaged --mode=restore --workdir=runs/images \\
      --config.restore.mask=mask.png
  jdiffclust --config=digits --workdir=runs/digits    # with a config
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import shlex
import signal
import sys
import sysconfig
import textwrap
import time
import traceback
import warnings
from typing import NoReturn

STARTED = time.perf_counter()  # before the imports: wall_seconds counts them

import absl.logging  # noqa: E402
import ml_collections  # noqa: E402
from absl import flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from jdiffclust import __version__, config as config_lib  # noqa: E402
from jdiffclust import files  # noqa: E402
from jdiffclust.errors import NonFiniteError, UserError, on_one_line  # noqa: E402
from jdiffclust.memory import (  # noqa: E402
    keep_freed_memory, return_what_compilers_leave, shortage)

# JAX and what needs it are imported when a command has been understood: a mistake in it
# is answered at once.

MODES = ('fit', 'predict', 'add', 'sample', 'restore', 'evaluate', 'decide',
         'sort', 'similar')
# Commands that images can be named for as arguments, and flags that take a value.
WITH_IMAGES = ('fit', 'predict', 'add', 'restore')
# What the system says where a folder is no folder, or a file is one.
OTHER_KINDS = (IsADirectoryError, NotADirectoryError, FileExistsError)
# Commands that leave what is in a run as it is, and write beside that.
BESIDE = ('predict', 'sample', 'restore')
IN_TWO_WORDS = ('config', 'workdir', 'mode', 'action', 'to', 'image')
# Flags of one command alone.
OF_MODE = {'action': 'sort', 'dry_run': 'sort', 'to': 'sort', 'image': 'similar',
           'split': 'decide', 'unsplit': 'decide', 'undo': 'add'}
HELP_ALL = ('--help=all', '--helpfull', '--helpfull=true')
# Where the configs are that jdiffclust comes with: of a checkout, of an installed wheel.
CONFIGS = (pathlib.Path(__file__).parents[1] / 'configs',
           pathlib.Path(sysconfig.get_path('data')) / 'share' / 'jdiffclust' / 'configs')
HELP = ('--help', '-h', '-?', '--help=true', *HELP_ALL)


# ------------------------------------------------------------------ command line


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
  """Defines our flags: config, workdir, mode, quiet."""
  config_flags.DEFINE_config_file(
      'config', None, 'A file of configs/, and its options by --config.NAME=VALUE.',
      flag_values=values, lock_config=True, sys_argv=argv)
  flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
  flags.DEFINE_string('mode', 'fit', ' | '.join(MODES), flag_values=values)
  flags.DEFINE_string('action', None, 'sort: copy, link, move or undo.',
                      flag_values=values)
  flags.DEFINE_boolean('dry_run', None, 'sort: tell, but do nothing.',
                       flag_values=values)
  flags.DEFINE_string('to', None, 'sort: where the folders go.', flag_values=values)
  flags.DEFINE_string('image', None, 'similar: a file, or an id of the run.',
                      flag_values=values)
  flags.DEFINE_string('split', None, 'decide: a cluster to cut in two.',
                      flag_values=values)
  flags.DEFINE_boolean('unsplit', None, 'decide: takes the last split back.',
                       flag_values=values)
  flags.DEFINE_boolean('undo', None, 'add: takes the last images back.',
                       flag_values=values)
  flags.DEFINE_boolean('quiet', False, 'Show warnings and errors only.',
                       flag_values=values)


def help_text(everything: bool = False) -> str:
  """The text of --help: the flags, then options with default and meaning.

  Args:
    everything: all options, by section; False: those that a person needs.
  """
  lines = [__doc__.strip(), '', 'Images, as arguments: a folder, several image files, a '
           'list of them (.txt, .csv) or an array',
           '(.npy, .npz). What is chosen then, and the whole command, are told; of '
           'what is not chosen, the', 'config `folder` has the values.', '',
           'Flags:',
           '  --config=FILE       a config file, or the name of one of ours, such as '
           'folder (predict: of the new images)',
           '  --workdir=DIR       where results go, and where a fitted run is found',
           f"  --mode=MODE         {', '.join(MODES)} (default: fit)",
           '  --action=ACTION     of sort: copy, link or move the images into folders by '
           'cluster; undo takes it back',
           '  --to=DIR            of sort: where the folders go (default: sorted, in the '
           'workdir)',
           '  --dry-run           of sort: tell what would be done, and do nothing',
           '  --image=FILE        of similar: an image, or the id of one of the run',
           '  --split=CLUSTER     of decide: cut a cluster, a number or a name, in two',
           '  --unsplit           of decide: take the last split back',
           '  --undo              of add: take the images that were added last back',
           '  --quiet             show warnings and errors only',
           '  --version           show the version',
           '  --help=all          show all options', '',
           'Options, as --config.NAME=VALUE (in brackets the value where no config, and '
           'no choice by', 'the images, says otherwise):']
  known = config_lib.all_options()
  for name, option in known.items():
    if everything or option.level == 'person':
      lines.append(f'  {name} [{option.default!r}]')
      readers = f" (read by {', '.join(option.methods)})" if option.methods else ''
      lines.append(textwrap.fill(
          f'{option.meaning}; {option.allowed}{readers}', 90, break_on_hyphens=False,
          initial_indent=' ' * 6, subsequent_indent=' ' * 6))
  if not everything:
    hidden = sum(option.level != 'person' for option in known.values())
    lines += ['', f'{hidden} more, of the machine and of the model: --help=all']
  return '\n'.join(lines)


def only_flags_dashed(argv: list[str]) -> list[str]:
  """Arguments of which those that are files, behind `--`, do not look like flags.

  Raises:
    UserError: a file that is there, and not behind `--`, does.
  """
  end = argv.index('--') if '--' in argv else len(argv)
  dashed = [arg for arg in argv[1:end] if arg.startswith('-') and os.path.lexists(arg)]
  if dashed:
    raise UserError(f'{dashed[0]!r} is a file here, but what begins with - is taken for '
                    f"an option: write {'./' + dashed[0]!r}, or put -- before the files.")
  return argv[:end] + [f'./{arg}' if arg.startswith('-') else arg
                       for arg in argv[end + 1:]]


def current_names(argv: list[str]) -> list[str]:
  """Arguments with the names that options have now; a line tells of each other one."""
  found = []
  for arg in argv:
    name, equals, value = arg.partition('=')
    option = name.lstrip('-').removeprefix('config.')
    if name.startswith(('--config.', '-config.')) and option in config_lib.RENAMED:
      new = config_lib.RENAMED[option]
      print(f'warning: config.{option} is called config.{new} now.', file=sys.stderr)
      arg = f'--config.{new}{equals}{value}'
    found.append(arg)
  return found


def argument_of_names(arg: str) -> str:
  """--config.sample.clusters=NAMES as ml_collections reads texts in a tuple."""
  name, _, value = arg.partition('=')
  if name.lstrip('-') != 'config.sample.clusters' or not any(map(str.isalpha, value)) or (
      value[:1] in '("\''):
    return arg
  parts = [part.strip() for part in value.split(',')]
  return f"{name}={tuple(int(p) if p.isdecimal() else p for p in parts)}"


def config_file(name: str) -> str:
  """The path of a config: a file of the user's, or one of ours by its name.

  Args:
    name: a path, in which ~ is expanded (the shell leaves it alone after =); or such as
      folder, folder.py or configs/folder.py, from wherever the command is run.

  Returns:
    The path; as it is if there is no such file.
  """
  path = pathlib.Path(os.path.expanduser(name))
  ours = pathlib.Path(), pathlib.Path('configs')
  if not os.path.isfile(path) and path.parent in ours:
    for folder in CONFIGS:
      if os.path.isfile(folder / f'{path.stem}.py'):  # False also of names too long
        return str(folder / f'{path.stem}.py')
  return str(path) if name else name


def _of_one_line(error: Exception) -> str:
  """What an error says, without the traceback that ml_collections puts into it."""
  text = str(error)
  before, trace, after = text.partition('Traceback (most recent call last)')
  return ' '.join((before + after.strip().splitlines()[-1] if trace else text).split())


def meant(flag: str) -> str:
  """Returns ' Did you mean ...?' for an unknown flag, which may be an option's name."""
  known = config_lib.all_options()
  # `n_clusters` and `clusters` are first of all how many there shall be.
  first = config_lib.closest(flag, [name for name in known if '.' not in name], .75)
  options = first or [name for name in known if flag in (name, name.split('.')[-1])]
  if len(options) == 1:
    return f' Did you mean --config.{options[0]}?'
  return config_lib.nearest(flag, ('config', 'workdir', 'mode', 'quiet'))


def parse(argv: list[str]):
  """Parses the command line.

  Args:
    argv: with the program's name first.

  Returns:
    (config, workdir, mode, quiet, the flags of OF_MODE by name).

  Raises:
    UserError: an unknown flag, option or mode, a wrong value, a missing file.
  """
  values, argv = flags.FlagValues(), current_names(only_flags_dashed(argv))
  whole = list(argv)
  for i in range(len(argv) - 2, 0, -1):  # --config FILE, in two words
    if argv[i] in ('--config', '-config') and not argv[i + 1].startswith('-'):
      argv[i:i + 2] = [f'--config={argv[i + 1]}']
  argv = [argument_of_names(arg.replace('-dry-run', '-dry_run')
                            if arg.lstrip('-').startswith('dry-run') else arg)
          for arg in argv]
  overrides = [arg for arg in argv[1:] if arg.startswith(('--config.', '-config.'))]
  for arg in overrides:
    name, equals, _ = arg.lstrip('-').removeprefix('config.').partition('=')
    if name not in config_lib.all_options():
      raise config_lib.unknown_option(name)
    if not equals:
      raise UserError(f'{arg} has no value: write {arg}=VALUE.')
  argv = [f'--config={config_file(arg.partition("=")[2])}'
          if arg.lstrip('-').startswith('config=') else arg for arg in argv]
  # ml_collections wants the file before its options; a person may not.
  argv[1:] = sorted(argv[1:], key=lambda arg: not arg.lstrip('-').startswith('config='))
  given = [arg.partition('=')[2] for arg in argv[1:]
           if arg.lstrip('-').partition('=')[0] == 'config']
  if len(given) > 1:
    raise UserError(f'--config is given {len(given)} times, {given[0]!r} and '
                    f'{given[1]!r}: name one of them.')
  if any(arg.lstrip('-').partition('=')[0] == 'flagfile' for arg in argv[1:]):
    raise UserError('--flagfile is not read: write its flags on the command line.')
  if not given:
    # Options without a config file: they apply to the workdir's own config.
    argv = [arg for arg in argv if arg not in overrides]
  for path in given:
    if not path:
      raise UserError('--config names no file: write --config=FILE, such as '
                      '--config=digits.')
    if not os.path.isfile(path):
      known = sorted({found.stem for folder in CONFIGS for found in folder.glob('*.py')})
      why = 'it is a folder' if os.path.isdir(path) else 'no such file'
      raise UserError(f'The config file {path!r} cannot be read ({why}).'
                      + config_lib.nearest(path, [f'configs/{stem}.py' for stem in known]
                                           if '/' in path else known)
                      + f" There are, by name alone: {', '.join(known)}.")
  # ml_collections runs a file within the module that it made of the file before, where
  # that one's get_config still is.
  sys.modules.pop('config_config', None)
  try:
    define_flags(values, argv)
    rest = values(argv)
    # The file is read here, when the value is first looked at.
    config = ml_collections.ConfigDict(values.config) if given else None
  except flags.UnrecognizedFlagError as error:
    raise UserError(f'Unknown flag --{error.flagname}.' + meant(error.flagname)
                    + ' `jdiffclust --help` lists them.') from None
  except flags.Error as error:
    raise UserError('The command line is wrong: ' + _of_one_line(error)) from None
  except UserError as error:
    raise UserError(f'The config file {given[-1] if given else ""!r} or an option is '
                    f'wrong: {error}') from None
  # A config file is a program of the user's: anything goes.
  except (Exception, SystemExit) as error:
    raise UserError(
        f"The config file {given[-1] if given else ''!r} or an option is wrong: "
        f"{type(error).__name__}: {' '.join(str(error).split())}") from None
  if values.mode not in MODES:
    raise UserError(f'--mode={values.mode} is not allowed: it must be one of '
                    f"{', '.join(MODES)}." + config_lib.nearest(values.mode, MODES))
  for flag, mode in OF_MODE.items():
    if values[flag].value is not None and values.mode != mode:
      raise UserError(f"--{flag.replace('_', '-')} is of --mode={mode}, not of "
                      f'--mode={values.mode}: leave it out, or set the mode.')
  if len(rest) > 1:
    return begun(whole, rest[1:], values.mode, values.workdir, bool(given))
  if len(whole) == 1:
    raise UserError('Nothing is asked for. To cluster images, name them: jdiffclust '
                    'FOLDER. What else there is: jdiffclust --help')
  if not values.workdir:
    raise UserError('--workdir is missing: name the folder of the run, such as '
                    '--workdir=runs/mine; or name images alone: jdiffclust FOLDER.')
  if config is None and values.mode == 'fit':
    raise UserError('--config is missing: name a file of configs/, such as '
                    '--config=configs/digits.py; or name images: jdiffclust FOLDER.')
  workdir = pathlib.Path(os.path.expanduser(values.workdir))
  named = {arg.lstrip('-').removeprefix('config.').partition('=')[0]
           for arg in overrides}
  if config is None:
    config = apply_overrides(workdir, overrides)
    others = {f'data.{name}' for name in ('source', 'path', 'name', 'split')}
    if values.mode in config_lib.NEW_IMAGES and named & others:
      # What the fit's are is not that of other images.
      for name, none in (('max_images', 0), ('labels', ''), ('labels_path', ''),
                         ('metadata', ''), ('embeddings', '')):
        if f'data.{name}' not in named:
          config.data[name] = none
  if values.mode != 'fit':  # first: what is no use here needs no other advice
    config_lib.check_usable(values.mode, sorted(named),
                            config_lib.fitted_config(workdir), config)
  config_lib.check_config(config)
  check_places(config.data, workdir, values.mode)
  return (config, workdir, values.mode, values.quiet,
          {flag: values[flag].value for flag in OF_MODE})


def check_places(data, workdir: pathlib.Path, mode: str) -> None:
  """Checks the names of the folders that a command reads and writes.

  Raises:
    UserError: one is no text, or a fit would write among its own images.
  """
  for place in (data.path, str(workdir)):
    try:
      place.encode()
    except UnicodeEncodeError:
      raise UserError(f'{on_one_line(place)} has a name that is not UTF-8, which tables '
                      'and pages are: rename it.') from None
  if mode == 'fit' and data.source == 'folder' and data.path and (
      os.path.realpath(os.path.expanduser(data.path)) == os.path.realpath(workdir)):
    raise UserError(f'--workdir={workdir} is the folder of the images, of which the '
                    "run's own pictures would be some: choose another one, such as "
                    f'--workdir={workdir}_clusters.')


def begun(argv: list[str], paths: list[str], mode: str, workdir: str | None,
          has_config: bool):
  """Parses a command line that names images by arguments; see `jdiffclust.beginning`.

  Args:
    argv: with the program's name first, the images somewhere.
    paths: of the images.
    mode: of the command.
    workdir: as given.
    has_config: whether a config file is given.

  Returns:
    As of `parse`, with 'begun' among the flags: what was chosen, for a person, and the
    image files to list.

  Raises:
    UserError: as of `parse`, or there are no such images.
  """
  from jdiffclust import beginning
  word = next((path for path in paths if path in MODES and not os.path.exists(path)), '')
  if word:
    raise UserError(f'{word!r} is no folder or file. If the command is meant, write '
                    f'--mode={word}.')
  if mode not in WITH_IMAGES:
    if mode == 'similar':
      raise UserError(f'--mode=similar is asked about one image, by --image: write '
                      f'{shlex.quote(f"--image={paths[0]}")} in the place of '
                      f'{paths[0]!r}.')
    run_of = paths[0] if config_lib.has_config(paths[0]) else (
        workdir or beginning.newest_run() or 'runs/NAME')
    raise UserError(f'--mode={mode} is about a run, and takes no images: write '
                    f'--workdir={shlex.quote(run_of)} in the place of {paths[0]!r}. '
                    f"Images are named for {', '.join(WITH_IMAGES)}.")
  rest = list(argv[1:])
  for path in paths:
    rest.pop(next(k for k in reversed(range(len(rest))) if rest[k] == path and not (
        k and rest[k - 1].lstrip('-') in IN_TWO_WORDS)))
  seen = beginning.look(paths)
  named = [arg.lstrip('-').removeprefix('config.').partition('=')[0] for arg in rest]
  twice = next((name for name in ('data.source', 'data.path') if name in named), None)
  if twice:
    raise UserError(f'Images are named twice: by {paths[0]!r} and by --config.{twice}. '
                    'Leave one of them out.')
  if mode != 'fit':
    if not workdir:
      raise UserError(f'--workdir is missing: which run is asked? Add --workdir='
                      f"{beginning.newest_run() or 'runs/NAME'}, or another one.")
    listing = beginning.place_of_list(pathlib.Path(os.path.expanduser(workdir)), mode,
                                      seen.files)
    parsed = parse([argv[0], *rest, f'--config.data.source={seen.source}',
                    f'--config.data.path={listing if seen.files else seen.path}'])
    if parsed[4]['undo']:
      raise UserError(f'--undo takes the images back that were added last, whatever they '
                      f'are: leave {paths[0]!r} out.')
    return *parsed[:4], parsed[4] | {'new': seen.files}
  if seen.number == 1 and 'data.frames' not in named:
    what, pages = 'has', 1
    if os.path.isfile(paths[0]):
      what, pages = 'is', beginning.pages_of(paths[0])
    several = (f'(It holds {pages}: --config.data.frames=all takes each for an image.) '
               if pages > 1 else '')
    raise UserError(f'{paths[0]!r} {what} one image: nothing to cluster. {several}Name '
                    'a folder of images; or ask a run which of its clusters the image is '
                    'of: '
                    f'jdiffclust {shlex.quote(paths[0])} --mode=predict '
                    f'--workdir={workdir or beginning.newest_run() or "runs/NAME"}')
  asked = {'data.source': seen.source, 'data.path': seen.path} if has_config else (
      beginning.chosen(seen, named, next(
          (int(number) for name, _, number in (
              arg.lstrip('-').removeprefix('config.').partition('=') for arg in rest)
           if name == 'data.max_images' and number.isdecimal()), 0)))
  begin = ['jdiffclust', *([] if has_config else ['--config=folder'])]
  listed = lambda path: {'data.path': str(path / config_lib.LISTED)} if seen.files else {}
  options = lambda path: [f'--config.{name}={value}'
                          for name, value in (asked | listed(path)).items()]
  if workdir:
    place = beginning.Place(pathlib.Path(os.path.expanduser(workdir)), False, '')
  else:
    config = parse([*begin, *options(pathlib.Path()), *rest, '--workdir=.'])[0]

    def differences(path):
      from jdiffclust.workdir import Workdir
      return Workdir(path).differences(config_lib.copied(config))

    place = beginning.workdir_for(seen, config, differences)
    rest.append(f'--workdir={place.path}')
  command = [*begin, *options(place.path), *rest]
  config, workdir, mode, quiet, flags_of_mode = parse(command)
  whole = shlex.join(command)
  told = beginning.Begun(beginning.told(seen, asked, place, whole), whole, seen.files)
  return config, workdir, mode, quiet, flags_of_mode | {'begun': told}


def apply_overrides(workdir, overrides: list[str]):
  """The config of a fitted workdir, with options of the command line changed."""
  config = config_lib.fitted_config(workdir)
  values = flags.FlagValues()
  argv = ['', *overrides]
  try:
    config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=argv)
    values(argv)
  except (flags.Error, TypeError, ValueError) as error:
    raise UserError('The command line is wrong: '
                    + ' '.join(str(error).split())) from None
  return ml_collections.ConfigDict(values.config)


# ----------------------------------------------------------------------- the modes


def held_for(mode: str, workdir: pathlib.Path,
             writes: bool = True) -> contextlib.AbstractContextManager:
  """Holds a workdir while a command writes to it.

  Args:
    mode: of the command; `fit` holds the folder by itself, which it may have to make.
    workdir: the folder.
    writes: whether this one does; False: it tells what it would do.

  Raises:
    UserError: nothing can be written there, or another command is writing there; or the
      folder was removed meanwhile.
  """
  from jdiffclust.workdir import main_process_lock
  if mode in ('fit', 'similar') or not writes:
    return contextlib.nullcontext()
  files.check_writable(workdir)
  return main_process_lock(workdir, mode=mode if mode in BESIDE else '')


def run_fit(config, workdir: pathlib.Path, reporter, build, parts,
            started: float, command: str, begun=None) -> None:
  """Fits the model and writes its results; continues a run that was cut off.

  Args:
    config: checked; an automatic number of clusters is set to that of a run that goes on.
    workdir: the folder of the run.
    reporter: shows progress.
    build: makes the method, as `clustering.method.build`.
    parts: make the results, `outputs.Parts`.
    started: the `time.perf_counter()` from which wall_seconds count.
    command: the command line.
    begun: a `beginning.Begun`, if the images were named as arguments.
  """
  from jdiffclust import added, beginning, decisions
  from jdiffclust.data.dataset import load_source
  from jdiffclust.fitted import finest_of, fit, held_run
  from jdiffclust.outputs import write_outputs
  from jdiffclust.report import results
  from jdiffclust.workdir import COMMAND, Workdir, added_later, is_main_process
  store = Workdir(workdir, config.checkpoint.keep, started)
  load = lambda: load_source(config.data, finest=finest_of(config),
                             later=added_later(workdir, config.data))
  for line in begun.lines if begun else ():
    reporter.line(line)
  listed = (beginning.listed(workdir, begun.files) if begun and begun.files else
            contextlib.nullcontext())
  with listed, held_run(store, config, load, reporter, build) as source:
    if is_main_process():
      if (config.effort, results.effort_of(workdir)) != (config_lib.QUICK,
                                                         config_lib.FULL):
        files.write_text(workdir / COMMAND, command + '\n')  # else it made less
      if not store.resumes:
        show_images(source, config, workdir, reporter, parts)
    tell_time(source, config, store, reporter)
    if config.num_clusters != config_lib.AUTO:  # a wrong table shall not wait for the end
      decisions.read(workdir, config.num_clusters, source.ids, added.ids_in(workdir))
    fitted = fit(config, source, store, reporter, build)
    summary = write_outputs(fitted, source, workdir, reporter, parts=parts)
  if summary is not None:
    print(outcome(summary, workdir))
    if config.method != 'sr3':
      here = shlex.quote(f'--workdir={workdir}')
      print(f'Name and join clusters in {workdir / decisions.CLUSTERS}, then: jdiffclust '
            f'--mode=decide {here}')
      if config.data.source in ('folder', 'files'):
        print('Lay the files into folders by cluster: jdiffclust --mode=sort '
              f'--action=copy {here}')
    if fitted.start_alone:
      tell_more(fitted.config, source, command)


def tell_more(config, source, command: str) -> None:
  """Tells what a fit that ended with its start has not done, and how to go on.

  Args:
    config: of the fit, its number of clusters known.
    source: its images.
    command: its command line.
  """
  from jdiffclust import estimate
  from jdiffclust.progress import in_words
  done = ['start', 'sign', *['agreement'] * bool(config_lib.repeated_start(config))]
  config = config_lib.copied(config)
  config.effort = config_lib.FULL
  stages = estimate.stages_of(config, source.num_images, source.image_shape,
                              source.seen.image_shape, done)
  seconds = sum(stage.seconds for stage in stages) / estimate.speed()
  print('These are the clusters of the start. The diffusion model, which tells how '
        'likely images are, draws new ones and restores damaged ones, would take about '
        f'{in_words(seconds)} more; nothing is repeated:\n' + with_full_effort(command))


def with_full_effort(command: str, workdir: pathlib.Path | None = None) -> str:
  """The command of a fit that goes on where that of a quick one ended.

  Args:
    command: of that one.
    workdir: where it is by now, if not where the command says: it may have been moved.
  """
  words = shlex.split(command)
  if workdir:
    for k, word in enumerate(words):
      name, equals, value = word.partition('=')
      if name.lstrip('-') == 'config.data.path':
        words[k] = name + equals + config_lib.where_it_is(value, workdir)
  rest = [word for k, word in enumerate(words)
          if not word.lstrip('-').startswith('config.effort=') and not (workdir and (
              word.lstrip('-').partition('=')[0] == 'workdir'
              or words[k - 1].lstrip('-') == 'workdir'))]
  here = [f'--workdir={workdir}'] if workdir else []
  return shlex.join([*rest, *here, '--config.effort=full'])


def check_has_model(workdir: pathlib.Path) -> None:
  """Checks, before anything is read, that a run has a diffusion model.

  Raises:
    UserError: it ended with its start, by a command that is known.
  """
  from jdiffclust.report import results
  from jdiffclust.workdir import COMMAND
  if results.effort_of(workdir) == config_lib.QUICK and (workdir / COMMAND).is_file():
    command = (workdir / COMMAND).read_text(encoding='utf-8').strip()
    raise UserError('The run has clusters, but no diffusion model yet that could do '
                    'this. Train it, which goes on from there: '
                    + with_full_effort(command, workdir))


def show_images(source, config, workdir: pathlib.Path, reporter, parts) -> None:
  """Tells what is seen of the images before a fit: check.png, check.json."""
  from jdiffclust import inspection
  found = inspection.inspect(source, config.data)
  for line in found.lines():
    reporter.line(line)
  for line in inspection.cautions(found, config.num_clusters):
    reporter.warning(line)
  parts.draw_check(found, source, workdir / inspection.PICTURE)
  files.write_text(workdir / inspection.FILE,
                   json.dumps(found.as_dict(), indent=2) + '\n')
  reporter.line(f'  {workdir / inspection.PICTURE} shows some of them as they are seen.')


def tell_time(source, config, store, reporter) -> None:
  """Tells what a fit will do and how long, and lets the reporter correct that."""
  import jax
  from jdiffclust import estimate
  from jdiffclust.report import results
  from jdiffclust.training.checkpoints import numbers_in
  if reporter.quiet or jax.default_backend() != 'cpu':
    return
  agreed = store.agreement() or {}
  done = {name for name, is_done in (
      ('start', numbers_in(store.path)), ('sign', agreed.get('sign')),
      ('agreement', agreed.get('clusters')),
      ('model', results.effort_of(store.path) == config_lib.FULL))
          if store.resumes and is_done}
  stages = estimate.stages_of(config, source.num_images, source.image_shape,
                              source.seen.image_shape, done)
  reporter.clock = estimate.Clock(stages, estimate.speed())
  reporter.line(reporter.clock.plan())


def new_images(mode: str, config, workdir: pathlib.Path, reporter, build):
  """The fit of a workdir, and the images of `config.data` read as it reads its own."""
  from jdiffclust.data.dataset import load_source
  from jdiffclust.fitted import check_like_the_fit, data_like_the_fit, load, tell_of
  options = config_lib.asked_of(mode, config_lib.fitted_config(workdir), config)
  if config.predict.num_draws:
    options.e_step.num_draws = config.predict.num_draws
    options.e_step.max_draws = 0
  config_lib.check_config(options)
  fitted = load(workdir, options, reporter, build)
  source = load_source(data_like_the_fit(fitted, config.data), for_fit=False,
                       rendering=fitted.rendering, finest=fitted.finest)
  tell_of(source, reporter)
  check_like_the_fit(fitted, source, reporter)
  return fitted, source


def run_predict(config, workdir: pathlib.Path, reporter, build) -> str | None:
  """Assigns the images of `config.data` to the clusters of a fitted workdir."""
  from jdiffclust.outputs import write_predictions
  fitted, source = new_images('predict', config, workdir, reporter, build)
  return write_predictions(fitted, source, workdir, config.predict, reporter)


def run_add(config, workdir: pathlib.Path, reporter, build,
            undo: bool | None) -> str | None:
  """Adds the images of `config.data` to a fitted workdir, or takes the last ones back."""
  from jdiffclust import beginning
  from jdiffclust.deciding import undo_added
  from jdiffclust.outputs import add_images
  try:
    if undo:
      return undo_added(workdir, config_lib.fitted_config(workdir).num_clusters)
    config = config_lib.copied(config)
    for name in ('path', 'labels_path', 'labels', 'metadata', 'embeddings'):
      if config.data[name]:  # they are read again, from wherever that is asked for
        config.data[name] = os.path.abspath(os.path.expanduser(config.data[name]))
    fitted, source = new_images('add', config, workdir, reporter, build)
    return add_images(fitted, source, workdir, config, reporter)
  finally:
    beginning.remove_unused_lists(workdir)


def run_sample(config, workdir: pathlib.Path, reporter, build) -> str | None:
  """Draws images from clusters of a fitted workdir: samples.npy, and pictures."""
  from jdiffclust.fitted import load
  from jdiffclust.outputs import write_samples
  check_has_model(workdir)
  options = config_lib.asked_of('sample', config_lib.fitted_config(workdir), config)
  fitted = load(workdir, options, reporter, build)
  return write_samples(fitted, workdir, config.sample, reporter)


def run_decide(workdir: pathlib.Path, asked: dict) -> str:
  """Writes the results of a fit anew, as a person has decided; cuts a cluster in two."""
  from jdiffclust import deciding
  if asked['split'] is not None and asked['unsplit']:
    raise UserError('--split cuts a cluster, and --unsplit takes the last cut back: give '
                    'one of them.')
  fitted = config_lib.fitted_config(workdir)
  if asked['split'] is not None:
    return deciding.split(workdir, fitted.num_clusters, asked['split'], fitted.seed)
  if asked['unsplit']:
    return deciding.unsplit(workdir, fitted.num_clusters)
  return deciding.write_decided(workdir, fitted.num_clusters)


def run_sort(config, workdir: pathlib.Path, reporter, asked: dict) -> str:
  """Lays the images of a fit into folders by cluster, or takes that back."""
  from jdiffclust import sorting
  from jdiffclust.added import read
  from jdiffclust.data.sources.folder import file_of, folder_of
  from jdiffclust.deciding import clusters_decided
  action = asked['action']
  if action not in sorting.ACTIONS:
    what = 'is missing' if action is None else f'= {action!r} is not allowed'
    raise UserError(f"--action {what}: it must be one of {', '.join(sorting.ACTIONS)}.")
  if action == 'undo' and asked['dry_run']:
    plan = sorting.performed(workdir)
    return '\n'.join([
        *[on_one_line(f'{new} -> {source}' if plan.action == 'move' else
                      f'{new} would go') for source, new in plan.pairs[:10]],
        f'{len(plan.pairs):,} files would be as they were before sorting '
        f'({plan.action}).'])
  if action == 'undo':
    with reporter.task('undo', 1, 'times') as task:
      count, left = sorting.undo(workdir)
      task.advance(1)
    for line in left[:5]:
      reporter.warning(f'left alone: {line}')
    return (f'{count - len(left):,} of {count:,} files are as they were before sorting'
            + (f'; {len(left)} were left alone. Mend that and undo again, or remove '
               f'{workdir / sorting.UNDO}.' if left else '.'))
  sorting.check_unsorted(workdir)
  fitted = config_lib.fitted_config(workdir)
  if fitted.data.source not in ('folder', 'files'):
    raise UserError(f'--mode=sort lays files into folders, but the images of '
                    f'config.data.source = {fitted.data.source!r} are no files.')
  table, clusters = clusters_decided(workdir, fitted.num_clusters)
  to = asked['to'] and os.path.expanduser(asked['to'])
  target = pathlib.Path(to) if to else workdir / 'sorted'
  root = folder_of(fitted.data.source, config.data.path or fitted.data.path)
  assert root is not None  # they are files
  searched = root if fitted.data.source == 'folder' else None
  ids = list(table.ids)
  paths = [file_of(root, name) for name in ids]
  more = read(workdir) if table.others else None
  if more is not None:
    told = set(table.others)
    for name, path in zip(more.ids, more.paths()):
      if path is not None and name in told:
        ids.append(name)
        paths.append(file_of(pathlib.Path(), path))
    places = {name: row for row, name in enumerate(table.columns['file'])}
    clusters = [clusters[places[name]] for name in ids]
    left = len(places) - len(ids)
    if left:
      reporter.warning(f'{left} images that were added are no files, and stay out.')
  plan = sorting.make_plan(action, ids, clusters, paths, searched, target)
  lines = []
  if asked['dry_run']:
    lines = [on_one_line(f'{source} -> {new}') for source, new in plan.pairs[:10]]
  else:
    with reporter.task(action, len(plan.pairs), 'files') as task:
      sorting.perform(workdir, plan, lambda: task.advance(1))
  number = len({os.path.dirname(new) for _, new in plan.pairs})
  until = '; until then the run does not find its images' * (action == 'move')
  return '\n'.join([
      *lines, f"{len(plan.pairs):,} files {'would go' if asked['dry_run'] else 'went'} "
      f'into {number} folders of {target} ({action}' + (').' if asked['dry_run'] else
      f'); --mode=sort --action=undo --workdir={shlex.quote(str(workdir))} takes that '
      f'back{until}.')])


def run_similar(config, workdir: pathlib.Path, reporter, build, image) -> str:
  """The images of a fit that are nearest to an image."""
  from jdiffclust.outputs import similar
  if not image:
    raise UserError('--image is missing: name a file, or the id of an image of the run.')
  options = config_lib.asked_of('similar', config_lib.fitted_config(workdir), config)
  return similar(workdir, options, image, reporter, build)


def run_restore(config, workdir: pathlib.Path, reporter, build) -> str | None:
  """Restores the damaged images of `config.data` by a fitted workdir."""
  from jdiffclust.fitted import are_of_the_fit, damaged_images, load
  from jdiffclust.outputs import write_restored
  check_has_model(workdir)
  options = config_lib.asked_of('restore', config_lib.fitted_config(workdir), config)
  fitted = load(workdir, options, reporter, build)
  operator, source = damaged_images(fitted, config.data, config.restore, reporter)
  return write_restored(fitted, operator, source, workdir, config.restore, reporter,
                        config.data.range or None, are_of_the_fit(fitted, config.data))


def run_evaluate(config, workdir: pathlib.Path, reporter, build, parts) -> str | None:
  """Recomputes tau from the newest checkpoint's weights, and all results from it."""
  from jdiffclust.data.dataset import load_source
  from jdiffclust.fitted import finest_of, load, tell_of
  from jdiffclust.outputs import write_outputs
  from jdiffclust.workdir import added_later, images_of_run
  check_has_model(workdir)
  options = config_lib.asked_of('evaluate', config_lib.fitted_config(workdir), config)
  fitted = load(workdir, options, reporter, build)
  source = images_of_run(load_source(options.data, rendering=fitted.rendering,
                                     finest=finest_of(options),
                                     later=added_later(workdir, options.data)), workdir)
  tell_of(source, reporter)
  summary = write_outputs(fitted.rescored(source, reporter), source, workdir, reporter,
                          config.quality.num_images > 0, parts)
  return None if summary is None else outcome(summary, workdir)


def outcome(summary: dict, workdir) -> str:
  """What to tell of the results of a fit, in a few lines."""
  bound = summary['bound_bits_per_dim']
  lines = [f"{summary['num_images']:,} images in {summary['num_clusters']} clusters of "
           f"{min(summary['cluster_sizes'])} to {max(summary['cluster_sizes'])}; "
           + ('' if bound is None else f'bound {bound:.4f} bits/dim; ') +
           f"{summary['mean_probability']:.1%} in the right cluster, by the model's own "
           f"probabilities; {summary['wall_seconds']:.0f} s"]
  if summary['acc'] is not None:
    rows = {'this fit': summary, f"start ({summary['init']['method']})": summary['init'],
            **summary['baselines']}
    known = summary.get('num_labelled')  # runs of earlier versions did not tell
    labelled = f'{known:,} labelled ' if known and known < summary['num_images'] else ''
    lines.append('Scores by the labels, which no fit sees (of a folder, the names of its '
                 'sub-folders: pass over this\nif they are no classes). ACC: the share '
                 f'of {labelled}images in the cluster of their label; NMI, ARI: 0 as\nby '
                 'chance, 1 perfect.')
    lines += [f"  {name:<26} ACC {row['acc']:.3f}  NMI {row['nmi']:.3f}  "
              f"ARI {row['ari']:.3f}" for name, row in rows.items()]
  if summary['bought']:
    lines.append(summary['bought']['text'])
  return '\n'.join([
      *lines, f"Results: {workdir / 'report.html'} (and results.csv, results.parquet, "
      'summary.json, figures/)'])


# ------------------------------------------------------------------- the process


def _not_closed(number: int) -> None:
  """Makes a closed output a pipe that nobody reads: no file shall get its number."""
  try:
    os.fstat(number)
  except OSError:
    ours, theirs = os.pipe()
    os.dup2(theirs, number)
    for end in {ours, theirs} - {number}:
      os.close(end)
    name = {1: 'stdout', 2: 'stderr'}[number]
    setattr(sys, name, open(number, 'w', encoding='utf-8', buffering=1))


def prepare_process() -> None:
  """Sets what only the command may set of a process; before the slow imports."""
  for number in (1, 2):
    _not_closed(number)
  # An interrupt within an import may be lost there, or crash; `Reporter.stopping_safely`
  # has another way once the run has begun.
  for number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
      signal.signal(number, _stopped)
  # A name that the terminal's encoding lacks must not end a run.
  if isinstance(sys.stdout, io.TextIOWrapper):  # not of a notebook
    sys.stdout.reconfigure(errors='backslashreplace')
  # The libraries warn and log what is of no use to a person who clusters images.
  if not sys.warnoptions:
    warnings.simplefilter('ignore')
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  os.environ.setdefault('GRPC_VERBOSITY', 'ERROR')
  os.environ['MPLBACKEND'] = 'agg'  # figures are files; a notebook's is of no use here
  keep_freed_memory()  # before there are threads, each of which has a heap of its own


def _stopped(number, frame) -> None:
  """Ends the process where no run has begun, or all is written."""
  del frame
  os.write(2, b'stopped\n')
  os._exit(128 + number)


def count_cores() -> None:
  """Has joblib count the physical cores, which it does once.

  Where it cannot, as in some containers, it shows where it failed, which is no mistake.
  """
  import joblib
  with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
    warnings.simplefilter('ignore')
    joblib.cpu_count(only_physical_cores=True)


def leave(code: int) -> NoReturn:
  """Ends the process; one of several that has failed does not wait for the others.

  Args:
    code: the exit code.
  """
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback out of a library's exit
  jax = sys.modules.get('jax')  # not there when a mistake has been answered at once
  if code and jax and jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # what JAX does at the exit waits for them
  sys.exit(code)


def run(argv: list[str], started: float | None = None, build=None, parts=None) -> int:
  """Runs a command line.

  Args:
    argv: with the program's name first.
    started: the `time.perf_counter()` from which the seconds of a fit count; None: now.
    build: makes the method, as `clustering.method.build`, which None stands for.
    parts: make the results of a fit, `outputs.Parts`; None: the usual ones.

  Returns:
    The exit code: 0 done, 1 the numbers went wrong, 2 a user's mistake or a full disk,
    3 another process of the run has ended (`processes.LOST`), 130 stopped, 141 nobody
    reads the output.
  """
  started = time.perf_counter() if started is None else started
  several, mode = False, 'fit'
  # What the libraries log as errors they raise as well.
  absl.logging.set_verbosity(absl.logging.FATAL)
  absl.logging.use_absl_handler()
  try:
    word = argv[1] if len(argv) == 2 and not os.path.exists(argv[1]) else ''
    if word in ('--version', 'version'):
      print(f'jdiffclust {__version__}', flush=True)
      return 0
    asked = [arg for arg in argv[1:] if arg in HELP or word == 'help']
    if asked:
      print(help_text(asked[0] in HELP_ALL), flush=True)
      return 0
    config, workdir, mode, quiet, asked = parse(argv)
    from jdiffclust import processes, programs
    return_what_compilers_leave()
    several = config.distributed.num_processes > 1
    main_process = processes.join(config.distributed)
    programs.keep_programs(config.programs)
    count_cores()
    from jdiffclust.clustering import method
    from jdiffclust.outputs import Parts
    from jdiffclust.progress import Reporter
    reporter = Reporter(quiet or not main_process)
    given = config, workdir, reporter, build or method.build
    parts = Parts() if parts is None else parts
    begun_by = asked.get('begun')
    command = begun_by.command if begun_by else shlex.join(['jdiffclust', *argv[1:]])
    commands = {'fit': lambda: run_fit(*given, parts, started, command, begun_by),
                'predict': lambda: run_predict(*given),
                'sample': lambda: run_sample(*given),
                'restore': lambda: run_restore(*given),
                'add': lambda: run_add(*given, asked['undo']),
                'decide': lambda: run_decide(workdir, asked),
                'sort': lambda: run_sort(config, workdir, reporter, asked),
                'similar': lambda: run_similar(*given, asked['image']),
                'evaluate': lambda: run_evaluate(*given, parts)}
    writes = not asked.get('dry_run')
    with reporter.stopping_safely(), held_for(mode, workdir, writes):
      if asked.get('new') and main_process:
        from jdiffclust.data.sources.folder import write_listed
        write_listed(pathlib.Path(config.data.path), asked['new'])
      message = commands[mode]()
    if message is not None:
      print(message)
  except NonFiniteError as error:
    return _ended(1, f'error: {error}')
  except UserError as error:
    return _ended(2, f'error: {error}')
  except BrokenPipeError:  # the reader of our output has gone, as `head` does
    return _ended(141)
  except KeyboardInterrupt:
    return _ended(130, 'stopped: by the same command '
                  + ('a fit goes on from the last checkpoint' if mode == 'fit' else
                     f'{mode} begins anew'))
  except Exception as error:
    if isinstance(error, OSError) and (why := files.refusal(error)):
      return _ended(2, f"error: {error.filename or 'a file'} cannot be written ({why}): "
                    'make room there.')
    if isinstance(error, PermissionError) and error.filename:
      return _ended(2, f'error: {error.filename} may not be read or written '
                    f'({error.strerror}): change its permissions.')
    if isinstance(error, OTHER_KINDS) and error.filename:
      return _ended(2, f'error: {error.filename2 or error.filename} is not what is '
                    f'needed there ({error.strerror}): a file stands in the place of a '
                    'folder, or a folder in that of a file. Rename it, or remove it.')
    if why := shortage(error):
      return _ended(2, f'error: that is more than there is room for ({why}): ask for '
                    'less at once, or for fewer or smaller images.')
    if not several:
      raise
    processes.wait_for_the_end_of_another()
    traceback.print_exc()
    return 1
  return 0


def _ended(code: int, line: str = '') -> int:
  """Tells why a command ended early, if anybody reads it; returns the exit code."""
  try:
    if line:
      print(on_one_line(line), file=sys.stderr, flush=True)
    broken = code == 141
  except BrokenPipeError:
    broken = True
  if broken:  # Python would try to write what is left, and complain
    for number in (1, 2):
      os.dup2(os.open(os.devnull, os.O_WRONLY), number)
  return code


def main() -> None:
  """The `jdiffclust` command."""
  prepare_process()
  leave(run(sys.argv, STARTED))


if __name__ == '__main__':
  main()
