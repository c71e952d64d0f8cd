"""The format `stablehlo`: the network as a program that JAX runs without this package.

The file is what `jax.export` writes, for any batch size and for CPU, CUDA, ROCm and TPU, followed
by a description and a checksum, which `jax.export.deserialize` ignores:

    jax.export.deserialize(bytearray(open(FILE, 'rb').read())).call(images)
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import struct
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from random_pruning_jax import masks as masks_lib
from random_pruning_jax.files.stored import About, Stored, pixels

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
MAGIC = b'RNDPHLO1'
_END = struct.Struct('<I32s8s')  # length of the description, SHA-256 of all before, magic


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """A network that is compiled once: pixels in, logits out, and no access to its weights."""

  about: About
  exported: export.Exported
  counts: dict[str, int]  # weights kept in each prunable layer
  checksum: str  # of the masks
  written_with: str = ''  # version of JAX; '' in older files, which do not say

  @functools.cached_property
  def _call(self):
    return jax.jit(self.exported.call)

  def logits(self, images: chex.Array) -> np.ndarray:
    """Logits float32 [B, K] of pixels [B, H, W, C], float in [0, 1] or uint8.

    Raises ValueError, at the first call, for a program that this JAX is too old to read.
    """
    images = pixels(self.about, images)
    try:
      return np.asarray(self._call(images))
    except jax.errors.JaxRuntimeError as error:
      if 'Failed to deserialize' not in str(error):
        raise
      raise _not_read(self.written_with, error) from error

  def kept(self) -> dict[str, int]:
    """Weights kept in each prunable layer, in the network's order."""
    return self.counts


def write(stored: Stored) -> bytes:
  """The program with its weights in it, then what the other formats say in a header."""
  (batch,) = export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, *stored.about.shape), jnp.float32)
  function = jax.jit(lambda images: stored.model.apply(stored.variables, images, train=False))
  with _without_places():
    program = export.export(function, platforms=PLATFORMS)(images).serialize()
  entry = {
    'about': stored.about.to_json(),
    'kept': stored.kept(),
    'masks': masks_lib.checksum(stored.masks),
    'jax': jax.__version__,
  }
  return pack(program, entry)


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
  """Keeps JAX from writing this machine's paths of source files into programs."""
  name = 'jax_traceback_in_locations_limit'
  before = getattr(jax.config, name)
  jax.config.update(name, 0)
  try:
    yield
  finally:
    jax.config.update(name, before)


def pack(program: bytes | bytearray, entry: dict[str, Any]) -> bytes:
  """The file of a program and its description."""
  text = json.dumps(entry, separators=(',', ':')).encode()
  body = bytes(program) + text
  digest = hashlib.sha256(body + struct.pack('<I', len(text))).digest()
  return body + _END.pack(len(text), digest, MAGIC)


def read(data: bytes) -> Program:
  """The program of a file; raises ValueError for anything but a whole one that this JAX knows."""
  entry, length = read_entry(data)
  about, written_with = About.from_json(entry['about']), entry.get('jax', '')
  try:
    exported = export.deserialize(bytearray(data[:length]))
  except Exception as error:  # of many kinds, as there is much that a JAX may not know
    raise _not_read(written_with, error) from error
  return Program(about, exported, entry['kept'], entry['masks'], written_with)


def read_entry(data: bytes) -> tuple[dict[str, Any], int]:
  """The description, and how many bytes the program has."""
  if len(data) < _END.size or not data.endswith(MAGIC):
    raise ValueError(f'the file must end with {MAGIC!r}: it was cut short.')
  length, digest, _ = _END.unpack(data[-_END.size :])
  if hashlib.sha256(data[: 4 - _END.size]).digest() != digest:
    raise ValueError('the file does not have its SHA-256: it was altered.')
  start = len(data) - _END.size - length
  return json.loads(data[start : -_END.size]), start


def _not_read(written_with: str, error: Exception) -> ValueError:
  why = ' '.join(f'{type(error).__name__}: {error}'.split())
  return ValueError(
    f'the program was written with JAX {written_with or "of a version it does not name"}; this '
    f'is JAX {jax.__version__}, which cannot read it ({why:.200}).'
  )
