"""Machine code that Numba made, for later processes too: it takes seconds to make, none to load."""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any

from llvmlite import binding

from random_pruning_jax import kernels
from random_pruning_jax.data import places
from random_pruning_jax.system import atomic

# Numba's switches for debugging, which make slower code that must not be kept as the usual one.
_SWITCHES = ('OPT', 'BOUNDSCHECK', 'DEBUGINFO', 'LOOP_VECTORIZE', 'SLP_VECTORIZE')


def address(name: str, make: Callable[[], Any]) -> int:
  """The address of a function, whose machine code is read from the user's cache under `name`.

  What is not there is compiled by `make()`, which gives a `numba.cfunc`, and then kept. The address
  is valid until the process ends. Another process finds the code as long as the sources of this
  package, Numba, JAX and the processor are the same.
  """
  path = folder() / name
  code = _read(path)
  if code is None:
    made = make()
    code = (
      made.native_name.encode()
      + b'\0'
      + _machine().emit_object(binding.parse_assembly(_alone(made.inspect_llvm())))
    )
    _write(path, code)
  function, _, code = code.partition(b'\0')
  return _address_in(function.decode(), code)


def stored(name: str) -> bool:
  """Whether `address` would find machine code of this name."""
  return _read(folder() / name) is not None


def folder() -> pathlib.Path:
  """Where machine code for this processor, by these sources, lies."""
  return places.cache_dir() / 'kernels' / version()


def writable() -> bool:
  """Whether code can be kept for other processes: there is a folder, and room in it."""
  try:
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder()) as file:
      file.write(bytes(1 << 18))
  except OSError:
    return False
  return True


def loaded(text: str, *functions: str) -> list[int]:
  """Addresses of the named functions of a module in LLVM's language."""
  code = _machine().emit_object(binding.parse_assembly(text))
  return [_address_in(function, code) for function in functions]


def _address_in(function: str, code: bytes) -> int:
  engine = binding.create_mcjit_compiler(binding.parse_assembly(''), _machine())
  engine.add_object_file(binding.ObjectFileRef.from_data(code))
  engine.finalize_object()
  _engines.append(engine)
  return engine.get_function_address(function)


_engines: list[binding.ExecutionEngine] = []  # kept, since their code would be freed with them


def _alone(text: str) -> str:
  """The module without Numba's runtime, which only errors call: a kernel that raises one stops.

  A later process then need not import Numba. Raises RuntimeError where the module needs more of it.
  """
  call = re.compile(r'^declare (.*@(?:NRT|numba)_.*)$', re.MULTILINE)
  stopped = call.sub(r'define internal \1 {\n  call void @llvm.trap()\n  unreachable\n}', text)
  left = re.findall(r'^(?:declare .*|.* external .*)"?(?:NRT|numba)_\w+', stopped, re.MULTILINE)
  if left:
    raise RuntimeError(f"machine code must need nothing of Numba's runtime; it needs: {left}")
  return f'{stopped}\ndeclare void @llvm.trap()\n'


def _machine() -> binding.TargetMachine:
  binding.initialize_native_target()
  binding.initialize_native_asmprinter()
  target = binding.Target.from_default_triple()
  return target.create_target_machine(cpu=_name(), features=kernels.features(), opt=3, jit=True)


def _name() -> str:
  return os.environ.get('NUMBA_CPU_NAME') or binding.get_host_cpu_name()


def _read(path: pathlib.Path) -> bytes | None:
  """None where there is no such file, or one that was cut short or altered."""
  try:
    whole = path.read_bytes()
  except OSError:
    return None
  checksum, code = whole[:32], whole[32:]
  return code if hashlib.sha256(code).digest() == checksum else None


def _write(path: pathlib.Path, code: bytes) -> None:
  """Keeps the code, where the user has a cache that can be written to."""
  with contextlib.suppress(OSError):
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, hashlib.sha256(code).digest() + code)


@functools.cache
def version() -> str:
  """Changes whenever the kernels, their compilers or the processor change."""
  files = sorted(pathlib.Path(__file__).parent.glob('*.py'))
  total = hashlib.sha256(b''.join(file.read_bytes() for file in files))
  for word in (
    *(importlib.metadata.version(name) for name in ('numba', 'llvmlite', 'jaxlib')),
    _name(),
    kernels.features(),
    *(os.environ.get(f'NUMBA_{name}') for name in _SWITCHES),
  ):
    total.update(f'{word}\0'.encode())
  return total.hexdigest()[:16]
