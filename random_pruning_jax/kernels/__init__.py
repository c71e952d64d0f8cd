"""Kernels for CPUs, compiled by Numba (an optional extra) and called by XLA's programs."""

import importlib.util
import os

import jax

INSTALL = 'pip install "random-pruning-jax[cpu]"'


def lacking() -> str:
  """What the kernels lack here, if anything."""
  platform_name = jax.default_backend()
  return _missing() or (
    '' if platform_name == 'cpu' else f'a CPU as the device, not {platform_name}'
  )


def runs_dense() -> bool:
  """Whether the dense kernel can run on this machine's CPU; asks before JAX finds its devices."""
  return not _missing() and long_vectors()


def long_vectors() -> bool:
  """Whether the processor has the 32 registers of 16 floats that the dense kernel is made for."""
  from llvmlite import binding

  return bool(binding.get_host_cpu_features().get('avx512f'))


def _missing() -> str:
  if importlib.util.find_spec('numba') is None:
    return f'Numba: {INSTALL}'
  return '' if os.name == 'posix' else f'a POSIX system, not {os.name}'
