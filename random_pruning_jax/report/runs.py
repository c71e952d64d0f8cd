"""Runs as a report sees them: rows of any version, runs that failed, runs that are missing."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from random_pruning_jax import results

DENSE = 'dense'
# Fields that say where a run lies or how it is measured, not what it is.
_NOT_SETTINGS = (
  'data_dir',
  'data_workers',
  'dataset',
  'dense_twin',
  'gradient_flow_every',
  'log_every',
  'model.name',
  'model.width',
  'seed',
  'steps_per_call',
)
_NO_SETS = ('near', 'far', 'gaussian_noise', 'pixel_shuffled')  # means of sets, and made-up images
_CIFAR_RESNET = re.compile(r'cifar_resnet\d+|resnet(20|32|44|56|110)')  # others are ImageNet's
_NOT_SETTINGS_BELOW = ('checkpoint.', 'evaluation.', 'pruning.')


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
  setting: str = ''  # what else differs among the runs of this report; see `read`

  @property
  def seed(self) -> int:
    return int(self.config.get('seed', self.row.get('seed', 0)))

  @property
  def dataset(self) -> str:
    return str(self.config.get('dataset', 'unknown'))

  @property
  def dense(self) -> bool:
    return self.density == 1

  @property
  def density(self) -> float:
    """As the config asks for it, which is the same for every ratio and seed."""
    return float(self.config.get('pruning.density', self.row.get('density', 1.0)))

  @property
  def sparsity(self) -> float:
    return round(1 - self.density, 6)

  @property
  def network(self) -> str:
    width = self.config.get('model.width', 0)
    return str(self.config.get('model.name', 'unknown')) + (f'-w{width}' if width else '')

  @property
  def depth(self) -> int | None:
    found = re.search(r'\d+', str(self.config.get('model.name', '')))
    return int(found[0]) if found else None

  @property
  def family(self) -> str:
    """What networks that differ in depth alone have in common: 'cifar_resnet', 'vgg', 'wrn_2'."""
    name = str(self.config.get('model.name', ''))
    return 'cifar_resnet' if _CIFAR_RESNET.fullmatch(name) else re.sub(r'\d+', '', name, count=1)

  @property
  def scheme(self) -> str:
    """'erk', 'erk/magnitude', 'erk, fan_in', 'erk, dense stem', or 'dense'.

    What a recipe chooses by itself has the same name in either; what a config chooses besides has
    one of its own.
    """
    if self.dense:
      return DENSE
    ratio = str(self.config.get('pruning.ratio', 'unknown'))
    select = str(self.config.get('pruning.select', 'random'))
    authors = self.config.get('recipe') == 'authors'
    if authors:
      ratio, select = ratio.removesuffix('_authors'), select.removesuffix('_authors')
    usual = 'bernoulli' if authors and select == 'random' else 'exact'
    sampling = self.config.get('pruning.sampling', usual)
    notes = [sampling] if sampling != usual else []
    if sampling == 'n_m':
      notes = [f'n_m of {self.config.get("pruning.block")}']
    if held := self.config.get('pruning.dense'):
      notes.append(f'dense {" ".join(held)}')
    return ', '.join([ratio if select == 'random' else f'{ratio}/{select}', *notes])

  @property
  def random(self) -> bool:
    """Whether chance chose which weights stay."""
    return not self.dense and self.config.get('pruning.select', 'random') == 'random'

  def metric(self, name: str, beside: 'Run | None' = None) -> float | None:
    """A number of the row, or one of this report's own.

    `auroc` is the mean of the maximum softmax's over foreign sets, and `fgsm` the accuracy at the
    largest epsilon up to 8/255; of those that `beside` has too, so that two runs are compared on
    the same sets and epsilon.
    """
    numbers = {k: v for k, v in self.row.get('metrics', {}).items() if v is not None}
    if beside is not None and name in ('auroc', 'fgsm'):
      theirs = beside.row.get('metrics', {})
      numbers = {k: v for k, v in numbers.items() if theirs.get(k) is not None}
    if name == 'auroc':
      matches = {key: re.fullmatch(r'ood/(.+)/msp/auroc', key) for key in numbers}
      found = [numbers[key] for key, match in matches.items() if match and match[1] not in _NO_SETS]
      return sum(found) / len(found) if found else None
    if name == 'fgsm':
      name = strongest_fgsm(numbers)
    if name == 'validation_accuracy':
      return (self.row.get('validation') or {}).get('accuracy')
    value = numbers.get(name, self.row.get(name))
    return float(value) if isinstance(value, int | float) else None

  def field(self, name: str) -> Any:
    """A field for rows and columns: 'network', 'scheme', 'sparsity', or any of the config's."""
    if name in FIELDS:
      return getattr(self, name)
    for known in (name, f'pruning.{name}', f'model.{name}', f'optimizer.{name}'):
      if known in self.config:
        return self.config[known]
    return None


FIELDS = ('network', 'scheme', 'sparsity', 'density', 'depth', 'dataset', 'seed', 'setting')


def strongest_fgsm(numbers: Iterable[str]) -> str:
  """The name of FGSM's largest epsilon up to 8/255; '' where there is none."""
  found = {}
  for name in numbers:
    match = re.fullmatch(r'adversarial/fgsm/([\d.]+)(?:/(\d+))?', name)
    if match:
      epsilon = float(match[1]) / float(match[2] or 1)
      if 0 < epsilon <= 8.01 / 255:
        found[epsilon] = name
  return found[max(found)] if found else ''


def read(paths: Sequence[str | pathlib.Path]) -> list[Run]:
  """Every run at or below the paths, in a fixed order. Raises ValueError where there is none."""
  rows = results.read(paths)
  final = [row for row in rows if results.is_final(row)]
  done = [Run('done', row['run'], row.get('config', {}), row) for row in final]
  # Of a run that has not come to its end, numbers are not its result.
  begun = [Run('missing', row['run'], row.get('config', {}), {}) for row in rows]
  known: dict[pathlib.Path, Run] = {}
  for run in [*done, *_others(paths), *begun]:
    known.setdefault(pathlib.Path(run.place).resolve(), run)
  runs = list(known.values())
  if not runs:
    raise ValueError(f'there is no run at or below {", ".join(map(str, paths))}.')
  return sorted(_with_settings(runs), key=order)


def order(run: Run) -> tuple:
  return (
    run.dataset,
    run.setting,
    run.depth or 0,
    run.config.get('model.width', 0),
    run.network,
    run.scheme != DENSE,
    run.scheme,
    run.sparsity,
    run.seed,
    run.place,
  )


def _others(paths: Sequence[str | pathlib.Path]) -> list[Run]:
  """Runs that failed, and runs that a sweep planned and that are not there yet."""
  found: dict[pathlib.Path, Run] = {}
  for path in map(pathlib.Path, paths):
    manifests = sorted(path.rglob(results.MANIFEST)) if path.is_dir() else []
    for file in manifests:
      for tag, config in json.loads(file.read_text())['runs'].items():
        place = file.parent / tag
        found[place.resolve()] = Run('missing', str(place), config, {})
    for file in sorted(path.rglob(results.FAILED)) if path.is_dir() else []:
      failure = json.loads(file.read_text())
      found[file.parent.resolve()] = Run(
        'failed', str(file.parent), failure['config'], {}, failure['error']
      )
  return list(found.values())


def _with_settings(runs: list[Run]) -> list[Run]:
  """Names what else differs: 'epochs=5' beside 'epochs=160', so that they are never averaged."""
  names = sorted({name for run in runs for name in run.config if _is_setting(name)})
  differing: dict[str, list[str]] = {}  # of each data set
  for name in names:
    by_network: dict[tuple, set[str]] = {}
    for run in runs:
      key = (run.dataset, run.network, run.dense)
      if name in run.config:  # rows of older versions may lack it
        by_network.setdefault(key, set()).add(json.dumps(run.config[name]))
    for dataset in {key[0] for key, values in by_network.items() if len(values) > 1}:
      differing.setdefault(dataset, []).append(name)

  def setting(run: Run) -> str:
    named = (name for name in differing.get(run.dataset, ()) if name in run.config)
    return ', '.join(f'{name}={run.config[name]}' for name in named)

  return [dataclasses.replace(run, setting=setting(run)) for run in runs]


def _is_setting(name: str) -> bool:
  return name not in _NOT_SETTINGS and not name.startswith(_NOT_SETTINGS_BELOW)
