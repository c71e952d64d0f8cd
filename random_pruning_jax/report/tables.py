"""Tables of mean and sd over seeds, by any two fields; `formats` writes them."""

import statistics
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from random_pruning_jax import tables as text_tables
from random_pruning_jax.report import measured
from random_pruning_jax.report.runs import DENSE, FIELDS, RATIO, SELECT, Run, grouped

# Names for what a report takes from several numbers or from elsewhere in a row (`Run.metric`).
_OWN = {
  'auroc': text_tables.Column('AUROC, mean over foreign sets', 'higher', '{:.4f}'),
  'fgsm': text_tables.Column('accuracy under FGSM', 'higher', '{:.2%}'),
  'validation_accuracy': text_tables.Column('validation accuracy', 'higher', '{:.2%}'),
  'train_seconds': text_tables.Column('training time, s', 'lower', '{:.4f}'),
  'kept': text_tables.Column('weights kept', '', '{:.0f}'),
  'macs': text_tables.Column('multiply-adds', 'lower', '{:.0f}'),
}
_DENSITY = {'density', 'pruning.density'}
_NAME, _WIDTH = {'name', 'model.name'}, {'width', 'model.width'}
_HOW = 'how it was measured'
# In a table by one of these, dense runs have a row or column of their own.
_APART = {'scheme', 'sparsity'} | _DENSITY | RATIO | SELECT


class Cell(NamedTuple):
  """Numbers of one cell, one a seed; runs that have none are counted."""

  values: tuple[float, ...]
  failed: int = 0
  missing: int = 0  # planned or begun, and not done
  without: int = 0  # done, and without this number

  @property
  def mean(self) -> float:
    return statistics.fmean(self.values)

  @property
  def sd(self) -> float | None:
    """Sample standard deviation; None for a single number."""
    return statistics.stdev(self.values) if len(self.values) > 1 else None


class Table(NamedTuple):
  """Cells by row and column; all else is equal in them, but for the seed."""

  title: str
  rows: list[Any]
  columns: list[Any]
  cells: dict[tuple[Any, Any], Cell]
  corner: str  # 'scheme / sparsity'
  metric: str


def pivot(runs: Sequence[Run], rows: str, columns: str, metric: str) -> list[Table]:
  """One table for each combination of what is neither row, column nor seed.

  Its numbers are of the same foreign sets, epsilon and attacks, which its title names. Dense runs
  have no ratio: where rows are schemes, they are the row 'dense'. Raises ValueError for a field or
  a metric that no run has.
  """
  for name in (rows, columns):
    if all(run.field(name) is None for run in runs):
      known = sorted({field for run in runs for field in run.config})
      raise ValueError(f'{name} must be {", ".join(FIELDS)} or one of {", ".join(known)}.')
  done = [run for run in runs if run.state == 'done']
  if done and all(run.metric(metric) is None for run in done):
    known = {name for run in done for name in run.row.get('metrics', {})}
    known |= {name for name in _OWN if any(run.metric(name) is not None for run in done)}
    raise ValueError(f'--metric must be one of {", ".join(sorted(known))}; got {metric}.')
  hows = _how_measured(runs, metric)
  groups: dict[tuple, list[Run]] = {}
  # A dense or unmeasured run joins every table it fits, and so comes last; others have exactly one.
  for run, how in sorted(zip(runs, hows, strict=True), key=lambda x: (x[0].dense, x[1] is None)):
    key = (*_rest(run, rows, columns), (_HOW, how or ''))
    free = set() if how is not None else {_HOW}
    if run.dense and {rows, columns} & _APART:  # else it would be in a sparse run's cell
      free |= {'scheme', 'sparsity'}
    alike = [other for other in groups if _joins(key, other, free)]
    for each in alike or [key]:
      groups.setdefault(each, []).append(run)
  return [_table(key, members, rows, columns, metric) for key, members in groups.items()]


def cell_of(runs: Sequence[Run], metric: str, parts: Sequence[str] | None = None) -> Cell:
  """Numbers of runs that differ in their seed alone; copies, which sweeps may share, count once.

  `parts` are what the metric is taken from (`measured.parts`), by default of these runs alone.
  """
  each = one_a_seed(runs)
  done = [run for run in each.values() if run.state == 'done']
  if parts is None:
    parts = measured.parts(metric, [run.numbers for run in done])
  values = [run.metric(metric, parts) for run in done]
  return Cell(
    tuple(value for value in values if value is not None),
    sum(run.state == 'failed' for run in each.values()),
    sum(run.state == 'missing' for run in each.values()),
    values.count(None),
  )


def one_a_seed(runs: Sequence[Run]) -> dict[int, Run]:
  """{seed: run}: of several runs the one that is done, and of those the last measured."""

  def rank(run: Run) -> tuple:
    return run.state == 'done', run.state == 'failed', run.row.get('time', '')

  return {run.seed: run for run in sorted(runs, key=rank)}


def once(runs: Sequence[Run]) -> list[Run]:
  """One run a seed of each cell, in the order of the runs: directories may hold copies."""
  cells = grouped(runs, lambda run: run.cell).values()
  kept = {id(run) for copies in cells for run in one_a_seed(copies).values()}
  return [run for run in runs if id(run) in kept]


def missing(runs: Sequence[Run]) -> int:
  """How many planned runs are not there yet, and not in another directory either."""
  return sum(run.state == 'missing' for run in once(runs))


def paired(sparse: Sequence[Run], dense: Sequence[Run], metric: str) -> dict[int, float]:
  """{seed: sparse - dense} of the seeds that both have, on the same foreign sets and epsilon."""
  ours, theirs = one_a_seed(sparse), one_a_seed(dense)
  both = {seed: (ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())}
  parts = measured.parts(metric, [run.numbers for pair in both.values() for run in pair])
  values = {seed: [run.metric(metric, parts) for run in pair] for seed, pair in both.items()}
  return {seed: a - b for seed, (a, b) in values.items() if None not in (a, b)}


def column(metric: str) -> text_tables.Column:
  """Label and format of a metric, including the names that only reports have."""
  return _OWN[metric] if metric in _OWN else text_tables.column(metric)


def scale(metric: str) -> tuple[float, int]:
  """What a number is multiplied with and its digits: accuracies are in percent, counts whole."""
  show = column(metric).show
  return (100.0, 2) if '%' in show else (1.0, 0 if show == '{:.0f}' else 4)


def str_field(value: Any) -> str:
  return f'{value:g}' if isinstance(value, float) else str(value)


def _rest(run: Run, rows: str, columns: str) -> tuple[tuple[str, Any], ...]:
  """What must be equal within a table, so that runs of one cell differ in their seed alone.

  '' is what rows and columns say.
  """
  axes = {rows, columns}
  return (
    ('dataset', '' if 'dataset' in axes else run.dataset),
    ('setting', '' if 'setting' in axes else run.setting_beside(axes)),
    ('network', _rest_of_network(run, axes)),
    ('scheme', _rest_of_scheme(run, axes)),
    ('sparsity', '' if axes & {'sparsity', *_DENSITY} else run.sparsity),
  )


def _how_measured(runs: Sequence[Run], metric: str) -> list[str | None]:
  """How each run was measured, where that differs; None for a run that has no such number."""
  have = [run for run in runs if run.metric(metric) is not None]
  hows = dict(
    zip(map(id, have), measured.differing(metric, [run.row for run in have]), strict=True)
  )
  return [hows.get(id(run)) if any(hows.values()) else '' for run in runs]


def _rest_of_network(run: Run, axes: set[str]) -> str:
  """What rows and columns do not say of a network: nothing, or its width, family, or all."""
  if 'network' in axes or (axes & _NAME and axes & _WIDTH):
    return ''
  if axes & _NAME:
    return f'width {run.width}' if run.width else ''
  kind = run.family if 'depth' in axes else run.model
  return kind + (f'-w{run.width}' if run.width and not axes & _WIDTH else '')


def _rest_of_scheme(run: Run, axes: set[str]) -> str:
  """What they do not say of a scheme; of 'erk/snip, n_m of 4' they may say ratio and selection."""
  if 'scheme' in axes or run.dense:
    return '' if 'scheme' in axes else DENSE
  first, *notes = run.scheme.split(', ')
  ratio, _, select = first.partition('/')
  said = ['' if axes & RATIO else ratio, '' if axes & SELECT or not select else f'/{select}']
  return ', '.join(filter(None, [''.join(said), *notes]))


def _joins(key: tuple, other: tuple, free: Collection[str]) -> bool:
  """Whether two keys agree in every field outside `free`.

  A dense network has no ratio, and a run without the number was not measured in any way.
  """
  return all(a == b or a[0] in free for a, b in zip(key, other, strict=True))


def _table(key: tuple, members: Sequence[Run], rows: str, columns: str, metric: str) -> Table:
  found = grouped(members, lambda run: (run.field(rows), run.field(columns)))
  title = ', '.join(str_field(value) for _, value in key if value not in ('', None))
  each = [run.numbers for runs in found.values() for run in one_a_seed(runs).values()]
  parts, on = measured.parts(metric, each), measured.on(metric, each)
  seen = {run.row.get('notes', {}).get(metric, '').rpartition('; ')[2] for run in members}
  on = on or ', '.join(sorted(seen - {''})) * metric.startswith('adversarial/')
  label = column(metric).label + (f' ({on})' if on else '')
  return Table(
    ': '.join(filter(None, [title, label])),
    _sorted(row for row, _ in found),
    _sorted(column for _, column in found),
    {place: cell_of(runs, metric, parts) for place, runs in found.items()},
    f'{rows} / {columns}',
    metric,
  )


def _sorted(values: Iterable[Any]) -> list[Any]:
  """Each once: dense first, numbers by size, words in the order of the runs."""
  return sorted(
    dict.fromkeys(values),
    key=lambda v: (v != DENSE, isinstance(v, str), v if isinstance(v, int | float) else 0),
  )
