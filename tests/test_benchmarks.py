"""Every benchmark can be asked what it measures, so that none refers to what is gone."""

import argparse
import functools
import importlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import standin
from tiny import tinier_config

import benchmarks
from random_pruning_jax import data

ROOT = pathlib.Path(__file__).parents[1]
FILES = {path.stem for path in (ROOT / 'benchmarks').glob('*.py')}
NAMES = sorted(FILES - {'__init__', '__main__', 'torch_peer', 'traced'})


@pytest.mark.parametrize('name', NAMES)
def test_a_benchmark_says_what_it_measures(name, capsys):
  benchmark = importlib.import_module(f'benchmarks.{name}')
  with pytest.raises(SystemExit) as ended:
    benchmark.main(['--help'])
  assert ended.value.code == 0
  sentence, shown = benchmark.__doc__.split('.')[0], capsys.readouterr().out
  assert ''.join(sentence.split()) in ''.join(shown.split())  # however the lines are broken


@pytest.mark.parametrize('option', ['--rounds', '--width', '--batch', '--devices'])
@pytest.mark.parametrize('name', ['step', 'inference', 'masked', 'memory', 'evaluation', 'many'])
def test_a_benchmark_of_nothing_is_refused_before_it_begins(name, option, capsys):
  with pytest.raises(SystemExit) as ended:
    importlib.import_module(f'benchmarks.{name}').main([f'{option}=0'])
  assert ended.value.code == 2
  assert (
    f"argument {option}: must be a whole number of at least 1, got '0'" in capsys.readouterr().err
  )


def test_rivals_take_as_many_devices_as_divide_the_batch():
  found = benchmarks.divided(argparse.Namespace(devices=2, batch=6))
  assert [len(on) for on in found] == [2, 3]  # of four
  with pytest.raises(ValueError, match='multiple of the number of devices, 4; got 6'):
    benchmarks.divided(argparse.Namespace(devices=4, batch=6))


def test_networks_that_predict_in_benchmarks_give_numbers():
  from benchmarks import file_sizes

  spec = data.SPECS['digits']
  stored = file_sizes.network('cifar_resnet8', 2, spec, 'digits', 0.5)
  logits = stored.model.apply(stored.variables, np.ones((1, *spec.shape), np.float32))
  assert np.isfinite(logits).all()


@pytest.mark.skipif(standin.plugin() is None, reason=f'{standin.PACKAGE} is not installed')
def test_what_is_measured_on_cpu_devices_takes_no_accelerator(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(
    'import argparse, jax, benchmarks\n'
    'benchmarks.start(argparse.Namespace(devices=2))\n'
    'print(jax.devices()[0].platform)'
  )
  command = [sys.executable, 'tests/standin.py', str(script)]
  assert subprocess.check_output(command, text=True, cwd=ROOT).strip() == 'cpu'


def test_a_trace_says_how_long_a_device_worked_and_where_it_waited():
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


def test_operations_of_a_tpu_are_those_on_its_own_thread():
  from benchmarks import traced

  def named(kind, name, **where):
    return {'ph': 'M', 'name': kind, **where, 'args': {'name': name}}

  def of(tid, name, start, duration, pid=3):
    where = {'pid': pid, 'tid': tid, 'ts': start, 'dur': duration}
    return {'ph': 'X', 'name': name, **where, 'args': {'hlo_category': 'fusion', 'long_name': ''}}

  found = traced.read(
    {
      'traceEvents': [
        named('process_name', '/device:TPU:0', pid=3),
        named('process_name', '/host:CPU', pid=701),
        named('thread_name', 'XLA Modules', pid=3, tid=2),
        named('thread_name', 'XLA Ops', pid=3, tid=3),
        named('thread_name', 'Async XLA Ops', pid=3, tid=4),
        named('thread_name', 'XLA Ops', pid=701, tid=3),
        of(2, 'jit_run', 0, 100),
        of(3, 'while.2', 5, 90),
        of(3, 'fusion.1', 10, 20),
        of(3, 'fusion.2', 40, 10),
        of(4, 'copy-start', 0, 80),
        of(3, 'of the host', 0, 500, pid=701),
      ]
    }
  )
  assert (found.operations, found.whole, found.busy) == (2, 40, 30)
  assert found.gaps == [(10, 'fusion.1', 'fusion.2')]


def test_rows_of_this_code_come_first_and_do_not_need_pytorch(monkeypatch, capsys, tmp_path):
  monkeypatch.setitem(sys.modules, 'torch', None)  # as where it is not installed
  monkeypatch.delitem(sys.modules, 'benchmarks.torch_peer', raising=False)
  monkeypatch.setenv('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  from benchmarks import accelerator

  tinier_config()  # so that its network is known
  rows = ['cifar_resnet2:1:float32', 'cifar_resnet2:2:float32']
  options = ['--small', '--steps=1', '--rounds=1', f'--trace={tmp_path}']
  accelerator.main([*options, '--rows', *rows])
  printed = capsys.readouterr().out
  tables, *without = re.split(r'\n\S+, PyTorch: ', printed)
  assert re.findall(r'\n(\S+:float32)\n\nby ', tables) == rows
  assert tables.count('operations in') == len(without) == 2
  # Names that survive being copied from a machine: no deep folders, few kinds of characters.
  names = [f'{row.replace(":", "_")}.trace.json.gz' for row in rows]
  assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.fixture
def torch_peer(monkeypatch):
  """The peer, and in its table a network that is traced at once."""
  pytest.importorskip('torch', reason='PyTorch, of the extra `bench`, is not installed')
  peer = importlib.import_module('benchmarks.torch_peer')
  nn = peer.nn

  def small(width):
    layers = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(36 * width, 10)
    return nn.Sequential(*layers)

  monkeypatch.setitem(peer.NETWORKS, 'small', small)
  return peer


def pytorch_step(torch_peer, images, **options):
  pixels, labels = np.zeros((images, 8, 8, 3), np.uint8), np.zeros(images, np.int32)
  return torch_peer.torch_steps('small', 2, pixels, labels, 1, dtype='float32', **options)


def test_pytorch_compiles_each_row_for_its_own_sizes(torch_peer, monkeypatch):
  torch, given = torch_peer.torch, []

  def backend(graph, inputs):  # in place of Inductor, which takes a minute
    given.append(inputs)
    return graph.forward

  monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend=backend))
  for images in (2, 3):
    pytorch_step(torch_peer, images, platform='cpu', mode='default')()
  assert len(given) == 2
  assert all(isinstance(value, torch.Tensor) for inputs in given for value in inputs)


def test_pytorch_without_a_gpu_is_not_raced_with_one(torch_peer):
  if torch_peer.torch.cuda.is_available():
    pytest.skip('PyTorch finds a GPU here')
  with pytest.raises(ValueError, match='PyTorch must find a GPU where JAX runs on gpu'):
    pytorch_step(torch_peer, 2, platform='gpu')
