"""What the words of a plan are, by which `encoding` tells `dense_jobs` what to compute.

They are int32. A plan is its head, its parts and their tables.
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
  FRAMED,  # whether there is one
  PLANES,  # into how many its columns are dealt (`dense_frames.Frame`); 0 for none
  PLANE,  # columns of one
  FILLED,  # how many planes are filled
  EACH,  # step between the rows that are copied
  BLOCK,  # images at once
  SHARES,  # of the channels of their result, where there are fewer images than threads
  OUTPUTS,  # channels of the result
  NEXT_W,  # floats from one vector of w to the next
  STEP_W,  # and from one image of w
  STEP_OUT,  # and of the result
  SUMMED,  # whether the result is a sum over images
  CHUNK,  # taps at once
  DEPTH,  # products of each at once
  ZEROS,  # where the plan has some
  BIAS,  # whether numbers for each channel are added,
  RESIDUAL,  # and numbers like the result,
  RELU,  # and whether ReLU follows
  OWN,  # floats that a thread has for itself
  BAND,  # where the result is made of tiles: lines of them at once; else 0
  DOWN,  # lines of tiles in all
  ACROSS,  # tiles of a line
  MAP_HIGH,  # of the result
  MAP_WIDE,
  X_POSITION,  # floats from one of a tile's 16 numbers to the next, before they are multiplied
  OUT_POSITION,  # and after
  PARTS,  # how many
  HEAD,  # words of the head
) = range(37)

# Of a part: `lines` of `pixels` of the result, each with `taps` of `count` products.
(
  LINES,
  PIXELS,
  TAPS,
  COUNT,
  X,  # where it begins in an image of x, or in its frame
  X_LINE,  # steps there: from line to line,
  X_STEP,  # from product to product,
  X_HALF,  # and to the second half of the pixels, where that is a line of its own
  OUT,  # the same in the result
  OUT_LINE,
  OUT_PIXEL,
  OUT_HALF,
  ROW,  # floats of w from product to product
  PLACES,  # where the plan has the table of the taps in x,
  ROWS,  # and in w;
  BY_TWO,  # and the shapes that make up a line, where two vectors of channels are computed,
  BY_ONE,  # or one
  PART,  # words of a part
) = range(18)
