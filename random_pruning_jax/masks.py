"""Masks: which weights a network keeps, as booleans in the shape of its parameters.

A mask tree has the structure and the shapes of the parameters; `True` means kept. Leaves that are
never pruned (biases, BatchNorm) are there too, all `True`, so that any function of two trees of one
shape works on parameters and masks.

    scores, densities --top--> masks --keep_sparse--> an optax transform that keeps the zeros zero
"""

import concurrent.futures
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from random_pruning_jax.ratios import Densities, check_density
from random_pruning_jax.system import processor

Params = chex.ArrayTree
Masks = chex.ArrayTree


def named_leaves(tree: chex.ArrayTree) -> dict[str, Any]:
  """Leaves of any pytree by their path: 'stem/kernel' -> leaf, in tree order.

  Raises ValueError where two leaves have one path, as those of {'a/b': x, 'a': {'b': y}}.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  named = {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}
  if len(named) < len(leaves):
    raise ValueError(f'each leaf must have a path of its own; two of {", ".join(named)} share one.')
  return named


def kept_count(density: float, size: int) -> int:
  """Number of weights that a layer of `size` weights keeps."""
  return round(density * size)


def top(scores: chex.ArrayTree, densities: Densities) -> Masks:
  """Keeps the `round(density * size)` highest scores of each layer named in `densities`.

  Ties go to the lower index. A layer that `densities` does not name is kept whole. Raises
  ValueError for a name that `scores` lacks, a density outside [0, 1] and scores that are not
  finite.
  """

  def pick(score: np.ndarray, density: float) -> np.ndarray:
    return _highest(score.ravel(), kept_count(density, score.size)).reshape(score.shape)

  return by_layer(pick, scores, densities)


def bernoulli(scores: chex.ArrayTree, densities: Densities) -> Masks:
  """Keeps each weight with its layer's density as probability, as the authors' code does.

  `scores` are uniform random bits (`scores.random`, uint32). The number of weights kept is random
  too, with standard deviation sqrt(density * (1 - density) * size). Raises ValueError for scores of
  another type, and as `top` does.
  """
  for name, score in named_leaves(scores).items():
    if densities.get(name, 1.0) != 1.0 and score.dtype != np.uint32:
      raise ValueError(
        f'bernoulli sampling needs random scores (uint32 bits), got {score.dtype} for {name}.'
      )
  return by_layer(lambda score, density: score < density * 2.0**32, scores, densities)


def by_layer(
  pick: Callable[[np.ndarray, float], np.ndarray],
  scores: chex.ArrayTree,
  densities: Densities,
) -> Masks:
  """Masks of `pick(score, density)` for each layer that is not kept whole.

  Layers of density 1, and those that `densities` does not name, are kept whole. Raises ValueError
  for a name that `scores` lacks, a density outside [0, 1], and scores that are not finite.
  """
  known = named_leaves(scores)
  unknown = sorted(set(densities) - set(known))
  if unknown:
    raise ValueError(f'densities name layers without scores: {unknown}; known: {sorted(known)}.')
  for name, density in densities.items():
    if not 0 <= density <= 1:
      raise ValueError(f'density of {name} must lie in [0, 1], got {density}.')

  def one(name: str, score: chex.Array) -> np.ndarray:
    if densities.get(name, 1.0) == 1.0:
      return np.ones(np.shape(score), bool)
    return pick(_finite(name, score), densities[name])

  return map_named(one, scores)


def layer_densities(scores: chex.ArrayTree, density: float) -> dict[str, float]:
  """Density of each layer when the scores of all layers are ranked together.

  Exact: `round(density * total)` weights are kept in all, ties in order of layer and index.
  """
  density = check_density(density)
  flat = {name: _finite(name, score).ravel() for name, score in named_leaves(scores).items()}
  ranked = np.concatenate(list(flat.values()))
  keep = _highest(ranked, kept_count(density, ranked.size))
  pieces = np.split(keep, np.cumsum([score.size for score in flat.values()])[:-1])
  return {name: float(piece.mean()) for name, piece in zip(flat, pieces, strict=True)}


def apply(params: Params, masks: Masks) -> Params:
  """Parameters with exact zeros outside the masks (even where a weight is not finite).

  Raises ValueError naming the leaves that one of the trees lacks, that differ in shape, or whose
  masks are not boolean.
  """
  kept = matched(params, masks)
  return jax.tree.map(lambda p, m: jnp.where(m, p, jnp.zeros_like(p)), params, kept)


def ones(params: Params) -> Masks:
  """The masks of the dense network, on the devices of its parameters."""
  return jax.tree.map(lambda p: jnp.ones_like(p, bool), params)


class KeepSparseState(NamedTuple):
  masks: Masks  # bool, structure and shapes of the parameters


def keep_sparse(masks: Masks | None = None) -> optax.GradientTransformation:
  """Keeps every weight outside the masks at exactly zero. Put it last in the chain.

  The masks live in the optimizer state, so they are saved, restored and replicated with it and are
  inputs of the compiled step, not constants in it. Without `masks` the state begins dense, and
  `with_masks` puts masks into it.
  """

  def init(params: Params) -> KeepSparseState:
    if masks is None or not jax.tree.leaves(params):  # optax.tree_map_params passes an empty tree
      return KeepSparseState(ones(params))
    return _state(params, masks)

  def update(updates: optax.Updates, state: KeepSparseState, params: Params | None = None):
    if params is None:
      raise ValueError('keep_sparse needs the parameters: call tx.update(updates, state, params).')
    # Updates of -p, not of 0: a pruned weight becomes zero whatever finite number it was before.
    return jax.tree.map(lambda u, p, m: jnp.where(m, u, -p), updates, params, state.masks), state

  return optax.GradientTransformation(init, update)


def of(opt_state: optax.OptState) -> Masks:
  """The masks inside an optimizer state.

  Raises ValueError unless exactly one `keep_sparse` was in the chain that made it.
  """
  found = [node for node in jax.tree.leaves(opt_state, is_leaf=_is_state) if _is_state(node)]
  if len(found) != 1:
    raise ValueError(f'the state must hold that of one keep_sparse, got {len(found)}.')
  return found[0].masks


def with_masks(opt_state: optax.OptState, masks: Masks) -> optax.OptState:
  """The same optimizer state with other masks in it. Raises as `apply` does."""
  new = _state(of(opt_state), masks)
  return jax.tree.map(lambda x: new if _is_state(x) else x, opt_state, is_leaf=_is_state)


def _state(tree: chex.ArrayTree, masks: Masks) -> KeepSparseState:
  """Copies of the masks on `tree`'s devices, safe to donate."""
  kept = matched(tree, masks)
  new = jax.tree.map(lambda x, m: jnp.logical_or(jnp.zeros_like(x, bool), m), tree, kept)
  return KeepSparseState(new)


def _is_state(node: Any) -> bool:
  return isinstance(node, KeepSparseState)


def count(masks: Masks) -> dict[str, int]:
  """Weights kept in each leaf."""
  return {name: int(np.asarray(mask).sum()) for name, mask in named_leaves(masks).items()}


def checksum(masks: Masks) -> str:
  """First 16 hex digits of SHA-256 over every leaf's name, shape and packed bits."""
  digest = hashlib.sha256()
  for name, mask in sorted(named_leaves(masks).items()):
    mask = np.asarray(mask, bool)
    digest.update(f'{name}{mask.shape}'.encode())
    digest.update(np.packbits(mask.ravel()).tobytes())
  return digest.hexdigest()[:16]


def matched(params: Params, masks: Masks) -> Masks:
  """Masks in the parameters' structure.

  ValueError names leaves that are missing, extra, misshapen or not boolean.
  """
  # By path, since NNX's optimizers have containers of their own types.
  wanted, leaves = named_leaves(params), named_leaves(masks)
  wrong = [f'{name} (missing)' for name in wanted.keys() - leaves.keys()]
  wrong += [f'{name} (not a parameter)' for name in leaves.keys() - wanted.keys()]
  for name in wanted.keys() & leaves.keys():
    shape, got = jnp.shape(wanted[name]), jnp.shape(leaves[name])
    if got != shape:
      wrong.append(f'{name} (wanted {shape}, got {got})')
    if (dtype := jnp.result_type(leaves[name])) != np.bool_:
      wrong.append(f'{name} (wanted bool, got {dtype})')
  if wrong:
    where = ' Put keep_sparse outside multi_transform or masked, which hide some parameters.'
    where *= 'MaskedNode' in str(jax.tree.structure(params))
    raise ValueError(
      f'masks must match the parameters leaf by leaf: {", ".join(sorted(wrong))}.{where}'
    )
  return jax.tree.unflatten(jax.tree.structure(params), [leaves[name] for name in wanted])


def _highest(score: np.ndarray, k: int) -> np.ndarray:
  """True at the k highest of a flat array, ties by index; linear time."""
  if k == 0:
    return np.zeros(score.size, bool)
  threshold = np.partition(score, score.size - k)[score.size - k]
  keep = score > threshold
  ties = np.flatnonzero(score == threshold)
  keep[ties[: k - int(keep.sum())]] = True
  return keep


def _finite(name: str, score: chex.Array) -> np.ndarray:
  score = np.asarray(score)
  if score.dtype.kind not in 'iu' and not np.isfinite(score).all():
    raise ValueError(f'scores of {name} must be finite, got nan or infinity.')
  return score


def map_named(fn: Callable[[str, Any], Any], tree: chex.ArrayTree) -> chex.ArrayTree:
  """The tree of `fn(name, leaf)`, on one thread a core: NumPy lets other threads run meanwhile."""
  named = named_leaves(tree)
  with concurrent.futures.ThreadPoolExecutor(processor.cores()) as threads:
    leaves = list(threads.map(fn, named.keys(), named.values()))
  return jax.tree.unflatten(jax.tree.structure(tree), leaves)
