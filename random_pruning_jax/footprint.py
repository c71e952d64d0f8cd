"""What a config's training step needs of a chip, as XLA's compiler says, before anything trains.

The step is compiled as training would call it and never run, so that the chips need not be here
(`chips.py`), nor, where images are streamed, a data set that is known by name (`data.SPECS`).
"""

import dataclasses
import re
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from random_pruning_jax import cost, data, feed, optimizers, parallel, tables
from random_pruning_jax.chips import Chip
from random_pruning_jax.data import order, streamed
from random_pruning_jax.experiment import Experiment, build, check_budget, keys
from random_pruning_jax.tables import prefixed
from random_pruning_jax.training import calls, prepared
from random_pruning_jax.training.beginning import abstract_state
from random_pruning_jax.training.program import Own, compiled, step_of

PER_EPOCH = 1000  # steps assumed if the data set is not here


class DoesNotFitError(ValueError):
  """The compiler itself found too little memory on a chip; the message is its own."""


@dataclasses.dataclass(frozen=True)
class Footprint:
  """What a call of the compiled step takes of one chip; sizes in bytes, as laid out there."""

  model: str
  dtype: str
  chip: str
  chips: int
  batch_size: int  # of all chips
  steps: int  # of a call
  state: int  # weights, momentum, masks and statistics
  images: int  # of a call, all of them where they are resident, and some bytes beside them
  temporary: int  # activations and gradients
  outputs: int  # beside the new state, which takes the memory of the old one
  program: int
  capacity: int | None  # None if unknown
  flops: float  # of a step: three forward passes' multiply-adds (`cost.training_flops`)
  # Flops, bytes, cycles by the compiler, counting one turn of each loop; {} on a CPU.
  counted: dict[str, float]
  all_reduces: int  # places in the program where chips wait for each other
  seconds: float  # of compiling

  @property
  def peak(self) -> int:
    """All together, and a copy of the state for checkpoints."""
    return 2 * self.state + self.images + self.temporary + self.outputs + self.program

  @property
  def fits(self) -> bool:
    """Whether a chip has that much memory; True if its capacity is unknown."""
    return self.capacity is None or self.peak <= self.capacity


def footprint(
  config: ConfigDict, on: tuple[jax.Device, ...], chip: Chip | None = None
) -> Footprint:
  """Compiles the config's step for `on`, which may be the devices of a `chip` that is not here.

  Raises ValueError for an invalid config and in one of several processes, DataError if resident
  images are needed and not here, and DoesNotFitError.
  """
  if jax.process_count() > 1:
    raise ValueError(
      'a footprint must be taken by one process, which compiles for the chips of all; got '
      f'{jax.process_count()} processes.'
    )
  experiment = build(config, on)
  check_budget(experiment)
  config = experiment.config
  gather, axes, shared, inputs, steps = _arriving(experiment)
  state = abstract_state(experiment)
  own = jax.eval_shape(
    lambda: Own(keys(0).augment, jax.tree.map(jnp.asarray, optimizers.rates(config)))
  )
  step = step_of(experiment, PER_EPOCH, gather)  # the schedule changes no size
  lowered = compiled(step, axes, on).lower(state, shared, own, *inputs)
  start = time.perf_counter()
  try:
    program = lowered.compile(dict(chip.options) if chip else None)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    raise DoesNotFitError(_reason(str(error))) from error
  seconds = time.perf_counter() - start
  memory, text = program.memory_analysis(), program.as_text()
  return Footprint(
    model=config.model.name,
    dtype=config.model.dtype,
    chip=chip.name if chip else on[0].device_kind,
    chips=len(on),
    batch_size=config.batch_size,
    steps=steps,
    # As the chip holds it: a TPU pads arrays to its tiles. The state is the only donated argument,
    # so what is aliased is the state.
    state=memory.alias_size_in_bytes,
    images=memory.argument_size_in_bytes - memory.alias_size_in_bytes,
    temporary=memory.temp_size_in_bytes,
    outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    program=memory.generated_code_size_in_bytes,
    capacity=int(chip.share * chip.capacity) if chip else parallel.memory(on).get('bytes_limit'),
    flops=cost.training_flops(experiment.structure.layers, config.batch_size) / len(on),
    # On a CPU the kernels do most of the work, of which the compiler knows nothing.
    counted={} if on[0].platform == 'cpu' else _counted(program.cost_analysis() or {}, text),
    all_reduces=len(re.findall(r' all-reduce(?:-start)?\(', text)),
    seconds=seconds,
  )


def _reason(text: str) -> str:
  """The first line of an error, without the word for its kind."""
  return (text.partition(': ')[2].strip() or text).splitlines()[0]


def _counted(analysis: dict[str, float], text: str) -> dict[str, float]:
  """The compiler's counts of its program; a TPU's notes the cycles it expects of each operation."""
  cycles = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text)))
  found = {'flops': analysis.get('flops'), 'bytes': analysis.get('bytes accessed')}
  return {name: value for name, value in {**found, 'cycles': cycles}.items() if value}


def _arriving(experiment: Experiment) -> tuple[Callable, tuple, tuple, tuple, int]:
  """How images reach the step (`feed.Feed`): gather, axes, shapes of `shared` and of the inputs.

  Also the steps of the longest call. Streamed images are not read.
  """
  config = experiment.config
  if _streamed(config):
    feed.check_mode(config, 'streamed')
    per_epoch = _steps_per_epoch(config)
    periods = calls.periods_of(config, per_epoch)
    length = config.steps_per_call or 1
    steps = _longest(calls.spans(0, config.epochs * per_epoch, length, periods), length)
    return feed.scaled, feed.STREAMED, (), feed.shapes(experiment, 'streamed', steps), steps
  run = prepared.open_run(experiment)
  shared = jax.eval_shape(run.feed.shared)
  steps = _longest(run.calls(0), run.steps_per_call)
  return run.feed.gather, run.feed.axes, shared, feed.shapes(experiment, 'resident', steps), steps


def _streamed(config: ConfigDict) -> bool:
  try:
    return feed.loading_of(config) == 'streamed'
  except data.DataError:  # not here
    return False


def _steps_per_epoch(config: ConfigDict) -> int:
  try:
    images = len(streamed.EncodedImages(config.dataset, 'train', config.data_dir))
  except data.DataError:
    return PER_EPOCH
  return order.steps_per_epoch(images, config.batch_size)


def _longest(made: feed.Calls, length: int) -> int:
  """Steps of the longest call: `length`, or 1 if no call has room for that."""
  return length if any(stop - start == length for start, stop in made) else 1


def show(found: Footprint) -> str:
  """A table for people."""
  title = f'{found.model}, {found.dtype}, {found.batch_size:,} images on {found.chips} x '
  rows = [
    ['', 'a chip', ''],
    ['images a step', f'{found.batch_size // found.chips:,}', f'{found.steps} steps a call'],
    ['state', prefixed(found.state, 'B'), 'weights, momentum, masks, statistics'],
    ['state, again', prefixed(found.state, 'B'), 'for a checkpoint'],
    ['images', prefixed(found.images, 'B'), 'of a call, and all that are resident'],
    ['temporary', prefixed(found.temporary, 'B'), 'activations, gradients'],
    ['outputs', prefixed(found.outputs, 'B'), 'loss and accuracy'],
    ['program', prefixed(found.program, 'B'), ''],
    ['all together', prefixed(found.peak, 'B'), ''],
  ]
  if found.capacity:
    fits = 'fits' if found.fits else 'does NOT fit'
    rows.append(
      ['of', prefixed(found.capacity, 'B'), f'{found.peak / found.capacity:.1%}, so it {fits}']
    )
  rows += [[], ['FLOPs of the network', prefixed(found.flops), 'a step: three forward passes']]
  for name, value in found.counted.items():
    rows.append([f'{name}, by the compiler', prefixed(value), 'of a call; of its loop, one turn'])
  if found.chips > 1:
    rows.append(['all-reduces', f'{found.all_reduces}', 'places in the program'])
  rows.append(['compiled in', f'{found.seconds:.0f} s', ''])
  width = max(len(row[2]) for row in rows if row)
  lines = [row and [*row[:2], row[2].ljust(width)] for row in rows]
  return f'{title}{found.chip}\n\n{tables.text(lines)}'
