"""Foreign images brought to the size and channels of the images that a network was trained on."""

import functools

import numpy as np
from PIL import Image, ImageOps

from random_pruning_jax.data.decode import shape_of
from random_pruning_jax.data.load import Images, find, load
from random_pruning_jax.data.specs import DataError

NAMES = {1: 'grey', 3: 'colour'}


def adapt(images: np.ndarray, height: int, width: int, channels: int) -> tuple[np.ndarray, str]:
  """Images uint8 [N, H, W, C] as [N, height, width, channels], and a note of what was done.

  The note ('resized 32x32 -> 8x8, colour -> grey', '' when nothing was) belongs in the result.
  Resizing is bilinear with antialiasing, after the longer side is cropped to the new aspect ratio;
  grey is the luma of ITU-R BT.601, and grey becomes colour with three equal channels. Raises
  DataError for images, given or wanted, of neither 1 nor 3 channels.
  """
  source = images.shape[1:]
  note = _note(source, (height, width, channels))
  if not note:
    return images, note
  if source[2] == 3 and channels == 1:
    images = _each(images, lambda image: image.convert('L'), (*source[:2], 1))
  if source[:2] != (height, width):
    fit = functools.partial(ImageOps.fit, size=(width, height), method=Image.Resampling.BILINEAR)
    images = _each(images, fit, (height, width, images.shape[3]))
  if source[2] == 1 and channels == 3:
    images = np.repeat(images, 3, axis=3)
  return images, note


def load_adapted(
  name: str, split: str, shape: tuple[int, int, int], data_dir: str = '', resize: int = 0
) -> tuple[Images, str]:
  """A split as `load` gives it, adapted to `shape` (height, width, channels), and the note.

  Use it to read foreign data. It also takes sets whose images differ in size; `resize` says how
  much of an image is shown (`load`).
  """
  height, width, channels = shape
  if None in shape_of(name, find(name, data_dir)):
    images, labels = load(name, split, data_dir, size=(height, width), resize=resize)
    images, note = adapt(images, height, width, channels)
    resized = f'resized to {height}x{width}' + (f' (centre of {resize})' if resize else '')
    return Images(images, labels), f'{resized}, {note}' if note else resized
  images, labels = load(name, split, data_dir)
  images, note = adapt(images, height, width, channels)
  return Images(images, labels), note


def _note(source: tuple[int, int, int], target: tuple[int, int, int]) -> str:
  for channels in (source[2], target[2]):
    if channels not in NAMES:
      raise DataError(f'images must have 1 or 3 channels, got {channels}')
  notes = []
  if source[:2] != target[:2]:
    notes.append(f'resized {source[0]}x{source[1]} -> {target[0]}x{target[1]}')
  if source[2] != target[2]:
    notes.append(f'{NAMES[source[2]]} -> {NAMES[target[2]]}')
  return ', '.join(notes)


def _each(images: np.ndarray, change, shape: tuple[int, int, int]) -> np.ndarray:
  changed = np.empty((len(images), *shape), np.uint8)
  for index, pixels in enumerate(images):
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    changed[index] = np.asarray(change(image)).reshape(shape)
  return changed
