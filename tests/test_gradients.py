"""Gradient flow by hand, and curvature of quadratics whose Hessian is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from random_pruning_jax import gradients

PARAMS = {
  'stem': {'kernel': jnp.asarray([[3.0, 1.0], [2.0, 4.0]]), 'bias': jnp.asarray([12.0])},
  'head': {'kernel': jnp.asarray([[5.0, 7.0]])},
}
MASKS = {
  'stem': {'kernel': jnp.asarray([[True, False], [False, True]]), 'bias': jnp.asarray([True])},
  'head': {'kernel': jnp.asarray([[False, False]])},
}


def half_square(params):
  """Its gradient is the parameters themselves."""
  return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)) / 2


def quadratic(matrix):
  return lambda params: params['kernel'].ravel() @ matrix @ params['kernel'].ravel() / 2


def keep(size, pruned=()):
  mask = np.ones(size, bool)
  mask[list(pruned)] = False
  return {'kernel': jnp.asarray(mask.reshape(2, -1))}


def top(matrix, masks, steps=200):
  params = {'kernel': jnp.zeros(masks['kernel'].shape)}
  start = optax.tree.random_like(jax.random.key(0), params, jax.random.normal)
  product = jax.jit(lambda v: gradients.hessian_product(quadratic(matrix), params, v, masks))
  return gradients.top_eigenvalue(product, start, steps=steps)


def symmetric(eigenvalues):
  rotation = np.linalg.qr(np.random.RandomState(0).randn(len(eigenvalues), len(eigenvalues)))[0]
  return jnp.asarray(rotation @ np.diag(eigenvalues) @ rotation.T, jnp.float32)


def test_gradient_norm_counts_kept_weights_alone():
  # 3, 4 and the bias's 12 are kept: 5, 12 -> 13.
  flow = gradients.gradient_flow(jax.grad(half_square)(PARAMS), MASKS)
  assert flow['gradient_norm'] == pytest.approx(13)


def test_effective_gradient_flow_is_the_mean_over_kernels():
  # The stem's kernel has 5 (p = 2) and 7 (p = 1), the head's nothing; the bias is no layer.
  flow = gradients.gradient_flow(jax.grad(half_square)(PARAMS), MASKS)
  assert flow['egf_2'] == pytest.approx(2.5)
  assert flow['egf_1'] == pytest.approx(3.5)


def test_gradients_outside_the_masks_cannot_spoil_the_norm():
  broken = jax.tree.map(lambda g, m: jnp.where(m, g, jnp.nan), PARAMS, MASKS)
  assert gradients.gradient_norm(broken, MASKS) == pytest.approx(13)
  assert gradients.effective_gradient_flow(broken, MASKS) == pytest.approx(2.5)


@pytest.mark.parametrize('values', [[5, 2, 1, 0, -1, -2], [-5, 2, 1, 0, 3, -2]])
def test_top_eigenvalue_of_a_quadratic_is_its_largest(values):
  found = top(symmetric(values), keep(6))
  assert found.value == pytest.approx(values[0], rel=1e-4)
  assert found.residual < 1e-3


def test_top_eigenvalue_of_a_pruned_quadratic_is_that_of_the_kept_block():
  matrix = symmetric([5, 3, 1, 0.5, -1, -2])
  kept = np.asarray(matrix)[np.ix_([0, 2, 3, 5], [0, 2, 3, 5])]
  expected = max(np.linalg.eigvalsh(kept), key=abs)
  found = top(matrix, keep(6, pruned=(1, 4)))
  assert found.value == pytest.approx(expected, rel=1e-4)


def test_the_residual_bounds_the_error_of_an_unfinished_iteration():
  values = [5, 4.9, 1, 0, -1, -2]
  found = top(symmetric(values), keep(6), steps=3)
  assert found.residual > 1e-3
  assert min(abs(found.value - value) for value in values) <= found.residual + 1e-5


def test_a_flat_loss_has_no_curvature():
  found = top(jnp.zeros((6, 6)), keep(6))
  assert found.value == 0 and found.residual == 0


def test_hessian_product_of_a_network_agrees_with_its_full_hessian():
  x = jax.random.normal(jax.random.key(1), (16, 3))
  params = {'kernel': jax.random.normal(jax.random.key(2), (3, 2))}

  def loss(p):
    return jnp.mean(jax.nn.logsumexp(jnp.tanh(x @ p['kernel']), axis=-1))

  masks = keep(6, pruned=(2,))
  masks = {'kernel': masks['kernel'].reshape(3, 2)}
  vector = {'kernel': jax.random.normal(jax.random.key(3), (3, 2))}
  full = jax.jit(jax.hessian(lambda flat: loss({'kernel': flat.reshape(3, 2)})))
  hessian = full(params['kernel'].ravel())
  m = masks['kernel'].ravel()
  expected = m * (hessian @ (m * vector['kernel'].ravel()))
  product = jax.jit(functools.partial(gradients.hessian_product, loss))
  got = product(params, vector, masks)
  np.testing.assert_allclose(got['kernel'].ravel(), expected, atol=1e-6)


def test_settings_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match='p must be at least 1, got 0'):
    gradients.effective_gradient_flow(PARAMS, MASKS, p=0)
  with pytest.raises(ValueError, match='two or more axes, got none'):
    gradients.effective_gradient_flow({'bias': jnp.ones(3)}, {'bias': jnp.ones(3, bool)})
  with pytest.raises(ValueError, match='steps must be at least 1, got 0'):
    gradients.top_eigenvalue(jax.grad(half_square), PARAMS, steps=0)
