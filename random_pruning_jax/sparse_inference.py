"""A predictor that multiplies with kept weights only, in each layer where that is faster here.

A layer's way is one of sparse_ways.WAYS. Which is the fastest depends on the machine, the batch and
the layer, so each is timed once on the layer's own shapes, and the times are kept in the user's
cache. Whole networks are timed at the end, since layers of the same memory layout follow each other
at no cost: with each layer by its own fastest way, and with all layers by `compiled`, by `dense`
and by `dense_compiled`. The fastest is taken. What this is worth is in docs/efficiency.md.
"""

import contextlib
import functools
import hashlib
import json
import pathlib
import platform
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from random_pruning_jax import kernels, sparse_ways
from random_pruning_jax.data import places
from random_pruning_jax.models import folding
from random_pruning_jax.sparse_ways import WAYS, Site, stored_kernel
from random_pruning_jax.system import atomic, processor

ROUNDS = 7  # timed calls of each way, in turns; the least time counts
HOPELESS = 3  # a way whose least time is longer than this many times the least of all is dropped
FAIR = 3  # timed calls before that, of which one or two may have met another program at work
SECONDS = 5  # for all turns
TOLERANCE = 1e-3  # of the largest logit; rounding in float32 stays below it


class Predictor(NamedTuple):
  """`logits` [B, K] of pixels [B, H, W, C] for one batch size, and how each layer computes."""

  logits: Callable[[jax.Array], jax.Array]
  ways: dict[str, str]  # layer -> a key of WAYS


def predictor(
  model: nn.Module,
  variables: Mapping[str, Any],
  shape: tuple[int, int, int, int],
  *,
  ways: Mapping[str, str] | None = None,
) -> Predictor:
  """A compiled predictor for finite images of `shape` [B, H, W, C], float32.

  `model.apply(variables, images, train=False)` must give the logits; a model with a field `dtype`
  is computed in float32, whatever that says. Without `ways`, the fastest are measured. These layers
  are always dense: those that `ways` does not name, those of any class but nn.Conv and nn.Dense
  themselves, and those called on several shapes.

  Raises:
    ValueError: a model that does not take `train`; an unknown way or layer; or logits that differ
      from the model's by more than TOLERANCE of the largest, as where a layer's kernel is not the
      stored one (nn.WeightNorm).
    RuntimeError: a way that cannot run here.
  """
  if getattr(model, 'dtype', None) is not None:
    model = model.clone(dtype='float32')
  variables = jax.device_get(variables)
  sites = sparse_ways.sites(model, variables, shape)
  dense = _whole(model, variables, sites, {})
  if ways is None:
    if problem := kernels.lacking():
      logging.warning('without the way compiled, which is the fastest: it needs %s', problem)
    return _checked(_fastest_whole(model, variables, sites, shape, dense), dense, shape)
  unknown = sorted({*ways} - {site.name for site in sites})
  if unknown or not set(ways.values()) <= set(WAYS):
    raise ValueError(
      f'ways must give layers one of {", ".join(WAYS)}; got {dict(ways)}'
      + (f', and the network has no {", ".join(unknown)} that could.' if unknown else '.')
    )
  return _checked(_whole(model, variables, sites, ways), dense, shape)


def fastest(kernel: np.ndarray, site: Site) -> str:
  """The way with the least time for this layer on this machine, from the cache if it is there."""
  times = _cached(kernel, site)
  return min(times, key=times.get)


def timed(
  kernel: np.ndarray, site: Site, rounds: int = ROUNDS, names: Collection[str] = tuple(WAYS)
) -> dict[str, float]:
  """Least milliseconds of those ways of `names` that can run here, called in turns for one layer.

  Inputs and outputs have the memory layout that lies between two layers of the same way.
  """
  x = np.random.default_rng(0).standard_normal(site.shape, np.float32)
  one = kernel.shape[:-2] in ((), (1, 1))  # the way `taps` is then the same as `columns`
  ways = {
    name: way(kernel, site)
    for name, way in sparse_ways.available().items()
    if name in names
    and not (one and name == 'taps')
    and not (kernel.ndim == 2 and name == 'dense_compiled')
  }
  runs = {name: jax.jit(run) for name, run in ways.items() if name != 'compiled'}
  inputs = dict.fromkeys(runs, jnp.asarray(x))
  if 'compiled' in ways:
    first, last = ((0, 3, 1, 2), (0, 2, 3, 1)) if x.ndim == 4 else ((1, 0), (1, 0))
    runs['compiled'] = jax.jit(lambda x: ways['compiled'](x.transpose(last)).transpose(first))
    inputs['compiled'] = jnp.asarray(x.transpose(first))
  return least_milliseconds(
    {name: functools.partial(run, inputs[name]) for name, run in runs.items()}, rounds
  )


def least_milliseconds(runs: Mapping[str, Callable], rounds: int) -> dict[str, float]:
  """Least milliseconds of each function, called in turns after a first call.

  One that after FAIR turns takes more than HOPELESS times the least is not called again, and after
  SECONDS no turn begins.
  """
  least = dict.fromkeys(runs, float('inf'))
  for run in runs.values():
    jax.block_until_ready(run())
  began = time.perf_counter()
  for turn in range(rounds):
    if turn and time.perf_counter() - began > SECONDS:
      break
    limit = HOPELESS * min(least.values()) if turn >= FAIR else float('inf')
    for name, run in runs.items():
      if least[name] <= limit:
        start = time.perf_counter()
        jax.block_until_ready(run())
        least[name] = min(least[name], 1e3 * (time.perf_counter() - start))
  return least


def _fastest_whole(model, variables, sites: list[Site], shape, dense: Predictor) -> Predictor:
  measured = {site.name: fastest(stored_kernel(variables, site.name), site) for site in sites}
  alike = [name for name in ('compiled', 'dense_compiled') if name in sparse_ways.available()]
  candidates = [measured, *(dict.fromkeys(measured, name) for name in alike)]
  whole = [dense, *(_whole(model, variables, sites, ways) for ways in candidates)]
  found = {tuple(one.ways.values()): one for one in whole}
  images = jnp.zeros(shape)
  times = least_milliseconds(
    {k: functools.partial(one.logits, images) for k, one in found.items()}, ROUNDS
  )
  return found[min(times, key=times.get)]


def _checked(found: Predictor, dense: Predictor, shape) -> Predictor:
  images = np.random.default_rng(0).random(shape, np.float32)
  wanted, got = np.asarray(dense.logits(images)), np.asarray(found.logits(images))
  largest = np.abs(wanted).max(where=np.isfinite(wanted), initial=0)
  if not np.allclose(got, wanted, rtol=0, atol=TOLERANCE * largest, equal_nan=True):
    raise ValueError(
      f"logits must be the model's to {TOLERANCE} of the largest, {largest:.3g}; of random pixels "
      f'they differ by {np.abs(got - wanted).max():.3g}. Does a layer multiply with another kernel '
      'than the stored one, as in nn.WeightNorm? Leave it dense, by `ways` without its name.'
    )
  return found


def _whole(model, variables, sites: list[Site], ways: Mapping[str, str]) -> Predictor:
  chosen = {site.name: ways.get(site.name, 'dense') for site in sites}
  runs = {
    site.name: WAYS[chosen[site.name]](stored_kernel(variables, site.name), site)
    for site in sites
    if chosen[site.name] != 'dense'
  }

  def replace(call, args, kwargs, context):
    module, name = context.module, sparse_ways.called(context)
    if name not in runs:
      return call(*args, **kwargs)
    out = runs[name](*args, *kwargs.values())
    return out + module.get_variable('params', 'bias') if module.use_bias else out

  def apply(images: jax.Array) -> jax.Array:
    arrays = jax.tree.map(jnp.asarray, variables)  # Flax multiplies NumPy's by a mask in place
    with nn.intercept_methods(replace):
      return model.apply(arrays, images, train=False)

  run = folding.folded(apply) if 'dense_compiled' in chosen.values() else apply
  return Predictor(jax.jit(run), chosen)


def _cached(kernel: np.ndarray, site: Site) -> dict[str, float]:
  """Times of a layer of this shape and number of weights, measured once on this machine."""
  layer = [*kernel.shape, int(np.count_nonzero(kernel)), *site.shape, site.stride, site.pad]
  # Where `compiled` can run, BCSR is slower and takes long to compile.
  names = tuple(sparse_ways.available())
  if 'compiled' in names:
    names = tuple(name for name in names if name not in ('columns', 'taps'))
  text = json.dumps([layer, _machine(), names, _version()])
  name = f'{hashlib.sha256(text.encode()).hexdigest()[:16]}.json'
  path = pathlib.Path(places.cache_dir()) / 'sparse_inference' / name
  with contextlib.suppress(OSError, ValueError):  # not there, or damaged
    return _parsed(path.read_text())
  times = timed(kernel, site, names=names)
  with contextlib.suppress(OSError):  # a cache that cannot be written: measured again next time
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, json.dumps(times))
  return times


def _parsed(text: str) -> dict[str, float]:
  """Milliseconds of at least one way, as JSON; raises ValueError for anything else."""
  times = json.loads(text)
  numbers = times.values() if isinstance(times, dict) and times.keys() <= WAYS.keys() else ()
  if not numbers or not all(isinstance(number, int | float) for number in numbers):
    raise ValueError(f'times must be numbers for some of {", ".join(WAYS)}, got {text:.100}.')
  return times


@functools.cache
def _machine() -> list:
  device = jax.devices()[0]
  devices = [jax.__version__, device.platform, device.device_kind]
  return [*devices, platform.node(), processor.abilities(), processor.cores()]


def _version() -> str:
  """Changes whenever the kernels change, or what compiles them."""
  if kernels.lacking():
    return ''
  from random_pruning_jax.kernels import objects

  return objects.version()
