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
COPY, COPIED, COPIES, BLOCKS, TILES, SIZE, SPARE = range(FIRST, FIRST + 7)
X, VALUES, OFFSETS, STARTS, PLAN, OUT, SCRATCH = range(FIRST + 7, FIRST + 14)


@jitted
def begin(call_frame):
  """A job for the call `call_frame`: its buffers, and how it is divided into items."""
  place = started(call_frame, X)
  job = words(place)
  plan = ints(job[PLAN])
  vectors = (plan[word.HIGH] * plan[word.WIDE] + word.LANES - 1) // word.LANES
  job[TILES] = (vectors + word.VECTORS - 1) // word.VECTORS
  lines = (plan[word.HIGH] - 1) * plan[word.STRIDE] + plan[word.ROWS] + plan[word.STRIDE] - 1
  lines = lines // plan[word.STRIDE] * plan[word.STRIDE]
  job[SIZE] = plan[word.COLUMNS] * lines * plan[word.WIDE]
  images = plan[word.THREADS] if plan[word.MODE] == word.ALONE else plan[word.IMAGES]
  job[SPARE] = job[SCRATCH]
  if plan[word.MODE] != word.DIRECT:
    job[SPARE] += 4 * images * plan[word.INPUTS] * job[SIZE] + 4 * word.LANES
  pieces = plan[word.IMAGES] * job[TILES]
  job[BLOCKS] = min(plan[word.OUTPUTS], max(1, (4 * plan[word.THREADS] + pieces - 1) // pieces))
  job[COPIES] = plan[word.IMAGES] * plan[word.INPUTS] if plan[word.MODE] == word.SHARED else 0
  job[ITEMS] = plan[word.IMAGES] if plan[word.MODE] == word.ALONE else pieces * job[BLOCKS]
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
      _shift(job, one, job[SCRATCH] + 4 * one * job[SIZE])
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
      block, tile = number % job[BLOCKS], number // job[BLOCKS] % job[TILES]
      image = number // (job[BLOCKS] * job[TILES])
      base = job[X] if plan[word.MODE] == word.DIRECT else job[SCRATCH]
      base += 4 * image * plan[word.INPUTS] * job[SIZE]
      _multiply(job, image, tile, block, base, job[SPARE] + 4 * word.LANES * number)
    llvm.add(place + 8 * DONE, 1)
    number = llvm.add(place + 8 * ITEM, 1)


@jitted
def finish(place):
  pass


@jitted
def _image(job, image, seat):
  """Copies and products of one image, in this thread's part of the memory."""
  inputs = ints(job[PLAN])[word.INPUTS]
  base = job[SCRATCH] + 4 * seat * inputs * job[SIZE]
  for channel in range(inputs):
    _shift(job, image * inputs + channel, base + 4 * channel * job[SIZE])
  for tile in range(job[TILES]):
    for block in range(job[BLOCKS]):
      _multiply(job, image, tile, block, base, job[SPARE] + 4 * word.LANES * seat)


@jitted
def _shift(job, number, target):
  """Copies a channel of an image for each column of the kernel: phases of rows, rows, pixels."""
  plan = ints(job[PLAN])
  height, width, stride, pad = (
    plan[word.HEIGHT],
    plan[word.WIDTH],
    plan[word.STRIDE],
    plan[word.PAD],
  )
  wide = plan[word.WIDE]
  rows = (plan[word.HIGH] - 1) * stride + plan[word.ROWS]
  phase = (rows + stride - 1) // stride
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
def _multiply(job, image, tile, block, base, spare):
  """One tile of pixels of one image, for one block of output channels."""
  plan = ints(job[PLAN])
  starts = ints(job[STARTS])
  outputs = plan[word.OUTPUTS]
  pixels = plan[word.HIGH] * plan[word.WIDE]
  vectors = (pixels + word.LANES - 1) // word.LANES
  first = vectors * tile // job[TILES]
  count = vectors * (tile + 1) // job[TILES] - first
  position = first * word.LANES
  last = max(0, min((count - 1) * word.LANES, pixels - word.LANES - position))
  for output in range(outputs * block // job[BLOCKS], outputs * (block + 1) // job[BLOCKS]):
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
