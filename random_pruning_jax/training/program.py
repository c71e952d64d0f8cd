"""The compiled step of a run: what its calls are given, and the program that takes them."""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from random_pruning_jax import optimizers, parallel
from random_pruning_jax.experiment import Experiment
from random_pruning_jax.step import scan_steps, train_step


class Own(NamedTuple):
  """What a run does not share with others that use the same compiled program."""

  key: jax.Array  # of augmentation
  rates: optimizers.Rates


def step_of(experiment: Experiment, per_epoch: int, gather: Callable) -> Callable:
  """(state, shared, own, inputs) -> state and metrics, of a config and of how its images arrive."""
  config = experiment.config
  names = ('label_smoothing', 'accumulate', 'average_decay')
  options = tuple((name, config.optimizer[name]) for name in names)
  return one_step(experiment.model, optimizers.maker(config, per_epoch), options, gather)


@functools.lru_cache(maxsize=64)
def one_step(model, make_optimizer, options, gather):
  """`step(state, shared, own, inputs)`; `inputs` are what `gather` takes besides, for one step."""

  def step(state, shared, own, inputs):
    batch = gather(shared, own.key, *inputs)
    tx = make_optimizer(own.rates)
    return train_step(state, batch, model=model, tx=tx, axis_name=parallel.AXIS, **dict(options))

  return step


@functools.lru_cache(maxsize=64)
def compiled(step, axes, on):
  """The steps of a call, for every device. Runs with the same step share one compilation."""

  def call(state, shared, own, *inputs):
    return scan_steps(lambda state, inputs: step(state, shared, own, inputs), state, inputs)

  return parallel.parallel(call, on, (None, None, None, *axes), (None, None), donate=(0,))


def ahead(call: Callable, *arguments: Any) -> Callable[[], Any]:
  """Begins to compile `call` for arguments of these shapes, types and places.

  Once it is lowered, returns a function that waits for the compiler and raises its errors. JAX
  caches the program, so a call with such arguments then compiles nothing.
  """
  lowered = call.lower(*arguments)  # in Python: two threads would only take turns
  aside = concurrent.futures.ThreadPoolExecutor(1)
  found = aside.submit(lowered.compile)
  aside.shutdown(wait=False)
  return found.result
