"""A run from its config to its result row: train, evaluate, and the dense twin beside it."""

import os
import pathlib
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from random_pruning_jax import (
  checkpoints,
  cost,
  data,
  evaluate,
  masks,
  optimizers,
  pruning,
  results,
  runlog,
)
from random_pruning_jax import config as config_lib
from random_pruning_jax.experiment import Experiment, experiment
from random_pruning_jax.progress import say
from random_pruning_jax.train import TrainState, blank_state, train

TWIN = 'dense_twin'  # directory of the dense run, inside that of the sparse one


def run(config: ConfigDict, workdir: str | os.PathLike, *, show: bool = True) -> list[dict]:
  """Trains and evaluates; returns the rows of the config's network and of its dense twin, if any.

  What is already done in `workdir` is not done again.
  """
  todo = [(config, pathlib.Path(workdir))]
  if config.dense_twin:
    if config.pruning.density == 1.0:
      raise ValueError('dense_twin must be False for a dense network (pruning.density is 1.0).')
    todo.append((dense(config), pathlib.Path(workdir) / TWIN))
  for each, place in todo:  # all that can be wrong is said before the first training step
    parts = experiment(each)
    if jax.process_index() == 0:
      runlog.claim(place, parts.config)
  return [_finish(each, place, show) for each, place in todo]


def dense(config: ConfigDict) -> ConfigDict:
  """The config of the dense twin: the same in all but density."""
  twin = ConfigDict(config.to_dict())
  twin.pruning.density = 1.0
  twin.dense_twin = False
  return twin


def _finish(config: ConfigDict, workdir: pathlib.Path, show: bool) -> dict[str, Any]:
  if show:
    pruned = f'{config.pruning.ratio}/{config.pruning.select} at density {config.pruning.density:g}'
    what = 'dense' if config.pruning.density == 1.0 else pruned
    say(f'{config.model.name} on {config.dataset}, {what} -> {workdir}')
  train(config, workdir, show=show)
  rows = results.read([workdir / results.FILE]) if (workdir / results.FILE).exists() else []
  return rows[0] if rows else evaluate_run(workdir, show=show)


def evaluate_run(
  workdir: str | os.PathLike,
  *,
  checkpoint: str = '',
  data_dir: str = '',
  on: tuple[jax.Device, ...] | None = None,
  show: bool = True,
) -> dict[str, Any]:
  """Measures a checkpoint of a run on its test images and appends the row to its results.

  `checkpoint` is 'best', 'latest' or a step; '' is what the run's config says. `data_dir` replaces
  the config's. Raises ValueError where the workdir holds no such checkpoint.
  """
  config = runlog.read_config(workdir)
  config.data_dir = data_dir or config.data_dir
  parts = experiment(config, on)
  started = time.perf_counter()
  state, record = load_state(parts, workdir, checkpoint or config.evaluation.checkpoint)
  test = data.load(config.dataset, 'test', config.data_dir)
  foreign, notes, skipped = _foreign(parts)
  if show:
    for name, why in skipped.items():
      say(f'skipped: {name}: {why}')
  numbers = evaluate.evaluate(
    parts.model,
    state.variables,
    test.images,
    test.labels,
    foreign=foreign,
    epsilons=config.evaluation.epsilons,
    batch_size=config.evaluation.batch_size,
    on=parts.on,
  )
  if jax.process_index() == 0:
    row = _row(parts, state, record, numbers)
    row |= {'notes': notes, 'skipped': skipped, 'images': len(test.labels)}
    row |= {'evaluation_seconds': time.perf_counter() - started}
    results.append(workdir, row)
  return row | {'run': str(workdir)}


def load_state(
  parts: Experiment, workdir: str | os.PathLike, checkpoint: str
) -> tuple[TrainState, dict[str, Any]]:
  """A checkpoint of a run: 'best' on validation, 'latest', or a step."""
  tx = optimizers.make(parts.config, 1)  # its state has one shape, however long an epoch is
  with checkpoints.manager(workdir, parts.config.checkpoint.keep) as saved:
    step = checkpoints.find(saved, checkpoint)
    return checkpoints.restore(saved, blank_state(parts, tx), parts.on, step)


def _foreign(parts: Experiment) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, str]]:
  """Foreign test images in the network's shape; how each was adapted; why others are missing."""
  images, notes, skipped = {}, {}, {}
  for name in parts.config.evaluation.foreign:
    try:
      found, note = data.load_adapted(name, 'test', parts.spec.shape, parts.config.data_dir)
    except data.DataError as error:
      skipped[name] = str(error).splitlines()[0]
      continue
    images[name], notes[name] = found.images, note
  return images, notes, skipped


def _row(
  parts: Experiment, state: TrainState, record: dict[str, Any], numbers: dict[str, float]
) -> dict[str, Any]:
  kept = jax.device_get(state.masks)
  counts = masks.count(kept)
  densities = pruning.layer_densities(kept)
  layers = parts.structure.layers
  prunable = sum(layer.size for layer in layers)
  remaining = sum(counts[layer.name] for layer in layers)
  return {
    **results.origin(),
    'config': config_lib.flat(parts.config),
    'seed': parts.config.seed,
    'step': record['step'],
    'train_seconds': record['seconds'],
    'validation': record['validation'],
    'metrics': numbers,
    'density': remaining / prunable,
    'kept': remaining,
    'prunable': prunable,
    'parameters': parts.structure.parameters,
    'macs': cost.macs(layers, densities),
    'dense_macs': cost.macs(layers),
    'layers': {
      layer.name: {
        'shape': layer.shape,
        'density': densities[layer.name],
        'kept': counts[layer.name],
      }
      for layer in layers
    },
    'masks': record['masks'],
  }
