"""A ratio and a score become masks.

`ratio` says how many weights each layer keeps, `select` says which. `select` names a score, `ratio`
a ratio or a score, and the pairs are the methods of the field:

    ratio   select      is
    erk     random      random pruning with ERK ratios, the heart of the paper
    snip    random      the "SNIP ratio": SNIP decides how many, chance decides which
    snip    snip        SNIP itself
    erk     magnitude   magnitude at initialisation with ERK ratios
    any     any         the dense network, at density 1.0

`sampling` says how counts become masks: exactly (exact), by chance (bernoulli), or with a structure
(`structured`: n_m, fan_in). Layers can be held dense by name; the density then applies to the
others.
"""

import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import chex
import jax
import numpy as np

from random_pruning_jax import masks as masks_lib
from random_pruning_jax import structured
from random_pruning_jax.ratios import RATIOS, Densities, Shapes, check_density
from random_pruning_jax.scores import ITERATIVE, OF_DATA, SCORES, ApplyFn, Batch

BLOCK = 4  # M of N:M

# name -> scores, densities, block -> masks
SAMPLINGS = {
  'exact': lambda scores, densities, block: masks_lib.top(scores, densities),
  'bernoulli': lambda scores, densities, block: masks_lib.bernoulli(scores, densities),
  'n_m': structured.n_m,
  'fan_in': lambda scores, densities, block: structured.fan_in(scores, densities),
}
# A ratio's densities become those that a structure can keep: shapes, densities, block -> densities.
FITS = {
  'n_m': structured.n_m_densities,
  'fan_in': lambda shapes, densities, block: structured.fan_in_densities(shapes, densities),
}


def is_kernel(name: str) -> bool:
  """The leaves that are pruned unless told otherwise: kernels, never biases or BatchNorm.

  A boxed kernel (`nn.with_partitioning`, NNX) is a leaf '.../kernel/value'.
  """
  return name.removesuffix('/value').split('/')[-1] == 'kernel'


def prunable_shapes(
  params: chex.ArrayTree, prunable: Callable[[str], bool] = is_kernel
) -> dict[str, tuple[int, ...]]:
  """Shapes of the leaves that are pruned, in tree order."""
  leaves = masks_lib.named_leaves(params)
  return {name: tuple(np.shape(leaf)) for name, leaf in leaves.items() if prunable(name)}


def check_names(
  ratio: str, select: str, sampling: str, scores: Mapping[str, Callable] = SCORES
) -> None:
  """Raises ValueError for an unknown name, listing the known ones, and for names that do not go
  together: bernoulli sampling selects at random."""
  for field, value, known in (
    ('ratio', ratio, {**RATIOS, **scores}),
    ('select', select, scores),
    ('sampling', sampling, SAMPLINGS),
  ):
    if value not in known:
      raise ValueError(f'{field} must be one of {sorted(known)}, got {value!r}.')
  if sampling == 'bernoulli' and select != 'random':
    raise ValueError(
      f"bernoulli sampling selects at random; select must be 'random', got {select!r}."
    )


def pruned(shapes: Shapes, dense: Collection[str] = ()) -> Shapes:
  """The layers to prune: all but those named in `dense`.

  A layer's name is its path, with or without '/kernel': 'stem' or 'stem/kernel', but 'stem/w' only.
  Raises ValueError for a name that no layer has, and for a string.
  """
  if isinstance(dense, str):
    raise ValueError(f'dense must be a list of names, got the string {dense!r}.')
  known = {name.removesuffix('/value').removesuffix('/kernel'): name for name in shapes}
  unknown = sorted(set(dense) - set(known) - set(shapes))
  if unknown:
    raise ValueError(f'dense must name layers; got {unknown}, known: {", ".join(known)}.')
  if not shapes:
    raise ValueError("there must be a leaf to prune; by default those called 'kernel', got none.")
  held = {known.get(name, name) for name in dense}
  if len(held) == len(shapes):
    raise ValueError('dense names every layer: there is none left to prune.')
  return {name: shape for name, shape in shapes.items() if name not in held}


def densities(
  shapes: Shapes, *, ratio: str, density: float, sampling: str = 'exact', block: int = BLOCK
) -> Densities:
  """What each layer keeps: the ratio's densities, or the nearest that the sampling can keep.

  Raises ValueError for unknown names, for the name of a score, for a budget that the ratio or the
  sampling cannot meet, and where no weight would be kept.
  """
  check_names(ratio, 'random', sampling)
  if density == 1.0:
    return dict.fromkeys(shapes, 1.0)
  if ratio not in RATIOS:
    raise ValueError(
      f'ratio must be one of {sorted(RATIOS)}, got the score {ratio!r}, which shapes do not tell: '
      'make_masks computes it, and masks.count counts what it kept.'
    )
  found = _fit(sampling, shapes, RATIOS[ratio](shapes, density), block)
  _check_some_kept(shapes, found, density)
  return found


def check_budget(
  shapes: Shapes, *, ratio: str, density: float, sampling: str = 'exact', block: int = BLOCK
) -> None:
  """Raises ValueError where the ratio or the sampling cannot meet the density, without a score.

  A ratio that is a score is not checked: its densities are known only once it is computed.
  """
  if ratio in RATIOS:
    densities(shapes, ratio=ratio, density=density, sampling=sampling, block=block)
  elif sampling == 'n_m' and density < 1.0:
    raise ValueError(
      f'n_m sampling keeps N of {block} weights, such a share as a score leaves to no layer: ratio '
      f'must be one of {", ".join(sorted(RATIOS))}, got {ratio!r}.'
    )


def _check_some_kept(shapes: Shapes, found: Densities, density: float) -> None:
  sizes = {name: math.prod(shape) for name, shape in shapes.items()}
  if not any(masks_lib.kept_count(found[name], size) for name, size in sizes.items()):
    raise ValueError(f'density {density} keeps none of {sum(sizes.values()):,} weights.')


def make_masks(
  key: chex.PRNGKey,
  apply_fn: ApplyFn | None,
  params: chex.ArrayTree,
  batch: Batch | None,
  *,
  ratio: str,
  select: str = 'random',
  density: float,
  sampling: str = 'exact',
  shapes: Shapes | None = None,
  dense: Collection[str] = (),
  block: int = BLOCK,
  scores: Mapping[str, Callable] = SCORES,
) -> masks_lib.Masks:
  """Masks that keep `density` of the prunable weights: a pytree of bool in the shape of `params`.

  Each layer keeps the whole number of weights nearest to its share, so many very small layers
  together may miss the density: at 0.1, 200 layers of 15 weights keep 2 each, 400 instead of 300.

  `key` is a threefry key (`jax.random.key`, unless another kind is the default). Scores that run
  the network read `apply_fn(params, images [B, H, W, C]) -> logits [B, K]`, for SynFlow also with
  `train=False, normalize=False`, and `batch`: {'image': float32 [B, H, W, C] in [0, 1], 'label':
  int32 [B]}. For other scores both may be None. `scores` maps names to scores.

  `shapes` names the leaves to prune, in the network's order (default: every kernel, in tree order);
  of these, layers named in `dense` are kept whole, and the density applies to the others. `block`
  is the M of `sampling='n_m'`.

  Raises ValueError inside jit, and for
  - unknown names, or a budget that the ratio or the sampling cannot meet;
  - `shapes` of other sizes than the leaves (axes may be in another order, or merged);
  - structured sampling of leaves that are not stored as their `shapes` say, (..., in, out), or,
    where no `shapes` are given, may not be.
  """
  check_names(ratio, select, sampling, scores)
  density = check_density(density)
  given = shapes is not None
  shapes = pruned(shapes if given else prunable_shapes(params), dense)
  stored = {name: np.shape(leaf) for name, leaf in masks_lib.named_leaves(params).items()}
  _check_sizes(shapes, stored)
  if density == 1.0:
    return jax.tree.map(lambda leaf: np.ones(np.shape(leaf), bool), params)  # as all masks here
  if sampling in FITS:
    _check_stored(sampling, shapes, stored, given)
  # Random masks need only the parameters' shapes, so traced parameters are fine there.
  read = (key,) if {ratio, select} <= RATIOS.keys() | {'random'} else (key, params)
  if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(read)):
    raise ValueError('masks must be drawn outside of jit, got a traced key or traced parameters.')

  running = {ratio, select} & (OF_DATA | ITERATIVE)
  if running and scores is SCORES:
    _check_batch(running, apply_fn, batch)

  @functools.cache  # computed once if ratio and select name the same score, as in SNIP itself
  def saliency(name: str) -> chex.ArrayTree:
    options = {'density': density, 'layers': tuple(shapes)} if name in ITERATIVE else {}
    return scores[name](apply_fn, params, batch, key, **options)

  budget = {'ratio': ratio, 'density': density, 'sampling': sampling, 'block': block}
  if ratio in RATIOS:
    wanted = densities(shapes, **budget)
  else:
    check_budget(shapes, **budget)  # refuses n_m before the score is computed
    leaves = masks_lib.named_leaves(saliency(ratio))
    wanted = masks_lib.layer_densities({name: leaves[name] for name in shapes}, density)
    wanted = _fit(sampling, shapes, wanted, block)
    _check_some_kept(shapes, wanted, density)
  return SAMPLINGS[sampling](saliency(select), wanted, block)


def _check_batch(running: Collection[str], apply_fn: Callable | None, batch: Any) -> None:
  wanted = ('image', 'label') if OF_DATA.intersection(running) else ('image',)
  known = isinstance(batch, Mapping) and {*wanted} <= batch.keys()
  if apply_fn is None or not known:
    got = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
    raise ValueError(
      f'to score by {" and ".join(sorted(running))}, apply_fn and a batch with '
      f'{" and ".join(wanted)} are needed; got '
      f'{"no apply_fn" if apply_fn is None else "apply_fn"} and a batch {got}.'
    )
  if 'label' in wanted:
    labels = np.asarray(batch['label'])
    if labels.ndim != 1 or labels.dtype.kind not in 'iu':
      raise ValueError(f'labels must be integers [B], got {labels.dtype} {list(labels.shape)}.')


def _check_sizes(shapes: Shapes, stored: Shapes) -> None:
  if unknown := sorted(set(shapes) - set(stored)):
    raise ValueError(f'shapes must name parameters; got {unknown}, known: {", ".join(stored)}.')
  for name, shape in shapes.items():
    if math.prod(stored[name]) != math.prod(shape):
      raise ValueError(
        f'shapes must be those of the parameters; {name} is {stored[name]}, got {tuple(shape)}.'
      )


def _check_stored(sampling: str, shapes: Shapes, stored: Shapes, given: bool) -> None:
  for name, shape in shapes.items():
    if not given and len(shape) not in (2, 4):
      raise ValueError(
        f'{sampling} sampling needs leaves stored as (..., in, out), which {name} of {shape} may '
        'not be: if it is, pass shapes=pruning.prunable_shapes(params), else hold it dense by name.'
      )
    if stored[name] != tuple(shape):
      raise ValueError(
        f'{sampling} sampling needs leaves stored as (..., in, out); {name} is stored as '
        f'{stored[name]}, and its shape is given as {tuple(shape)}.'
      )


def _fit(sampling: str, shapes: Shapes, wanted: Densities, block: int) -> Densities:
  return FITS[sampling](shapes, wanted, block) if sampling in FITS else wanted
