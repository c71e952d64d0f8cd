"""Costs of networks, against published counts and against counts by hand."""

import functools
import time

import flax.linen as nn
import pytest

from random_pruning_jax import cost, models, ratios

# name, width -> prunable layers, their weights, millions of multiply-adds
COUNTS = [
  ('resnet20', 0, 22, 270_896, '40.81'),
  ('resnet32', 0, 34, 464_432, '69.12'),
  ('resnet44', 0, 46, 657_968, '97.44'),
  ('resnet56', 0, 58, 851_504, '125.75'),
  ('resnet110', 0, 112, 1_722_416, '253.15'),
  ('resnet20', 8, 22, 67_992, '10.31'),
  ('resnet20', 24, 22, 608_712, '91.50'),
  ('resnet20', 4, 22, 17_132, '2.63'),
  ('vgg11', 0, 9, 9_222_848, '152.77'),
  ('vgg13', 0, 11, 9_407_168, '228.27'),
  ('vgg16', 0, 14, 14_715_584, '313.20'),
  ('vgg19', 0, 17, 20_024_000, '398.14'),
  ('resnet18', 0, 21, 11_678_912, '1814.07'),
  ('resnet34', 0, 37, 21_779_648, '3663.76'),
  ('resnet50', 0, 54, 25_502_912, '4089.18'),
  ('resnet101', 0, 105, 44_442_816, '7801.41'),
  ('wrn50_2', 0, 54, 68_814_016, '11398.02'),
]

# Multiply-adds over the dense network's; in brackets a total density that is not the one asked for.
RATIOS = ('uniform_plus', 'uniform_plus_authors', 'erk', 'erk_plus', 'balanced', 'pyramidal', 'igq')
FRACTIONS = """
resnet20 0.5 | 0.505 | 0.505 [0.5008] | 0.737 | 0.737 | 0.644 [0.3314] | 0.637 | 0.694
resnet20 0.3 | 0.306 | 0.308 [0.3011] | 0.541 | 0.541 | 0.538 [0.2281] | 0.468 | 0.517
resnet20 0.2 | 0.207 | 0.209 [0.2013] | 0.358 | 0.358 | 0.480 [0.1735] | 0.372 | 0.396
resnet20 0.1 | 0.108 | 0.108 [0.0996] | 0.177 | 0.177 | 0.259 [0.0922] | 0.255 | 0.235
resnet20 0.05 | 0.058 | 0.058 [0.0498] | 0.087 | 0.086 | 0.137 [0.0489] | 0.176 | 0.129
resnet32 0.5 | 0.503 | 0.503 [0.5005] | 0.736 | 0.736 | 0.659 [0.3468] | 0.638 | 0.693
resnet32 0.3 | 0.304 | 0.304 [0.3007] | 0.546 | 0.546 | 0.541 [0.2339] | 0.471 | 0.516
resnet32 0.2 | 0.204 | 0.205 [0.2007] | 0.363 | 0.363 | 0.478 [0.1751] | 0.375 | 0.397
resnet32 0.1 | 0.105 | 0.105 [0.0998] | 0.180 | 0.180 | 0.275 [0.0946] | 0.260 | 0.237
resnet32 0.05 | 0.055 | 0.055 [0.0499] | 0.089 | 0.089 | 0.142 [0.0490] | 0.181 | 0.131
resnet44 0.5 | 0.502 | 0.502 [0.5003] | 0.736 | 0.736 | 0.668 [0.3550] | 0.638 | 0.692
resnet44 0.3 | 0.303 | 0.303 [0.3005] | 0.549 | 0.549 | 0.544 [0.2372] | 0.472 | 0.516
resnet44 0.2 | 0.203 | 0.204 [0.2005] | 0.365 | 0.365 | 0.478 [0.1763] | 0.376 | 0.398
resnet44 0.1 | 0.103 | 0.103 [0.0998] | 0.181 | 0.181 | 0.283 [0.0959] | 0.262 | 0.238
resnet44 0.05 | 0.054 | 0.053 [0.0499] | 0.090 | 0.090 | 0.144 [0.0491] | 0.184 | 0.132
resnet56 0.5 | 0.502 | 0.502 [0.5003] | 0.735 | 0.735 | 0.674 [0.3601] | 0.639 | 0.692
resnet56 0.3 | 0.302 | 0.302 [0.3004] | 0.550 | 0.550 | 0.545 [0.2392] | 0.472 | 0.516
resnet56 0.2 | 0.202 | 0.203 [0.2004] | 0.366 | 0.366 | 0.478 [0.1771] | 0.377 | 0.398
resnet56 0.1 | 0.103 | 0.103 [0.0999] | 0.182 | 0.182 | 0.288 [0.0967] | 0.263 | 0.239
resnet56 0.05 | 0.053 | 0.053 [0.0499] | 0.090 | 0.090 | 0.146 [0.0493] | 0.185 | 0.133
resnet110 0.5 | 0.501 | 0.501 [0.5001] | 0.735 | 0.735 | 0.685 [0.3699] | 0.640 | 0.691
resnet110 0.3 | 0.301 | 0.301 [0.3002] | 0.552 | 0.552 | 0.548 [0.2431] | 0.474 | 0.515
resnet110 0.2 | 0.201 | 0.201 [0.2002] | 0.368 | 0.368 | 0.478 [0.1788] | 0.379 | 0.398
resnet110 0.1 | 0.101 | 0.101 [0.0999] | 0.183 | 0.183 | 0.297 [0.0982] | 0.266 | 0.240
resnet110 0.05 | 0.051 | 0.051 | 0.091 | 0.091 | 0.149 [0.0496] | 0.188 | 0.134
vgg16 0.5 | 0.503 | 0.503 [0.5001] | 0.754 | 0.754 | 0.683 [0.3238] | 0.645 | 0.713
vgg16 0.3 | 0.304 | 0.304 [0.3001] | 0.576 | 0.576 | 0.557 [0.2095] | 0.475 | 0.558
vgg16 0.2 | 0.204 | 0.205 [0.2001] | 0.442 | 0.442 | 0.476 [0.1466] | 0.377 | 0.456
vgg16 0.1 | 0.105 | 0.105 | 0.243 | 0.243 | 0.357 [0.0794] | 0.258 | 0.316
vgg16 0.05 | 0.055 | 0.055 | 0.124 | 0.124 | 0.254 [0.0423] | 0.180 | 0.209
resnet18 0.5 | 0.532 | 0.533 [0.5004] | 0.796 | 0.796 | 0.704 [0.2866] | 0.679 | 0.772
resnet18 0.3 | 0.345 | 0.346 [0.3006] | 0.620 | 0.620 | 0.644 [0.2009] | 0.527 | 0.635
resnet18 0.2 | 0.251 | 0.252 [0.2006] | 0.482 | 0.449 | 0.566 [0.1471] | 0.438 | 0.537
resnet18 0.1 | 0.154 | 0.150 [0.0960] | 0.268 | 0.177 | 0.455 [0.0836] | 0.328 | 0.386
resnet18 0.05 | 0.105 | 0.103 [0.0482] | 0.134 | 0.020 | 0.328 [0.0467] | 0.252 | 0.258
resnet34 0.5 | 0.516 | 0.516 [0.5002] | 0.763 | 0.763 | 0.676 [0.3260] | 0.661 | 0.739
resnet34 0.3 | 0.322 | 0.323 [0.3003] | 0.562 | 0.562 | 0.591 [0.2233] | 0.501 | 0.576
resnet34 0.2 | 0.225 | 0.226 [0.2003] | 0.427 | 0.414 | 0.504 [0.1618] | 0.409 | 0.466
resnet34 0.1 | 0.126 | 0.124 [0.0977] | 0.227 | 0.192 | 0.369 [0.0881] | 0.298 | 0.314
resnet34 0.05 | 0.077 | 0.076 [0.0489] | 0.115 | 0.067 | 0.259 [0.0481] | 0.224 | 0.200
resnet50 0.5 | 0.514 | 0.514 [0.5002] | 0.714 | 0.679 | 0.709 [0.3299] | 0.661 | 0.754
resnet50 0.3 | 0.320 | 0.320 [0.3003] | 0.532 | 0.458 | 0.609 [0.2216] | 0.500 | 0.594
resnet50 0.2 | 0.223 | 0.223 [0.2003] | 0.414 | 0.292 | 0.510 [0.1576] | 0.407 | 0.483
resnet50 0.1 | 0.117 | 0.110 [0.0933] | 0.242 | 0.051 | 0.383 [0.0878] | 0.294 | 0.327
resnet50 0.05 | 0.064 | 0.062 [0.0473] | 0.122 | infeasible | 0.263 [0.0470] | 0.219 | 0.211
resnet101 0.5 | 0.507 | 0.508 [0.5001] | 0.628 | 0.600 | 0.630 [0.4162] | 0.622 | 0.656
resnet101 0.3 | 0.310 | 0.311 [0.3001] | 0.424 | 0.383 | 0.467 [0.2618] | 0.448 | 0.460
resnet101 0.2 | 0.212 | 0.212 [0.2002] | 0.307 | 0.251 | 0.365 [0.1799] | 0.351 | 0.345
resnet101 0.1 | 0.109 | 0.104 [0.0958] | 0.166 | 0.093 | 0.246 [0.0943] | 0.237 | 0.210
resnet101 0.05 | 0.057 | 0.055 [0.0481] | 0.083 | 0.007 | 0.156 [0.0487] | 0.164 | 0.126
wrn50_2 0.5 | 0.505 | 0.505 [0.5001] | 0.672 | 0.672 | 0.664 [0.3124] | 0.651 | 0.730
wrn50_2 0.3 | 0.307 | 0.307 [0.3001] | 0.478 | 0.461 | 0.537 [0.2126] | 0.487 | 0.561
wrn50_2 0.2 | 0.208 | 0.208 [0.2001] | 0.365 | 0.340 | 0.455 [0.1514] | 0.393 | 0.448
wrn50_2 0.1 | 0.106 | 0.103 [0.0972] | 0.222 | 0.171 | 0.346 [0.0872] | 0.279 | 0.295
wrn50_2 0.05 | 0.055 | 0.054 [0.0487] | 0.118 | 0.050 | 0.213 [0.0455] | 0.203 | 0.186
"""


@functools.cache
def structure(name, width=0):
  large = name.startswith('wrn') or name in {f'resnet{n}' for n in (18, 34, 50, 101, 152)}
  classes, image = (1000, (224, 224, 3)) if large else (10, (32, 32, 3))
  return cost.structure(models.create(name, classes, width=width), image)


@pytest.mark.parametrize(('name', 'width', 'layers', 'weights', 'macs'), COUNTS)
def test_counts_are_those_of_the_published_networks(name, width, layers, weights, macs):
  network = structure(name, width)
  assert len(network.layers) == layers
  assert sum(layer.size for layer in network.layers) == weights
  assert f'{cost.macs(network.layers) / 1e6:.2f}' == macs


@pytest.mark.parametrize('row', FRACTIONS.strip().splitlines())
def test_multiply_adds_of_every_ratio_agree_with_the_table(row):
  network, *cells = row.split(' | ')
  name, density = network.split()
  found = [fraction(structure(name), ratio, float(density)) for ratio in RATIOS]
  assert found == cells


def fraction(network, ratio, density):
  try:
    densities = ratios.RATIOS[ratio](network.shapes, density)
  except ValueError:
    return 'infeasible'
  kept = sum(densities[layer.name] * layer.size for layer in network.layers)
  total = f'{kept / sum(layer.size for layer in network.layers):.4f}'
  note = '' if total == f'{density:.4f}' else f' [{total}]'
  return f'{cost.macs(network.layers, densities) / cost.macs(network.layers):.3f}{note}'


def test_layers_come_in_the_order_in_which_an_image_meets_them():
  names = [layer.name for layer in structure('resnet20').layers]
  assert names[:3] == ['stem/kernel', 'stage1_block0/conv1/kernel', 'stage1_block0/conv2/kernel']
  assert names[7:10] == [
    'stage2_block0/conv1/kernel',
    'stage2_block0/conv2/kernel',
    'stage2_block0/projection/kernel',
  ]
  assert names[-1] == 'head/kernel'


class Small(nn.Module):
  """Two convolutions, the second in groups and used twice, and a linear layer."""

  @nn.compact
  def __call__(self, images):
    x = nn.Conv(4, (3, 3), strides=2, name='first')(images)
    twice = nn.Conv(4, (1, 1), feature_group_count=2, use_bias=False, name='twice')
    x = nn.BatchNorm(use_running_average=True, name='norm')(twice(twice(x)))
    return nn.Dense(5, name='head')(x.reshape(len(x), -1))


def test_a_network_counted_by_hand():
  network = cost.structure(Small(), (4, 4, 2))
  # The map is 2 x 2 after the first layer; a grouped kernel sees 2 of the 4 channels.
  assert network.layers == (
    cost.Layer('first/kernel', (3, 3, 2, 4), 4 * 72),
    cost.Layer('twice/kernel', (1, 1, 2, 4), 2 * 4 * 8),
    cost.Layer('head/kernel', (16, 5), 80),
  )
  assert network.parameters == (72 + 4) + 8 + (4 + 4) + (80 + 5)
  assert network.statistics == 4 + 4

  half = {'first/kernel': 0.5, 'twice/kernel': 1.0, 'head/kernel': 0.25}
  assert cost.kept(network.layers, half) == 36 + 8 + 20
  assert cost.macs(network.layers) == 288 + 64 + 80
  assert cost.macs(network.layers, half) == 144 + 64 + 20
  assert cost.training_flops(network.layers, samples=10) == 2 * 3 * 10 * 432
  assert cost.training_flops(network.layers, 10, half) == 2 * 3 * 10 * 228
  assert cost.file_bytes(network) == 4 * (177 + 8)
  assert cost.file_bytes(network, half) == 4 * (64 + 17 + 8)


@pytest.mark.parametrize('settings', [{'remat': True}, {'dtype': 'bfloat16'}, {'axis_name': 'x'}])
def test_settings_that_change_no_shape_change_no_cost(settings):
  for name in ('resnet20', 'vgg16'):
    assert cost.structure(models.create(name, 10, **settings), (32, 32, 3)) == structure(name)


def test_a_kernel_that_cannot_be_counted_is_refused_by_name():
  network = nn.Sequential([nn.Conv(4, (1, 1)), nn.ConvTranspose(2, (2, 2))])
  with pytest.raises(ValueError, match=r'Only nn\.Conv and nn\.Dense .* layers_1/kernel'):
    cost.structure(network, (4, 4, 1))


class Repeated(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    return nn.Dense(4)(x), None


def test_layers_that_are_stored_as_one_are_refused_by_name():
  loop = nn.scan(Repeated, variable_axes={'params': 0}, split_rngs={'params': True}, length=8)
  with pytest.raises(ValueError, match=r'Dense_0/kernel is \(4, 4\) .* and \(8, 4, 4\) as it is'):
    cost.structure(nn.Sequential([lambda x: loop()(x, None)[0]]), (4,))


def test_kernels_in_boxes_count_as_those_without():
  boxed = nn.with_partitioning(nn.initializers.ones, ('in', 'out'))
  found = cost.structure(nn.Dense(5, kernel_init=boxed), (4,))
  assert found == cost.structure(nn.Dense(5), (4,))


def test_densities_of_another_network_are_refused_by_name():
  densities = ratios.erk(structure('resnet20').shapes, 0.1)
  densities['neck/kernel'] = densities.pop('head/kernel')
  with pytest.raises(ValueError, match=r"missing \['head/kernel'\], unknown \['neck/kernel'\]"):
    cost.macs(structure('resnet20').layers, densities)


def test_the_largest_network_is_planned_in_under_three_seconds():
  model = models.create('wrn101_2', 1000)
  started = time.process_time()
  network = cost.structure(model, (224, 224, 3))
  kept = cost.kept(network.layers, ratios.erk(network.shapes, 0.1))
  assert time.process_time() - started < 3
  budget = 0.1 * sum(layer.size for layer in network.layers)
  assert abs(kept - budget) <= len(network.layers) / 2  # each layer's count is rounded
