"""Runs as a report sees them: what they are called, and what they may be compared with."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from random_pruning_jax.config import spellings
from random_pruning_jax.report import measured

DENSE = 'dense'
# Fields that say where a run lies, how it is computed or measured, not what it is.
_NOT_SETTINGS = (
  'data_dir',
  'data_workers',
  'dataset',
  'dense_twin',
  'gradient_flow_every',
  'log_every',
  'model.name',
  'model.remat',
  'model.width',
  'seed',
  'steps_per_call',
)
_NOT_SETTINGS_BELOW = ('checkpoint.', 'evaluation.', 'pruning.')
# Exceptions to the two above: they decide which epoch's network is measured.
_SETTINGS_AFTER_ALL = ('checkpoint.every_epochs', 'evaluation.checkpoint')
# Values that `config.resolve` replaces; a config that could not be resolved still holds them.
_UNRESOLVED = ('dataset', 'recipe')
_UNRESOLVED_NUMBERS = {'augment.pad': (-1,)}
# The paper's schedules on ImageNet: {field: (of sparse networks, of dense ones)}.
_OWN_SCHEDULE = {
  'epochs': (100, 90),
  'schedule.milestones': ([0.3, 0.6, 0.9], [30 / 90, 60 / 90, 80 / 90]),
}
RATIO, SELECT = {'ratio', 'pruning.ratio'}, {'select', 'pruning.select'}  # names of these fields


@dataclasses.dataclass(frozen=True)
class Run:
  """One run: its config, and its row where it is done.

  `state` is 'done', 'failed' (with `error`) or 'missing' (planned or begun, and neither).
  """

  state: str
  place: str  # its directory
  config: dict[str, Any]
  row: dict[str, Any]
  error: str = ''
  settings: tuple[tuple[str, Any], ...] = ()  # fields that differ here; see `with_settings`

  @property
  def seed(self) -> int:
    return int(self.config['seed'])

  @property
  def dataset(self) -> str:
    return spellings.dataset(str(self.config['dataset']))

  @property
  def dense(self) -> bool:
    return self.density == 1

  @property
  def density(self) -> float:
    """As the config asks for it, which is the same for every ratio and seed."""
    return round(float(self.config['pruning.density']), 6)

  @property
  def sparsity(self) -> float:
    return round(1 - self.density, 6)

  @property
  def model(self) -> str:
    return self._network[0]

  @property
  def width(self) -> int:
    """0 is the family's own."""
    return self._network[1]

  @property
  def _network(self) -> tuple[str, int]:
    return spellings.network(str(self.config['model.name']), self.config['model.width'])

  @property
  def network(self) -> str:
    return self.model + (f'-w{self.width}' if self.width else '')

  @property
  def depth(self) -> int | None:
    found = re.search(r'\d+', self.model)
    return int(found[0]) if found else None

  @property
  def family(self) -> str:
    """What networks that differ in depth alone have in common: 'cifar_resnet', 'vgg', 'wrn_2'."""
    name = self.model
    small = spellings.is_cifar_resnet(name)
    return 'cifar_resnet' if small else re.sub(r'\d+', '', name, count=1)

  @property
  def scheme(self) -> str:
    """'erk', 'erk/magnitude', 'erk, fan_in', 'erk, dense stem', or 'dense'.

    What either recipe chooses by itself shares one name; what a config chooses besides has its own.
    """
    if self.dense:
      return DENSE
    ratio, select = str(self.config['pruning.ratio']), str(self.config['pruning.select'])
    authors = self.config['recipe'] == 'authors'
    if authors:
      ratio, select = ratio.removesuffix('_authors'), select.removesuffix('_authors')
    usual = 'bernoulli' if authors and select == 'random' else 'exact'
    sampling = self.config['pruning.sampling']
    notes = [sampling] if sampling not in (usual, *_UNRESOLVED) else []
    if sampling == 'n_m':
      notes = [f'n_m of {self.config["pruning.block"]}']
    if held := self.config.get('pruning.dense'):  # which rows of older versions lack
      notes.append(f'dense {" ".join(held)}')
    return ', '.join([ratio if select == 'random' else f'{ratio}/{select}', *notes])

  @property
  def random(self) -> bool:
    """Whether chance chose which weights stay."""
    return not self.dense and self.config['pruning.select'] == 'random'

  @property
  def cell(self) -> tuple[str, str, str, str, float]:
    """Data set, setting, network, scheme and sparsity: what differs in the seed alone shares it."""
    return self.dataset, self.setting, self.network, self.scheme, self.sparsity

  @property
  def numbers(self) -> dict[str, float]:
    """Those of the row that are finite."""
    found = self.row.get('metrics', {}).items()
    return {k: v for k, v in found if v is not None and math.isfinite(v)}

  def metric(self, name: str, parts: Sequence[str] | None = None) -> float | None:
    """A number of the row, or one of this report's own: the mean of `parts` of it.

    `parts` default to what this run alone has (`measured.parts`); to compare runs, pass what all of
    them have. None if the row has no such number, or lacks a part.
    """
    names = measured.parts(name, [self.numbers]) if parts is None else parts
    values = [self._number(part) for part in names]
    return sum(values) / len(values) if values and None not in values else None

  def _number(self, name: str) -> float | None:
    if name == 'validation_accuracy':
      return (self.row.get('validation') or {}).get('accuracy')
    value = self.numbers.get(name, self.row.get(name))
    return float(value) if isinstance(value, int | float) else None

  def field(self, name: str) -> Any:
    """A field for rows and columns: 'network', 'scheme', 'sparsity', or any of the config's.

    A dense network has no ratio and no selection, whatever its config says: both are 'dense'. A
    network has one name however it is spelled, and its family's own width is a number. Lists become
    text, or 'none' if they are empty.
    """
    if name in FIELDS:
      return getattr(self, name)
    if self.dense and name in RATIO | SELECT:
      return DENSE
    known = self._known(name)
    if known == 'model.name':
      return self.model
    if known == 'model.width':
      return self.width or spellings.own_width(self.model)
    value = self.config.get(known)
    if isinstance(value, list | tuple):
      return ', '.join(f'{x:g}' if isinstance(x, float) else str(x) for x in value) or 'none'
    return value

  @property
  def setting(self) -> str:
    return self.setting_beside()

  def setting_beside(self, axes: Iterable[str] = ()) -> str:
    """'epochs=5, optimizer.lr=0.2': the settings that differ and are not among `axes`."""
    said = {self._known(name) for name in axes}
    return ', '.join(f'{name}={value}' for name, value in self.settings if name not in said)

  def _known(self, name: str) -> str | None:
    """The config's own name of a field: 'optimizer.lr' of 'lr'."""
    tried = (name, f'pruning.{name}', f'model.{name}', f'optimizer.{name}')
    return next((known for known in tried if known in self.config), None)


FIELDS = ('network', 'scheme', 'sparsity', 'density', 'depth', 'dataset', 'seed', 'setting')


def grouped(runs: Iterable[Run], key: Callable[[Run], Any]) -> dict[Any, list[Run]]:
  """{key: the runs that have it}, both in the order of the runs."""
  groups: dict[Any, list[Run]] = {}
  for run in runs:
    groups.setdefault(key(run), []).append(run)
  return groups


def with_settings(runs: list[Run]) -> list[Run]:
  """Names what else differs: 'epochs=5' beside 'epochs=160', so that they are never averaged.

  Nor are they compared, not with other networks either, except on ImageNet, where the paper trains
  dense networks by a schedule of their own: where there are both, both are "the paper's".
  """
  names = sorted({name for run in runs for name in run.config if _is_setting(name)})
  differing: dict[str, list[str]] = {}  # of each data set
  for name in names:
    values: dict[tuple, set[str]] = {}
    for run in runs:
      own = run.dense and run.dataset.startswith('imagenet') and name in _OWN_SCHEDULE
      if _says(run, name):
        values.setdefault((run.dataset, own), set()).add(json.dumps(run.config[name]))
    for dataset in {key[0] for key, found in values.items() if len(found) > 1}:
      differing.setdefault(dataset, []).append(name)
  by_paper = {(run.dataset, run.dense) for run in runs if _is_of_paper(run)}

  def settings(run: Run) -> tuple[tuple[str, Any], ...]:
    named = (name for name in differing.get(run.dataset, ()) if _says(run, name))
    both = _is_of_paper(run) and (run.dataset, not run.dense) in by_paper
    papers = _OWN_SCHEDULE if both else ()
    return tuple((n, "the paper's" if n in papers else run.config[n]) for n in named)

  return [dataclasses.replace(run, settings=settings(run)) for run in runs]


def _is_of_paper(run: Run) -> bool:
  """Whether the run has the paper's schedule on ImageNet for such a network, sparse or dense."""
  return run.dataset.startswith('imagenet') and all(
    json.dumps(run.config.get(name)) == json.dumps(papers[run.dense])
    for name, papers in _OWN_SCHEDULE.items()
  )


def _says(run: Run, name: str) -> bool:
  """Whether the config has a value for the field. Rows of older versions may lack it, and the
  config of a run that never began, which could not be resolved, holds words in its place."""
  unresolved = (*_UNRESOLVED, *_UNRESOLVED_NUMBERS.get(name, ()))
  return name in run.config and run.config[name] not in unresolved


def _is_setting(name: str) -> bool:
  if name in _SETTINGS_AFTER_ALL:
    return True
  return name not in _NOT_SETTINGS and not name.startswith(_NOT_SETTINGS_BELOW)
