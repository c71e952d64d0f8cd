"""Commands in the documentation can be typed as they stand."""

import functools
import importlib
import pathlib
import re
import shlex

import pytest
from PIL import Image

from random_pruning_jax import main
from random_pruning_jax.commands import sweep
from random_pruning_jax.config import files as config_files

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
  path for path in [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))] if path.exists()
]


def commands(path):
  """The `random-pruning` commands of a page's bash and indented blocks, as lists of words."""
  text = path.read_text()
  blocks = re.findall(r'```bash\n(.*?)```', text, flags=re.DOTALL)
  for block in blocks + re.findall(r'^ {4}random-pruning .*$', text, flags=re.MULTILINE):
    for line in block.replace('\\\n', ' ').splitlines():
      for part in line.split('&&'):
        words = shlex.split(part, comments=True)
        if 'random-pruning' in words:
          yield words[words.index('random-pruning') + 1 :]


COMMANDS = [
  pytest.param(words, id=f'{path.name}: {" ".join(words)}')
  for path in PAGES
  for words in commands(path)
]


@functools.cache
def sweep_of(config, *overrides):
  """Loaded once for all commands of it, since some are of hundreds of configs."""
  return sweep.load_sweep(config, overrides)


@pytest.mark.parametrize('words', COMMANDS)
def test_every_command_parses_and_its_config_loads(words, monkeypatch):
  monkeypatch.chdir(ROOT)
  args, rest = main._parser(words).parse_known_args(words)
  if not hasattr(args, 'config'):
    assert all(argument.startswith('--config.') for argument in rest)
    assert not rest or args.takes_config
    return
  if args.command == 'sweep':
    assert sweep_of(args.config, *rest)
    return
  path, _, argument = args.config.partition(':')
  get_config = config_files.function_of(path, 'get_config')
  config_files.override(get_config(argument) if argument else get_config(), rest)


@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path):
  prose = re.sub(r'```.*?```', '', path.read_text(), flags=re.DOTALL)
  for target in re.findall(r'\]\((?!https?:|#)([^)#\s]+)', prose):
    assert (path.parent / target).exists(), target


@pytest.mark.parametrize('name', main.COMMANDS)
def test_every_command_is_a_file(name):
  module = importlib.import_module(f'random_pruning_jax.commands.{name.replace("-", "_")}')
  assert module.add_arguments and module.run


# Commands run as typed, but on shrunk configs, with a sweep's first run and the cheapest suite. A
# sweep's networks are then one, which has been compiled for the first command.
CHEAPEST = '--config.evaluation.suites=("calibration",)'
CHANGES = {
  'train': ['--config.smoke=true', CHEAPEST],
  'sweep': ['--shard=1/63', '--config.smoke=true', CHEAPEST],
  'evaluate': ['--suite=calibration'],
  **dict.fromkeys(('plan', 'verify', 'compare', 'export', 'report', 'prepare'), ()),
}


def can_run(words):
  """False for those that download a data set, or need one."""
  whole = ' '.join(words)
  if words[0] in ('sweep', 'report'):
    return 'digits' in whole
  return words[0] in CHANGES and (words[0] != 'prepare' or '--image-folder' in whole)


def test_the_commands_of_the_pages_run_one_after_the_other(tmp_path, monkeypatch):
  """As a reader of all pages would run them: each page finds what the one before made."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  for name in ('cat', 'dog'):
    (tmp_path / 'DIR' / 'train' / name).mkdir(parents=True)
    Image.new('RGB', (40, 30), 'red').save(tmp_path / 'DIR' / 'train' / name / '1.jpg')
  ran = set()
  for page in ('README', 'quick-start', 'sweeps', 'evaluation', 'data'):
    [path] = [path for path in PAGES if path.stem == page]
    for words in filter(can_run, commands(path)):
      kept = [word for word in words if not word.startswith('--suite=')]
      assert main.main([*kept, *CHANGES[words[0]]]) == 0, f'{page}: {" ".join(words)}'
      ran.add(words[0])
  assert ran == set(CHANGES)
