"""The formats `seeded` and `bitmap`: kept values packed in order, and masks in either way."""

from typing import Any

import ml_dtypes
import numpy as np

from random_pruning_jax import masks as masks_lib
from random_pruning_jax import pruning
from random_pruning_jax.files import bitmap, container, seeded
from random_pruning_jax.files.stored import About, Draw, Stored, check_finite, check_shapes

# In the file; numbers are little-endian.
DTYPES = {'float32': '<f4', 'bfloat16': ml_dtypes.bfloat16, 'float16': '<f2'}


def write(stored: Stored, masks: str, dtype: str = 'float32') -> bytes:
  """The file of a network, its masks 'seeded' or as 'bitmap', its kernels' weights in `dtype`.

  Everything else (biases, BatchNorm and its statistics) stays float32. Raises ValueError for masks
  that cannot be drawn again from a key, and for weights that `dtype` cannot hold.
  """
  kept = _named_masks(stored.masks)
  section = b''
  if masks == 'seeded':
    fields = seeded.describe(kept, stored.draw)
  else:
    layers, section = bitmap.encode(kept)
    fields = {'layers': layers}
  tensors, parts = [], []
  for name, leaf in masks_lib.named_leaves(stored.variables).items():
    leaf = np.asarray(leaf)
    values = narrow(name, leaf[_inside(kept, name, leaf.shape)], dtype)
    tensors.append([name, list(leaf.shape), values.dtype.name, values.size])
    parts.append(values.tobytes())
  header = {
    'about': stored.about.to_json(),
    'masks': {'kind': masks, **fields, 'checksum': masks_lib.checksum(stored.masks)},
    'tensors': tensors,
  }
  return container.pack(header, [section, b''.join(parts)])


def read(data: bytes) -> Stored:
  """The network of a file.

  Raises ValueError where the parts do not fit together, KeyError or TypeError where the header
  lacks one.
  """
  header, (section, values) = container.unpack(data)
  about = About.from_json(header['about'])
  tree = about.blank
  shapes = {name: leaf.shape for name, leaf in masks_lib.named_leaves(tree).items()}
  check_shapes(shapes, {name: tuple(shape) for name, shape, *_ in header['tensors']})
  masks, draw = _read_masks(header, section, tree['params'])
  leaves = _read_values(header['tensors'], values, _named_masks(masks), shapes)
  check_finite(leaves)
  variables = masks_lib.map_named(lambda name, _: leaves[name], tree)
  return Stored(about, variables, masks, draw)


def kernel_type(data: bytes) -> str:
  """The type of the kernels' weights in a file, a key of DTYPES."""
  listed = container.unpack_header(data)[0]['tensors']
  return ', '.join(sorted({dtype for name, _, dtype, _ in listed if pruning.is_kernel(name)}))


def narrow(name: str, values: np.ndarray, dtype: str) -> np.ndarray:
  """Values of a kernel in `dtype`, those of any other array in float32."""
  values = np.asarray(values, '<f4')
  if not pruning.is_kernel(name) or dtype == 'float32':
    return values
  with np.errstate(over='ignore'):
    narrowed = values.astype(DTYPES[dtype])
  if not np.array_equal(np.isfinite(narrowed.astype(np.float32)), np.isfinite(values)):
    raise ValueError(f'{dtype} cannot hold {np.abs(values).max():g} of {name}; choose another.')
  return narrowed


def _read_masks(
  header: dict[str, Any], section: bytes, params: dict
) -> tuple[masks_lib.Masks, Draw | None]:
  """The masks and, of random ones, how they were drawn."""
  fields = header['masks']
  if fields['kind'] not in ('seeded', 'bitmap'):
    raise ValueError(f"masks must be 'seeded' or 'bitmap', got {fields['kind']!r:.100}.")
  draw = seeded.of_file(fields) if fields['kind'] == 'seeded' else None
  shapes = {name: leaf.shape for name, leaf in masks_lib.named_leaves(params).items()}
  unknown = sorted(set(fields['layers']) - set(shapes))
  if unknown:
    raise ValueError(f'the masks name layers that the network does not have: {unknown}.')
  if draw:
    found = seeded.redraw(draw, fields['layers'], shapes)
  else:
    counts = {name.removeprefix('params/'): kept for name, _, _, kept in header['tensors']}
    found = bitmap.decode(fields['layers'], section, shapes, counts)
  masks = masks_lib.map_named(lambda name, _: found[name], params)
  checksum = masks_lib.checksum(masks)
  if checksum != fields['checksum']:
    raise ValueError(
      f'the masks have checksum {checksum}, written with {fields["checksum"]}: the generator of '
      'random masks has changed, or another program wrote the file.'
    )
  return masks, draw


def _read_values(tensors, values: bytes, masks, shapes) -> dict[str, np.ndarray]:
  leaves, start = {}, 0
  for name, _, dtype, count in tensors:
    kind = np.dtype(DTYPES[dtype])
    part = np.frombuffer(values[start : start + count * kind.itemsize], kind).astype(np.float32)
    start += count * kind.itemsize
    inside = _inside(masks, name, shapes[name])
    if len(part) != int(inside.sum()):
      raise ValueError(f'{name} must have as many values as its mask keeps, got {len(part):,}.')
    leaves[name] = np.zeros(shapes[name], np.float32)
    leaves[name][inside] = part
  if start != len(values):
    raise ValueError(f'the values must have {start:,} bytes, got {len(values):,}.')
  return leaves


def _inside(masks: dict[str, np.ndarray], name: str, shape: tuple) -> np.ndarray:
  """The mask of an array of the variables; statistics, which have none, are whole."""
  return masks[name.removeprefix('params/')] if name.startswith('params/') else np.ones(shape, bool)


def _named_masks(masks: masks_lib.Masks) -> dict[str, np.ndarray]:
  return {name: np.asarray(leaf) for name, leaf in masks_lib.named_leaves(masks).items()}
