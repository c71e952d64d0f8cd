"""Auto-PGD: projected gradient ascent that halves its own step where it stops climbing."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax import norms
from random_pruning_jax.norms import LossFn

MOMENTUM = 0.75
# The step is halved after a window in which fewer than this share of the steps raised the loss.
CLIMBING = 0.75


class _State(NamedTuple):
  """Images [B, H, W, C], all others [B]."""

  images: jax.Array
  previous: jax.Array
  loss: jax.Array
  gradient: jax.Array
  step: jax.Array
  best_images: jax.Array
  best_loss: jax.Array
  best_gradient: jax.Array
  climbs: jax.Array  # steps since the last checkpoint that raised the loss
  checked_loss: jax.Array  # best_loss at the last checkpoint
  halved: jax.Array  # whether the last checkpoint halved the step


def apgd(
  loss_fn: LossFn,
  images: jax.Array,
  epsilon: float,
  keys: jax.Array,
  *,
  steps: int = 100,
  norm: str = 'linf',
  restarts: int = 1,
  judge: LossFn | None = None,
  unroll: int = 1,
) -> jax.Array:
  """The iterate of greatest loss of Auto-PGD (Croce and Hein, 2020), within the ball and [0, 1].

  loss_fn: images [B, H, W, C] -> loss [B]; it is evaluated steps + 1 times a restart. keys [B],
  norm, restarts, judge and unroll as in `attacks.pgd`; the first step is 2 epsilon.
  """
  ball = norms.get(norm)
  if steps < 1:
    raise ValueError(f'steps must be at least 1, got {steps}')

  def climb(state, plan):
    window, momentum = plan
    step = state.step.reshape(-1, *[1] * (images.ndim - 1))
    target = state.images + step * ball.direction(state.gradient)
    target = norms.inside(ball, images, target, epsilon)
    moved = (
      state.images
      + momentum * (target - state.images)
      + (1 - momentum) * (state.images - state.previous)
    )
    moved = norms.inside(ball, images, moved, epsilon)
    return _check(_arrive(state, moved, *norms.loss_and_gradient(loss_fn, moved)), window), None

  momenta = np.full(steps, MOMENTUM, np.float32)
  momenta[0] = 1  # the first step has no previous one
  plans = (jnp.asarray(windows(steps)), jnp.asarray(momenta))

  def run(start_keys):
    start = norms.start(ball, images, epsilon, start_keys)
    state = _begin(start, epsilon, *norms.loss_and_gradient(loss_fn, start))
    return jax.lax.scan(climb, state, plans, unroll=unroll)[0].best_images

  return norms.restarted(run, keys, restarts, judge or loss_fn, images)


def windows(steps: int) -> np.ndarray:
  """Where a checkpoint follows a step, the number of steps since the last one; else 0, [steps].

  Checkpoints are at ceil(p_j steps), p_0 = 0, p_1 = .22, p_j+1 = p_j + max(p_j - p_j-1 - .03, .06).
  """
  shares = [0.0, 0.22]
  while shares[-1] < 1:
    shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
  # Rounded, so that 0.41 of 100 steps is 41 and not the next.
  ends = sorted({min(math.ceil(round(share * steps, 6)), steps) for share in shares})
  lengths = np.zeros(steps, np.int32)
  for first, last in itertools.pairwise(ends):
    lengths[last - 1] = last - first
  return lengths


def _begin(images: jax.Array, epsilon: float, loss: jax.Array, gradient: jax.Array) -> _State:
  return _State(
    images=images,
    previous=images,
    loss=loss,
    gradient=gradient,
    step=jnp.full_like(loss, 2.0) * epsilon,
    best_images=images,
    best_loss=loss,
    best_gradient=gradient,
    climbs=jnp.zeros(loss.shape, jnp.int32),
    checked_loss=loss,
    halved=jnp.zeros(loss.shape, bool),
  )


def _arrive(state: _State, images: jax.Array, loss: jax.Array, gradient: jax.Array) -> _State:
  """The state after a step to `images`."""
  better = loss > state.best_loss
  return state._replace(
    images=images,
    previous=state.images,
    loss=loss,
    gradient=gradient,
    best_images=norms.keep(better, images, state.best_images),
    best_loss=jnp.maximum(loss, state.best_loss),
    best_gradient=norms.keep(better, gradient, state.best_gradient),
    climbs=state.climbs + (loss > state.loss),
  )


def _check(state: _State, window: jax.Array) -> _State:
  """At a checkpoint (window > 0): halve the step and return to the best where the climb stalled.

  It stalled where too few steps climbed, or where neither the step nor the best loss has changed
  since the checkpoint before.
  """
  here = window > 0
  idle = ~state.halved & (state.best_loss <= state.checked_loss)
  halve = here & ((state.climbs < CLIMBING * window) | idle)
  return state._replace(
    step=jnp.where(halve, state.step / 2, state.step),
    images=norms.keep(halve, state.best_images, state.images),
    loss=jnp.where(halve, state.best_loss, state.loss),
    gradient=norms.keep(halve, state.best_gradient, state.gradient),
    climbs=jnp.where(here, 0, state.climbs),
    checked_loss=jnp.where(here, state.best_loss, state.checked_loss),
    halved=jnp.where(here, halve, state.halved),
  )
