"""Every benchmark can be asked what it measures, so that none refers to what is gone."""

import importlib
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = {path.stem for path in (ROOT / 'benchmarks').glob('*.py')}
NAMES = sorted(FILES - {'__init__', '__main__', 'torch_peer'})


@pytest.mark.parametrize(
  'name', [name for name in NAMES if name[0] != '_' and name != 'torch_peer']
)
def test_a_benchmark_says_what_it_measures(name, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'path', [str(ROOT), *sys.path])
  benchmark = importlib.import_module(f'benchmarks.{name}')
  with pytest.raises(SystemExit) as ended:
    benchmark.main(['--help'])
  assert ended.value.code == 0
  assert benchmark.__doc__.split('.')[0].split()[0] in capsys.readouterr().out
