"""The optimizer of a config: decay, momentum, learning rate schedule, and masks last."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict, FrozenConfigDict

from random_pruning_jax import masks


class Rates(NamedTuple):
  """Rates in which runs of one compiled program may differ: numbers, or traced scalars."""

  lr: Any  # the highest of the schedule
  weight_decay: Any


def schedule(config: ConfigDict, steps_per_epoch: int, lr: Any = None) -> optax.Schedule:
  """Learning rate as a function of the step, from 0; milestones are fractions of training.

  `lr` replaces the config's, and may be traced.
  """
  lr = config.optimizer.lr if lr is None else lr
  total = config.epochs * steps_per_epoch
  warmup = round(config.schedule.warmup_epochs * steps_per_epoch)
  if warmup >= total:
    raise ValueError(
      f'schedule.warmup_epochs must be fewer than the {total} steps of training, got '
      f'{config.schedule.warmup_epochs} ({warmup} steps).'
    )
  if config.schedule.name == 'cosine':
    main = optax.cosine_decay_schedule(lr, total - warmup)
  elif config.schedule.name == 'milestones':
    drops: dict[int, float] = {}
    for milestone in config.schedule.milestones:  # two in the same step apply the factor twice
      step = round(milestone * total) - warmup
      drops[step] = drops.get(step, 1.0) * config.schedule.factor
    main = optax.piecewise_constant_schedule(lr, drops)
  else:
    main = optax.constant_schedule(lr)
  if not warmup:
    return main
  # From lr / (warmup + 1) at the first step, so that no step is spent at a rate of zero.
  ramp = optax.linear_schedule(lr / (warmup + 1), lr, warmup)
  return optax.join_schedules([ramp, main], [warmup])


def maker(config: ConfigDict, steps_per_epoch: int) -> Callable[[Rates], Any]:
  """rates -> optimizer: SGD with (Nesterov) momentum, weight decay as in PyTorch, and masks last.

  Rates may be traced, so runs that differ only in them share one compiled step: their configs give
  the same function. Put the masks into the state that it initialises (`masks.with_masks`).
  """
  settings = _settings(config).to_dict()
  settings['optimizer'] |= {'lr': 0.0, 'weight_decay': 0.0}
  return _maker(FrozenConfigDict(settings), steps_per_epoch)


def rates(config: ConfigDict) -> Rates:
  return Rates(np.float32(config.optimizer.lr), np.float32(config.optimizer.weight_decay))


def learning_rates(config: ConfigDict, steps_per_epoch: int) -> np.ndarray:
  """The learning rate of every step, float32 [steps], computed at once so that no step waits."""
  return _learning_rates(_settings(config), steps_per_epoch)


def _settings(config: ConfigDict) -> FrozenConfigDict:
  return FrozenConfigDict({name: config[name] for name in ('optimizer', 'schedule', 'epochs')})


@functools.lru_cache(maxsize=64)
def _learning_rates(config: FrozenConfigDict, steps_per_epoch: int) -> np.ndarray:
  steps = jnp.arange(config.epochs * steps_per_epoch)
  lr = jax.jit(jax.vmap(schedule(config, steps_per_epoch)))
  return jax.device_get(lr(steps))


@functools.lru_cache(maxsize=64)
def _maker(config: FrozenConfigDict, steps_per_epoch: int) -> Callable[[Rates], Any]:
  return functools.partial(_chain, config, steps_per_epoch)


def _chain(config: FrozenConfigDict, steps_per_epoch: int, rates: Rates):
  decayed = _at_kernels if config.optimizer.decay == 'kernels' else None
  return optax.chain(
    optax.add_decayed_weights(rates.weight_decay, decayed),
    optax.sgd(
      schedule(config, steps_per_epoch, rates.lr),
      momentum=config.optimizer.momentum,
      nesterov=config.optimizer.nesterov,
    ),
    masks.keep_sparse(),
  )


def _at_kernels(params):
  """True at kernels, False at biases and BatchNorm: a mask for weight decay."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)
