"""Layer-wise ratios: budgets, densities layer by layer, and refusals."""

import functools
import json
import math
import pathlib
import time

import jax.numpy as jnp
import numpy as np
import pytest

from random_pruning_jax import cost, models, ratios

DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.999, 1.0)
NETWORKS = ('cifar_resnet8', 'resnet20', 'resnet110', 'vgg16', 'resnet50', 'wrn101_2')
ON_BUDGET = sorted(set(ratios.RATIOS) - ratios.OFF_BUDGET)
TINY = {'stem/kernel': (1, 1, 1, 4), 'body/kernel': (2, 2, 4, 5), 'head/kernel': (4, 5)}


@functools.cache
def shapes(name):
  large = name in ('resnet50', 'wrn50_2', 'wrn101_2')
  model = models.create(name, 1000 if large else 10)
  return cost.structure(model, (224, 224, 3) if large else (32, 32, 3)).shapes


def total(shapes, densities=None):
  keep = densities or dict.fromkeys(shapes, 1)
  return math.fsum(keep[name] * math.prod(shape) for name, shape in shapes.items())


def needed(ratio, shapes):
  """What a ratio spends on stem and head before the other layers get any."""
  head = math.prod(shapes['head/kernel'])
  plus = math.prod(shapes['stem/kernel']) + 0.2 * head
  return {'erk_plus': head, 'uniform_plus': plus, 'uniform_plus_authors': plus}.get(ratio, 0)


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('ratio', ON_BUDGET)
def test_ratios_spend_exactly_the_budget_or_say_that_they_cannot(ratio, network):
  for density in DENSITIES:
    budget = density * total(shapes(network))
    if needed(ratio, shapes(network)) >= budget:
      with pytest.raises(ValueError, match=f'density {density} keeps .* must lie above'):
        ratios.RATIOS[ratio](shapes(network), density)
      continue
    densities = ratios.RATIOS[ratio](shapes(network), density)
    assert total(shapes(network), densities) == pytest.approx(budget, rel=1e-12)
    assert all(0 < kept <= 1 for kept in densities.values())


@pytest.mark.parametrize('ratio', ratios.RATIOS)
def test_ratios_keep_the_layers_and_their_order_and_leave_the_shapes_alone(ratio):
  given = dict(shapes('resnet20'))
  assert list(ratios.RATIOS[ratio](given, 0.1)) == list(given)
  assert given == shapes('resnet20')


@pytest.mark.parametrize('ratio', ratios.RATIOS)
def test_density_one_is_the_dense_network(ratio):
  for network in NETWORKS:
    assert set(ratios.RATIOS[ratio](shapes(network), 1.0).values()) == {1.0}


def test_ratios_off_budget_miss_it_in_the_direction_they_say():
  for density in (0.05, 0.1, 0.2, 0.5, 0.9):
    budget = density * total(shapes('resnet20'))
    authors = total(shapes('resnet20'), ratios.uniform_plus_authors(shapes('resnet20'), density))
    assert (authors > budget) == (density >= 0.2)
    assert total(shapes('resnet20'), ratios.balanced(shapes('resnet20'), density)) < budget


def test_a_network_worked_out_by_hand():
  # 4, 80 and 20 weights; half of them is 52.
  assert ratios.uniform_plus(TINY, 0.5) == pytest.approx(_tiny(1, 0.48, 0.48))
  # A little above 0.2 for all but the stem: (24.4 - 4) / 100.
  assert ratios.uniform_plus(TINY, 24.4 / 104) == pytest.approx(_tiny(1, 0.204, 0.204))
  # Below 0.2 for all: stem 4, head 0.2 * 20 = 4, and 15.6 - 8 for the body.
  assert ratios.uniform_plus(TINY, 0.15) == pytest.approx(_tiny(1, 7.6 / 80, 0.2))
  # Weights 5/4, 9/20, 9/20 cost 5, 36, 9: the stem saturates, and 48 is spent on 45.
  assert ratios.er(TINY, 0.5) == pytest.approx(_tiny(1, 0.48, 0.48))
  # Weights 7/4, 13/80, 9/20 cost 7, 13, 9: of 62.4 the stem takes all its 4, then of 58.4 for
  # 13 + 9 the head all its 20, and 38.4 is left for the body.
  assert ratios.erk(TINY, 0.6) == pytest.approx(_tiny(1, 0.48, 1))
  # 2.9 is a tenth of what they cost, so nothing saturates.
  assert ratios.erk(TINY, 2.9 / 104) == pytest.approx(_tiny(0.175, 0.01625, 0.045))
  # The head's 20 paid, 2 is a tenth of what the others cost.
  assert ratios.erk_plus(TINY, 22 / 104) == pytest.approx(_tiny(0.175, 0.01625, 1))
  # A third of 52 is more than the stem's 4, which are all it takes.
  assert ratios.balanced(TINY, 0.5) == pytest.approx(_tiny(1, 52 / 3 / 80, 52 / 3 / 20))


def _tiny(stem, body, head):
  return {'stem/kernel': stem, 'body/kernel': body, 'head/kernel': head}


def test_igq_and_pyramidal_have_the_shape_they_claim():
  quotas = ratios.igq(TINY, 0.3)
  assert len({round((1 / quotas[k] - 1) / math.prod(TINY[k]), 9) for k in TINY}) == 1
  first, second, third = ratios.pyramidal(TINY, 0.3).values()
  assert (second, third) == pytest.approx((first**2, first**3))


def test_pyramidal_follows_the_order_of_the_shapes_and_not_their_names():
  densities = ratios.pyramidal(dict(reversed(TINY.items())), 0.3)
  assert densities['head/kernel'] > densities['body/kernel'] > densities['stem/kernel']


# fmt: off
GOLDEN = [  # of ResNet-20, layer by layer
  ('erk', 0.5, '1.0000 1.0000 1.0000 1.0000 1.0000 1.0000 1.0000 1.0000 0.7676 1.0000 0.7676 '
   '0.7676 0.7676 0.7676 0.5592 0.3673 1.0000 0.3673 0.3673 0.3673 0.3673 1.0000'),
  ('erk', 0.2, '1.0000 0.5938 0.5938 0.5938 0.5938 0.5938 0.5938 0.4219 0.2735 1.0000 0.2735 '
   '0.2735 0.2735 0.2735 0.1992 0.1309 1.0000 0.1309 0.1309 0.1309 0.1309 1.0000'),
  ('erk', 0.1, '0.9830 0.2802 0.2802 0.2802 0.2802 0.2802 0.2802 0.1991 0.1290 1.0000 0.1290 '
   '0.1290 0.1290 0.1290 0.0940 0.0617 0.8128 0.0617 0.0617 0.0617 0.0617 1.0000'),
  ('erk', 0.05, '0.4748 0.1353 0.1353 0.1353 0.1353 0.1353 0.1353 0.0961 0.0623 0.8012 0.0623 '
   '0.0623 0.0623 0.0623 0.0454 0.0298 0.3926 0.0298 0.0298 0.0298 0.0298 0.9486'),
  ('igq', 0.1, '0.8050 0.4363 0.4363 0.4363 0.4363 0.4363 0.4363 0.2790 0.1621 0.7769 0.1621 '
   '0.1621 0.1621 0.1621 0.0882 0.0461 0.4655 0.0461 0.0461 0.0461 0.0461 0.7359'),
]
# fmt: on


@pytest.mark.parametrize(('ratio', 'density', 'expected'), GOLDEN)
def test_resnet20_has_the_expected_densities(ratio, density, expected):
  densities = ratios.RATIOS[ratio](shapes('resnet20'), density)
  assert [f'{kept:.4f}' for kept in densities.values()] == expected.split()


def test_wide_resnet50_at_a_fifth_has_the_expected_dense_layers():
  densities = ratios.erk(shapes('wrn50_2'), 0.2)
  assert f'{densities["head/kernel"]:.4f}' == '0.3183'
  dense = [name.removesuffix('/kernel') for name, kept in densities.items() if kept == 1]
  assert dense == [
    'stem',
    *(f'stage1_block0/{layer}' for layer in ('conv1', 'conv3', 'projection')),
    *(f'stage1_block{block}/{layer}' for block in (1, 2) for layer in ('conv1', 'conv3')),
    *(f'stage2_block0/{layer}' for layer in ('conv1', 'conv3', 'projection')),
    *(f'stage2_block{block}/{layer}' for block in (1, 2, 3) for layer in ('conv1', 'conv3')),
  ]


def test_densities_are_those_of_the_authors_code():
  path = pathlib.Path(__file__).parents[2] / 'shared/oracle/layer_densities.json'
  if not path.exists():
    pytest.skip(f'The densities computed by the code of Liu et al. are not at {path}.')
  for network in json.loads(path.read_text()):
    layers = _flax(network)
    for key, entry in network['densities'].items():
      ratio, density = key.lower().split('@')
      same = entry['paper'] == 'same'
      if entry['paper'] == 'infeasible':
        with pytest.raises(ValueError, match='must lie above'):
          ratios.RATIOS[ratio](layers, float(density))
      else:
        _compare(ratio, layers, density, entry['authors' if same else 'paper'])
      if ratio == 'uniform_plus' and entry['authors']:
        _compare('uniform_plus_authors', layers, density, entry['authors'])


def _compare(ratio, layers, density, expected):
  densities = ratios.RATIOS[ratio](layers, float(density))
  assert list(densities.values()) == pytest.approx(expected, rel=1e-12)


def _flax(network):
  """PyTorch's (out, in, h, w) and (out, in) as (h, w, in, out) and (in, out)."""
  names = ('stem', *network['names'][1:-1], 'head')
  return {
    name: (*shape[2:], shape[1], shape[0])
    for name, shape in zip(names, network['shapes'], strict=True)
  }


def test_erk_for_a_hundred_layers_takes_less_than_ten_milliseconds():
  layers = shapes('wrn101_2')
  started = time.process_time()
  for density in DENSITIES:
    ratios.erk(layers, density)
  assert (time.process_time() - started) / len(DENSITIES) < 0.01


@pytest.mark.parametrize('kind', [np.float16, jnp.float16, jnp.bfloat16, np.float64])
@pytest.mark.parametrize('ratio', ratios.RATIOS)
def test_a_density_may_be_a_number_of_any_precision(ratio, kind):
  density = kind(0.3)
  found = ratios.RATIOS[ratio](shapes('resnet20'), density)
  assert found == ratios.RATIOS[ratio](shapes('resnet20'), float(density))
  assert all(type(kept) is float for kept in found.values())


@pytest.mark.parametrize('ratio', ratios.RATIOS)
@pytest.mark.parametrize('density', [0, -0.1, 1.5, float('nan'), '0.3', None])
def test_densities_out_of_range_are_refused(ratio, density):
  with pytest.raises(ValueError, match=rf'density must lie in \(0, 1\], got {density!r}'):
    ratios.RATIOS[ratio](TINY, density)


@pytest.mark.parametrize(
  ('ratio', 'missing'),
  [('uniform_plus', 'stem'), ('uniform_plus_authors', 'head'), ('erk_plus', 'head')],
)
def test_layers_that_a_ratio_sets_apart_must_be_there_by_name(ratio, missing):
  renamed = {name.replace(missing, 'other'): shape for name, shape in TINY.items()}
  with pytest.raises(ValueError, match=f"exactly one layer called '{missing}' .*got none"):
    ratios.RATIOS[ratio](renamed, 0.5)
  doubled = TINY | {f'{missing}/more/kernel': (4, 4)}
  with pytest.raises(ValueError, match=f"exactly one layer called '{missing}' .*got .*more"):
    ratios.RATIOS[ratio](doubled, 0.5)
  longer = TINY | {f'{missing}_of_more/kernel': (4, 4)}  # another name, which it begins
  assert ratios.RATIOS[ratio](longer, 0.5).keys() == longer.keys()


def test_an_impossible_budget_names_its_numbers():
  with pytest.raises(
    ValueError,
    match=r'density 0\.05 keeps 1,275,146 of 25,502,912 weights, but this ratio needs 2,048,000 '
    r'for head/kernel at 1 alone: the density must lie above 0\.0803',
  ):
    ratios.erk_plus(shapes('resnet50'), 0.05)


def test_a_budget_that_leaves_nothing_to_other_layers_is_refused():
  with pytest.raises(ValueError, match=r'for head/kernel at 1 alone: .* must lie above 0\.5'):
    ratios.erk_plus({'body/kernel': (4, 5), 'head/kernel': (4, 5)}, 0.5)


@pytest.mark.parametrize(
  ('ratio', 'given', 'kept'),
  [
    ('uniform_plus', {'stem/kernel': (3, 3, 3, 16), 'head/kernel': (16, 10)}, 432 + 32),
    ('erk_plus', {'head/kernel': (16, 10)}, 160),
  ],
)
def test_a_budget_that_layers_set_apart_miss_by_a_weight_or_more_is_refused(ratio, given, kept):
  assert ratios.RATIOS[ratio](given, 1.0) == dict.fromkeys(given, 1.0)
  for density in (0.5, (kept - 1) / total(given)):
    with pytest.raises(ValueError, match=r'leaves no choice in .*head/kernel, which keep'):
      ratios.RATIOS[ratio](given, density)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({}, 'at least one layer, got none'),
    ({'bias': (5,)}, r'bias must be \(..., in, out\), got \(5'),
    ({'empty/kernel': (0, 5)}, r'empty/kernel must be \(..., in, out\), got \(0, 5'),
  ],
)
def test_shapes_that_are_no_kernels_are_refused(given, message):
  with pytest.raises(ValueError, match=message):
    ratios.erk(given, 0.5)
