"""BatchNorm with sums of a kernel's is flax's, in all it computes and in all its derivatives."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from random_pruning_jax import kernels, parallel
from random_pruning_jax.models.batch_norm import BatchNorm

if kernels.lacking():
  pytest.skip(f'needs {kernels.lacking()}', allow_module_level=True)

OPTIONS = {'use_running_average': False, 'momentum': 0.9, 'epsilon': 1e-5}
rng = np.random.default_rng(0)
X = jnp.array(3 + 2 * rng.normal(size=(8, 5, 7, 11)), jnp.float32)
WEIGHTS = jnp.array(rng.normal(size=X.shape), jnp.float32)
VARIABLES = {
  'params': {'scale': jnp.linspace(0.5, 2, 11), 'bias': jnp.linspace(-1, 1, 11)},
  'batch_stats': {'mean': jnp.linspace(0, 1, 11), 'var': jnp.linspace(1, 2, 11)},
}


def loss(kind, params, x, **options):
  module = kind(**OPTIONS, **options)
  y, updated = module.apply({**VARIABLES, 'params': params}, x, mutable=['batch_stats'])
  return jnp.sum(jnp.tanh(y) * WEIGHTS[: len(x)]), (y, updated)


def test_output_statistics_and_gradients_are_those_of_flax():
  ours, flaxs = (
    jax.value_and_grad(lambda *of, kind=kind: loss(kind, *of), (0, 1), has_aux=True)(
      VARIABLES['params'], X
    )
    for kind in (BatchNorm, nn.BatchNorm)
  )
  chex.assert_trees_all_close(ours, flaxs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('average', [False, True])
def test_variables_begin_as_those_of_flax_where_no_axis_is_there_yet(average):
  options = {**OPTIONS, 'axis_name': parallel.AXIS, 'use_running_average': average}
  (y, ours), (z, flaxs) = (
    kind(**options).init_with_output(jax.random.key(0), X) for kind in (BatchNorm, nn.BatchNorm)
  )
  chex.assert_trees_all_equal(ours, flaxs)
  np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-5)


def test_variables_and_gradients_are_float32_where_jax_has_64_bits():
  with jax.enable_x64(True):
    ours, flaxs = (kind(**OPTIONS).init(jax.random.key(0), X) for kind in (BatchNorm, nn.BatchNorm))
    chex.assert_trees_all_equal(ours, flaxs)
    chex.assert_trees_all_equal_dtypes(ours, flaxs)
    gradient = jax.grad(lambda params: loss(BatchNorm, params, X)[0])(ours['params'])
  chex.assert_trees_all_equal_dtypes(gradient, ours['params'])


def test_second_derivatives_are_those_of_flax_in_both_modes():
  def both(kind):
    gradient = jax.grad(lambda x: loss(kind, VARIABLES['params'], x)[0])
    return jax.jvp(gradient, (X,), (WEIGHTS,))[1], jax.vjp(gradient, X)[1](WEIGHTS)[0]

  chex.assert_trees_all_close(both(BatchNorm), both(nn.BatchNorm), rtol=1e-3, atol=1e-4)


def test_two_devices_normalise_one_batch():
  on = parallel.devices(2)

  def gradients(params, x):
    options = {'axis_name': parallel.AXIS}
    found = jax.grad(lambda *of: loss(BatchNorm, *of, **options)[0], (0, 1))(params, x)
    return jax.lax.psum(found[0], parallel.AXIS), found[1]

  # The same weights for both halves, since a device sees its own images alone.
  twice = jnp.concatenate([X[:4], 2 * X[:4] ** 2 / X.max()])
  mapped = parallel.parallel(gradients, on, (None, 0), (None, 0))
  params, images = mapped(
    parallel.replicate(VARIABLES['params'], on), parallel.split(np.asarray(twice), on)
  )

  def whole(params, x):
    y = nn.BatchNorm(**OPTIONS).apply({**VARIABLES, 'params': params}, x, mutable=['batch_stats'])[
      0
    ]
    return jnp.sum(jnp.tanh(y) * jnp.concatenate([WEIGHTS[:4]] * 2))

  expected = jax.grad(whole, (0, 1))(VARIABLES['params'], twice)
  chex.assert_trees_all_close(params, expected[0], rtol=1e-4, atol=1e-4)
  chex.assert_trees_all_close(images.reshape(X.shape), expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('constant', [1 / 3, 10 / 3, 100 / 3, 1000 / 3])  # one rounds below zero
def test_a_constant_has_no_variance_below_zero(constant):
  images = jnp.full_like(X, constant)
  y, updated = BatchNorm(**OPTIONS).apply(VARIABLES, images, mutable=['batch_stats'])
  left = 0.9 * VARIABLES['batch_stats']['var']
  assert np.isfinite(y).all()
  np.testing.assert_array_less(left - 1e-6, updated['batch_stats']['var'])
  np.testing.assert_allclose(updated['batch_stats']['var'], left, atol=1e-7 * constant**2)


def test_sums_are_the_same_bits_whichever_thread_takes_which_rows():
  from random_pruning_jax.kernels.sums import sums

  x = jnp.array(rng.normal(size=(40_000, 24)), jnp.float32)
  expected = np.stack([np.asarray(x, float).sum(0), (np.asarray(x, float) ** 2).sum(0)])
  first = sums(x, x)
  np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-2)
  for _ in range(20):
    np.testing.assert_array_equal(sums(x, x), first)


@pytest.mark.parametrize('x', [X.astype(jnp.bfloat16), X])
def test_what_is_not_for_the_kernel_is_flaxs_own(x):
  training = x.dtype != jnp.float32
  options = {**OPTIONS, 'use_running_average': not training, 'dtype': x.dtype}
  ours, flaxs = (
    kind(**options).apply(VARIABLES, x, mutable=['batch_stats'])
    for kind in (BatchNorm, nn.BatchNorm)
  )
  chex.assert_trees_all_equal(ours, flaxs)


@pytest.mark.parametrize(
  ('dtype', 'mask'), [(jnp.float32, X[..., :1] > 3), (jnp.float64, None)], ids=['mask', 'type']
)
def test_a_mask_and_parameters_of_another_type_are_as_in_flax(dtype, mask):
  with jax.enable_x64(dtype == jnp.float64):
    ours, flaxs = (
      kind(**OPTIONS, param_dtype=dtype).init_with_output(jax.random.key(0), X, mask=mask)
      for kind in (BatchNorm, nn.BatchNorm)
    )
  chex.assert_trees_all_equal(ours, flaxs)
  chex.assert_trees_all_equal_dtypes(ours, flaxs)


def test_groups_of_devices_normalise_apart():
  on = parallel.devices(2)
  images = parallel.split(np.concatenate([X, 2 * X]), on)
  alone = BatchNorm(**OPTIONS, axis_name=parallel.AXIS, axis_index_groups=[[0], [1]])
  apply = lambda x: alone.apply(VARIABLES, x, mutable=['batch_stats'])[0]  # noqa: E731
  found = parallel.parallel(apply, on, (0,), 0)(images)
  expected = [
    nn.BatchNorm(**OPTIONS).apply(VARIABLES, x, mutable=['batch_stats'])[0] for x in images
  ]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
