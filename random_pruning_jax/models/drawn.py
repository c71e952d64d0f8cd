"""Draws many initial kernels as one array, with the same numbers as each by itself.

On a CPU, XLA compiles each draw by itself, and loads each again at every later start: for a
ResNet-20 that took 3 s and 0.6 s. The program of `init` is rewritten, so networks need no change.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal, Primitive, Var
from jax.interpreters import batching, mlir

SHORT = 1 << 16  # most numbers of a row that is longer than its draw needs
LONGER = 4  # at most so many times as long
MOST = 1 << 24  # numbers of one array, at most


def normal(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
  """`jax.random.normal`, for `batched` to find."""
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  return _row.bind(key, length=math.prod(shape), dtype=jnp.dtype(dtype)).reshape(shape)


def _draw(key, *, length, dtype):
  return jax.random.normal(key, (length,), dtype)


def _draw_each(keys, axes, **options):
  [keys], [axis] = keys, axes
  return jax.vmap(functools.partial(_draw, **options), axis)(keys), 0


# A primitive stays one equation until it is compiled; JAX's own would be traced for each length.
_row = Primitive('random_pruning_jax_normal')
_row.def_abstract_eval(
  lambda key, *, length, dtype: key.update(shape=(length,), dtype=dtype, weak_type=False)
)
_row.def_impl(jax.jit(_row.bind, static_argnames=('length', 'dtype')))
mlir.register_lowering(_row, mlir.lower_fun(_draw, multiple_results=False))
batching.primitive_batchers[_row] = _draw_each


def batched(init: Callable[[jax.Array], Any]) -> Callable[[jax.Array], Any]:
  """key -> `init(key)`, to rounding; computes only what the result needs.

  A draw's key must not depend on another draw. Keys of generators other than threefry, whose draws
  change under `vmap`, are given to `init` as they are.
  """

  def run(key):
    if str(jax.random.key_impl(key)) != 'threefry2x32':
      return init(key)
    # A new function each time, so that JAX does not reuse an earlier program of `init`.
    closed, shapes = jax.make_jaxpr(lambda key: init(key), return_shape=True)(key)
    program = closed.jaxpr
    [given] = program.invars
    known = dict(zip(program.constvars, closed.consts, strict=True)) | {given: key}
    made_by = {var: equation for equation in program.eqns for var in equation.outvars}
    folded = [var for var, equation in made_by.items() if _folds(equation, given)]
    groups = _groups([var for var, equation in made_by.items() if equation.primitive is _row])

    def value(atom: Var | Literal) -> Any:
      if isinstance(atom, Literal):
        return atom.val
      if atom not in known:
        equation = made_by[atom]
        if _folds(equation, given):
          numbers = [value(made_by[var].invars[1]) for var in folded]
          keys = jax.vmap(lambda number: _compute(equation, key, number)[0])(jnp.stack(numbers))
          known.update(zip(folded, keys, strict=True))
        elif equation.primitive is _row:
          group = next(group for group in groups if atom in group)
          keys = jnp.stack([value(made_by[var].invars[0]) for var in group])
          longest = group[0].aval
          draw = functools.partial(_draw, length=longest.size, dtype=longest.dtype)
          rows = jax.vmap(draw)(keys)
          known.update((var, row[: var.aval.size]) for var, row in zip(group, rows, strict=True))
        else:
          found = _compute(equation, *map(value, equation.invars))
          known.update(zip(equation.outvars, found, strict=True))
      return known[atom]

    return jax.tree.unflatten(jax.tree.structure(shapes), list(map(value, program.outvars)))

  return run


def _groups(draws: Sequence[Var]) -> list[list[Var]]:
  """Groups of draws that become rows of one array, as long as the group's first.

  Under jax_threefry_partitionable, JAX's default, a number depends only on the key and on its place
  in the row, so a short row is the beginning of a long one.
  """
  groups: list[list[Var]] = []
  for var in sorted(draws, key=lambda var: -var.aval.size):
    if groups and _fits(var, groups[-1]):
      groups[-1].append(var)
    else:
      groups.append([var])
  return groups


def _fits(var: Var, group: Sequence[Var]) -> bool:
  length, needed = group[0].aval.size, var.aval.size
  cut = jax.config.jax_threefry_partitionable and length <= min(SHORT, LONGER * needed)
  alike = group[0].aval.dtype == var.aval.dtype and (length == needed or cut)
  return alike and (len(group) + 1) * length <= MOST


def _folds(equation: JaxprEqn, key: Var) -> bool:
  """Whether the equation derives a layer's key from the network's."""
  return equation.primitive.name == 'random_fold_in' and equation.invars[0] is key


def _compute(equation: JaxprEqn, *operands: Any) -> Sequence[Any]:
  options = equation.primitive.get_bind_params(equation.params)
  found = equation.primitive.bind(*operands, **options)
  return found if equation.primitive.multiple_results else [found]
