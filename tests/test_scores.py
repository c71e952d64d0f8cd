"""Scores are what their formulas say."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scored import (
  TinyNetwork,
  a_batch,
  apply_mlp,
  apply_tiny,
  close,
  mlp,
  tanh_mlp,
  tiny_params,
)

from random_pruning_jax import (
  flow,
  masks,
  parallel,
  scores,
  scoring,
  synflow,
)
from random_pruning_jax.suites import gradients


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


def test_synflow_takes_leaves_in_the_order_of_the_tree_whatever_their_names():
  rng = np.random.RandomState(0)
  layers = [rng.randn(4, 4).astype(np.float32) for _ in range(12)]  # '10' sorts before '2'

  def apply_fn(params, images, train, normalize):
    return functools.reduce(jnp.matmul, params, images.reshape(len(images), -1))

  found = scores.synflow(apply_fn, layers, a_batch(), None, density=0.3, rounds=1)
  score, _ = explicit_synflow({i: {'kernel': w} for i, w in enumerate(layers)}, 0.3, rounds=1)
  for order, wanted in zip(found, score, strict=True):
    np.testing.assert_allclose(order.astype(np.uint32).view(np.float32), wanted, rtol=1e-5)


def test_the_threshold_of_synflow_is_found_without_jit_too():
  parts = [jnp.array([3, 9], jnp.uint32), jnp.array([7], jnp.uint32)]
  with jax.disable_jit():
    assert synflow._kth_highest(parts, 2) == 7


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
