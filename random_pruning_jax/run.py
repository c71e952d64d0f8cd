"""A run from its config to its result row: train, measure, and the dense twin beside it."""

import contextlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from random_pruning_jax import config as config_lib
from random_pruning_jax import data, results, runlog, suites, together
from random_pruning_jax.experiment import Experiment, build, check_budget
from random_pruning_jax.many import distinct, train_many
from random_pruning_jax.measure import evaluate_run
from random_pruning_jax.progress import say
from random_pruning_jax.step import TrainState
from random_pruning_jax.system import lock
from random_pruning_jax.train import train
from random_pruning_jax.training.prepared import check_claim, claim

TWIN = 'dense_twin'  # directory of the dense run, inside that of the sparse one


class InUseError(ValueError):
  """Another process trains in the workdir."""


def run(
  config: ConfigDict,
  workdir: str | os.PathLike,
  *,
  show: bool = True,
  profile: tuple[int, int] | None = None,
) -> list[dict]:
  """Trains and evaluates; returns the rows of the config's network and of its dense twin, if any.

  What is already done in `workdir` is not done again. `profile` names the steps to trace.
  """
  runlog.check_local(workdir)
  todo = [(config, pathlib.Path(workdir))]
  if config.dense_twin:
    if config.pruning.density == 1.0:
      raise ValueError('dense_twin must be False for a dense network (pruning.density is 1.0).')
    todo.append((dense(config), pathlib.Path(workdir) / TWIN))
  # All that can be wrong is said before the first training step.
  experiments = [_checked(*each) for each in todo]
  with contextlib.ExitStack() as held:
    _lock(held, pathlib.Path(workdir))
    for take in (check_claim, claim):  # where one is refused, neither is written
      for each, (_, place) in zip(experiments, todo, strict=True):
        take(each, place)
    return [_train_and_measure(each, place, show, profile) for each, place in todo]


def run_many(
  configs: Sequence[ConfigDict],
  workdirs: Sequence[str | os.PathLike],
  *,
  show: bool = True,
) -> list[dict | Exception]:
  """Trains networks together (`many.train_many`) and then evaluates each.

  Returns the row of each, or the error that ended it, which stops no other. Raises what
  `train_many` raises.
  """
  if any(config.dense_twin for config in configs):
    raise ValueError('dense_twin must be False where networks train together.')
  places = [pathlib.Path(workdir) for workdir in distinct(workdirs)]
  found: dict[int, Any] = {}
  with contextlib.ExitStack() as held:
    for i, config in enumerate(configs):
      try:
        experiment = _checked(config, places[i])
        _lock(held, places[i])
        claim(experiment, places[i])
      except Exception as error:
        found[i] = error
    fine = [i for i in range(len(configs)) if i not in found]
    if configs and not fine:
      return list(found.values())
    # On the host, which frees the devices' memory.
    ends = jax.device_get(
      train_many([configs[i] for i in fine], [places[i] for i in fine], show=show)
    )
    for i, end in zip(fine, ends, strict=True):
      try:
        found[i] = end if isinstance(end, Exception) else _row(configs[i], places[i], show, end)
      except Exception as error:
        found[i] = error
  return [found[i] for i in range(len(configs))]


def dense(config: ConfigDict) -> ConfigDict:
  """The config of the dense twin: the same in all but density."""
  twin = ConfigDict(config.to_dict())
  twin.pruning.density = 1.0
  twin.dense_twin = False
  return twin


def _lock(held: contextlib.ExitStack, workdir: pathlib.Path) -> None:
  """Keeps other processes out of the workdir until `held` closes; InUseError if one is inside."""
  with together.failing_together():
    if jax.process_index() > 0:  # one lock for the processes of a run
      return
    workdir.mkdir(parents=True, exist_ok=True)
    try:
      held.enter_context(lock.alone(workdir, wait=False))
    except BlockingIOError as error:
      raise InUseError(f'{workdir} is being trained by another process.') from error
    except (ImportError, OSError):
      pass  # a system, or a file system, without locks


def _train_and_measure(
  config: ConfigDict,
  workdir: pathlib.Path,
  show: bool,
  profile: tuple[int, int] | None,
) -> dict[str, Any]:
  if show and jax.process_index() == 0:
    resolved = config_lib.resolve(config)  # in smoke mode, it names what is trained
    pruned = f'{config.pruning.ratio}/{config.pruning.select} at density {config.pruning.density:g}'
    what = 'dense' if config.pruning.density == 1.0 else pruned
    say(f'{resolved.model.name} on {resolved.dataset}, {what} -> {workdir}')
  # On the host, so that nothing but what is measured holds the devices' memory.
  state = jax.device_get(train(config, workdir, show=show, profile=profile))
  return _row(config, workdir, show, state)


def _checked(config: ConfigDict, workdir: pathlib.Path) -> Experiment:
  """The experiment, or ValueError for whatever can be found wrong before the first step."""
  with together.failing_together():
    experiment = build(config)
    check_budget(experiment)
    suites.check(experiment.config.evaluation)
    config = experiment.config
    # Else a missing split, or a misspelt foreign set, shows at the end only.
    data.check_splits(config.dataset, config.data_dir)
    begun = (workdir / runlog.CONFIG_FILE).exists()  # perhaps where there was such a set
    for name in () if begun else suites.foreign_sets(config.evaluation):
      data.check_known(name, config.data_dir)
  return experiment


def _row(
  config: ConfigDict, workdir: pathlib.Path, show: bool, trained: TrainState
) -> dict[str, Any]:
  """The final row of a trained network: the one that is there, or one measured now."""
  row = together.by_first(lambda: results.row_of(workdir))
  # A row counts if its run had ended, if it is of the checkpoint that the config names, and if all
  # was measured, as this config asks. Else it is measured again.
  asked = config_lib.flat(config_lib.resolve(config))
  if row and results.is_done(row) and _is_as_asked(row, asked):
    return row
  return evaluate_run(workdir, trained=trained, show=show)


def _is_as_asked(row: dict[str, Any], asked: dict[str, Any]) -> bool:
  """Whether the row is of this config, and each suite of it was measured as this config asks.

  Other suites may have been measured since, and in other ways.
  """
  if not row.get('settings'):  # as in older rows
    return row['config'] == asked
  differ = {name for name in asked if row['config'].get(name) != asked[name]}
  of_run = {name for name in differ if not name.startswith('evaluation.')}
  return not of_run and not results.measured_otherwise(row, asked)
