"""The squares of the Square attack."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax.attacks import square_search


def test_squares_shrink_with_the_queries():
  # sqrt(.8 * 32 * 32) = 28.6 at first and after 10 of 10,000 queries .4: 20.2.
  lengths = square_search.sides(10_000, 0.8, 32, 32)
  assert len(lengths) == 9_999
  assert (lengths[0], lengths[10], lengths[11], lengths[51]) == (29, 29, 20, 14)
  assert (np.diff(lengths) <= 0).all() and lengths[-1] == 1
  assert square_search.sides(1000, 0.8, 32, 32)[:3].tolist() == [29, 29, 20]  # in proportion
  assert square_search.sides(3, 1.0, 4, 9).max() == 4
  assert square_search.sides(100, 0.8, 4, 4).min() == 1


def test_a_square_has_a_sign_for_each_channel_and_stays_where_the_loss_rose():
  keys = jax.random.split(jax.random.key(0), 32)
  painted, signs = jax.jit(jax.vmap(lambda key: square_search._square(key, 3, (8, 8, 2))))(keys)
  assert (painted.sum((1, 2, 3)) == 9).all()
  assert painted.any((0, 2, 3)).all() and painted.any((0, 1, 3)).all()  # up to the edges
  assert len(np.unique(signs.reshape(32, 2), axis=0)) == 4
  images = jnp.full((2, 4, 4, 2), 0.5)
  flat = functools.partial(square_search.square, lambda x: jnp.zeros(len(x)), queries=5)
  striped = jax.jit(flat)(images, 0.1, keys[:2])
  assert (striped == striped[:, :1]).all()
  assert (striped[..., 0] != striped[..., 1]).any()


def test_the_best_of_all_images_that_were_tried_is_returned():
  weights = jnp.asarray(np.random.RandomState(0).normal(size=(5, 5, 2)), jnp.float32)
  images, keys, met = jnp.full((3, 5, 5, 2), 0.5), jax.random.split(jax.random.key(0), 3), []

  def loss(pixels):
    return (pixels * weights).sum((1, 2, 3))

  def watched(pixels):
    jax.debug.callback(met.append, loss(pixels), ordered=True)
    return loss(pixels)

  found = jax.jit(functools.partial(square_search.square, watched, queries=20))(images, 0.1, keys)
  jax.effects_barrier()
  assert len(met) == 20
  np.testing.assert_allclose(loss(found), np.max(met, axis=0), rtol=1e-6)
