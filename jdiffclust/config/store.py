"""A config as JSON, and what sets two of them apart."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
from typing import Any

import ml_collections

from jdiffclust.config.options import (
    ADDED, AUTO, EMBEDDED, FIXED, PAIRED, PLAIN, RENAMED, RESIZED, SYMMETRIES,
    all_options, default_config, flatten, options, unknown_option)
from jdiffclust.config.rules import check_config
from jdiffclust.errors import UserError

LISTED = 'files.json'  # in the workdir: several image files that were named


def to_json(config) -> str:
  """Returns the config as JSON text, one nested object."""
  return json.dumps(config.to_dict(), indent=2) + '\n'


def from_json(text: str | bytes) -> ml_collections.ConfigDict:
  """Returns the config that `to_json` wrote.

  Raises:
    UserError: not JSON, not a config, with unknown options or wrong values.
  """
  mend = 'restore it, or fit into a new workdir.'
  try:
    stored = json.loads(text)
  except ValueError as error:  # also bytes that are no text
    raise UserError(f'config.json of the workdir is damaged ({error}): {mend}') from None
  flat = ADDED | _of_now(_flat_json(stored), mend)
  config = default_config()
  for name, option in options():
    # One that came later has its default, if it does not define the run of this method.
    method = str(flat.get('method'))
    if name not in flat and option.defines_run and option.read_by(method):
      raise UserError('config.json of the workdir is damaged, or of another version of '
                      f'jdiffclust (it lacks {name}): {mend}')
  for name, value in flat.items():
    *sections, leaf = name.split('.')
    node = config
    for section in sections:
      node = node[section] if section in node else {}
    if leaf not in node or isinstance(node[leaf], ml_collections.ConfigDict):
      raise unknown_option(name)
    try:
      node[leaf] = value
    except TypeError as error:
      raise UserError(f'config.json of the workdir is damaged ({name}: {error}): '
                      f'{mend}') from None
  check_config(config)
  return config


def _flat_json(node, prefix='') -> dict[str, Any]:
  """Returns {dotted name: value} of nested JSON objects; lists as tuples."""
  if not isinstance(node, dict):
    return {prefix.rstrip('.'): tuple(node) if isinstance(node, list) else node}
  return {name: value for key, child in node.items()
          for name, value in _flat_json(child, f'{prefix}{key}.').items()}


def _of_now(flat: dict[str, Any], mend: str) -> dict[str, Any]:
  """Options of a config.json of before, by the names that they have now.

  Raises:
    UserError: an option that has become a constant had another value.
  """
  found: dict[str, Any] = {}
  pairs: dict[str, Any] = {}
  for name, value in flat.items():
    if name in PAIRED:
      whole, place = PAIRED[name]
      pairs.setdefault(whole, [None, None])[place] = value
    elif name not in FIXED:
      found[RENAMED.get(name, name)] = value
    elif value != FIXED[name]:
      raise UserError(
          f'The run in the workdir had config.{name} = {value!r}, which is no option any '
          f'more: this version has {FIXED[name]!r} always. Use the version that it was '
          f'fitted with, or {mend}')
  return found | {name: tuple(values) for name, values in pairs.items()}


def differences(fitted, wanted) -> list[str]:
  """Returns a line per option that defines a run and differs between two configs.

  Options that the method does not read define no run.
  """
  known = all_options()
  old, new = flatten(fitted), flatten(wanted)
  return [f'config.{name}: {old[name]!r} there, {new[name]!r} now'
          for name, option in known.items()
          if option.defines_run and option.read_by(fitted.method)
          and old[name] != new[name]]


def settle_like(fitted, config) -> None:
  """Sets what `config` leaves to the images as a fitted config has it.

  That are SYMMETRIES, how images are resized, and start.spaces of images with embeddings.

  Args:
    fitted: the config of a run that has begun.
    config: is changed.
  """
  known = flatten(fitted)
  config.update_from_flattened_dict(
      {name: known[name] for name in (*SYMMETRIES, *RESIZED)
       if flatten(config)[name] == AUTO})
  if (config.start.spaces, known['start.spaces']) == (PLAIN, EMBEDDED):
    config.start.spaces = EMBEDDED


def has_config(workdir) -> bool:
  """Whether a run has begun in the workdir; False also where it cannot be looked at."""
  return os.path.isfile(pathlib.Path(workdir) / 'config.json')


def fitted_config(workdir):
  """The config of a fitted workdir; a list that is in there is found where that is now.

  Raises:
    UserError: there is none.
  """
  if not has_config(workdir):
    if os.path.isdir(workdir) and not os.access(workdir, os.R_OK | os.X_OK):
      raise UserError(f'The workdir {str(workdir)!r} may not be looked into (Permission '
                      'denied): change its permissions.')
    for path in pathlib.Path(workdir).parents:
      if has_config(path) and (path / 'checkpoints').is_dir():
        raise UserError(f'The workdir {str(workdir)!r} is no run, but lies in one: give '
                        f"{shlex.quote(f'--workdir={path}')}.")
    beside = sorted(path.parent for path in
                    pathlib.Path(workdir).parent.glob('*/config.json'))
    there = ', '.join(map(str, beside[:5])) + ', ...' * (len(beside) > 5)
    raise UserError(f'The workdir {str(workdir)!r} has no fitted model (no config.json): '
                    'cluster images there first (jdiffclust FOLDER '
                    f'--workdir={shlex.quote(str(workdir))}), or correct --workdir'
                    + (f'; beside it are the runs {there}.' if beside else '.'))
  config = from_json((pathlib.Path(workdir) / 'config.json').read_bytes())
  config.data.path = where_it_is(config.data.path, workdir)
  return config


def where_it_is(path: str, workdir) -> str:
  """The path of a run's own list of images, should its folder have been moved since.

  Args:
    path: the option data.path; any but that of such a list stays.
    workdir: the folder, where it is now.
  """
  own = pathlib.Path(workdir) / LISTED
  return str(own) if pathlib.Path(path).name == LISTED and own.is_file() else path
