"""What a run writes and says as it trains: lines of its log, validation, checkpoints."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from random_pruning_jax import checkpoints, evaluate, flow, optimizers, parallel, runlog
from random_pruning_jax.progress import Progress
from random_pruning_jax.step import TrainState
from random_pruning_jax.suites.calibration import metrics_of
from random_pruning_jax.training.meter import Meter
from random_pruning_jax.training.prepared import Run


class Recorder:
  """Records one run: lines of the log, validation, checkpoints, without holding up the devices.

  While the devices work on one call, `write_due` does what the call before made due:

      call 8 dispatched | write_due: lines of 7; its validation begins   | call_ended: 8
      call 9 dispatched | write_due: 7 is validated and saved; lines of 8 | call_ended: 9

  A thread fetches, checks and writes a checkpoint (`checkpoints.save`).
  """

  def __init__(
    self,
    run: Run,
    state: TrainState,
    record: dict[str, Any],
    log: runlog.RunLog,
    progress: Progress,
  ):
    self._run, self._log, self._progress = run, log, progress
    self.step = int(state.step)
    self._meter = Meter(self.step, record['meter'])
    self._started = time.perf_counter() - record['seconds']
    self._compile_seconds = record['compile_seconds']
    self._called: set[str] = set()
    self._rates = optimizers.learning_rates(run.experiment.config, run.per_epoch)
    self._flows = flow.FlowLog(run.experiment, run.feed.images)
    self._kept: TrainState | None = None  # to be validated and saved
    self._unfinished: Callable[[], None] | None = None  # waits for validation, and saves
    self._written = True
    if self.step == 0:
      self._measure_flow(0, state)

  def waiting(self) -> contextlib.AbstractContextManager:
    """Context around the wait for the images of a call."""
    return self._meter.waiting()

  @contextlib.contextmanager
  def compiling(self, program: str) -> Iterator[None]:
    """Context around a call of a program. The first call compiles it: its time is recorded, and
    left out of the speed."""
    began = time.perf_counter()
    yield
    if program not in self._called:
      self._called.add(program)
      self._compile_seconds += time.perf_counter() - began
      self._meter.restart_clock()

  def call_ended(
    self, step: int, copy: Callable[[], TrainState], training: dict[str, Any], save: bool = False
  ) -> None:
    """Takes the loss and accuracy of a call that ended at `step`, and a function to copy the state.

    The state is saved if that is due, or with `save`.
    """
    save = save or any(self._due(step))
    state = None
    if save or self._flows.due(step):
      self.flush()  # else two copies may be held
      state = copy()  # the state itself is donated to the next call
    self._meter.add(training)
    self._measure_flow(step, state)
    self._progress.advance(step - self.step)
    self.step, self._written = step, False
    if save:
      self._kept = state

  def write_due(self) -> None:
    """Does what the end of the last call made due, once; `flush` does the rest.

    Raises runlog.NotFiniteError and checkpoints.NotWrittenError.
    """
    self.flush()
    if self._written:
      return
    self._written = True
    for when, numbers in self._flows.take():  # of the call before, so an interruption moves no line
      self._log.write('gradient', when, numbers)
    if self.step % self._run.experiment.config.log_every == 0:
      self._log_mean()
    epoch = {}
    if self.step % self._run.per_epoch == 0:
      epoch = self._meter.epoch_mean()
      self._log.write('epoch', self.step, epoch)
    if self._kept is not None:
      self._begin_to_save(self._kept, epoch)
      self._kept = None

  def flush(self) -> None:
    """Waits for a validation that `write_due` began, writes what it found, and saves."""
    if self._unfinished is not None:
      save, self._unfinished = self._unfinished, None
      save()

  def finish(self) -> None:
    """Does all that is due, and returns when it is written. Raises what `write_due` does."""
    self.write_due()
    self.flush()
    checkpoints.finish(self._run.saved)

  def _measure_flow(self, step: int, state: TrainState | None) -> None:
    if self._flows.due(step):
      with self.compiling('gradient flow'):
        self._flows.measure(step, state)

  def _due(self, step: int) -> tuple[bool, bool]:
    """Whether to validate and save after `step` steps, and whether to save in any case."""
    config, (epochs, rest) = self._run.experiment.config, divmod(step, self._run.per_epoch)
    at_end = epochs % config.checkpoint.every_epochs == 0 or epochs == config.epochs
    every = config.checkpoint.every_steps
    return rest == 0 and at_end, bool(every and step % every == 0)

  def _log_mean(self) -> None:
    mean = self._meter.mean()
    speed = mean.pop('steps_per_second') * self._run.experiment.config.batch_size
    # Unknown right after the first validation: the only call since then ran beside it, untimed.
    known = {'images_per_second': speed} if speed else {}
    lr = float(self._rates[self.step - 1])
    self._log.write('train', self.step, mean | {'lr': lr} | known)
    said = f', {speed:,.0f} images/s' if known else ''
    self._progress.status(f'loss {mean["loss"]:.3f}, accuracy {mean["accuracy"]:.1%}{said}')

  def _begin_to_save(self, state: TrainState, epoch: dict[str, float]) -> None:
    meter = self._meter.snapshot()  # first, because it refuses a loss that is no number
    validate, _ = self._due(self.step)
    step, logits = self.step, None
    if validate:
      experiment = self._run.experiment
      size = experiment.config.evaluation.batch_size
      network = evaluate.Trained(experiment.model, state.variables, size, experiment.on)
      with self.compiling('validation'), self._meter.untimed_with_next():
        logits = evaluate.begin_to_predict(network, self._run.validation.images)

    def save() -> None:
      validation = None
      if validate:
        with self._meter.untimed():
          validation = self._validated(step, logits(), epoch)
      self._log.sync()
      record = {
        'meter': meter,
        'validation': validation,
        'seconds': time.perf_counter() - self._started,
        'compile_seconds': self._compile_seconds,
        'data': self._run.facts,
        'per_epoch': self._run.per_epoch,
        'devices': len(self._run.experiment.on),
        'peak_bytes': parallel.peak_bytes(),
      }
      checkpoints.save(self._run.saved, state, record)

    self._unfinished = save
    if not validate:
      self.flush()

  def _validated(
    self, step: int, logits: np.ndarray, trained: dict[str, float]
  ) -> dict[str, float]:
    """Accuracy and NLL on the validation images, written to the log and told to the person."""
    run, labels = self._run, self._run.validation.labels
    validation = metrics_of(logits, labels, ('accuracy', 'nll'))
    self._log.write('validation', step, validation)
    self._progress.line(
      f'epoch {step // run.per_epoch:>3}/{run.experiment.config.epochs}  step {step}  '
      f'loss {trained["loss"]:.4f}  accuracy {trained["accuracy"]:.2%}  '
      f'validation accuracy {validation["accuracy"]:.2%}'
    )
    return validation
