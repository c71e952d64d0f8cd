"""The functions that XLA calls: xla/ffi/api/c_api.h, its structs taken as words of 8 bytes.

A call is a job of numbered items. Its handler asks XLA's own threads to help, and works itself, so
it ends even if none of them comes. A thread that comes late must still find the job, so the last
thread to leave frees it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
from numba import types

from random_pruning_jax.kernels import llvm
from random_pruning_jax.kernels import xla_words as word
from random_pruning_jax.kernels.llvm import jitted, words

# The words that every job begins with, int64: the next item, items done, items in all, threads that
# still use the job, threads that may work at it, and the number of the next thread.
ITEM, DONE, ITEMS, REFERENCES, WORKERS, SEAT, FIRST = range(7)

SIGNATURE = types.int64(types.int64)


class Functions(NamedTuple):
  """The compiled functions of a kind of job."""

  begin: Callable  # (call frame) -> address of a new job
  work: Callable  # (job): does items until none is left, in any number of threads
  finish: Callable  # (job): what is left to do after all of them


def helper(functions: Functions) -> Any:
  """What another thread of XLA calls with the address of a job, as a `numba.cfunc`."""
  work = functions.work

  @numba.cfunc(SIGNATURE, error_model='numpy')
  def help_with(job):
    work(job)
    _leave(job)
    return 0

  return help_with


def handler(functions: Functions, helper_name: str) -> Any:
  """What XLA calls with the address of a call frame, as a `numba.cfunc`.

  LLVM finds the helper's address by `helper_name`.
  """
  version, number_of = word.interface()
  begin, finish, helper_of = functions.begin, functions.finish, llvm.function(helper_name)
  destroy, schedule = number_of['Error_Destroy'], number_of['ThreadPool_Schedule']
  count = number_of['ThreadPool_NumThreads']

  @numba.cfunc(SIGNATURE, error_model='numpy')
  def handle(address):
    frame = words(address)
    extension = frame[word.EXTENSION]
    if extension != 0 and words(extension)[word.TYPE] & 0xFFFFFFFF == word.IS_METADATA:
      metadata = words(words(extension)[word.METADATA])
      metadata[word.VERSION], metadata[word.TRAITS], metadata[word.STATE] = version, 0, 0
      return 0
    if frame[word.STAGE] & 0xFFFFFFFF != word.EXECUTE:
      return 0
    api, job, helper = words(frame[word.API]), begin(frame), helper_of()
    place = llvm.allocate(8 * 6)
    request = words(place)
    # Requests begin with their size in bytes, no extension, and the call's context.
    request[0], request[1], request[2] = 32, 0, frame[word.CONTEXT]
    request[3], request[5] = place + 40, 1  # where the number of threads goes
    _failed(api[destroy], llvm.call(api[count], place), request)
    state = words(job)
    workers = min(request[5], state[WORKERS], state[ITEMS])
    for _ in range(workers - 1):
      llvm.add(job + 8 * REFERENCES, 1)
      request[0], request[1], request[2] = 40, 0, frame[word.CONTEXT]
      request[3], request[4] = helper, job
      if _failed(api[destroy], llvm.call(api[schedule], place), request):
        llvm.add(job + 8 * REFERENCES, -1)
    llvm.free(place)
    llvm.add(job + 8 * REFERENCES, 1)
    llvm.call(helper, job)
    while llvm.read(job + 8 * DONE) < state[ITEMS]:
      llvm.pause()
    finish(job)
    _leave(job)
    return 0

  return handle


@jitted
def started(call_frame, first):
  """A new job, whose words from `first` on are the buffers of the call: arguments, then results."""
  arguments, results = call_frame[word.ARGUMENT_COUNT], call_frame[word.RESULT_COUNT]
  size = first + arguments + results
  place = llvm.allocate(8 * size)
  llvm.clear(place, 2 * size)
  given, made = words(call_frame[word.ARGUMENTS]), words(call_frame[word.RESULTS])
  job = words(place)
  for number in range(arguments):
    job[first + number] = words(given[number])[word.DATA]
  for number in range(results):
    job[first + arguments + number] = words(made[number])[word.DATA]
  job[REFERENCES] = 1
  return place


@jitted
def _leave(place):
  if llvm.add(place + 8 * REFERENCES, -1) == 1:
    llvm.free(place)


@jitted
def _failed(function, error, request):
  """Whether there was an error, which is dropped: the handler can do all of the work itself."""
  if error != 0:
    request[0], request[1], request[2] = 24, 0, error
    llvm.call(function, request.ctypes.data)
  return error != 0
