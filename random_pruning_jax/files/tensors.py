"""The format `safetensors`: dense arrays under PyTorch's names, in files from here or elsewhere."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np

from random_pruning_jax import data as data_lib
from random_pruning_jax import masks as masks_lib
from random_pruning_jax import models, pruning
from random_pruning_jax.files import torch_names
from random_pruning_jax.files.packed import narrow
from random_pruning_jax.files.stored import About, Stored, check, check_shapes
from random_pruning_jax.models import vgg
from random_pruning_jax.models.imagenet_resnet import ImageNetResNet

_ENTRY = 'random_pruning_jax'  # of the metadata
_DTYPES = {'F32': '<f4', 'F16': '<f2', 'BF16': ml_dtypes.bfloat16, 'F64': '<f8', 'BOOL': '?'}
_DTYPES |= {'U8': 'u1', 'I64': '<i8'}


def write(stored: Stored, dtype: str = 'float32', with_masks: bool = False) -> bytes:
  """Every array of the network, kernels in `dtype`; `with_masks` adds a bool NAME_mask to each
  pruned one (the name that torch.nn.utils.prune gives it)."""
  from safetensors import numpy as safetensors_numpy

  tensors = {}
  masks = masks_lib.named_leaves(stored.masks)
  for name, leaf in masks_lib.named_leaves(stored.variables).items():
    values = narrow(name, leaf, dtype)
    torch_name = torch_names.name_of(stored.model, name)
    tensors[torch_name] = torch_names.to_torch(values)
    mask = np.asarray(masks.get(name.removeprefix('params/'), True))
    # A reader takes what is 0 for pruned in a kernel, where a kept weight may be 0 in this dtype,
    # and nothing in a bias.
    seen = values != 0 if pruning.is_kernel(name) else True
    if (with_masks and not mask.all()) or np.any(seen != mask):
      tensors[f'{torch_name}_mask'] = torch_names.to_torch(mask)
    if name.endswith('/mean'):
      counter = torch_name.replace('running_mean', 'num_batches_tracked')
      tensors[counter] = np.array(stored.about.step, np.int64)
  entry = {'about': stored.about.to_json(), 'masks': masks_lib.checksum(stored.masks)}
  entry = json.loads(json.dumps(entry))  # as it will be read, with lists for tuples
  entry['sha256'] = _digest(entry, tensors)
  return safetensors_numpy.save(tensors, {_ENTRY: json.dumps(entry)})


def read(data: bytes, trained_on: str = '') -> Stored:
  """The network of a file, from here or from PyTorch.

  A file from elsewhere says neither its images' size nor their normalisation: both are taken from
  the data set `trained_on`, or from ImageNet for a ResNet or Wide ResNet of 1,000 classes that is
  made for large images. Where a kernel has no mask beside it, its weights that are exactly 0 count
  as pruned. Raises ValueError for a network that this package does not have, for a data set of
  another number of channels, and for a file written here that was altered.
  """
  entry, tensors = _parse(data)
  if entry and entry.pop('sha256', '') != _digest(entry, tensors):
    raise ValueError('the file does not have its SHA-256: it was altered.')
  found = torch_names.renamed(tensors)
  about = About.from_json(entry['about']) if entry else _about(found, trained_on)
  variables = _variables(about, _without_conv_biases(found))
  masks = _masks(about, variables, found)
  # torch.nn.utils.prune keeps what it prunes in weight_orig; a product with a mask leaves -0.
  params = jax.tree.map(lambda w, m: np.where(m, w, np.float32(0)), variables['params'], masks)
  variables = variables | {'params': params}
  stored = Stored(about, variables, masks)
  check(stored)
  return stored


def kernel_type(data: bytes) -> str:
  """The type of the kernels' weights in a file, as NumPy calls it; several are listed."""
  _, tensors = _parse(data)
  kernels = [x for name, x in tensors.items() if x.ndim > 1 and not name.endswith('_mask')]
  return ', '.join(sorted({kernel.dtype.name for kernel in kernels}))


def _parse(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  import safetensors

  try:
    listed = safetensors.deserialize(data)
    length = int.from_bytes(data[:8], 'little')
    metadata = json.loads(data[8 : 8 + length]).get('__metadata__', {})
    entry = json.loads(metadata.pop(_ENTRY, '{}'))
  except (safetensors.SafetensorError, ValueError) as error:
    raise ValueError(f'the file is no whole safetensors file: {error}.') from error
  if any(text.startswith('{"about": ') and '"sha256": ' in text for text in metadata.values()):
    raise ValueError(f'the description must be called {_ENTRY}: the file was altered.')
  unknown = sorted({tensor['dtype'] for _, tensor in listed} - set(_DTYPES))
  if unknown:
    raise ValueError(f'arrays must have one of the types {sorted(_DTYPES)}, got {unknown}.')
  tensors = {
    name: np.frombuffer(tensor['data'], _DTYPES[tensor['dtype']]).reshape(tensor['shape'])
    for name, tensor in listed
  }
  return entry, tensors


def _digest(entry: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
  total = hashlib.sha256(json.dumps(entry, sort_keys=True).encode())
  for name, array in sorted(tensors.items()):
    total.update(f'{name}{array.shape}{array.dtype}'.encode())
    total.update(np.ascontiguousarray(array).tobytes())
  return total.hexdigest()


def _about(tensors: Mapping[str, np.ndarray], trained_on: str) -> About:
  shape = torch_names.architecture(tensors)
  channels, classes = shape.pop('channels'), shape['num_classes']
  model = models.create(shape['model'], classes)
  if not trained_on:
    if not isinstance(model, ImageNetResNet) or classes != 1000 or channels != 3:
      raise ValueError(
        'the file does not say for which images the network is; name the data set that it was '
        'trained on (--trained-on=cifar10).'
      )
    trained_on = 'imagenet2012'
  spec = data_lib.describe(trained_on)
  if spec.shape[2] != channels:
    raise ValueError(f'{trained_on} has {spec.shape[2]} channels; the network takes {channels}.')
  if isinstance(model, vgg.VGG):
    logging.warning(
      'the VGG is taken for one without max pooling after its last convolution, of which its '
      'arrays say nothing: one that has it gives other logits.'
    )
  return About(
    **shape,
    dtype='float32',
    shape=spec.shape,
    mean=spec.mean,
    std=spec.std,
    # A network that was fine-tuned sees images as before, and calls them otherwise.
    dataset=trained_on if spec.num_classes == classes else '',
    resize=spec.resize,
  )


def _without_conv_biases(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A bias before BatchNorm moves into its running mean: BN(x + b; m) = BN(x; m - b)."""
  out = dict(tensors)
  for name in tensors:
    conv = re.fullmatch(r'features\.(\d+)\.bias', name)
    if conv and tensors[f'features.{conv[1]}.weight'].ndim == 4:
      mean = f'features.{int(conv[1]) + 1}.running_mean'
      if mean not in tensors:
        raise ValueError(f'{name} must be followed by BatchNorm; there is no {mean}.')
      bias = out.pop(name)
      if f'{name}_mask' in tensors:
        bias = np.where(tensors[f'{name}_mask'] != 0, bias, np.zeros_like(bias))
      out[mean] = tensors[mean].astype(np.float64) - bias.astype(np.float64)  # rounded once, later
  return out


def _variables(about: About, tensors: Mapping[str, np.ndarray]) -> dict:
  tree = about.blank
  model = about.network()
  leaves = {torch_names.name_of(model, n): x for n, x in masks_lib.named_leaves(tree).items()}
  arrays = {
    name: torch_names.from_torch(array)
    for name, array in tensors.items()
    if not name.endswith('_mask')
  }
  check_shapes(
    {name: leaf.shape for name, leaf in leaves.items()},
    {name: array.shape for name, array in arrays.items()},
  )
  values = [arrays[name].astype(np.float32) for name in leaves]
  return jax.tree.unflatten(jax.tree.structure(tree), values)


def _masks(about: About, variables: dict, tensors: Mapping[str, np.ndarray]) -> masks_lib.Masks:
  model: models.Network = about.network()

  def one(name: str, leaf: np.ndarray) -> np.ndarray:
    mask = tensors.get(torch_names.name_of(model, f'params/{name}') + '_mask')
    if mask is not None:
      return torch_names.from_torch(mask != 0)
    return leaf != 0 if pruning.is_kernel(name) else np.ones(leaf.shape, bool)

  return masks_lib.map_named(one, variables['params'])
