"""Training a pruned network: the state, the step, and the loop around it."""

import functools
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from random_pruning_jax import (
  checkpoints,
  data,
  evaluate,
  flow,
  masks,
  metrics,
  optimizers,
  parallel,
  preemption,
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


class TrainState(flax.struct.PyTreeNode):
  """All that training changes. The masks live in the optimizer state (`masks.keep_sparse`)."""

  step: chex.Array  # int32 [], steps done
  params: chex.ArrayTree
  batch_stats: chex.ArrayTree
  opt_state: optax.OptState

  @property
  def masks(self) -> masks.Masks:
    return masks.of(self.opt_state)

  @property
  def variables(self) -> dict[str, chex.ArrayTree]:
    return {'params': self.params, 'batch_stats': self.batch_stats}


def create_state(
  variables: dict, kept: masks.Masks, tx: optax.GradientTransformation
) -> TrainState:
  """The state before the first step: parameters exactly zero outside the masks."""
  params = masks.apply(variables['params'], kept)
  opt_state = masks.with_masks(tx.init(params), kept)
  return TrainState(jnp.zeros((), jnp.int32), params, variables['batch_stats'], opt_state)


def train_step(
  state: TrainState,
  batch: dict[str, chex.Array],
  *,
  model,
  tx: optax.GradientTransformation,
  label_smoothing: float = 0.0,
  axis_name: str | None = None,
) -> tuple[TrainState, dict[str, chex.Array]]:
  """One step of SGD on a batch; pure. Whether the network is sparse is known to `tx` alone.

  Inside a mapped axis, `axis_name` averages gradients, statistics and metrics over the devices.
  """

  def loss_fn(params):
    logits, updated = model.apply(
      {'params': params, 'batch_stats': state.batch_stats},
      batch['image'],
      train=True,
      mutable=['batch_stats'],
    )
    labels = jax.nn.one_hot(batch['label'], logits.shape[-1])
    labels = optax.smooth_labels(labels, label_smoothing)
    loss = optax.softmax_cross_entropy(logits, labels).mean()
    return loss, (logits, updated['batch_stats'])

  (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
  figures = {'loss': loss, 'accuracy': jnp.mean(logits.argmax(-1) == batch['label'])}
  if axis_name:
    grads, batch_stats, figures = jax.lax.pmean((grads, batch_stats, figures), axis_name)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return TrainState(state.step + 1, params, batch_stats, opt_state), figures


@functools.lru_cache(maxsize=64)
def _compiled_step(model, tx, label_smoothing, augment, on):
  """The step over resident images, for every device. Equal settings share one compilation."""

  def step(state, images, labels, key, indices, epoch):
    key = jax.random.fold_in(key, epoch)
    batch = resident.gather(images, labels, indices, key, **dict(augment))
    return train_step(
      state,
      batch,
      model=model,
      tx=tx,
      label_smoothing=label_smoothing,
      axis_name=parallel.AXIS,
    )

  return parallel.parallel(step, on, (None, None, None, None, 0, None), (None, None), donate=(0,))


class Run(NamedTuple):
  """A run about to train: its parts, data and place; `step_fn` is compiled for its devices."""

  parts: Experiment
  tx: optax.GradientTransformation
  step_fn: Callable
  images: data.Images
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
) -> TrainState:
  """Trains the config's network in `workdir`, going on from its latest checkpoint if there is one.

  Returns the last state. Raises ValueError for a config or data that cannot be and for a workdir
  that holds another config, runlog.NotFiniteError where the loss stops being a number,
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
    ):
      return _loop(run, state, record, log, progress, watch)


def _prepare(parts: Experiment, workdir: str | os.PathLike) -> Run:
  config = parts.config
  images = data.load(config.dataset, 'train', config.data_dir)
  validation = data.load(config.dataset, 'validation', config.data_dir)
  per_epoch = resident.steps_per_epoch(len(images.labels), config.batch_size)
  tx = optimizers.make(config, per_epoch)
  augment = (
    ('pad', config.augment.pad),
    ('mode', config.augment.mode),
    ('flip', config.augment.flip == 'yes'),
  )
  smoothing = config.optimizer.label_smoothing
  step_fn = _compiled_step(parts.model, tx, smoothing, augment, parts.on)
  saved = checkpoints.manager(workdir, config.checkpoint.keep)
  return Run(parts, tx, step_fn, images, validation, saved, per_epoch)


def _begin(run: Run) -> tuple[TrainState, dict[str, Any]]:
  """The latest checkpoint, or the initial state, on the devices."""
  parts = run.parts
  read = checkpoints.restore_newest(run.saved, blank_state(parts, run.tx), parts.on)
  if read is not None:
    return read
  variables = initial_variables(parts.model, keys(parts.config.seed).init, parts.spec.shape)
  kept = initial_masks(parts, variables, first_batch(parts, run.images))
  state = create_state(variables, kept, run.tx)
  parallel.check_same('the masks', masks.checksum(state.masks))
  parallel.check_same('the initial weights', checkpoints.digest(state.params))
  state = parallel.replicate(state, parts.on)
  return state, {'meter': None, 'seconds': 0.0}


def blank_state(parts: Experiment, tx: optax.GradientTransformation) -> TrainState:
  """Shapes and dtypes of the config's state, for reading a checkpoint; nothing is computed."""

  def make(variables):
    return create_state(variables, masks.ones(variables['params']), tx)

  return jax.eval_shape(make, initial_shapes(parts.model, parts.spec.shape))


def _loop(
  run: Run,
  state: TrainState,
  record: dict[str, Any],
  log: runlog.RunLog,
  progress: Progress,
  watch: preemption.Watch,
) -> TrainState:
  config, done = run.parts.config, int(state.step)
  whole = parallel.replicate((*run.images, keys(config.seed).augment), run.parts.on)
  lr = optimizers.schedule(config, run.per_epoch)
  meter = runlog.Meter(done, record['meter'])
  started = time.perf_counter() - record['seconds']
  flows = flow.FlowLog(run.parts, run.images)
  if done == 0:
    flows.measure(0, state)
  progress.figures('compiling the step')
  for step in range(done + 1, run.last_step + 1):
    state, figures = run.step_fn(state, *whole, *_inputs(run, step - 1))
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
      checkpoints.save(
        run.saved, state, {'meter': kept, 'seconds': seconds, 'validation': validation}
      )
      meter.pause()
    if stop:
      checkpoints.finish(run.saved)
      raise preemption.Preempted(f'asked to stop (SIGTERM); saved at step {step}')
  checkpoints.finish(run.saved)
  return state


def _inputs(run: Run, step: int) -> tuple[np.ndarray, np.int32]:
  """Indices [D, B / D] of a step's images and its epoch: functions of the seed and the step."""
  config = run.parts.config
  indices = resident.batch_indices(config.seed, step, len(run.images.labels), config.batch_size)
  return parallel.split(indices, run.parts.on), np.int32(step // run.per_epoch)


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
