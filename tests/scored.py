"""Networks small enough to score by hand, and batches for them."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax.models.layers import Network


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


def apply_tiny(model, params, images):
  return model.apply({'params': params}, images, train=True, mutable=['batch_stats'])[0]


def as_floats(batch):
  return {'image': np.asarray(batch['image'], np.float32) / 255, 'label': batch['label']}
