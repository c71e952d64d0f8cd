"""What jobs will cost: parameters, FLOPs and time, before and while they run."""

import math
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from random_pruning_jax import cost, masks, optimizers, parallel, plan, runlog, tables
from random_pruning_jax.data import order
from random_pruning_jax.experiment import Experiment, check_budget, initial_variables, keys
from random_pruning_jax.ratios import of_shapes
from random_pruning_jax.sweep import agenda
from random_pruning_jax.sweep.agenda import Job
from random_pruning_jax.sweep.images import trained_on
from random_pruning_jax.training.beginning import creator
from random_pruning_jax.training.program import Own, step_of

_PATIENCE = 20.0  # seconds of measuring steps; what is left is scaled from what was measured


class Cost(NamedTuple):
  """Cost of a job; None where it depends on the weights (scores) or on data that are not here."""

  parameters: int
  kept: int | None  # weights
  steps: int | None
  dense_flops: float | None  # of training the dense network; what the masked step really computes
  flops: float | None  # of training, if only kept weights were multiplied
  infeasible: str  # why the network cannot spend the budget; '' where it can


def costs(jobs: Sequence[Job], experiments: dict[str, Experiment]) -> list[Cost | None]:
  """The cost of each job, None for one that cannot be."""
  return [None if job.error else _cost(job, experiments[job.group]) for job in jobs]


def _cost(job: Job, experiment: Experiment) -> Cost:
  config, structure = job.config, experiment.structure
  layers = structure.layers
  images = trained_on(config.dataset, config.data_dir, experiment.spec)
  steps = samples = None
  if images:
    steps = config.epochs * order.steps_per_epoch(images, config.batch_size)
    samples = steps * config.batch_size
  dense = cost.training_flops(layers, samples) if samples else None
  bad = ''
  try:
    check_budget(experiment._replace(config=config))
  except ValueError as error:
    bad = str(error)
  kept, flops = masks.kept_count(config.pruning.density, sum(x.size for x in layers)), None
  if of_shapes(config.pruning.ratio, config.pruning.density) and not bad:
    densities = plan.densities(config, structure)
    kept = cost.kept(layers, densities)
    flops = cost.training_flops(layers, samples, densities) if samples else None
  return Cost(structure.parameters, None if bad else kept, steps, dense, flops, bad)


def seconds_per_step(jobs: Sequence[Job], experiments: dict[str, Experiment]) -> dict[str, float]:
  """Seconds of a training step of each group, measured on blank images, smallest network first.

  The first group is always measured, however long it compiles; measuring ends `_PATIENCE` seconds
  later. Groups that are left get the time of the largest network measured, times the ratio of their
  multiply-adds.
  """
  work = {
    job.group: cost.macs(experiments[job.group].structure.layers) * job.config.batch_size
    for job in jobs
    if not job.error
  }
  seconds: dict[str, float] = {}
  last, end = '', math.inf
  for name in sorted(work, key=work.__getitem__):
    if time.perf_counter() < end:
      seconds[name], last = _measure(experiments[name]), name
      end = min(end, time.perf_counter() + _PATIENCE)
    else:
      seconds[name] = seconds[last] * work[name] / work[last]
  return seconds


def _measure(experiment: Experiment) -> float:
  config, on = experiment.config, experiment.on
  own = Own(keys(0).augment, optimizers.rates(config))
  variables = initial_variables(experiment.model, keys(0).init, experiment.spec.shape)
  state = creator(config)(variables, masks.ones(variables['params']), own.rates)
  state, own = parallel.replicate((state, own), on)
  images = np.full((config.batch_size, *experiment.spec.shape), 0.5, np.float32)
  labels = np.zeros(config.batch_size, np.int32)
  batch = {'image': parallel.split(images, on), 'label': parallel.split(labels, on)}
  step = step_of(experiment, 100, lambda shared, key, batch: batch)
  compiled = parallel.parallel(step, on, (None, None, None, 0), (None, None))
  state, _ = jax.block_until_ready(compiled(state, (), own, (batch,)))
  times = []
  for _ in range(3):
    began = time.perf_counter()
    state, _ = jax.block_until_ready(compiled(state, (), own, (batch,)))
    times.append(time.perf_counter() - began)
  return min(times)  # other work on this machine makes some of them longer


def share_trained(directory: pathlib.Path, steps: int | None) -> float:
  """How much of its steps a run has trained, in [0, 1], by the last line of its log."""
  lines = runlog.read_log(directory)
  return min(1.0, lines[-1]['step'] / steps) if lines and steps else 0.0


def duration(seconds: float) -> str:
  """42 s, 7 min, 3.4 h, 12.0 days."""
  for size, unit, digits in ((86_400, 'days', 1), (3_600, 'h', 1), (60, 'min', 0)):
    if seconds >= 1.5 * size or (unit == 'h' and seconds >= size):
      return f'{seconds / size:.{digits}f} {unit}'
  return f'{math.ceil(seconds)} s'


def table(
  jobs: Sequence[Job],
  experiments: dict[str, Experiment],
  directory: pathlib.Path,
  workers: int,
  retry: bool = False,
) -> str:
  """Every run with its state and cost, and the time that all runs still to do will take.

  With `retry`, failed runs are to do too.
  """
  over = ('done',) if retry else agenda.OVER
  every = costs(jobs, experiments)
  step = seconds_per_step(jobs, experiments)
  head = ['run', 'state', 'parameters', 'kept', 'steps', 'FLOPs, dense', 'FLOPs, kept', 'time']
  lines = [head]
  left = 0.0
  for job, each in zip(jobs, every, strict=True):
    state = agenda.state(directory / job.tag)
    if each is None or each.infeasible:
      lines.append([job.tag, 'invalid' if each is None else 'infeasible'])
      continue
    seconds = each.steps * step[job.group] if each.steps else None
    if seconds and state not in over:
      left += (1 - share_trained(directory / job.tag, each.steps)) * seconds
    lines.append(
      [
        job.tag,
        state,
        f'{each.parameters:,}',
        f'{each.kept:,}',
        f'{each.steps:,}' if each.steps else '-',
        _flops(each.dense_flops),
        _flops(each.flops),
        duration(seconds) if seconds else '-',
      ]
    )
  return '\n'.join([tables.text(lines), '', *_notes(jobs, every, step, left, workers)])


def _notes(
  jobs: Sequence[Job],
  every: Sequence[Cost | None],
  step: dict[str, float],
  left: float,
  workers: int,
) -> list[str]:
  known = [each for each in every if each and not each.infeasible]
  dense = sum(each.dense_flops or 0.0 for each in known)
  kept = sum(each.flops or 0.0 for each in known)
  names = {job.group: agenda.network(job.config) for job in jobs}
  steps = ', '.join(f'{names[group]} {1e3 * s:.3g} ms' for group, s in step.items())
  wrong = [
    f'{job.tag}: {job.error or each.infeasible}'
    for job, each in zip(jobs, every, strict=True)
    if job.error or each.infeasible
  ]
  unknown = sum(each.flops is None for each in known)
  return [
    f'{len(known)} runs'
    + (f' (besides {len(wrong)} that cannot be)' if wrong else '')
    + f': {_flops(dense)} FLOPs of training as masked networks compute it (dense), '
    f'{_flops(kept)} if kept weights alone were multiplied'
    + (f' (without {unknown} runs whose ratio is a score).' if unknown else '.'),
    'A training step is three forward passes (Evci et al., 2020); BatchNorm is not counted.',
    f'A step of one network on this machine: {steps}.',
    # Without GPUs, workers divide the cores, all of which the measured step had to itself.
    f'What is not done takes about {duration(left / (1 if _on_cpu() else workers))} here'
    + (f' with {workers} workers' if workers > 1 else '')
    + ', besides compilation, data and evaluation'
    + ('.' if _on_cpu() else '; less where networks train together.'),
    *wrong,
  ]


def _on_cpu() -> bool:
  return parallel.devices()[0].platform == 'cpu'


def _flops(value: float | None) -> str:
  return f'{value:.2e}' if value else '-'
