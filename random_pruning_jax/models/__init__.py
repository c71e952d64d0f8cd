"""Networks by name: pixels [B, H, W, C] in [0, 1] -> logits [B, K] float32.

The first layer of each is called `stem` and the classifier `head`.
"""

import functools
import re
from collections.abc import Callable, Sequence

from random_pruning_jax.models.cifar_resnet import CifarResNet
from random_pruning_jax.models.imagenet_resnet import ImageNetResNet
from random_pruning_jax.models.layers import DTYPES, FANS, Network
from random_pruning_jax.models.vgg import VGG

MODELS: dict[str, Callable[..., Network]] = {
  'resnet20': functools.partial(CifarResNet, depth=20),
  'resnet32': functools.partial(CifarResNet, depth=32),
  'resnet44': functools.partial(CifarResNet, depth=44),
  'resnet56': functools.partial(CifarResNet, depth=56),
  'resnet110': functools.partial(CifarResNet, depth=110),
  'vgg11': functools.partial(VGG, depth=11),
  'vgg13': functools.partial(VGG, depth=13),
  'vgg16': functools.partial(VGG, depth=16),
  'vgg19': functools.partial(VGG, depth=19),
  'resnet10': functools.partial(ImageNetResNet, depth=10),
  'resnet14': functools.partial(ImageNetResNet, depth=14),
  'resnet18': functools.partial(ImageNetResNet, depth=18),
  'resnet34': functools.partial(ImageNetResNet, depth=34),
  'resnet50': functools.partial(ImageNetResNet, depth=50),
  'resnet101': functools.partial(ImageNetResNet, depth=101),
  'resnet152': functools.partial(ImageNetResNet, depth=152),
  'wrn14_2': functools.partial(ImageNetResNet, depth=14, widen=2),
  'wrn50_2': functools.partial(ImageNetResNet, depth=50, widen=2),
  'wrn101_2': functools.partial(ImageNetResNet, depth=101, widen=2),
}
_ANY_DEPTH = re.compile(r'cifar_resnet(\d+)')


def create(
  name: str,
  num_classes: int,
  *,
  width: int = 0,
  mean: Sequence[float] = (0.0,),
  std: Sequence[float] = (1.0,),
  dtype: str = 'float32',
  kaiming: str = 'fan_in',
  axis_name: str | None = None,
  remat: bool = False,
  conv_general_dilated: Callable | None = None,
) -> Network:
  """The network called `name`, as a Flax module that hashes and compares by its settings.

  Args:
    name: a key of MODELS, or cifar_resnet<6n + 2> for any n >= 1.
    num_classes: size of the logits, K.
    width: channels of the stem (cifar ResNets 16, the others 64); 0 is the family's own.
    mean: subtracted from the pixels; one number, or one for each channel.
    std: divides the difference; one number, or one for each channel.
    dtype: of the computation; parameters, BatchNorm statistics and logits stay float32.
    kaiming: the fan that scales the initial weights, 'fan_in' or 'fan_out'.
    axis_name: mapped axis over whose devices training averages the BatchNorm statistics.
    remat: recompute blocks in the backward pass instead of keeping what they computed.
    conv_general_dilated: replaces jax.lax.conv_general_dilated in every convolution.

  Raises:
    ValueError: an unknown name, or a setting out of its range.
  """
  for field, value, known in (('dtype', dtype, DTYPES), ('kaiming', kaiming, FANS)):
    if value not in known:
      raise ValueError(f'{field} must be one of {", ".join(known)}, got {value!r}.')
  if num_classes < 1:
    raise ValueError(f'num_classes must be at least 1, got {num_classes}.')
  if width < 0:
    raise ValueError(f"width must be at least 0 (the family's own), got {width}.")
  if min(std) <= 0:
    raise ValueError(f'std must be positive, got {tuple(std)}.')
  return _constructor(name)(
    num_classes=num_classes,
    mean=tuple(map(float, mean)),
    std=tuple(map(float, std)),
    dtype=dtype,
    kaiming=kaiming,
    axis_name=axis_name,
    remat=remat,
    conv_general_dilated=conv_general_dilated,
    **({'width': width} if width else {}),
  )


def _constructor(name: str) -> Callable[..., Network]:
  if name in MODELS:
    return MODELS[name]
  match = _ANY_DEPTH.fullmatch(name)
  if not match:
    known = ', '.join(MODELS)
    raise ValueError(f'Unknown model {name!r}; known are {known} and cifar_resnet<6n + 2>.')
  depth = int(match[1])
  if depth < 8 or depth % 6 != 2:
    raise ValueError(f'The depth of a CIFAR ResNet must be 6n + 2 (8, 14, 20, ...), got {depth}.')
  return functools.partial(CifarResNet, depth=depth)
