"""Corrupted images made from clean ones, where a corrupted set is not prepared."""

import importlib.metadata
import importlib.util
import zlib
from collections.abc import Iterator

import numpy as np

from random_pruning_jax.data import store
from random_pruning_jax.data.adapt import adapt
from random_pruning_jax.data.decode import Decoded, Images
from random_pruning_jax.data.specs import DataError

PACKAGE = 'imagecorruptions-imaug'
INSTALL = 'pip install -e ".[corruptions]"'
SMALLEST = 32  # pixels, of either side
CHUNK = 50  # images


def why_not(shape: tuple[int, int, int]) -> str:
  """Why images of this shape cannot be corrupted here; '' where they can."""
  if min(shape[:2]) < SMALLEST:
    return f'images must be at least {SMALLEST}x{SMALLEST}, got {shape[0]}x{shape[1]}'
  if importlib.util.find_spec('imagecorruptions') is None:
    return f'the optional extra is not installed: {INSTALL}'
  return ''


def corrupted(images: Images, name: str, severity: int, of: str) -> Images:
  """The images of the set `of` under one of Hendrycks and Dietterich's corruptions (2019).

  They are made by the package imagecorruptions, whose strengths are those of ImageNet-C: on small
  images these are harsher than CIFAR-10-C's, so compare the numbers with each other and with no
  table. Images are made once and kept in the cache. Random numbers follow each image's index,
  except for impulse noise.
  """
  why = why_not(images.images.shape[1:])
  if why:
    raise DataError(f'{name} of {of} cannot be regenerated: {why}')
  identity = {
    'source': of,
    'corruption': name,
    'severity': severity,
    'version': importlib.metadata.version(PACKAGE),
    'count': len(images.labels),
  }
  fingerprint = [zlib.crc32(np.ascontiguousarray(images.images))]

  def make() -> Decoded:
    return Decoded(images.images.shape, _chunks(images, name, severity))

  made, _ = store.fetch(f'{of}-{name}', identity, fingerprint, make)
  return Images(made, images.labels)  # those of now: classes may have been added since


def _chunks(images: Images, name: str, severity: int) -> Iterator[Images]:
  import joblib

  starts = range(0, len(images.labels), CHUNK)
  made = joblib.Parallel(n_jobs=joblib.cpu_count(), return_as='generator')(
    # A copy: of a map, a worker would get the file's name, which may have changed since.
    joblib.delayed(_corrupt)(np.array(images.images[start : start + CHUNK]), name, severity, start)
    for start in starts
  )
  for start, some in zip(starts, made, strict=True):
    yield Images(some, images.labels[start : start + CHUNK])


def _corrupt(images: np.ndarray, name: str, severity: int, first: int) -> np.ndarray:
  import imagecorruptions
  import numba

  @numba.njit
  def seed_compiled(seed):  # code that numba compiles has a generator of its own
    np.random.seed(seed)

  state = np.random.get_state()
  made = []
  for index, image in enumerate(images, start=first):
    seed = zlib.crc32(f'{name} {severity} {index}'.encode())
    np.random.seed(seed)
    seed_compiled(seed)
    made.append(imagecorruptions.corrupt(image, corruption_name=name, severity=severity))
  np.random.set_state(state)
  return adapt(np.stack(made), *images.shape[1:])[0]
