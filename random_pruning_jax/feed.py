"""How training images reach the step: from device memory, or streamed from files.

Either way a feed can begin at any call (`training/calls.py`), and `gather`, inside the compiled
program, turns the inputs of a step into the batch {'image' in [0, 1], 'label'}.
"""

import functools
import itertools
import math
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from random_pruning_jax import data, parallel, together
from random_pruning_jax.data import decode, order, places, resident, streamed
from random_pruning_jax.data.specs import MOST_RESIDENT
from random_pruning_jax.experiment import Experiment

MOST_COMPARED = 256 << 20  # bytes of pixels of a set, which take about a quarter of a second
STREAMED = (0, 0)  # axes of a call's streamed images and labels
Calls = Iterable[tuple[int, int]]  # steps done before and after each; none spans two epochs


class Feed(NamedTuple):
  """Training images on their way to the devices."""

  loading: str  # 'resident' or 'streamed'
  images: data.Images  # all of them, or a view that decodes those asked for
  # (shared, the run's key, inputs of a step) -> batch; the same function for equal settings
  gather: Callable
  shared: Callable[[], tuple]  # what every step needs, put on the devices
  axes: tuple  # of a call's inputs, for `parallel.parallel`
  # Yields the inputs of each call, [D, S, ...] or [S, ...]; to be closed.
  stream: Callable[[Calls], Generator[tuple]]


def feed(experiment: Experiment) -> Feed:
  """The feed that `config.data_loading` asks for; 'auto' streams what is large, varies in size
  or is augmented by resized parts.

  Raises ValueError for an augmentation that the feed does not have.
  """
  loading = loading_of(experiment.config)
  check_mode(experiment.config, loading)
  return _streamed(experiment) if loading == 'streamed' else _resident(experiment)


def check_mode(config: ConfigDict, loading: str) -> None:
  """Raises ValueError for an augmentation that images loaded in this way cannot have."""
  known = {'resident': resident.MODES, 'streamed': ('resized', 'none')}[loading]
  if config.augment.mode not in known:
    raise ValueError(
      f'augment.mode must be one of {", ".join(known)} where images are {loading}, '
      f'got {config.augment.mode!r}.'
    )


def loading_of(config: ConfigDict) -> str:
  """'resident' or 'streamed': as the config says, or for 'auto' as suits its images."""
  if config.data_loading != 'auto':
    return config.data_loading
  resized = config.augment.mode == 'resized'
  return 'streamed' if resized or _large(config.dataset, config.data_dir) else 'resident'


def shapes(experiment: Experiment, loading: str, steps: int) -> tuple[jax.ShapeDtypeStruct, ...]:
  """Shapes of the inputs of a call of `steps` steps, in a process that has all the devices."""
  devices = len(experiment.on)
  head = (devices, steps, experiment.config.batch_size // devices)
  if loading == 'resident':
    return jax.ShapeDtypeStruct(head, jnp.int32), jax.ShapeDtypeStruct((steps,), jnp.int32)
  images = jax.ShapeDtypeStruct((*head, *experiment.spec.shape), jnp.uint8)
  return images, jax.ShapeDtypeStruct(head, jnp.int32)


def held_out(experiment: Experiment, split: str = 'validation') -> data.Images:
  """Images of a split of the config's own set, as evaluation shows them to the network."""
  config, spec = experiment.config, experiment.spec
  found, _ = data.load_adapted(config.dataset, split, spec.shape, config.data_dir, spec.resize)
  return data.labelled(found, spec.num_classes, f'{config.dataset} {split}')


def check_same(what: str, images: data.Images) -> None:
  """Raises ValueError naming the processes that have other images or labels than process 0."""
  if jax.process_count() > 1:
    together.check_same(what, f'{checksums(images)}')


def checksums(images: data.Images) -> dict[str, str]:
  """Checksums that tell a set from others: of 'labels' and 'pixels', or of 'images' if streamed.

  In a set of more than `MOST_COMPARED` bytes, only images evenly spread over it are read. For
  streamed images it is `EncodedImages.identity`.
  """
  if isinstance(images.images, streamed.Pixels):
    return {'images': images.images.identity()}
  some = images.images[:: 1 + images.images.nbytes // MOST_COMPARED]
  arrays = {'labels': images.labels, 'pixels': some}
  return {
    name: f'{len(images.labels)} {zlib.crc32(np.ascontiguousarray(array)):08x}'
    for name, array in arrays.items()
  }


def _large(name: str, data_dir: str) -> bool:
  path = data.find(name, data_dir)
  shape = decode.shape_of(name, path)
  if None in shape:
    return True
  return math.prod(shape) * places.split_sizes(path).get('train', 0) > MOST_RESIDENT


def _resident(experiment: Experiment) -> Feed:
  config = experiment.config
  images = data.load(config.dataset, 'train', config.data_dir)
  data.labelled(images, experiment.spec.num_classes, f'{config.dataset} train')
  if images.images.shape[1:] != experiment.spec.shape:
    raise ValueError(
      f'images of {config.dataset} are {images.images.shape[1:]} and {experiment.spec.shape} is '
      "wanted (image_size): data_loading must be 'streamed'."
    )
  augment = config.augment
  per_epoch = order.steps_per_epoch(len(images.labels), config.batch_size)

  def shared() -> tuple:
    return parallel.replicate((resident.flat(images.images), images.labels), experiment.on)

  def stream(calls: Calls) -> Iterator[tuple]:
    known, visited = -1, np.array([])
    for start, stop in calls:
      epoch, first = divmod(start, per_epoch)
      if epoch != known:
        known, visited = epoch, order.epoch_order(config.seed, epoch, len(images.labels))
      steps = stop - start
      indices = visited[first * config.batch_size : (first + steps) * config.batch_size]
      indices = indices.reshape(steps, len(experiment.on), -1).swapaxes(0, 1)
      yield parallel.mine(indices, experiment.on), np.full(steps, epoch, np.int32)

  gather = _gather(experiment.spec.shape, augment.pad, augment.mode, augment.flip == 'yes')
  return Feed('resident', images, gather, shared, (0, None), stream)


@functools.lru_cache(maxsize=64)
def _gather(shape: tuple[int, int, int], pad: int, mode: str, flip: bool) -> Callable:
  def gather(shared, key, indices, epoch):
    key = jax.random.fold_in(key, epoch)
    return resident.gather(*shared, indices, key, shape=shape, pad=pad, mode=mode, flip=flip)

  return gather


def _streamed(experiment: Experiment) -> Feed:
  config, shape = experiment.config, experiment.spec.shape
  source = streamed.EncodedImages(config.dataset, 'train', config.data_dir)
  example = stream_example(experiment, source)
  last = config.epochs * order.steps_per_epoch(len(source), config.batch_size)

  def stream(calls: Calls) -> Iterator[tuple]:
    decoded = None
    # A process decodes for its own devices alone, whose parts of a batch lie side by side.
    local = sum(device.process_index == jax.process_index() for device in experiment.on)
    try:
      for start, stop in calls:
        if decoded is None:
          decoded = streamed.batches(example, start, last, workers=config.data_workers)
        steps = list(itertools.islice(decoded, stop - start))
        image = np.stack([each['image'].reshape(local, -1, *shape) for each in steps], 1)
        label = np.stack([each['label'].reshape(local, -1) for each in steps], 1)
        del steps  # they lie in memory shared with the workers
        yield image, label
    finally:
      if decoded is not None:
        decoded.close()

  images: Any = data.Images(streamed.Pixels(source, example.augment), streamed.Labels(source))
  return Feed('streamed', images, scaled, tuple, STREAMED, stream)


def stream_example(experiment: Experiment, source: streamed.EncodedImages) -> streamed.Example:
  """What worker processes do for a config's training images."""
  config, (height, width, channels) = experiment.config, experiment.spec.shape
  augment = streamed.Augment(
    (height, width),
    channels,
    random=config.augment.mode == 'resized',
    flip=config.augment.flip == 'yes',
    area=tuple(config.augment.area),
    aspect=tuple(config.augment.aspect),
    resize=experiment.spec.resize,
  )
  places_of_batch = np.arange(config.batch_size)
  mine = parallel.split(places_of_batch, experiment.on).ravel().tolist()
  return streamed.Example(source, augment, config.seed, config.batch_size, tuple(mine))


def scaled(shared: tuple, key: jax.Array, images, labels) -> dict[str, jax.Array]:
  """`gather` for streamed images: uint8 -> float32 in [0, 1]."""
  del shared, key  # the host has cropped them
  return {'image': images.astype(jnp.float32) / 255, 'label': labels.astype(jnp.int32)}
