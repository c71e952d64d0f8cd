"""How large a JPEG is, and the same JPEG as if it ended further up.

Most of decoding is reading the entropy code, block after block from the top. A decoder that is told
that the image ends just below the wanted part stops there.
"""

import struct
from typing import NamedTuple

START = b'\xff\xd8'
SEQUENTIAL = (0xC0, 0xC1)  # frames whose rows of blocks come once, from the top down
OTHERS = (0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
TAIL = 64  # last bytes, among which the end must be marked; else the file was cut off


class Frame(NamedTuple):
  """What the header of a sequential JPEG says of its pixels."""

  height: int
  width: int
  row: int  # of blocks, in pixels
  at: int  # where in the file the height is written


class Part(NamedTuple):
  data: bytes
  height: int


def frame_of(data: bytes) -> Frame | None:
  """The frame of a whole, sequential JPEG of one or three components; None for all else."""
  if data[:2] != START or b'\xff\xd9' not in data[-TAIL:]:
    return None
  at = 2
  while at + 9 < len(data) and data[at] == 0xFF:
    marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
    if marker in SEQUENTIAL:
      height, width, components = struct.unpack_from('>HHB', data, at + 5)
      samples = data[at + 11 : at + 10 + 3 * components : 3]
      if not height or not width or len(samples) != components or components not in (1, 3):
        return None
      # One component is stored in rows of eight, whatever its sampling says; more is no harm.
      return Frame(height, width, 8 * max(sampling & 15 for sampling in samples), at + 5)
    if marker in OTHERS:
      return None
    at += 2 + length if marker != 0xFF else 1  # a marker may be preceded by any number of 0xFF
  return None


def above(data: bytes, frame: Frame, bottom: int) -> Part:
  """The image as far as row `bottom` or a little further, to the end of a row of blocks."""
  height = -(-bottom // frame.row) * frame.row
  if height >= frame.height:
    return Part(data, frame.height)
  return Part(b''.join((data[: frame.at], struct.pack('>H', height), data[frame.at + 2 :])), height)
