"""Scores: a saliency for every weight; the weights with the highest are kept.

Every score is a function `(apply_fn, params, batch, key) -> tree shaped like params`, where
`apply_fn(params, images)` gives logits [B, K] with BatchNorm on the batch's own statistics. A new
score is one function and one name in `SCORES`.

Two kinds take more keywords, all with defaults. Scores of data (`OF_DATA`) take `average`, which
can spread a batch over devices and over several steps: `average(fn, trees, batch)` is the mean of
`fn(*trees, part)` over parts of the batch, weighted by their numbers of images. Iterative scores
(`ITERATIVE`) depend on how much will be pruned, and take the `density` and the names of the
`layers` that share it.

Matrix products are in full float32 on every chip. JAX's default keeps fewer bits on recent GPUs and
TPUs, which at low densities would choose other weights.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from random_pruning_jax import masks
from random_pruning_jax.synflow import synflow

ApplyFn = Callable[..., chex.Array]  # (params, images [B, H, W, C]) -> logits [B, K]
Batch = dict[str, chex.Array]  # image f32[B, H, W, C] in [0, 1], label i32[B]
Average = Callable[[Callable, tuple, Batch], chex.ArrayTree]

# At 200 times flatter logits the gradient says where a weight leads, not how sure the network is.
_GRASP_TEMPERATURE = 200.0


def random(apply_fn: ApplyFn, params: chex.ArrayTree, batch: Batch, key: chex.PRNGKey):
  """Uniform random bits, uint32: the most naive score, and the paper's.

  Each leaf has a stream of its own, keyed by `key` and its name, so that layers of equal shape get
  different masks and a layer's mask does not depend on which other layers the network has.
  """
  del apply_fn, batch
  words = tuple(jax.random.key_data(key).ravel().tolist())

  def bits(name, leaf):
    return random_bits(words, name, np.size(leaf)).reshape(np.shape(leaf))

  return masks.map_named(bits, params)


def random_bits(key: tuple[int, ...], name: str, size: int) -> np.ndarray:
  """uint32 [size] of Philox4x64-10 (Salmon et al., 2011), keyed by `key` and the CRC-32 of `name`.

  `key` is two words of 32 bits. NumPy promises that this stream never changes, while jax.random's
  may change with its version: a key gives the same mask on any machine, for good. Each 64-bit word
  of the stream gives two numbers, the low half first.
  """
  words = _philox(key, name).random_raw((size + 1) // 2).astype('<u8', copy=False)
  return words.view('<u4')[:size].astype(np.uint32, copy=False)


def _philox(key: tuple[int, ...], name: str) -> np.random.Philox:
  if len(key) != 2:
    raise ValueError(
      "the key must be of two words, as jax.random.key(seed, impl='threefry2x32') is, "
      f'got one of {len(key)}.'
    )
  high, low = key
  return np.random.Philox(key=[high << 32 | low, zlib.crc32(name.encode())])


def magnitude(apply_fn: ApplyFn, params: chex.ArrayTree, batch: Batch, key: chex.PRNGKey):
  """|w| (Han et al., 2015), here of the initial weights."""
  del apply_fn, batch, key
  return jax.tree.map(jnp.abs, params)


@dataclasses.dataclass(frozen=True)
class Gradient:
  """dL/dw of the mean cross-entropy of logits / temperature; equal instances compile once."""

  apply_fn: ApplyFn
  temperature: float = 1.0

  def loss(self, params: chex.ArrayTree, batch: Batch) -> chex.Array:
    logits = self.apply_fn(params, batch['image']) / self.temperature
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch['label']).mean()

  @jax.default_matmul_precision('highest')
  def __call__(self, params: chex.ArrayTree, batch: Batch) -> chex.ArrayTree:
    return jax.grad(self.loss)(params, batch)


class HessianProduct(Gradient):
  """H v of the same loss, at the cost of about two gradients."""

  @jax.default_matmul_precision('highest')
  def __call__(self, params: chex.ArrayTree, vector: chex.ArrayTree, batch: Batch):
    return jax.jvp(lambda p: jax.grad(self.loss)(p, batch), (params,), (vector,))[1]


def whole(fn: Callable, trees: tuple, batch: Batch) -> chex.ArrayTree:
  """The default `average`: one device takes the whole batch at once."""
  return jax.jit(fn)(*trees, batch)


def snip(
  apply_fn: ApplyFn,
  params: chex.ArrayTree,
  batch: Batch,
  key: chex.PRNGKey,
  *,
  average: Average = whole,
):
  """|w * dL/dw| of the cross-entropy L on one batch (Lee et al., 2019)."""
  del key
  gradient = average(Gradient(apply_fn), (params,), batch)
  return jax.tree.map(lambda w, g: abs(w * g), params, gradient)


def snip_authors(
  apply_fn: ApplyFn,
  params: chex.ArrayTree,
  batch: Batch,
  key: chex.PRNGKey,
  *,
  average: Average = whole,
):
  """SNIP of weights drawn anew, by Xavier's rule, for the score alone, as Liu et al. (2022) do."""
  return snip(apply_fn, xavier_normal(params, key), batch, key, average=average)


def grasp(
  apply_fn: ApplyFn,
  params: chex.ArrayTree,
  batch: Batch,
  key: chex.PRNGKey,
  *,
  average: Average = whole,
):
  """w * Hg: how much of the squared gradient norm is lost with w (Wang et al., 2020).

  g is the gradient and H the Hessian of the cross-entropy of logits / 200, both with respect to the
  weights alone (leaves of two axes or more). The paper removes the weights of largest -w * Hg; here
  the highest scores are kept, so the sign is reversed. GraSP is made for a batch with 25 images of
  every class.
  """
  del key
  return _grasp(apply_fn, params, [batch], average)


def grasp_authors(
  apply_fn: ApplyFn,
  params: chex.ArrayTree,
  batch: Batch,
  key: chex.PRNGKey,
  *,
  average: Average = whole,
):
  """GraSP from two half batches, each with its own BatchNorm statistics, as Liu et al. (2022) do.

  Gradients and products are summed over the halves. Their batch is sorted by class, and is cut
  where the label changes next to its middle, so each half holds half of the classes; of an odd
  number, the second holds one more.
  """
  del key
  labels = np.asarray(batch['label'])
  changes = np.flatnonzero(labels[1:] != labels[:-1]) + 1
  middle = min(changes, key=lambda cut: abs(cut - len(labels) / 2), default=len(labels) // 2)
  halves = [
    {name: array[:middle] for name, array in batch.items()},
    {name: array[middle:] for name, array in batch.items()},
  ]
  return _grasp(apply_fn, params, halves, average)


def _grasp(apply_fn, params, batches, average):
  gradient = Gradient(apply_fn, _GRASP_TEMPERATURE)
  product = HessianProduct(apply_fn, _GRASP_TEMPERATURE)
  gradients = _sum([average(gradient, (params,), batch) for batch in batches])
  gradients = jax.tree.map(lambda g: g if np.ndim(g) >= 2 else g * 0, gradients)
  products = _sum([average(product, (params, gradients), batch) for batch in batches])
  return jax.tree.map(lambda w, h: w * h, params, products)


def _sum(trees):
  # From the first, not from 0: 0 + first would be one more program to compile.
  return jax.tree.map(lambda first, *others: sum(others, first), *trees)


def xavier_normal(params: chex.ArrayTree, key: chex.PRNGKey) -> chex.ArrayTree:
  """Weights drawn anew, normal with variance 2 / (fan_in + fan_out) (Glorot & Bengio, 2010).

  Leaves of fewer than two axes stay as they are.
  """
  words = tuple(jax.random.key_data(key).ravel().tolist())

  def draw(name, leaf):
    if np.ndim(leaf) < 2:
      return leaf
    generator = np.random.Generator(_philox(words, f'xavier/{name}'))
    *taps, fan_in, fan_out = leaf.shape
    scale = math.sqrt(2 / ((fan_in + fan_out) * math.prod(taps)))
    return (scale * generator.standard_normal(leaf.shape)).astype(leaf.dtype)

  return masks.map_named(draw, params)


SCORES = {
  'random': random,
  'magnitude': magnitude,
  'snip': snip,
  'snip_authors': snip_authors,
  'grasp': grasp,
  'grasp_authors': grasp_authors,
  'synflow': synflow,
}
OF_DATA = frozenset({'snip', 'snip_authors', 'grasp', 'grasp_authors'})
ITERATIVE = frozenset({'synflow'})
