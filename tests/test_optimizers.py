"""Schedules by hand, and SGD as PyTorch defines it."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import tiny_config

from random_pruning_jax import optimizers


def rates(config, steps):
  schedule = optimizers.schedule(config, 10)
  return [round(float(schedule(step)), 6) for step in steps]


def test_milestones_divide_the_rate_at_their_fraction_of_training():
  config = tiny_config(epochs=16, optimizer__lr=0.1)  # 160 steps, as the paper has epochs
  assert rates(config, [0, 79, 80, 119, 120, 159]) == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
  at_once = optimizers.learning_rates(config, 10)
  assert len(at_once) == 160 and at_once[[79, 80]] == pytest.approx([0.1, 0.01])


def test_two_milestones_in_one_step_divide_twice():
  config = tiny_config(epochs=2, optimizer__lr=0.1, schedule__milestones=(0.5, 0.5, 0.52))
  assert rates(config, [9, 10]) == [0.1, 0.0001]


def test_cosine_ends_at_zero_and_constant_stays():
  assert rates(tiny_config(schedule__name='cosine', optimizer__lr=0.1), [0, 10, 20]) == [
    0.1,
    0.05,
    0.0,
  ]
  assert rates(tiny_config(schedule__name='constant', optimizer__lr=0.1), [0, 19]) == [0.1, 0.1]
  warmed = tiny_config(schedule__name='cosine', optimizer__lr=0.1, schedule__warmup_epochs=1)
  assert rates(warmed, [10, 15, 20]) == [0.1, 0.05, 0.0]


def test_warm_up_rises_in_equal_steps_and_the_milestones_stay_where_they_were():
  config = tiny_config(epochs=4, optimizer__lr=0.2, schedule__warmup_epochs=0.3)
  assert rates(config, [0, 1, 2, 3, 19, 20, 30]) == [0.05, 0.1, 0.15, 0.2, 0.2, 0.02, 0.002]
  with pytest.raises(ValueError, match=r'fewer than the 20 steps of training, got 2.0 \(20 steps'):
    optimizers.schedule(tiny_config(epochs=2, schedule__warmup_epochs=2.0), 10)


@pytest.mark.parametrize('nesterov', [True, False])
@pytest.mark.parametrize('decay', ['kernels', 'all'])
def test_one_weight_follows_sgd_as_pytorch_defines_it(nesterov, decay):
  """v = m v + (g + wd w); w -= lr (g + wd w + m v) with Nesterov, lr v without."""
  config = tiny_config(
    optimizer__lr=0.5,
    optimizer__nesterov=nesterov,
    optimizer__weight_decay=0.1,
    optimizer__decay=decay,
    schedule__name='constant',
  )
  tx = optimizers.maker(config, 10)(optimizers.rates(config))
  params = {name: jnp.array([2.0]) for name in ('kernel', 'bias', 'scale')}
  state = tx.init(params)
  expected = {name: [2.0, 0.0] for name in params}  # weight, velocity
  for grad in (1.0, -0.5, 0.25):
    updates, state = tx.update({name: jnp.array([grad]) for name in params}, state, params)
    params = optax.apply_updates(params, updates)
    for name, (w, v) in expected.items():
      g = grad + (0.1 * w if name == 'kernel' or decay == 'all' else 0)
      v = 0.9 * v + g
      expected[name] = [w - 0.5 * (g + 0.9 * v if nesterov else v), v]
  for name, (w, _) in expected.items():
    np.testing.assert_allclose(params[name], [w], rtol=1e-6)


def test_equal_settings_share_one_optimizer_and_so_one_compiled_step():
  maker, other = optimizers.maker(tiny_config(), 10), tiny_config(seed=7, optimizer__lr=0.3)
  assert maker is optimizers.maker(other, 10)
  assert maker is not optimizers.maker(tiny_config(), 11)
