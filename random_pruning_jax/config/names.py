"""The names that a config may use, known before JAX is imported, which takes a second.

Each table of names is a dict in some file of this package. Its keys are read from the source, so a
new name is written in one file only, and a wrong one is refused at once.
"""

import ast
import functools
import pathlib
from collections.abc import Collection, Iterator

from ml_collections import ConfigDict

from random_pruning_jax.ratios import RATIOS

_PACKAGE = pathlib.Path(__file__).parents[1]


def of(config: ConfigDict) -> Iterator[tuple[str, str, Collection[str]]]:
  """Each field of a config that holds one or several names: (field, name, known names)."""
  scores = keys('scores.py', 'SCORES')
  yield 'pruning.ratio', config.pruning.ratio, (*RATIOS, *scores)
  yield 'pruning.select', config.pruning.select, scores
  yield 'pruning.sampling', config.pruning.sampling, keys('pruning.py', 'SAMPLINGS')
  if not config.model.name.startswith('cifar_resnet'):  # of any depth, which `models` checks
    known = (*keys('models/__init__.py', 'MODELS'), 'cifar_resnet<6n+2>')
    yield 'model.name', config.model.name, known
  for suite in config.evaluation.suites:
    yield 'evaluation.suites', suite, keys('suites/__init__.py', 'SUITES')
  for attack in config.evaluation.attacks:
    yield 'evaluation.attacks', attack, keys('attacks/__init__.py', 'ATTACKS')


@functools.cache
def keys(file: str, table: str) -> tuple[str, ...]:
  """The keys of the dict called `table` in a file of this package, which is not imported."""
  source = _PACKAGE.joinpath(file).read_text(encoding='utf-8')
  for node in ast.parse(source).body:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, 'target', None)]
    if any(isinstance(target, ast.Name) and target.id == table for target in targets):
      return tuple(map(ast.literal_eval, node.value.keys))
  raise LookupError(f'{file} must hold a dict called {table}.')
