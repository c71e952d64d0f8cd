"""Images that do not fit into memory: read, cropped and decoded by worker processes, as uint8.

Grain runs the workers. Which images a step sees is a function of (seed, step), and how an image is
cropped is a function of (seed, epoch, image), whatever the workers, hosts and devices. A run
resumes from its step with no other state saved. Each host reads its own share of each batch.
"""

import concurrent.futures
import dataclasses
import functools
import gc
import multiprocessing
import re
import signal
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from random_pruning_jax.data import crops, decode, places
from random_pruning_jax.data.load import find, split_expression
from random_pruning_jax.data.order import batch_indices, steps_per_epoch
from random_pruning_jax.data.specs import DataError
from random_pruning_jax.system import processor

MOST_WORKERS = 64
BUFFERED = 1  # batches that each worker has ready, besides those on their way
TOGETHER = 64  # records that are read before they are decoded
SLOW = 2e-3  # seconds for a record: more than a local disk takes, less than a bucket
SAMPLED = 100  # images that represent a set where sets are compared
# What ends a worker from outside, by the status that it leaves.
ENDED = {
  -signal.SIGKILL: 'it was killed, as happens where memory runs out; fewer of them need less',
  -signal.SIGBUS: 'shared memory is full: /dev/shm must hold up to five batches for each of them '
  '(docker run --shm-size), or data_workers be fewer, or 0, which decodes in threads',
}


class EncodedImages:
  """The encoded images of a split, by index: (bytes, label). Can be sent to other processes."""

  def __init__(self, name: str, split: str, data_dir: str = ''):
    self.name, self.path = name, find(name, data_dir)
    self.kind = decode.kind_of(name, self.path)
    self.split = split_expression(name, split, self.path)
    self._records = decode.raw_source(name, self.path, self.split)

  def __len__(self) -> int:
    return len(self._records)

  def identity(self) -> str:
    """Number of images, and a checksum: the same for a copy on another machine.

    The checksum is of names and sizes of the split's files, and of `SAMPLED` evenly spread images
    and their labels.
    """
    split = self.split.partition('[')[0]
    files = [each[:2] for each in places.fingerprint(self.path) if f'-{split}.' in each[0]]
    checksum = zlib.crc32(repr(files).encode())
    for image, label in self.read(np.linspace(0, len(self) - 1, SAMPLED, dtype=int)):
      checksum = zlib.crc32(image, zlib.crc32(f'{label} '.encode(), checksum))
    return f'{len(self)} {checksum:08x}'

  def read(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
    """Encoded images and labels; a DataError names an image whose label is no class."""
    indices = [int(index) for index in indices]
    found = decode.examples(self.path, self.kind, self._read, indices)
    for index, (_, label) in zip(indices, found, strict=True):
      if not 0 <= label < self.kind.num_classes:
        error = DataError(f'its label must lie in [0, {self.kind.num_classes}), got {label}')
        raise decode.located(error, self.name, self.split, index)
    return found

  def one_by_one(self, indices: np.ndarray) -> Iterator[tuple[int, bytes, int]]:
    """(index, encoded image, label) of each; at most `TOGETHER` images are in memory at once."""
    indices = np.ravel(indices)
    for start in range(0, len(indices), TOGETHER):
      some = indices[start : start + TOGETHER].tolist()
      for index, (data, label) in zip(some, self.read(some), strict=True):
        yield index, data, label

  def _read(self, indices: list[int]) -> list[bytes]:
    """One by one, which costs a third; once one was slow to come, the others together."""
    records = []
    for number, index in enumerate(indices, 1):
      began = time.perf_counter()
      records.append(self._records[index])
      if time.perf_counter() - began > SLOW and number < len(indices):
        return records + list(self._records.__getitems__(indices[number:]))
    return records


@dataclasses.dataclass(frozen=True)
class Augment:
  """How training images are cropped; without `random`, to the central part, as in evaluation."""

  size: tuple[int, int]
  channels: int
  random: bool = True
  flip: bool = True
  area: tuple[float, float] = (0.08, 1.0)
  aspect: tuple[float, float] = (3 / 4, 4 / 3)
  resize: int = 0
  decoder: str = ''

  def __call__(self, data: bytes, rng: np.random.Generator | None = None) -> np.ndarray:
    """Uint8 [*size, channels]; without `rng`, the central part, not mirrored."""
    choose: Any = functools.partial(crops.central_region, size=self.size, resize=self.resize)
    if self.random and rng is not None:
      choose = functools.partial(crops.random_region, rng=rng, area=self.area, aspect=self.aspect)
    pixels = crops.DECODERS[self.decoder or crops.fastest()](data, choose, self.size, self.channels)
    mirror = self.flip and rng is not None and rng.random() < 0.5
    return crops.mirrored(pixels) if mirror else pixels


@dataclasses.dataclass(frozen=True)
class Example:
  """What a step sees on this host: its share of the batch, read, cropped and decoded."""

  source: EncodedImages
  augment: Augment
  seed: int
  batch_size: int  # of all hosts
  mine: tuple[int, ...]  # the places in a batch that are this host's

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    n = len(self.source)
    indices = batch_indices(self.seed, int(step), n, self.batch_size)[list(self.mine)]
    epoch = int(step) // steps_per_epoch(n, self.batch_size)
    image = np.empty((len(indices), *self.augment.size, self.augment.channels), np.uint8)
    label = np.empty(len(indices), np.int32)
    for place, (index, data, number) in enumerate(self.source.one_by_one(indices)):
      # NumPy promises that the stream of a bit generator never changes.
      rng = np.random.Generator(np.random.Philox(key=(self.seed << 96) | (epoch << 64) | index))
      image[place] = _decoded(self.source, index, data, self.augment, rng)
      label[place] = number
    return {'image': image, 'label': label}


def _decoded(
  source: EncodedImages,
  index: int,
  data: bytes,
  augment: Augment,
  rng: np.random.Generator | None = None,
) -> np.ndarray:
  """`augment(data, rng)`; raises an error that names the image where it cannot be decoded."""
  try:
    return augment(data, rng)
  except DataError as error:
    raise decode.located(error, source.name, source.split, index) from error


def batches(
  example: Example, start: int, stop: int, *, workers: int = -1
) -> Iterator[dict[str, np.ndarray]]:
  """This host's part of steps `start` to `stop - 1`: uint8 'image' [b, H, W, C], int32 'label' [b].

  `workers` processes decode; -1 is one for each core, and 0 decodes in threads of this process.
  Raises ChildProcessError where one of them was ended.
  """
  import grain

  threads = 1 if workers else processor.cores()
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
  stream = grain.MapDataset.range(start, stop).map(example).to_iter_dataset(options)
  if workers:
    if not flags.FLAGS.is_parsed():  # Grain has flags, and this program none
      flags.FLAGS.mark_as_parsed()
    of = min(processes(workers), stop - start)
    options = grain.MultiprocessingOptions(of, per_worker_buffer_size=BUFFERED)
    stream = stream.mp_prefetch(options, _end_with_the_run)
  iterator = iter(stream)
  try:
    yield from iterator
  except RuntimeError as error:  # in Grain's words
    status = re.search(r'^Worker process was terminated .* exit code (-?\d+)', str(error))
    if status is None:
      raise
    why = ENDED.get(int(status[1]), f'its exit status was {status[1]}')
    raise ChildProcessError(f'one of the data_workers ended: {why}.') from error
  finally:
    iterator.close()
    # Grain's iterator is part of a reference cycle and holds the last batch in memory shared with
    # the workers, which nobody frees when the process ends.
    del iterator
    gc.collect()


def _end_with_the_run(worker: int, workers: int) -> None:
  """Lets a worker ignore interrupts, and end when the run does.

  A scheduler may signal every process, as Ctrl-C does, but the run needs its workers until it has
  saved, and reports the interrupt itself. A run that is killed can tell its workers nothing.
  """
  del worker, workers
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  run = multiprocessing.parent_process()
  if run is not None and run.pid:
    decode.end_with(run.pid)


def processes(workers: int) -> int:
  """How many processes a config's `workers` means here; 0 means threads."""
  return min(workers if workers >= 0 else processor.cores(), MOST_WORKERS)


class Pixels:
  """Looks like an array [N, H, W, C] of a split; images are decoded when they are asked for.

  It serves the few images that scores and measurements of gradients need, in evaluation's crop, and
  all of them, once, where features of the training set are asked for.
  """

  def __init__(self, source: EncodedImages, augment: Augment):
    self._source = source
    self._augment = augment
    self.shape = (len(source), *augment.size, augment.channels)

  def __len__(self) -> int:
    return self.shape[0]

  def identity(self) -> str:
    return self._source.identity()

  def as_evaluated(self) -> 'Pixels':
    """The same, decoded and resized as held-out and foreign images are: by Pillow."""
    return Pixels(self._source, dataclasses.replace(self._augment, decoder='pillow'))

  def __getitem__(self, index: Any) -> np.ndarray:
    chosen = np.arange(len(self))[index]
    pixels = np.empty((np.size(chosen), *self.shape[1:]), np.uint8)

    def fill(rows: np.ndarray) -> None:
      images = self._source.one_by_one(np.ravel(chosen)[rows])
      for row, (number, data, _) in zip(rows, images, strict=True):
        pixels[row] = _decoded(self._source, number, data, self._augment)

    cores = processor.cores()
    with concurrent.futures.ThreadPoolExecutor(cores) as threads:  # decoders release Python's lock
      list(threads.map(fill, np.array_split(np.arange(len(pixels)), cores)))
    return pixels.reshape(*np.shape(chosen), *self.shape[1:])


class Labels:
  """Looks like an array [N] of a split's labels; to convert it to one reads the whole set."""

  def __init__(self, source: EncodedImages):
    self._source = source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: Any) -> np.ndarray:
    chosen = np.arange(len(self))[index]
    labels = [label for _, _, label in self._source.one_by_one(chosen)]
    return np.reshape(np.array(labels, np.int32), np.shape(chosen))

  def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
    del copy
    return self[:].astype(dtype or np.int32)
