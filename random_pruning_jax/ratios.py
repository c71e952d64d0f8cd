"""How many weights each layer keeps: (shapes, density) -> density of every layer.

Shapes map a layer's name to the shape of its kernel in Flax order, (h, w, in, out) or (in, out),
first layer first. Where a ratio treats them apart, the first layer is the one with `stem` and the
last the one with `head` in its path ('stem/kernel').

Let n_l be the size of layer l, N the sum over layers and d the density, in (0, 1]. A ratio spends
the budget exactly, sum_l d_l n_l = d N, or raises ValueError with the numbers that make it
impossible; the ratios in OFF_BUDGET miss it by definition. Density 1 keeps everything.
"""

import functools
import math
from collections.abc import Callable, Mapping

Shapes = Mapping[str, tuple[int, ...]]
Densities = Mapping[str, float]
Ratio = Callable[[Shapes, float], Densities]

_HEAD_FLOOR = 0.2  # least density of the classifier in Uniform+


def check_density(density: float) -> float:
  """The density as Python's float, since sums of weights overflow a half-precision number.

  Raises ValueError for anything but a number in (0, 1].
  """
  try:
    inside = 0 < density <= 1
  except TypeError:
    inside = False
  if not inside:
    raise ValueError(f'density must lie in (0, 1], got {density!r}.')
  return float(density)


def _checked(ratio: Ratio) -> Ratio:
  """Refuses bad input, and answers density 1 exactly, for every ratio alike."""

  @functools.wraps(ratio)
  def checked(shapes: Shapes, density: float) -> Densities:
    density = check_density(density)
    if not shapes:
      raise ValueError('A ratio needs the shape of at least one layer, got none.')
    for name, shape in shapes.items():
      if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f'The shape of {name} must be (..., in, out), got {tuple(shape)}.')
    return dict.fromkeys(shapes, 1.0) if density == 1 else ratio(shapes, density)

  return checked


@_checked
def uniform(shapes: Shapes, density: float) -> Densities:
  """d_l = d, first and last layer included."""
  return dict.fromkeys(shapes, density)


@_checked
def uniform_plus(shapes: Shapes, density: float) -> Densities:
  """Uniform with a dense stem and a head of density at least 0.2 (Gale et al., 2019)."""
  stem, head = _find(shapes, 'stem'), _find(shapes, 'head')
  total, first = _total(shapes), math.prod(shapes[stem])
  rest = (density * total - first) / (total - first)  # density of the others beside a dense stem
  fixed = {stem: 1.0} if rest >= _HEAD_FLOOR else {stem: 1.0, head: _HEAD_FLOOR}
  return _scale(shapes, density, lambda shape: 1.0, fixed)


@_checked
def uniform_plus_authors(shapes: Shapes, density: float) -> Densities:
  """Uniform+ as the code of Liu et al. (2022) computes it, which misses the budget.

  The stem is dense. For d >= 0.2 the other layers have density d: more than the budget. For d < 0.2
  the head has density 0.2 and the others d - (n_stem + 0.2 n_head) / N: less than the budget, since
  N counts the stem and the head too.
  """
  stem, head = _find(shapes, 'stem'), _find(shapes, 'head')
  if density >= _HEAD_FLOOR:
    return dict.fromkeys(shapes, density) | {stem: 1.0}
  fixed = {stem: 1.0, head: _HEAD_FLOOR}
  left = _left(shapes, density, fixed)
  return dict.fromkeys(shapes, left / _total(shapes)) | fixed


@_checked
def er(shapes: Shapes, density: float) -> Densities:
  """Erdős–Rényi: d_l = min(1, e (in + out) / (in out)), e from the budget (Mocanu et al., 2018)."""
  return _scale(shapes, density, lambda shape: sum(shape[-2:]) / math.prod(shape[-2:]))


@_checked
def erk(shapes: Shapes, density: float) -> Densities:
  """Erdős–Rényi-Kernel: d_l = min(1, e sum(shape) / prod(shape)) (Evci et al., 2020)."""
  return _scale(shapes, density, lambda shape: sum(shape) / math.prod(shape))


@_checked
def erk_plus(shapes: Shapes, density: float) -> Densities:
  """ERK with a dense head, paid for by the other layers (Liu et al., 2022)."""
  dense = {_find(shapes, 'head'): 1.0}
  return _scale(shapes, density, lambda shape: sum(shape) / math.prod(shape), dense)


@_checked
def igq(shapes: Shapes, density: float) -> Densities:
  """Ideal gas quotas: d_l = 1 / (f n_l + 1) with f from the budget (Vysogorets & Kempe, 2021)."""
  sizes = list(map(math.prod, shapes.values()))
  budget = density * sum(sizes)

  def excess(f: float) -> float:
    return sum(n / (f * n + 1) for n in sizes) - budget

  f = _root(excess, 0.0, len(sizes) / budget)  # n / (f n + 1) < 1 / f bounds f
  return {name: 1 / (f * math.prod(shape) + 1) for name, shape in shapes.items()}


@_checked
def balanced(shapes: Shapes, density: float) -> Densities:
  """The same number of weights in each of L layers: d_l = min(1, d N / (L n_l)).

  A layer smaller than its share becomes dense, and no other layer takes what is left over: the
  total then stays below the budget (Gadhikar et al., 2022).
  """
  share = density * _total(shapes) / len(shapes)
  return {name: min(1.0, share / math.prod(shape)) for name, shape in shapes.items()}


@_checked
def pyramidal(shapes: Shapes, density: float) -> Densities:
  """d_l = p^l for the l-th layer, 1, 2, ..., with p from the budget (Gadhikar et al., 2022).

  Depth is the order of `shapes`, which must be the network's, not an alphabetical one.
  """
  sizes = list(map(math.prod, shapes.values()))
  budget = density * sum(sizes)

  def shortage(p: float) -> float:
    return budget - sum(n * p**depth for depth, n in enumerate(sizes, 1))

  p = _root(shortage, 0.0, 1.0)
  return {name: p**depth for depth, name in enumerate(shapes, 1)}


RATIOS: dict[str, Ratio] = {
  'uniform': uniform,
  'uniform_plus': uniform_plus,
  'uniform_plus_authors': uniform_plus_authors,
  'er': er,
  'erk': erk,
  'erk_plus': erk_plus,
  'igq': igq,
  'balanced': balanced,
  'pyramidal': pyramidal,
}
OFF_BUDGET = frozenset({'balanced', 'uniform_plus_authors'})


def of_shapes(ratio: str, density: float) -> bool:
  """Whether shapes alone say what each layer keeps; else `ratio` is a score, to be computed."""
  return ratio in RATIOS or density == 1


def _total(shapes: Shapes) -> int:
  return sum(map(math.prod, shapes.values()))


def _find(shapes: Shapes, layer: str) -> str:
  """The one name that has `layer` in its path."""
  found = [name for name in shapes if layer in name.split('/')]
  if len(found) != 1:
    names = list(shapes)
    known = ', '.join(names if len(names) < 5 else [*names[:2], '...', *names[-2:]])
    raise ValueError(
      f'This ratio needs exactly one layer called {layer!r} that is not held dense, '
      f'got {", ".join(found) or "none"} among {known}.'
    )
  return found[0]


def _left(shapes: Shapes, density: float, fixed: Densities) -> float:
  """What the `fixed` layers leave of the budget."""
  total = _total(shapes)
  taken = sum(fixed[name] * math.prod(shapes[name]) for name in fixed)
  if taken >= density * total:
    layers = ' and '.join(f'{name} at {kept:g}' for name, kept in fixed.items())
    raise ValueError(
      f'density {density} keeps {density * total:,.0f} of {total:,} weights, but this ratio needs '
      f'{taken:,.0f} for {layers} alone: the density must lie above {taken / total:.4g}.'
    )
  return density * total - taken


def _check_spent(shapes: Shapes, density: float, fixed: Densities) -> None:
  """Raises ValueError where the layers, all `fixed`, keep more or fewer weights than the budget."""
  total = _total(shapes)
  kept = sum(fixed[name] * math.prod(shapes[name]) for name in shapes)
  if abs(kept - density * total) > 0.5:
    raise ValueError(
      f'density {density} keeps {density * total:,.0f} of {total:,} weights, but this ratio leaves '
      f'no choice in {", ".join(shapes)}, which keep {kept:,.0f}: a density of {kept / total:.4g}.'
    )


def _scale(
  shapes: Shapes,
  density: float,
  weight: Callable[[tuple[int, ...]], float],
  fixed: Mapping[str, float] | None = None,
) -> Densities:
  """d_l = min(1, e weight(shape_l)) outside the `fixed` layers, with e from the budget.

  A layer whose density would exceed 1 becomes dense, and the others share the rest of the budget.
  This only raises e, so the layer stays dense, and the loop ends after at most one round a layer.
  """
  fixed = dict(fixed or {})
  while True:
    free = {name: weight(shape) for name, shape in shapes.items() if name not in fixed}
    if not free:
      _check_spent(shapes, density, fixed)
      return {name: fixed[name] for name in shapes}
    cost = sum(free[name] * math.prod(shapes[name]) for name in free)
    scale = _left(shapes, density, fixed) / cost
    above = [name for name in free if scale * free[name] > 1]
    if not above:
      return {name: fixed[name] if name in fixed else scale * free[name] for name in shapes}
    fixed.update(dict.fromkeys(above, 1.0))


def _root(decreasing: Callable[[float], float], low: float, high: float) -> float:
  """Where a decreasing function crosses zero, by bisection down to neighbouring numbers."""
  while low < (middle := (low + high) / 2) < high:
    low, high = (middle, high) if decreasing(middle) > 0 else (low, middle)
  return middle
