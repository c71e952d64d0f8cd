"""A predictor that multiplies with kept weights only, in each layer where that is faster here.

A layer's way is one of WAYS. Which is the fastest depends on the machine, the batch and the layer,
so each is timed once on the layer's own shapes, and the times are kept in the user's cache. The
dense way is always among them, and the whole network is timed at the end: where the chosen ways
together are not faster than dense, it is dense. What this is worth is in docs/efficiency.md.
"""

import functools
import hashlib
import json
import pathlib
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax import lax
from jax.experimental import sparse

from random_pruning_jax.data import places

ROUNDS = 7  # timed calls of each way, in turns; the least counts
_CHANNELS_LAST = ('NHWC', 'HWIO', 'NHWC')


class Site(NamedTuple):
  """A convolution or linear layer as the network calls it."""

  name: str  # 'stage1_block0/conv1'
  shape: tuple[int, ...]  # of its input
  stride: int
  pad: int


class Predictor(NamedTuple):
  """`logits` [B, K] of pixels [B, H, W, C] for one batch size, and how each layer computes."""

  logits: Callable[[jax.Array], jax.Array]
  ways: dict[str, str]  # layer -> a key of WAYS


def dense(kernel: np.ndarray, site: Site) -> Callable[[jax.Array], jax.Array]:
  """XLA's convolution or matrix product."""
  kernel = jnp.asarray(kernel)
  if kernel.ndim == 2:
    return lambda x: x @ kernel
  pads = ((site.pad, site.pad),) * 2
  strides = (site.stride, site.stride)
  return lambda x: lax.conv_general_dilated(
    x, kernel, strides, pads, dimension_numbers=_CHANNELS_LAST
  )


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


WAYS = {'dense': dense, 'columns': columns, 'taps': taps}


def predictor(
  model: nn.Module,
  variables: Mapping[str, Any],
  shape: tuple[int, int, int, int],
  *,
  ways: Mapping[str, str] | None = None,
) -> Predictor:
  """A compiled predictor for images of `shape` [B, H, W, C].

  Without `ways` they are measured. Layers that `ways` does not name are dense. Raises ValueError
  for an unknown way or layer.
  """
  variables = jax.device_get(variables)
  sites = _sites(model, variables, shape)
  if ways is None:
    measured = {site.name: fastest(_kernel(variables, site.name), site) for site in sites}
    return _faster_whole(model, variables, sites, measured, shape)
  unknown = sorted({*ways} - {site.name for site in sites})
  if unknown or not set(ways.values()) <= set(WAYS):
    raise ValueError(
      f'ways must give layers one of {", ".join(WAYS)}; got {dict(ways)}'
      + (f', and the network has no {", ".join(unknown)}.' if unknown else '.')
    )
  return _compiled(model, variables, sites, ways)


def fastest(kernel: np.ndarray, site: Site) -> str:
  """The way with the least time for this layer on this machine, from the cache if it is there."""
  times = _cached(kernel, site)
  return min(times, key=times.get)


def timed(kernel: np.ndarray, site: Site, rounds: int = ROUNDS) -> dict[str, float]:
  """Least milliseconds of each way for one layer, called in turns."""
  x = jnp.asarray(np.random.default_rng(0).standard_normal(site.shape, np.float32))
  ways = {n: way for n, way in WAYS.items() if n != 'taps' or kernel.shape[:-2] not in ((), (1, 1))}
  return race({name: jax.jit(way(kernel, site)) for name, way in ways.items()}, x, rounds)


def race(runs: Mapping[str, Callable], x: jax.Array, rounds: int) -> dict[str, float]:
  """Least milliseconds of each function of `x`, called in turns after a first call."""
  for run in runs.values():
    jax.block_until_ready(run(x))
  least = dict.fromkeys(runs, float('inf'))
  for _ in range(rounds):
    for name, run in runs.items():
      start = time.perf_counter()
      jax.block_until_ready(run(x))
      least[name] = min(least[name], 1e3 * (time.perf_counter() - start))
  return least


def _faster_whole(model, variables, sites, ways, shape) -> Predictor:
  chosen = _compiled(model, variables, sites, ways)
  plain = _compiled(model, variables, sites, {})
  if all(way == 'dense' for way in chosen.ways.values()):
    return plain
  times = race({'chosen': chosen.logits, 'dense': plain.logits}, jnp.zeros(shape), ROUNDS)
  return chosen if times['chosen'] < times['dense'] else plain


def _compiled(model, variables, sites: list[Site], ways: Mapping[str, str]) -> Predictor:
  runs = {
    site.name: WAYS[ways[site.name]](_kernel(variables, site.name), site)
    for site in sites
    if ways.get(site.name, 'dense') != 'dense'
  }

  def replace(call, args, kwargs, context):
    name = '/'.join(context.module.path)
    if context.method_name != '__call__' or name not in runs:
      return call(*args, **kwargs)
    out = runs[name](args[0])
    bias = variables['params']
    for part in context.module.path:
      bias = bias[part]
    return out + bias['bias'] if 'bias' in bias else out

  def apply(images: jax.Array) -> jax.Array:
    with nn.intercept_methods(replace):
      return model.apply(variables, images, train=False)

  return Predictor(jax.jit(apply), {site.name: ways.get(site.name, 'dense') for site in sites})


def _sites(model, variables, shape) -> list[Site]:
  """Layers with a kernel in the order in which an image meets them."""
  found = []

  def record(call, args, kwargs, context):
    module = context.module
    if isinstance(module, nn.Conv | nn.Dense) and context.method_name == '__call__':
      stride, pad = (module.strides, module.padding) if isinstance(module, nn.Conv) else (1, 0)
      found.append(Site('/'.join(module.path), tuple(args[0].shape), stride, pad))
    return call(*args, **kwargs)

  def apply(images: jax.Array) -> jax.Array:
    with nn.intercept_methods(record):
      return model.apply(variables, images, train=False)

  jax.eval_shape(apply, jax.ShapeDtypeStruct(shape, jnp.float32))
  return found


def _kernel(variables: Mapping[str, Any], name: str) -> np.ndarray:
  tree = variables['params']
  for part in name.split('/'):
    tree = tree[part]
  return np.asarray(tree['kernel'])


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


def _cached(kernel: np.ndarray, site: Site) -> dict[str, float]:
  """Times of a layer of this shape and number of weights, measured once on this machine."""
  layer = [*kernel.shape, int(np.count_nonzero(kernel)), *site.shape, site.stride, site.pad]
  text = json.dumps([layer, _machine(), sorted(WAYS)])
  name = f'{hashlib.sha256(text.encode()).hexdigest()[:16]}.json'
  path = pathlib.Path(places.cache_dir()) / 'sparse_inference' / name
  if path.exists():
    return json.loads(path.read_text())
  times = timed(kernel, site)
  path.parent.mkdir(parents=True, exist_ok=True)
  whole = path.with_suffix('.tmp')
  whole.write_text(json.dumps(times))
  whole.replace(path)
  return times


@functools.cache
def _machine() -> list[str]:
  device = jax.devices()[0]
  return [jax.__version__, device.platform, device.device_kind, platform.machine(), platform.node()]
