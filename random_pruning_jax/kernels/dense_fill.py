"""Copies images into the frames that a thread has for them: as they are, or transposed."""

from random_pruning_jax.kernels import dense_words as word
from random_pruning_jax.kernels import llvm
from random_pruning_jax.kernels.llvm import jitted
from random_pruning_jax.kernels.transpose import transposing
from random_pruning_jax.kernels.vectors import Vectors


@jitted
def _copy(plan, source, frame):
  """Copies an image into its frame, whose borders are zeros already."""
  rows = min(plan[word.HEIGHT], plan[word.HIGH] - plan[word.TOP])
  length = min(plan[word.WIDTH], plan[word.WIDE] - plan[word.LEFT]) * plan[word.INPUTS]
  for row in range(rows):
    inside = (row + plan[word.TOP]) * plan[word.WIDE] + plan[word.LEFT]
    line = source + 4 * row * plan[word.WIDTH] * plan[word.INPUTS]
    llvm.move(frame + 4 * inside * plan[word.INPUTS], line, length)


def filling(vectors: Vectors):
  """The compiled function that brings an image into its frame."""
  transpose = transposing(vectors)

  @jitted
  def transposed(plan, source, frame):
    """Channel by channel, with columns that are a stride apart beside each other."""
    planes, inputs = plan[word.PLANES], plan[word.INPUTS]
    rows = min(plan[word.HEIGHT], plan[word.HIGH] - plan[word.TOP])
    columns = min(plan[word.WIDTH], plan[word.WIDE] - plan[word.LEFT])
    pitch = planes * plan[word.PLANE]
    for row in range(0, rows, plan[word.EACH]):
      for first in range(min(plan[word.FILLED], columns)):
        column = first + plan[word.LEFT]
        line = (row + plan[word.TOP]) * inputs * pitch
        transpose(
          frame + 4 * (line + column % planes * plan[word.PLANE] + column // planes),
          pitch,
          source + 4 * (row * plan[word.WIDTH] + first) * inputs,
          planes * inputs,
          (columns - first + planes - 1) // planes,
          inputs,
        )

  @jitted
  def fill(plan, source, frame):
    if plan[word.PLANES]:
      transposed(plan, source, frame)
    else:
      _copy(plan, source, frame)

  return fill
