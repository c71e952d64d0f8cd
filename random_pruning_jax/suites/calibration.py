"""Calibration: what the logits of the test images say of accuracy and confidence."""

import functools

import jax
import numpy as np

from random_pruning_jax import data, metrics
from random_pruning_jax.suites.bench import Bench, Findings

MEASURED = ('accuracy', 'nll', 'ece')  # of corrupted and shifted images


def full(bench: Bench) -> Findings:
  """Every metric of `metrics.METRICS`, temperature scaling and the data of a reliability diagram.

  The temperature is fitted to the validation images; `nll_scaled` and `ece_scaled` are NLL and ECE
  of the test logits divided by it. Where no temperature is best, all three are skipped.
  """
  logits, labels = bench.outputs().logits, bench.labels()
  diagram = {name: np.asarray(bins).tolist() for name, bins in _diagram(logits, labels).items()}
  found = Findings(metrics_of(logits, labels), extras={'reliability': diagram})
  try:
    held_out = bench.outputs(split='validation').logits
  except data.DataError as error:
    found.skipped['temperature'] = error.brief
    return found
  temperature = float(_temperature(held_out, bench.labels(split='validation')))
  low, high = metrics.TEMPERATURE_RANGE
  if not 1.001 * low < temperature < high / 1.001:
    found.skipped['temperature'] = (
      f'the NLL of the validation images is least at no temperature from {low:g} to {high:g}, as '
      'where the network errs on none of them, or knows nothing of them'
    )
    return found
  scaled = metrics_of(logits / np.float32(temperature), labels, ('nll', 'ece'))
  found.numbers['temperature'] = temperature
  found.numbers.update({f'{name}_scaled': value for name, value in scaled.items()})
  return found


def metrics_of(
  logits: np.ndarray, labels: np.ndarray, names: tuple[str, ...] = tuple(metrics.METRICS)
) -> dict[str, float]:
  """Metrics of logits [N, K] and labels [N] by name, in one call."""
  return {name: float(value) for name, value in _compiled(names)(logits, labels).items()}


@functools.lru_cache(maxsize=16)
def _compiled(names: tuple[str, ...]):
  return jax.jit(lambda z, y: {name: metrics.METRICS[name](z, y) for name in names})


_temperature = jax.jit(metrics.temperature)
_diagram = jax.jit(metrics.reliability_diagram)
