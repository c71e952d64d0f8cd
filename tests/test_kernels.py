"""Kernels compiled by Numba: threads and kept machine code change no number."""

import ctypes
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from random_pruning_jax import kernels

if kernels.lacking():
  pytest.skip(f'needs {kernels.lacking()}', allow_module_level=True)

from random_pruning_jax.kernels import (
  dense,
  dense_frames,
  dense_plans,
  encoding,
  objects,
  winograd,
  winograd_plans,
)
from random_pruning_jax.kernels.vectors import SHAPES, Vectors

SIZES = dense_frames.Sizes((7, 9, 3), (3, 3, 3, 16), (2, 1), ((1, 1), (1, 1)))


@pytest.mark.parametrize('vectors', [Vectors(16, 32), Vectors(8, 16)])
@pytest.mark.parametrize('threads', [1, 2, 5])
def test_threads_divide_the_images_and_sum_what_each_has_of_a_kernel(threads, vectors):
  rng = np.random.default_rng(0)
  x = jnp.array(rng.normal(size=(11, *SIZES.image)), jnp.float32)
  kernel = jnp.array(rng.normal(size=SIZES.kernel), jnp.float32)

  def convolve(x, kernel):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return lax.conv_general_dilated(x, kernel, SIZES.strides, SIZES.pads, dimension_numbers=numbers)

  y, transpose = jax.vjp(lambda kernel: convolve(x, kernel), kernel)
  plan = dense_plans.forward(11, SIZES, vectors, threads)
  ours = dense._run(plan, vectors, x, dense._by_vectors(kernel, vectors))
  np.testing.assert_allclose(ours, y, atol=1e-5)
  plan = dense_plans.kernel_gradient(11, SIZES, vectors, threads)
  ours = dense._run(plan, vectors, x, y)
  np.testing.assert_allclose(ours, transpose(y)[0], rtol=1e-4, atol=1e-3)
  for _ in range(20):  # whichever thread takes which images, and however many come
    np.testing.assert_array_equal(dense._run(plan, vectors, x, y), ours)


@pytest.mark.parametrize('channels', [16, 32])  # of these, 32 by Winograd's tiles
@pytest.mark.parametrize('images', [1, 2])
def test_threads_divide_the_channels_of_few_images(images, channels):
  rng = np.random.default_rng(0)
  sizes = dense_frames.Sizes((33, 33, 32), (3, 3, 32, channels), (1, 1), ((1, 1), (1, 1)))
  assert winograd_plans.fits(images, sizes) == (channels == 32)
  x, kernel, bias, residual = (
    jnp.array(rng.normal(size=shape), jnp.float32)
    for shape in ((images, *sizes.image), sizes.kernel, channels, (images, *sizes.map))
  )
  vectors = Vectors(8, 16)

  def convolve(threads):
    epilogue = encoding.Epilogue(bias=True, residual=True, relu=True)
    return dense._convolved(x, kernel, sizes, vectors, threads, epilogue, bias, residual)

  y = lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  one = convolve(1)
  np.testing.assert_allclose(one, jnp.maximum(y + bias + residual, 0), atol=1e-4)
  for threads in (2, 3, 8):
    np.testing.assert_array_equal(convolve(threads), one)


@pytest.mark.parametrize('vectors', [Vectors(16, 32), Vectors(8, 16)])
# Several images at once, one, and a part of one.
@pytest.mark.parametrize('high, wide', [(3, 3), (10, 1), (1, 21), (13, 10), (37, 37)])
def test_tiles_make_up_images_of_any_size_and_what_follows_the_convolution(high, wide, vectors):
  rng = np.random.default_rng(0)
  sizes = dense_frames.Sizes((high, wide, 32), (3, 3, 32, 64), (1, 1), ((1, 1), (1, 1)))
  x, kernel, bias, residual = (
    jnp.array(rng.normal(size=shape), jnp.float32)
    for shape in ((11, *sizes.image), sizes.kernel, 64, (11, *sizes.map))
  )
  x = x.at[4].set(jnp.nan)  # which stays with its image
  y = lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  weights = dense._by_vectors(winograd.transform_kernel(kernel), vectors)
  plain = winograd_plans.forward(11, sizes, vectors, 2)
  np.testing.assert_allclose(dense._run(plain, vectors, x, weights), y, atol=1e-4)
  epilogue = encoding.Epilogue(bias=True, residual=True, relu=True)
  plan = winograd_plans.forward(11, sizes, vectors, 2, epilogue)
  found = dense._run(plan, vectors, x, weights, bias, residual)
  np.testing.assert_allclose(found, jnp.maximum(y + bias + residual, 0), atol=1e-4)


@pytest.mark.parametrize('vectors', [Vectors(16, 32), Vectors(8, 16)])
@pytest.mark.parametrize('threads, side', [(1, (5, 5)), (2, (10, 3)), (3, (37, 37))])
def test_a_kernels_gradient_meets_each_tile_once(threads, side, vectors):
  rng = np.random.default_rng(0)
  sizes = dense_frames.Sizes((*side, 40), (3, 3, 40, 32), (1, 1), ((1, 1), (1, 1)))
  x, y = (
    jnp.array(rng.normal(size=(11, *shape)), jnp.float32) for shape in (sizes.image, sizes.map)
  )

  def convolve(kernel):
    return lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  [expected] = jax.linear_transpose(convolve, jnp.zeros(sizes.kernel))(y)
  plan = winograd_plans.kernel_gradient(11, sizes, vectors, threads)
  found = winograd.gradient_of_kernel(dense._run(plan, vectors, x, y))
  np.testing.assert_allclose(found, expected, atol=2e-6 * 11 * math.prod(side))
  for _ in range(5):  # whichever thread takes which images
    np.testing.assert_array_equal(
      winograd.gradient_of_kernel(dense._run(plan, vectors, x, y)), found
    )


def test_tiles_round_no_worse_than_products_one_by_one():
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(8, 16, 16, 64)), rng.normal(size=(3, 3, 64, 64))
  windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
  exact = np.einsum('nhwcij,ijco->nhwo', windows, kernel)
  x, kernel = jnp.array(x, jnp.float32), jnp.array(kernel, jnp.float32)
  sizes = dense_frames.Sizes(x.shape[1:], kernel.shape, (1, 1), ((0, 0), (0, 0)))
  vectors = dense.filled(64)
  by_tiles = dense._run(
    winograd_plans.forward(8, sizes, vectors, 2),
    vectors,
    x,
    dense._by_vectors(winograd.transform_kernel(kernel), vectors),
  )
  one_by_one = dense._run(
    dense_plans.forward(8, sizes, vectors, 2), vectors, x, dense._by_vectors(kernel, vectors)
  )
  error = lambda y: np.sqrt(np.mean((np.asarray(y) - exact) ** 2))  # noqa: E731
  assert error(by_tiles) < error(one_by_one)
  assert error(by_tiles) < 1e-6 * np.sqrt(np.mean(exact**2))


@pytest.fixture(scope='module', params=[Vectors(16, 32), Vectors(8, 16)])
def transpose(request):
  import numba

  from random_pruning_jax.kernels.transpose import transposing

  inner = transposing(request.param)
  return numba.njit(lambda *arguments: inner(*arguments))


@pytest.mark.parametrize('channels', [1, 8, 19, 40])
@pytest.mark.parametrize('pixels', [1, 4, 7, 8, 13, 16, 35])
def test_pixels_of_channels_are_transposed_to_channels_of_pixels(transpose, pixels, channels):
  line = np.arange(2 * pixels * channels, dtype=np.float32).reshape(pixels, 2, channels)
  transposed = np.full((channels, pixels + 3), -1, np.float32)
  every_second = 2 * channels
  transpose(transposed.ctypes.data, pixels + 3, line.ctypes.data, every_second, pixels, channels)
  np.testing.assert_array_equal(transposed[:, :pixels], line[:, 0].T)
  np.testing.assert_array_equal(transposed[:, pixels:], -1)  # and nothing beyond them


def test_machine_code_is_kept_and_what_was_damaged_is_made_again(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  made = []

  def make():
    import numba

    made.append(1)
    return numba.cfunc(numba.types.int64(numba.types.int64))(lambda number: number + 41)

  def answer():
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(objects.address('more', make))
    return function(1)

  assert (answer(), len(made)) == (42, 1)
  assert (answer(), len(made)) == (42, 1)
  [file] = tmp_path.glob('*/kernels/*/more')
  file.write_bytes(file.read_bytes()[:-1])
  assert (answer(), len(made)) == (42, 2)
  assert (answer(), len(made)) == (42, 2)


USES = {
  'dense': 'print(convolution.by_kernels(ones, taps, (1, 1), "SAME", **order).sum())',
  'sums': 'print(sums.sums(ones, ones).sum())',
  'kept': 'print(kept.call(kept.layer(np.ones((8, 8)), (4, 8), 1, 0), ones[0, 0, :4]).sum())',
}


def _used(*called, before='', **environment):
  """What a process prints that calls these kernels, and whether it imported Numba."""
  calls = '\n'.join(USES[name] for name in called)
  script = f"""
import sys
import jax.numpy as jnp, numpy as np
from random_pruning_jax.models import convolution
from random_pruning_jax.kernels import kept, sums
ones, taps = jnp.ones((2, 4, 4, 8)), jnp.ones((3, 3, 8, 4))
order = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))
{before}
{calls}
print('numba' in sys.modules)
"""
  given = os.environ | environment
  alone = {'start_new_session': True}  # so that it can signal all that it starts
  return subprocess.run(
    [sys.executable, '-c', script], env=given, capture_output=True, text=True, timeout=120, **alone
  )


def test_a_later_process_does_not_import_numba():
  # The first may have found no machine code of earlier ones.
  *first, _ = _used(*USES).stdout.split()
  *later, imported = _used(*USES).stdout.split()
  assert first == later and len(later) == len(USES) and imported == 'False'


def test_nor_does_a_first_one_which_waits_for_a_process_that_does_and_may_be_interrupted(tmp_path):
  interrupted = """
import os, signal, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
threading.Timer(1, os.killpg, (os.getpid(), signal.SIGINT)).start()  # as Ctrl-C does
try:
  sums.sums(ones, ones).block_until_ready()
except KeyboardInterrupt:
  print('interrupted')
"""
  said = _used('sums', before=interrupted, XDG_CACHE_HOME=str(tmp_path)).stdout.split()
  assert said == ['interrupted', '512.0', 'False']
  assert sorted(file.name for file in tmp_path.glob('*/kernels/*/random*')) == [
    'random_pruning_jax_sums',
    'random_pruning_jax_sums_helper',
  ]


def test_a_process_can_wait_for_kernels_before_it_calls_them(tmp_path):
  begun = """
from random_pruning_jax import kernels
from random_pruning_jax.kernels import jobs
jobs.begin(('sums',))
for _ in range(2):
  kernels.wait(print)
  print(jobs.stored(('sums',)))
"""
  first, *rest = _used('sums', before=begun, XDG_CACHE_HOME=str(tmp_path)).stdout.splitlines()
  assert first == 'compiling kernels for this processor, once'
  assert rest == ['True', 'True', '512.0', 'False']


def test_a_process_ends_although_a_call_waits(tmp_path):
  waiting = """
import jax
jax.config.update('jax_cpu_enable_async_dispatch', True)
waits = jax.jit(lambda x: sums.sums(x @ x @ x, x))(jnp.ones((512, 512)))
sys.exit('ended')
"""
  found = _used('sums', before=waiting, XDG_CACHE_HOME=str(tmp_path))
  assert found.returncode == 1 and 'ended' in found.stderr


HELD_UP = {
  'killed': "jobs.begin(('sums',)); jobs._processes['sums',].kill()",
  'late': 'jobs.PATIENCE = 0.1',
}


@pytest.mark.parametrize('how', HELD_UP)
def test_where_the_other_process_is_held_up_this_one_compiles(tmp_path, how):
  before = f'from random_pruning_jax.kernels import jobs\n{HELD_UP[how]}'
  found = _used('sums', before=before, XDG_CACHE_HOME=str(tmp_path))
  assert found.stdout.split() == ['512.0', 'True'], found.stderr


def test_where_no_file_can_be_handed_over_a_process_compiles_for_itself(tmp_path):
  (tmp_path / 'random_pruning_jax').write_text('a file where the directory would be')
  assert _used('sums', XDG_CACHE_HOME=str(tmp_path)).stdout.split() == ['512.0', 'True']


@pytest.mark.parametrize('switch', ['OPT', 'BOUNDSCHECK'])
def test_slow_code_for_debugging_is_kept_apart(monkeypatch, switch):
  usual = objects.version.__wrapped__()
  monkeypatch.setenv(f'NUMBA_{switch}', '0' if switch == 'OPT' else '1')
  assert objects.version.__wrapped__() != usual


@pytest.mark.parametrize('broken', ['numba', 'llvmlite', 'jit'])
def test_a_numba_that_is_too_old_or_broken_is_left_alone_and_named(tmp_path, broken):
  if broken == 'numba':
    (tmp_path / 'numba-0.63.1.dist-info').mkdir()
    (tmp_path / 'numba-0.63.1.dist-info' / 'METADATA').write_text('Name: numba\nVersion: 0.63.1\n')
    (tmp_path / 'numba').mkdir()
    (tmp_path / 'numba' / '__init__.py').write_text('raise ImportError')
  elif broken == 'llvmlite':
    (tmp_path / 'llvmlite.py').write_text('raise ImportError("no symbol")')
  code = 'from random_pruning_jax.models import convolution; print(convolution.fastest().__name__)'
  found = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    env=os.environ | {'PYTHONPATH': str(tmp_path), 'NUMBA_DISABLE_JIT': f'{broken == "jit":d}'},
    check=True,
  )
  assert found.stdout == 'by_pieces\n'
  assert found.stderr.count('convolutions go without the kernels for CPUs') == 1
  why = {'numba': 'or newer, not 0.63.1', 'llvmlite': 'no symbol', 'jit': 'NUMBA_DISABLE_JIT'}
  assert why[broken] in found.stderr


def test_a_call_whose_machine_code_cannot_be_made_fails_with_the_reason(tmp_path):
  (tmp_path / 'numba.py').write_text('raise ImportError("Numba needs another NumPy")')
  found = _used('sums', XDG_CACHE_HOME=str(tmp_path / 'cache'), PYTHONPATH=str(tmp_path))
  assert found.returncode == 1 and not found.stdout
  assert 'INTERNAL: kernels for CPUs are lacking: ImportError: Numba needs another NumPy' in (
    found.stderr
  )


@pytest.mark.parametrize(
  'features, registers',
  [('+avx2,+fma,+avx512f', 32), ('+avx2,+fma,-avx512f', 16), ('+avx2', 0), ('+neon', 0)],
)
def test_the_dense_kernel_is_for_processors_with_avx512_or_avx2(monkeypatch, features, registers):
  monkeypatch.setenv('NUMBA_CPU_FEATURES', features)
  assert kernels.registers() == registers


@pytest.mark.skipif(
  kernels.registers() != 32, reason='needs AVX-512: without it, this is what all other tests run'
)
def test_machine_code_for_avx2_alone_gives_the_same_convolution():
  script = """
import jax, jax.numpy as jnp, numpy as np
from random_pruning_jax import kernels
from random_pruning_jax.models import convolution
assert kernels.registers() == 16 and convolution.fastest() is convolution.by_kernels
rng = np.random.default_rng(0)
for pixels, channels, out, stride in ((15, 8, 24, 1), (14, 16, 8, 2), (19, 32, 40, 1)):
  x = jnp.array(rng.normal(size=(3, pixels, pixels, channels)), jnp.float32)
  kernel = jnp.array(rng.normal(size=(3, 3, channels, out)), jnp.float32)
  def results(conv):
    options = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}
    y, back = jax.vjp(lambda x, k: conv(x, k, (stride, stride), [(1, 1)] * 2, **options), x, kernel)
    return y, *back(jnp.sin(y))
  for ours, xla in zip(results(convolution.by_kernels), results(jax.lax.conv_general_dilated)):
    np.testing.assert_allclose(ours, xla, atol=2e-3)
"""
  haswell = {'NUMBA_CPU_NAME': 'haswell', 'NUMBA_CPU_FEATURES': '+avx2,+fma,+bmi2'}
  subprocess.run([sys.executable, '-c', script], check=True, env=os.environ | haswell)


def test_a_line_falls_into_the_fewest_shapes_and_of_those_the_most_even():
  def lengths(pixels, wide, registers):
    numbers = encoding.shapes(pixels, wide, registers)
    assert {SHAPES[registers][number][1] for number in numbers} == {wide}
    return [SHAPES[registers][number][0] for number in numbers]

  assert lengths(16, 1, 32) == [16]
  assert lengths(16, 2, 32) == [8, 8]  # 14 and 2 are as few, and less even
  assert lengths(32, 2, 32) == [12, 12, 8]
  assert lengths(7, 2, 16) == [4, 3]
  assert all(sum(lengths(n, w, r)) == n for n in range(1, 200) for w in (1, 2) for r in (16, 32))
