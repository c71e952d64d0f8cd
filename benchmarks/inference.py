"""The forward pass of ResNet-20, here, with XLA's convolution and in PyTorch; and PGD of k steps.

PGD of k steps is timed beside one inference; each of its steps is a forward and a backward pass.
"""

import functools

import jax
import optax

from benchmarks import (
  TORCH,
  at_least_one,
  divided,
  network_parser,
  race,
  random_batch,
  start,
  table,
)
from random_pruning_jax import attacks, models, parallel
from random_pruning_jax.experiment import initial_variables
from random_pruning_jax.models import folding
from random_pruning_jax.models.convolution import fastest

THIS = 'this code'


def main(arguments: list[str]) -> None:
  parser = network_parser('inference', __doc__, rounds=9)
  parser.add_argument('--steps', type=at_least_one, default=7, help='of PGD')
  parser.add_argument('--compile', action='store_true', help='also PyTorch with torch.compile')
  parser.add_argument('--no-torch', action='store_true', help='JAX alone')
  options = parser.parse_args(arguments)
  start(options)
  on, rivals_on = divided(options)

  images, labels = random_batch(options.batch)
  attack = functools.partial(_pgd, steps=options.steps)
  runs = {
    THIS: _bound(_logits, images, labels, options.width, fastest(), on),
    "XLA's convolution": _bound(_logits, images, labels, options.width, None, rivals_on),
    f'PGD, {options.steps} steps': _bound(attack, images, labels, options.width, fastest(), on),
  }
  if not options.no_torch:
    # An optional extra, `bench`.
    from benchmarks.torch_peer import torch_inference

    for name, way in TORCH.items():
      if options.compile or 'compiled' not in way:
        runs[name] = torch_inference(images, options.width, **way)
  print(f'ResNet-20, width {options.width}, batch {options.batch}, {len(on)} CPU devices;')
  print(f"{len(rivals_on)} with convolutions of XLA's\n")
  print(table(race(runs, options.rounds), THIS, options.batch))


def _bound(function, images, labels, width, conv, on):
  """A function that applies `function(apply, variables, images, labels)` on these devices."""
  model = models.create('resnet20', 10, width=width, conv_general_dilated=conv)
  variables = initial_variables(model, jax.random.key(0), (32, 32, 3))
  variables = parallel.replicate(variables, on)
  images, labels = parallel.split(images, on), parallel.split(labels, on)
  apply = folding.evaluation(model)
  compiled = parallel.parallel(functools.partial(function, apply), on, (None, 0, 0), 0)
  return lambda: jax.block_until_ready(compiled(variables, images, labels))


def _logits(apply, variables, images, labels):
  del labels
  return apply(variables, images)


def _pgd(apply, variables, images, labels, *, steps):
  def loss(images):
    logits = apply(variables, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

  keys = jax.random.split(jax.random.key(0), len(images))
  return attacks.pgd(loss, images, 8 / 255, keys, steps=steps)
