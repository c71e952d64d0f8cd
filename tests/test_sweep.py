"""A sweep looks after itself: what is done stays, what fails is said, nothing runs twice."""

import errno
import fcntl
import io
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time
import weakref

import numpy as np
import pytest
from sweeping import planned, smaller, states

from random_pruning_jax import results, run
from random_pruning_jax.config import flat
from random_pruning_jax.config.files import changed, override
from random_pruning_jax.sweep import agenda, ending, estimate, lease, view, work
from random_pruning_jax.system import lock

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def swept(tmp_path_factory):
  """Three runs, one of which has a loss that is no number, and one that cannot be planned."""
  directory = tmp_path_factory.mktemp('sweep')
  configs = [
    smaller(),
    smaller(optimizer__lr=3e38, optimizer__weight_decay=1e3),
    smaller(seed=1),
    smaller(pruning__ratio='erk_plus', pruning__density=0.01),
    smaller(pruning__ratio='nonsense'),
  ]
  both = agenda.make(configs, skip_invalid=True)
  agenda.remember(both.jobs, directory)
  out = io.StringIO()
  with view.View(both.jobs, estimate.costs(both.jobs, both.experiments), directory, out):
    work.work(both.jobs, directory)
  return directory, both.jobs, out.getvalue()


def test_failures_are_recorded_and_stop_nothing(swept):
  directory, jobs, _ = swept
  by_tag = {job.tag: agenda.state(directory / job.tag) for job in jobs}
  assert sorted(by_tag.values()) == ['done', 'done', 'failed', 'failed', 'failed']
  errors = [
    agenda.read_failure(directory / tag) for tag, state in by_tag.items() if state == 'failed'
  ]
  found = {error['error'].split(':')[0]: error for error in errors}
  assert found.keys() == {'NotFiniteError', 'ValueError'}
  assert 'Traceback' in found['NotFiniteError']['traceback']
  [unplanned] = [error for error in errors if 'nonsense' in error['error']]
  assert 'Traceback' in unplanned['traceback']


def test_the_view_says_each_end_once_and_in_plain_lines(swept):
  text = swept[2]
  assert '\x1b' not in text
  for job in swept[1]:
    assert text.count(f' {job.tag} ') == 1
  assert 'accuracy' in text and 'the loss is' in text


def test_the_view_of_no_runs_is_drawn_on_a_terminal(tmp_path):
  out = io.StringIO()
  out.isatty = lambda: True
  with view.View([], [], tmp_path, out):
    pass
  assert '0 done, 0 running, 0 failed, 0 to do' in out.getvalue()


def test_finished_and_failed_runs_are_left_alone(swept):
  directory, jobs, _ = swept
  files = [p for p in sorted(directory.rglob('*')) if p.name in (results.FILE, results.FAILED)]
  before = [(path, path.stat().st_mtime_ns) for path in files]
  work.work(jobs, directory)
  assert [(path, path.stat().st_mtime_ns) for path in files] == before


def test_done_runs_that_were_measured_otherwise_are_said_with_the_command(swept, capsys):
  directory, jobs, _ = swept
  done = [job for job in jobs if agenda.state(directory / job.tag) == 'done']
  ending._say_measured_otherwise(done, directory)
  assert not capsys.readouterr().err
  fields = {'suites': ('calibration', 'quick'), 'checkpoint': 'latest', 'epsilons': (4 / 255,)}
  fields = {f'evaluation.{name}': value for name, value in fields.items()}
  asked = [job._replace(config=changed(job.config, fields)) for job in jobs]
  ending._say_measured_otherwise(asked, directory)
  text, _, words = capsys.readouterr().err.partition(': random-pruning ')
  assert 'otherwise than this file asks: 2;' in text
  name, place, *overrides = shlex.split(words)
  assert (name, place) == ('evaluate', str(directory / done[0].tag))
  config = override(changed(done[0].config, {}), overrides)
  assert flat(config) == flat(changed(done[0].config, fields))


def test_what_done_runs_skipped_is_said_once_with_their_number(tmp_path, capsys):
  jobs = [agenda.Job(str(i), smaller(), '') for i in range(4)]
  why = 'it is not in /data'
  for job, skipped in zip(jobs, ({'ood/mnist': why}, {'ood/mnist': why}, {}), strict=False):
    (tmp_path / job.tag).mkdir()
    results.append(tmp_path / job.tag, {'metrics': {}, 'skipped': skipped})
  ending._say_skipped(jobs, tmp_path)
  assert capsys.readouterr().err == 'skipped in 2 runs: ood/mnist: it is not in /data\n'


def test_retry_tries_failed_runs_again(swept):
  directory, jobs, _ = swept
  bad = [job for job in jobs if job.config.pruning.ratio == 'erk_plus']
  before = agenda.read_failure(directory / bad[0].tag)['time']
  time.sleep(1.1)
  work.forget_failures(bad, directory)
  assert states(directory, bad)[0] in ('waiting', 'interrupted')
  work.work(bad, directory)
  assert agenda.read_failure(directory / bad[0].tag)['time'] > before


def test_the_manifest_holds_every_planned_run(swept):
  directory, jobs, _ = swept
  assert agenda.read_manifest(directory).keys() == {job.tag for job in jobs}
  agenda.remember(jobs[:1], directory)
  assert len(agenda.read_manifest(directory)) == len(jobs)


@pytest.mark.parametrize(
  ('content', 'said'),
  [
    ('{"runs": {', 'is damaged: Expecting .*; without it, a sweep makes it anew'),
    ('{}', 'is damaged: it must hold runs by tag, got {}; without it'),
    ('[]', r'is damaged: it must hold runs by tag, got \[\]; without it'),
    ('{"format": 2, "runs": {}}', 'is of format 2; known: 1'),
  ],
)
def test_a_manifest_that_is_damaged_or_of_a_later_format_is_refused(tmp_path, content, said):
  path = tmp_path / results.MANIFEST
  path.write_text(content)
  with pytest.raises(ValueError, match=f'{path} {said}'):
    agenda.remember([], tmp_path)
  assert path.read_text() == content


def test_a_run_that_another_process_has_is_left_to_it_and_said(tmp_path, capsys):
  (job,) = planned(smaller())
  with lease.hold(tmp_path / job.tag) as mine:
    assert mine
    script = (
      'import pathlib, sys; from random_pruning_jax.sweep import lease\n'
      'with lease.hold(pathlib.Path(sys.argv[1])) as mine: print(mine)'
    )
    done = subprocess.run(
      [sys.executable, '-c', script, str(tmp_path / job.tag)],
      capture_output=True,
      text=True,
      cwd=ROOT,
    )
    assert done.stdout.strip() == 'False', done.stderr
    work.work([job], tmp_path)
    ending._say_leased([job], tmp_path)
  said = capsys.readouterr().err
  assert f'processes: 1, such as {job.tag}, left to process {os.getpid()} on ' in said
  assert agenda.state(tmp_path / job.tag) == 'waiting'
  ending._say_leased([job], tmp_path)
  assert not capsys.readouterr().err


def test_a_run_whose_process_lives_though_its_lease_is_old_has_not_failed(tmp_path):
  (job,) = planned(smaller())
  place = tmp_path / job.tag
  place.mkdir()
  with lock.alone(place):  # as the process that trains it has
    work.work([job], tmp_path)
  assert not (place / results.FAILED).exists()
  assert agenda.state(place) not in ('failed', 'done')


def test_a_sweep_on_a_file_system_without_locks_is_refused_by_name(tmp_path, monkeypatch):
  def refuse(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

  monkeypatch.setattr(fcntl, 'flock', refuse)
  with pytest.raises(OSError, match=f'{tmp_path} must be on a file system with locks'):
    agenda.remember([], tmp_path)


def test_a_run_whose_process_is_gone_since_the_sweep_began_is_taken_over(tmp_path):
  configs = [smaller(pruning__ratio='nonsense', seed=seed) for seed in range(3)]
  jobs = agenda.make(configs, skip_invalid=True).jobs  # recorded as failed in no time
  path = tmp_path / jobs[0].tag / lease.FILE
  path.parent.mkdir()
  path.write_text(json.dumps({'pid': 1, 'host': 'elsewhere.invalid', 'started': '1'}))
  looks = []

  def more():
    looks.append(states(tmp_path, jobs))
    if len(looks) == 2:
      os.utime(path, (0, 0))
    return True

  work.work(jobs, tmp_path, more)
  assert looks[0] == ['running', 'waiting', 'waiting']
  assert states(tmp_path, jobs) == ['failed'] * 3


def test_a_run_that_ended_since_the_sweep_looked_is_left_alone(tmp_path):
  jobs = agenda.make([smaller(pruning__ratio='nonsense')], skip_invalid=True).jobs
  place = tmp_path / jobs[0].tag

  def more():
    work.record_failure(jobs[0], place, 'by another process')
    return True

  work.work(jobs, tmp_path, more)
  assert agenda.read_failure(place)['error'] == 'by another process'


def test_runs_train_together_and_a_failing_one_stops_no_other(swept, tmp_path):
  """The runs of `swept`, three at a time: the same states, and the same rows to rounding."""
  directory, jobs, _ = swept
  work.work(jobs, tmp_path, together=3)
  assert states(tmp_path, jobs) == states(directory, jobs)
  assert not list(tmp_path.glob(f'*/{lease.FILE}'))
  for job in jobs:
    if agenda.state(tmp_path / job.tag) == 'failed':
      found, expected = (agenda.read_failure(root / job.tag) for root in (tmp_path, directory))
      assert found['error'] == expected['error']
      assert bool(found['traceback']) == bool(expected['traceback'])
    else:
      (found,), (expected,) = (results.read([root / job.tag]) for root in (tmp_path, directory))
      assert found['config'] == expected['config'] and found['masks'] == expected['masks']
      assert found['metrics']['nll'] == pytest.approx(expected['metrics']['nll'], rel=0.02)


def test_runs_with_no_room_together_train_in_turn_once_what_filled_it_is_gone(
  tmp_path, monkeypatch
):
  filled, gone, train_alone = [], [], run.run

  def refuse(*_, **__):
    state = np.zeros(3)
    filled.append(weakref.ref(state))
    raise MemoryError('too little memory for both')

  def run_alone(*arguments, **settings):
    gone.append(filled[0]() is None)
    return train_alone(*arguments, **settings)

  monkeypatch.setattr(run, 'train_many', refuse)
  monkeypatch.setattr(run, 'run', run_alone)
  jobs = planned(smaller(), smaller(seed=1))
  work.work(jobs, tmp_path, together=2)
  assert gone == [True, True] and states(tmp_path, jobs) == ['done', 'done']
