"""`python -m benchmarks NAME [options]` prints one table of times and ratios."""

import importlib
import importlib.metadata
import pkgutil
import platform
import sys

import benchmarks

PACKAGES = ('jax', 'jaxlib', 'flax', 'numpy', 'numba', 'torch')


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return ''


def main(arguments: list[str]) -> None:
  names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
  names = [name for name in names if name not in ('__main__', 'torch_peer', 'traced')]
  if not arguments or arguments[0] not in names:
    raise SystemExit(f'usage: python -m benchmarks NAME [options]; NAME is {", ".join(names)}.')
  found = [f'{name} {version}' for name in PACKAGES if (version := _version(name))]
  print(', '.join([f'Python {platform.python_version()}', *found]))
  importlib.import_module(f'benchmarks.{arguments[0]}').main(arguments[1:])


main(sys.argv[1:])
