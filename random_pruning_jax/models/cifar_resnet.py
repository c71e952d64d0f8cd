"""ResNets for small images, of depth 6n + 2 and any width (He et al., 2016, section 4.2)."""

import flax.linen as nn
import jax

from random_pruning_jax.models.layers import BasicBlock, Network


class CifarResNet(Network):
  """Three stages of n basic blocks with `width`, 2 `width` and 4 `width` channels."""

  depth: int = 20
  width: int = 16

  def body(self, x: jax.Array, train: bool) -> jax.Array:
    x = self.layers.conv(self.width, name='stem')(x)
    x = nn.relu(self.layers.norm(train, name='stem_norm')(x))
    for stage in range(3):
      for number in range((self.depth - 2) // 6):
        block = BasicBlock(
          features=self.width * 2**stage,
          stride=2 if stage > 0 and number == 0 else 1,
          layers=self.layers,
          name=f'stage{stage + 1}_block{number}',
        )
        x = self.run(block, x, train)
    return x
