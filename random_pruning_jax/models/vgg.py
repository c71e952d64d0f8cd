"""VGG with BatchNorm for small images (Simonyan & Zisserman, 2015), with one linear layer."""

import flax.linen as nn
import jax

from random_pruning_jax.models.layers import Network

# 3x3 convolutions in each of the five stages.
STAGES = {
  11: (1, 1, 2, 2, 2),
  13: (2, 2, 2, 2, 2),
  16: (2, 2, 3, 3, 3),
  19: (2, 2, 4, 4, 4),
}


class VGG(Network):
  """Five stages of `width` times 1, 2, 4, 8, 8 channels with a 2x2 maximum between them.

  The average over the last map is that over 2x2 positions for images of 32 x 32. Convolutions are
  called stem, conv2, conv3, ... in their order.
  """

  depth: int = 16
  width: int = 64

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    train: bool = False,
    *,
    normalize: bool = True,
    features: bool = False,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    if min(images.shape[1:3]) < 16:
      raise ValueError(f'VGG halves images four times and needs 16 x 16, got {images.shape}.')
    x = self.normalized(images) if normalize else images
    run = nn.remat(VGG.stage, static_argnums=(2, 3)) if self.remat else VGG.stage
    for index in range(len(STAGES[self.depth])):
      x = run(self, x, index, train)
    return self.classify(x, features)

  def stage(self, x: jax.Array, index: int, train: bool) -> jax.Array:
    """A 2x2 maximum, but for the first stage, and the convolutions of stage `index`."""
    if index > 0:
      x = nn.max_pool(x, (2, 2), strides=(2, 2))
    before = sum(STAGES[self.depth][:index])
    for number in range(before + 1, before + STAGES[self.depth][index] + 1):
      conv, norm = ('stem', 'stem_norm') if number == 1 else (f'conv{number}', f'norm{number}')
      x = self.layers.conv(self.width * min(2**index, 8), name=conv)(x)
      x = nn.relu(self.layers.norm(train, name=norm)(x))
    return x
