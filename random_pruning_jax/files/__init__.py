"""Trained networks as files: four formats, recognised by their content, not by the file's name.

    seeded       a random mask as its key, then the kept values
    bitmap       any other mask, coded, then the kept values
    safetensors  dense, under PyTorch's names
    stablehlo    a program for any JAX

No file holds Python code (no pickle), and reading a file executes nothing in it. The first two are
specified byte by byte in docs/file-format.md.
"""

import os
import pathlib

from random_pruning_jax.files import container, packed, program, tensors
from random_pruning_jax.files.program import Program
from random_pruning_jax.files.stored import About, Draw, Stored, check
from random_pruning_jax.system import atomic

# name -> stored, dtype, with_masks -> bytes
FORMATS = {
  'seeded': lambda stored, dtype, with_masks: packed.write(stored, 'seeded', dtype),
  'bitmap': lambda stored, dtype, with_masks: packed.write(stored, 'bitmap', dtype),
  'safetensors': tensors.write,
  'stablehlo': lambda stored, dtype, with_masks: program.write(stored),
}

__all__ = ['FORMATS', 'About', 'Draw', 'Program', 'Stored', 'format_of', 'load', 'save']


def save(
  stored: Stored,
  file: str | os.PathLike,
  format: str = 'seeded',
  *,
  dtype: str = 'float32',
  with_masks: bool = False,
) -> pathlib.Path:
  """Writes a file, whole or not at all, with the kernels' weights in `dtype`.

  A link stays, and its target is replaced. Raises ValueError for a directory, a pipe and a device.
  """
  check_format(format, dtype, with_masks)
  path = pathlib.Path(os.path.realpath(file))
  if path.exists() and not path.is_file():
    what = 'directory' if path.is_dir() else 'pipe or device'
    raise ValueError(f'the network must go to a file, got the {what} {file}.')
  check(stored)
  try:
    data = FORMATS[format](stored, dtype, with_masks)
  except ImportError as error:
    raise _missing(format, error) from error
  path.parent.mkdir(parents=True, exist_ok=True)
  atomic.write(path, data)
  return pathlib.Path(file)


def load(file: str | os.PathLike, *, trained_on: str = '') -> Stored | Program:
  """The network in a file of any of the formats; `logits` runs it.

  `trained_on` names the data set of a PyTorch checkpoint (safetensors) that was not written here.
  Raises ValueError, in one line that names the file, for a file that was cut short, altered, or
  written in a version or with a generator that this package does not know.
  """
  return parse(read_bytes(file), file, trained_on=trained_on)


def parse(data: bytes, file: str | os.PathLike, *, trained_on: str = '') -> Stored | Program:
  """The network of a file's bytes, as `load` gives it; `file` is what errors call it."""
  try:
    format = format_of(data)
    if format == 'safetensors':
      return tensors.read(data, trained_on)
    return program.read(data) if format == 'stablehlo' else packed.read(data)
  except ImportError as error:
    raise _missing('this', error) from error
  except ValueError as error:
    raise ValueError(f'{file}: {error}') from error
  except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
    what = f'the header lacks or misstates a field ({error}): another program wrote it.'
    raise ValueError(f'{file}: {what}') from error


def format_of(data: bytes) -> str:
  """The name of the format that a file's bytes are in."""
  if data.startswith(container.MAGIC):
    return container.unpack_header(data)[0]['masks']['kind']
  if data.endswith(program.MAGIC):
    return 'stablehlo'
  if data[8:9] == b'{' and int.from_bytes(data[:8], 'little') < 1 << 30:
    return 'safetensors'
  hint = ''
  if data.startswith((b'PK\x03\x04', b'\x80')):
    hint = ' It looks like a pickle of PyTorch: save state_dict() with safetensors.torch.save_file.'
  raise ValueError(f'the file is of none of the formats {", ".join(FORMATS)}, or cut short.{hint}')


def check_format(format: str, dtype: str, with_masks: bool) -> None:
  """Raises ValueError for an unknown format, and for settings that a format does not take."""
  if format not in FORMATS:
    raise ValueError(f'format must be one of {", ".join(FORMATS)}, got {format!r}.')
  if dtype not in packed.DTYPES:
    raise ValueError(f'dtype must be one of {", ".join(packed.DTYPES)}, got {dtype!r}.')
  if format == 'stablehlo' and dtype != 'float32':
    raise ValueError(f'format stablehlo holds float32 weights, got dtype {dtype}.')
  if with_masks and format != 'safetensors':
    raise ValueError(f'masks go beside the weights in format safetensors only, got {format}.')


def read_bytes(file: str | os.PathLike) -> bytes:
  """All of a file or a pipe, which can be read once; raises ValueError where there is neither."""
  path = pathlib.Path(file)
  if not (path.is_file() or path.is_fifo()):
    raise ValueError(f'{path} must be a file; there is none.')
  return path.read_bytes()


def _missing(format: str, error: ImportError) -> ValueError:
  return ValueError(f'{format} format needs a library ({error}): pip install -e ".[export]".')
