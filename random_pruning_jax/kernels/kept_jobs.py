"""A call that reads kept weights only: threads divide first the copies, then the products."""

from random_pruning_jax.kernels import llvm
from random_pruning_jax.kernels.handler import (
  DONE,
  FIRST,
  ITEM,
  ITEMS,
  SEAT,
  WORKERS,
  Kind,
  started,
)
from random_pruning_jax.kernels.llvm import compiled, ints, words

# Words of a plan, int32.
IMAGES, INPUTS, HEIGHT, WIDTH, ROWS, COLUMNS, STRIDE, PAD = range(8)
OUTPUTS, HIGH, WIDE, THREADS, MODE, PLAN = range(8, 14)

# Modes: nothing to copy; all threads share an image; each thread has its own.
DIRECT, SHARED, ALONE = range(3)

# Words of a job, int64.
COPY, COPIED, COPIES, BLOCKS, TILES, SIZE, SPARE = range(FIRST, FIRST + 7)
X, VALUES, OFFSETS, STARTS, SETTINGS, OUT, SCRATCH, JOB = range(FIRST + 7, FIRST + 15)


@compiled
def begin(frame):
  """A job for the call `frame`: what its buffers are, and how it falls into items."""
  place = started(frame, JOB, X, 5, 2)
  job = words(place)
  plan = ints(job[SETTINGS])
  vectors = (plan[HIGH] * plan[WIDE] + llvm.LANES - 1) // llvm.LANES
  job[TILES] = (vectors + llvm.VECTORS - 1) // llvm.VECTORS
  lines = (plan[HIGH] - 1) * plan[STRIDE] + plan[ROWS] + plan[STRIDE] - 1
  lines = lines // plan[STRIDE] * plan[STRIDE]
  job[SIZE] = plan[COLUMNS] * lines * plan[WIDE]
  images = plan[THREADS] if plan[MODE] == ALONE else plan[IMAGES]
  job[SPARE] = job[SCRATCH]
  if plan[MODE] != DIRECT:
    job[SPARE] += 4 * images * plan[INPUTS] * job[SIZE] + 4 * llvm.LANES
  pieces = plan[IMAGES] * job[TILES]
  job[BLOCKS] = min(plan[OUTPUTS], max(1, (4 * plan[THREADS] + pieces - 1) // pieces))
  job[COPIES] = plan[IMAGES] * plan[INPUTS] if plan[MODE] == SHARED else 0
  job[ITEMS] = plan[IMAGES] if plan[MODE] == ALONE else pieces * job[BLOCKS]
  job[WORKERS] = plan[THREADS]
  return place


@compiled
def work(place):
  """Takes copies and then products, or whole images, until none is left."""
  job = words(place)
  plan = ints(job[SETTINGS])
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
    if plan[MODE] == ALONE:
      _image(job, number, seat)
    else:
      block, tile = number % job[BLOCKS], number // job[BLOCKS] % job[TILES]
      image = number // (job[BLOCKS] * job[TILES])
      base = job[X] if plan[MODE] == DIRECT else job[SCRATCH]
      base += 4 * image * plan[INPUTS] * job[SIZE]
      _multiply(job, image, tile, block, base, job[SPARE] + 4 * llvm.LANES * number)
    llvm.add(place + 8 * DONE, 1)
    number = llvm.add(place + 8 * ITEM, 1)


@compiled
def finish(place):
  pass


@compiled
def _image(job, image, seat):
  """Copies and products of one image, in the part of the memory that is this thread's."""
  inputs = ints(job[SETTINGS])[INPUTS]
  base = job[SCRATCH] + 4 * seat * inputs * job[SIZE]
  for channel in range(inputs):
    _shift(job, image * inputs + channel, base + 4 * channel * job[SIZE])
  for tile in range(job[TILES]):
    for block in range(job[BLOCKS]):
      _multiply(job, image, tile, block, base, job[SPARE] + 4 * llvm.LANES * seat)


@compiled
def _shift(job, number, target):
  """One channel of one image, for each column of the kernel: phases of rows, rows, pixels."""
  plan = ints(job[SETTINGS])
  height, width, stride, pad = plan[HEIGHT], plan[WIDTH], plan[STRIDE], plan[PAD]
  wide = plan[WIDE]
  rows = (plan[HIGH] - 1) * stride + plan[ROWS]
  phase = (rows + stride - 1) // stride
  source = job[X] + 4 * number * height * width
  for column in range(plan[COLUMNS]):
    copy = target + 4 * column * stride * phase * wide
    begin = min(wide, max(0, (pad - column + stride - 1) // stride))
    end = max(begin, min(wide, (width - 1 + pad - column) // stride + 1))
    if stride == 1 and wide == width:  # all rows at once, and zeros where they run over
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
          llvm.move_one(line + 4 * pixel, start + 4 * pixel * stride)
      llvm.clear(line + 4 * end, wide - end)


@compiled
def _multiply(job, image, tile, block, base, spare):
  """One tile of pixels of one image, for one block of output channels."""
  plan = ints(job[SETTINGS])
  starts = ints(job[STARTS])
  outputs = plan[OUTPUTS]
  pixels = plan[HIGH] * plan[WIDE]
  vectors = (pixels + llvm.LANES - 1) // llvm.LANES
  first = vectors * tile // job[TILES]
  count = vectors * (tile + 1) // job[TILES] - first
  position = first * llvm.LANES
  last = max(0, min((count - 1) * llvm.LANES, pixels - llvm.LANES - position))
  for output in range(outputs * block // job[BLOCKS], outputs * (block + 1) // job[BLOCKS]):
    start = starts[output]
    kept = starts[output + 1] - start
    out = job[OUT] + 4 * ((image * outputs + output) * pixels + position)
    target = out if pixels >= llvm.LANES else spare
    values, offsets = job[VALUES] + 4 * start, job[OFFSETS] + 4 * start
    llvm.tile(count, last, base + 4 * position, target, values, offsets, kept)
    if pixels < llvm.LANES:
      llvm.move(out, spare, pixels)


KIND = Kind(begin, work, finish)
