"""What a network costs, dense and pruned: weights, multiply-adds, bytes of its values.

Counts come from shapes alone: nothing is initialised or computed, and no device is used. One
multiply-add (MAC) is two FLOPs. Convolutions and linear layers are counted; BatchNorm, biases and
activations, which no mask touches, are not.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from random_pruning_jax import masks
from random_pruning_jax.ratios import Densities

_COUNTED = (nn.Conv, nn.Dense)
_PASSES = 3  # a training step is a forward pass and a backward pass of twice its cost


@dataclasses.dataclass(frozen=True)
class Layer:
  """A kernel that can be pruned, and its multiply-adds for one image while dense."""

  name: str  # 'stage1_block0/conv1/kernel'
  shape: tuple[int, ...]  # (h, w, in, out) or (in, out)
  macs: int

  @property
  def size(self) -> int:
    return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Structure:
  """A network's prunable layers in the order in which an image meets them, and the rest."""

  layers: tuple[Layer, ...]
  parameters: int  # kernels, biases, scales and shifts
  statistics: int  # BatchNorm's running mean and variance, which no optimizer sees

  @property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    return {layer.name: layer.shape for layer in self.layers}


def structure(
  model: nn.Module, image_shape: Sequence[int], init: Callable[..., dict] | None = None
) -> Structure:
  """Traces the initialisation of a model for one image [H, W, C] without running it.

  `init(key)`, if given, is called in place of `model.init`; it must not have been traced before.

  Raises:
    ValueError: the model has a kernel in a layer that is neither nn.Conv nor nn.Dense, or one that
      is stored with those of other layers (nn.scan, nn.vmap).
  """
  found: dict[str, Layer] = {}

  def record(call, args, kwargs, context):
    output = call(*args, **kwargs)
    if isinstance(context.module, _COUNTED) and context.method_name == '__call__':
      name = '/'.join((*context.module.path, 'kernel'))
      shape = nn.meta.unbox(context.module.get_variable('params', 'kernel')).shape
      macs = math.prod(output.shape[:-1]) * math.prod(shape)
      before = found[name].macs if name in found else 0  # a layer may be used twice
      found[name] = Layer(name, shape, before + macs)
    return output

  key = jax.eval_shape(lambda: jax.random.key(0))
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  # A new function each time, since JAX does not trace the same one again.
  init = init or (lambda key: jax.eval_shape(lambda *of: model.init(*of), key, images))
  with nn.intercept_methods(record):
    variables = nn.meta.unbox(init(key))
  names = flax.traverse_util.flatten_dict(variables['params'], sep='/')
  missed = [name for name in names if name.split('/')[-1] == 'kernel' and name not in found]
  if missed and not found:
    raise ValueError(
      f'no nn.Conv or nn.Dense was seen, but there is {", ".join(missed)}: the network has none, '
      'or its initialisation had been traced before.'
    )
  if missed:
    raise ValueError(f'Only nn.Conv and nn.Dense are counted, but there is {", ".join(missed)}.')
  for name, layer in found.items():
    if names[name].shape != layer.shape:
      raise ValueError(
        f'layers must be stored one by one to be counted; {name} is {layer.shape} as it is called '
        f'and {names[name].shape} as it is stored: unroll nn.scan or nn.vmap.'
      )
  return Structure(
    layers=tuple(found.values()),
    parameters=_count(variables['params']),
    statistics=_count({name: tree for name, tree in variables.items() if name != 'params'}),
  )


def kept(layers: Sequence[Layer], densities: Densities) -> int:
  """Weights left by masks of exact counts."""
  return sum(masks.kept_count(d, layer.size) for layer, d in _paired(layers, densities))


def macs(layers: Sequence[Layer], densities: Densities | None = None) -> float:
  """Multiply-adds for one image, sum_l d_l macs_l; dense without `densities`."""
  if densities is None:
    return sum(layer.macs for layer in layers)
  return sum(d * layer.macs for layer, d in _paired(layers, densities))


def training_flops(
  layers: Sequence[Layer], samples: int, densities: Densities | None = None
) -> float:
  """FLOPs of training on `samples` images, three forward passes for each (Evci et al., 2020)."""
  return 2 * _PASSES * samples * macs(layers, densities)


def file_bytes(structure: Structure, densities: Densities | None = None) -> int:
  """Size of a file of the network's values in float32, with BatchNorm's statistics.

  With `densities`, of the kept weights and everything that is never pruned. Masks are not counted:
  a random one is redrawn from its seed, any other costs up to one bit more for each weight.
  """
  prunable = sum(layer.size for layer in structure.layers)
  rest = structure.parameters + structure.statistics - prunable
  weights = prunable if densities is None else kept(structure.layers, densities)
  return 4 * (weights + rest)


def _paired(layers: Sequence[Layer], densities: Densities) -> list[tuple[Layer, float]]:
  names = {layer.name for layer in layers}
  if names != set(densities):
    raise ValueError(
      f'Densities must name the layers: missing {sorted(names - set(densities))}, '
      f'unknown {sorted(set(densities) - names)}.'
    )
  return [(layer, densities[layer.name]) for layer in layers]


def _count(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))
