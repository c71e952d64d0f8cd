"""What a run begins from: its newest checkpoint, or weights and masks drawn from its seed."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.flatten_util
import numpy as np
from ml_collections import ConfigDict

from random_pruning_jax import checkpoints, masks, optimizers, parallel, together
from random_pruning_jax.data import crops
from random_pruning_jax.experiment import (
  Experiment,
  initial_masks,
  initial_shapes,
  initial_variables,
  initializer,
  keys,
  score_batches,
)
from random_pruning_jax.progress import say
from random_pruning_jax.step import TrainState, create_state
from random_pruning_jax.training.prepared import PIXELS, Run, check_data
from random_pruning_jax.training.program import ahead


def restore_or_init(run: Run) -> tuple[TrainState, dict[str, Any]]:
  """The latest checkpoint, or the initial state, on the devices; and its record."""
  experiment = run.experiment

  def like(record: dict[str, Any]) -> TrainState:
    with together.failing_together():
      check_record(run, record)
    return abstract_state(experiment)

  read = checkpoints.restore_newest(run.saved, like, experiment.on)
  if read is not None:
    if read.record['step'] < run.last_step:
      _say_other_jax(read.record)
    return read
  config = experiment.config
  variables = initial_variables(experiment.model, keys(config.seed).init, experiment.spec.shape)
  batches = score_batches(experiment, run.feed.images)
  mask_tree = initial_masks(experiment, variables, batches)
  if batches:  # devices compute these scores, and two processes may round differently
    mask_tree = _of_first(mask_tree)
  _say_what_is_empty(mask_tree, experiment.structure.shapes)
  state = creator(config)(variables, mask_tree, optimizers.rates(config))
  check_beginning(state.params, state.masks)
  state = parallel.replicate(state, experiment.on)
  return state, {'meter': None, 'seconds': 0.0, 'compile_seconds': 0.0}


def compile_ahead(experiment: Experiment) -> Callable[[], Any]:
  """Begins to compile what `restore_or_init` runs without a checkpoint; the result waits for it."""
  draw = ahead(
    initializer(experiment.model, experiment.spec.shape), keys(experiment.config.seed).init
  )
  create = ahead(creator(experiment.config), *_given_to_create(experiment))
  return lambda: (draw(), create())


def abstract_state(experiment: Experiment) -> TrainState:
  """Shapes and dtypes of the config's state; nothing is computed."""
  return creator(experiment.config).eval_shape(*_given_to_create(experiment))


def check_beginning(params: masks.Params, mask_tree: masks.Masks) -> None:
  """Raises ValueError naming the processes that would begin with other masks or weights."""
  together.check_same('the masks', masks.checksum(mask_tree))
  together.check_same('the initial weights', checkpoints.digest(params))


def check_record(run: Run, record: dict[str, Any]) -> None:
  """Raises ValueError for other data than a checkpoint's.

  Warns if the numbers change because pixels, the number of devices, or what resizes images did.
  """
  config, step = run.experiment.config, record['step']
  check_data(run.experiment, record, run.facts)
  if record['per_epoch'] != run.per_epoch:
    raise ValueError(
      f'the run had {record["per_epoch"]} steps an epoch until step {step}, and would have '
      f'{run.per_epoch}: the training images of {config.dataset} at data_dir {config.data_dir!r} '
      'are not those that it began with.'
    )
  before, now = record.get('data', {}).get(PIXELS), run.facts.get(PIXELS)
  if before and now and before != now:
    say(
      f'WARNING: until step {step} training images had other pixels than those of {config.dataset} '
      f'at data_dir {config.data_dir!r} now: they are others, or another version decodes them.'
    )
  before, now = record['devices'], len(run.experiment.on)
  in_parts = config.optimizer.accumulate > 1 or not config.model.sync_batch_norm
  if in_parts and before != now:
    say(
      f'WARNING: until step {step} there were {before} devices, and now there are {now}: '
      "BatchNorm's statistics are of other parts of the batch, so the numbers differ from those of "
      'a run that was not interrupted.'
    )
  before, now = record['pixels'], crops.pixels()
  if run.feed.loading == 'streamed' and before != now:
    say(
      f'WARNING: until step {step} {before} resized what is streamed, and now {now} does, whose '
      f'pixels differ a little. For the same numbers install {before} as it was.'
    )
  if run.feed.loading == 'streamed' and record['crops'] != crops.VERSION:
    say(
      f'WARNING: until step {step} another version of this package cut what is streamed, whose '
      'pixels differ a little where an image is decoded smaller.'
    )


def _say_other_jax(record: dict[str, Any]) -> None:
  before = record['jax']
  if before != jax.__version__ and jax.process_index() == 0:
    say(
      f'WARNING: until step {record["step"]} JAX {before} computed, now {jax.__version__} does, '
      f'which may round otherwise. For the same numbers install JAX {before}.'
    )


def _of_first(mask_tree: masks.Masks) -> masks.Masks:
  """The masks of process 0, on all processes."""
  if jax.process_count() == 1:
    return mask_tree
  flat, unravel = jax.flatten_util.ravel_pytree(mask_tree)
  return unravel(together.array_of_first(flat.astype(np.uint8)).astype(bool))


def _say_what_is_empty(mask_tree: masks.Masks, shapes: Mapping[str, Any]) -> None:
  empty = [name for name, kept in masks.count(mask_tree).items() if name in shapes and not kept]
  if empty and jax.process_index() == 0:
    names = ', '.join(name.removesuffix('/kernel') for name in empty)
    say(
      f'WARNING: no weight is kept in {names}. Where no shortcut leads around such a layer, the '
      'network cannot learn.'
    )


def _given_to_create(experiment: Experiment) -> tuple:
  variables = initial_shapes(experiment.model, experiment.spec.shape)
  mask_tree = jax.eval_shape(masks.ones, variables['params'])
  return variables, mask_tree, optimizers.rates(experiment.config)


def creator(config: ConfigDict) -> Callable[..., TrainState]:
  """A compiled function: variables, masks and rates -> the config's state before the first step."""
  # The state does not depend on the schedule, and a constant one needs no length of an epoch.
  constant = ConfigDict(config.to_dict())
  constant.schedule.update(name='constant', warmup_epochs=0.0)
  return _creating(optimizers.maker(constant, 1), config.optimizer.average_decay > 0)


@functools.lru_cache(maxsize=64)
def _creating(make_optimizer, average):
  # One program; else every operation would be compiled by itself, for each shape of an array.
  def create(variables, mask_tree, rates):
    return create_state(variables, mask_tree, make_optimizer(rates), average)

  return jax.jit(create)
