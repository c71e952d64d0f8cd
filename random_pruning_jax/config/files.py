"""Functions of config and sweep files, which are Python files outside any package."""

import contextlib
import inspect
import math
import pathlib
import runpy
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from random_pruning_jax.config.checks import check_field, value_of


def function_of(path: str | pathlib.Path, name: str) -> Callable[..., Any]:
  """`get_config` or `get_sweep` of the file at `path`. Raises ValueError where there is none.

  Errors that the file itself raises become ValueErrors too: see `located`.
  """
  if not pathlib.Path(path).is_file():
    raise ValueError(f'--config must name a Python file; there is no {path}.')
  with located(path):
    found = runpy.run_path(str(path)).get(name)
  if found is None:
    raise ValueError(f'{path} must define {name}().')
  return found


@contextlib.contextmanager
def located(path: str | pathlib.Path) -> Iterator[None]:
  """Turns any error inside into a ValueError of one line that names the line of the file `path`."""
  try:
    yield
  except Exception as error:
    text = ' '.join(str(error).split())
    said = isinstance(error, ValueError)
    if said and str(path) in text:
      raise
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f'{path}, line {lines[-1]}' if lines else path
    raise ValueError(f'{where}: {text if said else f"{type(error).__name__}: {text}"}') from error


def beside(file: str, path: str) -> Callable[..., Any]:
  """`get_config` of a file named relative to another: `beside(__file__, '../cifar.py')`."""
  return function_of((pathlib.Path(file).parent / path).resolve(), 'get_config')


def number(kind: type, text: str, wanted: str, least: float = -math.inf) -> Any:
  """A part of a file's argument as an int or a float: `number(int, 'x', 'BATCH must be ...')`.

  Raises ValueError, with what was wanted, where it is none or less than `least`.
  """
  try:
    value = kind(text)
  except ValueError as error:
    raise ValueError(f'{wanted}, got {text!r}.') from error
  if value < least:
    raise ValueError(f'{wanted}, got {text!r}.')
  return value


def made_by(function: Callable[..., Any], path: str, argument: str) -> Any:
  """What a file's function returns for an argument, or without one.

  Raises ValueError where it takes none or needs one, and where it raises or returns nothing.
  """
  try:
    inspect.signature(function).bind(*filter(None, [argument]))
  except TypeError as error:
    wanted = f'takes no argument, got {argument!r}' if argument else 'needs one, as FILE:ARGUMENT'
    raise ValueError(f'{path} {wanted}.') from error
  with located(path):
    found = function(argument) if argument else function()
  if found is None:
    raise ValueError(f'{function.__name__}() of {path} must return something, got None.')
  return found


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
  """The config with fields changed by arguments like '--config.pruning.density=0.5'.

  Raises ValueError for another argument, a field that is not there and a value of another type.
  """
  for argument in overrides:
    field, value = _parts(config, argument)
    values = flags.FlagValues()
    argv = ['random-pruning', argument]
    config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=argv)
    try:
      values(argv)
    except (flags.Error, TypeError, ValueError) as error:
      raise _wrong_type(config, field, value) from error
    config = values.config
  return config


def argument(field: str, value: Any) -> str:
  """The override that sets a field to a value of a flat config; lists become tuples again."""
  return f'--config.{field}={tuple(value) if isinstance(value, list) else value}'


def _parts(config: ConfigDict, argument: str) -> tuple[str, str]:
  name, equals, value = argument.partition('=')
  if not name.startswith('--config.') or not equals:
    raise ValueError(f'unknown argument {argument}; overrides look like --config.seed=1.')
  field = name.removeprefix('--config.')
  check_field(config, field)
  return field, value


def _wrong_type(config: ConfigDict, field: str, value: Any) -> ValueError:
  kind = type(value_of(config, field)).__name__
  return ValueError(f'config.{field} must be of type {kind}, got {value!r}.')


def changed(config: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
  """A copy that differs in some fields: `changed(base, {'seed': 1, 'pruning.density': 0.2})`.

  Raises ValueError for a field that is not there and a value of another type.
  """
  copy = ConfigDict(config.to_dict())
  for field, value in fields.items():
    check_field(copy, field)
    try:
      copy.update_from_flattened_dict({field: value})
    except TypeError as error:
      raise _wrong_type(copy, field, value) from error
  return copy
