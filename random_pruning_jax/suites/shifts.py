"""The same classes in other images: CIFAR-10.1, ImageNet-V2, -A, -R, -Sketch."""

import numpy as np

from random_pruning_jax import data
from random_pruning_jax.data.specs import unversioned
from random_pruning_jax.suites.bench import Bench, Findings
from random_pruning_jax.suites.calibration import MEASURED, metrics_of

# Shifted sets of a data set; `evaluation.shifts` may name others with the same labels.
SHIFTS: dict[str, tuple[str, ...]] = {
  'cifar10': ('cifar10_1/v4', 'cifar10_1/v6'),
  'imagenet2012': ('imagenet_v2/matched-frequency', 'imagenet_a', 'imagenet_r', 'imagenet_sketch'),
}
# Sets with some of ImageNet's classes, by their ImageNet labels: other classes' logits are ignored.
SUBSETS = ('imagenet_a', 'imagenet_r')


def full(bench: Bench) -> Findings:
  """Accuracy, NLL and ECE on each shifted set: 'shifts/SET/accuracy'."""
  found = Findings()
  dataset = unversioned(bench.experiment.config.dataset)
  names = bench.config.shifts or SHIFTS.get(dataset, ())
  if not names:
    found.skipped['shifts'] = (
      f'no shifted set of {dataset} is known; evaluation.shifts may name one'
    )
  for name in names:
    try:
      images, labels = data.labelled(bench.images(name), bench.experiment.spec.num_classes, name)
    except data.DataError as error:
      found.skipped[f'shifts/{name}'] = error.brief
      continue
    logits = bench.predict(images, name)
    if unversioned(name) in SUBSETS:
      logits, labels = within(logits, labels)
      found.notes[f'shifts/{name}'] = f'among the {logits.shape[1]} classes that occur'
    found.numbers.update(
      {f'shifts/{name}/{k}': v for k, v in metrics_of(logits, labels, MEASURED).items()}
    )
  return found


def within(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Logits of the classes that occur in `labels` alone, and the labels as their positions there."""
  classes, positions = np.unique(labels, return_inverse=True)
  return logits[:, classes], positions.astype(np.int32)
