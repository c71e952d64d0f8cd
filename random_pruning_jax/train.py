"""Training a pruned network: the loop around the step (`step.py`), and what it begins from."""

import functools
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from random_pruning_jax import (
  checkpoints,
  data,
  evaluate,
  feed,
  flow,
  masks,
  metrics,
  optimizers,
  parallel,
  preemption,
  profiling,
  runlog,
)
from random_pruning_jax.data import resident
from random_pruning_jax.experiment import (
  Experiment,
  experiment,
  first_batch,
  initial_masks,
  initial_shapes,
  initial_variables,
  keys,
)
from random_pruning_jax.progress import Progress
from random_pruning_jax.step import TrainState, create_state, train_step


@functools.lru_cache(maxsize=64)
def _compiled_step(model, tx, options, gather, axes, on):
  """The step from what a feed gives, for every device. Equal settings share one compilation."""

  def step(state, *inputs):
    batch = gather(*inputs)
    return train_step(state, batch, model=model, tx=tx, axis_name=parallel.AXIS, **dict(options))

  return parallel.parallel(step, on, (None, *axes), (None, None), donate=(0,))


class Run(NamedTuple):
  """A run about to train: its parts, data and place; `step_fn` is compiled for its devices."""

  parts: Experiment
  tx: optax.GradientTransformation
  step_fn: Callable
  feed: feed.Feed
  validation: data.Images
  saved: ocp.CheckpointManager
  per_epoch: int  # steps

  @property
  def last_step(self) -> int:
    return self.parts.config.epochs * self.per_epoch


def train(
  config: ConfigDict,
  workdir: str | os.PathLike,
  *,
  on: tuple[jax.Device, ...] | None = None,
  show: bool = True,
  profile: tuple[int, int] | None = None,
) -> TrainState:
  """Trains the config's network in `workdir`, going on from its latest checkpoint if there is one.

  `profile` names the first and last step of a trace. Returns the last state. Raises ValueError for
  a config or data that cannot be and for a workdir that holds another config,
  runlog.NotFiniteError where the loss stops being a number,
  checkpoints.NotWrittenError for a full disk, and preemption.Preempted after SIGTERM, once saved.
  """
  parts = experiment(config, on)
  first = jax.process_index() == 0
  if first:
    runlog.claim(workdir, parts.config)
  parallel.check_same('the config', parts.config.to_json())  # and process 0 has claimed the place
  run = _prepare(parts, workdir)
  with run.saved:
    state, record = _begin(run)
    done = int(state.step)
    if done == run.last_step:
      return state
    with (
      runlog.RunLog(workdir, done, write=first) as log,
      Progress(run.last_step, done=done, show=show and first) as progress,
      preemption.Watch() as watch,
      profiling.Trace(workdir, profile) as trace,
    ):
      return _loop(run, state, record, log, progress, watch, trace)


def _prepare(parts: Experiment, workdir: str | os.PathLike) -> Run:
  config = parts.config
  fed = feed.feed(parts)
  per_epoch = resident.steps_per_epoch(len(fed.images.labels), config.batch_size)
  tx = optimizers.make(config, per_epoch)
  names = ('label_smoothing', 'accumulate', 'average_decay')
  options = tuple((name, config.optimizer[name]) for name in names)
  step_fn = _compiled_step(parts.model, tx, options, fed.gather, fed.axes, parts.on)
  saved = checkpoints.manager(workdir, config.checkpoint.keep)
  return Run(parts, tx, step_fn, fed, feed.held_out(parts), saved, per_epoch)


def _begin(run: Run) -> tuple[TrainState, dict[str, Any]]:
  """The latest checkpoint, or the initial state, on the devices."""
  parts = run.parts
  read = checkpoints.restore_newest(run.saved, blank_state(parts, run.tx), parts.on)
  if read is not None:
    return read
  variables = initial_variables(parts.model, keys(parts.config.seed).init, parts.spec.shape)
  kept = initial_masks(parts, variables, first_batch(parts, run.feed.images))
  state = create_state(variables, kept, run.tx, parts.config.optimizer.average_decay > 0)
  parallel.check_same('the masks', masks.checksum(state.masks))
  parallel.check_same('the initial weights', checkpoints.digest(state.params))
  state = parallel.replicate(state, parts.on)
  return state, {'meter': None, 'seconds': 0.0}


def blank_state(parts: Experiment, tx: optax.GradientTransformation) -> TrainState:
  """Shapes and dtypes of the config's state, for reading a checkpoint; nothing is computed."""

  def make(variables):
    average = parts.config.optimizer.average_decay > 0
    return create_state(variables, masks.ones(variables['params']), tx, average)

  return jax.eval_shape(make, initial_shapes(parts.model, parts.spec.shape))


def _loop(
  run: Run,
  state: TrainState,
  record: dict[str, Any],
  log: runlog.RunLog,
  progress: Progress,
  watch: preemption.Watch,
  trace: profiling.Trace,
) -> TrainState:
  config, done = run.parts.config, int(state.step)
  inputs = run.feed.stream(done, run.last_step)
  lr = optimizers.schedule(config, run.per_epoch)
  meter = runlog.Meter(done, record['meter'])
  started = time.perf_counter() - record['seconds']
  flows = flow.FlowLog(run.parts, run.feed.images)
  if done == 0:
    flows.measure(0, state)
  progress.figures('compiling the step')
  for step in range(done + 1, run.last_step + 1):
    with meter.waiting():
      batch = next(inputs)
    trace.before(step)
    state, figures = run.step_fn(state, *batch)
    trace.after(step, figures)
    meter.add(figures)
    flows.measure(step, state)
    progress.advance()
    if step % config.log_every == 0:
      mean = meter.mean()
      speed = mean.pop('steps_per_second') * config.batch_size
      log.write('train', step, mean | {'lr': float(lr(step - 1)), 'images_per_second': speed})
      progress.figures(
        f'loss {mean["loss"]:.3f}, accuracy {mean["accuracy"]:.1%}, {speed:,.0f} images/s'
      )
    if step % run.per_epoch == 0:
      epoch = meter.epoch_mean()
      log.write('epoch', step, epoch)
    validate, save = _due(config, step, run)
    stop = watch.asked(step)
    save = save or stop
    if save or step % config.log_every == 0:
      for when, numbers in flows.take():
        log.write('gradient', when, numbers)
    if save:
      kept = meter.record()  # first, because it refuses a loss that is no number
      validation = _validate(run, state, step, epoch, log, progress) if validate else None
      seconds = time.perf_counter() - started
      record = {'meter': kept, 'seconds': seconds, 'validation': validation}
      checkpoints.save(run.saved, state, record | {'peak_bytes': parallel.peak_bytes()})
      meter.pause()
    if stop:
      checkpoints.finish(run.saved)
      raise preemption.Preempted(f'asked to stop (SIGTERM); saved at step {step}')
  checkpoints.finish(run.saved)
  return state


def _due(config: ConfigDict, step: int, run: Run) -> tuple[bool, bool]:
  """Whether to validate, and whether to save, after `step` steps."""
  epochs, rest = divmod(step, run.per_epoch)
  validate = rest == 0 and (epochs % config.checkpoint.every_epochs == 0 or epochs == config.epochs)
  every = config.checkpoint.every_steps
  return validate, validate or bool(every and step % every == 0)


def _validate(
  run: Run,
  state: TrainState,
  step: int,
  trained: dict[str, float],
  log: runlog.RunLog,
  progress: Progress,
) -> dict[str, float]:
  """Accuracy and NLL on the validation images, written to the log and told to the person."""
  config = run.parts.config
  logits = evaluate.predict(
    run.parts.model,
    state.variables,
    run.validation.images,
    batch_size=config.evaluation.batch_size,
    on=run.parts.on,
  )
  figures = {
    'accuracy': float(metrics.accuracy(logits, run.validation.labels)),
    'nll': float(metrics.nll(logits, run.validation.labels)),
  }
  log.write('validation', step, figures)
  progress.line(
    f'epoch {step // run.per_epoch:>3}/{config.epochs}  step {step}  '
    f'loss {trained["loss"]:.4f}  accuracy {trained["accuracy"]:.2%}  '
    f'validation accuracy {figures["accuracy"]:.2%}'
  )
  return figures
