"""A training step of ResNet-20: this code, dense and masked, XLA's derivatives, and PyTorch.

All take the same batch again and again: what is timed is forward, backward and update alone.
"""

import time

import jax
import optax

from benchmarks import TORCH, divided, network_parser, race, random_batch, start, table
from random_pruning_jax import experiment, masks, models, parallel, pruning
from random_pruning_jax.models import convolution
from random_pruning_jax.step import create_state, train_step

THIS = 'this code'


def main(arguments: list[str]) -> None:
  parser = network_parser('step', __doc__, rounds=7)
  parser.add_argument('--density', type=float, default=0.1, help='of the masked network')
  parser.add_argument('--compile', action='store_true', help='also PyTorch with torch.compile')
  parser.add_argument('--no-torch', action='store_true', help='JAX alone')
  options = parser.parse_args(arguments)
  start(options)
  on, rivals_on = divided(options)

  images, labels = random_batch(options.batch)
  density, fastest = options.density, convolution.fastest()
  runs = {
    THIS: jax_step(images, labels, options.width, fastest, 1.0, on),
    f'{THIS}, density {density}': jax_step(images, labels, options.width, fastest, density, on),
    'without Numba': jax_step(images, labels, options.width, convolution.by_pieces, 1.0, rivals_on),
    "XLA's derivatives": jax_step(images, labels, options.width, None, 1.0, rivals_on),
  }
  if not options.no_torch:
    # An optional extra, `bench`.
    from benchmarks.torch_peer import torch_step

    for name, way in TORCH.items():
      if options.compile or 'compiled' not in way:
        runs[name] = torch_step(images, labels, options.width, **way)
  print(f'ResNet-20, width {options.width}, batch {options.batch}, {len(on)} CPU devices;')
  print(f"{len(rivals_on)} without Numba and with derivatives of XLA's\n")
  first = {name: seconds(run) for name, run in runs.items()}
  print(table(race(runs, options.rounds), THIS, options.batch))
  each = ', '.join(f'{name} {spent:.1f}' for name, spent in first.items())
  print(f'\nSeconds of the first call, which compiles: {each}')


def seconds(run) -> float:
  began = time.perf_counter()
  run()
  return time.perf_counter() - began


def jax_step(images, labels, width, conv, density, on):
  """Builds the network, masks and batch, then `stepping`."""
  model = models.create(
    'resnet20', 10, width=width, axis_name=parallel.AXIS, conv_general_dilated=conv
  )
  tx = optax.chain(
    optax.add_decayed_weights(5e-4), optax.sgd(0.1, 0.9, nesterov=True), masks.keep_sparse()
  )
  variables = experiment.initial_variables(model, jax.random.key(0), images.shape[1:])
  kept = pruning.make_masks(
    jax.random.key(1), None, variables['params'], None, ratio='erk', density=density
  )
  create = jax.jit(lambda variables, kept: create_state(variables, kept, tx))
  batch = {'image': parallel.split(images, on), 'label': parallel.split(labels, on)}
  batch = parallel.place_apart(batch, on)  # placed beforehand, as PyTorch's is
  return stepping(model, tx, create(variables, kept), batch, on)


def stepping(model, tx, state, batch, on):
  """A function that makes one step, through the project's own train_step and pmap."""

  def step(state, batch):
    return train_step(state, batch, model=model, tx=tx, axis_name=parallel.AXIS)

  compiled = parallel.parallel(step, on, (None, 0), (None, None), donate=(0,))
  state = parallel.replicate(state, on)

  def run():
    nonlocal state
    state, metrics = compiled(state, batch)
    jax.block_until_ready((state, metrics))

  return run
