"""A handler that XLA is given before its machine code exists: its calls wait for the code.

A waiting call runs no Python: a KeyboardInterrupt there would return to XLA early, and XLA would
take uninitialised memory for the result.
"""

import atexit
import ctypes
import threading
from collections.abc import Callable

from llvmlite import ir

from random_pruning_jax import kernels
from random_pruning_jax.kernels import objects
from random_pruning_jax.kernels import xla_words as word

HANDLER = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)  # the address of a call frame -> error
_WORD, _MILLISECOND = ir.IntType(64), 1000  # as usleep counts
_FUNCTION = ir.FunctionType(_WORD, [_WORD])


class Later:
  """`entry` is the address of a handler whose calls wait until `find()` has found the real one.

  Calls then go on to the real one. XLA must ask for the metadata before `begin`, which calls `find`
  in a thread. Where `find` raises, or has not returned when the process ends, calls fail and say
  why.
  """

  def __init__(self, find: Callable[[], int]):
    self._find = find
    self._version, functions = word.interface()
    self._answer = HANDLER(self._metadata)  # kept, since ctypes frees it with its object; so below
    self._place = ctypes.c_int64(ctypes.cast(self._answer, ctypes.c_void_p).value)
    self._request = (ctypes.c_int64 * 4)()
    module = _module(
      ctypes.addressof(self._place), ctypes.addressof(self._request), functions['Error_Create']
    )
    self.entry, self._failing = objects.loaded(str(module), 'entry', 'failing')

  def begin(self) -> None:
    self._place.value = 0
    atexit.register(self._fail, 'the process ends')  # which waits for calls, when no thread goes on
    threading.Thread(target=self._look, daemon=True).start()

  def _look(self):
    try:
      self._place.value = self._find()
    except BaseException as error:
      self._fail(f'{type(error).__name__}: {error}')

  def _fail(self, why):
    if not self._place.value:
      text = f'{kernels.LACKING}: {why}'
      self._message = ctypes.create_string_buffer(text.encode(errors='replace'))
      # XLA_FFI_Error_Create_Args: its size in bytes, no extension, a message, a code.
      self._request[:] = (28, 0, ctypes.addressof(self._message), word.INTERNAL)
      self._place.value = self._failing

  def _metadata(self, frame):
    metadata = _words(_words(_words(frame)[word.EXTENSION])[word.METADATA])
    metadata[word.VERSION], metadata[word.TRAITS], metadata[word.STATE] = self._version, 0, 0
    return 0


def _words(address):
  return (ctypes.c_int64 * 8).from_address(address)


def _module(place: int, request: int, create: int) -> ir.Module:
  """`entry`, which calls the address that lies at `place` once that is not 0, and `failing`.

  `failing` calls XLA's function number `create`, which makes errors, with the address `request`.
  """
  module = ir.Module('later')
  sleep = ir.Function(module, ir.FunctionType(ir.IntType(32), [ir.IntType(32)]), 'usleep')
  builder, frame = _function(module, 'entry')
  start = builder.block
  slot = builder.inttoptr(ir.Constant(_WORD, place), _WORD.as_pointer())
  found = builder.load_atomic(slot, 'acquire', 8)
  with builder.if_then(builder.icmp_signed('==', found, ir.Constant(_WORD, 0))):
    builder.call(sleep, [ir.Constant(ir.IntType(32), _MILLISECOND)])
    builder.branch(start)
  _call(builder, found, frame)
  builder, frame = _function(module, 'failing')
  functions = _load(builder, frame, word.API)
  _call(builder, _load(builder, functions, create), ir.Constant(_WORD, request))
  return module


def _function(module, name):
  function = ir.Function(module, _FUNCTION, name)
  first = function.append_basic_block()
  builder = ir.IRBuilder(first)
  builder.position_at_end(builder.append_basic_block())  # no branch may go back to the first block
  ir.IRBuilder(first).branch(builder.block)
  return builder, function.args[0]


def _load(builder, address, number):
  place = builder.add(address, ir.Constant(_WORD, 8 * number))
  return builder.load(builder.inttoptr(place, _WORD.as_pointer()))


def _call(builder, function, argument):
  builder.ret(builder.call(builder.inttoptr(function, _FUNCTION.as_pointer()), [argument]))
