"""The one loop that all of a convolution's arithmetic is: sums of products, held in registers.

    out[p, o] (+)= sum over t, k of x[places[t] + p * pixel + k * step] * w[rows[t] + k * row + o]

for some p, and some vectors of o. The names are those of a convolution, where p are neighbouring
pixels, t taps, k input channels and o output channels; in the gradient of a kernel p are input
channels, t rows and k pixels.
"""

import functools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from random_pruning_jax.kernels import llvm

# How many pixels and vectors of channels one call computes: what fits into 32 registers of 16
# floats, beside a vector or two of weights.
SHAPES = ((16, 1), (8, 1), (7, 1), (4, 1), (2, 1), (1, 1))
SHAPES += ((12, 2), (8, 2), (7, 2), (4, 2), (2, 2), (1, 2))

_WORD, _FLOAT, _INT = ir.IntType(64), ir.FloatType(), ir.IntType(32)


@functools.cache
def contract(lanes: int):
  """The loop for vectors of `lanes` floats, to be called from compiled code, with addresses."""

  @intrinsic
  def loop(context, shape, x, pixel, step, count, taps, places, rows, row, w, out, out_pixel, add):
    def build(context, builder, signature, arguments):
      shape, *rest = arguments
      after = builder.append_basic_block('after')
      switch = builder.switch(shape, after)
      for number, (pixels, vectors) in enumerate(SHAPES):
        block = builder.append_basic_block(f'pixels{pixels}vectors{vectors}')
        switch.add_case(ir.Constant(_WORD, number), block)
        builder.position_at_end(block)
        _loops(builder, lanes, pixels, vectors, *rest)
        builder.branch(after)
      builder.position_at_end(after)
      return context.get_dummy_value()

    return types.void(*[types.int64] * 13), build

  return loop


def _loops(
  builder, lanes, pixels, vectors, x, pixel, step, count, taps, places, rows, row, w, out, at, add
):
  """Two loops, over taps and over channels, that pass the sums on in registers."""
  kind = ir.VectorType(_FLOAT, lanes)
  x, w, out = (builder.inttoptr(a, _FLOAT.as_pointer()) for a in (x, w, out))
  places, rows = (builder.inttoptr(a, _INT.as_pointer()) for a in (places, rows))
  each = [(p, v) for p in range(pixels) for v in range(vectors)]
  targets = {
    (p, v): builder.gep(out, [builder.add(_times(builder, at, p), ir.Constant(_WORD, v * lanes))])
    for p, v in each
  }
  names = ('present', 'begin', 'head', 'tap', 'channel', 'tail', 'end')
  present, begin, head, tap, channel, tail, end = map(builder.append_basic_block, names)
  entry = builder.block
  builder.cbranch(builder.icmp_signed('!=', add, ir.Constant(_WORD, 0)), present, begin)

  builder.position_at_end(present)
  there = {i: _load(builder, targets[i], kind) for i in each}
  builder.branch(begin)

  builder.position_at_end(begin)
  zeros = ir.Constant(kind, [0.0] * lanes)
  first = {i: _phi(builder, kind, (zeros, entry), (there[i], present)) for i in each}
  builder.branch(head)

  builder.position_at_end(head)
  number = _phi(builder, _WORD, (ir.Constant(_WORD, 0), begin))
  sums = {i: _phi(builder, kind, (first[i], begin)) for i in each}
  builder.cbranch(builder.icmp_signed('<', number, taps), tap, end)

  builder.position_at_end(tap)
  place = builder.gep(x, [_read(builder, places, number)])
  line = builder.gep(w, [_read(builder, rows, number)])
  # Registers that the compiler cannot relate to each other: else it reaches each pixel from the one
  # before, and the chain of additions takes longer than the products.
  bases = [
    builder.ptrtoint(builder.gep(place, [_times(builder, pixel, p)]), _WORD)
    for p in range(0, pixels, 8)
  ]
  beside = {p: _unknown(builder, _times(builder, pixel, p)) for p in (1, 3, 4, 5, 7)}
  builder.branch(channel)

  builder.position_at_end(channel)
  left = _phi(builder, _WORD, (count, tap))
  bases = [_phi(builder, base.type, (base, tap)) for base in bases]
  weights = _phi(builder, line.type, (line, tap))
  running = {i: _phi(builder, kind, (sums[i], tap)) for i in each}
  vector = [
    _load(builder, builder.gep(weights, [ir.Constant(_WORD, v * lanes)]), kind)
    for v in range(vectors)
  ]
  multiply = cgutils.get_or_insert_function(
    builder.module, ir.FunctionType(kind, [kind] * 3), f'llvm.fma.v{lanes}f32'
  )
  here = [builder.inttoptr(_unknown(builder, base), _FLOAT.as_pointer()) for base in bases]
  for p in range(pixels):
    value = builder.load(builder.gep(here[p // 8], [_beside(builder, beside, p % 8)]))
    value = llvm.all_lanes(builder, value, kind)
    for v in range(vectors):
      total = builder.call(multiply, [value, vector[v], running[p, v]])
      running[p, v].add_incoming(total, channel)
      sums[p, v].add_incoming(total, tail)
  fewer = builder.sub(left, ir.Constant(_WORD, 1))
  left.add_incoming(fewer, channel)
  for base in bases:
    base.add_incoming(builder.add(base, _times(builder, step, 4)), channel)
  weights.add_incoming(builder.gep(weights, [row]), channel)
  builder.cbranch(builder.icmp_signed('>', fewer, ir.Constant(_WORD, 0)), channel, tail)

  builder.position_at_end(tail)
  number.add_incoming(builder.add(number, ir.Constant(_WORD, 1)), tail)
  builder.branch(head)

  builder.position_at_end(end)
  for i in each:
    builder.store(sums[i], _vector(builder, targets[i], kind), align=4)


def _phi(builder, kind, *incoming):
  made = builder.phi(kind)
  for value, block in incoming:
    made.add_incoming(value, block)
  return made


def _read(builder, table, number):
  return builder.sext(builder.load(builder.gep(table, [number])), _WORD)


def _times(builder, value, factor):
  return builder.mul(value, ir.Constant(_WORD, factor))


def _unknown(builder, value):
  return builder.asm(ir.FunctionType(_WORD, [_WORD]), '', '=r,0', [value], False)


def _beside(builder, known, pixel):
  """Twice a register is an address of its own, which costs nothing."""
  if pixel == 0:
    return ir.Constant(_WORD, 0)
  return known[pixel] if pixel in known else builder.shl(known[pixel // 2], ir.Constant(_WORD, 1))


def _vector(builder, place, kind):
  return builder.bitcast(place, kind.as_pointer())


def _load(builder, place, kind):
  return builder.load(_vector(builder, place, kind), align=4)
