"""SynFlow: prune by the flow of an all-ones image through absolute weights (Tanaka et al., 2020).

Let R be the sum of the logits for an image of ones, all parameters replaced by their absolute
values. A weight's score is w * dR/dw: the product of the weights along a path, summed over all
paths through it. The scores of a unit's incoming weights add up to those of its outgoing ones. So,
if the lowest are pruned a few at a time and the scores computed anew, a layer on every path keeps a
weight as long as the budget has one for each such layer. A layer beside a shortcut may lose all its
weights, and the network stays connected.
"""

import functools
from collections.abc import Callable, Collection

import chex
import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax import masks as masks_lib
from random_pruning_jax.ratios import check_density

ROUNDS = 100


def synflow(
  apply_fn: Callable,
  params: chex.ArrayTree,
  batch: dict,
  key: chex.PRNGKey,
  *,
  density: float,
  layers: Collection[str] | None = None,
  rounds: int = ROUNDS,
) -> chex.ArrayTree:
  """The order in which SynFlow prunes on its way to `density`: uint64, later is higher.

  Round k of n scores the weights that are left and keeps density^(k / n) of those of `layers`
  (default: leaves of two axes or more), so the order depends on the density. The upper 32 bits are
  the last round that scored the weight, the lower 32 bits its float32 score in that round, so one
  comparison ranks by round, then by score. The highest `density` of all layers' weights together
  are SynFlow's own mask; the order ranks all weights, since ratios may ask for other densities of
  single layers.

  Of `batch` only the images' shape is read. Calls
  `apply_fn(params, images, train=False, normalize=False)`. Raises ValueError where scores overflow.
  """
  del key
  density = check_density(density)
  named = masks_lib.named_leaves(params)
  if layers is None:
    layers = [name for name, leaf in named.items() if np.ndim(leaf) >= 2]
  size = sum(named[name].size for name in layers)
  image = np.ones((1, *np.shape(batch['image'])[1:]), np.float32)
  # Lists in the order of the tree: jit would sort a dictionary by name.
  weights = [jnp.abs(jnp.asarray(leaf, jnp.float32)) for leaf in named.values()]
  left = [jnp.ones(leaf.shape, bool) for leaf in weights]
  seen = [
    (jnp.zeros(leaf.shape, jnp.uint16), jnp.zeros(leaf.shape, jnp.uint32)) for leaf in weights
  ]
  step = _round(apply_fn, jax.tree.structure(params), tuple(name in layers for name in named))
  for k in range(1, rounds + 1):
    count = masks_lib.kept_count(density ** (k / rounds), size)
    left, seen, finite = step(weights, left, seen, image, np.uint16(k), np.int32(count))
    if not finite:
      raise ValueError(
        f'SynFlow scores must be finite, got nan or infinity in round {k}: the network is too deep '
        'for float32. Rescale between its stages (synflow.rescaled).'
      )
  order = [
    np.asarray(last).astype(np.uint64) << np.uint64(32) | np.asarray(bits).astype(np.uint64)
    for last, bits in seen
  ]
  return jax.tree.unflatten(jax.tree.structure(params), order)


@jax.default_matmul_precision('highest')  # as in `scores`
def flow(apply_fn: Callable, weights: chex.ArrayTree, image: chex.Array) -> chex.ArrayTree:
  """w * dR/dw of weights >= 0: what a round ranks by."""

  def total(w):
    return apply_fn(w, image, train=False, normalize=False).sum()

  return jax.tree.map(jnp.multiply, weights, jax.grad(total)(weights))


def rescaled(call: Callable, args: tuple, kwargs: dict, context) -> chex.Array:
  """For `flax.linen.intercept_methods`: scales the output of each child to a maximum of 1.

  R grows by a factor of hundreds with each residual block and overflows float32 at some 15 of them.
  With ReLU and neither biases nor means, scaling the output of a stage on every path scales R and
  all scores alike, so their order is unchanged. The network must therefore be a sequence of its
  children, as all in `models` are.
  """
  out = call(*args, **kwargs)
  if len(context.module.path) != 1 or context.method_name != '__call__':
    return out
  top = jax.lax.stop_gradient(out.max())
  return out / jnp.where(top > 0, top, 1)


@functools.lru_cache(maxsize=16)
def _round(apply_fn: Callable, structure, ranked: tuple[bool, ...]) -> Callable:
  """One round: score what is left, record the scores, keep the `count` highest (and ties).

  `ranked` says of each leaf whether it is pruned.
  """

  @jax.jit
  def step(weights, left, seen, image, number, count):
    there = jax.tree.map(lambda leaf, mask: jnp.where(mask, leaf, 0), weights, left)
    scores = flow(apply_fn, jax.tree.unflatten(structure, there), image)
    scores = [jnp.abs(score) for score in jax.tree.leaves(scores)]  # no -0
    bits = [jax.lax.bitcast_convert_type(score, jnp.uint32) for score in scores]
    seen = [
      (jnp.where(mask, number, last), jnp.where(mask, score, before))
      for mask, score, (last, before) in zip(left, bits, seen, strict=True)
    ]
    leaves = list(zip(left, bits, ranked, strict=True))
    threshold = _kth_highest(
      [jnp.where(mask, score, 0) for mask, score, yes in leaves if yes], count
    )
    left = [mask & (score >= threshold) if yes else mask for mask, score, yes in leaves]
    finite = [jnp.isfinite(score).all() for score, yes in zip(scores, ranked, strict=True) if yes]
    return left, seen, jnp.all(jnp.stack(finite))

  return step


def _kth_highest(bits: list[chex.Array], count: chex.Array) -> chex.Array:
  """The `count`-th highest number of all arrays, uint32, found bit by bit.

  The bits of floats >= 0 are ordered as the floats are, and 32 passes of counting need no sorting.
  """

  def one_bit(i, found):
    trial = found | (jnp.uint32(1) << jnp.uint32(31 - i))
    enough = sum(jnp.sum(part >= trial) for part in bits) >= count
    return jnp.where(enough, trial, found)

  return jax.lax.fori_loop(0, 32, one_bit, jnp.uint32(0))
