"""A run from its config to its result row: train, measure, and the dense twin beside it."""

import os
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from random_pruning_jax import config as config_lib
from random_pruning_jax import results, runlog, suites
from random_pruning_jax.experiment import check_budget, experiment
from random_pruning_jax.measure import evaluate_run
from random_pruning_jax.progress import say
from random_pruning_jax.train import train

TWIN = 'dense_twin'  # directory of the dense run, inside that of the sparse one


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
  todo = [(config, pathlib.Path(workdir))]
  if config.dense_twin:
    if config.pruning.density == 1.0:
      raise ValueError('dense_twin must be False for a dense network (pruning.density is 1.0).')
    todo.append((dense(config), pathlib.Path(workdir) / TWIN))
  for each, place in todo:  # all that can be wrong is said before the first training step
    parts = experiment(each)
    check_budget(parts)
    suites.check(parts.config.evaluation)
    if jax.process_index() == 0:
      runlog.claim(place, parts.config)
  return [_finish(each, place, show, profile) for each, place in todo]


def dense(config: ConfigDict) -> ConfigDict:
  """The config of the dense twin: the same in all but density."""
  twin = ConfigDict(config.to_dict())
  twin.pruning.density = 1.0
  twin.dense_twin = False
  return twin


def _finish(
  config: ConfigDict,
  workdir: pathlib.Path,
  show: bool,
  profile: tuple[int, int] | None,
) -> dict[str, Any]:
  if show and jax.process_index() == 0:
    resolved = config_lib.resolve(config)  # which names what is trained, in smoke mode too
    pruned = f'{config.pruning.ratio}/{config.pruning.select} at density {config.pruning.density:g}'
    what = 'dense' if config.pruning.density == 1.0 else pruned
    say(f'{resolved.model.name} on {resolved.dataset}, {what} -> {workdir}')
  train(config, workdir, show=show, profile=profile)
  rows = results.read([workdir / results.FILE]) if (workdir / results.FILE).exists() else []
  # A row measured in another way than this config asks for is measured again.
  asked = config_lib.flat(config_lib.resolve(config))
  return rows[0] if rows and rows[0]['config'] == asked else evaluate_run(workdir, show=show)
