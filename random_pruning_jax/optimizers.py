"""The optimizer of a config: decay, momentum, learning rate schedule, and masks last."""

import functools

import jax
import optax
from ml_collections import ConfigDict, FrozenConfigDict

from random_pruning_jax import masks


def schedule(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
  """Learning rate as a function of the step, from 0; milestones are fractions of training."""
  lr, total = config.optimizer.lr, config.epochs * steps_per_epoch
  warmup = round(config.schedule.warmup_epochs * steps_per_epoch)
  if warmup >= total:
    raise ValueError(
      f'schedule.warmup_epochs must be less than epochs ({config.epochs}), '
      f'got {config.schedule.warmup_epochs}.'
    )
  if config.schedule.name == 'cosine':
    main = optax.cosine_decay_schedule(lr, total - warmup)
  elif config.schedule.name == 'milestones':
    drops = {round(m * total) - warmup: config.schedule.factor for m in config.schedule.milestones}
    main = optax.piecewise_constant_schedule(lr, drops)
  else:
    main = optax.constant_schedule(lr)
  if not warmup:
    return main
  # From lr / (warmup + 1) at the first step, so that no step is spent at a rate of zero.
  ramp = optax.linear_schedule(lr / (warmup + 1), lr, warmup)
  return optax.join_schedules([ramp, main], [warmup])


def make(config: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
  """SGD with (Nesterov) momentum and weight decay added to the gradient, as in PyTorch; then masks.

  Equal settings give the same object, so that runs which differ in density or seed alone share one
  compiled step. The masks are put into the state that it initialises (`masks.with_masks`).
  """
  settings = {name: config[name] for name in ('optimizer', 'schedule', 'epochs')}
  return _make(FrozenConfigDict(settings), steps_per_epoch)


@functools.lru_cache(maxsize=64)
def _make(config: FrozenConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
  decayed = is_kernel if config.optimizer.decay == 'kernels' else None
  return optax.chain(
    optax.add_decayed_weights(config.optimizer.weight_decay, decayed),
    optax.sgd(
      schedule(config, steps_per_epoch),
      momentum=config.optimizer.momentum,
      nesterov=config.optimizer.nesterov,
    ),
    masks.keep_sparse(),
  )


def is_kernel(params):
  """True at kernels, False at biases and BatchNorm: a mask for weight decay."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)
