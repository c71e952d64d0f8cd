"""The words of a plan, in which `encoding` tells `dense_jobs` what to compute.

They are int32. A plan consists of its head, its parts and their tables.
"""

# Of the head.
(
  THREADS,
  IMAGES,
  HEIGHT,  # of an image of x, as are the two after it
  WIDTH,
  INPUTS,
  TOP,  # zeros around it, in its frame
  LEFT,
  HIGH,  # of the frame
  WIDE,
  FRAME,  # floats of the frame, 0 for none
  PLANES,  # among which its columns are divided (`dense_frames.Frame`); 0 for none
  PLANE,  # columns of a plane
  FILLED,  # how many planes are filled
  EACH,  # step between the rows that are copied
  BLOCK,  # images at once
  SHARES,  # among which channels of the result are divided, if images are fewer than threads
  OUTPUTS,  # channels of the result
  NEXT_W,  # floats from one vector of w to the next
  STEP_W,  # floats from one image of w to the next
  STEP_OUT,  # floats from one image of the result to the next
  SUMMED,  # whether the result is a sum over images
  CHUNK,  # taps at once
  DEPTH,  # products of a tap at once
  ZEROS,  # where in the plan zeros are
  BIAS,  # whether a number for each channel is added
  RESIDUAL,  # whether an array like the result is added
  RELU,  # whether ReLU follows
  OWN,  # floats of each thread's own memory: frames, sums over images, tiles
  SUMS,  # where in it the sums are
  TILES,  # and the tiles
  BAND,  # lines of tiles at once, where the result is made of tiles; else 0
  DOWN,  # lines of tiles in all
  ACROSS,  # tiles of a line
  MAP_HIGH,  # of the result
  MAP_WIDE,
  X_POSITION,  # floats from one of a tile's 16 numbers to the next, before they are multiplied
  OUT_POSITION,  # the same after they are multiplied
  PARTS,  # how many
  HEAD,  # words of the head
) = range(39)

# Of a part: `lines` of `pixels` of the result, each with `taps` of `count` products.
(
  LINES,
  PIXELS,
  TAPS,
  COUNT,
  X,  # where it begins in an image of x, or in its frame
  X_LINE,  # floats from line to line there
  X_STEP,  # floats from product to product
  X_HALF,  # floats to the second half of the pixels, where that is a line of its own
  OUT,  # where it begins in the result, and the steps there
  OUT_LINE,
  OUT_PIXEL,
  OUT_HALF,
  ROW,  # floats of w from product to product
  PLACES,  # where in the plan the table of the taps in x is
  ROWS,  # and that of the taps in w
  BY_TWO,  # where the shapes that make up a line are, for two vectors of channels
  BY_ONE,  # and for one
  PART,  # words of a part
) = range(18)
