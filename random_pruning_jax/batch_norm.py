"""BatchNorm whose sums over a batch are one pass of a kernel's (`kernels/sums.py`), for CPUs.

XLA makes a pass of its own for each of them, and computes activations again in each.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.BatchNorm):
  """`flax.linen.BatchNorm` over all axes but the last, to rounding (Ioffe and Szegedy, 2015).

  The kernel is for training in float32; everything else is flax's own.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.use_running_average or self.is_initializing() or x.dtype != jnp.float32:
      return super().__call__(x)
    channels = (x.shape[-1],)
    scale = self.param('scale', self.scale_init, channels)
    bias = self.param('bias', self.bias_init, channels)
    y, new = _normalized(x, scale, bias, self.epsilon, self.axis_name)
    for name, value in zip(('mean', 'var'), new, strict=True):
      kept = self.variable('batch_stats', name, jnp.zeros, channels)
      kept.value = self.momentum * kept.value + (1 - self.momentum) * value
    return y


@functools.partial(jax.jit, static_argnums=(3, 4))
def _normalized(x, scale, bias, epsilon, axis_name):
  from random_pruning_jax.kernels.sums import spread, sums

  mean, square = sums(x, x) / (x.size // x.shape[-1])
  if axis_name is not None:
    mean, square = jax.lax.pmean((mean, square), axis_name)
  # Rounding may bring the variance of a constant below zero.
  var = jnp.maximum(square - mean**2, 0)
  factor = scale * jax.lax.rsqrt(var + epsilon)
  return spread(x, jnp.stack([bias - mean * factor, factor])), (mean, var)
