"""Random masks as what they were drawn from: a key, a sampling, and one number a layer.

The number is how many weights the layer keeps; for Bernoulli sampling, the bound below which a
weight's random bits must lie. Masks are read by drawing them again, and a checksum tells whether
they are the same.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from random_pruning_jax import pruning, scores
from random_pruning_jax.files.stored import Draw

GENERATOR = 'philox4x64-10'  # the stream of scores.random_bits, specified in docs/file-format.md
_WORD = 2**32


def describe(masks: Mapping[str, np.ndarray], draw: Draw | None) -> dict[str, Any]:
  """What `redraw` needs for these masks by layer; ValueError where drawing gives other masks."""
  if draw is None:
    raise ValueError(
      'format seeded is for masks that were drawn at random here; these were not, or nothing says '
      'how: choose format bitmap.'
    )
  fields = {'generator': GENERATOR, 'key': list(draw.key), 'sampling': draw.sampling}
  fields |= {'block': draw.block, 'layers': {}}
  for name, mask in masks.items():
    if mask.all():
      continue
    number = number_of(draw, name, mask)
    if number is None:
      raise ValueError(
        f'the masks of {name} are not those that their key draws (sampling {draw.sampling}): '
        'choose format bitmap.'
      )
    fields['layers'][name] = number
  return fields


def number_of(draw: Draw, name: str, mask: np.ndarray) -> int | None:
  """The number from which a layer's mask is drawn; None where no number gives it."""
  if draw.sampling == 'bernoulli':
    bits = scores.random_bits(draw.key, name, mask.size)
    number = int(bits[mask.ravel()].max()) + 1 if mask.any() else 0
  else:
    number = int(mask.sum())
  return number if np.array_equal(_layer(draw, name, mask.shape, number), mask) else None


def redraw(
  draw: Draw, layers: Mapping[str, int], shapes: Mapping[str, tuple]
) -> dict[str, np.ndarray]:
  """The masks of every parameter in `shapes`; those that `layers` does not name are whole."""
  return {
    name: _layer(draw, name, shape, layers[name]) if name in layers else np.ones(shape, bool)
    for name, shape in shapes.items()
  }


def _layer(draw: Draw, name: str, shape: tuple, number: int) -> np.ndarray:
  size = int(np.prod(shape))
  density = number / (_WORD if draw.sampling == 'bernoulli' else size)
  if not 0 <= density <= 1:
    raise ValueError(f'{name} cannot keep {number} of {size} weights.')
  bits = {name: scores.random_bits(draw.key, name, size).reshape(shape)}
  return pruning.SAMPLINGS[draw.sampling](bits, {name: density}, draw.block)[name]


def of_file(fields: dict[str, Any]) -> Draw:
  """How a file's masks were drawn; raises ValueError for what this version lacks."""
  if fields.get('generator') != GENERATOR:
    raise ValueError(
      f'the generator of the masks must be {GENERATOR}, got {fields.get("generator")!r}: a newer '
      'version of this package may know it.'
    )
  key, sampling, block = fields['key'], fields['sampling'], fields['block']
  if len(key) != 2 or not all(isinstance(word, int) and 0 <= word < _WORD for word in key):
    raise ValueError(f'the key must be two words of 32 bits, got {key!r:.100}.')
  if sampling not in pruning.SAMPLINGS:
    raise ValueError(f'sampling must be one of {sorted(pruning.SAMPLINGS)}, got {sampling!r:.100}.')
  return Draw((key[0], key[1]), sampling, int(block))
