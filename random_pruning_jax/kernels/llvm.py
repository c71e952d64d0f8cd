"""What Numba has no word for: addresses, C functions, shared words, and sums held in registers."""

import functools

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # floats of a vector; a narrower machine takes several registers
VECTORS = 6  # of one tile: as many sums as fit into the registers of any machine

compiled = numba.njit(error_model='numpy', nogil=True, no_cpython_wrapper=True)

_WORD, _FLOAT = ir.IntType(64), ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)


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


@functools.cache
def function(name: str):
  """What gives the address of a function that LLVM knows by this name."""

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
    size = builder.mul(arguments[2], ir.Constant(_WORD, 4))
    cgutils.raw_memcpy(builder, target, source, size, 1)
    return context.get_dummy_value()

  return types.void(types.int64, types.int64, types.int64), build


@intrinsic
def move_one(context, target, source):
  def build(context, builder, signature, arguments):
    target, source = (builder.inttoptr(a, _FLOAT.as_pointer()) for a in arguments)
    builder.store(builder.load(source), target)
    return context.get_dummy_value()

  return types.void(types.int64, types.int64), build


@intrinsic
def clear(context, target, count):
  """Sets `count` floats to zero."""

  def build(context, builder, signature, arguments):
    target = builder.inttoptr(arguments[0], cgutils.voidptr_t)
    size = builder.mul(arguments[1], ir.Constant(_WORD, 4))
    cgutils.memset(builder, target, size, 0)
    return context.get_dummy_value()

  return types.void(types.int64, types.int64), build


@intrinsic
def allocate(context, size):
  def build(context, builder, signature, arguments):
    kind = ir.FunctionType(_WORD, [_WORD])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, 'malloc'), arguments)

  return types.int64(types.int64), build


@intrinsic
def free(context, address):
  def build(context, builder, signature, arguments):
    kind = ir.FunctionType(ir.VoidType(), [_WORD])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, 'free'), arguments)
    return context.get_dummy_value()

  return types.void(types.int64), build


@intrinsic
def pause(context):
  """Lets another thread on the same core go first."""

  def build(context, builder, signature, arguments):
    kind = ir.FunctionType(ir.IntType(32), [])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, 'sched_yield'), [])
    return context.get_dummy_value()

  return types.void(), build


@intrinsic
def tile(context, count, last, x, out, values, offsets, kept):
  """The sum of kept weights times x for `count` vectors of pixels.

  They follow each other, but for the final one, which begins at pixel `last` and may overlap.
  """

  def build(context, builder, signature, arguments):
    count, last, x, out, values, offsets, kept = arguments
    x, out, values = (builder.inttoptr(a, _FLOAT.as_pointer()) for a in (x, out, values))
    offsets = builder.inttoptr(offsets, ir.IntType(32).as_pointer())
    after = builder.append_basic_block('after')
    switch = builder.switch(count, after)
    for number in range(1, VECTORS + 1):
      block = builder.append_basic_block(f'vectors{number}')
      switch.add_case(ir.Constant(_WORD, number), block)
      builder.position_at_end(block)
      places = [*(ir.Constant(_WORD, LANES * vector) for vector in range(number - 1)), last]
      _sums(builder, places, x, out, values, offsets, kept)
      builder.branch(after)
    builder.position_at_end(after)
    return context.get_dummy_value()

  return types.void(*[types.int64] * 7), build


def _sums(builder, places, x, out, values, offsets, kept):
  """The loop over kept weights with a sum in a register for each of `places`."""
  before = builder.block
  head, body, end = (builder.append_basic_block(name) for name in ('head', 'body', 'end'))
  builder.branch(head)
  builder.position_at_end(head)
  weight = builder.phi(_WORD)
  weight.add_incoming(ir.Constant(_WORD, 0), before)
  sums = [builder.phi(_VECTOR) for _ in places]
  for total in sums:
    total.add_incoming(ir.Constant(_VECTOR, [0.0] * LANES), before)
  builder.cbranch(builder.icmp_signed('<', weight, kept), body, end)
  builder.position_at_end(body)
  value = all_lanes(builder, builder.load(builder.gep(values, [weight])), _VECTOR)
  offset = builder.sext(builder.load(builder.gep(offsets, [weight])), _WORD)
  pixels = builder.gep(x, [offset])
  kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
  fma = cgutils.get_or_insert_function(builder.module, kind, f'llvm.fma.v{LANES}f32')
  for place, total in zip(places, sums, strict=True):
    read = builder.load(_lanes(builder, pixels, place), align=4)
    total.add_incoming(builder.call(fma, [read, value, total]), builder.block)
  weight.add_incoming(builder.add(weight, ir.Constant(_WORD, 1)), builder.block)
  builder.branch(head)
  builder.position_at_end(end)
  for place, total in zip(places, sums, strict=True):
    builder.store(total, _lanes(builder, out, place), align=4)


def _lanes(builder, pointer, place):
  return builder.bitcast(builder.gep(pointer, [place]), _VECTOR.as_pointer())


def all_lanes(builder, number, kind):
  """A vector of a `kind`, each of whose lanes is the number."""
  index = ir.IntType(32)
  nothing = ir.Constant(kind, ir.Undefined)
  first = builder.insert_element(nothing, number, ir.Constant(index, 0))
  zeros = ir.Constant(ir.VectorType(index, kind.count), [0] * kind.count)
  return builder.shuffle_vector(first, nothing, zeros)


@compiled
def words(place):
  return numba.carray(pointer(place), (1 << 30,), np.int64)


@compiled
def ints(place):
  return numba.carray(pointer(place), (1 << 30,), np.int32)


@compiled
def floats(place):
  return numba.carray(pointer(place), (1 << 30,), np.float32)
