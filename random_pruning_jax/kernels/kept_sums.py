"""The loop of the kernel for kept weights: one output channel, whose sums are held in registers."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from random_pruning_jax.kernels import llvm
from random_pruning_jax.kernels.kept_words import LANES, VECTORS

_WORD, _FLOAT = ir.IntType(64), ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)


@intrinsic
def add_kept(context, count, last, x, out, values, offsets, kept):
  """The sum of kept weights times x for `count` vectors of pixels.

  The vectors follow each other, except the final one, which begins at pixel `last` and may overlap.
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
  value = llvm.all_lanes(builder, builder.load(builder.gep(values, [weight])), _VECTOR)
  offset = builder.sext(builder.load(builder.gep(offsets, [weight])), _WORD)
  pixels = builder.gep(x, [offset])
  for place, total in zip(places, sums, strict=True):
    read = builder.load(_lanes(builder, pixels, place), align=4)
    total.add_incoming(llvm.fma(builder, read, value, total), builder.block)
  weight.add_incoming(builder.add(weight, ir.Constant(_WORD, 1)), builder.block)
  builder.branch(head)
  builder.position_at_end(end)
  for place, total in zip(places, sums, strict=True):
    builder.store(total, _lanes(builder, out, place), align=4)


def _lanes(builder, pointer, place):
  return builder.bitcast(builder.gep(pointer, [place]), _VECTOR.as_pointer())
