"""What every network here is made of: normalised pixels, convolution, BatchNorm, block, classifier.

Padding is PyTorch's, the same on both sides, so that a weight means the same in both libraries:
XLA's 'SAME' pads a convolution of stride 2 on the far side only.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax.models import convolution, drawn
from random_pruning_jax.models.batch_norm import BatchNorm
from random_pruning_jax.models.remat import remat

DTYPES = ('float32', 'bfloat16')
FANS = ('fan_in', 'fan_out')


@dataclasses.dataclass(frozen=True)
class Layers:
  """How one network makes its layers; parameters and statistics are float32 whatever the dtype."""

  dtype: str
  kaiming: str
  axis_name: str | None
  conv_general_dilated: Callable | None
  max_pool: Callable = nn.max_pool

  def kernel_init(
    self, key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32
  ) -> jax.Array:
    """`variance_scaling(2, fan, 'normal')` (He et al., 2015), drawn so that many compile as one."""
    fan = math.prod(shape[:-1] if self.kaiming == 'fan_in' else (*shape[:-2], shape[-1]))
    return drawn.normal(key, shape, dtype) * np.sqrt(np.array(2 / fan, dtype))

  def conv(self, features: int, size: int = 3, stride: int = 1, *, name: str) -> nn.Conv:
    """A convolution without bias, padded by size // 2 on every side."""
    return nn.Conv(
      features,
      (size, size),
      strides=stride,
      padding=size // 2,
      use_bias=False,
      dtype=jnp.dtype(self.dtype),
      kernel_init=self.kernel_init,
      conv_general_dilated=self.conv_general_dilated,
      name=name,
    )

  def norm(self, train: bool, *, name: str) -> nn.BatchNorm:
    """BatchNorm; in training its statistics are over all devices along `axis_name`.

    Where convolutions run by kernels, its sums do too.
    """
    kind = BatchNorm if self.conv_general_dilated is convolution.by_kernels else nn.BatchNorm
    return kind(
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      dtype=jnp.dtype(self.dtype),
      axis_name=self.axis_name,
      name=name,
    )

  def shortcut(self, x: jax.Array, features: int, stride: int, train: bool) -> jax.Array:
    """x itself, or a 1x1 convolution and BatchNorm where the block changes its shape."""
    if stride == 1 and x.shape[-1] == features:
      return x
    x = self.conv(features, 1, stride, name='projection')(x)
    return self.norm(train, name='projection_norm')(x)


class BasicBlock(nn.Module):
  """Two 3x3 convolutions beside a shortcut (He et al., 2016)."""

  features: int
  stride: int
  layers: Layers

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    make = self.layers
    y = make.conv(self.features, 3, self.stride, name='conv1')(x)
    y = nn.relu(make.norm(train, name='norm1')(y))
    y = make.conv(self.features, name='conv2')(y)
    y = make.norm(train, name='norm2')(y)
    return nn.relu(y + make.shortcut(x, self.features, self.stride, train))


class Network(nn.Module):
  """What the families share: pixels [B, H, W, C] in [0, 1] go in, logits [B, K] float32 come out.

  `mean` and `std` hold one number, or one for each channel. `remat` recomputes a block's
  activations in the backward pass instead of keeping them, under the same parameter names.
  """

  num_classes: int
  mean: tuple[float, ...] = (0.0,)
  std: tuple[float, ...] = (1.0,)
  dtype: str = 'float32'
  kaiming: str = 'fan_in'
  axis_name: str | None = None
  conv_general_dilated: Callable | None = None
  max_pool: Callable = nn.max_pool
  remat: bool = False

  @property
  def layers(self) -> Layers:
    replaced = (self.conv_general_dilated, self.max_pool)
    return Layers(self.dtype, self.kaiming, self.axis_name, *replaced)

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    train: bool = False,
    *,
    normalize: bool = True,
    features: bool = False,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    x = self.normalized(images) if normalize else images
    return self.classify(self.body(x, train), features)

  def body(self, x: jax.Array, train: bool) -> jax.Array:
    """Normalised images [B, H, W, C] -> the last map [B, h, w, F]: what each family defines."""
    raise NotImplementedError

  def normalized(self, images: jax.Array) -> jax.Array:
    """(images - mean) / std for pixels in [0, 1]."""
    for field in ('mean', 'std'):
      if len(getattr(self, field)) not in (1, images.shape[-1]):
        raise ValueError(
          f'{field} must hold 1 number or one for each of the {images.shape[-1]} channels '
          f'of images {images.shape}, got {getattr(self, field)}.'
        )
    mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
    return (images - mean) / std

  def run(self, block: nn.Module, x: jax.Array, train: bool) -> jax.Array:
    """block(x, train), computed again in the backward pass where `remat` is set."""
    if self.remat and not self.is_initializing():
      return remat(block, x, train)
    return block(x, train)

  def classify(self, x: jax.Array, features: bool) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Average over the map [B, h, w, F], then `head`, both in float32."""
    pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    head = nn.Dense(self.num_classes, kernel_init=self.layers.kernel_init, name='head')
    logits = head(pooled)
    return (logits, pooled) if features else logits
