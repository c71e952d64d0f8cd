"""What a file holds and what it would cost to run, for a person or as one JSON object."""

import os
from typing import Any

from random_pruning_jax import cost, tables
from random_pruning_jax import files as files_lib
from random_pruning_jax import masks as masks_lib
from random_pruning_jax.files import packed, tensors


def describe(file: str | os.PathLike, trained_on: str = '') -> dict[str, Any]:
  """Everything `show` prints, after the whole file was read and checked."""
  data = files_lib.read_bytes(file)
  network = files_lib.parse(data, file, trained_on=trained_on)
  format = files_lib.format_of(data)
  about, kept = network.about, network.kept()
  structure = about.structure
  layers = structure.layers
  densities = {layer.name: kept[layer.name] / layer.size for layer in layers}
  prunable = sum(layer.size for layer in layers)
  stored = isinstance(network, files_lib.Stored)
  draw = network.draw if stored else None
  return {
    'file': str(file),
    'bytes': len(data),
    'format': format,
    'values': _values(data, format),
    'about': about.to_json(),
    'draw': draw._asdict() if draw else None,
    'masks': masks_lib.checksum(network.masks) if stored else network.checksum,
    'parameters': structure.parameters,
    'prunable': prunable,
    'kept': sum(kept.values()),
    'density': sum(kept.values()) / prunable,
    'macs': cost.macs(layers, densities),
    'dense_macs': cost.macs(layers),
    'dense_bytes': cost.file_bytes(structure),
    'layers': {
      layer.name: {
        'shape': layer.shape,
        'kept': kept[layer.name],
        'density': densities[layer.name],
        'macs': round(layer.macs * densities[layer.name]),
        'dense_macs': layer.macs,
      }
      for layer in layers
    },
  }


def show(found: dict[str, Any]) -> str:
  """The same for reading: what it is, its layers, its cost."""
  about, draw = found['about'], found['draw']
  # A script that writes a file may leave the config out, or name other fields alone.
  named = [about['config'].get(f'pruning.{field}') for field in ('ratio', 'select')]
  pruned = '/'.join(named) if all(named) else 'as found'
  height, width, channels = about['shape']
  facts = [
    ['file', f'{found["file"]}, {found["format"]}, {found["bytes"]:,} bytes'],
    ['network', f'{about["model"]}, width {about["width"]}, {about["num_classes"]} classes'],
    ['trained on', f'{about["dataset"] or "a set that is not named"}, step {about["step"]:,}'],
    ['images', f'{height} x {width} x {channels}, pixels in [0, 1]'],
    ['normalised by', f'mean {_listed(about["mean"])}, std {_listed(about["std"])}'],
    ['pruned', f'{pruned}, density {found["density"]:.4f} (sparsity {1 - found["density"]:.4f})'],
    ['masks', f'checksum {found["masks"]}{_drawn(draw)}'],
    ['values', f'{found["values"]} in kernels'],
    ['weights', f'{found["kept"]:,} of {found["prunable"]:,}; parameters {found["parameters"]:,}'],
  ]
  head = ['layer', 'shape', 'kept', 'density', 'multiply-adds', 'of dense']
  lines = [
    [
      name.removesuffix('/kernel'),
      'x'.join(map(str, layer['shape'])),
      f'{layer["kept"]:,}',
      f'{layer["density"]:.4f}',
      f'{layer["macs"]:,}',
      f'{layer["dense_macs"]:,}',
    ]
    for name, layer in found['layers'].items()
  ]
  size = max(len(name) for name, _ in facts)
  return '\n'.join(
    [
      *(f'{name:<{size}}  {value}' for name, value in facts),
      '',
      tables.text([head, *lines]),
      '',
      f'One image takes {found["dense_macs"]:,} multiply-adds as the network runs here, dense; '
      f'{found["macs"]:,.0f} of them',
      'are with weights that are kept, which is what a program or chip that skips zeros would do.',
      f'In memory the weights are {found["dense_bytes"]:,} bytes, dense float32.',
    ]
  )


def _values(data: bytes, format: str) -> str:
  """The type of the kernels' weights in the file."""
  if format == 'stablehlo':  # which holds no other
    return 'float32'
  return tensors.kernel_type(data) if format == 'safetensors' else packed.kernel_type(data)


def _listed(numbers) -> str:
  return ', '.join(f'{number:g}' for number in numbers)


def _drawn(draw: dict[str, Any] | None) -> str:
  if draw is None:
    return ''
  words = ' '.join(f'{word:08x}' for word in draw['key'])
  return f', drawn from key {words} by sampling {draw["sampling"]}'
