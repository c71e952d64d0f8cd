"""A split's encoded images, decoded in parallel, chunk after chunk."""

import contextlib
import functools
import io
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from random_pruning_jax.data import crops, missing, places
from random_pruning_jax.data.specs import DataError, spec_of

CHUNK = 500  # images; 0.05 s of work at 32x32
MOST_WORKERS = 16
IDLE = 5  # seconds that workers wait for the next split before they end


class Images(NamedTuple):
  """Decoded images uint8 [N, H, W, C] and their labels int32 [N]."""

  images: np.ndarray
  labels: np.ndarray


class Decoded(NamedTuple):
  """The shape [N, H, W, C] of decoded images, and their pieces in order."""

  shape: tuple[int, int, int, int]
  chunks: Iterator[Images]


class Kind(NamedTuple):
  """Names of an example's image and label; the images' shape (None: sizes differ) and the number
  of classes."""

  image: str
  label: str
  shape: tuple[int | None, int | None, int]
  num_classes: int


def kind_of(name: str, path: pathlib.Path) -> Kind:
  """What the set prepared in `path` holds: 8-bit images with one class label, or a DataError."""
  import tensorflow_datasets as tfds

  info = _builder(path).info
  image, label = (info.supervised_keys or ('image', 'label'))[:2]  # a third would be weights
  features = info.features
  if (
    not isinstance(image, str)  # it may be a dictionary of several
    or not isinstance(label, str)
    or image not in features
    or not isinstance(features[image], tfds.features.Image)
    or features[image].np_dtype != np.uint8
    or features[image].shape[-1] not in (1, 3)
    or label not in features
    or not isinstance(features[label], tfds.features.ClassLabel)
  ):
    raise DataError(f'{name} is no set of 8-bit images with a class label; it holds {features}')
  return Kind(image, label, features[image].shape, features[label].num_classes)


def shape_of(name: str, path: pathlib.Path) -> tuple[int | None, int | None, int]:
  """Height, width and channels of the images of a prepared set; None where they differ.

  Known sets are looked up in their table; TFDS, which is slow to import, is asked about others.
  """
  spec = spec_of(name)
  return spec.shape if spec and spec.mode != 'resized' else kind_of(name, path).shape


def decode(
  name: str,
  path: pathlib.Path,
  split: str,
  size: tuple[int, int] | None = None,
  resize: int = 0,
) -> Decoded:
  """All images of a TFDS split expression of the set prepared in `path`.

  Images that differ in size need a `size` (height, width), to which they are cropped and resized:
  with `resize`, the shorter side is resized to that many pixels, and the centre is taken.
  """
  kind = kind_of(name, path)
  if None not in kind.shape:
    shape, decode_one = kind.shape, functools.partial(_as_it_is, shape=kind.shape)
  elif size is not None:
    shape = (*size, kind.shape[2])
    decode_one = functools.partial(_centre, shape=shape, resize=resize)
  else:
    raise DataError(
      f"images of {name} may differ in size: data_loading must be 'streamed', or `load` be given "
      'a size'
    )
  source = raw_source(name, path, split)
  return Decoded((len(source), *shape), _chunks(name, path, split, source, kind, shape, decode_one))


def raw_source(name: str, path: pathlib.Path, split: str):
  """Records of a TFDS split expression, by index; a DataError where there are none to be read."""
  import tensorflow_datasets as tfds

  _allow_many_files()
  builder = _builder(path)
  try:
    if builder.info.splits[split].num_examples <= 0:  # less than none in [10:5]
      raise DataError(f'{name} has no images in {split!r}; it has {places.listed(path)}')
    return builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
  except NotImplementedError as error:
    raise missing.other_format(name, path) from error
  except DataError:
    raise
  except (RuntimeError, OSError) as error:
    raise places.unreadable(path, error) from error
  except (ValueError, AssertionError) as error:
    raise DataError(f'{name} has no split {split!r}; it has {places.listed(path)}') from error


def _allow_many_files() -> None:
  """Lets this process, and workers that it starts, open as many files as the system allows.

  Each file of a set stays open. ImageNet has 1,024 for training, and 1,024 is the usual limit of a
  process that has not asked for more.
  """
  with contextlib.suppress(ImportError, ValueError, OSError):  # systems without such limits
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _builder(path: pathlib.Path):
  import tensorflow_datasets as tfds
  from google.protobuf import json_format

  try:
    return tfds.builder_from_directory(path)
  except (ValueError, OSError, json_format.ParseError) as error:
    raise places.unreadable(path, error) from error


def examples(
  path: pathlib.Path, kind: Kind, read: Callable[[list[int]], Sequence[bytes]], indices: list[int]
) -> list[tuple[bytes, int]]:
  """Encoded images and labels; a DataError where the records of the set in `path` are damaged."""
  # TFDS's own parser costs more than decoding a small image.
  from google.protobuf.message import DecodeError
  from tensorflow_datasets.proto import tf_example_pb2

  try:
    found = [tf_example_pb2.Example.FromString(record).features.feature for record in read(indices)]
    pairs = [(e[kind.image].bytes_list.value[0], e[kind.label].int64_list.value[0]) for e in found]
  except (RuntimeError, OSError, DecodeError) as error:  # the first of array_record
    raise places.unreadable(path, error) from error
  except IndexError:  # of an example that lacks either
    pairs = []
  if len(pairs) != len(indices):
    raise places.unreadable(path, ValueError('a record is missing or empty'))
  return pairs


def _chunks(name, path, split, source, kind, shape, decode_one) -> Iterator[Images]:
  import joblib  # not needed when decoded images are in the cache

  # A 32x32 image costs more in Python than in the decoder, so threads do not help. joblib's
  # workers are fresh processes (a fork of one that runs JAX may hang) and need no main guard.
  count = len(source)
  workers = min(joblib.cpu_count(), MOST_WORKERS) if count > 8 * CHUNK else 1
  parallel = joblib.Parallel(
    n_jobs=workers,
    return_as='generator',
    idle_worker_timeout=IDLE,
    initializer=end_with,
    initargs=(os.getpid(),),
  )
  decoded = parallel(
    joblib.delayed(_decode_chunk)(encoded, labels, shape, decode_one, (name, split, number * CHUNK))
    for number, (encoded, labels) in enumerate(_read(path, source, kind))
  )
  with _progress(name, count) as bar:
    for images in decoded:
      yield images
      bar.update(len(images.labels))


def end_with(run: int) -> None:
  """Ends this worker process soon after its parent, process `run`, has ended or was killed."""
  threading.Thread(target=_wait_for_its_end, args=(run,), daemon=True).start()


def _wait_for_its_end(run: int) -> None:
  while os.getppid() == run:
    time.sleep(0.5)
  os._exit(1)


def _progress(name, count):
  import tqdm

  return tqdm.tqdm(
    total=count, desc=f'decoding {name}', unit=' images', delay=1, disable=not sys.stderr.isatty()
  )


def _read(path: pathlib.Path, source, kind: Kind) -> Iterator[tuple[list[bytes], np.ndarray]]:
  """The encoded images of each chunk, and their labels."""
  for start in range(0, len(source), CHUNK):
    indices = list(range(start, min(start + CHUNK, len(source))))
    encoded, labels = zip(*examples(path, kind, source.__getitems__, indices), strict=True)
    yield list(encoded), np.array(labels, np.int32)


def _decode_chunk(
  encoded: Sequence[bytes],
  labels: np.ndarray,
  shape: tuple[int, int, int],
  decode_one: Callable[[bytes], np.ndarray],
  first: tuple[str, str, int],
) -> Images:
  """Decoded images, uint8, and labels; `first` is the set, split and index of the first image."""
  images = np.empty((len(encoded), *shape), np.uint8)
  for index, data in enumerate(encoded):
    try:
      images[index] = decode_one(data)
    except DataError as error:
      name, split, start = first
      raise located(error, name, split, start + index) from error
  return Images(images, labels)


def _centre(data: bytes, shape: tuple[int, int, int], resize: int) -> np.ndarray:
  choose = functools.partial(crops.central_region, size=shape[:2], resize=resize)
  return crops.pillow(data, choose, shape[:2], shape[2])


def _as_it_is(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
  try:
    image = Image.open(io.BytesIO(data))
    image = crops.in_mode(image, shape[2])
    image.load()
  except crops.UNREADABLE as error:
    raise crops.undecodable(error) from error
  if image.size[::-1] != shape[:2]:
    wanted, got = (f'{height}x{width}' for height, width in (shape[:2], image.size[::-1]))
    raise DataError(f'an image must be {wanted}, as its set says, got {got}')
  return np.asarray(image).reshape(shape)


def located(error: DataError, name: str, split: str, index: int) -> DataError:
  """The error, with the image that it is about: its set, TFDS split expression and index."""
  return DataError(f'{name}, image {index} of {split}: {error}')
