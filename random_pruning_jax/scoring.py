"""Scores of a network of `models` on its devices: the images they see, how parts are averaged.

SNIP sees the first training batch, not augmented. GraSP sees 25 images of each class, the first of
the first epoch. Both see them in parts no larger than those of a training step, each with its own
BatchNorm statistics: SNIP's batch in one part unless gradients accumulate, GraSP's on CIFAR-10 in
two of 125, like the authors' halves. Up to rounding, a score does not depend on the devices.

Hessian products hold activations twice, so GraSP recomputes blocks in the backward pass. A part
then needs less memory than a training step that keeps its activations, but 2.3 times as much as one
that recomputes them too (`model.remat`), and more on devices whose number does not divide it.
"""

import contextlib
import functools
from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from random_pruning_jax import data, models, parallel, scores, synflow
from random_pruning_jax.data import order

_PER_CLASS = 25  # as the authors of GraSP took


def batches(
  names: Collection[str], images: data.Images | None, spec: data.Spec, seed: int, batch_size: int
) -> dict[str, dict[str, np.ndarray]]:
  """The batch {'image' uint8, 'label'} of each of the scores that look at images.

  SynFlow's is one image of ones, float32, without a label. Raises ValueError where GraSP does not
  find 25 images of every class.
  """
  found = {}
  for name in names:
    if name == 'synflow':
      found[name] = {'image': np.ones((1, *spec.shape), np.float32)}
    elif name in scores.OF_DATA:
      if name.startswith('grasp'):
        indices = _balanced(np.asarray(images.labels), spec.num_classes, seed)
        # Sorted by class for the authors' halves; else classes take turns, which balances parts.
        indices = indices.ravel() if name == 'grasp_authors' else indices.T.ravel()
      else:
        indices = order.batch_indices(seed, 0, len(images.labels), batch_size)
      found[name] = {'image': images.images[indices], 'label': images.labels[indices]}
  return found


def on_devices(
  model: models.Network, batches: dict[str, dict], on: tuple[jax.Device, ...], most: int
) -> dict[str, Callable]:
  """`scores.SCORES` for this network and batches, in parts of at most `most` images."""

  def score(name: str, apply_fn, params, batch, key, **options) -> Any:
    del apply_fn, batch
    if name in scores.OF_DATA:
      options['average'] = functools.partial(_average, on=on, most=most)
    apply_fn = _logits(_as_scored(model, name))
    return scores.SCORES[name](apply_fn, jax.device_get(params), batches[name], key, **options)

  return scores.SCORES | {name: functools.partial(score, name) for name in batches}


def _balanced(labels: np.ndarray, classes: int, seed: int) -> np.ndarray:
  """Indices [K, 25] of the first images of each class in the first epoch."""
  counts = np.bincount(labels, minlength=classes)
  if counts.min() < _PER_CLASS:
    raise ValueError(
      f'GraSP needs {_PER_CLASS} training images of each class, but class {counts.argmin()} has '
      f'{counts.min()}.'
    )
  visited = order.epoch_order(seed, 0, len(labels))
  by_class = visited[np.argsort(labels[visited], kind='stable')]
  starts = np.cumsum(counts) - counts
  return by_class[starts[:, None] + np.arange(_PER_CLASS)]


def _as_scored(model: models.Network, name: str) -> models.Network:
  """The same model with BatchNorm statistics over all devices, whatever training does.

  Its convolutions are XLA's own: those of `convolution` are faster but take longer to compile,
  which does not pay for a score that is computed once. They are in float32, which thresholds,
  GraSP's differences of gradients and SynFlow's long products want whole.
  """
  # Where training keeps activations in fewer bits, SNIP's would need more memory than a step.
  wider = name.startswith('snip') and model.dtype != 'float32'
  remat = {'remat': True} if wider or name.startswith('grasp') else {}
  return model.clone(axis_name=parallel.AXIS, conv_general_dilated=None, dtype='float32', **remat)


@functools.lru_cache(maxsize=64)
def _logits(model: models.Network) -> Callable:
  """The model as scores call it; equal models give the same function, which is compiled once."""

  def apply_fn(params, images, train: bool = True, normalize: bool = True):
    # Given no running statistics, BatchNorm begins anew, with mean 0 and variance 1.
    options = {'train': train, 'normalize': normalize, 'mutable': ['batch_stats']}
    with contextlib.nullcontext() if normalize else nn.intercept_methods(synflow.rescaled):
      return model.apply({'params': params}, images, **options)[0]

  return apply_fn


def _average(fn, trees: tuple, batch: dict, *, on: tuple[jax.Device, ...], most: int) -> Any:
  """Mean of `fn(*trees, part)` over parts of at most `most` images, weighted by their numbers.

  How the batch is cut does not depend on the devices. Each part is sharded over all of them or,
  if their number does not divide it, over as many of this host's devices as do.
  """
  images, mean = len(batch['label']), None
  for indices in np.array_split(np.arange(images), _parts(images, most)):
    share = parallel.that_divide(len(indices), on)
    part = {name: parallel.split(_floats(array[indices]), share) for name, array in batch.items()}
    value = jax.device_get(_compiled(fn, share, len(trees))(*trees, part))
    parts = images / len(indices)  # as many as this one would make
    value = jax.tree.map(lambda x, parts=parts: x / parts, value)
    mean = value if mean is None else jax.tree.map(np.add, mean, value)
  return mean


def _parts(images: int, most: int) -> int:
  """How many parts a batch is cut into, none of more than `most` images.

  The fewest equal parts, if they hold at least a fifth of `most`, as they do for 10, 100 and 1,000
  classes of 25 images. Where a number has no such divisor, the fewest parts of nearly equal size:
  BatchNorm's statistics of a few images say little.
  """
  fewest = -(-images // most)
  equal = next(n for n in range(fewest, images + 1) if images % n == 0)
  return equal if 5 * images >= equal * most else fewest


@functools.lru_cache(maxsize=64)
def _compiled(fn: Callable, on: tuple[jax.Device, ...], trees: int) -> Callable:
  def run(*arguments):
    return parallel.mean(fn(*arguments))

  return parallel.parallel(run, on, (None,) * trees + (0,))


def _floats(array: np.ndarray) -> np.ndarray:
  """Pixels uint8 -> float32 in [0, 1]; anything else stays."""
  return np.asarray(array, np.float32) / 255 if array.dtype == np.uint8 else array
