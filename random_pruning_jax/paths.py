"""Which kept weights do anything: those on some path from the input to the output.

SynFlow's trick with masks as weights: an image of ones goes forward, the gradient of the logits
comes back, and a weight is on a path where both meet. Counts of paths overflow float32 within a few
layers, so every layer turns its outputs and its gradients into 0 or 1.
"""

from collections.abc import Sequence

import chex
import flax.linen as nn
import jax
import numpy as np

from random_pruning_jax import masks as masks_lib


def effective(
  model: nn.Module, masks: masks_lib.Masks, image_shape: Sequence[int]
) -> dict[str, np.ndarray]:
  """Masks of the kept kernel weights on a path, bool, by the kernels' names.

  `model` is one of `models`; images have `image_shape` [H, W, C]. BatchNorm lets all pass.
  """
  if hasattr(model, 'max_pool'):  # its gradient goes to one of several equal pixels alone
    model = model.clone(max_pool=nn.avg_pool)
  weights = masks_lib.map_named(_passing, masks)
  image = np.ones((1, *image_shape), np.float32)

  @jax.jit
  def flow(weights):
    def total(w):
      with nn.intercept_methods(_binary):
        options = {'normalize': False, 'mutable': ['batch_stats']}
        return model.apply({'params': w}, image, **options)[0].sum()

    return jax.grad(total)(weights)

  met = masks_lib.named_leaves(jax.device_get(flow(weights)))
  return {
    name: np.asarray(mask, bool) & (met[name] > 0)
    for name, mask in masks_lib.named_leaves(masks).items()
    if np.ndim(mask) >= 2
  }


def dead_units(effective_mask: np.ndarray) -> int:
  """Output units of a layer [..., in, out] none of whose weights is on a path."""
  return int((~effective_mask.reshape(-1, effective_mask.shape[-1]).any(0)).sum())


def _passing(name: str, mask: chex.Array) -> np.ndarray:
  """Kernels are their masks; scales are 1 and biases 0, so that no path begins or ends there."""
  if np.ndim(mask) >= 2:
    return np.asarray(mask, np.float32)
  return np.full(np.shape(mask), 0 if name.endswith('bias') else 1, np.float32)


def _binary(call, args, kwargs, context):
  out = call(*args, **kwargs)
  return _positive(out) if context.method_name == '__call__' else out


@jax.custom_vjp
def _positive(x: chex.Array) -> chex.Array:
  return (x > 0).astype(x.dtype)


def _positive_forward(x):
  return _positive(x), None


def _positive_backward(_, g):
  return ((g > 0).astype(g.dtype),)


_positive.defvjp(_positive_forward, _positive_backward)
