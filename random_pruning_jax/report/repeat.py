"""The command that makes a run again, from its config alone."""

import shlex

from random_pruning_jax import config as config_lib
from random_pruning_jax import config_files
from random_pruning_jax.report.runs import Run

BASE = 'configs/cifar.py'  # whose config, without arguments, is the default one


def command(run: Run) -> str:
  """Checks out the run's commit and trains its config; where nothing is known of it, says so."""
  if not run.config:
    return '# a row of an old version, without its config'
  usual = config_lib.flat(config_lib.default())
  changes = [
    config_files.argument(name, value)
    for name, value in sorted(run.config.items())
    if name in usual and value != usual[name] and name not in config_lib.NOT_COMPARED
  ]
  commit = str(run.row.get('commit') or '').removesuffix('+')
  lines = [f'random-pruning train --config={BASE}', *map(shlex.quote, changes)]
  checkout = [f'git checkout {shlex.quote(commit)}'] if commit else []
  return '\n'.join([*checkout, ' \\\n  '.join([*lines, '--workdir=runs/again'])])
