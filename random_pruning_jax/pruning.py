"""A ratio and a score become masks.

`ratio` says how many weights each layer keeps, `select` says which. Either may be the name of a
score, and both together make the grid of the field:

    ratio   select      is
    erk     random      random pruning with ERK ratios, the heart of the paper
    snip    random      the "SNIP ratio": SNIP decides how many, chance decides which
    snip    snip        SNIP itself
    erk     magnitude   magnitude at initialisation with ERK ratios
    any     any         the dense network, at density 1.0
"""

from collections.abc import Callable

import chex
import jax
import numpy as np

from random_pruning_jax import masks as masks_lib
from random_pruning_jax.ratios import RATIOS
from random_pruning_jax.scores import SCORES

SAMPLINGS = {
  'exact': masks_lib.top,
  'bernoulli': masks_lib.bernoulli,
}


def is_kernel(name: str) -> bool:
  """The leaves that are pruned unless told otherwise: kernels, never biases or BatchNorm."""
  return name.split('/')[-1] == 'kernel'


def prunable_shapes(
  params: chex.ArrayTree, prunable: Callable[[str], bool] = is_kernel
) -> dict[str, tuple[int, ...]]:
  """Shapes of the leaves that are pruned, in tree order."""
  leaves = masks_lib.named_leaves(params)
  return {name: tuple(np.shape(leaf)) for name, leaf in leaves.items() if prunable(name)}


def check_names(ratio: str, select: str, sampling: str) -> None:
  """Raises ValueError for a name that no table has, listing those that it has."""
  for field, value, known in (
    ('ratio', ratio, {**RATIOS, **SCORES}),
    ('select', select, SCORES),
    ('sampling', sampling, SAMPLINGS),
  ):
    if value not in known:
      raise ValueError(f'{field} must be one of {sorted(known)}, got {value!r}.')
  if sampling == 'bernoulli' and select != 'random':
    raise ValueError(
      f"bernoulli sampling selects at random; select must be 'random', got {select!r}."
    )


def make_masks(
  key: chex.PRNGKey,
  apply_fn: Callable | None,
  params: chex.ArrayTree,
  batch: dict | None,
  *,
  ratio: str,
  select: str = 'random',
  density: float,
  sampling: str = 'exact',
  shapes: masks_lib.Densities | None = None,
  scores: dict[str, Callable] = SCORES,
) -> masks_lib.Masks:
  """Masks that keep `density` of the prunable weights: a pytree of bool in the shape of `params`.

  `shapes` names the leaves to prune, in the network's order (default: every kernel, in tree order).
  `apply_fn` and `batch` are read by data-dependent scores only. Raises ValueError for unknown names
  and for budgets that the ratio cannot meet.
  """
  check_names(ratio, select, sampling)
  masks_lib.check_density(density)
  shapes = prunable_shapes(params) if shapes is None else shapes
  if density == 1.0:
    return masks_lib.ones(params)
  # Saliencies are computed once when ratio and select name the same score: that is SNIP itself.
  saliency = {
    name: scores[name](apply_fn, params, batch, key) for name in {ratio, select} if name in scores
  }
  if ratio in RATIOS:
    densities = RATIOS[ratio](shapes, density)
  else:
    leaves = masks_lib.named_leaves(saliency[ratio])
    densities = masks_lib.layer_densities({name: leaves[name] for name in shapes}, density)
  return SAMPLINGS[sampling](saliency[select], densities)


def layer_densities(
  masks: masks_lib.Masks, prunable: Callable[[str], bool] = is_kernel
) -> dict[str, float]:
  """Fraction that each prunable layer keeps."""
  leaves = masks_lib.named_leaves(jax.device_get(masks))
  return {name: float(np.mean(leaf)) for name, leaf in leaves.items() if prunable(name)}
