"""A convolution, or one of its gradients: threads share the images, or the channels of few images.

To multiply pixels by weights, a thread has an image in a frame of its own: each line holds its
pixels channel by channel, with zeros around the image, so every tap of every pixel can be read. For
the gradient of a kernel the frame has the layout of the image. A wide 3x3 convolution is made of
tiles (`winograd`), of which a thread has some at a time.
"""

from random_pruning_jax.kernels import dense_words as word
from random_pruning_jax.kernels import llvm
from random_pruning_jax.kernels.dense_fill import filling
from random_pruning_jax.kernels.dense_sums import summing
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
from random_pruning_jax.kernels.llvm import floats, inlined, ints, jitted, words
from random_pruning_jax.kernels.vectors import Vectors
from random_pruning_jax.kernels.winograd_jobs import tiling

# Words of a job, int64.
IN, WEIGHTS, PLAN, BIAS, RESIDUAL, RESULT, SCRATCH = range(FIRST, FIRST + 7)


@jitted
def begin(call_frame):
  place = started(call_frame, IN)
  job = words(place)
  plan = ints(job[PLAN])
  # A kernel is summed over shares of the images that do not depend on which thread takes them.
  blocks = (plan[word.IMAGES] + plan[word.BLOCK] - 1) // plan[word.BLOCK]
  pieces = blocks * plan[word.SHARES]
  job[ITEMS] = min(plan[word.THREADS], plan[word.IMAGES]) if plan[word.SUMMED] else pieces
  job[WORKERS] = plan[word.THREADS]
  return place


@jitted
def finish(place):
  """Adds the sums of each share to those of the first, which are in the result."""
  job = words(place)
  plan = ints(job[PLAN])
  if not plan[word.SUMMED]:
    return
  total = floats(job[RESULT])
  for share in range(1, job[ITEMS]):
    more = floats(_sums(job, share))
    for number in range(plan[word.STEP_OUT]):
      total[number] += more[number]


@jitted
def _own(job, seat):
  """The address of a thread's own memory: frames of images, sums over images, and tiles."""
  return job[SCRATCH] + 4 * seat * ints(job[PLAN])[word.OWN]


@jitted
def _sums(job, seat):
  return job[RESULT] if seat == 0 else _own(job, seat) + 4 * ints(job[PLAN])[word.SUMS]


@jitted
def _clear(plan, own):
  """Clears borders of frames, and tiles that are multiplied although no image fills them."""
  llvm.clear(own, plan[word.SUMS])
  llvm.clear(own + 4 * plan[word.TILES], plan[word.OWN] - plan[word.TILES])


def functions(*vectors: int) -> Functions:
  """The job, compiled to make `lanes` output channels at a time."""
  vectors = Vectors(*vectors)
  fill, parts, lanes = filling(vectors), summing(vectors), vectors.lanes
  tiled = tiling(vectors, parts)

  @inlined
  def some(job, plan, seat, start, stop, share):
    """A share of the result for images from `start` to `stop`, as many as there is room for."""
    images, frame = stop - start, _own(job, seat)
    image = 4 * plan[word.HEIGHT] * plan[word.WIDTH] * plan[word.INPUTS]
    x = job[IN] + start * image
    if plan[word.FRAME]:
      for number in range(images):
        fill(plan, x + number * image, frame + 4 * number * plan[word.FRAME])
      x = frame
    w = job[WEIGHTS] + 4 * start * plan[word.STEP_W]
    place = 4 * start * plan[word.STEP_OUT]
    out = _sums(job, seat) if plan[word.SUMMED] else job[RESULT] + place
    bias = job[BIAS] if plan[word.BIAS] else 0
    residual = job[RESIDUAL] + place if plan[word.RESIDUAL] else 0
    channels = plan[word.OUTPUTS] // lanes
    lower = channels * share // plan[word.SHARES]
    upper = channels * (share + 1) // plan[word.SHARES]
    if plan[word.BAND]:
      tiled(plan, job[PLAN], frame, images, x, w, bias, residual, out, lower, upper)
    else:
      parts(plan, job[PLAN], images, x, w, bias, residual, plan[word.RELU], out, lower, upper)

  @inlined
  def work(place):
    job = words(place)
    plan = ints(job[PLAN])
    number = llvm.add(place + 8 * ITEM, 1)
    seat, cleared = llvm.add(place + 8 * SEAT, 1), False
    while number < job[ITEMS]:
      if plan[word.SUMMED]:
        share, seat, cleared = 0, number, False
        first = plan[word.IMAGES] * number // job[ITEMS]
        last = plan[word.IMAGES] * (number + 1) // job[ITEMS]
        llvm.clear(_sums(job, seat), plan[word.STEP_OUT])
      else:
        share = number % plan[word.SHARES]
        first = number // plan[word.SHARES] * plan[word.BLOCK]
        last = min(first + plan[word.BLOCK], plan[word.IMAGES])
      if not cleared:
        _clear(plan, _own(job, seat))
        cleared = True
      for start in range(first, last, plan[word.BLOCK]):
        some(job, plan, seat, start, min(start + plan[word.BLOCK], last), share)
      llvm.add(place + 8 * DONE, 1)
      number = llvm.add(place + 8 * ITEM, 1)

  return Functions(begin, work, finish)
