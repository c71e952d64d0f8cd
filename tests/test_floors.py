"""The plan of the house, read off the imports: they only go down."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'random_pruning_jax'
# Everything that is not named here stands on the ground floor, 0.
FLOORS = {
  'main': 3,
  '__main__': 3,
  'commands': 3,
  'train': 2,
  'training': 2,
  'checkpoints': 2,
  'many': 2,
  'run': 2,
  'measure': 2,
  'sweep': 2,
  'report': 2,
  'compare': 2,
  'verify': 2,
  'plan': 2,
  'footprint': 2,
  'export': 2,
  'experiment': 1,
  'pruning': 1,
  'scoring': 1,
  'evaluate': 1,
  'feed': 1,
  'flow': 1,
  'suites': 1,
  'files': 1,
  'predict': 1,
}
FILES = sorted(PACKAGE.rglob('*.py'))
FACE = PACKAGE / '__init__.py'  # hands on what stands above it, once it is asked for


def name_of(path):
  return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


def floor(module):
  return FLOORS.get(module.split('.')[1], 0) if '.' in module else 0


def imported(path):
  """Modules of this package that a file imports, anywhere in it."""
  known = {name_of(file) for file in FILES}
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('random_pruning_jax'):
      for alias in node.names:
        whole = f'{node.module}.{alias.name}'
        yield whole if whole in known else node.module


@pytest.mark.parametrize('path', [file for file in FILES if file != FACE], ids=name_of)
def test_imports_only_go_down(path):
  for module in imported(path):
    assert floor(name_of(path)) >= floor(module), f'{name_of(path)} imports {module}'


def test_no_imports_go_in_a_circle():
  """Except through the `__init__` of a package, which may hand on what is inside."""
  imports = {name_of(path): set(imported(path)) for path in FILES if path != FACE}
  for name, found in imports.items():
    found -= {other for other in found if f'{other}.'.startswith(f'{name}.')}
  graphlib.TopologicalSorter(imports).prepare()  # raises CycleError


def test_pmap_is_said_in_one_file():
  saying = {path.name for path in FILES if '.pmap(' in path.read_text()}
  assert saying == {'parallel.py'}


def test_no_file_imports_tensorflow():
  for path in FILES:
    for node in ast.walk(ast.parse(path.read_text())):
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
      names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
      assert not any(name.split('.')[0] == 'tensorflow' for name in names), path


def test_the_package_is_imported_without_jax():
  script = 'import sys, random_pruning_jax; assert "jax" not in sys.modules'
  subprocess.run([sys.executable, '-c', script], check=True)
