"""The same classes in other images: CIFAR-10.1, ImageNet-V2, -A, -R, -Sketch."""

from collections.abc import Sequence

import numpy as np

from random_pruning_jax import data, together
from random_pruning_jax.data.specs import unversioned
from random_pruning_jax.suites.bench import Bench, Findings
from random_pruning_jax.suites.calibration import MEASURED, metrics_of

# Shifted sets of a data set; `evaluation.shifts` may name others with classes of it.
SHIFTS: dict[str, tuple[str, ...]] = {
  'cifar10': ('cifar10_1/v4', 'cifar10_1/v6'),
  'imagenet2012': ('imagenet_v2/matched-frequency', 'imagenet_a', 'imagenet_r', 'imagenet_sketch'),
}
# Sets with images of some of the classes that they name: other classes' logits are ignored.
SUBSETS = ('imagenet_a', 'imagenet_r')
TOLD = 3  # names of unknown classes in a message


def full(bench: Bench) -> Findings:
  """Accuracy, NLL and ECE on each shifted set: 'shifts/SET/accuracy'."""
  found, config = Findings(), bench.experiment.config
  dataset = unversioned(config.dataset)
  names = bench.config.shifts or SHIFTS.get(dataset, ())
  if not names:
    found.skipped['shifts'] = (
      f'no shifted set of {dataset} is known; evaluation.shifts may name one'
    )
  for name in names:
    try:
      with together.failing_together(data.DataError):
        own, others = (data.class_names(each, config.data_dir) for each in (config.dataset, name))
        numbers = matched(own, others)
      images, labels = data.labelled(bench.images(name), len(numbers), name)
    except data.DataError as error:
      found.skipped[f'shifts/{name}'] = error.brief
      continue
    logits, labels, notes = bench.predict(images, name), numbers[labels], []
    if (numbers != np.arange(len(numbers))).any():
      notes.append('labels matched by the names of classes')
    if unversioned(name) in SUBSETS or len(numbers) < bench.experiment.spec.num_classes:
      logits, labels = within(logits, labels)
      notes.append(f'among the {logits.shape[1]} classes that occur')
    if notes:
      found.notes[f'shifts/{name}'] = ', '.join(notes)
    found.numbers.update(
      {f'shifts/{name}/{k}': v for k, v in metrics_of(logits, labels, MEASURED).items()}
    )
  return found


def matched(own: Sequence[str], others: Sequence[str]) -> np.ndarray:
  """The label in `own` of each class of `others`, int32: that of its name, where both have names.

  A set without names has '0', '1', ..., as in TFDS: its labels are taken as they are. Raises
  DataError for a class that `own` has not, and for another number of classes where names lack.
  """
  labels = {name: label for label, name in enumerate(own)}
  unknown = [name for name in others if name not in labels]
  if _unnamed(others) or (_unnamed(own) and unknown):
    if len(own) != len(others):
      raise data.DataError(
        f'without the names of classes there must be {len(own)}, as of the network, got '
        f'{len(others)}'
      )
    return np.arange(len(own), dtype=np.int32)
  if unknown:
    more = f' and {len(unknown) - TOLD} more' if len(unknown) > TOLD else ''
    raise data.DataError(
      f'its classes must be among those of the network, got {", ".join(unknown[:TOLD])}{more}'
    )
  return np.array([labels[name] for name in others], np.int32)


def _unnamed(names: Sequence[str]) -> bool:
  return [*names] == [str(label) for label in range(len(names))]


def within(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Logits of the classes that occur in `labels` alone, and the labels as their positions there."""
  classes, positions = np.unique(labels, return_inverse=True)
  return logits[:, classes], positions.astype(np.int32)
