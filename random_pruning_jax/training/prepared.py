"""A run about to train: its parts, its data, and the workdir that is its own."""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from random_pruning_jax import checkpoints, data, feed, optimizers, runlog, together
from random_pruning_jax.data import order
from random_pruning_jax.experiment import Experiment, keys
from random_pruning_jax.training import calls
from random_pruning_jax.training.program import Own, step_of

PIXELS = 'checksum of training pixels'  # of images that were decoded


class Run(NamedTuple):
  """What a run trains, on what, and where."""

  experiment: Experiment
  feed: feed.Feed
  validation: data.Images
  saved: checkpoints.Manager | None  # in its workdir
  per_epoch: int  # steps
  facts: dict[str, Any]  # of its data: `data_of`, and checksums of its training images

  @property
  def last_step(self) -> int:
    return self.experiment.config.epochs * self.per_epoch

  @property
  def own(self) -> Own:
    config = self.experiment.config
    return Own(keys(config.seed).augment, optimizers.rates(config))

  @property
  def step(self) -> Callable:
    """(state, shared, own, inputs) -> state and metrics; equal settings give the same function."""
    return step_of(self.experiment, self.per_epoch, self.feed.gather)

  def calls(self, done: int, at: tuple[int, ...] = ()) -> Iterator[tuple[int, int]]:
    """Steps done before and after each call of the compiled program, to the end of the run."""
    periods = calls.periods_of(self.experiment.config, self.per_epoch)
    return calls.spans(done, self.last_step, self.steps_per_call, periods, at)

  @property
  def steps_per_call(self) -> int:
    loop = self.feed.loading == 'resident' and self.experiment.on[0].platform != 'cpu'
    periods = calls.periods_of(self.experiment.config, self.per_epoch)
    return self.experiment.config.steps_per_call or (calls.fewest(periods) if loop else 1)


def claim(experiment: Experiment, workdir: str | os.PathLike) -> None:
  """Claims the workdir for this config, once all processes agree on it, or fails on all."""
  together.check_same('the config', experiment.config.to_json())
  with together.failing_together():
    if jax.process_index() == 0:
      runlog.claim(workdir, experiment.config)
  together.check_shared('the workdir', workdir)


def check_claim(experiment: Experiment, workdir: str | os.PathLike) -> None:
  """Raises ValueError, on all processes, where `claim` would; writes nothing."""
  with together.failing_together():
    if jax.process_index() == 0:
      runlog.check_claim(workdir, experiment.config)


def open_run(experiment: Experiment, workdir: str | os.PathLike = '') -> Run:
  """Reads the images of a run and checks that all processes have the same, or fails on all.

  It does not look at the checkpoints in its workdir, if it has one yet.
  """
  config = experiment.config
  with together.failing_together():
    fed, held_out = feed.feed(experiment), feed.held_out(experiment)
    sums = feed.checksums(fed.images)
  together.check_same('the training images', f'{sums}')
  feed.check_same('the validation images', held_out)
  per_epoch = order.steps_per_epoch(len(fed.images.labels), config.batch_size)
  saved = checkpoints.Manager(workdir, config.checkpoint.keep) if workdir else None
  facts = data_of(experiment) | {
    f'checksum of training {name}': each for name, each in sums.items()
  }
  return Run(experiment, fed, held_out, saved, per_epoch, facts)


def data_of(experiment: Experiment) -> dict[str, Any]:
  """What a network is told of its data set, to be kept in checkpoints: {name: value for JSON}."""
  spec = experiment.spec
  facts = {'number of classes': spec.num_classes, 'shape of an image': list(spec.shape)}
  facts |= {f'class {number}': name for number, name in enumerate(spec.class_names)}
  return facts | {'mean': list(spec.mean), 'standard deviation': list(spec.std)}


def _alike(before: Any, now: Any) -> bool:
  if isinstance(now, list):  # measured on decoded images: equal to a quarter of a grey level
    return len(before) == len(now) and bool(np.allclose(before, now, 0, 1e-3))
  return before == now


def check_data(experiment: Experiment, record: dict[str, Any], here: dict[str, Any]) -> None:
  """Raises ValueError where the data `here` are not those of a checkpoint's record.

  What the record lacks, as older ones may, is not compared. Pixels may differ, as decoders do.
  """
  config, before = experiment.config, record.get('data', {})
  for name, now in here.items():
    if name != PIXELS and not _alike(before.get(name, now), now):
      raise ValueError(
        f'{config.dataset} at data_dir {config.data_dir!r} is not the data set that the run was '
        f'trained on: its {name} was {before[name]!r}, and is {now!r}.'
      )
