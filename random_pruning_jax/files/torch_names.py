"""PyTorch's name and layout of each array of a network.

ResNets and wide ResNets for large images have the names of torchvision (layer1.0.conv1.weight),
those for small images the names of Liu et al. (2022) (blocks.0.conv1.weight), VGGs those of
torchvision with one linear layer (features.0.weight, classifier.weight). `renamed` and
`architecture` read these and some others back.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from random_pruning_jax import models
from random_pruning_jax.models import imagenet_resnet, vgg
from random_pruning_jax.models.cifar_resnet import CifarResNet
from random_pruning_jax.models.imagenet_resnet import ImageNetResNet

_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
_BLOCK = re.compile(r'stage(\d+)_block(\d+)/(\w+)')


def name_of(model: models.Network, leaf: str) -> str:
  """'params/stem/kernel' -> 'conv1.weight'."""
  _, layer, last = re.fullmatch(r'(params|batch_stats)/(.+)/(\w+)', leaf).groups()
  return f'{_layer(model, layer)}.{_LEAVES[last]}'


def to_torch(array: np.ndarray) -> np.ndarray:
  """(h, w, in, out) -> (out, in, h, w), and (in, out) -> (out, in)."""
  axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
  return np.ascontiguousarray(array.transpose(axes)) if axes else array


def from_torch(array: np.ndarray) -> np.ndarray:
  """(out, in, h, w) -> (h, w, in, out), and (out, in) -> (in, out)."""
  axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
  return np.ascontiguousarray(array.transpose(axes)) if axes else array


def renamed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same arrays, with other usual names replaced by those that `name_of` gives.

  Known are wrappers (module., _orig_mod., or both), small ResNets named like torchvision's (conv1,
  layer1.0.conv1, with shortcut or downsample) and other words for the last layer.
  torch.nn.utils.prune's pairs (weight_orig, weight_mask) become weight and its mask; step counters
  of BatchNorm are left out.
  """
  small = any('layer3.' in name for name in tensors) and not any(
    'layer4.' in name for name in tensors
  )
  lengths = _stage_lengths(tensors)
  out = {}
  for old, array in tensors.items():
    name = re.sub(r'^((module|_orig_mod)\.)+', '', old)
    if name.endswith('num_batches_tracked'):
      continue
    name = re.sub(r'^feature\.', 'features.', name)
    name = re.sub(r'^classifier\.0\.', 'classifier.', name)
    name = re.sub(r'^linear\.', 'fc.', name)
    if small:
      name = re.sub(r'^(conv|bn)1\.', r'\1.', name)
      name = re.sub(r'^layer(\d)\.(\d+)', lambda m: _block_number(lengths, m), name)
      name = name.replace('.downsample.', '.shortcut.')
    out[name.removesuffix('_orig')] = array
  return out


def architecture(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Model, width, classes and channels that these arrays (as `renamed` names them) belong to."""
  shapes = {name: array.shape for name, array in tensors.items()}
  if 'features.0.weight' in shapes:
    convolutions = sum(len(shape) == 4 and 'mask' not in name for name, shape in shapes.items())
    depths = {sum(counts): depth for depth, counts in vgg.STAGES.items()}
    name, stem, head = f'vgg{depths.get(convolutions)}', 'features.0', 'classifier'
  elif 'blocks.0.conv1.weight' in shapes:
    blocks = 1 + max(int(name.split('.')[1]) for name in shapes if name.startswith('blocks.'))
    name, stem, head = f'resnet{2 * blocks + 2}', 'conv', 'fc'
    name = name if _is_small(name) else f'cifar_{name}'
  elif 'layer4.0.conv1.weight' in shapes:
    name, stem, head = _large(shapes), 'conv1', 'fc'
  else:
    name, stem, head = None, '', ''
  if name is None or f'{stem}.weight' not in shapes or f'{head}.weight' not in shapes:
    raise ValueError(
      'the names of the arrays must be those of a torchvision ResNet or Wide ResNet, of a CIFAR '
      f'ResNet with 1x1 shortcuts, or of a VGG with one linear layer; got {list(shapes)[:4]}.'
    )
  return {
    'model': name,
    'width': shapes[f'{stem}.weight'][0],
    'num_classes': shapes[f'{head}.weight'][0],
    'channels': shapes[f'{stem}.weight'][1],
  }


def _layer(model: models.Network, layer: str) -> str:
  if isinstance(model, vgg.VGG):
    return _vgg_layer(model.depth, layer)
  small = isinstance(model, CifarResNet)
  ends = {'stem': 'conv', 'stem_norm': 'bn', 'head': 'fc'}
  if layer in ends:
    return ends[layer] if small or layer == 'head' else f'{ends[layer]}1'
  stage, block, part = _BLOCK.fullmatch(layer).groups()
  side = 'shortcut' if small else 'downsample'
  part = {'projection': f'{side}.0', 'projection_norm': f'{side}.1'}.get(part, part)
  part = part.replace('norm', 'bn')
  if not small:
    return f'layer{stage}.{block}.{part}'
  return f'blocks.{(int(stage) - 1) * ((model.depth - 2) // 6) + int(block)}.{part}'


def _vgg_layer(depth: int, layer: str) -> str:
  """Convolution, BatchNorm and ReLU count as three layers, max pooling between stages as one."""
  if layer == 'head':
    return 'classifier'
  number = 1 if layer.startswith('stem') else int(layer.removeprefix('conv').removeprefix('norm'))
  ends = np.cumsum(vgg.STAGES[depth])
  stage = int(np.searchsorted(ends, number))
  return f'features.{3 * (number - 1) + stage + ("norm" in layer)}'


def _stage_lengths(tensors: Mapping[str, np.ndarray]) -> dict[int, int]:
  """Blocks in each stage of names like layer1.0.conv1.weight."""
  found = [re.search(r'layer(\d)\.(\d+)\.', name) for name in tensors]
  lengths: dict[int, int] = {}
  for match in filter(None, found):
    stage, block = int(match[1]), int(match[2])
    lengths[stage] = max(lengths.get(stage, 0), block + 1)
  return lengths


def _block_number(lengths: Mapping[int, int], match: re.Match) -> str:
  before = sum(lengths.get(stage, 0) for stage in range(1, int(match[1])))
  return f'blocks.{before + int(match[2])}'


def _is_small(name: str) -> bool:
  return name in models.MODELS and isinstance(models.create(name, 1), CifarResNet)


def _large(shapes: Mapping[str, tuple]) -> str | None:
  """The torchvision name of these blocks, or None."""
  lengths = _stage_lengths(shapes)
  counts = tuple(lengths.get(stage, 0) for stage in (1, 2, 3, 4))
  bottleneck = 'layer1.0.conv3.weight' in shapes
  depths = [
    depth
    for depth, stages in imagenet_resnet.STAGES.items()
    if stages == counts and (depth not in imagenet_resnet.BASIC) == bottleneck
  ]
  widen = shapes['layer1.0.conv1.weight'][0] // shapes['conv1.weight'][0] if bottleneck else 1
  name = f'resnet{depths[0]}' if depths else ''
  if widen == 2:
    name = name.replace('resnet', 'wrn') + '_2'
  known = name in models.MODELS and isinstance(models.create(name, 1), ImageNetResNet)
  return name if known and widen in (1, 2) else None
