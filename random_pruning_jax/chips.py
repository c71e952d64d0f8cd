"""Chips that a program can be compiled for without having one, and their published peaks.

XLA's compilers for TPUs and GPUs run on any machine: they come with libtpu (extra `tpu`) and JAX's
CUDA plugin (extra `cuda`).
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published peaks of a chip: bfloat16 FLOP/s, bytes/s of memory and links, bytes of memory."""

  name: str
  flops: float
  memory: float
  link: float
  capacity: float
  layout: str  # an example of the layout that follows the colon: '2x2x4' in 'v4:2x2x4'
  devices: Callable[[str], tuple[jax.Device, ...]]
  options: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of the compiler
  share: float = 1.0  # fraction of the capacity that JAX takes


def _tpu(kind: str, cores: int) -> Callable[[str], tuple[jax.Device, ...]]:
  """Chips of one core, or of two cores that form one device."""
  options = {'chip_config_name': 'megacore'} if cores == 2 else {}
  dimensions = 2 if kind in ('v5e', 'v6e') else 3

  def devices(layout: str) -> tuple[jax.Device, ...]:
    sides = [int(side) for side in layout.split('x')]
    if len(sides) != dimensions:
      raise ValueError(f'a layout of TPU {kind} has {dimensions} sides, got {layout}.')
    # Otherwise libtpu asks the network what machine this is, and allows one process at a time.
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', 'true')
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', f'{kind}-1')
    host = (min(sides[0], 2), min(sides[1], 2), 1)  # chips of one machine
    return _devices('tpu', f'{kind}:{layout}', chips_per_host_bounds=host, **options)

  return devices


# What XLA's compiler must know of an H100 SXM (its GpuTargetConfigProto), from NVIDIA's figures.
_H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000  l2_cache_size: 52428800  device_memory_size: 84978434048
}
"""


def _gpu(target: str) -> Callable[[str], tuple[jax.Device, ...]]:
  return lambda count: _devices('cuda', '', target_config=target, topology=f'1x1x{count}')


# No autotuning: XLA would time kernels on the GPU to choose among them, and there is none.
_UNTIMED = {'xla_gpu_autotune_level': '0'}
GPU_SHARE = 0.75  # of its memory, unless JAX is told otherwise, as by --mem-fraction

CHIPS = {
  'v4': Chip('TPU v4', 275e12, 1228e9, 300e9, 32e9, '2x2x4', _tpu('v4', 2)),
  'v5e': Chip('TPU v5e', 197e12, 819e9, 200e9, 16e9, '4x4', _tpu('v5e', 1)),
  'v5p': Chip('TPU v5p', 459e12, 2765e9, 600e9, 95e9, '2x2x4', _tpu('v5p', 2)),
  'v6e': Chip('TPU v6e', 918e12, 1640e9, 448e9, 32e9, '4x4', _tpu('v6e', 1)),
  'h100': Chip('H100 SXM', 989e12, 3350e9, 450e9, 80e9, '8', _gpu(_H100), _UNTIMED, GPU_SHARE),
}


def find(text: str) -> tuple[Chip, tuple[jax.Device, ...]]:
  """The chip and the devices of 'v4:2x2x4', a TPU slice of that layout, or 'h100:8', so many GPUs.

  Programs can be compiled for these devices, but not run. Use it in a separate process: the
  variables set for libtpu stay in the environment. Raises ValueError for an unknown name or layout
  and where the compiler is not installed.
  """
  name, _, layout = text.partition(':')
  if name not in CHIPS:
    raise ValueError(f'chips must be one of {", ".join(CHIPS)}, got {name!r}.')
  chip = CHIPS[name]
  if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', layout):
    raise ValueError(f'{name} needs a layout, as in {name}:{chip.layout}; got {text!r}.')
  return chip, chip.devices(layout)


def _devices(platform: str, layout: str, **options: Any) -> tuple[jax.Device, ...]:
  # The extras of pyproject.toml are called as the platforms are.
  from jax.experimental import topologies

  try:
    return tuple(topologies.get_topology_desc(layout, platform, **options).devices)
  except Exception as error:  # of many kinds, as plugins are
    raise ValueError(
      f"the compiler for {platform} must be here (pip install -e '.[{platform}]') and "
      f'know the layout {layout or options.get("topology")!r}; it says: {error}'
    ) from error
