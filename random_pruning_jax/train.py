"""Training a pruned network: its first program compiled ahead, and the loop around the step."""

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from random_pruning_jax import checkpoints, feed, kernels, parallel, runlog, together
from random_pruning_jax.experiment import build
from random_pruning_jax.progress import Progress, say
from random_pruning_jax.step import TrainState
from random_pruning_jax.system import preemption, processor
from random_pruning_jax.training import profiling
from random_pruning_jax.training.beginning import abstract_state, compile_ahead, restore_or_init
from random_pruning_jax.training.prepared import Run, claim, open_run
from random_pruning_jax.training.program import ahead, compiled
from random_pruning_jax.training.recorder import Recorder


def train(
  config: ConfigDict,
  workdir: str | os.PathLike,
  *,
  on: tuple[jax.Device, ...] | None = None,
  show: bool = True,
  profile: tuple[int, int] | None = None,
) -> TrainState:
  """Trains the config's network in `workdir`, going on from its latest checkpoint if there is one.

  `profile` names the first and last step of a trace. Returns the last state. Raises

  - ValueError for an invalid config or data, and for a workdir that holds another config;
  - runlog.NotFiniteError if the loss, or a weight to be saved, stops being a number;
  - checkpoints.NotWrittenError for a full disk;
  - preemption.Preempted after SIGTERM, once the state is saved.
  """
  with together.failing_together():
    experiment = build(config, on)
  first = jax.process_index() == 0
  claim(experiment, workdir)
  run = open_run(experiment, workdir)
  at = (profile[0] - 1, profile[1]) if profile else ()
  with checkpoints.closing(run.saved):
    with Progress(run.last_step, show=show and first) as progress:
      progress.status('compiling')
      wait_for_init, wait_for_step = _begin_to_compile(run, at)
      wait_for_init()
    state, record = restore_or_init(run)
    done = int(state.step)
    if first and profile and (profile[1] <= done or run.last_step < profile[0]):
      say(f'nothing is traced: of {run.last_step} steps, {done} are done.')
    if done == run.last_step:
      return state
    with (
      runlog.RunLog(workdir, done, write=first) as log,
      Progress(run.last_step, done=done, show=show and first) as progress,
      profiling.Trace(workdir, profile) as trace,
    ):
      progress.status('compiling the step')
      recorder = Recorder(run, state, record, log, progress)
      with recorder.compiling('the step, ahead'):
        wait_for_step()
        kernels.wait(progress.status)
      with preemption.Watch() as watch:  # from here on there is something to save
        return _loop(run, state, recorder, watch, trace, at)


def _begin_to_compile(run: Run, at: tuple[int, ...]) -> tuple[Callable[[], Any], Callable[[], Any]]:
  """Begins to compile what `restore_or_init` runs, and the program of the first call.

  Compiling needs shapes alone. So each program is compiled, or read from the cache, while the next
  one is traced, and the step's while weights are drawn. Returns `wait_for_init`, which waits for
  nothing if there is a checkpoint, and `wait_for_step`. Neither waits if no step is left, or if
  there are several processes.
  """
  experiment, on, steps = run.experiment, run.experiment.on, run.saved.all_steps()
  start, end = next(run.calls(max(steps, default=0), at), (0, 0))
  if start == end or jax.process_count() > 1:  # with several, `lower` takes arrays, not shapes
    return (lambda: None,) * 2
  shared, own = jax.eval_shape(lambda: (run.feed.shared(), run.own))
  given = parallel.abstract_replicated((abstract_state(experiment), shared, own), on)
  inputs = feed.shapes(experiment, run.feed.loading, end - start)
  call = compiled(run.step, run.feed.axes, on)
  step = ahead(call, *given, *inputs)  # first, as it takes longest
  return (lambda: None) if steps else compile_ahead(experiment), step


def _loop(
  run: Run,
  state: TrainState,
  recorder: Recorder,
  watch: preemption.Watch,
  trace: profiling.Trace,
  at: tuple[int, ...],
) -> TrainState:
  call = compiled(run.step, run.feed.axes, run.experiment.on)
  shared, own = run.feed.shared(), parallel.replicate(run.own, run.experiment.on)
  stop = False
  with contextlib.closing(run.feed.stream(run.calls(recorder.step, at))) as inputs:
    for number, (start, end) in enumerate(run.calls(recorder.step, at), 1):
      with recorder.waiting():
        batches = next(inputs)
      trace.before(start + 1)
      with recorder.compiling(f'{end - start} steps'):
        state, metrics = call(state, shared, own, *batches)
      processor.give_back(number)
      trace.after(end, metrics)
      recorder.write_due()  # what was due before this call, while the devices take it
      stop = watch.asked()
      recorder.call_ended(end, functools.partial(parallel.copy, state), metrics, save=stop)
      if stop:
        break
    recorder.finish()  # first: closing the feed may take as long as a scheduler waits
  if stop or watch.asked():  # it may have come during the last validation and save
    raise preemption.Preempted(f'{preemption.ASKED}; saved at step {recorder.step}')
  return state
