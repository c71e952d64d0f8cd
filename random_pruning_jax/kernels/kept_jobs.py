"""A call that reads kept weights only: threads divide first the copies, then the products."""

from random_pruning_jax.kernels import kept_words as word
from random_pruning_jax.kernels import llvm
from random_pruning_jax.kernels.handler import (
  DONE,
  FIRST,
  ITEM,
  ITEMS,
  SEAT,
  WORKERS,
  Functions,
  started,
)
from random_pruning_jax.kernels.kept_sums import add_kept
from random_pruning_jax.kernels.llvm import ints, jitted, words

# Words of a job, int64.
COPY, COPIED, COPIES, SPARE = range(FIRST, FIRST + 4)
X, VALUES, OFFSETS, STARTS, PLAN, OUT, SCRATCH = range(FIRST + 4, FIRST + 11)


@jitted
def begin(call_frame):
  """A job for the call `call_frame`: its buffers, and how it is divided into items."""
  place = started(call_frame, X)
  job = words(place)
  plan = ints(job[PLAN])
  # A vector that begins in the last of the copies may end behind it.
  copies = plan[word.ROOM] * plan[word.INPUTS] * plan[word.SIZE]
  job[SPARE] = job[SCRATCH] + 4 * (copies + word.LANES)
  job[COPIES] = plan[word.IMAGES] * plan[word.INPUTS] if plan[word.MODE] == word.SHARED else 0
  pieces = 1 if plan[word.MODE] == word.ALONE else plan[word.TILES] * plan[word.BLOCKS]
  job[ITEMS] = plan[word.IMAGES] * pieces
  job[WORKERS] = plan[word.THREADS]
  return place


@jitted
def work(place):
  """Takes copies and then products, or whole images, until none is left."""
  job = words(place)
  plan = ints(job[PLAN])
  number = llvm.add(place + 8 * COPY, 8)
  while number < job[COPIES]:
    last = min(number + 8, job[COPIES])
    for one in range(number, last):
      _shift(job, one, job[SCRATCH] + 4 * one * plan[word.SIZE])
    llvm.add(place + 8 * COPIED, last - number)
    number = llvm.add(place + 8 * COPY, 8)
  while llvm.read(place + 8 * COPIED) < job[COPIES]:
    llvm.pause()
  seat = llvm.add(place + 8 * SEAT, 1)
  number = llvm.add(place + 8 * ITEM, 1)
  while number < job[ITEMS]:
    if plan[word.MODE] == word.ALONE:
      _image(job, number, seat)
    else:
      pieces = plan[word.TILES] * plan[word.BLOCKS]
      image = number // pieces
      base = job[X] if plan[word.MODE] == word.DIRECT else job[SCRATCH]
      base += 4 * image * plan[word.INPUTS] * plan[word.SIZE]
      _multiply(job, image, number % pieces, base, job[SPARE] + 4 * word.LANES * number)
    llvm.add(place + 8 * DONE, 1)
    number = llvm.add(place + 8 * ITEM, 1)


@jitted
def finish(place):
  pass


@jitted
def _image(job, image, seat):
  """Copies and products of one image, in this thread's part of the memory."""
  plan = ints(job[PLAN])
  inputs = plan[word.INPUTS]
  base = job[SCRATCH] + 4 * seat * inputs * plan[word.SIZE]
  for channel in range(inputs):
    _shift(job, image * inputs + channel, base + 4 * channel * plan[word.SIZE])
  for piece in range(plan[word.TILES] * plan[word.BLOCKS]):
    _multiply(job, image, piece, base, job[SPARE] + 4 * word.LANES * seat)


@jitted
def _shift(job, number, target):
  """Copies a channel of an image for each column of the kernel: phases of rows, rows, pixels."""
  plan = ints(job[PLAN])
  height, width, wide = plan[word.HEIGHT], plan[word.WIDTH], plan[word.WIDE]
  stride, pad, phase = plan[word.STRIDE], plan[word.PAD], plan[word.PHASE]
  rows = (plan[word.HIGH] - 1) * stride + plan[word.ROWS]
  source = job[X] + 4 * number * height * width
  for column in range(plan[word.COLUMNS]):
    copy = target + 4 * column * stride * phase * wide
    begin = min(wide, max(0, (pad - column + stride - 1) // stride))
    end = max(begin, min(wide, (width - 1 + pad - column) // stride + 1))
    # All rows at once, and zeros where they run over; unless a column lies beside the whole map.
    if stride == 1 and wide == width and height * width >= plan[word.COLUMNS]:
      llvm.clear(copy, pad * wide)
      first, last = max(0, pad - column), max(0, column - pad)
      llvm.move(copy + 4 * (pad * wide + first), source + 4 * last, height * width - first - last)
      llvm.clear(copy + 4 * (pad + height) * wide, (rows - pad - height) * wide)
      for row in range(pad, pad + height):
        for pixel in range(begin):
          llvm.clear(copy + 4 * (row * wide + pixel), 1)
        for pixel in range(end, wide):
          llvm.clear(copy + 4 * (row * wide + pixel), 1)
      continue
    for row in range(rows):
      line = copy + 4 * (row % stride * phase + row // stride) * wide
      if row < pad or row >= height + pad:
        llvm.clear(line, wide)
        continue
      start = source + 4 * ((row - pad) * width + column - pad)
      llvm.clear(line, begin)
      if stride == 1:
        llvm.move(line + 4 * begin, start + 4 * begin, end - begin)
      else:
        for pixel in range(begin, end):
          llvm.move(line + 4 * pixel, start + 4 * pixel * stride, 1)
      llvm.clear(line + 4 * end, wide - end)


@jitted
def _multiply(job, image, piece, base, spare):
  """A piece of an image's result: one tile of pixels, for one block of output channels."""
  plan = ints(job[PLAN])
  starts = ints(job[STARTS])
  outputs = plan[word.OUTPUTS]
  pixels = plan[word.HIGH] * plan[word.WIDE]
  vectors = (pixels + word.LANES - 1) // word.LANES
  tiles, blocks = plan[word.TILES], plan[word.BLOCKS]
  tile, block = piece // blocks, piece % blocks
  first = vectors * tile // tiles
  count = vectors * (tile + 1) // tiles - first
  position = first * word.LANES
  last = max(0, min((count - 1) * word.LANES, pixels - word.LANES - position))
  for output in range(outputs * block // blocks, outputs * (block + 1) // blocks):
    start = starts[output]
    kept = starts[output + 1] - start
    out = job[OUT] + 4 * ((image * outputs + output) * pixels + position)
    target = out if pixels >= word.LANES else spare
    values, offsets = job[VALUES] + 4 * start, job[OFFSETS] + 4 * start
    add_kept(count, last, base + 4 * position, target, values, offsets, kept)
    if pixels < word.LANES:
      llvm.move(out, spare, pixels)


def functions() -> Functions:
  return Functions(begin, work, finish)
