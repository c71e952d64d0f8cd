"""Square attack: random search without gradients, which gradient masking does not stop."""

import bisect
import math

import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax import norms
from random_pruning_jax.norms import LossFn

# The area halves after these iterations of 10,000, and in proportion where there are fewer.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(
  loss_fn: LossFn,
  images: jax.Array,
  epsilon: float,
  keys: jax.Array,
  *,
  queries: int = 5000,
  p_init: float = 0.8,
) -> jax.Array:
  """The best image of the L-infinity Square attack (Andriushchenko et al., 2020), in [0, 1].

  Starts from vertical stripes of +-epsilon; each query repaints one square, every channel at
  +epsilon or -epsilon, and is kept where the loss rose. loss_fn: images [B, H, W, C] -> loss [B],
  usually the margin, is evaluated `queries` times; keys [B]; p_init is the first square's share of
  the image.
  """
  if queries < 1:
    raise ValueError(f'queries must be at least 1, got {queries}')
  if not 0 < p_init <= 1:
    raise ValueError(f'p_init must lie in (0, 1], got {p_init}')
  norms.check_pixels(images)
  norms.check_keys(keys, images)
  _, height, width, channels = images.shape

  def query(best, plan):
    number, side = plan
    best_images, best_loss = best
    query_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
    painted, signs = jax.vmap(lambda key: _square(key, side, images.shape[1:]))(query_keys)
    moved = jnp.clip(jnp.where(painted, images + epsilon * signs, best_images), 0, 1)
    loss = loss_fn(moved)
    better = loss > best_loss
    return (norms.keep(better, moved, best_images), jnp.maximum(loss, best_loss)), None

  stripes = norms.draw(jax.random.rademacher, keys, (1, width, channels))
  start = jnp.clip(images + epsilon * stripes, 0, 1)
  plans = (jnp.arange(queries - 1), jnp.asarray(sides(queries, p_init, height, width)))
  return jax.lax.scan(query, (start, loss_fn(start)), plans)[0][0]


def sides(queries: int, p_init: float, height: int, width: int) -> np.ndarray:
  """Side of the square of each query after the first, in pixels, at least 1, [queries - 1]."""
  lengths = []
  for query in range(queries - 1):
    halvings = bisect.bisect_left(_HALVINGS, query * 10_000 // queries)
    length = round(math.sqrt(p_init / 2**halvings * height * width))
    lengths.append(min(max(length, 1), height, width))
  return np.asarray(lengths, np.int32)


def _square(
  key: jax.Array, side: jax.Array, shape: tuple[int, int, int]
) -> tuple[jax.Array, jax.Array]:
  """Whether each pixel lies in a square at a random place [H, W, 1], and its signs [1, 1, C]."""
  row_key, column_key, sign_key = jax.random.split(key, 3)

  def span(span_key, length):
    place = jnp.arange(length) - jax.random.randint(span_key, (), 0, length - side + 1)
    return (place >= 0) & (place < side)

  rows, columns = span(row_key, shape[0]), span(column_key, shape[1])
  signs = jax.random.rademacher(sign_key, (1, 1, shape[2]))
  return (rows[:, None] & columns)[:, :, None], signs
