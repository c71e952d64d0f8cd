"""From a config to its parts: the network, its initial variables, its masks."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from random_pruning_jax import cost, data, models, parallel, pruning, scoring
from random_pruning_jax.config import resolve
from random_pruning_jax.models import convolution, drawn


class Keys(NamedTuple):
  """One key for each use of randomness, all from the config's seed."""

  init: jax.Array
  masks: jax.Array
  augment: jax.Array


class Experiment(NamedTuple):
  """A checked config and what it names.

  Building it reads no batch; only for sets outside `data.SPECS` are training images read, for their
  mean and deviation.
  """

  config: ConfigDict  # resolved: no value is 'recipe' or 'dataset' any more
  spec: data.Spec
  model: models.Network
  structure: cost.Structure  # prunable layers, in the network's order, and what they cost
  on: tuple[jax.Device, ...]


def build(
  config: ConfigDict, on: tuple[jax.Device, ...] | None = None, *, trains: bool = True
) -> Experiment:
  """Checks a config and builds what it names. Raises ValueError in one line for what is wrong.

  If the network `trains`, the number of devices must divide its batch; to look at a trained one,
  any number will do.
  """
  config = resolve(config, trains=trains)
  on = parallel.devices() if on is None else on
  if trains:
    parallel.check_batch(config.batch_size, on)
    if config.batch_size // len(on) % config.optimizer.accumulate:
      raise ValueError(
        f'optimizer.accumulate must divide the batch of a device, {config.batch_size // len(on)}; '
        f'got {config.optimizer.accumulate}.'
      )
  pruning.check_names(config.pruning.ratio, config.pruning.select, config.pruning.sampling)
  spec = at_size(config, data.describe(config.dataset, config.data_dir))
  model = network(config, spec, on[0].platform)
  return Experiment(config, spec, model, initial_structure(model, spec.shape), on)


def check_budget(experiment: Experiment) -> None:
  """Raises ValueError where the ratio or the sampling cannot meet the density in this network."""
  settings = experiment.config.pruning
  shapes = pruning.pruned(experiment.structure.shapes, settings.dense)
  pruning.check_budget(shapes, **budget_of(settings))


def budget_of(settings: ConfigDict) -> dict[str, Any]:
  """What `pruning.densities` and `pruning.make_masks` both take from a config's `pruning`."""
  return {name: settings[name] for name in ('ratio', 'density', 'sampling', 'block')}


def at_size(config: ConfigDict, spec: data.Spec) -> data.Spec:
  """The facts of the data set, with the size that the config wants its images in."""
  size = config.image_size
  if config.resize and not spec.resize:
    raise ValueError(
      f'resize must be 0 for a data set whose images have one size, as {config.dataset} '
      f'({spec.shape}); got {config.resize}.'
    )
  shape = (size, size, spec.shape[2]) if size else spec.shape
  if 0 < config.resize < max(shape[:2]):
    raise ValueError(
      f'resize must be at least the size that the network sees, {max(shape[:2])}, or 0; '
      f'got {config.resize}.'
    )
  # The usual share of an image, 224 of 256, for other sizes too.
  resize = config.resize or (round(size * 256 / 224) if size and spec.resize else spec.resize)
  return dataclasses.replace(spec, shape=shape, resize=resize)


def network(config: ConfigDict, spec: data.Spec, platform: str = '') -> models.Network:
  """The config's network, normalising by the data set's statistics, as is fastest on `platform`."""
  return models.create(
    config.model.name,
    spec.num_classes,
    width=config.model.width,
    mean=spec.mean,
    std=spec.std,
    dtype=config.model.dtype,
    kaiming=config.model.kaiming,
    axis_name=parallel.AXIS if config.model.sync_batch_norm else None,
    remat=config.model.remat,
    conv_general_dilated=convolution.fastest(platform),  # the same numbers, to rounding
  )


def keys(seed: int) -> Keys:
  """The keys of a seed, which are the same whatever generator JAX is told to use by default."""
  with jax.threefry_partitionable(True):
    return Keys(*jax.random.split(jax.random.key(seed, impl='threefry2x32'), len(Keys._fields)))


def initial_variables(model: models.Network, key: jax.Array, shape: tuple[int, int, int]) -> dict:
  """{'params', 'batch_stats'} for images of `shape` (height, width, channels)."""
  return initializer(model, shape)(key)


@functools.lru_cache(maxsize=64)
def initializer(model: models.Network, shape: tuple[int, int, int]) -> Callable[[jax.Array], dict]:
  """A jitted function: key -> {'params', 'batch_stats'}, of images of `shape`."""
  # It runs once: on a CPU, to optimise the draws further takes longer than it saves.
  quickly = {'xla_backend_optimization_level': 1} if jax.default_backend() == 'cpu' else None
  return jax.jit(_traced(model, shape).init, compiler_options=quickly)


def initial_shapes(model: models.Network, shape: tuple[int, int, int]) -> dict:
  """`initial_variables` with shapes and dtypes in place of arrays; no device is used."""
  return jax.eval_shape(_traced(model, shape).init, jax.eval_shape(lambda: jax.random.key(0)))


def initial_structure(model: models.Network, shape: tuple[int, int, int]) -> cost.Structure:
  """The prunable layers, in the network's order, and what they cost; no device is used."""
  return _traced(model, shape).structure


class _Traced(NamedTuple):
  init: Callable[[jax.Array], dict]  # key -> variables
  structure: cost.Structure


# Tracing a network takes as long as some epochs of the smallest: once is enough for a run, and for
# the many runs of a sweep.
@functools.lru_cache(maxsize=64)
def _traced(model: models.Network, shape: tuple[int, int, int]) -> _Traced:
  init = drawn.batched(lambda key: model.init(key, jnp.zeros((1, *shape))))
  return _Traced(init, cost.structure(model, shape, functools.partial(jax.eval_shape, init)))


def initial_masks(experiment: Experiment, variables: dict, batches: dict[str, dict]) -> Any:
  """The config's masks for these initial variables; `batches` is what `score_batches` gives.

  Scores of data use all devices of the experiment, and give on any number of them what they give
  on one, to rounding. They see no more images at once than a training step.
  """
  config, settings = experiment.config, experiment.config.pruning
  at_once = math.ceil(config.batch_size / config.optimizer.accumulate)
  return pruning.make_masks(
    keys(config.seed).masks,
    None,
    variables['params'],
    None,
    select=settings.select,
    shapes=experiment.structure.shapes,
    dense=settings.dense,
    **budget_of(settings),
    scores=scoring.on_devices(experiment.model, batches, experiment.on, at_once),
  )


def score_batches(experiment: Experiment, images: data.Images | None) -> dict[str, dict]:
  """What each score of the config looks at, by the score's name; empty if none looks at any.

  `images` are those of training; they may be None where no score is of data (`scores.OF_DATA`).
  """
  config = experiment.config
  names = {config.pruning.ratio, config.pruning.select} if config.pruning.density < 1 else ()
  return scoring.batches(names, images, experiment.spec, config.seed, config.batch_size)
