"""Settings of a process that trains on a CPU, to be made before JAX starts; harmless to others.

The commands call `keep_memory()`. A program on one device, without the kernels of `kernels/`,
calls `prepare()` as its first line.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import pathlib
import pkgutil
import platform
import sys
import zlib
from collections.abc import Mapping

_FLAG = '--xla_cpu_experimental_ynn_fusion_type'
# What GNU's <malloc.h> calls these, and what they are set to.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = (-1, -1), (-4, 0), (-8, 1)
_GAP = 64 << 20  # bytes
_CALLS = 256
# Files in /dev that show chips, by the name of JAX's support; dxg is a GPU under Windows.
_DEVICES = {'libtpu': ('accel*', 'vfio/*'), 'xla_cuda': ('nvidia*', 'dxg')}


def prepare() -> None:
  """Chooses XLA's routines for CPUs, and keeps freed memory for the next step where only a CPU is.

  Must come before JAX finds its devices: JAX then reads flags, and starts threads, and the memory
  of threads that already run is not kept.
  """
  os.environ.update(environment(os.environ, importlib.metadata.version('jaxlib')))
  if only_cpu(os.environ):
    keep_memory()


def environment(before: Mapping[str, str], jaxlib: str) -> dict[str, str]:
  """XLA_FLAGS that leave convolutions and matrix products to XLA's faster library, where known.

  jaxlib 0.10 gives them, and reductions, to YNNPACK: that is faster for reductions alone. An
  unknown flag ends the process, so other releases, and flags of the caller's own, are left alone.
  """
  flags = before.get('XLA_FLAGS', '')
  if jaxlib.split('.')[:2] != ['0', '10'] or _FLAG in flags:
    return {}
  return {'XLA_FLAGS': f'{flags} {_FLAG}=LIBRARY_FUSION_TYPE_REDUCE'.strip()}


def cores() -> int:
  """How many cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def only_cpu(environ: Mapping[str, str], dev: pathlib.Path = pathlib.Path('/dev')) -> bool:
  """Whether JAX can find nothing but a CPU: it is told so, or supports no chip that is here.

  Support may be installed without a chip, for its compiler (`chips.py`).
  """
  asked = environ.get('JAX_PLATFORMS')
  if asked:
    return asked == 'cpu'
  plugins = importlib.util.find_spec('jax_plugins')
  places = plugins.submodule_search_locations if plugins else None
  support = [module.name for module in pkgutil.iter_modules(places or ())]
  if importlib.util.find_spec('libtpu'):
    support.append('libtpu')
  return not any(_chip_here(name, dev) for name in support)


def _chip_here(support: str, dev: pathlib.Path) -> bool:
  """Whether the system shows a chip of this kind; True for unknown kinds."""
  known = [devices for name, devices in _DEVICES.items() if support.startswith(name)]
  return not known or any(any(dev.glob(pattern)) for pattern in known[0])


def keep_memory() -> None:
  """Keeps freed memory instead of giving it back to the system, where it is known how.

  A step's temporary memory, hundreds of megabytes, would else be returned after each step and be
  cleared by the system, page by page, in the next.
  """
  if _gnu():
    mallopt = ctypes.CDLL(None).mallopt
    for option in (_MMAP_MAX, _TRIM_THRESHOLD, _ARENA_MAX):
      mallopt(*option)


def give_back(call: int = 1) -> None:
  """Gives back what compiling has freed, and keeps the memory of the steps in one piece.

  To be called after each `call` in a loop of steps, counted from 1; only the first and every 256th
  do anything. A step's temporary memory is one large block.

  - A small allocation inside it, made while it is free, would force the next step to ask for a new
    block. So a free gap beside it takes the small ones.
  - If a thread of XLA's frees the block late, the next step finds it taken, and the process holds
    two from then on. So free memory is given back now and then, which costs a fifth of a step.
  """
  if not _gnu() or (call > 1 and call % _CALLS):
    return
  library = ctypes.CDLL(None)
  library.malloc_trim(0)
  if call > 1:
    return
  library.malloc.restype = ctypes.c_void_p
  library.malloc.argtypes = [ctypes.c_size_t]
  library.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
  library.free.argtypes = [ctypes.c_void_p]
  gap, fence = library.malloc(_GAP), library.malloc(_GAP)
  library.realloc(fence, 1)  # what is left of it stays behind the gap
  library.free(gap)  # its pages take memory only where they are used


def _gnu() -> bool:
  return sys.platform == 'linux' and platform.libc_ver()[0] == 'glibc'


def abilities() -> str:
  """Eight hex digits of the processor's abilities, as far as the system tells them."""
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
  flags = [line for line in lines if line.startswith(('flags', 'Features'))][:1]
  name = ' '.join([platform.machine(), platform.processor(), *flags])
  return f'{zlib.crc32(name.encode()):08x}'
