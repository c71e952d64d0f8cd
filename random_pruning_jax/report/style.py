"""How figures look: one colour and marker for each ratio and score wherever drawn."""

import contextlib
import functools
import itertools
import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot's, which would be kept beside the caller's own

from random_pruning_jax.config import names
from random_pruning_jax.config.spellings import is_cifar_resnet
from random_pruning_jax.ratios import RATIOS
from random_pruning_jax.report.runs import DENSE

INK, FAINT = '#262626', '#8c8c8c'
PANEL = (3.1, 2.6)  # inches
HANDLE, LETTER, ROW = 0.57, 0.066, 0.19  # inches of an entry of a legend, with its space
PAPER = 'Liu et al. (2022), read off'


class Look(NamedTuple):
  label: str
  colour: str
  marker: str


# Colours that people with any colour vision tell apart, and that show on white and on black.
LOOKS = {
  DENSE: Look('dense', '#7f7f7f', 'D'),
  'uniform': Look('Uniform', '#0072b2', 'o'),
  'uniform_plus': Look('Uniform+', '#56a4d8', 's'),
  'er': Look('ER', '#b8860b', 'v'),
  'erk': Look('ERK', '#d55e00', '^'),
  'erk_plus': Look('ERK+', '#e69f00', 'P'),
  'snip': Look('SNIP ratio', '#009e73', 'X'),
  'grasp': Look('GraSP ratio', '#aa4499', 'd'),
  'synflow': Look('SynFlow ratio', '#882255', '<'),
  'igq': Look('IGQ', '#6a5acd', '>'),
  'balanced': Look('Balanced', '#8b5a2b', 'p'),
  'pyramidal': Look('Pyramidal', '#5f8f2f', 'h'),
  'snip/snip': Look('SNIP', '#005f45', 'X'),
  'grasp/grasp': Look('GraSP', '#6d2360', 'd'),
  'synflow/synflow': Look('SynFlow', '#4a0f2c', '<'),
  'erk/magnitude': Look('ERK, magnitude', '#7a3600', '^'),
}
_COLOURS = (
  *('#332288', '#44aa99', '#cc6677', '#999933', '#117733'),
  *('#6699cc', '#994455', '#997700', '#bb5566'),
)
_MARKERS = 'os^vDPX<>ph*'
_SHADES = (0.4, 0.55, 0.7)


def look(scheme: str) -> Look:
  """Label, colour and marker of a scheme; those without a place in the table get one by name.

  What is sampled in another way, 'erk, fan_in', is of its scheme's colour, but darker.
  """
  if scheme in LOOKS:
    return LOOKS[scheme]
  base, _, way = scheme.partition(', ')
  if way:
    usual = look(base)
    share, marker = _by_name(_SHADES, _MARKERS.replace(usual.marker, ''), way)
    darker = matplotlib.colors.to_hex([share * x for x in matplotlib.colors.to_rgb(usual.colour)])
    return Look(scheme, darker, marker)
  if scheme in _others():
    pairs = list(itertools.product(_COLOURS, _MARKERS))
    return Look(scheme, *pairs[_others().index(scheme) % len(pairs)])
  return Look(scheme, *_by_name(_COLOURS, _MARKERS, scheme))


@functools.cache
def _others() -> list[str]:
  """Schemes of this package's ratios and scores that have no place in the table."""
  scores = names.keys('scores.py', 'SCORES')
  ratios = [name for name in (*RATIOS, *scores) if name != 'random']
  every = [r if s == 'random' else f'{r}/{s}' for r in ratios for s in scores]
  return [scheme for scheme in every if scheme not in LOOKS]


def _by_name(first: Sequence[Any], second: Sequence[Any], name: str) -> tuple[Any, Any]:
  """One of the pairs of both, always the same for a name."""
  pairs = list(itertools.product(first, second))
  return pairs[zlib.adler32(name.encode()) % len(pairs)]


def network_title(name: str) -> str:
  """'cifar_resnet8-w4' -> 'ResNet-8, width 4'; 'CIFAR ResNet-50', as ImageNet has one too."""
  name, _, width = name.partition('-w')
  short = name.removeprefix('cifar_')
  both = short in names.keys('models/__init__.py', 'MODELS') and not is_cifar_resnet(short)
  for known, title in (('wrn', 'Wide ResNet-'), ('resnet', 'ResNet-'), ('vgg', 'VGG-')):
    if short.startswith(known):
      family = 'CIFAR ' if both and short != name else ''
      name = family + title + short.removeprefix(known).replace('_', '-')
      break
  return f'{name}, width {width}' if width else name


def ordered(things: Collection[Any]) -> Iterator[tuple[Any, Any, str]]:
  """Each with a colour, from light to dark, and a marker: for sizes, sparsities and the like."""
  colours, last = matplotlib.colormaps['viridis'], max(1, len(things) - 1)
  for i, (thing, marker) in enumerate(zip(things, itertools.cycle('os^DvPX'), strict=False)):
    yield thing, colours(0.80 - 0.58 * i / last), marker


@contextlib.contextmanager
def paper_style(name: str) -> Iterator[None]:
  """Settings of every figure; `name` makes the identifiers in its SVG unique and repeatable."""
  settings = {
    'font.family': 'DejaVu Sans',
    'font.size': 9,
    'axes.titlesize': 9.5,
    'axes.labelsize': 9,
    'legend.fontsize': 8.5,
    'xtick.labelsize': 8.5,
    'ytick.labelsize': 8.5,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.edgecolor': INK,
    'axes.labelcolor': INK,
    'text.color': INK,
    'xtick.color': INK,
    'ytick.color': INK,
    'axes.linewidth': 0.8,
    'axes.grid': True,
    'grid.color': FAINT,
    'grid.alpha': 0.25,
    'grid.linewidth': 0.6,
    'lines.linewidth': 1.5,
    'lines.markersize': 4.5,
    'legend.frameon': False,
    'figure.facecolor': 'none',
    'axes.facecolor': 'none',
    'savefig.dpi': 200,
    'svg.hashsalt': name,
    'svg.fonttype': 'path',
  }
  with matplotlib.rc_context(settings):
    yield


def panels(count: int, columns: int = 5) -> tuple[Figure, list[Axes]]:
  """A grid of equal panels with no more columns than fit on a page."""
  across = min(count, columns)
  down = -(-count // across)
  size = (PANEL[0] * across if across > 1 else 4.2, PANEL[1] * down if count > 1 else 3.2)
  figure = Figure(figsize=size, layout='constrained')
  axes = figure.subplots(down, across, sharey=True, squeeze=False)
  flat = list(axes.ravel())
  for spare in flat[count:]:
    spare.remove()
  return figure, flat[:count]


def legend_below(figure: Figure, axes: Sequence[Axes]) -> None:
  """One legend for all the panels, each label once."""
  found: dict[str, Any] = {}
  for ax in axes:
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
      found.setdefault(label, handle)
  if found:
    # matplotlib puts lines before error bars; here the dense network is first, the paper last.
    found = dict(sorted(found.items(), key=lambda x: (not x[0].startswith('dense'), x[0] == PAPER)))
    columns = _columns(list(found), figure.get_size_inches()[0])
    rows = -(-len(found) // columns)
    # A tall legend makes the figure taller, not its panels lower.
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + ROW * max(0, rows - 2))
    figure.legend(found.values(), found.keys(), loc='outside lower center', ncols=columns)


def _columns(labels: Sequence[str], width: float) -> int:
  """The most columns of a legend that fit into so many inches; 1 if not even two do."""

  def inches(count: int) -> float:
    columns = np.array_split(labels, count)  # as matplotlib does
    return sum(HANDLE + LETTER * max(map(len, column)) for column in columns)

  return next((n for n in range(len(labels), 1, -1) if inches(n) <= width), 1)
