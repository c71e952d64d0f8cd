"""How training images reach the step: from device memory, or streamed from files.

Either way a feed gives the inputs of any step without those before it, and `gather` makes them the
batch {'image' in [0, 1], 'label'} inside the compiled step.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax import data, parallel
from random_pruning_jax.data import places, resident, streamed
from random_pruning_jax.experiment import Experiment, keys

MOST_RESIDENT = 4 << 30  # bytes of 8-bit pixels that 'auto' puts into device memory


class Feed(NamedTuple):
  """Training images on their way to the devices."""

  images: data.Images  # all of them, or what looks like them and decodes those that are asked for
  gather: Callable  # the inputs of a step -> its batch; equal settings give the same function
  axes: tuple  # of the inputs, for `parallel.parallel`
  stream: Callable[[int, int], Iterator[tuple]]  # the inputs of steps `start` to `stop - 1`


def feed(parts: Experiment) -> Feed:
  """The feed that `config.data_loading` asks for; 'auto' streams what is large or varies in size.

  Raises ValueError for an augmentation that the feed does not have.
  """
  config = parts.config
  loading = config.data_loading
  if loading == 'auto':
    loading = 'streamed' if _large(config.dataset, config.data_dir) else 'resident'
  mode = config.augment.mode
  known = {'resident': resident.MODES, 'streamed': ('resized', 'none')}[loading]
  if mode not in known:
    raise ValueError(
      f'augment.mode must be one of {", ".join(known)} where images are {loading}, got {mode!r}.'
    )
  return _streamed(parts) if loading == 'streamed' else _resident(parts)


def held_out(parts: Experiment, split: str = 'validation') -> data.Images:
  """Images of a split of the config's own set, as evaluation shows them to the network."""
  config, spec = parts.config, parts.spec
  return data.load_adapted(config.dataset, split, spec.shape, config.data_dir, spec.resize)[0]


def _large(name: str, data_dir: str) -> bool:
  path = data.find(name, data_dir)
  if streamed.differ_in_size(name, path):
    return True
  shape = streamed.decode.kind_of(name, path).shape
  return math.prod(shape) * places.split_sizes(path).get('train', 0) > MOST_RESIDENT


def _resident(parts: Experiment) -> Feed:
  config = parts.config
  images = data.load(config.dataset, 'train', config.data_dir)
  if images.images.shape[1:] != parts.spec.shape:
    raise ValueError(
      f'images of {config.dataset} are {images.images.shape[1:]} and {parts.spec.shape} is wanted '
      "(image_size): data_loading must be 'streamed'."
    )
  augment = config.augment

  def stream(start: int, stop: int) -> Iterator[tuple]:
    whole = parallel.replicate((*images, keys(config.seed).augment), parts.on)
    per_epoch = resident.steps_per_epoch(len(images.labels), config.batch_size)
    for step in range(start, stop):
      indices = resident.batch_indices(config.seed, step, len(images.labels), config.batch_size)
      yield *whole, parallel.split(indices, parts.on), np.int32(step // per_epoch)

  gather = _gather(augment.pad, augment.mode, augment.flip == 'yes')
  return Feed(images, gather, (None, None, None, 0, None), stream)


@functools.lru_cache(maxsize=64)
def _gather(pad: int, mode: str, flip: bool) -> Callable:
  def gather(images, labels, key, indices, epoch):
    key = jax.random.fold_in(key, epoch)
    return resident.gather(images, labels, indices, key, pad=pad, mode=mode, flip=flip)

  return gather


def _streamed(parts: Experiment) -> Feed:
  config, (height, width, channels) = parts.config, parts.spec.shape
  source = streamed.Source(config.dataset, 'train', config.data_dir)
  example = stream_example(parts, source)

  def stream(start: int, stop: int) -> Iterator[tuple]:
    for batch in streamed.batches(example, start, stop, workers=config.data_workers):
      # Of this process alone, so that the parts of its devices are next to each other.
      local = sum(device.process_index == jax.process_index() for device in parts.on)
      image = batch['image'].reshape(local, -1, height, width, channels)
      yield image, batch['label'].reshape(local, -1)

  images: Any = data.Images(streamed.Pixels(source, example.augment), streamed.Labels(source))
  return Feed(images, _scaled, (0, 0), stream)


def stream_example(parts: Experiment, source: streamed.Source) -> streamed.Example:
  """What worker processes do for a config's training images."""
  config, (height, width, channels) = parts.config, parts.spec.shape
  augment = streamed.Augment(
    (height, width),
    channels,
    random=config.augment.mode == 'resized',
    flip=config.augment.flip == 'yes',
    area=tuple(config.augment.area),
    aspect=tuple(config.augment.aspect),
    resize=parts.spec.resize,
  )
  places_of_batch = np.arange(config.batch_size)
  mine = parallel.split(places_of_batch, parts.on).ravel().tolist()
  return streamed.Example(source, augment, config.seed, config.batch_size, tuple(mine))


def _scaled(images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
  return {'image': images.astype(jnp.float32) / 255, 'label': labels.astype(jnp.int32)}
