"""The transforms of `winograd` for vectors of pixels, of a tile and of sums, in compiled code."""

import functools

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from random_pruning_jax.kernels import llvm
from random_pruning_jax.kernels.winograd import POSITIONS, SIDE

_WORD, _FLOAT = ir.IntType(64), ir.FloatType()


@functools.cache
def transform_pixels(lanes: int):
  """Code that makes 16 vectors, `position` apart, of the 4x4 pixels that a tile depends on.

  Lines of pixels are `line` apart. In a line the second pixel is `next_to` after the first, and the
  other two are `pair` after these. A vector holds tiles side by side, or channels of one tile.
  """

  @intrinsic
  def transform(context, target, position, source, line, next_to, pair):
    def build(context, builder, signature, arguments):
      target, position, source, line, next_to, pair = arguments
      kind = ir.VectorType(_FLOAT, lanes)
      lines = []
      for row in range(SIDE):
        first = _moved(builder, source, line, row)
        second = _moved(builder, first, next_to, 1)
        places = (first, second, *(_moved(builder, p, pair, 1) for p in (first, second)))
        lines.append(_input_transform(builder, *(_load(builder, place, kind) for place in places)))
      columns = [_input_transform(builder, *column) for column in zip(*lines, strict=True)]
      _store_columns(builder, columns, target, position)
      return context.get_dummy_value()

    return types.void(*[types.int64] * 6), build

  return transform


@functools.cache
def transform_tile(lanes: int):
  """Code that makes 16 vectors, `position` apart, of a tile: the transpose of `transform_sums`.

  The tile's lines are `line` apart, its pixels `pixel`. It has `rows` rows and `columns` columns;
  beyond them, zeros are read.
  """

  @intrinsic
  def transform(context, target, position, source, line, pixel, rows, columns, zeros):
    def build(context, builder, signature, arguments):
      target, position, source, line, pixel, rows, columns, zeros = arguments
      kind = ir.VectorType(_FLOAT, lanes)
      lines = []
      for row in (0, 1):
        first = _moved(builder, source, line, row)
        here = builder.icmp_signed('>', rows, ir.Constant(_WORD, row))
        second = builder.and_(here, builder.icmp_signed('>', columns, ir.Constant(_WORD, 1)))
        places = ((here, first), (second, _moved(builder, first, pixel, 1)))
        pixels = [_load(builder, builder.select(there, at, zeros), kind) for there, at in places]
        lines.append(_output_transposed(builder, *pixels))
      columns = [_output_transposed(builder, *column) for column in zip(*lines, strict=True)]
      _store_columns(builder, columns, target, position)
      return context.get_dummy_value()

    return types.void(*[types.int64] * 8), build

  return transform


@functools.cache
def transform_sums(lanes: int):
  """Code that makes a tile of 16 vectors of sums, `position` apart, for `lanes` channels.

  `bias` and, where its address is not 0, `residual` are added, and what is then below the floor
  becomes the floor. The tile's lines are `line` apart, its pixels `pixel`; it has a second row
  where `rows` is 2, and a second column where `columns` is 2.
  """

  @intrinsic
  def transform(context, out, line, pixel, source, position, bias, residual, rows, columns, floor):
    def build(context, builder, signature, arguments):
      out, line, pixel, source, position, bias, residual, rows, columns, floor = arguments
      kind = ir.VectorType(_FLOAT, lanes)
      sums = [
        _load(builder, _moved(builder, source, position, number), kind)
        for number in range(POSITIONS)
      ]
      lines = [
        _output_transform(builder, *sums[SIDE * row : SIDE * (row + 1)]) for row in range(SIDE)
      ]
      tile = [_output_transform(builder, *column) for column in zip(*lines, strict=True)]
      added, floors = _load(builder, bias, kind), llvm.all_lanes(builder, floor, kind)
      zero, two = ir.Constant(_WORD, 0), ir.Constant(_WORD, 2)
      for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        there = ir.Constant(ir.IntType(1), 1)
        for number, size in ((row, rows), (column, columns)):
          if number:
            there = builder.and_(there, builder.icmp_signed('==', size, two))
        with builder.if_then(there):
          away = builder.add(llvm.times(builder, line, row), llvm.times(builder, pixel, column))
          total = builder.fadd(tile[column][row], added)
          before = builder.block
          with builder.if_then(builder.icmp_signed('!=', residual, zero)):
            more = builder.fadd(total, _load(builder, _moved(builder, residual, away, 1), kind))
            inside = builder.block
          all_of = builder.phi(kind)
          all_of.add_incoming(total, before)
          all_of.add_incoming(more, inside)
          # With this comparison a NaN stays NaN.
          above = builder.select(builder.fcmp_ordered('>', floors, all_of), floors, all_of)
          _store(builder, above, _moved(builder, out, away, 1))
      return context.get_dummy_value()

    return types.void(*[types.int64] * 9, types.float32), build

  return transform


def _input_transform(builder, first, second, third, fourth):
  """B^T d of 4 pixels, along a line or a column."""
  return (
    builder.fsub(first, third),
    builder.fadd(second, third),
    builder.fsub(third, second),
    builder.fsub(second, fourth),
  )


def _output_transform(builder, first, second, third, fourth):
  """A^T m: two pixels of 4 sums."""
  return (
    builder.fadd(builder.fadd(first, second), third),
    builder.fsub(builder.fsub(second, third), fourth),
  )


def _output_transposed(builder, first, second):
  """A y: 4 numbers of two pixels."""
  negative = builder.fneg(second)
  return first, builder.fadd(first, second), builder.fsub(first, second), negative


def _moved(builder, address, floats, times):
  return builder.add(address, llvm.times(builder, floats, 4 * times))


def _load(builder, address, kind):
  return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


def _store(builder, value, address):
  builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=4)


def _store_columns(builder, columns, target, position):
  """Stores 16 vectors, line by line."""
  for number in range(POSITIONS):
    place = _moved(builder, target, position, number)
    _store(builder, columns[number % SIDE][number // SIDE], place)
