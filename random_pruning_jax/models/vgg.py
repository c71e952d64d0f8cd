"""VGG with BatchNorm for small images (Simonyan & Zisserman, 2015), with one linear layer."""

import itertools

import flax.linen as nn
import jax

from random_pruning_jax.models.layers import Layers, Network

# 3x3 convolutions in each of the five stages.
STAGES = {
  11: (1, 1, 2, 2, 2),
  13: (2, 2, 2, 2, 2),
  16: (2, 2, 3, 3, 3),
  19: (2, 2, 4, 4, 4),
}


class Stage(nn.Module):
  """2x2 max pooling, except in the first stage, and convolutions named by their place in VGG."""

  features: int
  places: range
  layers: Layers

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    if 1 not in self.places:
      x = self.layers.max_pool(x, (2, 2), strides=(2, 2))
    for place in self.places:
      conv, norm = ('stem', 'stem_norm') if place == 1 else (f'conv{place}', f'norm{place}')
      x = self.layers.conv(self.features, name=conv)(x)
      x = nn.relu(self.layers.norm(train, name=norm)(x))
    return x


class VGG(Network):
  """Five stages of `width` times 1, 2, 4, 8, 8 channels with 2x2 max pooling between them.

  No pooling follows the last stage, as in the code of Liu et al. (2022) and unlike torchvision: for
  images of 32 x 32, the average over the last map is over 2x2 positions. Convolutions are called
  stem, conv2, conv3, ... in their order.
  """

  depth: int = 16
  width: int = 64

  def body(self, x: jax.Array, train: bool) -> jax.Array:
    if min(x.shape[1:3]) < 16:
      raise ValueError(f'VGG halves images four times and needs 16 x 16, got {x.shape}.')
    ends = itertools.accumulate(STAGES[self.depth], initial=1)
    for index, places in enumerate(itertools.starmap(range, itertools.pairwise(ends))):
      stage = Stage(self.width * min(2**index, 8), places, self.layers)
      nn.share_scope(self, stage)  # its layers are the network's own, by name
      x = self.run(stage, x, train)
    return x
