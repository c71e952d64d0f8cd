"""Scores are what their formulas say, on any number of devices."""

import functools
import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tiny import tinier_config

from random_pruning_jax import (
  data,
  experiment,
  flow,
  masks,
  models,
  parallel,
  scores,
  scoring,
  synflow,
)
from random_pruning_jax.models.layers import Network
from random_pruning_jax.suites import gradients


def mlp(*sizes, seed=0):
  """Kernels of linear layers; only the last has a bias."""
  rng = np.random.RandomState(seed)
  params = {
    f'layer{i}': {'kernel': rng.randn(a, b).astype(np.float32) / np.sqrt(a)}
    for i, (a, b) in enumerate(itertools.pairwise(sizes))
  }
  params[f'layer{len(sizes) - 2}']['bias'] = np.zeros(sizes[-1], np.float32)
  return params


def apply_mlp(params, images, train=True, normalize=True, activation=nn.relu):
  x = images.reshape(len(images), -1)
  for i in range(len(params)):
    x = activation(x) if i else x
    x = x @ params[f'layer{i}']['kernel']
  return x + params[f'layer{len(params) - 1}']['bias']


def tanh_mlp(params, images):  # relu has no curvature of its own
  return apply_mlp(params, images, activation=jnp.tanh)


def a_batch(size=12, shape=(2, 2, 1), classes=3, seed=0):
  rng = np.random.RandomState(seed)
  return {
    'image': rng.rand(size, *shape).astype(np.float32),
    'label': np.arange(size, dtype=np.int32) % classes,
  }


class TinyNetwork(Network):
  """Convolution, BatchNorm, ReLU, classifier."""

  @nn.compact
  def __call__(self, images, train=False, *, normalize=True, features=False):
    x = self.normalized(images) if normalize else images
    x = self.layers.conv(4, 3, name='stem')(x)
    x = nn.relu(self.layers.norm(train, name='stem_norm')(x))
    return self.classify(x, features)


def tiny_params(seed=0):
  rng = np.random.RandomState(seed)
  return {
    'stem': {'kernel': rng.randn(3, 3, 1, 4).astype(np.float32)},
    'stem_norm': {'scale': np.ones(4, np.float32), 'bias': np.zeros(4, np.float32)},
    'head': {
      'kernel': rng.randn(4, 10).astype(np.float32),
      'bias': rng.randn(10).astype(np.float32),
    },
  }


def close(a, b, tolerance=1e-5):
  """Leaf by leaf, relative to the largest number of the leaf."""

  def one(x, y):
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * (np.abs(y).max() + 1e-30))

  jax.tree.map(one, jax.device_get(a), jax.device_get(b))


def test_snip_is_weight_times_gradient_of_the_cross_entropy():
  """For a linear classifier, whose gradient is x^T (softmax - one hot) / B."""
  params, batch = mlp(4, 3), a_batch()
  x, w = batch['image'].reshape(-1, 4).astype(np.float64), params['layer0']['kernel']
  exp = np.exp(x @ w)
  gradient = x.T @ (exp / exp.sum(1, keepdims=True) - np.eye(3)[batch['label']]) / len(x)
  found = scores.snip(apply_mlp, params, batch, None)
  close(found['layer0']['kernel'], np.abs(w * gradient))


def explicit_grasp(apply_fn, params, batch):
  """w * Hg with the whole Hessian of the kernels, temperature 200."""
  kernels = {name: layer['kernel'] for name, layer in params.items()}
  flat, back = ravel_pytree(kernels)

  def loss(vector):
    merged = {name: params[name] | {'kernel': leaf} for name, leaf in back(vector).items()}
    log_p = jax.nn.log_softmax(apply_fn(merged, batch['image']) / 200)
    return -jnp.mean(log_p[jnp.arange(len(batch['label'])), batch['label']])

  return back(jax.jit(lambda v: v * (jax.hessian(loss)(v) @ jax.grad(loss)(v)))(flat))


def kernels(tree):
  return {name: layer['kernel'] for name, layer in tree.items()}


def test_grasp_is_weight_times_explicit_hessian_times_gradient():
  params, batch = mlp(4, 5, 3), a_batch()
  found = scores.grasp(tanh_mlp, params, batch, None)
  close(kernels(found), explicit_grasp(tanh_mlp, params, batch), 1e-4)


def test_a_high_grasp_score_is_gradient_norm_that_goes_with_the_weight():
  """d(|g|^2 / 2) / dc of a weight c * w at c = 1: the lowest scores are pruned first."""
  params, batch = mlp(4, 5, 3), a_batch()
  gradient = scores.Gradient(tanh_mlp, 200.0)

  def norm(factors):
    scaled = jax.tree.map(jnp.multiply, factors, params)
    return sum((g**2).sum() for g in jax.tree.leaves(kernels(gradient(scaled, batch)))) / 2

  slope = jax.jit(jax.grad(norm))(jax.tree.map(jnp.ones_like, params))
  close(kernels(scores.grasp(tanh_mlp, params, batch, None)), kernels(slope), 1e-4)


def test_the_authors_grasp_sums_over_two_halves():
  """Without BatchNorm, sums over halves are twice the means of all, of gradients and products."""
  params, batch = mlp(4, 5, 3), a_batch()
  found = scores.grasp_authors(tanh_mlp, params, batch, None)
  close(found, jax.tree.map(lambda s: 4 * s, scores.grasp(tanh_mlp, params, batch, None)), 1e-4)


@pytest.mark.parametrize(('classes', 'first'), [(2, 1), (3, 1), (10, 5), (11, 5), (100, 50)])
def test_the_authors_halves_hold_whole_classes(classes, first):
  halves = []

  def average(fn, trees, batch):
    halves.append(np.bincount(batch['label'], minlength=classes).tolist())
    return trees[0]

  batch = {'label': np.repeat(np.arange(classes), 25)}
  scores.grasp_authors(None, {'kernel': np.ones((1, 1))}, batch, None, average=average)
  rest = classes - first
  assert halves == [[25] * first + [0] * rest, [0] * first + [25] * rest] * 2


def test_the_authors_snip_draws_its_own_weights():
  params, batch, key = mlp(300, 200, 10), a_batch(shape=(300, 1, 1), classes=10), jax.random.key(3)
  drawn = scores.xavier_normal(params, key)
  assert drawn['layer0']['kernel'].std() == pytest.approx(np.sqrt(2 / 500), rel=0.01)
  assert drawn['layer1']['bias'] is params['layer1']['bias']
  conv = scores.xavier_normal({'kernel': np.zeros((3, 3, 20, 30), np.float32)}, key)['kernel']
  assert conv.std() == pytest.approx(np.sqrt(2 / (9 * 50)), rel=0.03)
  found = scores.snip_authors(apply_mlp, params, batch, key)
  close(found, scores.snip(apply_mlp, drawn, batch, None))


def explicit_synflow(params, density, rounds):
  """Masks by the definition, in float64: all paths through matrices of absolute weights."""
  weights = [np.abs(layer['kernel'].astype(np.float64)) for layer in params.values()]
  kept = [np.ones_like(w) for w in weights]
  total = sum(w.size for w in weights)
  for k in range(1, rounds + 1):
    left = [w * m for w, m in zip(weights, kept, strict=True)]
    forward, backward = [np.ones(len(left[0]))], [np.ones(left[-1].shape[1])]
    for w in left[:-1]:
      forward.append(forward[-1] @ w)
    for w in reversed(left[1:]):
      backward.insert(0, w @ backward[0])
    score = [a[:, None] * w * b for a, w, b in zip(forward, left, backward, strict=True)]
    ranked = np.sort(np.concatenate([s.ravel() for s in score]))[::-1]
    threshold = ranked[round(density ** (k / rounds) * total) - 1]
    kept = [m * (s >= threshold) for m, s in zip(kept, score, strict=True)]
  return score, [m.astype(bool) for m in kept]


@pytest.mark.parametrize('density', [0.3, 0.02])
def test_synflow_prunes_in_a_hundred_rounds_as_defined(density):
  params = mlp(4, 20, 30, 3)
  order = scores.synflow(apply_mlp, params, a_batch(), None, density=density)
  leaves = masks.named_leaves(order)
  names = [name for name in leaves if name.endswith('kernel')]
  own = {name: leaves[name] for name in names}
  kept = masks.top(own, masks.layer_densities(own, density))
  score, wanted = explicit_synflow(params, density, rounds=100)
  for name, mask, last in zip(names, wanted, score, strict=True):
    np.testing.assert_array_equal(kept[name], mask)
    bits = (leaves[name] & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    np.testing.assert_allclose(bits.view(np.float32)[mask], last[mask], rtol=1e-5)
    assert (leaves[name][mask] >> np.uint64(32) == 100).all()


def test_synflow_prunes_nothing_but_the_layers_that_it_is_given():
  order = masks.named_leaves(
    scores.synflow(apply_mlp, mlp(4, 20, 3), a_batch(), None, density=0.1, layers=['layer0/kernel'])
  )
  rounds = {name: leaf >> np.uint64(32) for name, leaf in order.items()}
  assert rounds.pop('layer0/kernel').min() < 100
  assert all((last == 100).all() for last in rounds.values())


def test_synflow_of_bfloat16_weights_is_that_of_their_float32():
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), mlp(4, 20, 3))
  same = jax.tree.map(lambda x: x.astype(jnp.float32), params)
  found, wanted = (
    scores.synflow(apply_mlp, p, a_batch(), None, density=0.3) for p in (params, same)
  )
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_synflow_leaves_every_layer_a_weight_at_999_in_a_thousand():
  params = mlp(4, 100, 100, 100, 100, 3)  # 30,700 weights: 31 are kept
  order = masks.named_leaves(scores.synflow(apply_mlp, params, a_batch(), None, density=0.001))
  own = {name: leaf for name, leaf in order.items() if name.endswith('kernel')}
  densities = masks.layer_densities(own, 0.001)
  assert all(density > 0 for density in densities.values())
  assert sum(masks.kept_count(d, own[n].size) for n, d in densities.items()) == 31
  once = masks.named_leaves(
    scores.synflow(apply_mlp, params, a_batch(), None, density=0.001, rounds=1)
  )
  once = {name: once[name] for name in own}
  assert min(masks.layer_densities(once, 0.001).values()) == 0  # the rounds are what does it


class Block(nn.Module):
  """A linear layer beside a shortcut."""

  @nn.compact
  def __call__(self, x):
    return x + nn.relu(nn.Dense(4, use_bias=False, name='inner')(x))


class Deep(nn.Module):
  """Ten linear layers, and a block."""

  @nn.compact
  def __call__(self, images, train=False, normalize=True):
    x = images.reshape(len(images), -1)
    for i in range(10):
      x = nn.relu(nn.Dense(4, use_bias=False, name=f'layer{i}')(x))
    return Block(name='block')(x)


def plain(params, images, train, normalize):
  return Deep().apply({'params': params}, images)


def rescaled(params, images, train, normalize):
  with nn.intercept_methods(synflow.rescaled):
    return plain(params, images, train, normalize)


def test_synflow_of_a_deep_network_neither_overflows_nor_changes_its_order():
  rng = np.random.RandomState(0)
  params = {f'layer{i}': {'kernel': rng.rand(4, 4).astype(np.float32)} for i in range(10)}
  params['block'] = {'inner': {'kernel': rng.rand(4, 4).astype(np.float32)}}
  ones = np.ones((1, 2, 2, 1), np.float32)
  scaled, wanted = (synflow.flow(fn, params, ones) for fn in (rescaled, plain))
  factor = scaled['layer0']['kernel'][0, 0] / wanted['layer0']['kernel'][0, 0]
  close(scaled, jax.tree.map(lambda s: factor * s, wanted))
  large = jax.tree.map(lambda w: w * 10_000, params)  # R grows 20,000-fold with each layer
  with pytest.raises(ValueError, match='too deep for float32'):
    scores.synflow(plain, large, a_batch(), None, density=0.5)
  scores.synflow(rescaled, large, a_batch(), None, density=0.5)


def on_devices(name, model, params, batches, devices, most=40, **options):
  found = scoring.on_devices(model, batches, parallel.devices(devices), most)
  return found[name](None, params, None, jax.random.key(0), **options)


@pytest.mark.parametrize('name', sorted(scores.OF_DATA))
def test_one_device_equals_four(name):
  """Statistics are over all devices, even where training takes each device's own."""
  model = TinyNetwork(10)
  labels = np.arange(400, dtype=np.int32) % 10
  images = data.Images(np.random.RandomState(0).randint(0, 256, (400, 6, 6, 1), np.uint8), labels)
  spec = data.SPECS['digits']
  batches = scoring.batches([name], images, spec, seed=0, batch_size=40)
  one, four = (on_devices(name, model, tiny_params(), batches, n) for n in (1, 4))
  close(one, four, 1e-4)
  whole = scores.SCORES[name](
    functools.partial(apply_tiny, model), tiny_params(), as_floats(batches[name]), jax.random.key(0)
  )
  if name.startswith('snip'):  # GraSP's 250 images are taken in parts of 25
    close(one, whole, 1e-4)


def apply_tiny(model, params, images):
  return model.apply({'params': params}, images, train=True, mutable=['batch_stats'])[0]


def as_floats(batch):
  return {'image': np.asarray(batch['image'], np.float32) / 255, 'label': batch['label']}


def assert_exact(text):
  """Each of the program's products is of all of float32."""
  products = re.findall(r'stablehlo\.(?:convolution|dot_general).*', text)
  assert len(products) >= 4 and all(line.count('HIGHEST') == 2 for line in products)


@pytest.mark.parametrize('of', ['gradient', 'product', 'synflow'])
def test_products_are_of_all_of_float32_on_a_gpu_too(of):
  apply_fn = scoring._logits(TinyNetwork(10))
  call, arguments = {
    'gradient': (scores.Gradient(apply_fn), (a_batch(shape=(6, 6, 1)),)),
    'product': (scores.HessianProduct(apply_fn), (tiny_params(), a_batch(shape=(6, 6, 1)))),
    'synflow': (functools.partial(synflow.flow, apply_fn), (np.ones((1, 6, 6, 1), np.float32),)),
  }[of]
  traced = jax.jit(call).trace(tiny_params(), *arguments)
  assert_exact(traced.lower(lowering_platforms=('cuda',)).as_text())


def test_products_of_gradient_flow_and_curvature_are_of_all_of_float32_too():
  on, network, params = parallel.devices(1), TinyNetwork(10), tiny_params()
  statistics = {'mean': np.zeros(4, np.float32), 'var': np.ones(4, np.float32)}
  variables = {'params': params, 'batch_stats': {'stem_norm': statistics}}
  batch = a_batch(shape=(6, 6, 1))
  rest = (variables, masks.ones(params), batch['image'][None], batch['label'][None])
  gradient, hessian = gradients._compiled(network, on)
  assert_exact(flow._compiled(network, on).lower(*rest).as_text())
  assert_exact(gradient.lower(*rest).as_text())
  assert_exact(hessian.lower(params, *rest).as_text())


def test_a_batch_in_parts_is_the_whole_batch_where_images_do_not_meet():
  params, batch = mlp(4, 5, 3), a_batch(30)
  average = functools.partial(scoring._average, on=parallel.devices(4), most=7)  # 5 parts of 6
  close(
    scores.grasp(tanh_mlp, params, batch, None, average=average),
    scores.grasp(tanh_mlp, params, batch, None),
    1e-4,
  )


@pytest.mark.parametrize('name', ['snip', 'grasp'])
def test_a_score_sees_no_more_images_at_once_than_a_step_that_accumulates(name):
  options = {'model__width': 16, 'pruning__ratio': name, 'pruning__select': name}
  config = tinier_config(optimizer__accumulate=24, **options)  # 24 parts of 5
  made = experiment.build(config, parallel.devices(1))
  network, spec, seed = made.model, made.spec, experiment.keys(0)
  variables = experiment.initial_variables(network, seed.init, spec.shape)
  batches = experiment.score_batches(made, data.load('digits', 'train'))
  found = experiment.initial_masks(made, variables, batches)
  params = variables['params']
  scored = on_devices(name, network, params, batches, 1, most=5)
  named = {layer: masks.named_leaves(scored)[layer] for layer in made.structure.shapes}
  wanted = masks.top(scored, masks.layer_densities(named, 0.3))
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_images_of_a_power_of_ten_classes_or_of_half_of_them_are_in_equal_parts():
  for classes, most in itertools.product((1, 5, 10, 50, 100, 500, 1000), (24, 64, 120, 128, 768)):
    images = 25 * classes
    equal = [n for n in range(1, images + 1) if images % n == 0 and images // n <= most]
    assert scoring._parts(images, most) == equal[0]


def test_parts_have_room_and_are_never_much_smaller_than_they_may_be():
  for images, most in itertools.product(range(1, 3000), (32, 128, 768)):
    parts = scoring._parts(images, most)
    assert images <= parts * most
    assert images // parts >= min(images, most // 5)


def test_parts_of_two_sizes_weigh_as_many_images_as_they_have():
  """137 images are a prime number: 69 and 68 on one device, 23 on each of three and 17 of four."""

  def label_and_size(part):
    return jnp.stack([part['label'].mean(), jnp.float32(len(part['label']))])

  batch = {'label': np.arange(137, dtype=np.float32)}
  for devices, sizes in ((1, (69, 68)), (4, (23, 17))):
    on = parallel.devices(devices)
    mean, size = scoring._average(label_and_size, (), batch, on=on, most=128)
    assert mean == pytest.approx(68)
    assert size == pytest.approx((69 * sizes[0] + 68 * sizes[1]) / 137)


def test_a_batch_is_cut_into_the_fewest_equal_parts_that_have_room():
  def size(part):
    return jnp.float32(len(part['label']))

  batch, on = {'label': np.zeros(250, np.int32)}, parallel.devices(1)
  found = [scoring._average(size, (), batch, on=on, most=most) for most in (100, 128, 250, 300)]
  assert found == [50, 125, 250, 250]


def test_a_part_of_grasp_needs_less_memory_than_the_gradient_of_a_training_step():
  """Bytes of the compiled program's own arrays, on whatever backend this is."""
  model = models.create('cifar_resnet14', 10, width=8)
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
  batch = {'image': jnp.zeros((64, 16, 16, 3)), 'label': jnp.zeros((64,), int)}

  def scratch(of, network, *arguments):
    function = of(scoring._logits(network.clone(axis_name=None)))
    compiled = (
      jax.jit(function).lower(*arguments, batch).compile({'xla_backend_optimization_level': 0})
    )
    return compiled.memory_analysis().temp_size_in_bytes

  step = scratch(scores.Gradient, model, params)
  assert scratch(scores.HessianProduct, scoring._as_scored(model, 'grasp'), params, params) < step


def test_grasp_and_synflow_compute_in_float32_whatever_training_does():
  model = TinyNetwork(10, dtype='bfloat16')
  found = {name: scoring._as_scored(model, name).dtype for name in ('snip', 'grasp', 'synflow')}
  assert found == {'snip': 'bfloat16', 'grasp': 'float32', 'synflow': 'float32'}


def test_grasp_sees_the_first_25_images_of_each_class_and_snip_the_first_batch():
  images = data.load('digits', 'train')
  spec = data.SPECS['digits']
  found = scoring.batches(['grasp', 'grasp_authors', 'snip'], images, spec, seed=1, batch_size=64)
  for name in ('grasp', 'grasp_authors'):
    assert np.bincount(found[name]['label']).tolist() == [25] * 10
    assert len(np.unique(found[name]['image'].reshape(250, -1), axis=0)) == 250
  assert found['grasp']['label'][:20].tolist() == [*range(10)] * 2
  assert found['grasp_authors']['label'].tolist() == sorted(found['grasp']['label'])
  order = np.random.RandomState([1, 0]).permutation(len(images.labels))
  np.testing.assert_array_equal(found['snip']['image'], images.images[order[:64]])
  by_class = [order[images.labels[order] == label][:25] for label in range(10)]
  np.testing.assert_array_equal(
    found['grasp_authors']['image'], images.images[np.concatenate(by_class)]
  )
  assert np.unique(scoring._balanced(np.arange(250) % 10, 10, 0)).tolist() == [*range(250)]  # all
  few = data.Images(images.images[:100], images.labels[:100])
  with pytest.raises(ValueError, match='GraSP needs 25 training images of each class, but class'):
    scoring.batches(['grasp'], few, spec, seed=0, batch_size=64)


def test_no_score_reads_images_it_does_not_need():
  assert scoring.batches(['random', 'magnitude'], None, data.SPECS['digits'], 0, 64) == {}
  ones = scoring.batches(['synflow'], None, data.SPECS['digits'], 0, 64)['synflow']
  assert ones['image'].shape == (1, 8, 8, 1)


def test_synflow_of_a_network_here_needs_no_data():
  batches = scoring.batches(['synflow'], None, data.SPECS['digits'], 0, 64)
  layers = ['stem/kernel', 'head/kernel']
  order = on_devices(
    'synflow', TinyNetwork(10), tiny_params(), batches, 4, density=0.05, layers=layers
  )
  own = {name: leaf for name, leaf in masks.named_leaves(order).items() if name in layers}
  assert min(masks.layer_densities(own, 0.05).values()) > 0
  large = jax.tree.map(lambda w: w * 1e20, tiny_params())  # beyond float32, if not rescaled between
  again = on_devices('synflow', TinyNetwork(10), large, batches, 4, density=0.05, layers=layers)
  own = {name: leaf for name, leaf in masks.named_leaves(again).items() if name in layers}
  assert min(masks.layer_densities(own, 0.05).values()) > 0


def test_scores_are_those_of_a_plain_computation_in_torch():
  torch = pytest.importorskip('torch', reason='PyTorch, an optional peer, is not installed')
  model, params, batch = TinyNetwork(10), tiny_params(), a_batch(50, (6, 6, 1), 10)
  stem = torch.tensor(params['stem']['kernel']).permute(3, 2, 0, 1).requires_grad_()
  head = torch.tensor(params['head']['kernel']).T.requires_grad_()
  images = torch.tensor(batch['image']).permute(0, 3, 1, 2)
  labels = torch.tensor(batch['label']).long()

  def gradient(temperature, **options):
    x = torch.nn.functional.conv2d(images, stem, padding=1)
    x = torch.nn.functional.batch_norm(x, None, None, training=True).relu().mean((2, 3))
    logits = x @ head.T + torch.tensor(params['head']['bias'])
    loss = torch.nn.functional.cross_entropy(logits / temperature, labels)
    return torch.autograd.grad(loss, (stem, head), **options)

  snip = [(w * g).abs() for w, g in zip((stem, head), gradient(1), strict=True)]
  first = gradient(200)
  again = gradient(200, create_graph=True)
  product = sum((a * b.detach()).sum() for a, b in zip(again, first, strict=True))
  bent = torch.autograd.grad(product, (stem, head))
  grasp = [w * h for w, h in zip((stem, head), bent, strict=True)]
  for name, (conv, linear) in (('snip', snip), ('grasp', grasp)):
    found = scores.SCORES[name](functools.partial(apply_tiny, model), params, batch, None)
    theirs = conv.detach().permute(2, 3, 1, 0).numpy(), linear.detach().T.numpy()
    close((found['stem']['kernel'], found['head']['kernel']), theirs, 1e-4)
