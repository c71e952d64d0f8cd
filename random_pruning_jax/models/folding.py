"""At evaluation on CPUs, a convolution also does what follows it, before it writes its result.

BatchNorm with running statistics is a factor and a bias for each channel. The factor is multiplied
into the weights. The bias, an added shortcut and ReLU cost nothing while sums are still in
registers; as separate operations they take a pass over memory. The program of a function is
rewritten, so networks need no change.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from random_pruning_jax.models import convolution

CONVOLUTION = 'convolve'  # the primitive of `kernels.dense`: nothing else is folded


class _Chain(NamedTuple):
  """Equations that one call replaces: a convolution, then each the only reader of the last."""

  equations: tuple[int, ...]  # where they are, in the program's order
  channels: tuple[tuple[str, Any], ...]  # 'add', 'sub' or 'mul', and numbers [1, 1, 1, C]
  residual: Any | None  # what is added, of the result's shape
  relu: bool  # max(y, 0)


def evaluation(model: nn.Module, **options: Any) -> Callable:
  """The function of variables and images [N, H, W, C] `model.apply(..., **options)`, folded.

  Unless the model's convolution is `convolution.by_kernels`, nothing is folded.
  """
  apply = functools.partial(model.apply, **options)
  by_kernels = getattr(model, 'conv_general_dilated', None) is convolution.by_kernels
  return folded(apply) if by_kernels else apply


def folded(function: Callable) -> Callable:
  """`function` of arrays, to rounding; each `convolution.by_kernels` does what follows it too.

  The result can be differentiated to any order, in both modes. A `jax.custom_vjp` inside behaves as
  in JAX, but must not close over a traced value.
  """

  def run(*arguments):
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    found = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(arguments))
    return jax.tree.unflatten(jax.tree.structure(shape), found)

  return run


def _evaluate(program: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
  known = dict(zip((*program.constvars, *program.invars), (*constants, *arguments), strict=True))

  def value(atom):
    return atom.val if isinstance(atom, Literal) else known[atom]

  chains = _chains(program)
  last = {chain.equations[-1]: chain for chain in chains}
  inside = {place for chain in chains for place in chain.equations}
  for place, equation in enumerate(program.eqns):
    if place in last:
      known[equation.outvars[0]] = _finish(program, last[place], value)
    elif place not in inside:
      options = equation.primitive.get_bind_params(equation.params)
      out = equation.primitive.bind(*map(value, equation.invars), **options)
      several = equation.primitive.multiple_results
      known.update(zip(equation.outvars, out if several else [out], strict=True))
  return [value(atom) for atom in program.outvars]


def _finish(program: Jaxpr, chain: _Chain, value: Callable) -> jax.Array:
  from random_pruning_jax.kernels import dense

  equation = program.eqns[chain.equations[0]]
  x, kernel = map(value, equation.invars)
  bias = jnp.zeros(kernel.shape[-1], kernel.dtype)
  for name, atom in chain.channels:
    numbers = value(atom).reshape(-1)
    if name == 'mul':
      kernel, bias = kernel * numbers, bias * numbers
    else:
      bias = bias + numbers if name == 'add' else bias - numbers
  residual = None if chain.residual is None else value(chain.residual)
  return dense.finished(x, kernel, bias, residual, chain.relu, **equation.params)


def _chains(program: Jaxpr) -> list[_Chain]:
  """The chains of all convolutions that something follows; no equation is in two of them."""
  readers: dict[Var, list[int]] = {}
  for place, equation in enumerate(program.eqns):
    for atom in equation.invars:
      if isinstance(atom, Var):
        readers.setdefault(atom, []).append(place)
  ends = set(atom for atom in program.outvars if isinstance(atom, Var))
  taken: set[int] = set()
  found = []
  for place, equation in enumerate(program.eqns):
    if equation.primitive.name == CONVOLUTION:
      chain = _chain(program.eqns, place, readers, ends, taken)
      if len(chain.equations) > 1:
        found.append(chain)
        taken.update(chain.equations)
  return found


def _chain(equations: Sequence[JaxprEqn], place: int, readers, ends, taken) -> _Chain:
  places, channels, residual, relu = [place], [], None, False
  while not relu:
    y = equations[places[-1]].outvars[0]
    after = readers.get(y, [])
    if y in ends or len(after) != 1 or after[0] in taken:
      break
    kind, other = _kind(equations[after[0]], y)
    # After a residual, only ReLU can be folded.
    if not kind or (residual is not None and kind != 'relu'):
      break
    if kind == 'relu':
      relu = True
    elif kind == 'residual':
      residual = other
    else:
      channels.append((kind, other))
    places.append(after[0])
  return _Chain(tuple(places), tuple(channels), residual, relu)


def _kind(equation: JaxprEqn, y: Var) -> tuple[str, Any]:
  """'add', 'sub', 'mul' (of channels), 'residual' or 'relu', and what else it reads; or ''."""
  if _is_relu(equation):
    return 'relu', None
  name = equation.primitive.name
  if name not in ('add', 'sub', 'mul') or equation.invars.count(y) != 1:
    return '', None
  other = equation.invars[1 - equation.invars.index(y)]
  if other.aval.dtype != y.aval.dtype or (name == 'sub' and equation.invars[1] is y):
    return '', None
  if other.aval.shape == (1, 1, 1, y.aval.shape[-1]):
    return name, other
  return ('residual', other) if name == 'add' and other.aval.shape == y.aval.shape else ('', None)


def _is_relu(equation: JaxprEqn) -> bool:
  """Whether it is jax.nn.relu with its own derivative, inside any number of calls.

  At y = 0 the derivative of a bare max is one half; of relu, and of what replaces it, it is 0.
  """
  if len(equation.invars) != 1:
    return False
  if equation.primitive.name == 'custom_jvp_call':
    x = equation.invars[0].aval  # which says over which devices it varies, under shard_map
    options = equation.primitive.get_bind_params(equation.params)
    return _slope(functools.partial(equation.primitive.bind, **options), x) == _of_relu(x)
  if equation.primitive.name != 'jit':
    return False
  inner = equation.params['jaxpr'].jaxpr
  ends = len(inner.eqns) == 1 and inner.outvars == inner.eqns[0].outvars
  return ends and _is_relu(inner.eqns[0])


def _slope(function: Callable, x: Any) -> str:
  """The program of `function` of an array like `x` and of its derivative, as text."""
  leaf = lambda x: jax.tree.leaves(function(x))[0]  # noqa: E731
  return str(jax.make_jaxpr(lambda x, dx: jax.jvp(leaf, (x,), (dx,)))(x, x))


@functools.cache
def _of_relu(x: Any) -> str:
  return _slope(jax.nn.relu, x)
