"""A convolution and its two gradients by the kernel of `dense_jobs`, for float32 on a CPU.

Each of the three is linear in both operands, and its derivatives are the other two:

    forward(x, kernel) -> y    input_gradient(g, kernel) -> x    kernel_gradient(x, g) -> kernel

so they are primitives of JAX, which may be differentiated to any order, in both modes. `finished`
is the forward one and what follows it in a network at evaluation, in one pass.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad

from random_pruning_jax import kernels
from random_pruning_jax.kernels import dense_plans, pieces, targets, winograd, winograd_plans
from random_pruning_jax.kernels.dense_frames import Sizes
from random_pruning_jax.kernels.encoding import PLAIN, Epilogue, Plan
from random_pruning_jax.kernels.vectors import Vectors

LINE = 256  # pixels, about
NONE = np.zeros(0, np.float32)


def convolve(x: jax.Array, kernel: jax.Array, sizes: Sizes) -> jax.Array:
  """x [N, H, W, C], kernel [h, w, C, O] -> [N, h', w', O], float32."""
  return _forward.bind(x, kernel, sizes=sizes)


def finished(
  x: jax.Array,
  kernel: jax.Array,
  bias: jax.Array,
  residual: jax.Array | None,
  relu: bool,
  sizes: Sizes,
) -> jax.Array:
  """convolve(x, kernel) + bias [O] + residual [N, h', w', O]; with `relu` max(., 0) of that."""
  added = [bias] if residual is None else [bias, residual]
  return _finished.bind(x, kernel, *added, relu=relu, sizes=sizes)


def filled(channels: int) -> Vectors | None:
  """The longest vectors that `channels` fill exactly; None where there are none."""
  registers = kernels.registers()
  lanes = (n for n in ((16, 8) if registers == 32 else (8,)) if channels % n == 0)
  return next((Vectors(n, registers) for n in lanes), None)


def _run(
  plan: Plan,
  vectors: Vectors,
  x: jax.Array,
  w: jax.Array,
  bias: jax.Array = NONE,
  residual: jax.Array = NONE,
) -> jax.Array:
  target = targets.register('dense', *vectors)
  results = (
    jax.ShapeDtypeStruct(plan.shape, np.float32),
    jax.ShapeDtypeStruct((plan.scratch,), np.float32),
  )
  return jax.ffi.ffi_call(target, results)(x, w, plan.words, bias, residual)[0]


def _compute_forward(x, kernel, *, threads, sizes):
  if (vectors := filled(sizes.kernel[3])) is None:
    return pieces.convolve(x, kernel, sizes)
  return _convolved(x, kernel, sizes, vectors, threads)


def _compute_input_gradient(g, kernel, *, threads, sizes):
  if (vectors := filled(sizes.kernel[2])) is None:
    return pieces.input_gradient(g, kernel, sizes)
  if winograd_plans.fits(len(g), sizes):  # as the forward one, with the kernel rotated
    pads = tuple(tuple(2 - pad for pad in side) for side in sizes.pads)
    (*size, inputs, outputs) = sizes.kernel
    back = Sizes(sizes.map, (*size, outputs, inputs), sizes.strides, pads)
    plan = winograd_plans.forward(len(g), back, vectors, threads)
    rotated = winograd.transform_kernel(kernel, rotated=True).swapaxes(2, 3)
    return _run(plan, vectors, g, _by_vectors(rotated, vectors))
  g, lined = _lined(g, sizes.kernel[3], sizes)
  plan = dense_plans.input_gradient(len(g), lined, vectors, threads)
  kernel = _by_vectors(kernel.swapaxes(2, 3), vectors)
  return _run(plan, vectors, g, kernel).reshape(-1, *sizes.image)


def _compute_kernel_gradient(x, g, *, threads, sizes):
  if (vectors := filled(sizes.kernel[3])) is None:
    return pieces.kernel_gradient(x, g, sizes)
  if winograd_plans.fits_gradient(len(x), sizes, threads):
    plan = winograd_plans.kernel_gradient(len(x), sizes, vectors, threads)
    return winograd.gradient_of_kernel(_run(plan, vectors, x, g))
  x, lined = _lined(x, sizes.image[2], sizes)
  return _run(dense_plans.kernel_gradient(len(x), lined, vectors, threads), vectors, x, g)


def _compute_finished(x, kernel, bias, *residual, threads, relu, sizes):
  if (vectors := filled(sizes.kernel[3])) is None:
    y = sum(residual, pieces.convolve(x, kernel, sizes) + bias)
    return jnp.maximum(y, 0) if relu else y
  epilogue = Epilogue(bias=True, residual=bool(residual), relu=relu)
  return _convolved(x, kernel, sizes, vectors, threads, epilogue, bias, *residual)


def _convolved(x, kernel, sizes, vectors, threads, epilogue=PLAIN, *added):
  """The forward convolution, by Winograd's tiles where that is faster."""
  if winograd_plans.fits(len(x), sizes):
    plan = winograd_plans.forward(len(x), sizes, vectors, threads, epilogue)
    kernel = winograd.transform_kernel(kernel)
  else:
    x, lined = _lined(x, sizes.image[2], sizes)
    plan = dense_plans.forward(len(x), lined, vectors, threads, epilogue)
  y = _run(plan, vectors, x, _by_vectors(kernel, vectors), *added)
  return y.reshape(-1, *sizes.map)


def _by_vectors(kernel: jax.Array, vectors: Vectors) -> jax.Array:
  """[h, w, C, O] -> [O / lanes, h w C, lanes]: the weights of one output vector are contiguous."""
  shape = (-1, kernel.shape[-1] // vectors.lanes, vectors.lanes)
  return kernel.reshape(shape).swapaxes(0, 1)


def _lined(x: jax.Array, channels: int, sizes: Sizes) -> tuple[jax.Array, Sizes]:
  """For a 1x1 kernel, images [N, H, W, channels] as more images of one line of about LINE pixels.

  With other kernels, strides or padding, images stay as they are.
  """
  if sizes.kernel[:2] != (1, 1) or sizes.strides != (1, 1) or sizes.pads != ((0, 0), (0, 0)):
    return x, sizes
  high, wide, _ = sizes.image
  lines = max(n for n in range(1, high + 1) if high % n == 0 and (n == 1 or n * wide <= LINE))
  x = x.reshape(-1, 1, lines * wide, channels)
  return x, sizes._replace(image=(1, lines * wide, sizes.image[2]))


_forward = targets.primitive(
  'convolve', _compute_forward, lambda x, kernel, sizes: (x.shape[0], *sizes.map), ('sizes',)
)
_input_gradient = targets.primitive(
  'convolve_input_gradient',
  _compute_input_gradient,
  lambda g, kernel, sizes: (g.shape[0], *sizes.image),
  ('sizes',),
)
_kernel_gradient = targets.primitive(
  'convolve_kernel_gradient', _compute_kernel_gradient, lambda x, g, sizes: sizes.kernel, ('sizes',)
)
_finished = targets.primitive(
  'convolve_and_finish',
  _compute_finished,
  lambda x, *rest, sizes, relu: (x.shape[0], *sizes.map),
  ('sizes', 'relu'),
)

ad.defbilinear(
  _forward,
  lambda ct, x, kernel, sizes: _input_gradient.bind(ct, kernel, sizes=sizes),
  lambda ct, x, kernel, sizes: _kernel_gradient.bind(x, ct, sizes=sizes),
)
ad.defbilinear(
  _input_gradient,
  lambda ct, g, kernel, sizes: _forward.bind(ct, kernel, sizes=sizes),
  lambda ct, g, kernel, sizes: _kernel_gradient.bind(ct, g, sizes=sizes),
)
ad.defbilinear(
  _kernel_gradient,
  lambda ct, x, g, sizes: _input_gradient.bind(g, ct, sizes=sizes),
  lambda ct, x, g, sizes: _forward.bind(x, ct, sizes=sizes),
)


def _finished_jvp(primals, tangents, *, relu, sizes):
  x, kernel, *_ = primals
  y = _finished.bind(*primals, relu=relu, sizes=sizes)
  ways = (
    lambda dx: convolve(dx, kernel, sizes),
    lambda dk: convolve(x, dk, sizes),
    lambda db: jnp.broadcast_to(db, y.shape),
    lambda dr: dr,
  )
  # zip is not strict, since there may be no residual.
  terms = [way(t) for way, t in zip(ways, tangents, strict=False) if type(t) is not ad.Zero]
  dy = sum(terms[1:], terms[0])
  return y, jnp.where(y > 0, dy, 0) if relu else dy


ad.primitive_jvps[_finished] = _finished_jvp
