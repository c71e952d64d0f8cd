"""A block that is recomputed in the backward pass instead of kept (Chen et al., 2016).

flax.linen.remat keeps XLA from merging the second computation with the first by an optimization
barrier, which XLA's CPU backend drops early: there nothing is saved. Here the second computation
takes its input through a value of the backward pass, so that the two differ on every backend.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


def remat(block: nn.Module, x: jax.Array, train: bool) -> jax.Array:
  """block(x, train), of which the backward pass keeps x and the block's variables alone.

  It can be differentiated in reverse mode only, its gradient in either mode. The block may share
  its scope, in which Flax's own `custom_vjp` leaves tracers.
  """
  alone = block.clone(parent=None, name=None)

  def call(params, others, x):
    return alone.apply({**others, 'params': params}, x, train, mutable=['batch_stats'])

  def forward(*arguments):
    return call(*arguments), arguments

  def backward(kept, cotangents):
    params, others, x = kept
    cotangent, _ = cotangents  # of the output; the statistics get no gradient

    def again(params, x):
      return call(params, others, x)[0]

    _, gradients = jax.vjp(again, params, _after(cotangent, x))
    params, x = gradients(cotangent)
    return params, None, x

  call_again = jax.custom_vjp(call)
  call_again.defvjp(forward, backward)
  others = dict(block.variables)
  x, state = call_again(others.pop('params'), others, x)
  if block.is_mutable_collection('batch_stats'):
    for name, value in state.get('batch_stats', {}).items():
      block.put_variable('batch_stats', name, value)
  return x


def _after(earlier: jax.Array, x: jax.Array) -> jax.Array:
  """x, not before `earlier` is computed; NaN where `earlier` is, as its gradients would be."""
  first = earlier.ravel()[0]
  return jnp.where(first == first, x, jnp.nan)
