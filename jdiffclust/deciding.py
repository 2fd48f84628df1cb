"""The tables of a run as a person's decisions make them, from what a fit has left.

A table has the run's own N images first, and behind them those that were added to it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jdiffclust import added, decisions, exploring, splits
from jdiffclust.added import Added
from jdiffclust.decisions import CLUSTERS, Decisions
from jdiffclust.errors import WRITES_IT, UserError
from jdiffclust.evaluation import gallery
from jdiffclust.evaluation.gallery import Copies, Gallery
from jdiffclust.exploring import Beside
from jdiffclust.report import explorer, results, spreadsheet
from jdiffclust.report.spreadsheet import Columns
from jdiffclust.report.thumbnails import Sheets
from jdiffclust.splits import Splits

# All that is known of each image, .csv and .parquet.
RESULTS = 'results'


class Table(NamedTuple):
  """What the results of a run say.

  Attributes:
    columns: of all images, see `spreadsheet.columns_of`.
    number: N, of the run's own images, which come first.
  """

  columns: Columns
  number: int

  @property
  def own(self) -> Columns:
    """The rows of the run's own images."""
    return spreadsheet.of_rows(self.columns, range(self.number))

  @property
  def ids(self) -> Sequence[str]:
    """The ids of the run's own images."""
    return self.columns['file'][:self.number]

  @property
  def others(self) -> Sequence[str]:
    """The ids of the images that were added."""
    return self.columns['file'][self.number:]


def read_table(workdir: pathlib.Path, others: Sequence[str] | None = None) -> Table:
  """The results of a run.

  Args:
    workdir: its folder.
    others: the ids of the images that were added to it; None: those of now. Who does not
      hold the folder reads them once, since they may be taken back at any time.

  Raises:
    UserError: a fit has left none there.
  """
  columns = spreadsheet.read_parquet(workdir / f'{RESULTS}.parquet')
  known = set(added.ids_in(workdir) if others is None else others)
  own = np.flatnonzero(~np.array(columns['added'], bool))
  rows = [*own, *(row for row, name in enumerate(columns['file'])
                  if columns['added'][row] and name in known)]
  return Table(spreadsheet.of_rows(columns, rows), len(own))


def read_gallery(workdir: pathlib.Path, ids: Sequence[str]) -> Gallery:
  """What the images of a run look like.

  Args:
    workdir: its folder.
    ids: of its own images, as its results have them.

  Raises:
    UserError: it is missing, damaged, or of other images.
  """
  known = gallery.read(workdir / gallery.FILE)
  if known is None:
    raise UserError(f'{workdir / gallery.FILE} is missing or damaged: {WRITES_IT}.')
  if known.ids.tolist() != list(ids):
    raise UserError(f'{workdir / gallery.FILE} and {RESULTS}.parquet are of different '
                    f'images: {WRITES_IT}.')
  return known


def decided_of(workdir: pathlib.Path, num_clusters: int, table: Table,
               cut: Splits | None = None,
               others: Sequence[str] | None = None) -> Decisions:
  """What was decided of all images of a table.

  Args:
    workdir: the folder of the run.
    num_clusters: Q.
    table: its results.
    cut: see `decisions.read`.
    others: of `read_table`.

  Raises:
    UserError: as of `decisions.read`.
  """
  every = added.ids_in(workdir) if others is None else list(others)
  decided = decisions.read(workdir, num_clusters, table.ids, every, cut)
  place = {name: row for row, name in enumerate([*table.ids, *every])}
  decided = decided._replace(pins=decided.pins[[place[name] for name in
                                                table.columns['file']]])
  if not table.others:
    return decided
  near, away = (table.columns[name][table.number:]
                for name in ('neighbor_files', 'neighbor_distances'))
  return decided.and_others(np.array([[place[name] for name in row] for row in near]),
                            np.array(away))


def write_table(workdir: pathlib.Path, table: Table, decided: Decisions) -> Columns:
  """Writes results.csv and .parquet as was decided; returns the columns."""
  columns = spreadsheet.decided_anew(table.columns, decided)
  spreadsheet.write_parquet(workdir / f'{RESULTS}.parquet', columns)
  spreadsheet.write_csv(workdir / f'{RESULTS}.csv', columns)
  return columns


def rewrite(workdir: pathlib.Path, table: Table, decided: Decisions) -> Columns:
  """Writes results and report as was decided; returns the columns.

  Raises:
    UserError: something that the report shows is missing.
  """
  columns = spreadsheet.decided_anew(table.columns, decided)
  results.rewrite_page(workdir, lambda known, sheets: explored(
      workdir, table, columns, decided, known, sheets))
  return write_table(workdir, table, decided)


def added_of(workdir: pathlib.Path, table: Table) -> Added | None:
  """The images that were added to a run, as a table has them; None: it has none."""
  return in_order(added.read(workdir), table) if table.others else None


def in_order(more: Added | None, table: Table) -> Added | None:
  """Images that were added, those that a table has and in its order; None: none."""
  if more is None or not table.others:
    return None
  place = {name: row for row, name in enumerate(more.ids)}
  return more.of(np.array([place[name] for name in table.others]))


def explored(workdir: pathlib.Path, table: Table, columns: Columns, decided: Decisions,
             known: Gallery, sheets: Mapping[str, Sheets]) -> explorer.Explored:
  """What the page shows of a run.

  Args:
    workdir: its folder.
    table: its results.
    columns: the same as was decided.
    decided: of all images.
    known: what its own images look like.
    sheets: pictures of these.
  """
  more = added_of(workdir, table)
  if more is None:
    return explorer.Explored(columns, decided, known.features, sheets)
  return explorer.Explored(
      columns, decided, np.concatenate([known.features, more.features]),
      explorer.with_added(sheets, table.number, more.originals, more.pictures))


def share_below(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
  """The share of the reference [m] that is smaller than each of values [n], [n]."""
  return np.searchsorted(np.sort(reference), values) / len(reference)


def with_added(own: Columns, known: Gallery, more: Added | None) -> Table:
  """The results of a run with the images that were added to it.

  Args:
    own: the rows of the run's own images.
    known: what these look like.
    more: the others; those that could not be told are left out; None: there are none.

  Returns:
    A `Table`; who belongs to which cluster is by the model alone.
  """
  count = len(known.ids)
  more = more and more.of(more.told)
  if more is None or not len(more.ids):
    return Table(own, count)
  near, away = gallery.nearest(more.features, known.features, gallery.NEAREST)
  copies = gallery.copies_among(np.concatenate([known.signatures, more.signatures]),
                                np.concatenate([known.digests, more.digests]))
  beside = Beside(near, away, gallery.placed(more.features, known.features, known.points),
                  Copies(copies.of[count:], copies.exact[count:]))
  every = [*own['file'], *more.ids]
  names = dict.fromkeys(name for cells in more.metadata for name in cells)
  columns = spreadsheet.columns_of(
      more.ids, more.responsibilities, more.bound,
      decisions.none_of(more.responsibilities.shape[1], len(more.ids)),
      share_below(more.bound, np.array(own['bound'], float)),
      (more.foreign, more.reasons), beside, every,
      [label or '' for label in more.labels] if any(more.labels) else None,
      {name: [cells.get(name) for cells in more.metadata] for name in names},
      more.pictures if len(every) <= exploring.MOST_SHOWN else None, True)
  return Table(spreadsheet.one_below_the_other(own, columns), count)


# ------------------------------------------------------------------- commands
#
# What is decided is kept after the results show it: a command that is cut off while it
# writes these, and given again, does the same, not the same once more.


def write_decided(workdir: pathlib.Path, num_clusters: int) -> str:
  """Writes results and report anew as a person's tables say, from what a fit has left.

  Args:
    workdir: the folder of the run.
    num_clusters: Q.

  Returns:
    What to tell of it.

  Raises:
    UserError: a fit has left no results there, or a table is wrong.
  """
  table = read_table(workdir)
  decided = decided_of(workdir, num_clusters, table)
  rewrite(workdir, table, decided)
  parts = len(decided.splits.clusters)
  split = f' and {parts} split off' * bool(parts)
  groups, named = len(np.unique(decided.owners)), sum(map(bool, decided.names))
  pinned = int(np.sum(decided.pins >= 0))
  return (f'{named} of {num_clusters} clusters{split} have a name, {groups} are left of '
          f"them, {pinned} image{' is' if pinned == 1 else 's are'} pinned: "
          f'{workdir / RESULTS}.csv, .parquet and report.html say so')


def clusters_decided(workdir: pathlib.Path, num_clusters: int,
                     others: Sequence[str] | None = None) -> tuple[Table, list[str]]:
  """The results of a run, and what the cluster of each image is called.

  Args:
    workdir, num_clusters: as of `write_decided`.
    others: of `read_table`.

  Raises:
    UserError: as of `write_decided`.
  """
  table = read_table(workdir, others)
  decided = decided_of(workdir, num_clusters, table, others=others)
  return table, list(spreadsheet.decided_anew(table.columns, decided)['name'])


def split(workdir: pathlib.Path, num_clusters: int, which: str, seed: int) -> str:
  """Cuts a cluster in two, and writes results and report anew.

  Args:
    workdir: the folder of the run.
    num_clusters: Q.
    which: the number or the name of the cluster.
    seed: of the run.

  Returns:
    What to tell of it.

  Raises:
    UserError: there is no such cluster, or it cannot be cut; nothing is changed then.
  """
  table = read_table(workdir)
  decided = decided_of(workdir, num_clusters, table)
  number, name = _one_cluster(decided, which)
  known = read_gallery(workdir, table.ids)
  # Where a person has pinned an image says nothing of how it looks.
  alone = decided.of(slice(table.number))._replace(pins=np.full(table.number, -1))
  tau = np.asarray(table.columns['probabilities'])[:table.number]
  members = alone.clusters_of(tau) == number
  if members.sum() < splits.FEWEST:
    raise UserError(f'{name} has {members.sum()} images: it takes {splits.FEWEST} or '
                    'more to split a cluster in two.')
  share = exploring.smaller_part(known.features, members, seed)
  if share is None:
    raise UserError(f'The {members.sum()} images of {name} all look the same to the run: '
                    'nothing tells two parts apart.')
  before = decided.splits
  if not len(before.clusters):
    before = splits.none_of(num_clusters, table.ids, known.digests)
  cut = before.one_more(number, share)
  after = decided_of(workdir, num_clusters, table, cut)
  new = num_clusters + len(cut.clusters) - 1
  columns = rewrite(workdir, table, after)
  splits.write(workdir, cut)
  sizes = [columns['cluster'].count(part) for part in (number, new)]
  decisions.with_row(workdir, new, sizes[1])
  return (f'{name} was split: {sizes[0]:,} images stay in {number}, {sizes[1]:,} are '
          f'cluster {new} now. {workdir / RESULTS}.csv, .parquet and report.html say so; '
          f'name it in {CLUSTERS}; --mode=decide --unsplit --workdir={workdir} takes it '
          'back')


def _one_cluster(decided: Decisions, which: str) -> tuple[int, str]:
  """The cluster that a number or a name means, and what to call it.

  Raises:
    UserError: there is none, or it is several that are one.
  """
  if which.strip().isdecimal():
    number = int(which)
    if number >= len(decided.names):
      raise UserError(f'--split={which}: there is no cluster {number}; it must be a '
                      f'number of 0..{len(decided.names) - 1}, or a name of {CLUSTERS}.')
  else:
    number = decided.numbers_of(which)[0]
  one = np.flatnonzero(decided.owners == decided.owners[number])
  if len(one) > 1:
    raise UserError(f"--split={which}: clusters {', '.join(map(str, one))} are one by "
                    f'their name, {decided.names[number]!r}: take it from all but one '
                    f'in {CLUSTERS}, and split that.')
  return number, (f'{decided.names[number]!r} (cluster {number})'
                  if decided.names[number] else f'Cluster {number}')


def unsplit(workdir: pathlib.Path, num_clusters: int) -> str:
  """Takes the last split back, and writes results and report anew.

  Args and returns: as of `write_decided`.

  Raises:
    UserError: there is none, or the part is still spoken of; nothing is changed then.
  """
  table = read_table(workdir)
  decided = decided_of(workdir, num_clusters, table)
  if not len(decided.splits.clusters):
    raise UserError(f'There is no split to take back: no cluster of {workdir} was split.')
  last, cut = len(decided.names) - 1, decided.splits.one_less()
  path = workdir / CLUSTERS
  text = path.read_bytes() if path.is_file() else None
  try:
    decisions.without_row(workdir, last)
    after = decided_of(workdir, num_clusters, table, cut)
  except UserError:  # a pinned image, say
    if text is not None:
      path.write_bytes(text)
    raise
  rewrite(workdir, table, after)
  splits.write(workdir, cut)
  name = f', with its name {decided.names[last]!r}' * bool(decided.names[last])
  back = int(decided.splits.clusters[-1])
  return (f'Cluster {last} is gone{name}: its images are back in cluster {back}. '
          f'{workdir / RESULTS}.csv, .parquet and report.html say so')


def undo_added(workdir: pathlib.Path, num_clusters: int) -> str:
  """Takes the images that were added last out of a run again.

  Args and returns: as of `write_decided`.

  Raises:
    UserError: none were added, or a pinned one is among them.
  """
  before, table = added.read(workdir), read_table(workdir)
  if before is None:
    raise UserError(f'There is nothing to undo: no images were added to {workdir}.')
  after = before.without_last()
  known = read_gallery(workdir, table.ids)
  gone = set(before.ids[len(after.ids):])
  pins = decided_of(workdir, num_clusters, table).pins
  pinned = [name for name, pin in zip(table.columns['file'], pins)
            if pin >= 0 and name in gone]
  if pinned:
    raise UserError(f'{pinned[0]!r}, which was added last, is pinned to a cluster: take '
                    f'its row out of {workdir / decisions.PINNED} first.')
  decisions.read(workdir, num_clusters, table.ids, after.ids)
  table = with_added(table.own, known, after)
  rewrite(workdir, table, decided_of(workdir, num_clusters, table))
  added.write(workdir, after)
  return (f'{len(before.ids) - len(after.ids):,} images were taken back: '
          f'{workdir / RESULTS}.csv and .parquet have '
          f"{len(table.columns['file']):,} images now")
