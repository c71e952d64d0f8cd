"""The function that XLA calls: xla/ffi/api/c_api.h, its structs taken as words of 8 bytes.

It asks XLA's own threads to help, and works itself, so that it needs none of them to come.
"""

import functools
import pathlib
import re
import threading
from typing import Any

import jax
import numba
from numba import types

from random_pruning_jax.sparse_kernels import jobs, llvm

TARGET = 'random_pruning_jax_kept_weights'
METADATA, EXECUTE = 1, 3  # a kind of extension, a stage
ARGUMENT = types.int64(types.int64)
_once = threading.Lock()


def register() -> None:
  """Compiles the handler, once a process, and gives it to XLA under TARGET.

  Raises RuntimeError where the installed XLA speaks another version of the interface.
  """
  with _once:
    _registered()


@functools.cache
def _registered() -> tuple:
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
  helper = numba.cfunc(ARGUMENT, error_model='numpy')(_help)
  handler = _handler(helper.address, major + (minor << 32), place)
  jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(handler.ctypes), platform='cpu')
  return helper, handler  # kept by the cache: their code lives as long as they do


def _help(job):
  jobs.work(job)
  jobs.leave(job)
  return 0


def _handler(helper: int, version: int, place: dict[str, int]) -> Any:
  destroy, schedule = place['Error_Destroy'], place['ThreadPool_Schedule']
  count = place['ThreadPool_NumThreads']

  @numba.cfunc(ARGUMENT, error_model='numpy')
  def handler(address):
    frame = jobs.words(address)
    if frame[1] != 0 and jobs.words(frame[1])[1] & 0xFFFFFFFF == METADATA:
      metadata = jobs.words(jobs.words(frame[1])[3])
      metadata[3], metadata[4], metadata[5] = version, 0, 0
      return 0
    if frame[4] & 0xFFFFFFFF != EXECUTE:
      return 0
    api, job = jobs.words(frame[2]), jobs.begin(frame)
    place = llvm.allocate(8 * 6)
    request = jobs.words(place)
    request[0], request[1], request[2], request[3], request[5] = 32, 0, frame[3], place + 40, 1
    _destroy(api[destroy], llvm.call(api[count], place), request)
    state = jobs.words(job)
    workers = min(request[5], jobs.ints(state[jobs.SETTINGS])[jobs.WORKERS], state[jobs.ITEMS])
    for _ in range(workers - 1):
      llvm.add(job + 8 * jobs.REFERENCES, 1)
      request[0], request[1], request[2], request[3], request[4] = 40, 0, frame[3], helper, job
      if _destroy(api[destroy], llvm.call(api[schedule], place), request):
        llvm.add(job + 8 * jobs.REFERENCES, -1)
    llvm.free(place)
    llvm.add(job + 8 * jobs.REFERENCES, 1)
    llvm.call(helper, job)
    while llvm.read(job + 8 * jobs.DONE) < state[jobs.ITEMS]:
      llvm.pause()
    jobs.leave(job)
    return 0

  return handler


@jobs.compiled
def _destroy(function, error, request):
  """Whether there was an error; without help the handler does all of the work."""
  if error != 0:
    request[0], request[1], request[2] = 24, 0, error
    llvm.call(function, request.ctypes.data)
  return error != 0
