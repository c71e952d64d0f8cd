"""The depth figure of Liu et al. (2022), test accuracy on CIFAR-10, read off its picture.

Source: `depth_cf10-1.png` in the authors' repository (github.com/VITA-Group/Random_Pruning), the
picture of arXiv 2202.02643. Markers were digitised: about 0.02 points where a marker is visible and
0.1 where another one covers it (`occluded`). Dense networks are single readings of the dense band.
No other number of the paper is known here, so none is drawn or printed anywhere else.
"""

import csv
import functools
import pathlib
from typing import NamedTuple

from random_pruning_jax.report.runs import Run

FILE = pathlib.Path(__file__).with_name('paper_depth_cifar10.csv')
DATASET = 'cifar10'
# Of table 1 and the authors' code; a row of an older version may lack some of these fields.
RECIPE = {
  'epochs': 160,
  'batch_size': 128,
  'optimizer.lr': 0.1,
  'optimizer.momentum': 0.9,
  'optimizer.nesterov': True,
  'optimizer.weight_decay': 5e-4,
  'optimizer.label_smoothing': 0.0,
  'optimizer.accumulate': 1,  # BatchNorm sees the whole batch
  'optimizer.average_decay': 0.0,
  'schedule.name': 'milestones',
  'schedule.milestones': [0.5, 0.75],
  'schedule.factor': 0.1,
  'schedule.warmup_epochs': 0.0,
  'augment.mode': 'reflect',
  'augment.pad': 4,
  'augment.flip': 'yes',
  'checkpoint.every_epochs': 1,  # the best of all epochs
  'evaluation.checkpoint': 'best',
}
UNCERTAINTY = {'no': 0.0002, 'yes': 0.001}  # of an accuracy in [0, 1], by `occluded`


class Reading(NamedTuple):
  """A marker of the figure: test accuracy in [0, 1]."""

  accuracy: float
  uncertainty: float


@functools.cache
def readings() -> dict[tuple[str, str, float], Reading]:
  """{(network, scheme, sparsity): reading}; the dense networks are ('resnet20', 'dense', 0.0)."""
  with FILE.open(newline='') as file:
    return {
      (line['network'], line['scheme'], float(line['sparsity'])): Reading(
        float(line['accuracy']) / 100, UNCERTAINTY[line['occluded']]
      )
      for line in csv.DictReader(file)
    }


def reading(run: Run) -> Reading | None:
  """The paper's number for the run's cell; None where the figure has none.

  It has none for other data sets, nor for networks trained by another recipe.
  """
  config = run.config
  if run.dataset != DATASET or any(config.get(k, value) != value for k, value in RECIPE.items()):
    return None
  return readings().get((run.network, run.scheme, run.sparsity))
