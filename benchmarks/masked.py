"""What masks cost: a training step of ResNet-20 with `keep_sparse` in its chain and one without.

The masked step runs at two densities, which are inputs of one compiled program. All make the same
network's forward pass, backward pass and update, on the same batch again and again.
"""

import jax
import numpy as np
import optax

from benchmarks import divided, network_parser, race, random_batch, start, table
from benchmarks.step import stepping
from random_pruning_jax import masks, models, parallel, pruning
from random_pruning_jax.experiment import initial_variables
from random_pruning_jax.models.convolution import fastest
from random_pruning_jax.step import TrainState, create_state

PLAIN = 'no masks'


def main(arguments: list[str]) -> None:
  parser = network_parser('masked', __doc__, rounds=15)
  options = parser.parse_args(arguments)
  start(options)
  on, _ = divided(options)
  images, labels = random_batch(options.batch)
  batch = {'image': parallel.split(images, on), 'label': parallel.split(labels, on)}
  batch = parallel.place_apart(batch, on)  # once, as in a loop of steps
  conv = fastest()
  model = models.create(
    'resnet20', 10, width=options.width, axis_name=parallel.AXIS, conv_general_dilated=conv
  )
  # On the host, because each of the steps donates its copy.
  variables = jax.device_get(initial_variables(model, jax.random.key(0), (32, 32, 3)))
  sgd = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, 0.9, nesterov=True))
  sparse = optax.chain(sgd, masks.keep_sparse())
  state = TrainState(
    np.int32(0), variables['params'], variables['batch_stats'], sgd.init(variables['params'])
  )
  runs = {PLAIN: stepping(model, sgd, state, batch, on)}
  for density in (1.0, 0.1):
    kept = pruning.make_masks(
      jax.random.key(1), None, variables['params'], None, ratio='erk', density=density
    )
    state = create_state(variables, kept, sparse)
    runs[f'masked, density {density}'] = stepping(model, sparse, state, batch, on)
  print(f'ResNet-20, width {options.width}, batch {options.batch}, {len(on)} devices\n')
  print(table(race(runs, options.rounds), PLAIN, options.batch))
