"""The kernels as JAX knows them: primitives, and targets of XLA's foreign function interface.

Numba is imported where there is no machine code yet, and in later processes not at all.
"""

import ctypes
import functools
import pathlib
import re
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from llvmlite import binding

from random_pruning_jax import processor
from random_pruning_jax.kernels import objects

_once = threading.Lock()
_registered: set[str] = set()  # of this process


def threads(context: mlir.LoweringRuleContext) -> int:
  """Cores for each device of a program: threads that share a core would wait for each other."""
  axis = getattr(context.module_context, 'axis_context', None)  # by another name in another JAX
  mesh = getattr(axis, 'mesh', None)
  devices = getattr(axis, 'num_devices', jax.device_count()) if mesh is None else mesh.size
  return max(1, processor.cores() * jax.process_count() // devices)


def primitive(name: str, compute: Callable[..., jax.Array], outline: Callable) -> Primitive:
  """A function of arrays for JAX, that is `compute(*arrays, threads=..., **parameters)`."""
  made = Primitive(name)

  def rule(context, *arguments, **parameters):
    told = functools.partial(compute, threads=threads(context))
    return mlir.lower_fun(told, multiple_results=False)(context, *arguments, **parameters)

  def one_by_one(arguments, axes, **parameters):
    """Under `vmap`: as many calls as there are members."""
    count = next(x.shape[axis] for x, axis in zip(arguments, axes, strict=True) if axis is not None)
    rows = [
      [
        x if axis is None else jax.lax.index_in_dim(x, i, axis, keepdims=False)
        for i in range(count)
      ]
      for x, axis in zip(arguments, axes, strict=True)
    ]
    return jnp.stack([made.bind(*row, **parameters) for row in zip(*rows, strict=True)]), 0

  made.def_abstract_eval(outline)
  mlir.register_lowering(made, rule)
  batching.primitive_batchers[made] = one_by_one
  return made


def register(target: str, kind: Callable[[], Any]) -> None:
  """Gives XLA the handler of a kind of job under the name `target`, once a process.

  `kind` makes the `handler.Kind`, where the handler must be compiled first. Raises RuntimeError
  where the installed XLA speaks another version of the interface.
  """
  with _once:
    if target not in _registered:
      _register(target, kind)
      _registered.add(target)


def _register(target: str, kind: Callable[[], Any]) -> None:
  version, place = _interface()
  # The handler knows its helper by name, since addresses are others in another process.
  name = f'{target}_helper'

  def helper():
    from random_pruning_jax.kernels import handler

    return handler.helper(kind())

  def whole():
    from random_pruning_jax.kernels import handler

    return handler.handler(kind(), name, version, place)

  binding.add_symbol(name, objects.address(name, helper))
  function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(objects.address(target, whole))
  jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(function), platform='cpu')


def _interface() -> tuple[int, dict[str, int]]:
  """The version of XLA's interface as one word, and which word of its struct each function is."""
  header = pathlib.Path(jax.ffi.include_dir()) / 'xla' / 'ffi' / 'api' / 'c_api.h'
  text = header.read_text()
  major, minor = (
    int(re.search(rf'define XLA_FFI_API_{part} (\d+)', text).group(1))
    for part in ('MAJOR', 'MINOR')
  )
  if major != 0:
    raise RuntimeError(f'the kernel speaks version 0 of the XLA FFI, this jaxlib has {major}.')
  functions = re.findall(r'_STRUCT_FIELD\(XLA_FFI_(\w+)\);', text)
  return major + (minor << 32), {name: 6 + number for number, name in enumerate(functions)}
