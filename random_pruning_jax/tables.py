"""Numbers as tables that a person likes to read."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
  """How a number is shown, and which way is better: 'higher', 'lower' or '' for neither."""

  label: str
  better: str
  show: str  # a format


SHOWN = {
  'accuracy': Column('test accuracy', 'higher', '{:.2%}'),
  'nll': Column('NLL', 'lower', '{:.4f}'),
  'brier': Column('Brier', 'lower', '{:.4f}'),
  'ece': Column('ECE, 15 bins', 'lower', '{:.4f}'),
}
SHOWN_LAST_PART = {
  'auroc': Column('AUROC', 'higher', '{:.4f}'),
  'aupr_in': Column('AUPR-in', 'higher', '{:.4f}'),
  'aupr_out': Column('AUPR-out', 'higher', '{:.4f}'),
  'fpr95_ood_positive': Column('FPR95, OoD positive', 'lower', '{:.4f}'),
  'fpr95_id_positive': Column('FPR95, ID positive', 'lower', '{:.4f}'),
}


def column(name: str) -> Column:
  """How the number called `name` ('nll', 'ood/mnist/msp/auroc', 'adversarial/fgsm/8/255') is shown."""
  if name in SHOWN:
    return SHOWN[name]
  if name.startswith('adversarial/'):
    attack, epsilon = name.split('/', 2)[1:]
    return Column(f'accuracy under {attack} {epsilon}', 'higher', '{:.2%}')
  *path, last = name.split('/')
  known = SHOWN_LAST_PART.get(last, Column(last, '', '{:.4g}'))
  return known._replace(label=' '.join([*path[1:], known.label]))


def side_by_side(rows: Sequence[dict[str, Any]]) -> str:
  """Result rows as columns, the better number of each line marked with *."""
  head = ['', *map(_title, rows)]
  lines = [
    ['sparsity', *(f'{1 - row["density"]:.1%}' for row in rows)],
    ['density', *(f'{row["density"]:.4f}' for row in rows)],
    ['weights kept', *(f'{row["kept"]:,}' for row in rows)],
    ['multiply-adds an image', *(_count(row['macs']) for row in rows)],
    ['training time', *(f'{row["train_seconds"]:,.0f} s' for row in rows)],
    [],
  ]
  names = list(dict.fromkeys(name for row in rows for name in row['metrics']))
  for name in names:
    values = [row['metrics'].get(name) for row in rows]
    shown = column(name)
    marks = _marks(values, shown.better) if len(rows) > 1 else [' '] * len(rows)
    cells = [
      (shown.show.format(value) if value is not None else '-') + mark
      for value, mark in zip(values, marks, strict=True)
    ]
    lines.append([shown.label, *cells])
  legend = '\n* the better of the two' if len(rows) > 1 else ''
  return text([head, *lines]) + legend


def text(lines: Sequence[Sequence[str]]) -> str:
  """Cells in columns: the first to the left, the others to the right; an empty line is a rule."""
  widths = [
    max(len(line[i]) for line in lines if len(line) > i) for i in range(max(map(len, lines)))
  ]
  rule = '-' * (sum(widths) + 2 * (len(widths) - 1))
  out = []
  for i, line in enumerate(lines):
    cells = [
      cell.ljust(width) if j == 0 else cell.rjust(width)
      for j, (cell, width) in enumerate(zip(line, widths, strict=False))
    ]
    out.append('  '.join(cells).rstrip() if line else rule)
    if i == 0:
      out.append(rule)
  return '\n'.join(out)


def _title(row: dict[str, Any]) -> str:
  config = row['config']
  if row['density'] == 1:
    return 'dense '
  return f'{config["pruning.ratio"]}/{config["pruning.select"]} '


def _marks(values: Sequence[float | None], better: str) -> list[str]:
  known = [value for value in values if value is not None]
  if not better or len(set(known)) < 2:
    return [' '] * len(values)
  best = max(known) if better == 'higher' else min(known)
  return ['*' if value == best else ' ' for value in values]


def _count(value: float) -> str:
  for size, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if value >= size:
      return f'{value / size:.2f} {unit}'
  return f'{value:.0f}'
