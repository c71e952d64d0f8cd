"""Sums over the rows of two matrices, of one and of their products: threads divide the rows."""

from random_pruning_jax.kernels import llvm
from random_pruning_jax.kernels.handler import DONE, FIRST, ITEM, ITEMS, WORKERS, Functions, started
from random_pruning_jax.kernels.llvm import floats, ints, jitted, words

# Words of a plan, int32: rows in all and of an item, columns.
THREADS, ROWS, SHARE, COLUMNS = range(4)

# So many rows are summed by themselves first: rounding errors grow with the length of a sum.
ROWS_AT_ONCE = 64

# Words of a job, int64.
X, Y, PLAN, RESULT, SCRATCH = range(FIRST, FIRST + 5)


@jitted
def begin(call_frame):
  place = started(call_frame, X)
  job = words(place)
  plan = ints(job[PLAN])
  # Shares do not depend on which thread takes them, so that the bits are the same each time.
  job[ITEMS] = (plan[ROWS] + plan[SHARE] - 1) // plan[SHARE]
  job[WORKERS] = plan[THREADS]
  return place


@jitted
def finish(place):
  job = words(place)
  size = 2 * ints(job[PLAN])[COLUMNS]
  llvm.clear(job[RESULT], size)
  total = floats(job[RESULT])
  for item in range(job[ITEMS]):
    more = floats(job[SCRATCH] + 8 * item * size)
    for number in range(size):
      total[number] += more[number]


@jitted
def work(place):
  job = words(place)
  plan = ints(job[PLAN])
  number = llvm.add(place + 8 * ITEM, 1)
  while number < job[ITEMS]:
    # Read inside the loop: when a helper comes late, XLA's buffers may be gone.
    columns = plan[COLUMNS]
    first = number * plan[SHARE]
    last = min(first + plan[SHARE], plan[ROWS])
    out = job[SCRATCH] + 16 * number * columns
    total, some = floats(out), floats(out + 8 * columns)
    llvm.clear(out, 2 * columns)
    for start in range(first, last, ROWS_AT_ONCE):
      llvm.clear(out + 8 * columns, 2 * columns)
      for row in range(start, min(start + ROWS_AT_ONCE, last)):
        x, y = floats(job[X] + 4 * row * columns), floats(job[Y] + 4 * row * columns)
        for column in range(columns):
          some[column] += x[column]
          some[columns + column] += x[column] * y[column]
      for column in range(2 * columns):
        total[column] += some[column]
    llvm.add(place + 8 * DONE, 1)
    number = llvm.add(place + 8 * ITEM, 1)


def functions() -> Functions:
  return Functions(begin, work, finish)
