"""Gradient flow at the checkpoint, and how sharply the loss bends there."""

import functools

import jax

from random_pruning_jax import attacks, flow, gradients
from random_pruning_jax.suites.bench import Bench, Findings


def full(bench: Bench) -> Findings:
  """'gradients/gradient_norm', 'egf_1', 'egf_2' and 'top_eigenvalue', of the first training batch.

  The loss is the mean cross-entropy with running BatchNorm statistics; no augmentation.
  """
  network, steps = bench.network, bench.config.hessian_steps
  batch = flow.first_batch(bench.parts, bench.images(split='train'))
  bench.stages.begin(f'Hessian, {steps} steps', steps)
  run = _compiled(network.model, steps)
  variables, masks = jax.device_get((network.variables, bench.masks))
  numbers = jax.device_get(run(variables, masks, batch['image'], batch['label']))
  return Findings({f'gradients/{name}': float(value) for name, value in numbers.items()})


@functools.lru_cache(maxsize=64)
def _compiled(model, steps: int):
  def run(variables, masks, images, labels):
    def loss_fn(params):
      logits = model.apply(variables | {'params': params}, images)
      return attacks.cross_entropy(logits, labels).mean()

    params = variables['params']
    found = gradients.top_eigenvalue(loss_fn, params, masks, jax.random.key(0), steps=steps)
    return gradients.gradient_flow(loss_fn, params, masks) | {
      'top_eigenvalue': found.value,
      'top_eigenvalue_residual': found.residual,
    }

  return jax.jit(run)
