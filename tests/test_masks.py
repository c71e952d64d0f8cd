"""Masks keep exactly what they say, and the optimizer keeps their zeros."""

import collections

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from random_pruning_jax import masks, scores

PARAMS = {
  'stem': {'kernel': jnp.ones((3, 3, 3, 8))},
  'head': {'kernel': jnp.ones((8, 10)), 'bias': jnp.ones(10)},
}


def random_masks(seed=0, densities=None):
  densities = densities or {'stem/kernel': 0.25, 'head/kernel': 0.1}
  return masks.top(scores.random(None, PARAMS, None, jax.random.key(seed)), densities)


def test_top_keeps_the_highest_of_ten_weights():
  kept = masks.top({'w': jnp.arange(10.0)}, {'w': 0.3})
  assert np.flatnonzero(kept['w']).tolist() == [7, 8, 9]
  assert masks.count(masks.top({'w': jnp.arange(10.0)}, {'w': 0.27})) == {'w': 3}  # the nearest
  assert [masks.kept_count(0.5, size) for size in (1, 3, 5)] == [0, 2, 2]  # a half to the even one


def test_equal_scores_are_kept_in_order_of_index():
  kept = masks.top({'w': jnp.array([1, 2, 1, 1, 0])}, {'w': 0.6})
  assert kept['w'].tolist() == [True, True, True, False, False]


@pytest.mark.parametrize('density', [0.0, 0.001, 0.1, 0.5, 0.999, 1.0])
def test_every_layer_keeps_exactly_its_rounded_count(density):
  kept = random_masks(densities={'stem/kernel': density, 'head/kernel': density})
  assert masks.count(kept)['stem/kernel'] == masks.kept_count(density, 216)
  assert masks.count(kept)['head/kernel'] == masks.kept_count(density, 80)
  assert masks.count(kept)['head/bias'] == 10


def test_layers_of_equal_shape_get_different_masks():
  params = {'a': {'kernel': jnp.ones((8, 8))}, 'b': {'kernel': jnp.ones((8, 8))}}
  kept = masks.top(
    scores.random(None, params, None, jax.random.key(0)), {'a/kernel': 0.5, 'b/kernel': 0.5}
  )
  assert (kept['a']['kernel'] != kept['b']['kernel']).any()


def test_another_seed_gives_other_masks_and_the_same_seed_the_same():
  assert masks.checksum(random_masks(0)) == masks.checksum(random_masks(0))
  assert masks.checksum(random_masks(0)) != masks.checksum(random_masks(1))


def test_a_checksum_tells_names_and_shapes_and_not_containers():
  a, b = np.eye(4, dtype=bool), np.ones((4, 4), bool)
  told = [{'a': a, 'b': b}, {'a': b, 'b': a}, {'a': a, 'c': b}, {'a': a.reshape(2, 8), 'b': b}]
  assert len(set(map(masks.checksum, told))) == len(told)
  in_order = collections.OrderedDict(b=b, a=a)  # whose leaves come as they were put in
  assert masks.checksum(in_order) == masks.checksum({'a': a, 'b': b})
  # Pinned: checkpoints hold it, and one that has another is refused.
  assert masks.checksum(in_order) == 'ebb6e058299e5694'


def test_the_random_stream_is_the_one_that_was_published():
  """Pinned: a mask drawn today must be drawn again by every later version."""
  bits = scores.random_bits((1, 2), 'stem/kernel', 5)
  assert bits.tolist() == [3692146047, 3059809870, 2052112925, 124856462, 954014180]


def test_bernoulli_keeps_each_weight_with_its_layers_density():
  bits = scores.random(None, {'w': jnp.zeros(10_000)}, None, jax.random.key(0))
  kept = masks.bernoulli(bits, {'w': 0.3})['w'].sum()
  assert abs(kept - 3000) < 5 * np.sqrt(0.3 * 0.7 * 10_000)
  assert kept != 3000  # random, unlike exact sampling
  assert masks.bernoulli(bits, {'w': 1.0})['w'].all()
  assert not masks.bernoulli(bits, {'w': 0.0})['w'].any()


def test_bernoulli_refuses_scores_that_are_not_random_bits():
  with pytest.raises(ValueError, match='needs random scores'):
    masks.bernoulli({'w': jnp.ones(3)}, {'w': 0.5})


def test_layer_densities_are_those_of_one_global_ranking():
  ranking = {'a': jnp.array([9.0, 8.0, 1.0, 0.0]), 'b': jnp.array([7.0, 2.0])}
  assert masks.layer_densities(ranking, 0.5) == {'a': 0.5, 'b': 0.5}
  assert masks.layer_densities(ranking, 1.0) == {'a': 1.0, 'b': 1.0}


@pytest.mark.parametrize('seed', range(3))
def test_a_global_ranking_and_its_layer_densities_keep_the_same_weights(seed):
  ranking = {
    name: jax.random.normal(jax.random.key(seed), (size,))
    for name, size in (('a', 101), ('b', 37), ('c', 3))
  }
  kept = masks.top(ranking, masks.layer_densities(ranking, 0.37))
  everything = np.concatenate([ranking[name] for name in ranking])
  threshold = np.sort(everything)[-masks.kept_count(0.37, everything.size)]
  for name in ranking:
    np.testing.assert_array_equal(kept[name], ranking[name] >= threshold)


def test_apply_gives_exact_zeros_even_where_a_weight_is_not_finite():
  masked = masks.apply({'w': jnp.array([jnp.nan, 2.0])}, {'w': jnp.array([False, True])})
  assert masked['w'].tolist() == [0.0, 2.0]


def test_weights_outside_the_masks_stay_exactly_zero_under_decay_and_momentum():
  kept = random_masks()
  tx = optax.chain(
    optax.add_decayed_weights(0.1),
    optax.sgd(0.5, momentum=0.9, nesterov=True),
    masks.keep_sparse(kept),
  )
  params, state = PARAMS, tx.init(PARAMS)  # not masked before: one update is enough
  for seed in range(5):
    grads = jax.tree.map(lambda p, s=seed: jax.random.normal(jax.random.key(s), p.shape), params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  for name, leaf in masks.named_leaves(params).items():
    mask = masks.named_leaves(kept)[name]
    assert (np.asarray(leaf)[~mask] == 0).all()
    assert (np.asarray(leaf)[mask] != 0).all()


def test_masks_travel_in_the_optimizer_state():
  kept = random_masks()
  tx = optax.chain(optax.sgd(0.1, momentum=0.9), masks.keep_sparse())
  state = tx.init(PARAMS)
  assert all(mask.all() for mask in jax.tree.leaves(masks.of(state)))
  state = masks.with_masks(state, kept)
  assert masks.checksum(masks.of(state)) == masks.checksum(kept)


def test_a_state_that_is_given_away_leaves_the_callers_masks():
  tx = optax.chain(optax.sgd(0.1), masks.keep_sparse())
  dense = masks.ones(PARAMS)
  step = jax.jit(lambda state: tx.update(PARAMS, state, PARAMS)[1], donate_argnums=0)
  step((optax.sgd(0.1).init(PARAMS), masks.keep_sparse(dense).init(PARAMS)))
  step(masks.with_masks(tx.init(PARAMS), dense))
  assert masks.count(dense) == {'head/bias': 10, 'head/kernel': 80, 'stem/kernel': 216}


def test_masks_are_cut_over_devices_as_the_parameters_are():
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ('cut',))
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('cut'))
  params = {'w': jax.device_put(jnp.ones((4, 3)), place)}
  half = {'w': np.arange(12).reshape(4, 3) < 6}
  state = masks.keep_sparse(half).init(params)
  for found in (masks.ones(params), state.masks, masks.with_masks(state, half).masks):
    assert found['w'].sharding == place


def test_masks_are_parameters_to_optax():
  tx = optax.chain(optax.adam(0.1), masks.keep_sparse(random_masks()))
  shapes = optax.tree_map_params(tx, jnp.shape, tx.init(PARAMS))
  assert masks.of(shapes)['head'] == {'bias': (10,), 'kernel': (8, 10)}


def test_clipping_masked_gradients_measures_kept_weights_alone():
  kept, clip = {'w': np.arange(10) < 4}, optax.clip_by_global_norm(1.0)
  masked = masks.apply({'w': jnp.ones(10)}, kept)
  assert clip.update(masked, clip.init(masked))[0]['w'].tolist() == [0.5] * 4 + [0.0] * 6


def test_schedule_free_keeps_its_averages_sparse_with_masks_in_its_chain():
  kept = random_masks()
  inner = optax.chain(optax.sgd(0.1), masks.keep_sparse(kept))
  tx = optax.contrib.schedule_free(inner, 0.1)
  params = masks.apply(PARAMS, kept)
  state, grads = tx.init(params), jax.tree.map(jnp.ones_like, params)
  for _ in range(3):
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  averaged = optax.contrib.schedule_free_eval_params(state, params)
  for found in (params, averaged):
    chex.assert_trees_all_equal(jax.tree.map(lambda p: p != 0, found), kept)


def test_a_parameter_may_be_called_masks_and_a_state_without_masks_is_refused():
  params = {'masks': {'kernel': jnp.ones((2, 2))}}
  tx = optax.chain(optax.sgd(0.1, momentum=0.9), masks.keep_sparse())
  half = {'masks': {'kernel': jnp.eye(2, dtype=bool)}}
  state = masks.with_masks(tx.init(params), half)
  np.testing.assert_array_equal(masks.of(state)['masks']['kernel'], np.eye(2))
  with pytest.raises(ValueError, match='that of one keep_sparse, got 0'):
    masks.of(optax.sgd(0.1).init(params))
  with pytest.raises(ValueError, match='that of one keep_sparse, got 2'):
    masks.with_masks(optax.chain(tx, masks.keep_sparse()).init(params), half)


def test_two_leaves_of_one_path_are_refused():
  with pytest.raises(ValueError, match='a path of its own; two of a/b share one'):
    masks.named_leaves({'a/b': 1, 'a': {'b': 2}})


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    ({'stem': {'kernel': jnp.ones((3, 3, 3, 8), bool)}}, 'head/kernel .missing.'),
    (PARAMS | {'extra': jnp.ones(1, bool)}, 'extra .not a parameter.'),
    (PARAMS | {'stem': {'kernel': jnp.ones((3, 3), bool)}}, 'stem/kernel .wanted'),
    (jax.tree.map(jnp.ones_like, PARAMS), 'stem/kernel .wanted bool, got float32'),
  ],
)
def test_masks_of_another_shape_are_refused_by_name(wrong, message):
  with pytest.raises(ValueError, match=message):
    masks.keep_sparse(wrong).init(PARAMS)
  with pytest.raises(ValueError, match=message):
    masks.apply(PARAMS, wrong)


def test_masks_in_other_containers_are_matched_by_path():
  kept, frozen = random_masks(), flax.core.freeze(PARAMS)
  chex.assert_trees_all_equal(masks.apply(frozen, kept).unfreeze(), masks.apply(PARAMS, kept))
  tx = masks.keep_sparse(kept)
  state = masks.with_masks(tx.init(frozen), flax.core.freeze(kept))
  updates, _ = tx.update(frozen, state, frozen)
  assert isinstance(updates, flax.core.FrozenDict)
  in_order = collections.OrderedDict(b=jnp.ones(2), a=jnp.ones(2))  # as they were put in
  half = {'a': jnp.array([True, False]), 'b': jnp.array([False, True])}
  assert masks.apply(in_order, half)['a'].tolist() == [1, 0]


def test_keep_sparse_inside_of_what_hides_parameters_is_refused():
  hide = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', PARAMS)
  with pytest.raises(ValueError, match=r'head/bias .not a parameter.*Put keep_sparse outside'):
    optax.masked(masks.keep_sparse(random_masks()), hide).init(PARAMS)


def test_wrong_densities_and_scores_are_refused():
  with pytest.raises(ValueError, match='without scores'):
    masks.top({'w': jnp.ones(3)}, {'v': 0.5})
  with pytest.raises(ValueError, match=r'must lie in \[0, 1\], got 1.5'):
    masks.top({'w': jnp.ones(3)}, {'w': 1.5})
  with pytest.raises(ValueError, match=r'must lie in \[0, 1\], got -0.1'):
    masks.top({'w': jnp.ones(3)}, {'w': -0.1})
  with pytest.raises(ValueError, match='must be finite'):
    masks.top({'w': jnp.array([1.0, jnp.nan])}, {'w': 0.5})
  with pytest.raises(ValueError, match='must be finite'):
    masks.top({'w': jnp.array([1.0, jnp.inf])}, {'w': 0.5})
  with pytest.raises(ValueError, match=r'must lie in \(0, 1\], got 0'):
    masks.layer_densities({'w': jnp.ones(3)}, 0)
  with pytest.raises(ValueError, match='needs the parameters'):
    tx = masks.keep_sparse()
    tx.update({'w': jnp.ones(3)}, tx.init({'w': jnp.ones(3)}))
