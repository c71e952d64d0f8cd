"""Rows are read as they were written, and a crash costs no other row."""

import io
import json
import os
import pathlib
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from random_pruning_jax import results, runlog
from random_pruning_jax.config import default
from random_pruning_jax.progress import Progress
from random_pruning_jax.training.meter import Meter


def test_a_row_comes_back_and_the_last_one_of_a_run_counts(tmp_path):
  run = tmp_path / 'a' / 'run'
  run.mkdir(parents=True)
  results.append(run, {'format': 1, 'metrics': {'accuracy': 0.5}})
  results.append(run, {'format': 1, 'metrics': {'accuracy': 0.75, 'nll': float('nan')}})
  (row,) = results.read([tmp_path])
  assert row == {'format': 1, 'metrics': {'accuracy': 0.75, 'nll': None}, 'run': str(run)}


def test_numbers_that_are_not_finite_are_null_however_deep_they_lie(tmp_path):
  results.append(tmp_path, {'format': 1, 'curves': [(1.0, float('inf'))]})
  assert results.row_of(tmp_path)['curves'] == [[1.0, None]]


def test_a_row_of_a_checkpoint_is_one_of_its_step_and_masks(tmp_path):
  for step, masks in ((1, 'a'), (2, 'a'), (2, 'b')):
    results.append(tmp_path, {'format': 1, 'step': step, 'masks': masks})
  assert results.of_checkpoint(tmp_path, 2, 'a') == {'format': 1, 'step': 2, 'masks': 'a'}
  assert results.of_checkpoint(tmp_path, 1, 'b') is None


def test_a_final_row_of_fewer_suites_than_its_config_asks_for_ends_no_run():
  row = {'config': {'evaluation.suites': ['quick', 'ood']}}
  assert results.is_done(row) and results.is_done(row | {'settings': {'quick': {}, 'ood': {}}})
  assert not results.is_done(row | {'settings': {'quick': {}}})
  assert not results.is_done(row | {'final': False})


def test_a_row_that_is_not_final_stands_for_no_run_and_the_last_of_a_checkpoint_counts(tmp_path):
  same = {'format': 1, 'step': 1, 'masks': 'a'}
  for number, final in enumerate(({'final': True}, {}, {'final': False})):
    results.append(tmp_path, same | final | {'number': number})
  assert results.row_of(tmp_path)['number'] == 1  # of an older version, which does not say
  assert results.of_checkpoint(tmp_path, 1, 'a')['number'] == 2


def test_a_line_cut_short_is_passed_over(tmp_path):
  results.append(tmp_path, {'format': 1, 'seed': 3})
  with (tmp_path / results.FILE).open('a') as file:
    file.write('{"format": 1, "se')
  assert results.read([tmp_path])[0]['seed'] == 3


def test_a_row_after_one_cut_short_is_not_lost(tmp_path):
  results.append(tmp_path, {'format': 1, 'seed': 0})
  path = tmp_path / results.FILE
  path.write_bytes(path.read_bytes()[:-5])
  results.append(tmp_path, {'format': 1, 'seed': 1})
  results.append(tmp_path, {'format': 1, 'seed': 2})
  assert len(path.read_text().splitlines()) == 3
  assert results.row_of(tmp_path)['seed'] == 2
  path.write_bytes(path.read_bytes() + b'{"seed": "\xff')
  assert results.row_of(tmp_path)['seed'] == 2


def test_a_damaged_config_is_named(tmp_path):
  (tmp_path / runlog.CONFIG_FILE).write_text('{"seed": 0')
  with pytest.raises(ValueError, match=r'config\.json is damaged'):
    runlog.read_config(tmp_path)


def test_a_config_that_is_read_has_the_attacks_of_its_run_and_no_others(tmp_path):
  config = default()
  del config.evaluation.attacks['square']
  config.evaluation.attacks.pgd = {'epsilons': (0.01,), 'steps': 5}
  runlog.claim(tmp_path, config)
  assert runlog.read_config(tmp_path).to_dict() == config.to_dict()
  with config.unlocked():
    del config.evaluation['attacks']  # as in files that are older than the field
  runlog.claim(tmp_path, config)
  assert runlog.read_config(tmp_path).evaluation.attacks == default().evaluation.attacks


def test_rows_of_a_later_format_and_paths_that_are_not_there_are_refused(tmp_path):
  (tmp_path / results.FILE).write_text(json.dumps({'format': 99}) + '\n')
  with pytest.raises(ValueError, match='format 99; known: up to 1'):
    results.read([tmp_path])
  with pytest.raises(ValueError, match='does not exist'):
    results.read([tmp_path / 'none'])


def test_a_directory_that_vanishes_while_rows_are_looked_for_is_passed_over(tmp_path, monkeypatch):
  list_directory = os.scandir

  def list_late(place):
    if pathlib.Path(place).name == 'vanishing':
      pathlib.Path(place).rmdir()
    return list_directory(place)

  results.append(tmp_path, {'format': 1, 'seed': 3})
  (tmp_path / 'vanishing').mkdir()
  monkeypatch.setattr(os, 'scandir', list_late)
  assert [row['seed'] for row in results.read([tmp_path])] == [3]


def test_rows_are_looked_for_in_no_checkpoint_of_a_run(tmp_path):
  for place in ('checkpoints/run', 'checkpoints/run/dense_twin', 'checkpoints/run/checkpoints/1'):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    results.append(tmp_path / place, {'format': 1})
    (tmp_path / place / runlog.CONFIG_FILE).touch()
  run = tmp_path / 'checkpoints' / 'run'
  found = [row['run'] for row in results.read([tmp_path])]
  assert found == [str(run / 'dense_twin'), str(run)]


def test_reading_rows_needs_no_jax():
  script = 'import sys; from random_pruning_jax import results; print("jax" in sys.modules)'
  done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
  assert done.stdout == 'False\n'


def test_the_origin_names_versions_and_device():
  origin = results.origin()
  assert origin['versions']['jax'] and origin['device'] and origin['devices'] == 4


def test_the_log_drops_lines_of_a_lost_attempt_and_one_cut_short(tmp_path):
  with runlog.RunLog(tmp_path, 0) as log:
    for step in (10, 20, 30):
      log.write('train', step, {'loss': 1.0 / step})
  with (tmp_path / runlog.LOG_FILE).open('a') as file:
    file.write('{"kind": "tr')
  with runlog.RunLog(tmp_path, 20) as log:
    log.write('train', 30, {'loss': 0.5})
  assert [line['step'] for line in runlog.read_log(tmp_path)] == [10, 20, 30]
  assert runlog.read_log(tmp_path)[-1]['loss'] == 0.5


def test_event_files_hold_the_numbers_and_where_an_attempt_begins(tmp_path):
  before = threading.active_count()
  with runlog.RunLog(tmp_path, 20) as log:
    log.write('train', 30, {'loss': 0.5, 'accuracy': 0.25})
    # Ctrl-C in the middle of handing a number to a thread would leave its queue locked for ever.
    assert threading.active_count() == before
  [file] = (tmp_path / 'tensorboard').iterdir()
  version, start, *rest = read_events(file)
  assert version.file_version == 'brain.Event:2'
  assert start.step == 21 and start.session_log.status == start.session_log.START
  numbers = [(event.step, event.summary.value[0]) for event in rest]
  assert [(step, value.tag, value.simple_value) for step, value in numbers] == [
    (30, 'train/loss', 0.5),
    (30, 'train/accuracy', 0.25),
  ]


def read_events(file):
  """TFRecords: the length in 8 bytes, its checksum in 4, the event, its checksum in 4."""
  data, events = file.read_bytes(), []
  while data:
    (length,) = struct.unpack('<Q', data[:8])
    events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
    data = data[16 + length :]
  return events


def test_an_attempt_that_begins_anew_leaves_no_line_of_the_one_before(tmp_path):
  for _ in range(2):
    with runlog.RunLog(tmp_path, 0) as log:
      log.write('gradient', 0, {'egf_1': 1.0})
  assert len(runlog.read_log(tmp_path)) == 1


def test_the_meter_names_the_first_step_that_is_no_number():
  meter = Meter(10, {'pending': [[1.0, 0.5]], 'epoch': [1.0, 0.5, 1]})
  meter.add({'loss': 0.5, 'accuracy': 0.5})
  meter.add({'loss': float('inf'), 'accuracy': 0.5})
  meter.add({'loss': float('nan'), 'accuracy': 0.5})
  with pytest.raises(runlog.NotFiniteError, match='the loss is inf at step 12'):
    meter.snapshot()


def test_what_the_bar_says_before_the_first_step_does_not_stand_beside_steps(monkeypatch):
  terminal = io.StringIO()
  terminal.isatty = lambda: True
  monkeypatch.setattr(sys, 'stderr', terminal)
  with Progress(3, done=1) as progress:
    progress.status('compiling')
    assert '1/3' in terminal.getvalue() and 'compiling' in terminal.getvalue()
    progress.advance()
    assert 'compiling' not in terminal.getvalue().rpartition('\r')[2]  # as it is drawn now
    progress.status('loss 2.0')
    progress.advance()
    assert 'loss 2.0' in terminal.getvalue().rpartition('\r')[2]


def test_the_meter_averages_since_the_last_line_and_over_the_epoch():
  meter = Meter(2, {'pending': [[1.0, 0.5]], 'epoch': [5.0, 1.0, 2]})
  meter.add({'loss': 3.0, 'accuracy': 0.0})
  assert meter.snapshot() == {'pending': [[1.0, 0.5], [3.0, 0.0]], 'epoch': [8.0, 1.0, 3]}
  mean = meter.mean()
  assert (mean['loss'], mean['accuracy']) == (2.0, 0.25)
  meter.add({'loss': 0.0, 'accuracy': 1.0})
  assert meter.epoch_mean() == {'loss': 2.0, 'accuracy': 0.5}
  meter.add({'loss': 7.0, 'accuracy': 0.5})
  assert meter.epoch_mean() == {'loss': 7.0, 'accuracy': 0.5}  # of a new one
  assert meter.mean()['loss'] == 3.5  # of what came after the last line


def test_the_speed_leaves_out_other_work_and_the_call_that_was_taken_meanwhile(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
  meter, one = Meter(0), {'loss': 1.0, 'accuracy': 0.5}
  now[0] += 0.25
  with meter.untimed_with_next():
    pass
  meter.add(one)
  assert meter.mean()['steps_per_second'] == 0
  with meter.untimed():
    now[0] += 100
  now[0] += 0.25
  meter.add(one)
  assert meter.mean()['steps_per_second'] == 4


class Coming:
  """An array of a device that has not made it yet, until `done`."""

  size = 1

  def __init__(self):
    self.done = threading.Event()
    self.is_ready = self.done.is_set

  def block_until_ready(self):
    self.done.wait()

  def __array__(self):
    self.done.wait()
    return np.ones(1)


def test_waiting_for_images_counts_only_while_the_devices_have_nothing_to_do():
  """Images that come before what was dispatched ahead ends, long after, and after nothing."""
  meter, coming = Meter(0), Coming()
  meter.add({'loss': coming, 'accuracy': np.ones(1)})
  with meter.waiting():
    time.sleep(0.1)
  coming.done.set()
  assert meter.mean()['waiting'] == 0
  coming = Coming()
  meter.add({'loss': coming, 'accuracy': np.ones(1)})
  with meter.waiting():
    time.sleep(0.5)
    coming.done.set()
    time.sleep(0.5)
  assert 0.2 < meter.mean()['waiting'] < 0.8
  meter.add({'loss': coming, 'accuracy': np.ones(1)})
  with meter.waiting():
    time.sleep(0.1)
  assert meter.mean()['waiting'] > 0.8
