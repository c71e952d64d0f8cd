"""The functions that XLA calls: xla/ffi/api/c_api.h, its structs taken as words of 8 bytes.

A call is a job in numbered items. Its handler asks XLA's own threads to help, and works itself, so
that it needs none of them to come. A thread that comes late must still find the job, which is
therefore freed by the last to leave.
"""

import ctypes
import functools
import os
import pathlib
import re
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numba
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from llvmlite import binding
from numba import types

from random_pruning_jax.kernels import llvm, objects
from random_pruning_jax.kernels.llvm import compiled, words

# The words that every job begins with, int64: the next item, how many are done and how many there
# are, threads that still look at the job, threads that may, and the one that comes next.
ITEM, DONE, ITEMS, REFERENCES, WORKERS, SEAT, FIRST = range(7)

METADATA, EXECUTE = 1, 3  # a kind of extension, a stage
ARGUMENT = types.int64(types.int64)
_once = threading.Lock()


class Kind(NamedTuple):
  """Compiled functions of a kind of job."""

  begin: Callable  # (call frame) -> address of a new job
  work: Callable  # (job): does items until none is left, in any number of threads
  finish: Callable  # (job): what is left to do after all of them


def cores() -> int:
  """Those that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def threads(context: mlir.LoweringRuleContext) -> int:
  """Cores for each device of a program: threads that share a core would wait for each other."""
  axis = getattr(context.module_context, 'axis_context', None)  # by another name in another JAX
  mesh = getattr(axis, 'mesh', None)
  devices = getattr(axis, 'num_devices', jax.device_count()) if mesh is None else mesh.size
  return max(1, cores() * jax.process_count() // devices)


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


def register(target: str, kind: Kind) -> None:
  """Compiles the handler of a kind of job, once a process, and gives it to XLA under `target`.

  Raises RuntimeError where the installed XLA speaks another version of the interface.
  """
  with _once:
    _registered(target, kind)


@functools.cache
def _registered(target: str, kind: Kind) -> None:
  header = pathlib.Path(jax.ffi.include_dir()) / 'xla' / 'ffi' / 'api' / 'c_api.h'
  text = header.read_text()
  major, minor = (
    int(re.search(rf'define XLA_FFI_API_{part} (\d+)', text).group(1))
    for part in ('MAJOR', 'MINOR')
  )
  if major != 0:
    raise RuntimeError(f'the kernel speaks version 0 of the XLA FFI, this jaxlib has {major}.')
  functions = re.findall(r'_STRUCT_FIELD\(XLA_FFI_(\w+)\);', text)
  place = {function: 6 + number for number, function in enumerate(functions)}
  # The handler knows its helper by name, since addresses are others in another process.
  helper = f'{target}_helper'
  binding.add_symbol(helper, objects.address(helper, lambda: _helper(kind)))
  version = major + (minor << 32)
  handler = objects.address(target, lambda: _handler(kind, helper, version, place))
  function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(handler)
  jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(function), platform='cpu')


def _helper(kind: Kind) -> Any:
  work = kind.work

  @numba.cfunc(ARGUMENT, error_model='numpy')
  def helper(job):
    work(job)
    _leave(job)
    return 0

  return helper


def _handler(kind: Kind, helper_name: str, version: int, place: dict[str, int]) -> Any:
  begin, finish, helper_of = kind.begin, kind.finish, llvm.function(helper_name)
  destroy, schedule = place['Error_Destroy'], place['ThreadPool_Schedule']
  count = place['ThreadPool_NumThreads']

  @numba.cfunc(ARGUMENT, error_model='numpy')
  def handler(address):
    frame = words(address)
    if frame[1] != 0 and words(frame[1])[1] & 0xFFFFFFFF == METADATA:
      metadata = words(words(frame[1])[3])
      metadata[3], metadata[4], metadata[5] = version, 0, 0
      return 0
    if frame[4] & 0xFFFFFFFF != EXECUTE:
      return 0
    api, job, helper = words(frame[2]), begin(frame), helper_of()
    place = llvm.allocate(8 * 6)
    request = words(place)
    request[0], request[1], request[2], request[3], request[5] = 32, 0, frame[3], place + 40, 1
    _destroy(api[destroy], llvm.call(api[count], place), request)
    state = words(job)
    workers = min(request[5], state[WORKERS], state[ITEMS])
    for _ in range(workers - 1):
      llvm.add(job + 8 * REFERENCES, 1)
      request[0], request[1], request[2], request[3], request[4] = 40, 0, frame[3], helper, job
      if _destroy(api[destroy], llvm.call(api[schedule], place), request):
        llvm.add(job + 8 * REFERENCES, -1)
    llvm.free(place)
    llvm.add(job + 8 * REFERENCES, 1)
    llvm.call(helper, job)
    while llvm.read(job + 8 * DONE) < state[ITEMS]:
      llvm.pause()
    finish(job)
    _leave(job)
    return 0

  return handler


@compiled
def started(frame, size, first, arguments, results):
  """A job of `size` words for the call `frame`, all zeros, and from word `first` on its buffers."""
  place = llvm.allocate(8 * size)
  llvm.clear(place, 2 * size)
  job, given, made = words(place), words(frame[9]), words(frame[14])
  for number in range(arguments):
    job[first + number] = words(given[number])[3]
  for number in range(results):
    job[first + arguments + number] = words(made[number])[3]
  job[REFERENCES] = 1
  return place


@compiled
def _leave(place):
  if llvm.add(place + 8 * REFERENCES, -1) == 1:
    llvm.free(place)


@compiled
def _destroy(function, error, request):
  """Whether there was an error; without help the handler does all of the work."""
  if error != 0:
    request[0], request[1], request[2] = 24, 0, error
    llvm.call(function, request.ctypes.data)
  return error != 0
