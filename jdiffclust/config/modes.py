"""What each command but a fit reads of the options; a fit reads them all."""

from __future__ import annotations

from collections.abc import Iterable

from jdiffclust.config.options import AUTO, all_options, copied, flatten
from jdiffclust.errors import UserError

DEVICES = ('num_devices', 'distributed', 'programs')
E_STEP = ('e_step.batch_size', 'e_step.draws_per_chunk', 'e_step.clusters_per_chunk')
READING = ('data.pipeline', 'data.memory_limit_mb', 'data.workers')
WHEREABOUTS = ('data.path', 'data.labels_path', 'data.label_key', 'data.use_labels',
               'data.unreadable', 'data.labels', 'data.metadata')
EMBEDDINGS = 'data.embeddings'
# Sections and options that a command is asked by, of a model that is fitted already.
# An evaluation draws images of each cluster, and no way to them or between two.
_OF_ROWS = ('sample.clusters', 'sample.interpolate', 'sample.trajectory')
ASKED = {
    'predict': (*DEVICES, *E_STEP, *READING, 'predict'),
    'add': (*DEVICES, *E_STEP, *READING, 'predict'),
    'sample': (*DEVICES, 'sample'),
    'restore': (*DEVICES, *READING, 'restore'),
    'decide': (), 'sort': ('data.path',), 'similar': (*DEVICES, 'data.unreadable'),
    'evaluate': (*DEVICES, *E_STEP, *READING, *WHEREABOUTS, EMBEDDINGS,
                 *(name for name in all_options()
                   if name.startswith('sample.') and name not in _OF_ROWS), 'quality')}
# What describes the images of a command, other than those of the fit.
_OTHERS = (*WHEREABOUTS, 'data.source', 'data.name', 'data.split', 'data.image_key',
           'data.range', 'data.background', 'data.frames', 'data.max_images')
NEW_IMAGES = {'predict': (*_OTHERS, EMBEDDINGS), 'add': (*_OTHERS, EMBEDDINGS),
              'restore': _OTHERS}


def _covers(names: Iterable[str], option: str) -> bool:
  return any(option == name or option.startswith(f'{name}.') for name in names)


def check_usable(mode: str, named: Iterable[str], fitted, given) -> None:
  """Checks that a command can use the options that it is given.

  The command of the fit may be given again: what is as in the fit does no harm.

  Args:
    mode: one of `ASKED`.
    named: dotted names of options, as on the command line.
    fitted: the config of the fit.
    given: the config with these options.

  Raises:
    UserError: one would change nothing, though it is not as in the fit; or it is of
      another method.
  """
  usable = (*ASKED[mode], *NEW_IMAGES.get(mode, ()))
  before, now = flatten(fitted), flatten(given)
  if ('data.path' in named and now['data.path'] and now['data.source'] == 'digits'
      and mode in NEW_IMAGES):
    raise UserError(f"config.data.path = {now['data.path']!r} has no effect: config."
                    "data.source = 'digits', as in the fit, needs no files. Set config."
                    'data.source=folder (or npz, idx, tfds).')
  for name in named:
    option = all_options()[name]
    if not option.read_by(fitted.method) and now[name] != option.default:
      raise UserError(f'config.{name} = {now[name]!r} has no effect on the fit in the '
                      f'workdir, of method={fitted.method}: it is of '
                      f"{', '.join(option.methods)}. Leave it out.")
    if not _covers(usable, name) and now[name] not in (before[name], AUTO):
      shown = ', '.join(f'config.{part}' + '.*' * (part not in all_options())
                        for part in usable) or 'no option'
      raise UserError(
          f'--mode={mode} cannot use config.{name} = {now[name]!r}: the fit in the '
          f'workdir has {before[name]!r}. Leave it out; {mode} reads {shown}.')


def asked_of(mode: str, fitted, given):
  """The config of a fit, with what a command is asked by set to what is given now.

  Args:
    mode: one of `ASKED`.
    fitted: the config of the fit.
    given: a config.

  Returns:
    A config of its own.
  """
  config = copied(fitted)
  config.update_from_flattened_dict(
      {name: value for name, value in flatten(given).items()
       if _covers(ASKED[mode], name)})
  return config
