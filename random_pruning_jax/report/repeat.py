"""The command that makes a run again, from its config alone."""

import shlex
from typing import Any

from random_pruning_jax import config as config_lib
from random_pruning_jax.config import files as config_files
from random_pruning_jax.report.runs import Run

BASE = 'configs/cifar.py'  # whose config, without arguments, is the default one
ATTACKS = 'evaluation.attacks.'


def command(run: Run) -> str:
  """Checks out the run's commit, where it is known, and trains its config."""
  usual = config_lib.flat(config_lib.default())
  # Compared by whole names: fields of 'evaluation.' stay, since the command evaluates too.
  changes = [
    config_files.argument(name, value)
    for name, value in sorted(run.config.items())
    if name in usual and value != usual[name] and name not in config_lib.NOT_COMPARED
  ]
  commit = str(run.row.get('commit') or '').removesuffix('+')
  lines = [f'random-pruning train --config={BASE}', *map(shlex.quote, changes)]
  checkout = [f'git checkout {shlex.quote(commit)}'] if commit else []
  again = ' \\\n  '.join([*lines, '--workdir=runs/again'])
  place = run.config.get('data_dir')  # of one machine, and so no argument of the command
  lay = [f'# its data lay in {place}; --config.data_dir says where they lie here'] if place else []
  return '\n'.join([*checkout, again, *lay, *_unsaid(run.config, usual)])


def _unsaid(config: dict[str, Any], usual: dict[str, Any]) -> list[str]:
  """A line of the attacks and settings that only one config has, which no argument can say."""
  if 'evaluation.attacked_images' not in config:  # a row older than the attacks of a config
    return []
  names = sorted(name for name in config.keys() ^ usual.keys() if name.startswith(ATTACKS))
  words = [f'{n}={config[n]!r}' if n in config else f'no {n}' for n in names]
  return [f'# no argument says this of its config: {", ".join(words)}'] if words else []
