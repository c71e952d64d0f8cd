"""Every benchmark can be asked what it measures, so that none refers to what is gone."""

import importlib
import importlib.metadata
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from random_pruning_jax import data, processor

ROOT = pathlib.Path(__file__).parents[1]
FILES = {path.stem for path in (ROOT / 'benchmarks').glob('*.py')}
NAMES = sorted(FILES - {'__init__', '__main__', 'torch_peer', 'traced'})


@pytest.mark.parametrize('name', NAMES)
def test_a_benchmark_says_what_it_measures(name, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'path', [str(ROOT), *sys.path])
  benchmark = importlib.import_module(f'benchmarks.{name}')
  with pytest.raises(SystemExit) as ended:
    benchmark.main(['--help'])
  assert ended.value.code == 0
  assert benchmark.__doc__.split('.')[0].split()[0] in capsys.readouterr().out


def test_networks_that_predict_in_benchmarks_give_numbers(monkeypatch):
  monkeypatch.setattr(sys, 'path', [str(ROOT), *sys.path])
  from benchmarks import file_sizes

  spec = data.SPECS['digits']
  stored = file_sizes.network('cifar_resnet8', 2, spec, 'digits', 0.5)
  logits = stored.model.apply(stored.variables, np.ones((1, *spec.shape), np.float32))
  assert np.isfinite(logits).all()


@pytest.mark.parametrize('words', [('--devices=1',), ('--devices', '1'), ('--devices', '16')])
def test_one_device_is_prepared_for_however_it_is_asked_for(words):
  script = (
    'import os, runpy\n'
    'try:\n'
    '  runpy.run_module("benchmarks", run_name="__main__", alter_sys=True)\n'
    'finally:\n'
    '  print(os.environ.get("XLA_FLAGS", ""))'
  )
  done = subprocess.run(
    [sys.executable, '-c', script, 'none', *words],  # which ends before JAX is needed
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=os.environ | {'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)},
  )
  assert 'usage' in done.stderr
  flags = processor.environment({}, importlib.metadata.version('jaxlib')).get('XLA_FLAGS', '')
  assert done.stdout.strip() == (flags if words[-1] != '16' else '')


def test_a_trace_says_how_long_a_device_worked_and_where_it_waited(monkeypatch):
  monkeypatch.setattr(sys, 'path', [str(ROOT), *sys.path])
  from benchmarks import traced

  operation = {'ph': 'X', 'args': {'hlo_op': 'add'}}
  found = traced.read(
    {
      'traceEvents': [
        {'ph': 'M', 'name': 'process_name'},
        {'ph': 'X', 'name': 'of the host', 'ts': 0, 'dur': 500},
        {**operation, 'name': 'while.3', 'ts': 90, 'dur': 60},
        {**operation, 'name': 'b', 'ts': 105, 'dur': 10},  # while a runs, and beyond it
        {**operation, 'name': 'a', 'ts': 100, 'dur': 10},
        {**operation, 'name': 'a', 'ts': 115.5, 'dur': 4.5},
        {**operation, 'name': 'c', 'ts': 130, 'dur': 10},
      ]
    }
  )
  assert (found.operations, found.whole, found.busy) == (4, 40, 15 + 4.5 + 10)
  assert found.gaps == [(10, 'a', 'c')]
  assert found.longest == [('a', 14.5, 2), ('b', 10, 1), ('c', 10, 1)]
  assert 'busy for 73.8% of it; 1 gaps of more than 1 us, 25.0% together' in traced.text(found)
