"""Decoded images on disk, so that a second start maps them into memory instead of decoding."""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from random_pruning_jax.data import places
from random_pruning_jax.data.decode import Decoded, Images
from random_pruning_jax.system import atomic

FORMAT = 1
FILES = ('images.npy', 'labels.npy')


def fetch(
  title: str, identity: dict[str, Any], fingerprint: list, make: Callable[[], Decoded]
) -> Images:
  """The images (memory-mapped, read-only) and labels of an entry, made if need be.

  `identity` says what is stored and `fingerprint` from which source files; an entry of other files,
  or one whose bytes changed, is made anew in the same place. Entries appear whole or not at all.
  """
  digest = hashlib.sha256(json.dumps([FORMAT, identity], sort_keys=True).encode()).hexdigest()
  folder = places.cache_dir() / 'images' / f'{title.replace("/", "-")}-{digest[:12]}'
  found = _read(folder, fingerprint)
  if found is not None:
    return found
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic.aside(folder, locks=places.cache_dir()) as aside:
      found = _read(folder, fingerprint)  # another process may have made it meanwhile
      return found or _write(folder, aside, identity, fingerprint, make())
  except OSError as error:
    logging.warning('decoded images could not be kept in %s: %s', folder, error)
    return collect(make())


def collect(decoded: Decoded) -> Images:
  """A `Decoded` as two arrays in memory."""
  images = np.empty(decoded.shape, np.uint8)
  labels = np.empty(decoded.shape[0], np.int32)
  start = 0
  for some_images, some_labels in decoded.chunks:
    stop = start + len(some_labels)
    images[start:stop], labels[start:stop] = some_images, some_labels
    start = stop
  return Images(images, labels)


def _read(folder: pathlib.Path, fingerprint: list) -> Images | None:
  try:
    meta = json.loads((folder / 'meta.json').read_text())
    if meta['fingerprint'] != fingerprint:
      return None
    if any(_checksum(folder / file) != meta['crc32'][file] for file in FILES):
      logging.warning('decoded images in %s were damaged and are made anew', folder)
      return None
    return _open(folder)
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _write(
  folder: pathlib.Path,
  aside: pathlib.Path,
  identity: dict[str, Any],
  fingerprint: list,
  decoded: Decoded,
) -> Images:
  new = aside / 'new'
  new.mkdir()
  labels = []
  # Plain writes, because a full disk raises there; in a memory map it would kill the process.
  with open(new / 'images.npy', 'wb') as file:
    header = {'descr': '|u1', 'fortran_order': False, 'shape': decoded.shape}
    np.lib.format.write_array_header_1_0(file, header)
    for some_images, some_labels in decoded.chunks:
      file.write(np.ascontiguousarray(some_images))
      labels.append(some_labels)
  np.save(new / 'labels.npy', np.concatenate(labels))
  meta = {'identity': identity, 'fingerprint': fingerprint}
  meta['crc32'] = {file: _checksum(new / file) for file in FILES}
  (new / 'meta.json').write_text(json.dumps(meta, indent=1))
  arrays = _open(new)  # they stay mapped when the files are renamed, or replaced by others
  _put(new, folder, aside / 'old')
  return arrays


def _open(folder: pathlib.Path) -> Images:
  return Images(np.load(folder / 'images.npy', mmap_mode='r'), np.load(folder / 'labels.npy'))


def _put(new: pathlib.Path, folder: pathlib.Path, old: pathlib.Path) -> None:
  try:
    os.rename(new, folder)
  except OSError:
    # An outdated or damaged entry is in the way, or one that another process has just made. If
    # another process is first again, its entry stays, and ours remains as a memory map.
    with contextlib.suppress(OSError):
      os.rename(folder, old)
      os.rename(new, folder)


def _checksum(path: pathlib.Path) -> int:
  return zlib.crc32(np.memmap(path, np.uint8, mode='r'))
