"""Which images a run was begun with: their ids, and checksums of their pixels."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jdiffclust.data.dataset import (
    ImageSource, chosen_thumbnail, embeddings_at, read_images)
from jdiffclust.data.sources.common import LazyImages
from jdiffclust.errors import UserError

# Images whose pixels are looked at where each access decodes a file.
MOST_DECODED = 4096
BLOCK = 1024
ARRAY = 'array'  # the name of images that were no file


def fingerprint(source: ImageSource) -> dict[str, Any]:
  """What tells the images of a run from others; JSON can hold it.

  Args:
    source: N images, finished.

  Returns:
    dataset, its name; image_shape; levels; ids, N texts; checksums, N integers, null for
    those images, beyond `MOST_DECODED`, that would have to be decoded for it. Of images
    with embeddings: embeddings, their size D and checksums, N integers.
  """
  count = source.num_images
  looked_at = np.arange(count)
  if isinstance(source.images, LazyImages) and count > MOST_DECODED:
    by_id = np.argsort(np.array(source.ids), kind='stable')  # the same in any order
    looked_at = np.sort(by_id[np.arange(MOST_DECODED) * count // MOST_DECODED])
  checksums: list[int | None] = [None] * count
  for start in range(0, len(looked_at), BLOCK):
    rows = looked_at[start:start + BLOCK]
    for row, image in zip(rows, read_images(source, rows)):
      checksums[row] = zlib.crc32(np.ascontiguousarray(image).tobytes())
  found: dict[str, Any] = {
      'dataset': source.name, 'image_shape': list(source.image_shape),
      'levels': source.levels, 'ids': list(source.ids), 'checksums': checksums}
  if source.embeddings is not None:
    found['embeddings'] = {'size': source.embeddings.shape[1], 'checksums': [
        zlib.crc32(row.tobytes()) for start in range(0, count, BLOCK)
        for row in np.asarray(
            embeddings_at(source, range(start, min(start + BLOCK, count))))]}
  return found


def first_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
  """What sets the images of two of `fingerprint` apart, in their order; '': nothing."""
  if len(there['ids']) != len(here['ids']):
    return f"{len(there['ids'])} images there, {len(here['ids'])} here"
  for name in ('dataset', 'image_shape', 'levels'):
    if there[name] != here[name]:
      return f'{name} is {there[name]!r} there, {here[name]!r} here'
  for row, (old, new) in enumerate(zip(there['ids'], here['ids'])):
    if old != new:
      return f'image {row} is {old!r} there, {new!r} here'
    if there['checksums'][row] != here['checksums'][row]:
      return f'image {row} ({old!r}) has other pixels'
  if there.get('embeddings') != here.get('embeddings'):
    return 'the embeddings'
  return ''


def as_before(source: ImageSource, kept: Mapping[str, Any], where: str) -> ImageSource:
  """The images in the order that a run began with.

  Args:
    source: the images found now.
    kept: of `fingerprint`, when the run began.
    where: what error messages call the run.

  Returns:
    The same images, in the order of `kept`.

  Raises:
    UserError: they or their embeddings are others; the first one that differs is named.
  """
  mend = (f'restore the images that the run in {where} began with, or choose another '
          '--workdir.')
  if kept.get('dataset') == ARRAY != source.name:
    mend = (f'the run in {where} began with an array that was given to jdiffclust.fit: '
            'give it again, or as a .npy file by --config.data.source=npz and '
            '--config.data.path, with what else the config says of data.')
  here, there = set(source.ids), set(kept['ids'])
  missing = next((name for name in kept['ids'] if name not in here), None)
  new = next((name for name in source.ids if name not in there), None)
  if missing is not None or new is not None:
    found = [f'{missing!r} is missing' * (missing is not None),
             f'{new!r} is new' * (new is not None)]
    raise UserError(f"The data have {source.num_images} images now, {len(kept['ids'])} "
                    f"before: {', '.join(filter(None, found))}; {mend}")
  now, before = ((tuple(shape), levels) for shape, levels in (
      (source.image_shape, source.levels), (kept['image_shape'], kept['levels'])))
  if now != before:
    raise UserError(
        f'The images are of {now[0]} with {now[1] or "no"} levels now, of {before[0]} '
        f'with {before[1] or "no"} before; {mend}')
  if tuple(kept['ids']) != tuple(source.ids):
    place = {name: row for row, name in enumerate(source.ids)}
    source = reordered(source, np.array([place[name] for name in kept['ids']]))
  found = fingerprint(source)
  for name, old, new in zip(kept['ids'], kept['checksums'], found['checksums']):
    if old is not None and new is not None and old != new:
      raise UserError(f'The pixels of {name!r} are others than before; {mend}')
  _check_embeddings(found.get('embeddings'), kept.get('embeddings'), kept['ids'], where)
  return source


def _check_embeddings(now: Mapping | None, before: Mapping | None, ids: Sequence[str],
                      where: str) -> None:
  """Checks that images have the embeddings, or none, that a run began with."""
  mend = (f'give those that the run in {where} began with (--config.data.embeddings), or '
          'choose another --workdir.')
  if now is None:
    if before is None:
      return
    raise UserError(f'The images had embeddings before, and have none now; {mend}')
  if before is None:
    raise UserError(f'The run in {where} began without embeddings: leave them out, or '
                    'choose another --workdir.')
  if now['size'] != before['size']:
    raise UserError(f"The embeddings have {now['size']} numbers now, {before['size']} "
                    f'before; {mend}')
  for row, (old, new) in enumerate(zip(before['checksums'], now['checksums'])):
    if old != new:
      raise UserError(f'The embedding of image {row} ({ids[row]!r}) is another one than '
                      f'before; {mend}')


def reordered(source: ImageSource, order: np.ndarray) -> ImageSource:
  """The images of some indices, int [n], in this order."""
  images = (source.images[order] if isinstance(source.images, np.ndarray)
            else source.images.take(order))
  finer = source.finer and reordered(source.finer, order)
  return dataclasses.replace(
      source, images=images, finer=finer, ids=tuple(source.ids[i] for i in order),
      thumbnail=source.thumbnail and functools.partial(
          chosen_thumbnail, source.thumbnail, order),
      embeddings=embeddings_at(source, order),
      stored=source.stored and source.stored.take(order),
      labels=None if source.labels is None else source.labels[order],
      metadata={name: [cells[i] for i in order]
                for name, cells in source.metadata.items()})
