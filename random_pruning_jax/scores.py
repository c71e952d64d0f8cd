"""Scores: a saliency for every weight; the weights with the highest are kept.

Every score is a function `(apply_fn, params, batch, key) -> tree shaped like params`, where
`apply_fn(params, images)` gives logits [B, K] with BatchNorm on the batch's own statistics. A new
score is one function and one name in `SCORES`.
"""

import zlib
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

ApplyFn = Callable[..., chex.Array]  # (params, images [B, H, W, C]) -> logits [B, K]
Batch = dict[str, chex.Array]  # image f32[B, H, W, C] in [0, 1], label i32[B]


def random(apply_fn: ApplyFn, params: chex.ArrayTree, batch: Batch, key: chex.PRNGKey):
  """Uniform random bits, uint32: the most naive score, and the paper's.

  One key a leaf, folded from its name, so that layers of equal shape get different masks and a
  layer's mask does not depend on which other layers the network has.
  """
  del apply_fn, batch

  def bits(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    leaf_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    return jax.random.bits(leaf_key, jnp.shape(leaf), jnp.uint32)

  return jax.tree_util.tree_map_with_path(bits, params)


def magnitude(apply_fn: ApplyFn, params: chex.ArrayTree, batch: Batch, key: chex.PRNGKey):
  """|w| (Han et al., 2015), here of the initial weights."""
  del apply_fn, batch, key
  return jax.tree.map(jnp.abs, params)


SCORES = {
  'random': random,
  'magnitude': magnitude,
}
