"""Kernels for CPUs, compiled by Numba (an optional extra) and called by XLA's programs."""

import importlib.util
import os

import jax

INSTALL = 'pip install "random-pruning-jax[cpu]"'


def lacking() -> str:
  """What the kernels lack here, if anything."""
  if importlib.util.find_spec('numba') is None:
    return f'Numba: {INSTALL}'
  if os.name != 'posix':
    return f'a POSIX system, not {os.name}'
  platform_name = jax.default_backend()
  return '' if platform_name == 'cpu' else f'a CPU as the device, not {platform_name}'


def long_vectors() -> bool:
  """Whether the processor has the 32 registers of 16 floats that the dense kernel is made for."""
  from llvmlite import binding

  return bool(binding.get_host_cpu_features().get('avx512f'))
