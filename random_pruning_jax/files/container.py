"""The bytes of a file: a fixed beginning, a JSON header, and sections, each with its checksum.

    8 bytes   RNDPRUNE
    uint32    version of the format
    uint32    length of the header
    32 bytes  SHA-256 of the header
    header    JSON, compressed by zlib
    sections  one after another, to the end of the file

Integers are little-endian. The header names each section's length and SHA-256, so that a byte that
is missing, added or altered anywhere is noticed before the contents are used.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

MAGIC = b'RNDPRUNE'
VERSION = 1
_BEGINNING = struct.Struct('<8sII32s')
_LARGEST_HEADER = 1 << 26  # bytes of JSON; that of a network of 1,000 layers has 100 kB


def pack(header: dict[str, Any], sections: Sequence[bytes]) -> bytes:
  """The file of a header and its sections."""
  listed = [{'bytes': len(part), 'sha256': hashlib.sha256(part).hexdigest()} for part in sections]
  text = json.dumps(header | {'sections': listed}, separators=(',', ':'), allow_nan=False)
  packed = zlib.compress(text.encode(), 9)
  digest = hashlib.sha256(packed).digest()
  return b''.join([_BEGINNING.pack(MAGIC, VERSION, len(packed), digest), packed, *sections])


def unpack(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
  """The header and the sections; raises ValueError for anything but a whole, unaltered file."""
  header, start = unpack_header(data)
  whole = start + sum(section['bytes'] for section in header['sections'])
  if len(data) != whole:
    raise ValueError(
      f'the file must have {whole:,} bytes, got {len(data):,}: {_length(data, whole)}'
    )
  sections = []
  for number, section in enumerate(header['sections']):
    part = data[start : start + section['bytes']]
    if hashlib.sha256(part).hexdigest() != section['sha256']:
      raise ValueError(f'section {number} does not have its SHA-256: the file was altered.')
    sections.append(part)
    start += section['bytes']
  return header, sections


def unpack_header(data: bytes) -> tuple[dict[str, Any], int]:
  """The header, and where the sections begin."""
  if len(data) < _BEGINNING.size:
    raise ValueError(f'the file must have more than {_BEGINNING.size} bytes; it was cut short.')
  magic, version, length, digest = _BEGINNING.unpack_from(data)
  if magic != MAGIC:
    raise ValueError(f'the file must begin with {MAGIC!r}, got {magic!r}.')
  if version != VERSION:
    raise ValueError(f'the version of the format must be {VERSION}, got {version}.')
  end = _BEGINNING.size + length
  packed = data[_BEGINNING.size : end]
  if len(packed) < length:
    raise ValueError(f'the header must have {length:,} bytes, got {len(packed):,}: cut short.')
  if hashlib.sha256(packed).digest() != digest:
    raise ValueError('the header does not have its SHA-256: the file was altered.')
  return _parse(packed), end


def _parse(packed: bytes) -> dict[str, Any]:
  reader = zlib.decompressobj()
  try:
    header = json.loads(reader.decompress(packed, _LARGEST_HEADER))
    if reader.eof and all(section['bytes'] >= 0 for section in header['sections']):
      return header
  except (zlib.error, ValueError, TypeError, KeyError):
    pass
  raise ValueError('the header must be JSON that lists sections: another program wrote it.')


def _length(data: bytes, whole: int) -> str:
  return 'it was cut short.' if len(data) < whole else 'something was added.'
