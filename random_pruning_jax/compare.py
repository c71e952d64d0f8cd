"""What two runs differ in: configs, numbers, masks and learning curves, as text."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from random_pruning_jax import config as config_lib
from random_pruning_jax import masks as masks_lib
from random_pruning_jax import measure, results, runlog, tables
from random_pruning_jax.pruning import is_kernel
from random_pruning_jax.report import measured

_BARS = '▁▂▃▄▅▆▇█'
_WIDTH = 48  # of a sparkline


def compare(a: pathlib.Path, b: pathlib.Path) -> str:
  """The whole comparison, part by part; a part that a run cannot give says why."""
  parts = {
    'Configs': configs(a, b),
    'Numbers': numbers(a, b),
    'Masks': _masks_of_runs(a, b),
    'Learning': learning(a, b),
  }
  head = f'A  {a}\nB  {b}'
  return '\n\n'.join(
    [head, *(f'{name}\n{"=" * len(name)}\n{text}' for name, text in parts.items())]
  )


def configs(a: pathlib.Path, b: pathlib.Path) -> str:
  """Fields that differ and that results depend on."""
  flat = [config_lib.flat(runlog.read_config(place)) for place in (a, b)]
  changed = config_lib.differences(*flat)
  which = tuple(fields['evaluation.checkpoint'] for fields in flat)
  if which[0] != which[1]:
    changed['evaluation.checkpoint'] = which
  if not changed:
    return 'The same.'
  return tables.text([['', 'A', 'B'], *([name, *map(str, pair)] for name, pair in changed.items())])


def numbers(a: pathlib.Path, b: pathlib.Path) -> str:
  """Every number that both rows have, and B - A; '+' where B is better, '-' where it is worse.

  Numbers that were measured otherwise, as by an attack of more steps, have no mark.
  """
  rows = [results.row_of(place) for place in (a, b)]
  for name, row in zip('AB', rows, strict=True):
    if row is None:
      return f'{name} has no results yet.'
  ours, theirs = ({'validation accuracy': _validation(row)} | row['metrics'] for row in rows)
  lines = [['', 'A', 'B', 'B - A', '']]
  shared = [name for name in ours if None not in (ours[name], theirs.get(name))]
  unlike = measured.unlike(rows)
  for name in shared:
    x, y = ours[name], theirs[name]
    shown = tables.column(name)
    difference = shown.show.replace('{:', '{:z').format(float(y - x))  # no -0.0000
    sign = {'higher': y - x, 'lower': x - y}.get(shown.better, 0)
    sign = 0 if name in unlike else sign
    mark = '+' if sign > 0 else '-' if sign < 0 else ''
    lines.append([shown.label, shown.show.format(x), shown.show.format(y), difference, mark])
  told = [row | {'metrics': dict.fromkeys(shared)} for row in rows]
  notes = [tables.attack_note(told), measured.unlike_note(unlike)]
  return '\n'.join(filter(None, [tables.text(lines), *notes]))


def overlap(a: masks_lib.Masks, b: masks_lib.Masks) -> str:
  """Weights that both masks keep, layer by layer, beside the number expected by chance.

  Of two independent random masks of densities d and e, d e n weights are expected in both; of two
  drawn from one key, the sparser lies in the denser.
  """
  first, second = (masks_lib.named_leaves(jax.device_get(tree)) for tree in (a, b))
  lines = [['layer', 'A keeps', 'B keeps', 'both', 'by chance', 'share of union']]
  total = np.zeros(4)
  left_out, nested = [], []
  for name in filter(is_kernel, first):
    x, y = np.asarray(first[name]), second.get(name)
    if y is None or np.shape(y) != x.shape:
      left_out.append(name)
      continue
    chance = x.sum() * y.sum() / x.size  # divided last: exact where a mask is dense
    counts = np.array([x.sum(), y.sum(), (x & y).sum(), chance], float)
    total += counts
    if counts[2] != counts[3]:  # so neither mask is dense or empty
      nested.append(counts[2] == counts[:2].min())
    lines.append([name, *_counts(counts)])
  left_out += [name for name in second if is_kernel(name) and name not in first]
  lines += [[], ['all', *_counts(total)]]
  note = f'\nNot in both networks, or of another shape: {", ".join(left_out)}.' if left_out else ''
  if nested and all(nested) and total[2] < total[:2].max():
    note += '\nIn every layer one mask lies wholly in the other, as random masks of one seed do.'
  return tables.text(lines) + note if len(lines) > 3 else f'No layer is in both networks.{note}'


def learning(a: pathlib.Path, b: pathlib.Path) -> str:
  """Curves of both logs on one scale, as wide as a terminal."""
  logs = [runlog.read_log(place) for place in (a, b)]
  out = []
  for kind, name, label in (
    ('train', 'loss', 'training loss'),
    ('validation', 'accuracy', 'validation accuracy'),
  ):
    curves = [[line[name] for line in log if line['kind'] == kind] for log in logs]
    every = [value for curve in curves for value in curve]
    if not every:
      out.append(f'{label}: no log')
      continue
    low, high = min(every), max(every)
    out.append(f'{label}, {low:.3f} {_BARS[0]} to {high:.3f} {_BARS[-1]}')
    for run, curve in zip('AB', curves, strict=True):
      end = f'{curve[-1]:.3f}' if curve else 'no log'
      out.append(f'  {run}  {sparkline(curve, low, high)}  {end}')
  return '\n'.join(out)


def sparkline(values: Sequence[float], low: float, high: float) -> str:
  """A curve in one line of text, between `low` and `high`; long curves are averaged in pieces."""
  if not values:
    return ''
  pieces = np.array_split(np.asarray(values, float), min(_WIDTH, len(values)))
  scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
  return ''.join(_BARS[round((float(piece.mean()) - low) * scale)] for piece in pieces)


def _masks_of_runs(a: pathlib.Path, b: pathlib.Path) -> str:
  found = []
  for name, place in (('A', a), ('B', b)):
    try:
      state = measure.load_run(place, on=tuple(jax.devices()[:1]))[1].state
    except (ValueError, OSError) as error:
      return f'{name}: {error}'
    found.append(state.masks)
  return overlap(*found)


def _validation(row: dict[str, Any]) -> float | None:
  return (row.get('validation') or {}).get('accuracy')


def _counts(counts: np.ndarray) -> list[str]:
  kept_a, kept_b, both, chance = counts
  union = kept_a + kept_b - both
  share = both / union if union else 1.0
  return [*(f'{value:,.0f}' for value in (kept_a, kept_b, both, chance)), f'{share:.1%}']
