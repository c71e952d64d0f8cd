"""Numbers as tables that a person likes to read."""

import fractions
import itertools
import re
from collections.abc import Collection, Sequence
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
  'ece_equal_mass': Column('ECE, bins of equal mass', 'lower', '{:.4f}'),
  'classwise_ece': Column('ECE by class', 'lower', '{:.4f}'),
  'mce': Column('largest calibration error', 'lower', '{:.4f}'),
  'aurc': Column('area under risk-coverage', 'lower', '{:.4f}'),
  'temperature': Column('temperature', '', '{:.3f}'),
  'nll_scaled': Column('NLL at that temperature', 'lower', '{:.4f}'),
  'ece_scaled': Column('ECE at that temperature', 'lower', '{:.4f}'),
  'validation accuracy': Column('validation accuracy', 'higher', '{:.2%}'),
}
SHOWN_LAST_PART = {
  'auroc': Column('AUROC', 'higher', '{:.4f}'),
  'aupr_in': Column('AUPR-in', 'higher', '{:.4f}'),
  'aupr_out': Column('AUPR-out', 'higher', '{:.4f}'),
  'fpr95_ood_positive': Column('FPR95, OoD positive', 'lower', '{:.4f}'),
  'fpr95_id_positive': Column('FPR95, ID positive', 'lower', '{:.4f}'),
  'accuracy': Column('accuracy', 'higher', '{:.2%}'),
  'nll': Column('NLL', 'lower', '{:.4f}'),
  'ece': Column('ECE', 'lower', '{:.4f}'),
  'ce': Column('CE', 'lower', '{:.1%}'),
  'mce': Column('mCE', 'lower', '{:.1%}'),
  'relative_mce': Column('relative mCE', 'lower', '{:.1%}'),
  'top_eigenvalue': Column('Hessian top eigenvalue', '', '{:.4g}'),
}
# Paragraphs of a whole table, in order: what comes before the first slash in a number's name.
FAMILIES = (
  'ood',
  'adversarial',
  'corruptions',
  'corruptions_regenerated',
  'shifts',
  'gradients',
)
# Families whose labels begin with a word for them; others are told by the name of their set.
WORDS = {'corruptions': 'corrupted', 'corruptions_regenerated': 'corrupted (regenerated)'}


def column(name: str) -> Column:
  """How a number is shown, by its name: 'nll', 'ood/mnist/msp/auroc', 'adversarial/fgsm/8/255'."""
  if name in SHOWN:
    return SHOWN[name]
  if '/' not in name:
    return Column(name, '', '{:.4g}')
  if name.startswith('adversarial/'):
    attack, epsilon = name.split('/', 2)[1:]
    return Column(f'accuracy under {attack} {epsilon}', 'higher', '{:.2%}')
  family, *path, last = name.split('/')
  known = SHOWN_LAST_PART.get(last, Column(last, '', '{:.4g}'))
  words = [WORDS[family]] if family in WORDS else []
  return known._replace(label=' '.join([*words, *path, known.label]))


def brief(name: str) -> bool:
  """Whether a number is one of the few that a person wants to see first."""
  family, *path = name.split('/')
  if not path:
    return name in ('accuracy', 'nll', 'brier', 'ece')
  return (family == 'ood' and path[-2] == 'msp') or path[0] == 'fgsm'


def side_by_side(
  rows: Sequence[dict[str, Any]], *, whole: bool = False, unlike: Collection[str] = ()
) -> str:
  """Result rows as columns, the better number of each line marked with *, but of `unlike` ones.

  Only the `brief` numbers, or if `whole` all of them, one paragraph for each family.
  """
  head = ['', *_titles(rows)]
  lines = [
    ['sparsity', *(sparsity(row['density'], 1) + ' ' for row in rows)],
    ['density', *(f'{row["density"]:.4f} ' for row in rows)],
    ['weights kept', *(f'{row["kept"]:,} ' for row in rows)],
    ['multiply-adds an image', *(prefixed(row['macs']) + ' ' for row in rows)],
    ['training time, once compiled', *(f'{_seconds(row):,.0f} s ' for row in rows)],
  ]
  paragraph = None
  names = {name for row in rows for name in row['metrics'] if whole or brief(name)}
  for name in sorted(names, key=_place):
    family = name.split('/')[0] if whole and '/' in name else ''
    if family != paragraph:
      lines.append([])
      paragraph = family
    shown = column(name)._replace(better='') if name in unlike else column(name)
    lines.append(_line(shown, [row['metrics'].get(name) for row in rows]))
  legend = ['* the better of the two' if len(rows) == 2 else '* the best'] * (len(rows) > 1)
  legend += [attack_note(rows)] * whole
  return '\n'.join(filter(None, [text([head, *lines]), *legend]))


def attack_note(rows: Sequence[dict[str, Any]]) -> str:
  """'attacks but fgsm: the first 20 test images', by the rows' notes; '' where all were attacked.

  FGSM is measured on every test image.
  """
  said = {}  # each once, in the order of the rows
  for row in rows:
    strong = [name for name in row['metrics'] if re.match('adversarial/(?!fgsm/)', name)]
    notes = [row.get('notes', {}).get(name, '') for name in strong]
    if strong:
      some = [note for note in notes if note.startswith('the first ')]
      said[some[0] if some else 'all test images'] = None
  return '' if set(said) <= {'all test images'} else f'attacks but fgsm: {" or ".join(said)}'


def _seconds(row: dict[str, Any]) -> float:
  """Training time without first calls, in which one run compiles what the next finds compiled."""
  return row['train_seconds'] - (row.get('compile_seconds') or 0.0)


def _place(name: str) -> tuple:
  """Sorts names as SHOWN has them, then family by family, whatever order a row is read in."""
  if '/' not in name:
    return (0, list(SHOWN).index(name) if name in SHOWN else len(SHOWN), name)
  family, *path, last = name.split('/')
  place = FAMILIES.index(family) + 1 if family in FAMILIES else len(FAMILIES) + 1
  if family == 'adversarial':
    attack, epsilon = name.split('/', 2)[1:]
    return (place, attack.startswith('worst_case'), attack, float(fractions.Fraction(epsilon)))
  metrics = list(SHOWN_LAST_PART)
  rank = metrics.index(last) if last in metrics else len(metrics)
  # Means over sets, whose path is shorter, come last.
  return (place, family, not path, path, rank, last)


def _line(shown: Column, values: Sequence[float | None]) -> list[str]:
  cells = [shown.show.format(value) if value is not None else '-' for value in values]
  known = [value for value in values if value is not None]
  marks = [' '] * len(cells)
  if shown.better and len(set(cells) - {'-'}) > 1:
    best = shown.show.format(max(known) if shown.better == 'higher' else min(known))
    marks = ['*' if cell == best else ' ' for cell in cells]
  return [shown.label, *(cell + mark for cell, mark in zip(cells, marks, strict=True))]


def text(lines: Sequence[Sequence[str]]) -> str:
  """Cells in columns: the first to the left, the others to the right; an empty line is a rule."""
  widths = [max(map(len, cells)) for cells in itertools.zip_longest(*lines, fillvalue='')]
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


def _titles(rows: Sequence[dict[str, Any]]) -> list[str]:
  """What each run is; where several are the same, with its directory."""
  names = [
    'dense'
    if row['density'] == 1
    else f'{row["config"]["pruning.ratio"]}/{row["config"]["pruning.select"]}'
    for row in rows
  ]
  if len(set(names)) < len(names):
    names = [f'{name} ({row["run"]})' for name, row in zip(names, rows, strict=True)]
  return [f'{name} ' for name in names]


def sparsity(density: float, decimals: int = 2) -> str:
  """1 - density as a percentage, with more decimals where these would call it 100 %."""
  while (said := f'{1 - density:.{decimals}%}').startswith('100') and density > 0:
    decimals += 1
  return said


def prefixed(value: float, unit: str = '') -> str:
  """12,345,678 -> '12.35 M', or '12.35 MB' with its unit."""
  for size, prefix in ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if round(value / size, 5) >= 1:  # as it is shown: 999,999 is 1.00 M
      return f'{value / size:,.2f} {prefix}{unit}'
  return f'{value:,.0f} {unit}'.rstrip()
