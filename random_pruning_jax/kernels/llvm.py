"""What Numba cannot express: addresses, C functions, words that threads share, vectors."""

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_OPTIONS = {'error_model': 'numpy', 'nogil': True, 'no_cpython_wrapper': True}
jitted = numba.njit(**_OPTIONS)
# Numba inlines these into their caller; LLVM would otherwise optimise a separately compiled
# function again in every module that calls it.
inlined = numba.njit(inline='always', **_OPTIONS)
INTS = types.int32[::1]


def jitted_for(*arguments: types.Type):
  """`jitted` for these types only: else it is compiled again wherever an argument is constant."""
  return numba.njit(types.void(*arguments), **_OPTIONS)


_WORD = ir.IntType(64)
# Functions of C; a pointer is a word. `pause` lets another thread on the core go first.
allocate = types.ExternalFunction('malloc', types.int64(types.int64))
free = types.ExternalFunction('free', types.void(types.int64))
pause = types.ExternalFunction('sched_yield', types.int32())


@intrinsic
def pointer(context, address):
  def build(context, builder, signature, arguments):
    return builder.inttoptr(arguments[0], cgutils.voidptr_t)

  return types.voidptr(types.int64), build


@intrinsic
def call(context, function, argument):
  """What a C function of one pointer returns, as a word."""

  def build(context, builder, signature, arguments):
    kind = ir.FunctionType(_WORD, [_WORD])
    return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1]])

  return types.int64(types.int64, types.int64), build


def function(name: str):
  """An intrinsic that gives the address of the function that LLVM knows by this name."""

  @intrinsic
  def address(context):
    def build(context, builder, signature, arguments):
      kind = ir.FunctionType(_WORD, [_WORD])
      return builder.ptrtoint(cgutils.get_or_insert_function(builder.module, kind, name), _WORD)

    return types.int64(), build

  return address


@intrinsic
def add(context, address, number):
  """Adds to a word that threads share and returns what it was."""

  def build(context, builder, signature, arguments):
    place = builder.inttoptr(arguments[0], _WORD.as_pointer())
    return builder.atomic_rmw('add', place, arguments[1], 'seq_cst')

  return types.int64(types.int64, types.int64), build


@intrinsic
def read(context, address):
  def build(context, builder, signature, arguments):
    place = builder.inttoptr(arguments[0], _WORD.as_pointer())
    return builder.load_atomic(place, 'seq_cst', 8)

  return types.int64(types.int64), build


@intrinsic
def move(context, target, source, count):
  """Copies `count` floats."""

  def build(context, builder, signature, arguments):
    target, source = (builder.inttoptr(a, cgutils.voidptr_t) for a in arguments[:2])
    cgutils.raw_memcpy(builder, target, source, times(builder, arguments[2], 4), 1)
    return context.get_dummy_value()

  return types.void(types.int64, types.int64, types.int64), build


@intrinsic
def clear(context, target, count):
  """Sets `count` floats to zero."""

  def build(context, builder, signature, arguments):
    target = builder.inttoptr(arguments[0], cgutils.voidptr_t)
    cgutils.memset(builder, target, times(builder, arguments[1], 4), 0)
    return context.get_dummy_value()

  return types.void(types.int64, types.int64), build


def times(builder, value, factor: int):
  return builder.mul(value, ir.Constant(_WORD, factor))


def fma(builder, x, y, z):
  """x y + z of vectors, rounded once."""
  kind, name = ir.FunctionType(z.type, [z.type] * 3), f'llvm.fma.v{z.type.count}f32'
  return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [x, y, z])


def all_lanes(builder, number, kind):
  """A vector of a `kind`, each of whose lanes is the number."""
  index = ir.IntType(32)
  nothing = ir.Constant(kind, ir.Undefined)
  first = builder.insert_element(nothing, number, ir.Constant(index, 0))
  zeros = ir.Constant(ir.VectorType(index, kind.count), [0] * kind.count)
  return builder.shuffle_vector(first, nothing, zeros)


@jitted
def words(place):
  return numba.carray(pointer(place), (1 << 30,), np.int64)


@jitted
def ints(place):
  return numba.carray(pointer(place), (1 << 30,), np.int32)


@jitted
def floats(place):
  return numba.carray(pointer(place), (1 << 30,), np.float32)
