"""The words of a plan, in which `kept` tells `kept_jobs` what to compute, and the sizes of vectors.

The words are int32.
"""

LANES = 16  # floats of a vector; a narrower machine takes several registers
VECTORS = 6  # at once: as many sums as fit into the registers of any machine

IMAGES, INPUTS, HEIGHT, WIDTH, ROWS, COLUMNS, STRIDE, PAD = range(8)
OUTPUTS, HIGH, WIDE, THREADS, MODE = range(8, 13)
(
  PHASE,  # rows of a copy that are a stride apart, and so lie together
  SIZE,  # floats of a channel's copies
  ROOM,  # images whose copies there is room for
  TILES,  # of the pixels of a result
  BLOCKS,  # of its channels
) = range(13, 18)

# Modes: nothing to copy; all threads share an image; each thread has its own.
DIRECT, SHARED, ALONE = range(3)
