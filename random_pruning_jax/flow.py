"""Gradient flow while a network trains: beside the step, which neither waits nor changes."""

import functools
from typing import Any

import jax
import numpy as np

from random_pruning_jax import attacks, data, gradients, models, parallel
from random_pruning_jax.data import order
from random_pruning_jax.experiment import Experiment


class FlowLog:
  """Numbers of `gradients.gradient_flow` every so many steps, for `train.jsonl`.

  Always of the first training batch, not augmented, with the batch's own BatchNorm statistics.
  They stay on the devices until `take`, so that the loop does not wait for them.
  """

  def __init__(self, experiment: Experiment, images: data.Images):
    self._experiment, self._every = experiment, experiment.config.gradient_flow_every
    self._found: list[tuple[int, Any]] = []
    if self._every:
      batch = first_batch(experiment, images)
      self._batch = [parallel.split(batch[name], experiment.on) for name in ('image', 'label')]

  def due(self, step: int) -> bool:
    return bool(self._every) and step % self._every == 0

  def measure(self, step: int, state: Any) -> None:
    """Measures at a step that is `due`; `state` is that after it (TrainState)."""
    run = _compiled(self._experiment.model, self._experiment.on)
    # The trained parameters, not their moving average.
    trained = {'params': state.params, 'batch_stats': state.batch_stats}
    self._found.append((step, run(trained, state.masks, *self._batch)))

  def take(self) -> list[tuple[int, dict[str, float]]]:
    """(step, numbers) of every measurement since the last call."""
    found, self._found = self._found, []
    return [
      (step, {name: float(value) for name, value in numbers.items()})
      for step, numbers in jax.device_get(found)
    ]


def first_batch(experiment: Experiment, images: data.Images) -> dict[str, np.ndarray]:
  """The images of the first training step, not augmented: {'image' in [0, 1], 'label'}."""
  config = experiment.config
  indices = order.batch_indices(config.seed, 0, len(images.labels), config.batch_size)
  pixels = np.asarray(images.images[indices], np.float32) / 255
  return {'image': pixels, 'label': images.labels[indices]}


def in_float32(model: models.Network) -> models.Network:
  """The same network, computed in float32; with no more memory than training in fewer bits."""
  return model if model.dtype == 'float32' else model.clone(dtype='float32', remat=True)


@functools.lru_cache(maxsize=64)
def _compiled(model, on: tuple[jax.Device, ...]):
  model = in_float32(model)

  @jax.default_matmul_precision('highest')  # as in `scores`
  def run(variables, masks, images, labels):
    def loss_fn(params):
      logits, _ = model.apply(
        variables | {'params': params}, images, train=True, mutable=['batch_stats']
      )
      return attacks.cross_entropy(logits, labels).mean()

    grads = parallel.mean(jax.grad(loss_fn)(variables['params']))
    return gradients.gradient_flow(grads, masks)

  return parallel.parallel(run, on, (None, None, 0, 0), None)
