"""Batches of images that live in device memory: the host sends indices, the step does the rest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

MODES = ('reflect', 'zeros', 'none')


def gather(
  pixels: jax.Array,
  labels: jax.Array,
  indices: jax.Array,
  key: jax.Array | None = None,
  *,
  shape: tuple[int, int, int],
  pad: int = 0,
  mode: str = 'none',
  flip: bool = False,
) -> dict[str, jax.Array]:
  """The batch {'image': f32 [B, H, W, C] in [0, 1], 'label': i32 [B]} at `indices` int [B].

  pixels uint8 [N, H W C] as `flat` gives them, of images of `shape` (H, W, C); labels int [N].
  With a `key`, each image is padded by `pad` pixels (by reflection or zeros), cropped at random to
  its own size and, with `flip`, mirrored with probability 1/2. Fold the epoch into `key`: an
  image's augmentation is then a function of the seed, the epoch and its index, whatever the batch
  size and the number of devices. Without a key nothing is random: use it so for validation and test
  images. To be called inside a compiled step.
  """
  if mode not in MODES:
    raise ValueError(f'unknown padding mode {mode!r}, known: {", ".join(MODES)}')
  if pad < 0:
    raise ValueError(f'pad must be at least 0, got {pad}')
  if mode == 'reflect' and pad >= min(shape[:2]):
    raise ValueError(f'reflection needs pad < {min(shape[:2])}, the image size; got {pad}')
  pad = 0 if mode == 'none' else pad
  if key is None or (pad == 0 and not flip):
    images = pixels[indices].reshape(-1, *shape)
  else:
    # Both give the same. A CPU gathers pixels as fast as it reads, a TPU one after the other.
    ways = {'cpu': _take, 'default': _choose}
    ways = {n: functools.partial(w, shape=shape, pad=pad, mode=mode) for n, w in ways.items()}
    choices = _choices(key, indices, pad, flip)
    images = jax.lax.platform_dependent(pixels, indices, *choices, **ways)
  return {'image': images.astype(jnp.float32) / 255, 'label': labels[indices].astype(jnp.int32)}


def flat(images: np.ndarray) -> np.ndarray:
  """Images [N, H, W, C] as `gather` wants them in device memory, [N, H W C].

  A TPU keeps the last two axes in tiles: to pick some images that are not flat, it would copy all
  of them into another order at each call.
  """
  return images.reshape(len(images), -1)


def _choices(key, indices, pad, flip):
  """Top and left of the crop in the padded image, int [B] in [0, 2 pad], and whether to mirror."""
  bits = jax.vmap(lambda index: jax.random.bits(jax.random.fold_in(key, index), (3,)))(indices)
  offsets = (bits[:, :2] % (2 * pad + 1)).astype(jnp.int32)  # uniform to 1e-8
  mirrored = (bits[:, 2] % 2 == 1) & flip
  return offsets[:, 0], offsets[:, 1], mirrored


def _choose(pixels, indices, top, left, mirrored, *, shape, pad, mode):
  """Whole images are gathered and padded; of each, every crop is cut and one is chosen."""
  images = pixels[indices].reshape(-1, *shape)
  sides = ((0, 0), (pad, pad), (pad, pad), (0, 0))
  padded = jnp.pad(images, sides, 'reflect' if mode == 'reflect' else 'constant')
  crops = _from(_from(padded, top, shape[0], 1), left, shape[1], 2)
  return jnp.where(mirrored[:, None, None, None], crops[:, :, ::-1], crops)


def _from(images, starts, size, axis):
  """images[b] from starts[b] on, along an axis."""
  chosen = images
  for start in range(images.shape[axis] - size + 1):
    cut = jax.lax.slice_in_dim(images, start, start + size, axis=axis)
    chosen = jnp.where((starts == start)[:, None, None, None], cut, chosen) if start else cut
  return chosen


def _take(pixels, indices, top, left, mirrored, *, shape, pad, mode):
  """out[b, i, j] = images[indices[b], rows[b, i], columns[b, j]]: one gather, no padded copy."""
  images, (height, width, _) = pixels.reshape(-1, *shape), shape
  across = jnp.arange(width)
  across = jnp.where(mirrored[:, None], across[::-1], across)
  rows = jnp.arange(height) + top[:, None] - pad  # [B, H], of the image without its padding
  columns = across + left[:, None] - pad  # [B, W]
  bring = _reflect if mode == 'reflect' else _clip
  crops = images[
    indices[:, None, None], bring(rows, height)[:, :, None], bring(columns, width)[:, None, :]
  ]
  if mode != 'zeros':
    return crops
  inside = _inside(rows, height)[:, :, None] & _inside(columns, width)[:, None, :]
  return jnp.where(inside[..., None], crops, 0)


def _reflect(position, size):
  return size - 1 - jnp.abs(size - 1 - jnp.abs(position))


def _clip(position, size):
  return jnp.clip(position, 0, size - 1)


def _inside(position, size):
  return (position >= 0) & (position < size)
