"""BatchNorm for CPUs that computes its sums over a batch in one pass (`kernels/sums.py`).

XLA makes a pass for each sum, and computes activations again in each.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.BatchNorm):
  """`flax.linen.BatchNorm` over all axes but the last, to rounding (Ioffe and Szegedy, 2015).

  The kernel computes the statistics of a batch in float32. Evaluation and other types go to Flax,
  and so do calls with a mask or groups of devices; initialisation does not, where only shapes
  matter. `use_bias`, `use_scale`, `axis` and `use_fast_variance` are ignored where the kernel runs.
  """

  @nn.compact
  def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    beginning = self.is_initializing()  # then there is no mapped axis, and statistics do not change
    float32 = x.dtype == self.param_dtype == jnp.float32
    average = self.use_running_average and not beginning
    if not float32 or average or mask is not None or self.axis_index_groups is not None:
      return super().__call__(x, mask=mask)
    channels = (x.shape[-1],)
    scale = self.param('scale', self.scale_init, channels, jnp.float32)
    bias = self.param('bias', self.bias_init, channels, jnp.float32)
    mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
    var = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)
    if self.use_running_average:
      return _scaled(x, scale, bias, mean.value, var.value, self.epsilon)
    axis = None if beginning else self.axis_name
    numbers = (scale, bias, mean.value, var.value)
    y, *new = _normalized(x, *numbers, self.momentum, self.epsilon, axis)
    if not beginning:
      mean.value, var.value = new
    return y


# Both are compiled, so that they are traced and differentiated once for each shape, not each layer.
@functools.partial(jax.jit, static_argnums=5)
def _scaled(x, scale, bias, mean, var, epsilon):
  return (x - mean) * (scale * jax.lax.rsqrt(var + epsilon)) + bias


@functools.partial(jax.jit, static_argnums=(5, 6, 7))
def _normalized(x, scale, bias, running_mean, running_var, momentum, epsilon, axis_name):
  from random_pruning_jax.kernels.sums import spread, sums

  mean, square = sums(x, x) / (x.size // x.shape[-1])
  if axis_name is not None:
    mean, square = jax.lax.pmean((mean, square), axis_name)
  # Rounding may bring the variance of a constant below zero.
  var = jnp.maximum(square - mean**2, 0)
  factor = scale * jax.lax.rsqrt(var + epsilon)
  y = spread(x, jnp.stack([bias - mean * factor, factor]))
  running_mean = momentum * running_mean + (1 - momentum) * mean
  running_var = momentum * running_var + (1 - momentum) * var
  return y, running_mean, running_var
