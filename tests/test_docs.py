"""Commands in the documentation can be typed as they stand."""

import importlib
import pathlib
import re
import shlex

import pytest

from random_pruning_jax import config_files, main
from random_pruning_jax.commands import sweep

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
  path for path in [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))] if path.exists()
]


def commands(path):
  """The `random-pruning` commands of a page's bash blocks, as lists of words."""
  for block in re.findall(r'```bash\n(.*?)```', path.read_text(), flags=re.DOTALL):
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


@pytest.mark.parametrize('words', COMMANDS)
def test_every_command_parses_and_its_config_loads(words, monkeypatch):
  monkeypatch.chdir(ROOT)
  args, rest = main._parser(words).parse_known_args(words)
  if not hasattr(args, 'config'):
    assert all(argument.startswith('--config.') for argument in rest)
    assert not rest or args.takes_config
    return
  if args.command == 'sweep':
    assert sweep.load_sweep(args.config, rest)
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


@pytest.mark.parametrize('page', ['README.md', 'docs/quick-start.md'])
def test_the_commands_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
  """As typed, but on shrunk configs; without those that download or train a whole sweep."""
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  monkeypatch.chdir(tmp_path)
  changes = {
    'train': ['--config.smoke=true'],
    'evaluate': ['--suite=calibration'],
    **dict.fromkeys(('plan', 'verify', 'compare', 'export', 'inspect'), ()),
  }
  ran = []
  for words in commands(ROOT / page):
    if words[0] in changes:
      kept = [word for word in words if not word.startswith('--suite=')]
      assert main.main([*kept, *changes[words[0]]]) == 0, ' '.join(words)
      ran.append(words[0])
  assert {'train', 'compare'} <= set(ran)
