"""A trained network's outputs over whole sets of images: predict once, measure many.

Each image is seen exactly once, for any batch size and any number of devices; only a batch of
pixels is held at a time. What the outputs say is computed in `suites`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax import attacks, batches, models, norms, ood
from random_pruning_jax.models import folding


class Trained(NamedTuple):
  """A trained network and how it is run."""

  model: models.Network
  variables: dict
  batch_size: int
  on: tuple[jax.Device, ...]


class Source(NamedTuple):
  """Images made on demand: `make` turns rows of `arrays` [N, ...] into float32 [B, H, W, C]."""

  arrays: tuple[Any, ...]
  make: Callable[..., jax.Array]


class Outputs(NamedTuple):
  """What a network says of N images; `features` is None where they were not asked for."""

  logits: np.ndarray  # float32 [N, K]
  features: np.ndarray | None  # float32 [N, F], the input of the last layer


class Rows:
  """Some rows of an array, in some order, read as they are sliced."""

  def __init__(self, array: np.ndarray, rows: np.ndarray):
    self._array, self._rows = array, rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, where: slice) -> np.ndarray:
    return self._array[self._rows[where]]


def pixels(images: jax.Array) -> jax.Array:
  """uint8 in [0, 255] -> float32 in [0, 1]."""
  return images.astype(jnp.float32) / 255


def stored(images: np.ndarray) -> Source:
  """Images uint8 [N, H, W, C] in the host's memory or on its disk."""
  return Source((images,), pixels)


def gaussian_noise(count: int, shape: tuple[int, int, int]) -> Source:
  """`ood.gaussian_noise`, made on the devices; the same images for every network."""
  return Source((np.arange(count, dtype=np.int32),), _noise_of(tuple(shape)))


def pixel_shuffled(images: np.ndarray) -> Source:
  """`ood.pixel_shuffled` of images uint8 [N, H, W, C], each always shuffled in the same way."""
  return Source((np.arange(len(images), dtype=np.int32), images), _shuffled)


def begin_to_predict(network: Trained, images: np.ndarray) -> Callable[[], np.ndarray]:
  """Starts computing logits [N, K] of images uint8 [N, H, W, C]; returns a function that waits."""
  wait = batches.begin(
    _forward(network.model, pixels, features=False),
    (network.variables,),
    (images,),
    batch_size=network.batch_size,
    on=network.on,
  )
  return lambda: np.concatenate([logits for logits, _ in wait()])


def outputs(
  network: Trained,
  source: Source,
  *,
  features: bool = False,
  advance: Callable[[int], None] | None = None,
) -> Outputs:
  """Logits, and features if asked for, of every image; `advance(images)` is told of each batch.

  Raises ValueError without images, as `odin` does.
  """
  return _joined(stream(network, source, features=features), advance)


def stream(network: Trained, source: Source, *, features: bool = False) -> Iterator[Outputs]:
  """`Outputs` of batch after batch, for results that need not be kept."""
  run = _forward(network.model, source.make, features)
  for batch in _map(network, run, (network.variables,), source.arrays):
    yield Outputs(*batch)


def odin(
  network: Trained,
  source: Source,
  *,
  temperature: float = 1000.0,
  epsilon: float = 0.0014,
  advance: Callable[[int], None] | None = None,
) -> np.ndarray:
  """`ood.odin` of every image, [N]: gradient, step and second forward pass in one call a batch.

  `epsilon` is the step, on the scale of pixels in [0, 1].
  """
  run = _odin(network.model, source.make)
  arguments = (network.variables, np.float32(temperature), np.float32(epsilon))
  return _joined(_map(network, run, arguments, source.arrays), advance)


def survives(
  network: Trained,
  attack: str,
  images: np.ndarray,
  labels: np.ndarray,
  epsilon: float,
  *,
  settings: tuple[tuple[str, Any], ...] = (),
  rows: np.ndarray | None = None,
  advance: Callable[[int], None] | None = None,
) -> np.ndarray:
  """Whether the network is right after the attack, bool [N]; the whole attack is one call a batch.

  `attack` is a name of `attacks.ATTACKS` and `settings` its own; `epsilon` is on the scale of
  pixels in [0, 1]. Of images uint8 [N, H, W, C] only `rows` are attacked (default: all), and the
  others count as wrong. An image's random numbers depend on its index alone, not on rows, batches,
  devices or networks.
  """
  rows = np.arange(len(labels)) if rows is None else np.asarray(rows)
  right = np.zeros(len(labels), bool)
  if len(rows):
    run = _attacked(network.model, attack, settings)
    arrays = (Rows(images, rows), labels[rows], rows.astype(np.int32))
    arguments = (network.variables, np.float32(epsilon))
    right[rows] = _joined(_map(network, run, arguments, arrays), advance)
  return right


def epsilon_name(epsilon: float, norm: str = 'linf') -> str:
  """8 / 255 -> '8/255'; values that are no multiple of 1 / 255, and all in L2, are decimals."""
  steps = epsilon * 255
  whole = norm == 'linf' and abs(steps - round(steps)) < 1e-6
  return f'{round(steps)}/255' if whole else f'{epsilon:.6g}'


# Cached, so that a network evaluated many times (validation) is compiled once.
@functools.lru_cache(maxsize=64)
def _forward(model, make, features: bool):
  apply = folding.evaluation(model, features=features)

  def run(variables, *arrays):
    out = apply(variables, make(*arrays))
    return out if features else (out, None)

  return run


@functools.lru_cache(maxsize=64)
def _odin(model, make):
  apply = folding.evaluation(model)

  def run(variables, temperature, epsilon, *arrays):
    logits_fn = functools.partial(apply, variables)
    return ood.odin(logits_fn, make(*arrays), temperature, epsilon)

  return run


@functools.lru_cache(maxsize=64)
def _attacked(model, attack: str, settings: tuple[tuple[str, Any], ...]):
  apply = folding.evaluation(model)

  def run(variables, epsilon, images, labels, indices):
    logits_fn = functools.partial(apply, variables)
    keys = norms.image_keys(jax.random.key(0), indices)
    moved = attacks.ATTACKS[attack](
      logits_fn, pixels(images), labels, epsilon, keys, **dict(settings)
    )
    return jnp.argmax(logits_fn(moved), axis=-1) == labels

  return run


@functools.lru_cache(maxsize=64)
def _noise_of(shape: tuple[int, int, int]):
  return lambda indices: ood.gaussian_noise(norms.image_keys(jax.random.key(0), indices), shape)


def _shuffled(indices: jax.Array, images: jax.Array) -> jax.Array:
  return ood.pixel_shuffled(norms.image_keys(jax.random.key(1), indices), pixels(images))


def _map(network: Trained, run: Callable, arguments: tuple, arrays: tuple) -> Iterator[Any]:
  return batches.map_batches(run, arguments, arrays, batch_size=network.batch_size, on=network.on)


def _joined(parts: Iterator[Any], advance: Callable[[int], None] | None) -> Any:
  kept = []
  for part in parts:
    kept.append(part)
    if advance:
      advance(len(jax.tree.leaves(part)[0]))
  if not kept:
    raise ValueError('a network must be given at least one image, got 0.')
  return jax.tree.map(lambda *arrays: np.concatenate(arrays), *kept)
