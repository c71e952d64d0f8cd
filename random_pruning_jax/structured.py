"""Masks with a structure: N of M consecutive inputs, or the same number of inputs for every unit.

Kernels have the shape (..., in, out). Any score may choose which weights; random ones give random
structured masks. Both meet their budget or raise ValueError saying what they can keep.
"""

import math
from collections.abc import Iterable, Mapping

import chex
import numpy as np

from random_pruning_jax import masks as masks_lib
from random_pruning_jax.ratios import Densities, Shapes

NEAR = 1e-4  # how far from the budget is near enough, as a fraction of it


def n_m_densities(shapes: Shapes, densities: Densities, block: int) -> Densities:
  """The densities themselves, if each is a multiple of 1 / block and blocks tile the inputs."""
  if block < 1:
    raise ValueError(f'block must be at least 1, got {block}.')
  uneven = [name for name in densities if densities[name] < 1 and shapes[name][-2] % block]
  if uneven:
    inputs = ', '.join(f'{name} has {shapes[name][-2]}' for name in uneven)
    raise ValueError(
      f'n_m sampling needs input channels in blocks of {block}, but {inputs}: hold such layers '
      'dense by name, or choose another block.'
    )
  for name, density in densities.items():
    if abs(density * block - round(density * block)) > 1e-9 or round(density * block) < 1:
      kept = ', '.join(f'{n / block:g}' for n in range(1, block + 1))
      raise ValueError(
        f'n_m sampling with blocks of {block} can keep {kept} of a layer, got {density:.4g} for '
        f'{name}; ratio uniform with one of these densities does.'
      )
  return densities


def n_m(scores: chex.ArrayTree, densities: Densities, block: int) -> masks_lib.Masks:
  """Keeps N = density * block of every `block` consecutive inputs, for each tap and output unit."""

  def pick(score: np.ndarray, density: float) -> np.ndarray:
    *taps, inputs, outputs = score.shape
    blocks = score.reshape(*taps, inputs // block, block, outputs)
    return _highest(blocks, masks_lib.kept_count(density, block), axis=-2).reshape(score.shape)

  return masks_lib.by_layer(pick, scores, densities)


def fan_in_densities(shapes: Shapes, densities: Densities) -> Densities:
  """Densities that give each unit a whole number of inputs, as near to the budget as possible.

  Each layer rounds the inputs a unit that its density asks for down or up, but never to none. Which
  layers round up is chosen so that the total is nearest to the budget: within half the units of the
  narrowest layer that has a choice, or NEAR of the budget. Raises ValueError where no choice comes
  so near, with the densities of the nearest.
  """
  fan = {name: math.prod(shapes[name][:-1]) for name in densities}
  units = {name: shapes[name][-1] for name in densities}
  ideal = {name: densities[name] * fan[name] for name in densities}
  kept = {name: math.floor(ideal[name] + 1e-9) for name in densities}
  fraction = {name: ideal[name] - kept[name] for name in densities}
  empty = [name for name in densities if kept[name] == 0]
  uneven = sorted((name for name in densities if fraction[name] > 1e-9), key=fraction.get)
  free = {name: units[name] for name in uneven if kept[name]}
  missing = math.fsum(fraction[name] * units[name] for name in uneven)
  reach = _sums(free.values(), start=sum(units[name] for name in empty))
  sums = [total for total in range(reach[-1].bit_length()) if reach[-1] >> total & 1]
  added = min(sums, key=lambda total: abs(total - missing))
  least = sum(kept[name] * units[name] for name in densities)
  far = max(min((units[name] for name in free or uneven), default=0) / 2, NEAR * (least + missing))
  if abs(added - missing) > far:
    size = sum(fan[name] * units[name] for name in densities)
    near = [*[t for t in sums if t < missing][-1:], *[t for t in sums if t > missing][:1]]
    raise ValueError(
      f'fan_in sampling with this ratio cannot keep {least + missing:,.0f} of {size:,} weights: in '
      'whole inputs a unit, one at least, its shares are a density of '
      f'{" or ".join(f"{(least + t) / size:.9g}" for t in near)}.'
    )
  for name in (*empty, *_with_sum(added, free, reach)):
    kept[name] += 1
  return {name: kept[name] / fan[name] for name in densities}


def fan_in(scores: chex.ArrayTree, densities: Densities) -> masks_lib.Masks:
  """Keeps the same number of incoming weights of every output unit (Lasby et al., 2023)."""

  def pick(score: np.ndarray, density: float) -> np.ndarray:
    incoming = score.reshape(-1, score.shape[-1])
    kept = _highest(incoming, masks_lib.kept_count(density, len(incoming)), axis=0)
    return kept.reshape(score.shape)

  return masks_lib.by_layer(pick, scores, densities)


def _highest(scores: np.ndarray, k: int, axis: int) -> np.ndarray:
  """True at the k highest along an axis, ties by index."""
  backward = np.flip(scores, axis)  # so that a stable ascending sort puts the first of equals last
  order = np.argsort(backward, axis=axis, kind='stable')
  kept = np.zeros(scores.shape, bool)
  n = scores.shape[axis]
  np.put_along_axis(kept, np.take(order, np.arange(n - k, n), axis), True, axis)
  return np.flip(kept, axis)


def _with_sum(total: int, sizes: Mapping[str, int], reach: list[int]) -> set[str]:
  """Names whose sizes add up to `total`, the last ones first; `reach` is `_sums` of the sizes."""
  chosen = set()
  for name, before in zip(reversed(sizes), reversed(reach[:-1]), strict=True):
    if total >= sizes[name] and before >> (total - sizes[name]) & 1:
      chosen.add(name)
      total -= sizes[name]
  return chosen


def _sums(numbers: Iterable[int], start: int) -> list[int]:
  """`start` plus subset sums of the first 0, 1, ... numbers: bit s of an integer is set for s."""
  reach = [1 << start]
  for number in numbers:
    reach.append(reach[-1] | reach[-1] << number)
  return reach
