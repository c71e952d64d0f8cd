"""A device that JAX takes for an accelerator: XLA's CPU behind PJRT's C interface, as a GPU is.

    python tests/standin.py SCRIPT [ARGUMENT ...]

runs a script that finds such devices and no others. They compute what a CPU computes; but arrays,
programs and memory are a plugin's, and all that the project does on accelerators alone is done:
loops over steps, networks under vmap, XLA's own convolutions, calls dispatched ahead.
"""

import ctypes
import importlib.util
import os
import pathlib
import runpy
import sys

NAME = b'standin'
PACKAGE = 'lammps_jax_pjrt_cpu'  # which brings XLA's CPU as a plugin
# Offset in PJRT_Api (pjrt_c_api.h), whose beginning is fixed: two words, a version of three words,
# then functions, of which that for a client's platform is the thirteenth.
_PLATFORM_NAME = (2 + 3 + 12) * ctypes.sizeof(ctypes.c_void_p)


class _Arguments(ctypes.Structure):
  _fields_ = (
    ('struct_size', ctypes.c_size_t),
    ('extension', ctypes.c_void_p),
    ('client', ctypes.c_void_p),
    ('name', ctypes.c_char_p),
    ('length', ctypes.c_size_t),
  )


@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Arguments))
def _platform_name(arguments):
  arguments.contents.name, arguments.contents.length = NAME, len(NAME)


def plugin() -> pathlib.Path | None:
  """The plugin's library, or None where it is not installed."""
  found = importlib.util.find_spec(PACKAGE)
  return pathlib.Path(found.origin).parent / 'pjrt_c_api_cpu_plugin.so' if found else None


def install() -> None:
  """Before JAX is imported: its devices are the plugin's, under a name of their own."""
  library = ctypes.CDLL(str(plugin()))
  library.GetPjrtApi.restype = ctypes.c_void_p
  place = ctypes.c_void_p.from_address(library.GetPjrtApi() + _PLATFORM_NAME)
  place.value = ctypes.cast(_platform_name, ctypes.c_void_p).value
  os.environ['PJRT_NAMES_AND_LIBRARY_PATHS'] = f'{NAME.decode()}:{plugin()}'
  os.environ['JAX_PLATFORMS'] = NAME.decode()
  # Its XLA is of another version, which ends the process at a flag that it does not know.
  flags = os.environ.get('XLA_FLAGS', '').split()
  os.environ['XLA_FLAGS'] = ' '.join(flag for flag in flags if 'device_count' in flag)


if __name__ == '__main__':
  install()
  sys.argv = sys.argv[1:]
  sys.path.insert(0, str(pathlib.Path.cwd()))
  runpy.run_path(sys.argv[0], run_name='__main__')
