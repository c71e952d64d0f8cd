"""The one loop that does all arithmetic of a convolution: sums of products, held in registers.

    out[p, o] = sum over t, k of x[places[t] + p + k * step] * w[rows[t] + k * row + o]

for some p and one or two vectors of o. The sum begins with bias[o], to which start[p, o] may be
added, and a sum below a floor becomes the floor. The names are those of a convolution, where p are
pixels, t taps, k input channels and o output channels; in the gradient of a kernel p are input
channels, t rows and k pixels. Neighbouring p are adjacent in memory, so the machine code computes
no address for each. The second half of p has its own base address, so p may also be two short lines
of pixels.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from random_pruning_jax.kernels import llvm
from random_pruning_jax.kernels.vectors import SHAPES, Vectors

_WORD, _FLOAT, _INT = ir.IntType(64), ir.FloatType(), ir.IntType(32)


class Operands(NamedTuple):
  """Addresses, and distances in floats: integers in compiled code, LLVM's values of them below."""

  x: ir.Value
  half: ir.Value  # from the pixels of the first half to those of the second
  step: ir.Value
  count: ir.Value  # of k
  taps: ir.Value
  places: ir.Value
  rows: ir.Value
  row: ir.Value
  w: ir.Value
  next_w: ir.Value  # from one vector of weights to the next
  out: ir.Value
  pixel: ir.Value  # of the result
  out_half: ir.Value
  start: ir.Value  # laid out as the result; 0 for none
  bias: ir.Value


def contract(vectors: Vectors):
  """The loop, to be called from compiled code, with addresses and the number of a shape."""

  @intrinsic
  def loop(context, shape, operands, floor):
    def build(context, builder, signature, arguments):
      shape, given, floor = arguments
      given = Operands(
        *(
          context.cast(builder, value, kind, types.int64)  # words of a plan are int32
          for value, kind in zip(cgutils.unpack_tuple(builder, given), operands, strict=True)
        )
      )
      after = builder.append_basic_block('after')
      switch = builder.switch(shape, after)
      for number, (pixels, wide) in enumerate(SHAPES[vectors.registers]):
        block = builder.append_basic_block(f'pixels{pixels}vectors{wide}')
        switch.add_case(ir.Constant(_WORD, number), block)
        builder.position_at_end(block)
        _loops(builder, vectors.lanes, pixels, wide, given, floor)
        builder.branch(after)
      builder.position_at_end(after)
      return context.get_dummy_value()

    return types.void(types.int64, operands, types.float32), build

  return loop


def _loops(builder, lanes, pixels, wide, given, floor):
  """Two loops, over taps and over channels, that keep the sums in registers.

  sums[p, v] = bias[v] (+ start[p, v])                        entry, present, begin
  for tap in range(taps):                                     head, tap, tail
    for k in range(count):                                    channel
      sums[p, v] += x[places[tap] + p + step k] * w[rows[tap] + row k + v]
  out[p, v] = max(sums[p, v], floor), NaN as it is            end
  """
  kind = ir.VectorType(_FLOAT, lanes)
  x, w, out = (builder.inttoptr(a, _FLOAT.as_pointer()) for a in (given.x, given.w, given.out))
  places, rows = (builder.inttoptr(a, _INT.as_pointer()) for a in (given.places, given.rows))
  lead = (pixels + 1) // 2  # pixels of the first half
  each = [(p, v) for p in range(pixels) for v in range(wide)]
  sides = [ir.Constant(_WORD, 0), given.out_half]
  inside = {}  # the result
  for p, v in each:
    line = builder.add(sides[p // lead], llvm.times(builder, given.pixel, p % lead))
    inside[p, v] = builder.add(line, ir.Constant(_WORD, v * lanes))
  names = ('present', 'begin', 'head', 'tap', 'channel', 'tail', 'end')
  present, begin, head, tap, channel, tail, end = map(builder.append_basic_block, names)
  entry = builder.block
  bias, start = (builder.inttoptr(a, _FLOAT.as_pointer()) for a in (given.bias, given.start))
  biases = [
    _load(builder, builder.gep(bias, [ir.Constant(_WORD, v * lanes)]), kind) for v in range(wide)
  ]
  builder.cbranch(builder.icmp_signed('!=', given.start, ir.Constant(_WORD, 0)), present, begin)

  builder.position_at_end(present)
  there = {i: _load(builder, builder.gep(start, [inside[i]]), kind) for i in each}
  there = {(p, v): builder.fadd(there[p, v], biases[v]) for p, v in each}
  builder.branch(begin)

  builder.position_at_end(begin)
  first = {(p, v): _phi(builder, kind, (biases[v], entry), (there[p, v], present)) for p, v in each}
  builder.branch(head)

  builder.position_at_end(head)
  number = _phi(builder, _WORD, (ir.Constant(_WORD, 0), begin))
  sums = {i: _phi(builder, kind, (first[i], begin)) for i in each}
  builder.cbranch(builder.icmp_signed('<', number, given.taps), tap, end)

  builder.position_at_end(tap)
  place = builder.gep(x, [_read(builder, places, number)])
  lines = [builder.gep(w, [_read(builder, rows, number)])]
  lines += [builder.gep(lines[0], [given.next_w])] * (wide - 1)
  starts = [place, builder.gep(place, [given.half])][: -(-pixels // lead)]
  starts = [builder.ptrtoint(start, _WORD) for start in starts]
  builder.branch(channel)

  builder.position_at_end(channel)
  left = _phi(builder, _WORD, (given.count, tap))
  starts = [_phi(builder, _WORD, (start, tap)) for start in starts]
  lines = [_phi(builder, line.type, (line, tap)) for line in lines]
  running = {i: _phi(builder, kind, (sums[i], tap)) for i in each}
  weights = [_load(builder, line, kind) for line in lines]
  here = [builder.inttoptr(_unknown(builder, s), _FLOAT.as_pointer()) for s in starts]
  for p in range(pixels):
    value = builder.load(builder.gep(here[p // lead], [ir.Constant(_WORD, p % lead)]))
    value = llvm.all_lanes(builder, value, kind)
    for v in range(wide):
      total = llvm.fma(builder, value, weights[v], running[p, v])
      running[p, v].add_incoming(total, channel)
      sums[p, v].add_incoming(total, tail)
  fewer = builder.sub(left, ir.Constant(_WORD, 1))
  left.add_incoming(fewer, channel)
  for start in starts:
    start.add_incoming(builder.add(start, llvm.times(builder, given.step, 4)), channel)
  for line in lines:
    line.add_incoming(builder.gep(line, [given.row]), channel)
  builder.cbranch(builder.icmp_signed('!=', fewer, ir.Constant(_WORD, 0)), channel, tail)

  builder.position_at_end(tail)
  number.add_incoming(builder.add(number, ir.Constant(_WORD, 1)), tail)
  builder.branch(head)

  builder.position_at_end(end)
  floor = llvm.all_lanes(builder, floor, kind)
  for i in each:
    # With this comparison a NaN stays NaN.
    total = builder.select(builder.fcmp_ordered('>', floor, sums[i]), floor, sums[i])
    builder.store(total, _vector(builder, builder.gep(out, [inside[i]]), kind), align=4)


def _phi(builder, kind, *incoming):
  made = builder.phi(kind)
  for value, block in incoming:
    made.add_incoming(value, block)
  return made


def _read(builder, table, number):
  return builder.sext(builder.load(builder.gep(table, [number])), _WORD)


def _unknown(builder, value):
  """The same address, hidden from the compiler, which would keep one for each pixel."""
  return builder.asm(ir.FunctionType(_WORD, [_WORD]), '', '=r,0', [value], False)


def _vector(builder, place, kind):
  return builder.bitcast(place, kind.as_pointer())


def _load(builder, place, kind):
  return builder.load(_vector(builder, place, kind), align=4)
