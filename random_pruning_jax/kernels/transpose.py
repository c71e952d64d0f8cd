"""Transposes [pixels, channels] to [channels, pixels], block by block in registers."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from random_pruning_jax.kernels.llvm import floats, jitted, times
from random_pruning_jax.kernels.vectors import Vectors

_FLOAT, _INDEX = ir.FloatType(), ir.IntType(32)


def _blocks(lanes: int, pixels: int):
  block = _block(lanes, pixels)

  @jitted
  def blocks(target, channel, source, pixel, count):
    for first in range(0, count, pixels):
      start = min(first, count - pixels)
      block(target + 4 * start, channel, source + 4 * start * pixel, pixel)

  return blocks


def _block(lanes: int, pixels: int):
  """One block of `lanes` channels; both numbers are powers of two, with pixels <= lanes."""

  @intrinsic
  def block(context, target, channel, source, pixel):
    def build(context, builder, signature, arguments):
      target, channel, source, pixel = arguments
      vectors = [
        builder.load(_at(builder, source, times(builder, pixel, p), lanes), align=4)
        for p in range(pixels)
      ]
      # An element's number is pixel * lanes + channel. Each stage moves the highest remaining bit
      # of the pixel behind all other bits, until the number is channel * pixels + pixel.
      for _ in range(pixels.bit_length() - 1):
        half = pixels // 2
        vectors = [
          _interleaved(builder, vectors[i], vectors[i + half], side)
          for i in range(half)
          for side in (0, 1)
        ]
      for c in range(lanes):
        place = _at(builder, target, times(builder, channel, c), pixels)
        vector = vectors[c * pixels // lanes]
        first = c * pixels % lanes
        part = _shuffled(builder, vector, vector, range(first, first + pixels))
        builder.store(part, place, align=4)
      return context.get_dummy_value()

    return types.void(*[types.int64] * 4), build

  return block


def _interleaved(builder, first, second, side):
  """The lower (side 0) or upper halves of two vectors, element by element in turns."""
  lanes = first.type.count
  half = range(side * lanes // 2, (side + 1) * lanes // 2)
  return _shuffled(builder, first, second, [i + lanes * of for i in half for of in (0, 1)])


def _shuffled(builder, first, second, order):
  kind = ir.VectorType(_INDEX, len(order))
  return builder.shuffle_vector(first, second, ir.Constant(kind, list(order)))


def _at(builder, address, floats, lanes):
  place = builder.gep(builder.inttoptr(address, _FLOAT.as_pointer()), [floats])
  return builder.bitcast(place, ir.VectorType(_FLOAT, lanes).as_pointer())


def transposing(vectors: Vectors):
  """The compiled function that sets target[c * channel + p] = source[p * pixel + c], floats.

  It does so for all pixels p and channels c; target and source are addresses. A block that would
  reach over the end begins earlier, and writes some numbers twice.
  """
  # A block of 16 channels and pixels takes 16 registers, and as many again while it is transposed.
  long = vectors.registers == 32
  blocks16x16, blocks16x8, blocks16x4 = (_blocks(16, pixels) for pixels in (16, 8, 4))
  blocks8x8, blocks8x4 = (_blocks(8, pixels) for pixels in (8, 4))

  @jitted
  def transpose(target, channel, source, pixel, pixels, channels):
    done = 0
    while done < channels and pixels >= 4:
      left = channels - done
      to, of = target + 4 * done * channel, source + 4 * done
      if long and left >= 16:
        if pixels >= 16:
          blocks16x16(to, channel, of, pixel, pixels)
        elif pixels >= 8:
          blocks16x8(to, channel, of, pixel, pixels)
        else:
          blocks16x4(to, channel, of, pixel, pixels)
        done += 16
      elif left >= 8:
        if pixels >= 8:
          blocks8x8(to, channel, of, pixel, pixels)
        else:
          blocks8x4(to, channel, of, pixel, pixels)
        done += 8
      else:
        break
    to, of = floats(target), floats(source)
    for c in range(done, channels):
      for p in range(pixels):
        to[c * channel + p] = of[p * pixel + c]

  return transpose
