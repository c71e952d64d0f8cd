"""The grid: any ratio with any selection, on budget."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from random_pruning_jax import masks, pruning, ratios, scores

RNG = np.random.RandomState(0)
PARAMS = {
  'stem': {'kernel': RNG.randn(3, 3, 1, 4).astype(np.float32) / 3},
  'body': {'kernel': RNG.randn(4, 30).astype(np.float32) / 2},
  'head': {'kernel': RNG.randn(30, 5).astype(np.float32) / 5, 'bias': np.zeros(5, np.float32)},
}
SHAPES = {'stem/kernel': (3, 3, 1, 4), 'body/kernel': (4, 30), 'head/kernel': (30, 5)}
TOTAL = 36 + 120 + 150
BATCH = {
  'image': RNG.rand(25, 6, 6, 1).astype(np.float32),
  'label': np.arange(25, dtype=np.int32) % 5,
}
KEY = jax.random.key(0)


def apply_fn(params, images, train=True, normalize=True):
  x = jax.lax.conv_general_dilated(
    images, params['stem']['kernel'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  x = jax.nn.relu(x).mean((1, 2))
  x = jax.nn.relu(x @ params['body']['kernel'])
  return x @ params['head']['kernel'] + params['head']['bias']


@functools.cache
def saliency(name, density):
  options = {'density': density} if name in scores.ITERATIVE else {}
  return scores.SCORES[name](apply_fn, PARAMS, BATCH, KEY, **options)


# Each score once for all tests: they differ in nothing but ratio and selection.
COMPUTED = {
  name: lambda apply_fn, params, batch, key, name=name, density=0, layers=(): saliency(
    name, density
  )
  for name in scores.SCORES
}


def make(ratio, select, density=0.6, **options):
  return pruning.make_masks(
    KEY, apply_fn, PARAMS, BATCH, ratio=ratio, select=select, density=density, shapes=SHAPES,
    scores=COMPUTED, **options,
  )  # fmt: skip


@pytest.mark.parametrize('select', scores.SCORES)
@pytest.mark.parametrize('ratio', [*ratios.RATIOS, *scores.SCORES])
def test_every_ratio_goes_with_every_selection_and_keeps_its_budget(ratio, select):
  kept = masks.count(make(ratio, select))
  assert kept.pop('head/bias') == 5
  if ratio in ratios.RATIOS:
    densities = ratios.RATIOS[ratio](SHAPES, 0.6)
    assert kept == {n: masks.kept_count(d, np.prod(SHAPES[n])) for n, d in densities.items()}
  else:
    assert sum(kept.values()) == masks.kept_count(0.6, TOTAL)


@pytest.mark.parametrize('name', sorted(set(scores.SCORES) - {'random'}))
def test_a_score_that_does_both_is_its_own_global_ranking(name):
  kept = masks.named_leaves(make(name, name, 0.3))
  ranking = masks.named_leaves(saliency(name, 0.3))
  everything = np.concatenate([np.asarray(ranking[layer]).ravel() for layer in SHAPES])
  threshold = np.sort(everything)[-masks.kept_count(0.3, TOTAL)]
  for layer in SHAPES:
    np.testing.assert_array_equal(kept[layer], np.asarray(ranking[layer]) >= threshold)


def test_the_snip_ratio_keeps_snips_counts_and_other_weights():
  own, by_chance = make('snip', 'snip'), make('snip', 'random')
  assert masks.count(own) == masks.count(by_chance)
  assert masks.checksum(own) != masks.checksum(by_chance)


def test_erk_magnitude_keeps_the_largest_weights_of_each_layer():
  kept = make('erk', 'magnitude')
  for name in ('stem', 'body', 'head'):
    size, mask = np.abs(PARAMS[name]['kernel']), kept[name]['kernel']
    assert size[mask].min() > size[~mask].max(initial=0)


def test_layer_densities_of_a_global_ranking_are_exact():
  kept = make('grasp', 'random')
  ranking = masks.named_leaves(saliency('grasp', 0))
  wanted = masks.layer_densities({name: ranking[name] for name in SHAPES}, 0.6)
  counts = masks.count(kept)
  found = {name: counts[name] / math.prod(shape) for name, shape in SHAPES.items()}
  assert found == pytest.approx(wanted, abs=1e-7)


def test_a_density_of_one_is_dense_for_every_ratio_reads_nothing_and_compiles_nothing():
  for ratio in (*ratios.RATIOS, *scores.SCORES):
    kept = pruning.make_masks(KEY, None, PARAMS, None, ratio=ratio, density=1.0)
    assert all(isinstance(mask, np.ndarray) and mask.all() for mask in jax.tree.leaves(kept))


@pytest.mark.parametrize('ratio', ['uniform', 'erk', 'magnitude', 'synflow'])
def test_layers_held_dense_are_whole_and_the_others_keep_the_density(ratio):
  kept = masks.count(make(ratio, 'random', dense=('stem', 'head/kernel')))
  assert (kept['stem/kernel'], kept['body/kernel'], kept['head/kernel']) == (36, 72, 150)


def test_synflow_ranks_no_weights_of_layers_held_dense():
  asked = []

  def synflow(*arguments, density, layers):
    asked.append((density, layers))
    return COMPUTED['synflow'](*arguments, density=density)

  pruning.make_masks(
    KEY, apply_fn, PARAMS, BATCH, ratio='synflow', select='random', density=0.3,
    shapes=SHAPES, dense=('stem', 'head'), scores=COMPUTED | {'synflow': synflow},
  )  # fmt: skip
  assert asked == [(0.3, ('body/kernel',))]


def test_layers_held_dense_must_be_there_and_leave_some():
  with pytest.raises(
    ValueError, match=r"dense must name layers; got \['stern'\], known: stem, body"
  ):
    make('erk', 'random', dense=('stern',))
  with pytest.raises(ValueError, match='none left to prune'):
    make('erk', 'random', dense=('stem', 'body', 'head'))
  with pytest.raises(ValueError, match="dense must be a list of names, got the string 'stem'"):
    make('erk', 'random', dense='stem')


def test_kernels_in_boxes_are_pruned_beside_plain_ones():
  kernel_init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, 'cut'))
  model = nn.Sequential([nn.Dense(30, kernel_init=kernel_init), nn.Dense(5)])
  params = model.init(KEY, jnp.ones((1, 4)))['params']
  draw = functools.partial(pruning.make_masks, KEY, None, params, None, ratio='er', density=0.4)
  kept = masks.count(draw())
  assert kept['layers_0/kernel/value'] + kept['layers_1/kernel'] == round(0.4 * (120 + 150))
  assert kept['layers_0/kernel/value'] < 120 and kept['layers_0/bias'] == 30
  assert masks.count(draw(dense=['layers_0']))['layers_0/kernel/value'] == 120
  masked = masks.apply(params, draw())
  assert int((masked['layers_0']['kernel'].value != 0).sum()) == kept['layers_0/kernel/value']


def test_a_network_that_would_keep_no_weight_is_refused():
  with pytest.raises(ValueError, match='keeps none of 1,000 weights'):
    pruning.densities({'w': (10, 100)}, ratio='uniform', density=1e-9)
  with pytest.raises(ValueError, match="must be a leaf to prune; by default those called 'kernel'"):
    pruning.make_masks(KEY, None, {'scale': jnp.ones(3)}, None, ratio='er', density=0.5)
  with pytest.raises(ValueError, match=r'density 0\.0001 keeps none of 306 weights'):
    make('magnitude', 'random', density=1e-4)


def test_shapes_of_another_network_are_refused_and_those_of_other_axes_are_not():
  params = {'w': {'kernel': jnp.ones((8, 2, 3))}}
  draw = functools.partial(pruning.make_masks, KEY, None, params, None, ratio='er', density=0.5)
  assert masks.count(draw(shapes={'w/kernel': (8, 6)})) == {'w/kernel': 24}
  with pytest.raises(ValueError, match=r'w/kernel is \(8, 2, 3\), got \(16, 6\)'):
    draw(shapes={'w/kernel': (16, 6)})
  with pytest.raises(
    ValueError, match=r"must name parameters; got \['v/kernel'\], known: w/kernel"
  ):
    draw(ratio='magnitude', shapes={'v/kernel': (8, 6)})


@pytest.mark.parametrize('batch', [None, {'images': 1, 'labels': 2}, (1, 2)])
def test_a_score_of_data_says_what_it_needs(batch):
  draw = functools.partial(pruning.make_masks, KEY, apply_fn, PARAMS, batch, density=0.5)
  with pytest.raises(ValueError, match=r'by snip, .* a batch with image and label are needed; got'):
    draw(ratio='erk', select='snip')
  with pytest.raises(ValueError, match=r'by synflow, .* a batch with image are needed; got'):
    draw(ratio='synflow')


@pytest.mark.parametrize('label', [np.eye(5, dtype=int)[BATCH['label']], 1.0 * BATCH['label']])
def test_labels_that_are_no_class_numbers_are_refused(label):
  batch = BATCH | {'label': label}
  with pytest.raises(ValueError, match=r'labels must be integers \[B\], got (int|float)64 \[25'):
    pruning.make_masks(KEY, apply_fn, PARAMS, batch, ratio='snip', density=0.5)


def test_masks_are_not_drawn_inside_of_jit():
  draw = functools.partial(pruning.make_masks, apply_fn=None, batch=None, ratio='er', density=0.5)
  with pytest.raises(ValueError, match='drawn outside of jit, got a traced key'):
    jax.jit(lambda key: draw(key, params=PARAMS))(KEY)
  with pytest.raises(ValueError, match=r'drawn outside of jit, .* or traced parameters'):
    jax.jit(lambda params: draw(KEY, params=params, select='magnitude'))(PARAMS)


def test_scores_may_be_averaged_by_a_function_of_the_callers():
  def by_fifths(fn, trees, batch):
    parts = [{name: array[i::5] for name, array in batch.items()} for i in range(5)]
    return jax.tree.map(lambda *of: sum(of) / 5, *(fn(*trees, part) for part in parts))

  table = scores.SCORES | {'snip': functools.partial(scores.snip, average=by_fifths)}
  draw = functools.partial(
    pruning.make_masks, KEY, apply_fn, PARAMS, BATCH, ratio='snip', select='snip', density=0.3
  )
  assert masks.checksum(draw(scores=table)) == masks.checksum(draw())


def test_a_score_of_the_callers_own_table_says_how_many_and_which():
  def by_place(apply_fn, params, batch, key):
    return jax.tree.map(lambda leaf: np.arange(leaf.size).reshape(leaf.shape), params)

  kept = pruning.make_masks(
    KEY, None, PARAMS, None, ratio='place', select='place', density=0.25, shapes=SHAPES,
    scores={'place': by_place},
  )  # fmt: skip
  leaves = masks.named_leaves(kept)
  assert sum(int(leaves[name].sum()) for name in SHAPES) == masks.kept_count(0.25, TOTAL)
  assert not leaves['stem/kernel'].any() and leaves['head/kernel'].ravel()[-1]
  with pytest.raises(ValueError, match=r"select must be one of \['place'\], got 'random'"):
    pruning.make_masks(
      KEY, None, PARAMS, None, ratio='erk', density=0.5, scores={'place': by_place}
    )


def test_a_mask_needs_a_key_of_two_words():
  with pytest.raises(ValueError, match=r'the key must be of two words, .* got one of 4'):
    pruning.make_masks(jax.random.key(0, impl='rbg'), None, PARAMS, None, ratio='er', density=0.5)


def test_unknown_names_are_refused_with_the_known_ones():
  with pytest.raises(ValueError, match=r"ratio must be one of \['balanced', .*'uniform.*got 'erq'"):
    make('erq', 'random')
  with pytest.raises(ValueError, match=r"select must be one of \[.*'snip'.*\], got 'erk'"):
    make('erk', 'erk')
  with pytest.raises(ValueError, match=r"sampling must be one of \['bernoulli', 'exact', 'fan_in'"):
    make('erk', 'random', sampling='dice')
  with pytest.raises(ValueError, match=r"select must be 'random', got 'snip'"):
    make('erk', 'snip', sampling='bernoulli')
  with pytest.raises(ValueError, match=r"sampling must be one of .*'n_m'\], got 'nm'"):
    pruning.densities(SHAPES, ratio='erk', density=0.5, sampling='nm')
  with pytest.raises(ValueError, match=r"got the score 'snip', which shapes do not tell"):
    pruning.densities(SHAPES, ratio='snip', density=0.5)


def test_params_may_be_any_pytree_with_a_predicate_for_what_is_pruned():
  params = [{'w': jnp.ones((4, 6)), 'b': jnp.ones(6)}, (jnp.ones((6, 3)), jnp.ones(3))]
  shapes = pruning.prunable_shapes(params, prunable=lambda name: name in ('0/w', '1/0'))
  assert shapes == {'0/w': (4, 6), '1/0': (6, 3)}
  kept = pruning.make_masks(KEY, None, params, None, ratio='uniform', density=0.5, shapes=shapes)
  assert masks.count(kept) == {'0/b': 6, '0/w': 12, '1/0': 9, '1/1': 3}
