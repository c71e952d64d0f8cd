"""Sizes of a convolution, and where its pixels are in memory."""

from typing import NamedTuple


class Sizes(NamedTuple):
  """Sizes of images and kernel, and how one passes over the other."""

  image: tuple[int, int, int]  # H, W, C
  kernel: tuple[int, int, int, int]  # h, w, C, O
  strides: tuple[int, int]
  pads: tuple[tuple[int, int], tuple[int, int]]

  @property
  def map(self) -> tuple[int, int, int]:
    """h', w', O of the output."""
    sides = zip(self.image[:2], self.kernel[:2], self.strides, self.pads, strict=True)
    return (*((n + sum(pad) - k) // s + 1 for n, k, s, pad in sides), self.kernel[3])


class Frame(NamedTuple):
  """An image [height, width, channels] inside zeros [high, wide], or as it is.

  With `planes` it lies channel by channel, [high, channels, planes, wide / planes]: column j is in
  plane j % planes, so that columns a stride apart lie beside each other. Only the planes of the
  image's first `filled` columns are filled, and only every `each`-th row.
  """

  image: tuple[int, int, int]
  top: int
  left: int
  high: int
  wide: int
  planes: int = 0
  filled: int = 0
  each: int = 1

  @property
  def framed(self) -> bool:
    changed = (self.high, self.wide) != self.image[:2] or self.top > 0 or self.left > 0
    return changed or self.planes > 0

  @property
  def plane(self) -> int:
    return -(-self.wide // self.planes) if self.planes else 0

  @property
  def channel(self) -> int:
    """Floats from one channel of a pixel to the next."""
    return self.planes * self.plane if self.planes else 1

  @property
  def size(self) -> int:
    return self.place(self.high, 0)

  def place(self, row: int, column: int) -> int:
    """Floats from the frame's beginning to this pixel's first channel."""
    if not self.planes:
      return (row * self.wide + column) * self.image[2]
    inside = column % self.planes * self.plane + column // self.planes
    return row * self.image[2] * self.channel + inside


def around(sizes: Sizes) -> Frame:
  """The part that the kernel reads of an image with the zeros around it."""
  if sizes.pads == ((0, 0), (0, 0)):
    return Frame(sizes.image, 0, 0, *sizes.image[:2])
  high, wide = (
    (m - 1) * s + k for m, s, k in zip(sizes.map[:2], sizes.strides, sizes.kernel[:2], strict=True)
  )
  return Frame(sizes.image, sizes.pads[0][0], sizes.pads[1][0], high, wide)
