"""Layers that can multiply with kept weights only, and ways to do it, all with the same result."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax import lax
from jax.experimental import sparse

from random_pruning_jax import kernels
from random_pruning_jax.models import convolution

_CHANNELS_LAST = ('NHWC', 'HWIO', 'NHWC')


class Site(NamedTuple):
  """A convolution or linear layer as the network calls it."""

  name: str  # 'stage1_block0/conv1'
  shape: tuple[int, ...]  # of its input
  stride: int
  pad: int


def sites(model: nn.Module, variables: Mapping[str, Any], shape: tuple[int, ...]) -> list[Site]:
  """Layers that WAYS can compute, in the order in which an image meets them; others stay dense.

  Raises ValueError for a model that cannot be called as `model(images, train=False)`.
  """
  found = {}

  def record(call, args, kwargs, context):
    out, name = call(*args, **kwargs), called(context)
    if name is not None:
      (x,) = (*args, *kwargs.values())
      how = _stride_and_pad(context.module, x.shape)
      # A kernel of more axes holds several layers (nn.scan); one of fewer slides over fewer axes.
      fits = x.dtype == out.dtype == jnp.float32 and stored_kernel(variables, name).ndim == x.ndim
      site = Site(name, tuple(x.shape), *how) if how and fits else None
      # A layer that is called on several shapes has no site of its own.
      found[name] = site if found.get(name, site) == site else None
    return out

  def apply(variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    with nn.intercept_methods(record):
      return model.apply(variables, images, train=False)

  try:
    jax.eval_shape(apply, variables, jax.ShapeDtypeStruct(shape, jnp.float32))
  except TypeError as error:
    said = str(error).partition('\n')[0]
    wanted = 'the model must be called as model(images, train=False)'
    raise ValueError(f'{wanted}, got: {said}') from error
  return [site for site in found.values() if site]


def called(context: nn.module.InterceptorContext) -> str | None:
  """The name of the layer that is called; None where it is anything else."""
  # Other classes, subclasses of these included, may do more than multiply.
  layer = context.method_name == '__call__' and type(context.module) in (nn.Conv, nn.Dense)
  return '/'.join(context.module.path) if layer else None


def _stride_and_pad(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, int] | None:
  """(stride, pad), the same on all sides, of a layer with an input of this shape; else None."""
  if isinstance(module, nn.Dense):
    return (1, 0) if len(shape) == 2 else None
  if len(shape) != 4 or np.size(module.kernel_size) != 2 or module.mask is not None:
    return None
  size = tuple(np.broadcast_to(module.kernel_size, 2).tolist())
  strides = tuple(np.broadcast_to(module.strides or 1, 2).tolist())
  dilations = (module.kernel_dilation, module.input_dilation)
  dilated = any(np.any(np.asarray(each or 1) != 1) for each in dilations)
  if dilated or module.feature_group_count != 1 or len(set(strides)) > 1:
    return None
  pads = module.padding
  if isinstance(pads, str):
    if pads not in ('SAME', 'VALID'):
      return None
    pads = jax.lax.padtype_to_pads(shape[1:3], size, strides, pads)
  pads = {int(pad) for pad in jax.tree.leaves(pads)}
  return (strides[0], pads.pop()) if len(pads) == 1 else None


def stored_kernel(variables: Mapping[str, Any], name: str) -> np.ndarray:
  tree = variables['params']
  for part in name.split('/'):
    tree = tree[part]
  return np.asarray(tree['kernel'], np.float32)


def dense(kernel: np.ndarray, site: Site) -> Callable[[jax.Array], jax.Array]:
  """XLA's convolution or matrix product."""
  return _dense(kernel, site, lax.conv_general_dilated)


def _dense(kernel, site, convolve):
  kernel = jnp.asarray(kernel)
  if kernel.ndim == 2:
    return lambda x: x @ kernel
  pads = ((site.pad, site.pad),) * 2
  strides = (site.stride, site.stride)
  return lambda x: convolve(x, kernel, strides, pads, dimension_numbers=_CHANNELS_LAST)


def columns(kernel: np.ndarray, site: Site) -> Callable[[jax.Array], jax.Array]:
  """One sparse product (BCSR) with all taps' shifted images, channels first."""
  weights = _csr(kernel.reshape(-1, kernel.shape[-1]).T)
  if kernel.ndim == 2:
    return lambda x: (weights @ x.T).T

  def run(x: jax.Array) -> jax.Array:
    shifted = _shifted(x, kernel.shape[:2], site)
    out = weights @ jnp.concatenate([part.reshape(len(part), -1) for part in shifted])
    return out.reshape(-1, *shifted[0].shape[1:]).transpose(1, 2, 3, 0)

  return run


def taps(kernel: np.ndarray, site: Site) -> Callable[[jax.Array], jax.Array]:
  """A sparse product (BCSR) for each tap of a kernel, summed, channels first."""
  if kernel.ndim == 2:
    return columns(kernel, site)
  weights = [_csr(tap.T) for tap in kernel.reshape(-1, *kernel.shape[2:])]

  def run(x: jax.Array) -> jax.Array:
    shifted = _shifted(x, kernel.shape[:2], site)
    products = [w @ part.reshape(len(part), -1) for w, part in zip(weights, shifted, strict=True)]
    return sum(products).reshape(-1, *shifted[0].shape[1:]).transpose(1, 2, 3, 0)

  return run


def compiled(kernel: np.ndarray, site: Site) -> Callable[[jax.Array], jax.Array]:
  """The kernel of `kernels/kept.py`; its input and output lie channels first in memory.

  Raises RuntimeError without Numba and on any device but a CPU.
  """
  if problem := kernels.lacking():
    raise RuntimeError(f'the way compiled needs {problem}.')
  from random_pruning_jax.kernels import kept

  layer = kept.layer(kernel, site.shape, site.stride, site.pad)
  return lambda x: kept.call(layer, x.astype(jnp.float32))


def dense_compiled(kernel: np.ndarray, site: Site) -> Callable[[jax.Array], jax.Array]:
  """The kernel of `kernels/dense.py`, of all weights; a matrix product is XLA's.

  Raises RuntimeError where it cannot run.
  """
  if convolution.fastest() is not convolution.by_kernels:
    raise RuntimeError(f'the way dense_compiled needs {kernels.lacking() or "AVX2"}.')
  return _dense(kernel, site, convolution.by_kernels)


WAYS = {
  'dense': dense,
  'columns': columns,
  'taps': taps,
  'compiled': compiled,
  'dense_compiled': dense_compiled,
}


def available() -> dict[str, Callable]:
  """Those of WAYS that can run here."""
  runs = {'compiled': not kernels.lacking()}
  runs['dense_compiled'] = convolution.fastest() is convolution.by_kernels
  return {name: way for name, way in WAYS.items() if runs.get(name, True)}


def _csr(matrix: np.ndarray) -> sparse.BCSR:
  rows = scipy.sparse.csr_array(matrix)
  parts = tuple(map(jnp.asarray, (rows.data, rows.indices, rows.indptr)))
  return sparse.BCSR(parts, shape=matrix.shape, indices_sorted=True, unique_indices=True)


def _shifted(x: jax.Array, taps: tuple[int, int], site: Site) -> list[jax.Array]:
  """For each tap the input [C, B, h, w] that it meets."""
  _, height, width, _ = x.shape
  pads = ((0, 0), (0, 0), (site.pad, site.pad), (site.pad, site.pad))
  padded = jnp.pad(x.transpose(3, 0, 1, 2), pads)
  high = (height + 2 * site.pad - taps[0]) // site.stride * site.stride + 1
  wide = (width + 2 * site.pad - taps[1]) // site.stride * site.stride + 1
  return [
    padded[:, :, i : i + high : site.stride, j : j + wide : site.stride]
    for i in range(taps[0])
    for j in range(taps[1])
  ]
