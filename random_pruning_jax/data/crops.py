"""A part of an encoded image, decoded and resized: how images of many sizes become a batch.

Free of JAX, because worker processes import it.
"""

import functools
import importlib.util
import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from random_pruning_jax.data import jpeg
from random_pruning_jax.data.specs import DataError

MODES = {1: 'L', 3: 'RGB'}
# What Pillow raises for images that are damaged, or so large that they may be an attack.
UNREADABLE = (OSError, SyntaxError, Image.DecompressionBombError)
# Raise this when a decoder's output changes: cached images are decoded again, and a resumed
# streamed run warns.
VERSION = 2
TRIES = 10  # at a random region that fits, before the centre is taken


class Region(NamedTuple):
  """A rectangle of an image, in its pixels."""

  top: float
  left: float
  height: float
  width: float


Choose = Callable[[int, int], Region]  # height, width of the whole image -> a part of it


def random_region(
  height: int,
  width: int,
  *,
  rng: np.random.Generator,
  area: tuple[float, float] = (0.08, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Region:
  """A share of the image uniform in `area`, width / height log-uniform in `aspect`.

  The "random resized crop" of Szegedy et al. (2015) as torchvision draws it; where none of ten
  draws fits into the image, the largest central part whose aspect is allowed.
  """
  for _ in range(TRIES):
    share = height * width * rng.uniform(*area)
    ratio = np.exp(rng.uniform(*np.log(aspect)))
    w, h = round((share * ratio) ** 0.5), round((share / ratio) ** 0.5)
    if 0 < w <= width and 0 < h <= height:
      return Region(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
  ratio = min(max(width / height, aspect[0]), aspect[1])
  w = min(width, max(1, round(height * ratio)))
  h = min(height, max(1, round(width / ratio)))
  return Region((height - h) // 2, (width - w) // 2, h, w)


def central_region(height: int, width: int, *, size: tuple[int, int], resize: int) -> Region:
  """What a central crop of `size` shows, once the shorter side is resized to `resize` pixels.

  With `resize` 0: the largest central part with the aspect of `size`.
  """
  scale = min(height, width) / resize if resize else min(height / size[0], width / size[1])
  h, w = min(size[0] * scale, height), min(size[1] * scale, width)
  return Region((height - h) / 2, (width - w) / 2, h, w)


def pillow(data: bytes, choose: Choose, size: tuple[int, int], channels: int) -> np.ndarray:
  """Uint8 [height, width, channels] by Pillow: JPEGs decoded at a half, quarter or eighth if large
  enough for `size`, and resized bilinearly with antialiasing."""
  try:
    image = Image.open(io.BytesIO(data))
    whole = image.size
    region = choose(whole[1], whole[0])
    shrink = min(region.height / size[0], region.width / size[1])
    shown = (0, 0, *whole)  # the whole image in pixels of the decoded one; the last may be partial
    if shrink >= 2:
      smaller = (int(whole[0] / shrink), int(whole[1] / shrink))
      _, shown = image.draft(MODES[channels], smaller) or ('', shown)
    image = in_mode(image, channels)
    x, y = shown[2] / whole[0], shown[3] / whole[1]
    left, top = region.left * x, region.top * y
    right = min(left + region.width * x, image.size[0])
    bottom = min(top + region.height * y, image.size[1])
    box = (left, top, right, bottom)
    pixels = image.resize(size[::-1], Image.Resampling.BILINEAR, box=box)
  except UNREADABLE as error:
    raise undecodable(error) from error
  return np.asarray(pixels).reshape(*size, channels)


def undecodable(error: Exception) -> DataError:
  """The error for an image that raised one of `UNREADABLE`."""
  unknown = isinstance(error, UnidentifiedImageError)  # its message names an object in memory
  return DataError(f'an image cannot be decoded: {"unknown format" if unknown else error}')


def in_mode(image: Image.Image, channels: int) -> Image.Image:
  """An image in grey or colour; of 16 bits the upper 8, as in OpenCV, since Pillow would clip.

  Raises DataError for images of 32 bits, and for modes that Pillow cannot convert.
  """
  if image.mode in ('I', 'F'):
    raise DataError(f'an image must have 8 or 16 bits a pixel, got mode {image.mode}')
  if image.mode.startswith('I;16'):
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  try:
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])
  except ValueError as error:
    raise DataError(f'an image must be grey or RGB, got mode {image.mode}: {error}') from error


def opencv(data: bytes, choose: Choose, size: tuple[int, int], channels: int) -> np.ndarray:
  """The same by OpenCV, resized bilinearly: JPEGs are decoded smaller first, by up to 8."""
  cv2 = _cv2()
  try:
    width, height = Image.open(io.BytesIO(data)).size  # reads the header alone
  except UNREADABLE as error:
    raise undecodable(error) from error
  region = choose(height, width)
  power = _power(region, size)
  kind = 'GRAYSCALE' if channels == 1 else 'COLOR_RGB'
  name = f'IMREAD_REDUCED_{kind.removesuffix("_RGB")}_{power}' if power > 1 else f'IMREAD_{kind}'
  flags = getattr(cv2, name) | cv2.IMREAD_IGNORE_ORIENTATION
  image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  if image is None:
    raise DataError('an image cannot be decoded by OpenCV')
  if power > 1 and channels == 3:
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
  scale = (1 / power, 1 / power)  # of a JPEG, whose last pixels may be partial
  if data[:2] != jpeg.START:  # others are resized, to whole pixels
    scale = (image.shape[0] / height, image.shape[1] / width)
  return _cut(image, region, scale, size)


def turbo(data: bytes, choose: Choose, size: tuple[int, int], channels: int) -> np.ndarray:
  """The pixels of `opencv` by simplejpeg, which decodes a JPEG only down to the end of the part.

  A file that simplejpeg refuses, as for bytes before a marker, is left to OpenCV.
  """
  import simplejpeg

  frame = jpeg.frame_of(data)
  if frame is None:  # no JPEG, or one that is rare enough to be slow
    return opencv(data, choose, size, channels)
  region = choose(frame.height, frame.width)
  power = _power(region, size)
  # Colours are interpolated from two more rows of the smaller image.
  part = jpeg.above(data, frame, math.ceil(region.top + region.height) + 2 * power)
  try:
    image = simplejpeg.decode_jpeg(
      part.data,
      'RGB' if channels == 3 else 'GRAY',
      min_height=-(-part.height // power),
      min_width=-(-frame.width // power),
      min_factor=power,
      strict=False,  # what lies below is more than the header says, and harmless
    )
  except ValueError:
    return opencv(data, lambda *_: region, size, channels)  # the same region: it is drawn once
  return _cut(image, region, (1 / power, 1 / power), size)


def _power(region: Region, size: tuple[int, int]) -> int:
  """By what factor a JPEG can be decoded smaller, with the region no smaller than `size`."""
  shrink = min(region.height / size[0], region.width / size[1])
  return next((n for n in (8, 4, 2) if shrink >= n), 1)


def _cut(
  image: np.ndarray, region: Region, scale: Sequence[float], size: tuple[int, int]
) -> np.ndarray:
  """A region of the whole image, cut from one that is smaller by `scale` (of height, of width).

  Its edges are those of the smaller image's pixels, so off by at most half a pixel; it has at least
  one pixel.
  """
  y, x = scale
  top = min(round(region.top * y), image.shape[0] - 1)
  left = min(round(region.left * x), image.shape[1] - 1)
  height, width = max(1, round(region.height * y)), max(1, round(region.width * x))
  part = image[top : top + height, left : left + width]
  return _cv2().resize(part, size[::-1]).reshape(*size, -1)


def mirrored(pixels: np.ndarray) -> np.ndarray:
  """[H, W, C] from right to left."""
  return (_cv2().flip(pixels, 1) if installed('cv2') else pixels[:, ::-1]).reshape(pixels.shape)


@functools.cache
def _cv2():
  import cv2

  cv2.setNumThreads(1)  # the processes around it are the parallelism
  return cv2


@functools.cache
def installed(module: str) -> bool:
  return importlib.util.find_spec(module) is not None


DECODERS = {'simplejpeg': turbo, 'opencv': opencv, 'pillow': pillow}
NEEDED = {'simplejpeg': ('simplejpeg', 'cv2'), 'opencv': ('cv2',), 'pillow': ()}


@functools.cache
def fastest() -> str:
  """The first decoder of the table whose modules are installed; `python -m benchmarks input`."""
  return next(name for name in DECODERS if all(map(installed, NEEDED[name])))


def pixels() -> str:
  """The decoder whose pixels streamed images have here: 'opencv' (simplejpeg too) or 'pillow'."""
  return 'pillow' if fastest() == 'pillow' else 'opencv'
