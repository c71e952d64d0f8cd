"""Predictions become every number: predict once, measure many.

All functions take pixels as uint8 [N, H, W, C] in the host's memory and score each image exactly
once, for any batch size and any number of devices.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax import attacks, metrics, ood, parallel

PLAIN = ('accuracy', 'nll', 'brier', 'ece')


def pixels(images: jax.Array) -> jax.Array:
  """uint8 in [0, 255] -> float32 in [0, 1]."""
  return images.astype(jnp.float32) / 255


def predict(
  model, variables: dict, images: np.ndarray, *, batch_size: int, on: tuple[jax.Device, ...]
) -> np.ndarray:
  """Logits float32 [N, K], with BatchNorm's running statistics."""
  return _run(_forward(model), (variables,), (images,), batch_size, on)


def fgsm_logits(
  model,
  variables: dict,
  images: np.ndarray,
  labels: np.ndarray,
  epsilon: float,
  *,
  batch_size: int,
  on: tuple[jax.Device, ...],
) -> np.ndarray:
  """Logits [N, K] of the images after FGSM with `epsilon` in pixels, attack and forward in one."""
  return _run(_attacked(model), (variables, np.float32(epsilon)), (images, labels), batch_size, on)


def evaluate(
  model,
  variables: dict,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  foreign: Mapping[str, np.ndarray],
  epsilons: tuple[float, ...],
  batch_size: int,
  on: tuple[jax.Device, ...],
) -> dict[str, float]:
  """Every number of a network by name: 'nll', 'ood/svhn_cropped/msp/auroc', 'adversarial/fgsm/8/255'.

  `foreign` holds images uint8 [M, H, W, C] of other data sets by their name.
  """
  options = {'batch_size': batch_size, 'on': on}
  logits = predict(model, variables, images, **options)
  numbers = {name: float(metrics.METRICS[name](logits, labels)) for name in PLAIN}
  own = np.asarray(ood.msp(logits))
  for name, others in foreign.items():
    theirs = np.asarray(ood.msp(predict(model, variables, others, **options)))
    numbers |= {f'ood/{name}/msp/{k}': v for k, v in ood.separation(own, theirs).items()}
  for epsilon in epsilons:
    attacked = fgsm_logits(model, variables, images, labels, epsilon, **options)
    numbers[f'adversarial/fgsm/{epsilon_name(epsilon)}'] = float(metrics.accuracy(attacked, labels))
  return numbers


def epsilon_name(epsilon: float) -> str:
  """8 / 255 -> '8/255'; what is no multiple of 1 / 255 keeps its decimals."""
  steps = epsilon * 255
  return f'{round(steps)}/255' if abs(steps - round(steps)) < 1e-6 else f'{epsilon:.6g}'


# Remembered, so that one network evaluated many times (validation) is compiled once.
@functools.lru_cache(maxsize=64)
def _forward(model):
  return lambda variables, images: model.apply(variables, pixels(images))


@functools.lru_cache(maxsize=64)
def _attacked(model):
  def run(variables, epsilon, images, labels):
    def loss(x):
      return attacks.cross_entropy(model.apply(variables, x), labels)

    return model.apply(variables, attacks.fgsm(loss, pixels(images), epsilon))

  return run


def _run(fn, arguments, arrays, batch_size, on) -> np.ndarray:
  parts = parallel.map_batches(fn, arguments, arrays, batch_size=batch_size, on=on)
  return np.concatenate([outputs for _, outputs in parts])
