"""Checks of a resolved config, made before JAX is imported."""

import functools
import math
import numbers
import operator
from collections.abc import Collection, Sequence
from typing import Any

from ml_collections import ConfigDict

from random_pruning_jax.config import names
from random_pruning_jax.data.specs import spec_of, unversioned

CHOICES = {
  'augment.flip': ('yes', 'no'),
  'augment.mode': ('reflect', 'zeros', 'resized', 'none'),
  'data_loading': ('auto', 'resident', 'streamed'),
  'evaluation.checkpoint': ('best', 'latest'),
  'optimizer.decay': ('kernels', 'all'),
  'schedule.name': ('milestones', 'cosine', 'constant'),
}
RANGES = {  # [low, high)
  'seed': (0, 2**32),
  'augment.pad': (0, math.inf),
  'data_workers': (-1, math.inf),
  'image_size': (0, math.inf),
  'resize': (0, math.inf),
  'epochs': (1, math.inf),
  'batch_size': (1, math.inf),
  'optimizer.accumulate': (1, math.inf),
  'optimizer.lr': (0, math.inf),
  'optimizer.momentum': (0, 1),
  'optimizer.weight_decay': (0, math.inf),
  'optimizer.label_smoothing': (0, 1),
  'optimizer.average_decay': (0, 1),
  'schedule.warmup_epochs': (0, math.inf),
  'schedule.factor': (0, math.inf),
  'steps_per_call': (0, math.inf),
  'log_every': (1, math.inf),
  'gradient_flow_every': (0, math.inf),
  'checkpoint.every_epochs': (1, math.inf),
  'checkpoint.every_steps': (0, math.inf),
  'checkpoint.keep': (1, math.inf),
  'evaluation.batch_size': (1, math.inf),
  'evaluation.attacked_images': (0, math.inf),
  'evaluation.corrupted_images': (0, math.inf),
  'evaluation.hessian_steps': (1, math.inf),
  'pruning.block': (1, math.inf),
}
HIGHEST = {'augment.area': 1.0, 'augment.aspect': math.inf}  # of two rising numbers above 0


def choice(field: str, value: Any, known: Collection) -> Any:
  """`value`, or ValueError that lists the known ones."""
  if value not in known:
    raise ValueError(f'{field} must be one of {", ".join(sorted(known))}; got {value!r}.')
  return value


def value_of(config: ConfigDict, field: str) -> Any:
  """The value of a field by its dotted name."""
  return functools.reduce(operator.getitem, field.split('.'), config)


def check_field(config: ConfigDict, name: str) -> None:
  """Raises ValueError where the config has no such field, listing the fields beside it."""
  node, where = config, 'config'
  for part in name.split('.'):
    if not isinstance(node, ConfigDict) or part not in node:
      known = ', '.join(sorted(node)) if isinstance(node, ConfigDict) else 'no fields'
      raise ValueError(f'unknown field config.{name}; {where} has: {known}.')
    node, where = node[part], f'{where}.{part}'


def check(config: ConfigDict, trains: bool = True) -> None:
  """Checks names, and ranges that nothing else checks before the first step."""
  for field, value, known in names.of(config):
    choice(field, value, known)
  if not 0 < config.pruning.density <= 1:
    raise ValueError(f'pruning.density must lie in (0, 1], got {config.pruning.density}.')
  for field, known in CHOICES.items():
    choice(field, value_of(config, field), known)
  for field, (low, high) in RANGES.items():
    value = value_of(config, field)
    if not low <= value < high:  # nan too
      raise ValueError(f'{field} must lie in [{low}, {high}), got {value}.')
  for field, high in HIGHEST.items():
    first, last = _numbers(field, value_of(config, field))
    if not 0 < first <= last <= high or last == math.inf:
      end = f'{high})' if high == math.inf else f'{high}]'
      raise ValueError(f'{field} must rise within (0, {end}, got {first}, {last}.')
  if trains:
    _check_schedule(config)
  if trains and not config.smoke:  # smoke runs train on other images than the config augments
    _check_padding(config.augment, config.dataset)
  _check_evaluation(config.evaluation, config.dataset)


def _check_padding(augment: ConfigDict, dataset: str) -> None:
  """A padding mode needs a pad, and a pad a padding mode; the data set's own pad may go unused."""
  spec, pads = spec_of(dataset), augment.mode in ('reflect', 'zeros')
  if pads and augment.pad == 0 and augment.mode != (spec and spec.mode):
    raise ValueError(f'augment.mode {augment.mode!r} needs augment.pad of at least 1, got 0.')
  if not pads and augment.pad not in (0, spec.pad if spec else 0):
    raise ValueError(
      f"augment.pad {augment.pad} needs augment.mode 'reflect' or 'zeros', got {augment.mode!r}."
    )


def _check_schedule(config: ConfigDict) -> None:
  if config.schedule.warmup_epochs >= config.epochs:
    raise ValueError(
      f'schedule.warmup_epochs must be less than epochs ({config.epochs}), '
      f'got {config.schedule.warmup_epochs}.'
    )
  for milestone in _numbers('schedule.milestones', config.schedule.milestones):
    if not 0 <= milestone <= 1:
      raise ValueError(
        'schedule.milestones must lie in [0, 1], as fractions of training; '
        f'got {milestone} (80 of 160 epochs are 0.5).'
      )
    warmup = config.schedule.warmup_epochs
    if config.schedule.name == 'milestones' and milestone * config.epochs < warmup - 1e-9:
      raise ValueError(
        f'schedule.milestones must not come before the end of warm-up, {warmup:g} epochs; '
        f'got {milestone:g} of {config.epochs}.'
      )


def _check_evaluation(evaluation: ConfigDict, dataset: str) -> None:
  _check_epsilons('evaluation.epsilons', evaluation.epsilons, 'linf')
  for name, settings in evaluation.attacks.items():
    if 'epsilons' not in settings:
      raise ValueError(f'evaluation.attacks.{name} must hold epsilons, got {list(settings)}.')
    field = f'evaluation.attacks.{name}.epsilons'
    _check_epsilons(field, settings.epsilons, norm_of(name, settings))
  for severity in evaluation.severities:
    if type(severity) is not int or not 1 <= severity <= 5:  # True is not meant as 1
      raise ValueError(
        f'evaluation.severities must be whole numbers from 1 to 5, got {severity!r}.'
      )
  if evaluation.validation_foreign in ('', None):
    return
  reported = {unversioned(name) for name in (*evaluation.foreign, dataset)}
  if unversioned(evaluation.validation_foreign) in reported:
    raise ValueError(
      'evaluation.validation_foreign must be neither the data set nor one of evaluation.foreign; '
      f'got {evaluation.validation_foreign!r}.'
    )


def _check_epsilons(field: str, epsilons: Sequence[Any], norm: str) -> None:
  # In L2, epsilon is the norm over all pixels, which the range of one pixel does not limit.
  wanted = '[0, inf)' if norm == 'l2' else '[0, 1]'
  for epsilon in _numbers(field, epsilons):
    if not 0 <= epsilon < math.inf or (norm != 'l2' and epsilon > 1):
      raise ValueError(f'{field} must lie in {wanted} (pixels), got {epsilon}.')


def _numbers(field: str, values: Sequence[Any]) -> Sequence[float]:
  for value in values:
    if not isinstance(value, numbers.Real):  # '8/255', which the command line does not compute
      raise ValueError(f'{field} must hold numbers, got {value!r}.')
  return values


def norm_of(attack: str, settings: ConfigDict) -> str:
  """'linf' or 'l2', whichever the attack's epsilon is measured in."""
  if 'norm' in settings:
    return settings.norm
  return 'l2' if attack.endswith('_l2') else 'linf'
