"""Auto-PGD against the paper's algorithm written out for one image in NumPy float64."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from random_pruning_jax import attacks, norms
from random_pruning_jax.attacks import auto_pgd

STEPS = 25
# In the larger balls, which images fill, images climb and fall back most often.
EPSILONS = {'linf': (0.1, 1.0), 'l2': (0.8, 10.0)}


@pytest.fixture(scope='module')
def task():
  """A loss [B] of images [B, 4, 4, 3] with curvature enough for steps to overshoot, and images."""
  rng = np.random.RandomState(0)
  w1 = jnp.asarray(rng.normal(0, 0.3, (48, 32)), jnp.float32)
  w2 = jnp.asarray(rng.normal(0, 0.5, (32, 6)), jnp.float32)
  images = jnp.asarray(rng.uniform(0, 1, (6, 4, 4, 3)), jnp.float32)

  def network(pixels):
    return jnp.tanh(pixels.reshape(len(pixels), -1) @ w1) @ w2

  labels = jnp.argmax(network(images), axis=-1)
  return lambda pixels: attacks.cross_entropy(network(pixels), labels), images


def algorithm_1(evaluate, clean, start, epsilon, norm, checkpoints):
  """The greatest loss met by Algorithm 1 of Croce and Hein (2020) with rho = alpha = .75."""

  def project(x):
    delta = x - clean
    if norm == 'linf':
      delta = np.clip(delta, -epsilon, epsilon)
    else:
      delta *= min(1, epsilon / max(np.linalg.norm(delta), 1e-12))
    return np.clip(clean + delta, 0, 1)

  def direction(g):
    return np.sign(g) if norm == 'linf' else g / np.linalg.norm(g)

  x = previous = x_max = start
  f, g = evaluate(x)
  f_max, g_max = f, g
  eta, climbs, since, f_checked, halved = 2 * epsilon, 0, 0, f, False
  for k in range(STEPS):
    z = project(x + eta * direction(g))
    alpha = 0.75 if k else 1.0
    x_next = project(x + alpha * (z - x) + (1 - alpha) * (x - previous))
    f_next, g_next = evaluate(x_next)
    climbs += f_next > f
    if f_next > f_max:
      x_max, f_max, g_max = x_next, f_next, g_next
    previous, (x, f, g) = x, (x_next, f_next, g_next)
    if k + 1 in checkpoints:
      stalled = climbs < 0.75 * (k + 1 - since)
      idle = not halved and f_max == f_checked
      halved = stalled or idle
      if halved:
        eta, (x, f, g) = eta / 2, (x_max, f_max, g_max)
      climbs, since, f_checked = 0, k + 1, f_max
  return f_max


@pytest.mark.parametrize('norm', EPSILONS)
def test_apgd_is_the_papers_algorithm(norm, task):
  loss_fn, images = task
  keys = norms.image_keys(jax.random.key(0), jnp.arange(len(images)))
  found = jax.jit(functools.partial(attacks.apgd, loss_fn, steps=STEPS, norm=norm))
  gradient = jax.jit(functools.partial(norms.loss_and_gradient, loss_fn))
  shares = (0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99)
  checkpoints = {math.ceil(round(share * STEPS, 6)) for share in shares}
  for epsilon, (i, clean) in itertools.product(EPSILONS[norm], enumerate(np.array(images, float))):

    def evaluate(x, i=i):
      loss, g = gradient(images.at[i].set(x.astype(np.float32)))
      return float(loss[i]), np.asarray(g[i], np.float64)

    start = np.asarray(norms.start(norms.NORMS[norm], images, epsilon, keys)[i], np.float64)
    expected = algorithm_1(evaluate, clean, start, epsilon, norm, checkpoints)
    got = loss_fn(found(images, epsilon, keys))[i]
    assert got == pytest.approx(expected, abs=1e-4)


def test_checkpoints_are_where_the_paper_has_them():
  lengths = auto_pgd.windows(100)
  ends = [22, 41, 57, 70, 80, 87, 93, 99, 100]
  np.testing.assert_array_equal(np.flatnonzero(lengths) + 1, ends)
  np.testing.assert_array_equal(lengths[lengths > 0], np.diff([0, *ends]))
  assert auto_pgd.windows(1).tolist() == [1]


def test_apgd_halves_its_step_until_it_finds_a_narrow_peak():
  # One peak inside the ball: steps of a fixed size of epsilon jump over it for ever.
  peak = 0.5 + jnp.asarray([0.013, -0.027, 0.031]).reshape(1, 1, 1, 3)
  images = jnp.full((1, 1, 1, 3), 0.5)

  def loss(x):
    return -jnp.sum(jnp.abs(x - peak), axis=(1, 2, 3))

  keys = jax.random.split(jax.random.key(0), 1)
  found, coarse = (
    jax.jit(functools.partial(run, loss, steps=100))(images, 0.1, keys)
    for run in (attacks.apgd, functools.partial(attacks.pgd, step_size=1.0))
  )
  assert -loss(found)[0] < 0.01 < -loss(coarse)[0]
