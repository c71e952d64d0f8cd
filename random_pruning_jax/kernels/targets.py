"""The kernels as JAX knows them: primitives, and targets of XLA's foreign function interface.

Numba is imported by the processes that make machine code (`jobs`), and by others not at all.
"""

import functools
import threading
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from random_pruning_jax.kernels import jobs
from random_pruning_jax.kernels.later import HANDLER, Later
from random_pruning_jax.system import processor

_once = threading.Lock()
_registered: dict[str, Later | None] = {}  # of this process, which keeps them


def threads(context: mlir.LoweringRuleContext) -> int:
  """Cores for each device of a program: threads that share a core would wait for each other."""
  axis = getattr(context.module_context, 'axis_context', None)  # by another name in another JAX
  mesh = getattr(axis, 'mesh', None)
  devices = getattr(axis, 'num_devices', jax.device_count()) if mesh is None else mesh.size
  return max(1, processor.cores() * jax.process_count() // devices)


def primitive(
  name: str,
  compute: Callable[..., jax.Array],
  shape: Callable[..., tuple[int, ...]],
  static_argnames: tuple[str, ...] = (),
) -> Primitive:
  """A JAX primitive that runs `compute(*arrays, threads=..., **parameters)`.

  `shape(*arrays, **parameters)` is that of its result, whose dtype is the first array's.
  """
  made = Primitive(name)

  def alone(*arguments, **parameters):
    return made.bind(*arguments, **parameters)

  alone.__qualname__ = name
  alone._apply_primitive = True  # as JAX marks its own, where its search for a NaN ends
  by_itself = jax.jit(alone, static_argnames=static_argnames)

  def outside_of_jit(*arguments, **parameters):
    with jax.disable_jit(False):  # or `bind` would come here again
      return by_itself(*arguments, **parameters)

  def outline(x, *arguments, **parameters):
    # `update`, so that the result varies over devices as x does.
    return x.update(shape=shape(x, *arguments, **parameters), weak_type=False)

  def rule(context, *arguments, **parameters):
    told = functools.partial(compute, threads=threads(context))
    return mlir.lower_fun(told, multiple_results=False)(context, *arguments, **parameters)

  def one_by_one(arguments, axes, **parameters):
    """Under `vmap`: as many calls as there are members."""
    count = next(x.shape[axis] for x, axis in zip(arguments, axes, strict=True) if axis is not None)
    if not count:
      alone = [
        x if axis is None else jax.ShapeDtypeStruct(x.shape[:axis] + x.shape[axis + 1 :], x.dtype)
        for x, axis in zip(arguments, axes, strict=True)
      ]
      member = jax.eval_shape(functools.partial(made.bind, **parameters), *alone)
      return jnp.zeros((0, *member.shape), member.dtype), 0
    rows = [
      [
        x if axis is None else jax.lax.index_in_dim(x, i, axis, keepdims=False)
        for i in range(count)
      ]
      for x, axis in zip(arguments, axes, strict=True)
    ]
    return jnp.stack([made.bind(*row, **parameters) for row in zip(*rows, strict=True)]), 0

  made.def_impl(outside_of_jit)
  made.def_abstract_eval(outline)
  mlir.register_lowering(made, rule)
  batching.primitive_batchers[made] = one_by_one
  return made


def register(*kind: str | int) -> str:
  """Registers the handler of a kind of job (`jobs`) with XLA, once a process; returns its name.

  Where its machine code must be made first, another process makes it while this one goes on, and
  the first call waits. Raises RuntimeError where XLA speaks another version of the interface.
  """
  target = jobs.target(kind)
  with _once:
    if target not in _registered:
      _registered[target] = _register(target, kind)
  return target


def _register(target: str, kind: jobs.Kind) -> Later | None:
  jobs.begin(kind)
  later = Later(functools.partial(jobs.finish, kind)) if jobs.begun(kind) else None
  function = HANDLER(later.entry if later else jobs.make(kind))
  jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(function), platform='cpu')
  if later:
    later.begin()
  return later
