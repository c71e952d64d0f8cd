"""Balls of radius epsilon around images, and how an attack starts, climbs and stays inside."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

LossFn = Callable[[jax.Array], jax.Array]


class Norm(NamedTuple):
  """One kind of ball, of radius 1; every point is an image of a batch [B, H, W, C]."""

  start: Callable[[jax.Array, tuple[int, ...]], jax.Array]  # keys [B], [H, W, C] -> random points
  direction: Callable[[jax.Array], jax.Array]  # gradient -> steepest ascent, of norm 1
  project: Callable[[jax.Array], jax.Array]  # any point -> a point in the ball


def image_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
  """One key an image [B], from its index in the set [B]; `key` may be of the old kind, uint32 [2].

  An image's random numbers then depend on its index alone, not on its batch or device.
  """
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def check_pixels(images: jax.Array) -> None:
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(f'images must be floats in [0, 1], got {images.dtype}')


def check_keys(keys: jax.Array, images: jax.Array) -> None:
  if keys.shape != images.shape[:1]:
    raise ValueError(
      f'keys must be one an image, {list(images.shape[:1])} (norms.image_keys), '
      f'got {list(keys.shape)}'
    )


def draw(sample: Callable[..., jax.Array], keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """`sample(key, shape)` for each of the keys [B], [B, *shape]."""
  return jax.vmap(lambda key: sample(key, shape))(keys)


def _length(points: jax.Array) -> jax.Array:
  return jnp.sqrt(jnp.sum(points**2, axis=tuple(range(1, points.ndim)), keepdims=True))


def _unit(points: jax.Array) -> jax.Array:
  """Of length 1, however small a gradient is; an image whose gradient is 0 does not move."""
  # Relative to the largest, since squares of what is below 1e-19 are 0 in float32.
  largest = jnp.max(jnp.abs(points), axis=tuple(range(1, points.ndim)), keepdims=True)
  points = points / jnp.maximum(largest, jnp.finfo(jnp.float32).tiny)
  return points / jnp.maximum(_length(points), 1e-12)


NORMS: dict[str, Norm] = {
  'linf': Norm(
    start=lambda keys, shape: 2 * draw(jax.random.uniform, keys, shape) - 1,
    direction=jnp.sign,
    project=lambda points: jnp.clip(points, -1, 1),
  ),
  'l2': Norm(
    # On the sphere, where nearly all of a ball of so many dimensions lies.
    start=lambda keys, shape: _unit(draw(jax.random.normal, keys, shape)),
    direction=_unit,
    project=lambda points: points / jnp.maximum(_length(points), 1),
  ),
}


def get(name: str) -> Norm:
  if name not in NORMS:
    raise ValueError(f'norm must be one of {", ".join(NORMS)}, got {name!r}')
  return NORMS[name]


def inside(norm: Norm, images: jax.Array, moved: jax.Array, epsilon: float) -> jax.Array:
  """`moved` brought into the ball around `images`, then into [0, 1]; at epsilon 0, `images`."""
  unit = norm.project((moved - images) / jnp.maximum(epsilon, 1e-12))
  return jnp.clip(images + epsilon * unit, 0, 1)


def start(norm: Norm, images: jax.Array, epsilon: float, keys: jax.Array) -> jax.Array:
  """A random point of each ball, in [0, 1]."""
  check_pixels(images)
  check_keys(keys, images)
  dtype = jnp.promote_types(images.dtype, jnp.float32)  # where points are float64, in 64-bit mode
  point = norm.start(keys, images.shape[1:]).astype(dtype)
  return inside(norm, images, images + epsilon * point, epsilon)


def loss_and_gradient(loss_fn: LossFn, images: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The loss [B] of each image and its gradient [B, H, W, C]."""
  check_pixels(images)
  loss, pull = jax.vjp(loss_fn, images)
  if loss.shape != images.shape[:1]:
    raise ValueError(
      f'loss_fn must give one loss an image, {list(images.shape[:1])}, got {list(loss.shape)}'
    )
  return loss, pull(jnp.ones_like(loss))[0]


def strongest(
  attack: Callable[[jax.Array], jax.Array], choices: jax.Array, judge: LossFn, images: jax.Array
) -> jax.Array:
  """For each image, the clean one or the `attack(choice)` that has the highest `judge` loss."""

  def try_one(best, choice):
    best_images, most = best
    moved = attack(choice)
    given = judge(moved)
    return (keep(given > most, moved, best_images), jnp.maximum(given, most)), None

  return jax.lax.scan(try_one, (images, judge(images)), choices)[0][0]


def restarted(
  attack: Callable[[jax.Array], jax.Array],
  keys: jax.Array,
  restarts: int,
  judge: LossFn,
  images: jax.Array,
) -> jax.Array:
  """Runs `attack` from `restarts` keys; keeps each image's result with the highest `judge` loss."""
  if restarts < 1:
    raise ValueError(f'restarts must be at least 1, got {restarts}')
  if restarts == 1:
    return attack(keys)
  return strongest(attack, draw(jax.random.split, keys, restarts).T, judge, images)


def keep(which: jax.Array, these: jax.Array, others: jax.Array) -> jax.Array:
  """`these` images where `which` [B], the others elsewhere."""
  return jnp.where(which.reshape(-1, *[1] * (these.ndim - 1)), these, others)
