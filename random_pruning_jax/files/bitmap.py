"""Any masks in few bytes: nothing for a whole layer, else one bit a weight or coded gaps.

Each layer takes the shortest of three: nothing at all where every weight is kept; its bits; or the
gaps between kept weights in Rice's code (Rice, 1979; Golomb, 1966), which for masks without pattern
comes within a few percent of their entropy: 0.29 bits a weight at density 0.05 (entropy 0.286).
"""

import math
from collections.abc import Mapping

import numpy as np

_LONGEST = 31  # bits of a remainder


def encode(masks: Mapping[str, np.ndarray]) -> tuple[dict[str, list], bytes]:
  """{layer: [code, bits of a remainder, bytes]} of layers that are not whole, and their bytes."""
  layers, parts = {}, []
  for name, mask in masks.items():
    if not mask.all():
      code, bits, part = _shortest(mask.ravel())
      layers[name] = [code, bits, len(part)]
      parts.append(part)
  return layers, b''.join(parts)


def decode(
  layers: Mapping[str, list], data: bytes, shapes: Mapping[str, tuple], kept: Mapping[str, int]
) -> dict[str, np.ndarray]:
  """The masks of every parameter in `shapes`, of which `kept` says how many weights remain."""
  masks = {name: np.ones(shape, bool) for name, shape in shapes.items()}
  start = 0
  for name, (code, bits, length) in layers.items():
    if code not in _DECODERS:
      raise ValueError(f'the code of {name} must be one of {sorted(_DECODERS)}, got {code!r}.')
    part = np.frombuffer(data[start : start + length], np.uint8)
    mask = _DECODERS[code](part, bits, math.prod(shapes[name]), kept[name])
    if mask is None or int(mask.sum()) != kept[name]:
      raise ValueError(f'the masks of {name} do not keep {kept[name]:,} weights.')
    masks[name] = mask.reshape(shapes[name])
    start += length
  return masks


def _shortest(mask: np.ndarray) -> tuple[str, int, bytes]:
  kept = np.flatnonzero(mask)
  gaps = np.diff(kept, prepend=-1) - 1
  sizes = [
    -(-len(gaps) * bits // 8) + -(-(int((gaps >> bits).sum()) + len(gaps)) // 8)
    for bits in range(_LONGEST)
  ]
  bits = int(np.argmin(sizes))
  if sizes[bits] < -(-mask.size // 8):
    return 'rice', bits, _rice(gaps, bits)
  return 'bits', 0, np.packbits(mask).tobytes()


def _rice(gaps: np.ndarray, bits: int) -> bytes:
  """Remainders of `bits` bits, then quotients in unary: so many zeros, and a one."""
  remainders = gaps[:, None] >> np.arange(bits)[::-1] & 1
  ends = np.cumsum((gaps >> bits) + 1)
  unary = np.zeros(ends[-1] if len(ends) else 0, np.uint8)
  unary[ends - 1] = 1
  return np.packbits(remainders.astype(np.uint8)).tobytes() + np.packbits(unary).tobytes()


def _from_rice(part: np.ndarray, bits: int, size: int, kept: int) -> np.ndarray | None:
  first = -(-kept * bits // 8)
  ends = np.flatnonzero(np.unpackbits(part[first:]))
  if not 0 <= bits < _LONGEST or len(part) < first or len(ends) != kept:
    return None
  remainders = np.unpackbits(part[:first])[: kept * bits].reshape(kept, bits)
  remainders = remainders @ (1 << np.arange(bits, dtype=np.int64)[::-1])
  quotients = np.diff(ends, prepend=-1) - 1
  where = np.cumsum((quotients << bits) + remainders + 1) - 1
  if kept and where[-1] >= size:
    return None
  mask = np.zeros(size, bool)
  mask[where] = True
  return mask


def _from_bits(part: np.ndarray, bits: int, size: int, kept: int) -> np.ndarray | None:
  del bits, kept
  return np.unpackbits(part)[:size].astype(bool) if len(part) == -(-size // 8) else None


_DECODERS = {'rice': _from_rice, 'bits': _from_bits}
