"""`python -m benchmarks NAME [options]` prints one table of times and ratios."""

import importlib
import pkgutil
import platform
import sys

import benchmarks
from random_pruning_jax import processor


def main(arguments: list[str]) -> None:
  if '--devices=1' in arguments:
    processor.prepare()  # before JAX
  import jax

  names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
  names = [name for name in names if name not in ('__main__', 'torch_peer', 'traced')]
  if not arguments or arguments[0] not in names:
    raise SystemExit(f'usage: python -m benchmarks NAME [options]; NAME is {", ".join(names)}.')
  print(f'Python {platform.python_version()}, jax {jax.__version__}')
  importlib.import_module(f'benchmarks.{arguments[0]}').main(arguments[1:])


main(sys.argv[1:])
