"""Foreign images brought to the size and channels of the images that a network was trained on."""

import functools
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from random_pruning_jax.data import crops, places, store
from random_pruning_jax.data.decode import CHUNK, Decoded, Images, shape_of
from random_pruning_jax.data.load import find, load, split_expression
from random_pruning_jax.data.specs import DataError

NAMES = {1: 'grey', 3: 'colour'}
VERSION = 1  # raise this when `adapt` changes: cached images are adapted again


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
  much of an image is shown (`load`). Images that had to be adapted are kept in the user's cache
  directory and mapped from there, so a large set need not fit into memory.
  """
  path, size = find(name, data_dir), None
  notes = []
  if None in shape_of(name, path):
    size = shape[:2]
    notes.append(f'resized to {size[0]}x{size[1]}' + (f' (centre of {resize})' if resize else ''))
  else:
    resize = 0
  images = load(name, split, data_dir, size=size, resize=resize)
  if note := _note(images.images.shape[1:], shape):
    notes.append(note)
    identity = {'source': str(path.resolve()), 'split': split_expression(name, split, path)}
    identity |= {'adapted': shape, 'resize': resize}
    made_by = [*places.fingerprint(path), crops.VERSION, VERSION]
    images = store.fetch(name, identity, made_by, lambda: _adapted(images, shape))
  return images, ', '.join(notes)


def _adapted(images: Images, shape: tuple[int, int, int]) -> Decoded:
  """Slice by slice, so that only one is held in memory."""

  def chunks() -> Iterator[Images]:
    for start in range(0, len(images.labels), CHUNK):
      some, labels = (part[start : start + CHUNK] for part in images)
      yield Images(adapt(some, *shape)[0], labels)

  return Decoded((len(images.labels), *shape), chunks())


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
