"""Many ResNet-20 at once: images/s of all of them, trained in turn and together.

In turn is one compiled step, called for one network after the other, on the devices that `train`
takes: on a CPU one whose kernels share the cores or, without these, all. Together is one call for
all; on a CPU, each core is a device with networks of its own. All see the same batch again and
again, out of device memory: what is timed is a step of each, and nothing around it.
"""

import argparse
import functools
import os
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import at_least_one, race, ratio
from random_pruning_jax import config, models, optimizers, parallel, pruning, step
from random_pruning_jax.commands.arguments import cpu_devices
from random_pruning_jax.experiment import initial_variables
from random_pruning_jax.models.convolution import fastest
from random_pruning_jax.system import processor
from random_pruning_jax.training import stacked
from random_pruning_jax.training.program import Own, compiled, one_step

SHAPE = (32, 32, 3)


def main(arguments: list[str]) -> None:
  parser = argparse.ArgumentParser(prog='python -m benchmarks many', description=__doc__)
  parser.add_argument('--width', type=at_least_one, default=4)
  parser.add_argument('--batch', type=at_least_one, default=32)
  parser.add_argument('--networks', type=at_least_one, nargs='+', default=(1, 4, 16))
  parser.add_argument(
    '--ways', nargs='+', choices=sorted(stacked.WAYS), help='of training together'
  )
  parser.add_argument(
    '--devices', type=at_least_one, default=os.cpu_count(), help='CPU devices of JAX'
  )
  parser.add_argument('--rounds', type=at_least_one, default=3)
  options = parser.parse_args(arguments)
  processor.keep_memory()
  jax.config.update('jax_num_cpu_devices', options.devices)
  on = parallel.devices()
  alone = on[: cpu_devices(apart=False)] if on[0].platform == 'cpu' else on  # as `train` does
  parallel.check_batch(options.batch, alone)
  ways = options.ways or [stacked.default_way(on)]
  devices = f'{len(alone)} and {len(on)} devices'
  print(f'ResNet-20, width {options.width}, batch {options.batch}, {devices}\n')
  print('| networks | in turn, images/s | together | images/s | time / in turn |')
  print('|---|---|---|---|---|')
  for count in options.networks:
    runs = {'in turn': in_turn(options, count, alone)}
    runs |= {way: together(options, count, on, way) for way in ways}
    times = race(runs, options.rounds)
    speed = {
      name: 1e3 * options.batch * count / statistics.median(found) for name, found in times.items()
    }
    for way in ways:
      print(
        f'| {count} | {speed["in turn"]:.0f} | {way} | {speed[way]:.0f} '
        f'| {ratio(times[way], times["in turn"]):.3f} |',
        flush=True,
      )


def gather(shared, key, indices):
  del key
  images, labels = shared
  return {'image': images[indices].astype(jnp.float32) / 255, 'label': labels[indices]}


def experiment(options, on):
  """The step of a network, its state on the host, and what it is called with."""
  one, state, own = network(options.width)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (options.batch, *SHAPE), np.uint8)
  shared = (images, rng.integers(0, 10, options.batch).astype(np.int32))
  indices = parallel.split(np.arange(options.batch, dtype=np.int32)[:, None], on)
  # One step a call: [D, S, B / D].
  return one, state, parallel.replicate(shared, on), own, indices.swapaxes(1, 2)


@functools.cache
def network(width):
  settings = config.default()
  conv = fastest()
  model = models.create(
    'resnet20', 10, width=width, axis_name=parallel.AXIS, conv_general_dilated=conv
  )
  make, rates = optimizers.maker(settings, 100), optimizers.rates(settings)
  one = one_step(model, make, (), gather)
  variables = initial_variables(model, jax.random.key(0), SHAPE)
  kept = pruning.make_masks(
    jax.random.key(1), None, variables['params'], None, ratio='erk', density=0.1
  )
  state = step.create_state(variables, kept, make(rates))
  return one, jax.device_get(state), Own(jax.random.key(2), rates)


def in_turn(options, count, on):
  one, state, shared, own, indices = experiment(options, on)
  call, own = compiled(one, (0,), on), parallel.replicate(own, on)
  states = [parallel.replicate(state, on) for _ in range(count)]

  def run():
    for i in range(count):
      states[i], _ = call(states[i], shared, own, indices)
    jax.block_until_ready(states)

  return run


def together(options, count, on, way):
  shares = [(device,) for device in on] if on[0].platform == 'cpu' else [on]
  groups = []
  for i, share in enumerate(shares[:count]):
    members = len(range(i, count, len(shares)))
    sizes = [1] * members if way == 'turn' else [members]
    groups += [group(options, size, share, way) for size in sizes]

  def run():
    jax.block_until_ready([dispatch() for dispatch in groups])

  return run


def group(options, count, on, way):
  """A function that gives the devices a step of each of `count` networks."""
  one, state, shared, own, indices = experiment(options, on)
  call = stacked.compiled(one, (0,), on, way, count)
  states = parallel.replicate(stacked.stack([state] * count), on)
  owns = parallel.replicate(stacked.stack([own] * count), on)
  alive, going = np.ones(count, bool), np.ones(count, bool)
  inputs = stacked.inputs([(indices,)] * count, (0,))

  def dispatch():
    nonlocal states, alive
    states, alive, metrics = call(states, alive, going, shared, owns, *inputs)
    return metrics

  return dispatch
