"""Scores: a saliency for every weight; the weights with the highest are kept.

Every score is a function `(apply_fn, params, batch, key) -> tree shaped like params`, where
`apply_fn(params, images)` gives logits [B, K] with BatchNorm on the batch's own statistics. A new
score is one function and one name in `SCORES`.
"""

import math
import zlib
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

ApplyFn = Callable[..., chex.Array]  # (params, images [B, H, W, C]) -> logits [B, K]
Batch = dict[str, chex.Array]  # image f32[B, H, W, C] in [0, 1], label i32[B]


def random(apply_fn: ApplyFn, params: chex.ArrayTree, batch: Batch, key: chex.PRNGKey):
  """Uniform random bits, uint32: the most naive score, and the paper's.

  Each leaf has a stream of its own, keyed by `key` and its name, so that layers of equal shape get
  different masks and a layer's mask does not depend on which other layers the network has.
  """
  del apply_fn, batch
  words = tuple(int(word) for word in jax.random.key_data(key).ravel())

  def bits(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return random_bits(words, name, math.prod(jnp.shape(leaf))).reshape(jnp.shape(leaf))

  return jax.tree_util.tree_map_with_path(bits, params)


def random_bits(key: tuple[int, ...], name: str, size: int) -> np.ndarray:
  """uint32 [size] of Philox4x64-10 (Salmon et al., 2011), keyed by `key` and the CRC-32 of `name`.

  `key` is two words of 32 bits. Not jax.random, whose streams may change with its version: NumPy
  promises that this one does not, so a mask is its key, on any machine, for good. Each 64-bit word
  of the stream gives two numbers, the low half first.
  """
  high, low = key
  stream = np.random.Philox(key=[high << 32 | low, zlib.crc32(name.encode())])
  words = stream.random_raw((size + 1) // 2).astype('<u8')
  return words.view('<u4')[:size].astype(np.uint32)


def magnitude(apply_fn: ApplyFn, params: chex.ArrayTree, batch: Batch, key: chex.PRNGKey):
  """|w| (Han et al., 2015), here of the initial weights."""
  del apply_fn, batch, key
  return jax.tree.map(jnp.abs, params)


SCORES = {
  'random': random,
  'magnitude': magnitude,
}
