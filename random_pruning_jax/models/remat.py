"""A block that is computed again in the backward pass instead of kept (Chen et al., 2016).

flax.linen.remat keeps XLA from merging the second computation with the first by an optimization
barrier, which XLA's CPU backend drops early: there nothing is saved. Here the second computation
takes its input through a value of the backward pass, so that the two differ on every backend.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


def remat(block: nn.Module, x: jax.Array, train: bool) -> jax.Array:
  """block(x, train), of which the backward pass keeps x and the block's variables alone.

  It can be differentiated in reverse, and the gradient in either mode; the block itself not in
  forward mode.
  """
  alone = block.clone(parent=None, name=None)

  def forward(block, x):
    return block(x, train), (block.variables, x)

  def backward(kept, cotangent):
    variables, x = kept

    def again(params, x):
      return alone.apply({**variables, 'params': params}, x, train, mutable=['batch_stats'])[0]

    _, gradients = jax.vjp(again, variables['params'], _after(cotangent, x))
    params, x = gradients(cotangent)
    return {'params': params}, x

  return nn.custom_vjp(lambda block, x: block(x, train), forward, backward)(block, x)


def _after(earlier: jax.Array, x: jax.Array) -> jax.Array:
  """x, but not before `earlier` is there; NaN where that is, as any gradient of it would be."""
  first = earlier.ravel()[0]
  return jnp.where(first == first, x, jnp.nan)
