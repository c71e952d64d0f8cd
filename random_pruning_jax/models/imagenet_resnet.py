"""ResNets and wide ResNets for large images, laid out as in torchvision.

A bottleneck has its stride in the 3x3 convolution, not in the first 1x1 as in He et al. (2016).
"""

import flax.linen as nn
import jax

from random_pruning_jax.models.layers import BasicBlock, Layers, Network

# Blocks in each of the four stages.
STAGES = {
  10: (1, 1, 1, 1),
  14: (1, 1, 1, 1),
  18: (2, 2, 2, 2),
  34: (3, 4, 6, 3),
  50: (3, 4, 6, 3),
  101: (3, 4, 23, 3),
  152: (3, 8, 36, 3),
}
BASIC = (10, 18, 34)  # depths with basic blocks; the others have bottlenecks


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions beside a shortcut, the last with 4 `features` channels."""

  features: int
  stride: int
  layers: Layers
  widen: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    make = self.layers
    inner, outer = self.features * self.widen, self.features * 4
    y = make.conv(inner, 1, name='conv1')(x)
    y = nn.relu(make.norm(train, name='norm1')(y))
    y = make.conv(inner, 3, self.stride, name='conv2')(y)
    y = nn.relu(make.norm(train, name='norm2')(y))
    y = make.conv(outer, 1, name='conv3')(y)
    y = make.norm(train, name='norm3')(y)
    return nn.relu(y + make.shortcut(x, outer, self.stride, train))


class ImageNetResNet(Network):
  """Four stages of blocks with `width` times 1, 2, 4, 8 features.

  `widen` multiplies the inner channels of bottlenecks (Zagoruyko & Komodakis, 2016).
  """

  depth: int = 50
  width: int = 64
  widen: int = 1

  def body(self, x: jax.Array, train: bool) -> jax.Array:
    x = self.layers.conv(self.width, 7, 2, name='stem')(x)
    x = nn.relu(self.layers.norm(train, name='stem_norm')(x))
    x = self.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    basic = self.depth in BASIC
    kind, settings = (BasicBlock, {}) if basic else (Bottleneck, {'widen': self.widen})
    for stage, count in enumerate(STAGES[self.depth]):
      for number in range(count):
        block = kind(
          features=self.width * 2**stage,
          stride=2 if stage > 0 and number == 0 else 1,
          layers=self.layers,
          name=f'stage{stage + 1}_block{number}',
          **settings,
        )
        x = self.run(block, x, train)
    return x
