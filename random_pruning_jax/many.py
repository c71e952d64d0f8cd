"""Many networks in one program: runs that differ in masks, seed and rates alone train together.

Each is computed as it is alone, to rounding, from its own images in its own order, and keeps its
own log and checkpoints: a run that was begun here goes on in `train.train`, and the other way
round. A network whose loss is no longer a number stands still, and the others do not notice.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from random_pruning_jax import config as config_lib
from random_pruning_jax import feed, parallel
from random_pruning_jax.experiment import build
from random_pruning_jax.progress import Progress
from random_pruning_jax.step import TrainState
from random_pruning_jax.system import preemption, processor
from random_pruning_jax.training import stacked
from random_pruning_jax.training.groups import Apart, Group, Member, calls_of

# Fields, or beginnings of fields, in which networks that train together may differ.
FREE = ('seed', 'pruning.', 'optimizer.lr', 'optimizer.weight_decay', 'evaluation.', 'data_workers')


def train_many(
  configs: Sequence[ConfigDict],
  workdirs: Sequence[str | os.PathLike],
  *,
  on: tuple[jax.Device, ...] | None = None,
  way: str = '',
  apart: bool | None = None,
  show: bool = True,
) -> list[TrainState | Exception]:
  """Trains the networks of several configs at once; each goes on from its own latest checkpoint.

  `way` is one of `stacked.WAYS`; '' is 'vmap' on GPU and TPU, and 'turn' on a CPU. With `apart`,
  each device has some of the networks instead of a part of each batch, which is faster if a network
  needs no more than one device (default: on CPUs, if that changes no number).

  Returns for each network its last state, or the error of `train.train` that ended it, which stops
  no other. Raises ValueError for streamed images, for more or fewer workdirs than configs, and for
  fields in which configs must not differ but do, which it names; and preemption.Preempted after
  SIGTERM, once all are saved.
  """
  if len(workdirs) != len(configs):
    raise ValueError(f'each of {len(configs)} networks must have a workdir, got {len(workdirs)}.')
  on = parallel.devices() if on is None else on
  apart = all(_by_itself(config, on) for config in configs) if apart is None else apart
  if apart and jax.process_count() > 1:
    raise ValueError('apart must be False on several hosts.')
  apart = apart and len(on) > 1
  # With `apart`, one device does all the work on a network other than its steps.
  experiments = [build(config, on[:1] if apart else on) for config in configs]
  check_alike([experiment.config for experiment in experiments])
  if feed.loading_of(experiments[0].config) != 'resident':
    raise ValueError("data_loading must be 'resident' where networks train together.")
  places = distinct(workdirs)
  way = config_lib.choice('way', way or stacked.default_way(on), stacked.WAYS)
  members = [
    Member(experiment, place) for experiment, place in zip(experiments, places, strict=True)
  ]
  with contextlib.ExitStack() as stack:
    for member in members:
      stack.push(member.close)
      with member.guarded():
        member.open()
    if going := [member for member in members if member.outcome is None]:
      a_turn = len(on) if apart else 1  # one on each device, or on all of them
      size = a_turn if way == 'turn' else len(going)
      make = Apart if apart else Group
      spans, shared = calls_of(going), parallel.replicate(going[0].run.feed.shared(), on)
      cuts = range(0, len(going), size)
      groups = [make(going[i : i + size], spans, shared, on, way) for i in cuts]
      _loop(going, groups, spans, show)
  return [member.outcome for member in members]


def distinct(workdirs: Sequence[str | os.PathLike]) -> list[str]:
  """Their absolute paths. Raises ValueError where two are the same."""
  places = [os.path.realpath(workdir) for workdir in workdirs]
  if len(set(places)) != len(places):
    raise ValueError(f'each of {len(places)} networks must have its own workdir, got {places}.')
  return places


def key(config: ConfigDict) -> str:
  """Equal for configs whose networks can train together."""
  return json.dumps(_common(config), sort_keys=True)


def check_alike(configs: Sequence[ConfigDict]) -> None:
  """Raises ValueError naming the fields that differ, of those that must not."""
  if not configs:
    raise ValueError('there must be at least one network to train, got none.')
  first, *others = [_common(config) for config in configs]
  for number, other in enumerate(others, 1):
    differ = [
      f'{name} is {first.get(name)!r} and {other.get(name)!r}'
      for name in sorted(first.keys() | other.keys())
      if first.get(name) != other.get(name)
    ]
    if differ:
      raise ValueError(
        f'networks that train together may differ in {", ".join(FREE)} alone; of configs 0 and '
        f'{number} {"; ".join(differ)}.'
      )


def _by_itself(config: ConfigDict, on: Sequence[jax.Device]) -> bool:
  """Whether this is a CPU and one device gives what several give, to rounding."""
  whole = config.model.sync_batch_norm and config.optimizer.accumulate == 1
  return on[0].platform == 'cpu' and jax.process_count() == 1 and whole


def _common(config: ConfigDict) -> dict[str, Any]:
  return {k: v for k, v in config_lib.flat(config).items() if not k.startswith(FREE)}


def _loop(members: list[Member], groups: list[Group], spans: list, show: bool) -> None:
  """Runs to the last step; a network that is ahead stands still until the others catch up."""
  run, steps = members[0].run, [member.recorder.step for member in members]
  show, stop = show and jax.process_index() == 0, False
  with Progress(run.last_step, done=min(steps), show=show) as bar, preemption.Watch() as watch:
    bar.status(f'{len(members)} networks')
    for number, (start, end) in enumerate(spans, 1):
      for group in groups:
        group.call(start)
      processor.give_back(number)
      stop = watch.asked()
      for group in groups:
        group.tell(end, save=stop)
      bar.advance(end - start)
      if stop or all(member.outcome is not None for member in members):
        break
    for group in groups:
      group.finish()
    stop = stop or watch.asked()  # it may have come during the last validations and saves
  if stop:
    lost = [member for member in members if isinstance(member.outcome, Exception)]
    said = f'saved {len(members) - len(lost)} of {len(members)} networks at step {end}'
    said += ''.join(f'; {member.workdir}: {member.outcome}' for member in lost)
    raise preemption.Preempted(f'{preemption.ASKED}; {said}')
