"""Gradient flow and curvature of a pruned network: functions of its masked gradients and loss.

A masked gradient is zero where the weight is pruned: what the optimizer sees.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from random_pruning_jax import masks as masks_lib

Tree = Any  # a pytree of arrays, shaped like the parameters
LossFn = Callable[[Tree], jax.Array]  # params -> f32[]


class Eigenvalue(NamedTuple):
  """value: v^T H v; residual: |H v - value v|: some eigenvalue of H lies that near to `value`."""

  value: jax.Array  # f32[]
  residual: jax.Array  # f32[]


def gradient_norm(gradients: Tree, masks: Tree) -> jax.Array:
  """|g * m|_2 over all parameters, f32[] >= 0 (Evci et al., 2022, follow its square)."""
  return optax.tree.norm(masks_lib.apply(gradients, masks))


def effective_gradient_flow(gradients: Tree, masks: Tree, p: int = 2) -> jax.Array:
  """Mean over layers of |g_l * m_l|_p, f32[] >= 0 (Tessera et al., 2021).

  The layers are the leaves of two or more axes: kernels, and neither biases nor BatchNorm. Unlike
  `gradient_norm` it does not let one large layer speak for all. p is 1 or 2 in the paper.
  """
  if p < 1:
    raise ValueError(f'p must be at least 1, got {p}')
  layers = [g for g in jax.tree.leaves(masks_lib.apply(gradients, masks)) if g.ndim >= 2]
  if not layers:
    raise ValueError('the gradients must hold a leaf of two or more axes, got none')
  return jnp.mean(jnp.stack([jnp.linalg.norm(g.ravel(), ord=p) for g in layers]))


def gradient_flow(gradients: Tree, masks: Tree) -> dict[str, jax.Array]:
  """Gradient norm and effective gradient flow (p = 1 and 2) of given gradients, f32[] each."""
  return {
    'gradient_norm': gradient_norm(gradients, masks),
    'egf_1': effective_gradient_flow(gradients, masks, p=1),
    'egf_2': effective_gradient_flow(gradients, masks, p=2),
  }


@jax.default_matmul_precision('highest')  # as in `scores`
def hessian_product(loss_fn: LossFn, params: Tree, vector: Tree, masks: Tree) -> Tree:
  """H v of the loss as a function of the kept weights alone, at the cost of about two gradients."""
  _, product = jax.jvp(jax.grad(loss_fn), (params,), (masks_lib.apply(vector, masks),))
  return masks_lib.apply(product, masks)


def top_eigenvalue(product: Callable[[Tree], Tree], start: Tree, *, steps: int = 100) -> Eigenvalue:
  """Eigenvalue of largest absolute value of a symmetric `product`, v -> H v, by power iteration.

  Begins at a random `start` and takes `steps + 1` products. If two eigenvalues are nearly equal in
  size it needs more steps; it has converged when the residual is well below the value. The loss
  should be of one fixed batch, with BatchNorm's running statistics.
  """
  if steps < 1:
    raise ValueError(f'steps must be at least 1, got {steps}')
  # A loop in Python, not in XLA: only the product is compiled, which takes long enough.
  vector = _unit(start)
  for _ in range(steps):
    vector = _unit(product(vector))
  image = product(vector)
  value = optax.tree.vdot(vector, image)
  rest = optax.tree.add_scale(image, -value, vector)
  return Eigenvalue(value, optax.tree.norm(rest))


def _unit(vector: Tree) -> Tree:
  # A loss without curvature leaves the zero vector, not NaN.
  length = jnp.maximum(optax.tree.norm(vector), jnp.finfo(jnp.float32).tiny)
  return jax.tree.map(lambda leaf: leaf / length, vector)
