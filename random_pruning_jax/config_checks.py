"""Checks of a resolved config, made before JAX is imported."""

import functools
import math
import numbers
import operator
from collections.abc import Collection, Sequence
from typing import Any

from ml_collections import ConfigDict

from random_pruning_jax import names
from random_pruning_jax.data.specs import spec_of, unversioned


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
  if not 0 <= config.seed < 2**32:
    raise ValueError(f'seed must lie in [0, {2**32}), got {config.seed}.')
  choice('augment.mode', config.augment.mode, ('reflect', 'zeros', 'resized', 'none'))
  choice('data_loading', config.data_loading, ('auto', 'resident', 'streamed'))
  choice('augment.flip', config.augment.flip, ('yes', 'no'))
  choice('optimizer.decay', config.optimizer.decay, ('kernels', 'all'))
  choice('schedule.name', config.schedule.name, ('milestones', 'cosine', 'constant'))
  choice('evaluation.checkpoint', config.evaluation.checkpoint, ('best', 'latest'))
  for field, low in (
    ('augment.pad', 0),
    ('data_workers', -1),
    ('image_size', 0),
    ('resize', 0),
    ('epochs', 1),
    ('batch_size', 1),
    ('optimizer.accumulate', 1),
    ('optimizer.lr', 0),
    ('optimizer.weight_decay', 0),
    ('schedule.warmup_epochs', 0),
    ('schedule.factor', 0),
    ('steps_per_call', 0),
    ('log_every', 1),
    ('gradient_flow_every', 0),
    ('checkpoint.every_epochs', 1),
    ('checkpoint.every_steps', 0),
    ('checkpoint.keep', 1),
    ('evaluation.batch_size', 1),
    ('evaluation.attacked_images', 0),
    ('evaluation.corrupted_images', 0),
    ('evaluation.hessian_steps', 1),
    ('pruning.block', 1),
  ):
    value = value_of(config, field)
    if not value >= low:  # nan too
      raise ValueError(f'{field} must be at least {low}, got {value}.')
  for field, low, high in (('area', 0.0, 1.0), ('aspect', 0.0, float('inf'))):
    first, last = _numbers(f'augment.{field}', config.augment[field])
    if not low < first <= last <= high:
      raise ValueError(f'augment.{field} must rise within ({low}, {high}], got {first}, {last}.')
  for field, value in (
    ('optimizer.momentum', config.optimizer.momentum),
    ('optimizer.label_smoothing', config.optimizer.label_smoothing),
    ('optimizer.average_decay', config.optimizer.average_decay),
  ):
    if not 0 <= value < 1:
      raise ValueError(f'{field} must lie in [0, 1), got {value}.')
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
    if severity not in range(1, 6):
      raise ValueError(f'evaluation.severities must be from 1 to 5, got {severity}.')
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
