"""Batches of images that live in device memory: the host sends indices, the step does the rest."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

# The order is said where no JAX is needed, and asked for here.
from random_pruning_jax.data.order import batch_indices, epoch_order, steps_per_epoch

__all__ = ['batch_indices', 'epoch_order', 'evaluation_batches', 'gather', 'steps_per_epoch']

MODES = ('reflect', 'zeros', 'none')


def gather(
  images: jax.Array,
  labels: jax.Array,
  indices: jax.Array,
  key: jax.Array | None = None,
  *,
  pad: int = 0,
  mode: str = 'none',
  flip: bool = False,
) -> dict[str, jax.Array]:
  """The batch {'image': f32 [B, H, W, C] in [0, 1], 'label': i32 [B]} at `indices` int [B].

  images uint8 [N, H, W, C], labels int [N]. With a `key`, each image is padded by `pad` pixels (by
  reflection or zeros), cropped at random to its own size and mirrored with probability 1/2. Fold
  the epoch into `key`: an image's augmentation is then a function of the seed, the epoch and its
  index, whatever the batch size and the number of devices. Without a key nothing is random: use it
  so for validation and test images. To be called inside a compiled step.
  """
  if mode not in MODES:
    raise ValueError(f'unknown padding mode {mode!r}, known: {", ".join(MODES)}')
  if pad < 0:
    raise ValueError(f'pad must be at least 0, got {pad}')
  pad = 0 if mode == 'none' else pad
  if key is None or (pad == 0 and not flip):
    pixels = images[indices]
  else:
    pixels = _crops(images, indices, key, pad, mode, flip)
  return {'image': pixels.astype(jnp.float32) / 255, 'label': labels[indices].astype(jnp.int32)}


def _crops(images, indices, key, pad, mode, flip):
  height, width = images.shape[1:3]
  if mode == 'reflect' and pad >= min(height, width):
    raise ValueError(f'reflection needs pad < {min(height, width)}, the image size; got {pad}')
  top, left, mirrored = _choices(key, indices, pad, flip)
  across = jnp.arange(width)
  across = jnp.where(mirrored[:, None], across[::-1], across)
  rows = jnp.arange(height) + top[:, None] - pad  # [B, H], of the image without its padding
  columns = across + left[:, None] - pad  # [B, W]
  return _take(images, indices, rows, columns, mode)


def _choices(key, indices, pad, flip):
  """Top and left of the crop in the padded image, int [B] in [0, 2 pad], and whether to mirror."""
  bits = jax.vmap(lambda index: jax.random.bits(jax.random.fold_in(key, index), (3,)))(indices)
  offsets = (bits[:, :2] % (2 * pad + 1)).astype(jnp.int32)  # uniform to 1e-8
  mirrored = (bits[:, 2] % 2 == 1) & flip
  return offsets[:, 0], offsets[:, 1], mirrored


def _take(images, indices, rows, columns, mode):
  """out[b, i, j] = images[indices[b], rows[b, i], columns[b, j]]: one gather, no padded copy."""
  height, width = images.shape[1:3]
  bring = _reflect if mode == 'reflect' else _clip
  pixels = images[
    indices[:, None, None], bring(rows, height)[:, :, None], bring(columns, width)[:, None, :]
  ]
  if mode != 'zeros':
    return pixels
  inside = _inside(rows, height)[:, :, None] & _inside(columns, width)[:, None, :]
  return jnp.where(inside[..., None], pixels, 0)


def _reflect(position, size):
  return size - 1 - jnp.abs(size - 1 - jnp.abs(position))


def _clip(position, size):
  return jnp.clip(position, 0, size - 1)


def _inside(position, size):
  return (position >= 0) & (position < size)


def evaluation_batches(n: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (indices int32 [batch_size], valid bool [batch_size]) that name each of n images once.

  The last batch is filled with image 0, marked not valid, so that all batches have one shape.
  """
  if batch_size < 1:
    raise ValueError(f'batch_size must be at least 1, got {batch_size}')
  for start in range(0, n, batch_size):
    indices = np.arange(start, start + batch_size, dtype=np.int32)
    valid = indices < n
    yield np.where(valid, indices, 0).astype(np.int32), valid
