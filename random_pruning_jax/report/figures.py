"""Which figures there are, what each shows, and the files that they become."""

import io
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from random_pruning_jax.report import counts, curves, details, measured, paper, sizes, style, tables
from random_pruning_jax.report.runs import Run, grouped


class Kind(NamedTuple):
  """A figure of the runs that `of` takes from those of a data set and setting, if there are any.

  `dense` is added to the caption if one of them is dense, how many seeds `seeds` counts, and
  `note`. `draw` may return None: no figure.
  """

  caption: str
  draw: Callable[[Sequence[Run]], Figure | None]
  dense: str = ''
  seeds: Callable[[Sequence[Run]], list[int]] = counts.accuracies
  of: Callable[[Sequence[Run]], Sequence[Run]] = lambda runs: runs
  note: Callable[[Sequence[Run]], str] = lambda runs: ''


class Drawn(NamedTuple):
  """A figure as it is shown: `name` is that of its files."""

  name: str
  caption: str
  svg: str


def _family(runs: Sequence[Run]) -> list[Run]:
  """Networks of the commonest width (0 is the family's own); [] if widths are all that differ."""
  widths = sorted({run.width for run in runs})
  common = max(widths, key=lambda w: len({run.network for run in runs if run.width == w}))
  family = [run for run in runs if run.width == common]
  return family if len({run.network for run in family}) > 1 or not _widths(runs) else []


def _widths(runs: Sequence[Run]) -> list[Run]:
  """Networks of one name that differ in width; [] where there are none."""
  several = {m: {run.width for run in runs if run.model == m} for m in {run.model for run in runs}}
  best = max(sorted(several), key=lambda m: len(several[m]))
  if len(several[best]) < 2:
    return []
  return [run for run in runs if run.model == best]


def _on(runs: Sequence[Run]) -> str:
  said = measured.summary([run.numbers for run in runs])
  return f'; {said}' if said else ''


def _source(runs: Sequence[Run]) -> str:
  if not any(map(paper.reading, runs)):
    return ''
  return (
    '. Hollow and dotted: Liu et al. (2022), read off the picture in their repository, ± 0.02 '
    'points, ± 0.1 where a marker is covered'
  )


KINDS = {
  'accuracy_by_depth': Kind(
    'Accuracy against sparsity by depth: a panel for each network, mean ± sd over seeds',
    curves.by_network,
    of=_family,
    note=_source,
  ),
  'accuracy_by_width': Kind(
    'Accuracy against sparsity by width: a panel for each network, mean ± sd over seeds',
    curves.by_network,
    of=_widths,
    note=_source,
  ),
  'accuracy_by_ratio': Kind(
    'Accuracy against sparsity by ratio: a line for each network',
    curves.by_scheme,
    ', its dense accuracy dashed, in a band of ± sd',
  ),
  'accuracy_by_parameters': Kind(
    'Accuracy against the weights that are kept',
    lambda runs: sizes.against(runs, 'kept'),
    '; a ring marks the dense network',
  ),
  'accuracy_by_flops': Kind(
    'Accuracy against multiply-adds, as if only kept weights were multiplied',
    lambda runs: sizes.against(runs, 'macs'),
    '; dense is ringed',
  ),
  'gap_by_size': Kind(
    'What pruning costs against the size of the dense network, paired by seed, mean ± sd',
    sizes.gap,
    seeds=counts.gaps,
  ),
  'beyond_accuracy': Kind(
    'Calibration, out-of-distribution detection (maximum softmax, mean over foreign sets) and '
    'accuracy under FGSM (largest epsilon up to 8/255), mean ± sd over seeds',
    curves.beyond_accuracy,
    seeds=counts.beyond,
    note=_on,
  ),
  'reliability': Kind(
    'Reliability: accuracy of images of like confidence, at the highest sparsity of each ratio',
    details.reliability,
    seeds=counts.at_highest(details.bins_of),
  ),
  'layer_density': Kind(
    'Density of each layer as trained, in the order in which an image meets them',
    details.layers,
    seeds=counts.layers,
  ),
  'gradient_norm': Kind(
    'Norm of the masked gradient along training, at the highest sparsity of each ratio',
    details.gradient_norm,
    seeds=counts.at_highest(details.flow_of),
  ),
  'learning_curves': Kind(
    'Validation accuracy along training, at the highest sparsity of each ratio, mean over seeds',
    details.learning,
    seeds=counts.at_highest(details.log_of),
  ),
}


def draw(runs: Sequence[Run], to: pathlib.Path | None = None) -> Iterator[Drawn]:
  """Every figure that these runs can fill, for each data set and setting; files below `to`."""
  done = tables.once([run for run in runs if run.state == 'done'])
  for (dataset, setting), members in grouped(done, lambda run: run.cell[:2]).items():
    where = ', '.join(filter(None, [dataset, setting]))
    for name, kind in KINDS.items():
      whole = _slug('-'.join([name, dataset, *([setting] if setting else [])]))
      shown = kind.of(members)
      with style.paper_style(whole):
        figure = kind.draw(shown) if shown else None
        if figure is not None:
          svg = _save(figure, whole, to)
          what = kind.caption + kind.dense * any(run.dense for run in shown)
          caption = f'{what}. {where}, {_seeds(kind.seeds(shown))}{kind.note(shown)}.'
          yield Drawn(whole, caption, svg)


def _save(figure: Figure, name: str, to: pathlib.Path | None) -> str:
  figure.draw_without_rendering()
  figure.set_layout_engine('none')  # it is laid out now; each file would do it again
  out = io.StringIO()
  figure.savefig(out, format='svg', metadata={'Date': None})
  svg = out.getvalue()
  if to:
    to.mkdir(parents=True, exist_ok=True)
    (to / f'{name}.svg').write_text(svg)
    figure.savefig(to / f'{name}.png', facecolor='white')
  return svg


def _seeds(found: Sequence[int]) -> str:
  drawn = [n for n in found if n] or [0]
  low, high = min(drawn), max(drawn)
  return f'n = {low}' if low == high else f'n = {low} to {high} (unequal)'


def _slug(text: str) -> str:
  """A name for files and the page; where it would be too long for one, its end is a checksum."""
  name = re.sub(r'[^A-Za-z0-9._-]+', '_', text).strip('_')
  return name if len(name) <= 120 else f'{name[:111]}-{zlib.crc32(text.encode()):08x}'
