"""Suites of measurements: each a function of a bench, and a name in `SUITES`.

`quick` is what `train` measures at its end: calibration, out-of-distribution scores that need only
logits, and FGSM. Each of the others measures all of its family, on request.
"""

import numbers
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from random_pruning_jax import norms
from random_pruning_jax.attacks import ATTACKS, settings_of
from random_pruning_jax.config.checks import choice
from random_pruning_jax.suites import (
  adversarial,
  calibration,
  corruptions,
  gradients,
  ood,
  shifts,
)
from random_pruning_jax.suites.bench import ALWAYS, Bench, Findings
from random_pruning_jax.system import preemption

__all__ = ['SUITES', 'Bench', 'Findings', 'check', 'foreign_sets', 'measure', 'needs_features']

Suite = Callable[[Bench], Findings]

COUNTS = ('steps', 'restarts', 'queries', 'targets', 'unroll')  # settings of attacks
LARGEST = {'step_size': 2.0, 'p_init': 1.0}  # a step of two epsilons crosses the ball


def quick(bench: Bench) -> Findings:
  found = Findings()
  for suite in (calibration.full, ood.quick, adversarial.quick):
    found.add(suite(bench))
  return found


SUITES: dict[str, Suite] = {
  'quick': quick,
  'calibration': calibration.full,
  'ood': ood.full,
  'adversarial': adversarial.full,
  'corruptions': corruptions.full,
  'shifts': shifts.full,
  'gradients': gradients.full,
}


def check(settings: ConfigDict, names: Sequence[str] = ()) -> None:
  """Raises ValueError for unknown suites, attacks and corruptions, and for wrong settings.

  `settings` is a config's `evaluation`, and `names` the suites asked for (default: its own).
  """
  names = tuple(names) or settings.suites
  for name in names:
    choice('suite', name, SUITES)
  if 'corruptions' in names and not settings.severities:
    raise ValueError('evaluation.severities must hold at least one, from 1 to 5, got ().')
  for name, own in settings.attacks.items():
    choice('evaluation.attacks', name, ATTACKS)
    for field, value in own.items():
      choice(f'evaluation.attacks.{name}', field, {'epsilons', *settings_of(ATTACKS[name])})
      _check_setting(f'evaluation.attacks.{name}.{field}', value)
  for name in settings.corruptions:
    choice('evaluation.corruptions', name, corruptions.NAMES)


def foreign_sets(settings: ConfigDict) -> list[str]:
  """The foreign and shifted sets that a config's `evaluation` names for its suites, in order."""
  foreign = {'quick', 'ood'} & {*settings.suites}
  names = [*settings.foreign, *settings.near] if foreign else []
  names += [settings.validation_foreign] if 'ood' in settings.suites else []
  names += settings.shifts if 'shifts' in settings.suites else ()
  return [name for name in dict.fromkeys(names) if name and name not in ALWAYS]


def _check_setting(field: str, value: Any) -> None:
  name = field.rpartition('.')[2]
  if name == 'norm':
    choice(field, value, norms.NORMS)
  if name in COUNTS and not (isinstance(value, numbers.Integral) and value >= 1):
    raise ValueError(f'{field} must be a whole number of at least 1, got {value!r}.')
  largest = LARGEST.get(name)
  if largest and not (isinstance(value, numbers.Real) and 0 < value <= largest):
    raise ValueError(f'{field} must be above 0 and at most {largest:.4g}, got {value!r}.')


def needs_features(names: Sequence[str]) -> bool:
  """Whether the suites look at features, so that these must come with the first logits."""
  return 'ood' in names


def measure(bench: Bench, names: Sequence[str]) -> Findings:
  """What the named suites find, in their order."""
  found = Findings()
  for name in names:
    preemption.check()
    found.add(SUITES[name](bench))
  bench.stages.close()
  found.notes = bench.notes | found.notes
  return found
