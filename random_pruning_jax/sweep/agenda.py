"""What a sweep is to do: each config with its directory, all checked before anything starts."""

import functools
import hashlib
import json
import pathlib
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from random_pruning_jax import config as config_lib
from random_pruning_jax import data, many, pruning, results, runlog, suites
from random_pruning_jax.config import spellings
from random_pruning_jax.data import order
from random_pruning_jax.experiment import Experiment, build
from random_pruning_jax.sweep import lease
from random_pruning_jax.sweep.images import trained_on
from random_pruning_jax.system import atomic, lock

OVER = ('done', 'failed')  # states of runs that have come to their end
_FORMAT = 1  # of the manifest; raised when a field changes its meaning
_OF_MASKS = ('pruning.ratio', 'pruning.select', 'pruning.density', 'pruning.sampling')


class Job(NamedTuple):
  """A run to be made."""

  tag: str  # the name of its directory
  config: ConfigDict
  group: str  # equal for runs that share one compilation, and can train together; '' if invalid
  error: str = ''  # why it cannot be run
  trace: str = ''  # of that error


class Agenda(NamedTuple):
  jobs: list[Job]  # those that share a compilation follow each other
  experiments: dict[str, Experiment]  # of one job of each group


def make(
  configs: Sequence[ConfigDict], *, skip_invalid: bool = False, need_data: bool = True
) -> Agenda:
  """Checks every config and orders the jobs. Raises one ValueError that names all that is wrong.

  Budgets that a network cannot spend are not named here: `estimate` does that, and the run.
  Two configs of one run are refused, but where smoke mode made them equal the first is the job.

  With `skip_invalid`, configs that are invalid become jobs with an `error` instead. Without
  `need_data`, the data need not be on this machine.
  """
  if not configs:
    raise ValueError('a sweep must have at least one config, got none.')
  experiments: dict[str, Experiment] = {}
  seen: dict[str, int] = {}
  jobs: list[Job] = []
  wrong: dict[str, list[str]] = {}  # error -> the jobs that have it
  for i, config in enumerate(configs):
    error = trace = ''
    try:
      config = config_lib.resolve(config)  # so that a run keeps its tag once it is valid
      _check(config, experiments, need_data)
    except Exception as found:  # whatever it is, it is this config's alone
      usual = isinstance(found, ValueError)
      error = f'{found}' if usual else f'it cannot be built ({type(found).__name__}: {found})'
      trace = traceback.format_exc()
    job = Job(tag(config), config, '' if error else many.key(config), error, trace)
    if error:
      wrong.setdefault(error, []).append(f'{job.tag} (config {i})')
    same = seen.setdefault(_identity(job.config), i)
    if same != i and job.config.smoke:
      continue
    if same != i:
      raise ValueError(f'configs {same} and {i} are the same run, {job.tag}: {_hint(job.config)}')
    jobs.append(job)
  if wrong and not skip_invalid:
    raise ValueError(_refusal(wrong, len(configs)))
  first = list(dict.fromkeys(job.group for job in jobs))
  return Agenda(sorted(jobs, key=lambda job: first.index(job.group)), experiments)


def shard(jobs: Sequence[Job], which: str) -> list[Job]:
  """Every N-th job from the I-th for 'I/N', 1 <= I <= N: disjoint, together all of them."""
  try:
    i, n = map(int, which.split('/'))
  except ValueError:
    i = n = 0
  if not 1 <= i <= n:
    raise ValueError(f'--shard must be I/N with 1 <= I <= N, as 1/4; got {which!r}.')
  return list(jobs[i - 1 :: n])


def tag(config: ConfigDict) -> str:
  """A name that a person can read, and a hash: digits-resnet20-w8-erk-d0.1-s0-5f3a1c20.

  The hash is of the fields that differ from the defaults, so that a field which a later version
  adds does not rename the runs of this one.
  """
  pruned = [config.pruning.ratio, f'd{config.pruning.density:g}']
  if config.pruning.select != 'random':
    pruned.insert(1, config.pruning.select)
  what = ['dense'] if config.pruning.density == 1 else pruned
  differences = config_lib.differences(_usual(), _flat(config))
  changed = {field: got for field, (_, got) in differences.items()}
  digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
  parts = [config.dataset.replace('/', '_'), network(config), *what, f's{config.seed}', digest]
  return '-'.join(parts)


@functools.cache
def _usual() -> dict[str, Any]:
  return config_lib.flat(config_lib.resolve(config_lib.default()))


def network(config: ConfigDict) -> str:
  """resnet20, or resnet20-w8 where the width is not the family's own."""
  return config.model.name + (f'-w{config.model.width}' if config.model.width else '')


def state(directory: pathlib.Path) -> str:
  """'done', 'failed', 'running', 'interrupted' or 'waiting', as the run's directory says."""
  row = results.row_of(directory)
  if row and results.is_done(row):
    return 'done'
  if (directory / results.FAILED).exists():
    return 'failed'
  if lease.holder(directory):
    return 'running'
  return 'interrupted' if (directory / runlog.CONFIG_FILE).exists() else 'waiting'


def remember(jobs: Sequence[Job], directory: pathlib.Path) -> None:
  """Adds the jobs to the sweep's manifest, by which a report knows what is missing."""
  directory.mkdir(parents=True, exist_ok=True)
  with lock.alone(directory):
    known = read_manifest(directory)
    known |= {job.tag: _flat(job.config) for job in jobs}
    content = json.dumps({'format': _FORMAT, 'runs': known}, sort_keys=True) + '\n'
    atomic.write(directory / results.MANIFEST, content)


def read_manifest(directory: pathlib.Path) -> dict[str, dict[str, Any]]:
  """{tag: flat config} of every run planned in a directory; {} where there was no sweep.

  Raises ValueError for a file that is damaged, or of a later format than this code knows.
  """
  path = directory / results.MANIFEST
  if not path.exists():
    return {}
  try:
    found = json.loads(path.read_text())
    if not isinstance(found, dict) or not isinstance(found.get('runs'), dict):
      raise ValueError(f'it must hold runs by tag, got {found!r:.60}')
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}; without it, a sweep makes it anew.') from error
  if found.get('format') != _FORMAT:
    raise ValueError(f'{path} is of format {found.get("format")}; known: {_FORMAT}.')
  return found['runs']


def read_failure(directory: pathlib.Path) -> dict[str, Any]:
  """What `failed.json` of a run says: tag, error, traceback, config, commit, time.

  Of a worker that died, the traceback is the end of its log.
  """
  return json.loads((directory / results.FAILED).read_text())


def _refusal(wrong: dict[str, list[str]], total: int) -> str:
  lines = []
  for error, tags in wrong.items():
    more = f' and {len(tags) - 3} more' if len(tags) > 3 else ''
    lines.append(f'{", ".join(tags[:3])}{more}: {error}')
  return '\n  '.join(
    [
      f'{sum(map(len, wrong.values()))} of {total} configs are invalid; nothing was started. Mend '
      'them, or record them as failed and run the others with --skip-invalid:',
      *lines,
    ]
  )


def _check(resolved: ConfigDict, experiments: dict[str, Experiment], need_data: bool) -> None:
  """Raises ValueError for what cannot be run, and what building raises; builds each group once."""
  if resolved.dense_twin:
    raise ValueError(
      'dense_twin must be False in a sweep, or every run trains the same dense network; add one '
      'config of pruning.density 1.0.'
    )
  pruning.check_names(resolved.pruning.ratio, resolved.pruning.select, resolved.pruning.sampling)
  name = many.key(resolved)
  if name not in experiments:
    if need_data:
      data.check_splits(resolved.dataset, resolved.data_dir)
    experiment = build(resolved, tuple(jax.devices()))
    if images := trained_on(resolved.dataset, resolved.data_dir, experiment.spec):
      order.steps_per_epoch(images, resolved.batch_size)
    experiments[name] = experiment
  suites.check(resolved.evaluation)
  for foreign in suites.foreign_sets(resolved.evaluation) if need_data else ():
    data.check_known(foreign, resolved.data_dir)
  pruning.pruned(experiments[name].structure.shapes, resolved.pruning.dense)


def _flat(config: ConfigDict) -> dict[str, Any]:
  """What is trained, by field: how it is measured does not make another run."""
  flat = config_lib.flat(config)
  return {field: flat[field] for field in flat if config_lib.is_compared(field)}


def _identity(config: ConfigDict) -> str:
  """Equal for configs that make the same network, however spelled: a dense one has no ratio."""
  name, width = spellings.network(config.model.name, config.model.width)
  flat = _flat(config) | {'model.name': name, 'model.width': width}
  flat['dataset'] = spellings.dataset(config.dataset)
  if flat['pruning.density'] == 1:
    flat = {field: flat[field] for field in flat if field not in _OF_MASKS}
  return json.dumps(flat, sort_keys=True)


def _hint(config: ConfigDict) -> str:
  if config.pruning.density == 1:
    return 'at density 1.0 every ratio is the dense network; list it once for each seed.'
  return (
    'an override may have made them equal, or they differ in how they are evaluated alone, or in '
    "the spelling of the network or data set: a width that is the family's own, a version."
  )
