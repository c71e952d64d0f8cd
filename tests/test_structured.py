"""Structured masks keep their structure and their budget, or say what they can keep."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from random_pruning_jax import cost, masks, models, pruning, scores, structured

PARAMS = {
  'stem': {'kernel': jnp.ones((3, 3, 3, 8))},
  'conv': {'kernel': jnp.ones((3, 3, 8, 12))},
  'head': {'kernel': jnp.ones((12, 10)), 'bias': jnp.ones(10)},
}
SHAPES = {'stem/kernel': (3, 3, 3, 8), 'conv/kernel': (3, 3, 8, 12), 'head/kernel': (12, 10)}


def make(sampling, density, ratio='uniform', **options):
  key = jax.random.key(0)
  return pruning.make_masks(
    key,
    None,
    PARAMS,
    None,
    ratio=ratio,
    density=density,
    sampling=sampling,
    shapes=SHAPES,
    **options,
  )


def test_two_of_four_by_hand():
  """One unit with inputs 0..7: of 0 1 2 3 the last two, of 7 6 5 4 the first two."""
  kernel = np.array([0, 1, 2, 3, 7, 6, 5, 4], np.float32)[:, None]
  kept = structured.n_m({'kernel': kernel}, {'kernel': 0.5}, 4)['kernel']
  assert np.flatnonzero(kept).tolist() == [2, 3, 4, 5]


def test_constant_fan_in_by_hand_with_ties_by_index():
  kernel = np.array([[1, 5], [1, 4], [1, 3], [1, 9]], np.float32)
  kept = structured.fan_in({'kernel': kernel}, {'kernel': 0.5})['kernel']
  assert kept.tolist() == [[True, True], [True, False], [False, False], [False, True]]


@pytest.mark.parametrize(('density', 'kept_of_four'), [(0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_every_block_keeps_n_of_m_inputs_and_the_stem_is_held_dense(density, kept_of_four):
  kept = make('n_m', density, dense=('stem',))
  assert kept['stem']['kernel'].all()
  blocks = np.asarray(kept['conv']['kernel']).reshape(3, 3, 2, 4, 12).sum(3)
  assert (blocks == kept_of_four).all()
  assert (np.asarray(kept['head']['kernel']).reshape(3, 4, 10).sum(1) == kept_of_four).all()
  conv = np.asarray(kept['conv']['kernel'])
  if density < 1:  # every tap and unit draws for itself
    assert len(np.unique(conv.transpose(0, 1, 3, 2).reshape(-1, 8), axis=0)) > 1


def test_n_m_refuses_what_it_cannot_keep_and_says_what_it_can():
  with pytest.raises(
    ValueError, match=r'blocks of 4, but stem/kernel has 3: hold such layers dense'
  ):
    make('n_m', 0.5)
  with pytest.raises(ValueError, match=r'can keep 0.25, 0.5, 0.75, 1 of a layer, got 0.3 for conv'):
    make('n_m', 0.3, dense=('stem',))
  with pytest.raises(ValueError, match=r'got 0\.\d+ for conv/kernel; ratio uniform'):
    make('n_m', 0.5, ratio='erk', dense=('stem/kernel',))
  with pytest.raises(ValueError, match='block must be at least 1, got 0'):
    make('n_m', 0.5, block=0)
  with pytest.raises(ValueError, match=r'got 0 for conv/kernel'):
    structured.n_m_densities(SHAPES, {'conv/kernel': 0.0, 'head/kernel': 1.0}, 4)


def test_n_m_refuses_a_score_as_ratio_before_it_is_computed():
  def never(*_, **__):
    raise AssertionError('scored')

  weights = {'w': {'kernel': np.ones((8, 20))}}
  options = {'ratio': 'snip', 'sampling': 'n_m', 'scores': {'snip': never, 'random': never}}
  with pytest.raises(ValueError, match=r"a score leaves to no layer: ratio must .* got 'snip'"):
    pruning.make_masks(jax.random.key(0), None, weights, None, density=0.5, **options)
  whole = pruning.make_masks(jax.random.key(0), None, weights, None, density=1.0, **options)
  assert np.asarray(whole['w']['kernel']).all()


def test_a_layer_that_the_ratio_keeps_whole_needs_no_blocks():
  densities = {'stem/kernel': 1.0, 'conv/kernel': 0.5, 'head/kernel': 0.5}
  assert structured.n_m_densities(SHAPES, densities, 4) == densities


@pytest.mark.parametrize('ratio', ['uniform', 'erk', 'igq'])
@pytest.mark.parametrize('density', [0.05, 0.1, 0.37, 0.9])
def test_every_unit_has_the_same_fan_in_and_the_total_is_on_budget(ratio, density):
  model = models.create('resnet20', 10)
  shapes = cost.structure(model, (32, 32, 3)).shapes
  ideal = pruning.RATIOS[ratio](shapes, density)
  fit = structured.fan_in_densities(shapes, ideal)
  size = {name: math.prod(shape) for name, shape in shapes.items()}
  kept = sum(masks.kept_count(fit[name], size[name]) for name in shapes)
  assert abs(kept - density * sum(size.values())) <= 32.5  # half of 64, where others are dense
  for name, shape in shapes.items():
    fan = math.prod(shape[:-1])
    assert fit[name] * fan == pytest.approx(round(fit[name] * fan))
    assert abs(fit[name] - ideal[name]) * fan < 1
  name = 'stage2_block1/conv1/kernel'
  bits = scores.random(None, {name: np.zeros(shapes[name])}, None, jax.random.key(0))
  fans = structured.fan_in(bits, {name: fit[name]})[name].sum((0, 1, 2))
  assert (fans == round(fit[name] * 288)).all()


def test_fan_in_refuses_what_it_cannot_keep_and_says_what_it_can():
  """Of 700 and 39 weights wanted, possible are 10 more of the second layer, or 64 of the first."""
  two = {'a/kernel': (100, 64), 'b/kernel': (64, 10)}
  with pytest.raises(
    ValueError,
    match=r'cannot keep 739 of 7,040 weights: .* are a density of 0.100852273 or 0.108522727',
  ):
    structured.fan_in_densities(two, pruning.RATIOS['uniform'](two, 0.105))
  with pytest.raises(ValueError, match=r'cannot keep 718 of 7,040 weights'):  # 8 more than can be
    structured.fan_in_densities(two, pruning.RATIOS['uniform'](two, 0.102))
  with pytest.raises(ValueError, match=r'cannot keep 6,982 of 7,040 weights'):  # 6 more than can be
    structured.fan_in_densities(two, pruning.RATIOS['uniform'](two, 6982 / 7040))
  for possible, kept in ((0.100852, 710), (0.108523, 764)):
    fit = structured.fan_in_densities(two, pruning.RATIOS['uniform'](two, possible))
    assert fit['a/kernel'] * 6400 + fit['b/kernel'] * 640 == pytest.approx(kept)
  with pytest.raises(
    ValueError, match=r'cannot keep 3,201 of 7,040 .* are a density of 0.455965909.'
  ):
    structured.fan_in_densities(two, {'a/kernel': 0.5, 'b/kernel': 0.001})  # 50 and 1 inputs a unit


def test_fan_in_refuses_nothing_that_some_rounding_of_its_layers_keeps():
  """Against all ways to round inputs a unit down or up, to one at least."""
  shapes = {'a': (1, 4), 'b': (1, 1, 2, 3), 'c': (3, 3, 1, 2), 'd': (5, 7), 'e': (11, 6)}
  refused = 0
  for density in np.linspace(0.01, 1, 200):
    ideal = {name: density * math.prod(shape[:-1]) for name, shape in shapes.items()}
    ways = {name: {max(1, math.floor(x)), max(1, math.ceil(x))} for name, x in ideal.items()}
    narrowest = min((shapes[name][-1] for name in shapes if len(ways[name]) == 2), default=0)
    totals = [
      sum(inputs * shape[-1] for inputs, shape in zip(way, shapes.values(), strict=True))
      for way in itertools.product(*ways.values())
    ]
    wanted = density * sum(map(math.prod, shapes.values()))
    least = min(abs(total - wanted) for total in totals)
    try:
      fit = structured.fan_in_densities(shapes, dict.fromkeys(shapes, density))
    except ValueError:
      assert least > narrowest / 2
      refused += 1
    else:
      kept = sum(fit[name] * math.prod(shape) for name, shape in shapes.items())
      assert abs(kept - wanted) == pytest.approx(least)
  assert 0 < refused < 100


@pytest.mark.parametrize('density', [0.05, 0.2, 0.8])
def test_fan_in_of_a_narrow_head_beside_wide_layers_is_on_budget(density):
  shapes = cost.structure(models.create('vgg16', 10), (32, 32, 3)).shapes
  fit = structured.fan_in_densities(shapes, pruning.RATIOS['uniform'](shapes, density))
  size = {name: math.prod(shape) for name, shape in shapes.items()}
  kept = sum(fit[name] * size[name] for name in shapes)
  assert kept == pytest.approx(density * sum(size.values()), rel=1e-4)


@pytest.mark.parametrize('sampling', ['n_m', 'fan_in'])
def test_leaves_that_are_stored_otherwise_are_refused(sampling):
  params, shapes = {'fc': {'kernel': np.ones((12, 20))}}, {'fc/kernel': (20, 12)}
  with pytest.raises(ValueError, match=r'fc/kernel is stored as \(12, 20\)'):
    pruning.make_masks(
      jax.random.key(0),
      None,
      params,
      None,
      ratio='uniform',
      density=0.5,
      sampling=sampling,
      shapes=shapes,
    )


@pytest.mark.parametrize('sampling', ['n_m', 'fan_in'])
def test_leaves_whose_axes_may_be_others_want_their_shapes_given(sampling):
  params = {'query': {'kernel': np.ones((8, 2, 4))}, 'fc': {'kernel': np.ones((8, 4))}}
  options = {'ratio': 'uniform', 'density': 0.5, 'sampling': sampling, 'block': 2}
  draw = functools.partial(pruning.make_masks, jax.random.key(0), None, params, None, **options)
  with pytest.raises(ValueError, match=r'query/kernel of \(8, 2, 4\) may not be: .*pass shapes='):
    draw()
  assert masks.count(draw(dense=['query'])) == {'fc/kernel': 16, 'query/kernel': 64}
  assert masks.count(draw(shapes=pruning.prunable_shapes(params)))['query/kernel'] == 32


def test_scores_choose_within_the_structure():
  weights = {'kernel': np.random.RandomState(0).randn(8, 5).astype(np.float32)}
  kept = pruning.make_masks(
    jax.random.key(0), None, weights, None,
    ratio='uniform', select='magnitude', density=0.25, sampling='fan_in',
  )  # fmt: skip
  size = np.abs(weights['kernel'])
  np.testing.assert_array_equal(kept['kernel'], size >= np.sort(size, axis=0)[-2])


def test_a_score_as_ratio_keeps_its_budget_in_units_of_equal_fan_in():
  """The 12 largest of 24 weights are 3, 3 and 6 of three layers of 2 units: 1.5, 1.5 and 3 each."""
  largest = {'a': 3, 'b': 3, 'c': 6}
  params = {
    name: {'kernel': (np.arange(8) < count).reshape(4, 2).astype(np.float32)}
    for name, count in largest.items()
  }
  kept = pruning.make_masks(
    jax.random.key(0), None, params, None, ratio='magnitude', density=0.5, sampling='fan_in'
  )
  assert sorted(masks.count(kept).values()) == [2, 4, 6]


def test_structured_sampling_refuses_scores_that_are_no_numbers_or_not_there():
  with pytest.raises(ValueError, match='must be finite'):
    structured.fan_in({'w': np.array([[np.nan], [1.0]])}, {'w': 0.5})
  with pytest.raises(ValueError, match='without scores'):
    structured.n_m({'w': np.ones((4, 1))}, {'v': 0.5}, 4)
