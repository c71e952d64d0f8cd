"""The ways in which a layer can multiply, all with the same result."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax import lax
from jax.experimental import sparse

from random_pruning_jax import convolution, kernels

_CHANNELS_LAST = ('NHWC', 'HWIO', 'NHWC')


class Site(NamedTuple):
  """A convolution or linear layer as the network calls it."""

  name: str  # 'stage1_block0/conv1'
  shape: tuple[int, ...]  # of its input
  stride: int
  pad: int


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
  if convolution.fastest() is not convolution.compiled:
    raise RuntimeError(f'the way dense_compiled needs {kernels.lacking() or "AVX2"}.')
  return _dense(kernel, site, convolution.compiled)


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
  runs['dense_compiled'] = convolution.fastest() is convolution.compiled
  return {name: way for name, way in WAYS.items() if runs.get(name, True)}


def channels_first(x: jax.Array) -> jax.Array:
  return jnp.moveaxis(x, -1, x.ndim - 3) if x.ndim == 4 else x.T


def channels_last(x: jax.Array) -> jax.Array:
  return jnp.moveaxis(x, x.ndim - 3, -1) if x.ndim == 4 else x.T


def _csr(matrix: np.ndarray) -> sparse.BCSR:
  rows = scipy.sparse.csr_array(matrix)
  parts = tuple(map(jnp.asarray, (rows.data, rows.indices, rows.indptr)))
  return sparse.BCSR(parts, shape=matrix.shape, indices_sorted=True, unique_indices=True)


def _shifted(x: jax.Array, taps: tuple[int, int], site: Site) -> list[jax.Array]:
  """For each tap the input [C, B, h, w] that it meets."""
  images, height, width, _ = x.shape
  del images
  pads = ((0, 0), (0, 0), (site.pad, site.pad), (site.pad, site.pad))
  padded = jnp.pad(x.transpose(3, 0, 1, 2), pads)
  high = (height + 2 * site.pad - taps[0]) // site.stride * site.stride + 1
  wide = (width + 2 * site.pad - taps[1]) // site.stride * site.stride + 1
  return [
    padded[:, :, i : i + high : site.stride, j : j + wide : site.stride]
    for i in range(taps[0])
    for j in range(taps[1])
  ]
