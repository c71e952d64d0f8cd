"""Kernels for CPUs, compiled by Numba (an optional extra) and called by XLA's programs.

    dense.py       convolutions and their gradients, for JAX; from here
                   dense_plans, winograd_plans   what is to be computed, as words: dense_words,
                                                 encoding, dense_frames
                   dense_jobs, winograd_jobs     threads that share it
                   dense_fill, transpose         images brought into frames of zeros
                   winograd, winograd_code       into tiles, and back
                   dense_sums, contract          the loop in which the time goes
    sums.py        BatchNorm's sums, likewise
    kept.py        prediction from kept weights only, likewise
    llvm, vectors  LLVM's language, and the processor's vectors
    targets.py     gives XLA the machine code of any of these: handler, later, xla_words
    jobs.py        makes it in a process of its own; objects.py keeps it in the user's cache

This file is imported before JAX, and imports neither Numba nor JAX until a function needs them.
"""

import functools
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Callable

from random_pruning_jax.system import processor

INSTALL = 'pip install -e ".[cpu]"'
OLDEST = [0, 68]  # version of Numba, as in pyproject.toml
LACKING = 'kernels for CPUs are lacking'  # the error of a call whose code could not be made


def lacking() -> str:
  """What the kernels lack here, if anything."""
  import jax  # here, since a process that only compiles kernels needs none of it

  platform_name = jax.default_backend()
  return _missing() or (
    '' if platform_name == 'cpu' else f'a CPU as the device, not {platform_name}'
  )


def runs_dense() -> bool:
  """Whether the dense kernel can run on this machine's CPU; asks before JAX finds its devices."""
  return not _missing() and registers() > 0


def begin() -> None:
  """Starts to make, in the background, the machine code that networks lack on a CPU."""
  if processor.only_cpu(os.environ) and runs_dense():
    from random_pruning_jax.kernels import jobs

    jobs.begin(('dense', 16 if registers() == 32 else 8, registers()), ('sums',))


def wait(say: Callable[[str], None]) -> None:
  """Waits for the machine code that `begin` began, and says what it waits for.

  Unlike a call that waits for its kernel, it can be interrupted at once.
  """
  if processor.only_cpu(os.environ) and runs_dense():
    from random_pruning_jax.kernels import jobs

    jobs.wait(say)


def registers() -> int:
  """How many vector registers the processor has, of the kinds that the dense kernel is made for.

  32 of 16 floats (AVX-512) or 16 of 8 floats (AVX2, with FMA); else 0.
  """
  has = set(features().split(','))
  return 32 if '+avx512f' in has else 16 if {'+avx2', '+fma'} <= has else 0


def features() -> str:
  """'+avx2,-avx512f,...': the processor's features by LLVM, or what Numba was told instead."""
  return os.environ.get('NUMBA_CPU_FEATURES') or _found()


@functools.cache
def _found() -> str:
  from llvmlite import binding

  return binding.get_host_cpu_features().flatten()


def _missing() -> str:
  if importlib.util.find_spec('numba') is None:
    return f'Numba: {INSTALL}'
  return _unusable() if os.name == 'posix' else f'a POSIX system, not {os.name}'


@functools.cache
def _unusable() -> str:
  """Why an installed Numba cannot be used, or ''; warns once."""
  version, problem = importlib.metadata.version('numba'), ''
  if [int(number) for number in re.findall(r'\d+', version)[:2]] < OLDEST:
    problem = f'Numba {".".join(map(str, OLDEST))} or newer, not {version}: {INSTALL}'
  elif os.environ.get('NUMBA_DISABLE_JIT', '0') != '0':
    problem = 'Numba without NUMBA_DISABLE_JIT'
  else:
    try:
      _found()
    except (ImportError, OSError) as error:
      problem = f"Numba's llvmlite, which cannot be imported: {error}"
  if problem:
    from absl import logging

    logging.warning('convolutions go without the kernels for CPUs, which need %s', problem)
  return problem
