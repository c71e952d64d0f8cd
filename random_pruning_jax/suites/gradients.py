"""Gradient flow at the checkpoint, and how sharply the loss bends there."""

import functools
from collections.abc import Callable

import jax
import optax

from random_pruning_jax import attacks, flow, gradients, parallel
from random_pruning_jax import masks as masks_lib
from random_pruning_jax.suites.bench import Bench, Findings


def full(bench: Bench) -> Findings:
  """'gradients/gradient_norm', 'egf_1', 'egf_2' and 'top_eigenvalue', of the first training batch.

  The loss is the mean cross-entropy with running BatchNorm statistics; no augmentation.
  """
  batch = flow.first_batch(bench.experiment, bench.images(split='train'))
  on = parallel.that_divide(len(batch['label']), bench.network.on)
  variables, masks = parallel.replicate(jax.device_get((bench.network.variables, bench.masks)), on)
  rest = (variables, masks, *(parallel.split(batch[name], on) for name in ('image', 'label')))
  gradient, hessian = _compiled(bench.network.model, on)
  steps = bench.config.hessian_steps
  advance = bench.stages.begin('Hessian', (steps + 1) * len(batch['label']))

  def product(vector):
    advance(len(batch['label']))
    return hessian(vector, *rest)

  start = optax.tree.random_like(jax.random.key(0), variables['params'], jax.random.normal)
  found = gradients.top_eigenvalue(product, masks_lib.apply(start, masks), steps=steps)
  numbers = gradient(*rest) | {
    'top_eigenvalue': found.value,
    'top_eigenvalue_residual': found.residual,
  }
  return Findings({f'gradients/{name}': float(value) for name, value in numbers.items()})


@functools.lru_cache(maxsize=64)
def _compiled(model, on: tuple[jax.Device, ...]) -> tuple[Callable, Callable]:
  # Differentiated twice, XLA's own convolution compiles faster.
  model = flow.in_float32(model).clone(conv_general_dilated=None)

  def loss_of(variables, images, labels):
    def loss_fn(params):
      logits = model.apply(variables | {'params': params}, images)
      return attacks.cross_entropy(logits, labels).mean()

    return loss_fn

  @jax.default_matmul_precision('highest')  # as in `scores`
  def gradient(variables, masks, images, labels):
    loss_fn = loss_of(variables, images, labels)
    return gradients.gradient_flow(parallel.mean(jax.grad(loss_fn)(variables['params'])), masks)

  def hessian(vector, variables, masks, images, labels):
    loss_fn = loss_of(variables, images, labels)
    return parallel.mean(gradients.hessian_product(loss_fn, variables['params'], vector, masks))

  return (
    parallel.parallel(gradient, on, (None, None, 0, 0), None),
    parallel.parallel(hessian, on, (None, None, None, 0, 0), None),
  )
