"""The format `stablehlo`: the network as a program that JAX runs without this package.

The file is what `jax.export` writes, for any batch size and for CPU, CUDA, ROCm and TPU, followed
by a description and a checksum, which `jax.export.deserialize` passes over:

    jax.export.deserialize(bytearray(open(FILE, 'rb').read())).call(images)
"""

import dataclasses
import functools
import hashlib
import json
import struct
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from random_pruning_jax import masks as masks_lib
from random_pruning_jax.files.stored import About, Stored, check, pixels

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
MAGIC = b'RNDPHLO1'
_END = struct.Struct('<I32s8s')  # length of the description, SHA-256 of all before, magic


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """A compiled-once network: pixels in, logits out, and no numbers to look at."""

  about: About
  exported: export.Exported
  counts: dict[str, int]  # weights kept in each prunable layer
  checksum: str  # of the masks

  @functools.cached_property
  def _call(self):
    return jax.jit(self.exported.call)

  def logits(self, images: chex.Array) -> np.ndarray:
    """Logits float32 [B, K] of pixels [B, H, W, C], float in [0, 1] or uint8."""
    return np.asarray(self._call(pixels(self.about, images)))

  def kept(self) -> dict[str, int]:
    """Weights kept in each prunable layer, in the network's order."""
    return self.counts


def write(stored: Stored) -> bytes:
  """The program with its weights in it, and at its end what the other formats say in a header."""
  check(stored)
  (batch,) = export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, *stored.about.shape), jnp.float32)
  function = jax.jit(lambda images: stored.model.apply(stored.variables, images, train=False))
  program = export.export(function, platforms=PLATFORMS)(images).serialize()
  entry = {
    'about': stored.about.to_json(),
    'kept': stored.kept(),
    'masks': masks_lib.checksum(stored.masks),
  }
  text = json.dumps(entry, separators=(',', ':')).encode()
  body = bytes(program) + text
  digest = hashlib.sha256(body + struct.pack('<I', len(text))).digest()
  return body + _END.pack(len(text), digest, MAGIC)


def read(data: bytes) -> Program:
  """The program of a file; raises ValueError for anything but a whole, unaltered one."""
  entry, length = read_entry(data)
  about = About.from_json(entry['about'])
  exported = export.deserialize(bytearray(data[:length]))
  return Program(about, exported, entry['kept'], entry['masks'])


def read_entry(data: bytes) -> tuple[dict[str, Any], int]:
  """The description, and how many bytes the program has."""
  if len(data) < _END.size or not data.endswith(MAGIC):
    raise ValueError(f'the file must end with {MAGIC!r}: it was cut short.')
  length, digest, _ = _END.unpack(data[-_END.size :])
  if hashlib.sha256(data[: 4 - _END.size]).digest() != digest:
    raise ValueError('the file does not have its SHA-256: it was altered.')
  start = len(data) - _END.size - length
  return json.loads(data[start : -_END.size]), start
