"""A sweep looks after itself: what is done stays, what fails is said, nothing runs twice."""

import errno
import fcntl
import io
import itertools
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
import types

import pytest
from tiny import tiny_config

from random_pruning_jax import lock, preemption, pruning, results, run, runlog
from random_pruning_jax.commands import sweep as command
from random_pruning_jax.config import flat
from random_pruning_jax.config_files import changed, override
from random_pruning_jax.sweep import agenda, estimate, lease, view, work, workers

ROOT = pathlib.Path(__file__).parents[1]


def small(**changes):
  fields = {'epochs': 1, 'evaluation__foreign': (), 'evaluation__epsilons': ()}
  return tiny_config(**fields | changes)


def planned(*configs):
  return agenda.make(configs).jobs


@pytest.fixture(scope='module')
def swept(tmp_path_factory):
  """Three runs, one of which has a loss that is no number, and one that cannot be planned."""
  directory = tmp_path_factory.mktemp('sweep')
  configs = [
    small(),
    small(optimizer__lr=1e30),
    small(seed=1),
    small(pruning__ratio='erk_plus', pruning__density=0.01),
    small(pruning__ratio='nonsense'),
  ]
  both = agenda.make(configs, skip_invalid=True)
  agenda.remember(both.jobs, directory)
  out = io.StringIO()
  with view.View(both.jobs, estimate.costs(both.jobs, both.experiments), directory, out):
    work.work(both.jobs, directory)
  return directory, both.jobs, out.getvalue()


def states(directory, jobs):
  return [agenda.state(directory / job.tag) for job in jobs]


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
  assert any('nonsense' in error['error'] for error in errors)


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


def test_what_is_left_is_of_like_networks_or_grows_less_than_their_work(tmp_path):
  """Before this view has seen a run end, one after the other as long as those before took."""
  both = agenda.make([small(), small(seed=1), small(model__width=4)])
  costs = estimate.costs(both.jobs, both.experiments)
  (tmp_path / both.jobs[0].tag).mkdir()
  row = {'train_seconds': 80.0, 'evaluation_seconds': 20.0}
  (tmp_path / both.jobs[0].tag / 'results.jsonl').write_text(json.dumps(row))
  seen = view.View(both.jobs, costs, tmp_path, io.StringIO())
  wide = 100 * (costs[2].dense_flops / costs[0].dense_flops) ** 0.75
  assert seen.seconds_left() == pytest.approx(100 + wide)
  (tmp_path / both.jobs[1].tag).mkdir()  # a quarter of it was trained before it stopped
  line = {'kind': 'train', 'step': costs[1].steps / 4, 'loss': 1.0}
  (tmp_path / both.jobs[1].tag / 'train.jsonl').write_text(json.dumps(line))
  assert seen.seconds_left() == pytest.approx(75 + wide)


def test_finished_and_failed_runs_are_left_alone(swept):
  directory, jobs, _ = swept
  files = [p for p in sorted(directory.rglob('*')) if p.name in (results.FILE, results.FAILED)]
  before = [(path, path.stat().st_mtime_ns) for path in files]
  work.work(jobs, directory)
  assert [(path, path.stat().st_mtime_ns) for path in files] == before


def test_done_runs_that_were_measured_otherwise_are_said_with_the_command(swept, capsys):
  directory, jobs, _ = swept
  done = [job for job in jobs if agenda.state(directory / job.tag) == 'done']
  command._say_measured_otherwise(done, directory)
  assert not capsys.readouterr().err
  fields = {'suites': ('calibration', 'quick'), 'checkpoint': 'latest', 'epsilons': (4 / 255,)}
  fields = {f'evaluation.{name}': value for name, value in fields.items()}
  asked = [job._replace(config=changed(job.config, fields)) for job in jobs]
  command._say_measured_otherwise(asked, directory)
  text, _, words = capsys.readouterr().err.partition(': random-pruning ')
  assert 'otherwise than this file asks: 2;' in text
  name, place, *overrides = shlex.split(words)
  assert (name, place) == ('evaluate', str(directory / done[0].tag))
  config = override(changed(done[0].config, {}), overrides)
  assert flat(config) == flat(changed(done[0].config, fields))


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


def test_a_run_that_another_process_has_is_left_to_it_and_said(tmp_path, capsys):
  (job,) = planned(small())
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
    command._say_leased([job], tmp_path)
  said = capsys.readouterr().err
  assert f'other processes: 1, as {job.tag} to process {os.getpid()} on ' in said
  assert agenda.state(tmp_path / job.tag) == 'waiting'
  command._say_leased([job], tmp_path)
  assert not capsys.readouterr().err


def test_a_run_whose_process_lives_though_its_lease_is_old_has_not_failed(tmp_path):
  (job,) = planned(small())
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


def test_a_lease_of_a_dead_process_is_taken_over(tmp_path):
  gone = subprocess.Popen([sys.executable, '-c', ''])
  gone.wait()
  place = tmp_path / 'run'
  place.mkdir()
  for pid, started in ((gone.pid, '1'), (os.getpid(), 'another start')):
    found = {'pid': pid, 'host': lease._me()['host'], 'started': started}
    (place / lease.FILE).write_text(json.dumps(found))
    assert lease.holder(place) is None
    with lease.hold(place) as mine:
      assert mine and lease.holder(place)['pid'] == os.getpid()
    assert not (place / lease.FILE).exists()


def test_a_lease_is_nobodys_once_its_process_ended_though_none_has_asked_how(tmp_path):
  path = tmp_path / lease.FILE
  with subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE) as process:
    started = lease._started(process.pid)
    path.write_text(json.dumps(lease._me() | {'pid': process.pid, 'started': started}))
    assert lease.holder(tmp_path)['pid'] == process.pid
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert lease.holder(tmp_path) is None


def test_a_lease_that_a_crash_left_empty_is_taken_over(tmp_path):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / lease.FILE).touch()
  assert lease.pid(tmp_path / 'run' / lease.FILE) is None
  with lease.hold(tmp_path / 'run') as mine:
    assert mine and lease.holder(tmp_path / 'run')['pid'] == os.getpid()


def test_a_lease_from_another_host_lasts_while_it_is_touched(tmp_path):
  place = tmp_path / 'run'
  place.mkdir()
  path = place / lease.FILE
  path.write_text(json.dumps({'pid': 1, 'host': 'elsewhere.invalid', 'started': '1'}))
  assert lease.holder(place)['host'] == 'elsewhere.invalid'
  old = path.stat().st_mtime - lease.STALE_AFTER - 1
  os.utime(path, (old, old))
  assert lease.holder(place) is None


def test_a_run_whose_process_is_gone_since_the_sweep_began_is_taken_over(tmp_path):
  configs = [small(pruning__ratio='nonsense', seed=seed) for seed in range(3)]
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
  jobs = agenda.make([small(pruning__ratio='nonsense')], skip_invalid=True).jobs
  place = tmp_path / jobs[0].tag

  def more():
    work.record_failure(jobs[0], place, 'by another process')
    return True

  work.work(jobs, tmp_path, more)
  assert agenda.read_failure(place)['error'] == 'by another process'


def test_all_that_is_wrong_is_said_at_once_before_anything_starts():
  configs = [
    small(),
    small(pruning__ratio='nonsense'),
    small(model__name='resnet7'),
    small(pruning__density=0.0),
    small(dense_twin=True),
    small(pruning__dense=('nolayer',)),
    small(seed=1, evaluation__corruptions=('foggy',)),
  ]
  with pytest.raises(ValueError) as refused:
    agenda.make(configs)
  text = str(refused.value)
  assert text.startswith('6 of 7 configs are invalid; nothing was started.')
  for word in ('nonsense', 'resnet7', '(0, 1], got 0.0', 'dense_twin', '(config 4)'):
    assert word in text
  assert "got ['nolayer']" in text and "got 'foggy'" in text


@pytest.mark.parametrize(
  'configs',
  [
    [small(), small()],
    [small(pruning__ratio='er', pruning__density=1.0), small(pruning__density=1.0)],
    [small(), small(data_dir='/elsewhere')],
    [small(), small(pruning__sampling='exact')],  # what the recipe says anyway
    [small(), small(evaluation__attacked_images=9)],  # measured otherwise, and in one directory
  ],
)
def test_duplicates_are_refused(configs):
  with pytest.raises(ValueError, match='configs 0 and 1 are the same run'):
    agenda.make(configs)


def test_tags_are_readable_and_differ_with_every_field_but_the_place_of_the_data():
  configs = [
    small(),
    small(seed=1),
    small(optimizer__lr=0.2),
    small(pruning__select='magnitude'),
    small(pruning__density=1.0),
  ]
  tags = [planned(config)[0].tag for config in configs]
  assert len({tag.rpartition('-')[2] for tag in tags}) == 5
  assert tags[0].startswith('digits-cifar_resnet8-w2-erk-d0.3-s0-')
  assert tags[3].startswith('digits-cifar_resnet8-w2-erk-magnitude-d0.3-s0-')
  assert tags[4].startswith('digits-cifar_resnet8-w2-dense-s0-')
  assert planned(small(data_dir='/elsewhere'))[0].tag == tags[0]


def test_jobs_that_share_a_compilation_follow_each_other():
  jobs = planned(small(), small(model__width=4), small(seed=1), small(model__width=4, seed=1))
  assert [job.config.model.width for job in jobs] == [2, 2, 4, 4]


@pytest.mark.parametrize('n', [1, 2, 3, 7])
def test_shards_are_disjoint_and_together_everything(n):
  jobs = [agenda.Job(str(i), None, '') for i in range(5)]
  parts = [agenda.shard(jobs, f'{i}/{n}') for i in range(1, n + 1)]
  assert sorted(job.tag for part in parts for job in part) == [job.tag for job in jobs]


@pytest.mark.parametrize('which', ['0/2', '3/2', '1', 'a/b', '1/0'])
def test_a_shard_that_cannot_be_is_refused(which):
  with pytest.raises(ValueError, match='must be I/N'):
    agenda.shard([], which)


def test_the_dry_run_counts_what_is_kept_and_three_passes_a_step(tmp_path):
  both = agenda.make([small(), small(pruning__density=1.0)])
  sparse, dense = estimate.costs(both.jobs, both.experiments)
  structure = both.experiments[both.jobs[0].group].structure
  prunable = sum(layer.size for layer in structure.layers)
  assert dense.kept == prunable
  assert sparse.kept == pytest.approx(0.3 * prunable, abs=5)
  assert dense.steps == 10  # 1,257 digits in batches of 120
  macs = sum(layer.macs for layer in structure.layers)
  assert dense.flops == dense.dense_flops == sparse.dense_flops == 2 * 3 * 10 * 120 * macs
  assert sparse.flops < dense.flops
  text = estimate.table(both.jobs, both.experiments, tmp_path, workers=1)
  assert all(job.tag in text for job in both.jobs) and '2 runs' in text
  assert not any((tmp_path / job.tag).exists() for job in both.jobs)


def test_the_dry_run_measures_until_its_patience_ends_and_shares_the_cores(tmp_path, monkeypatch):
  clock = types.SimpleNamespace(perf_counter=itertools.count(step=60).__next__)  # a look, a minute
  monkeypatch.setattr(estimate, 'time', clock)
  both = agenda.make([small(), small(model__width=4)])
  narrow, wide = (
    sum(x.macs for x in both.experiments[job.group].structure.layers) for job in both.jobs
  )
  seconds = estimate.seconds_per_step(both.jobs, both.experiments)
  assert list(seconds.values()) == [60, 60 * wide / narrow]  # measured, and scaled from that
  text = estimate.table(both.jobs, both.experiments, tmp_path, workers=4)
  assert f'about {estimate.duration(10 * sum(seconds.values()))} here with 4 workers' in text


def test_the_dry_run_counts_failed_runs_where_they_are_tried_again(tmp_path):
  both = agenda.make([small()])
  work.record_failure(both.jobs[0], tmp_path / both.jobs[0].tag, 'for want of memory')
  left, again = (estimate.table(*both, tmp_path, 1, retry) for retry in (False, True))
  assert 'What is not done takes about 0 s' in left
  assert 'What is not done takes about 0 s' not in again


def test_the_dry_run_knows_of_dense_layers_and_of_what_a_structure_allows():
  both = agenda.make(
    [
      small(pruning__dense=('stem',)),
      small(pruning__sampling='n_m', pruning__density=0.5, pruning__block=3),
    ]
  )
  held, structured = estimate.costs(both.jobs, both.experiments)
  experiment = both.experiments[both.jobs[0].group]
  sizes = {layer.name: layer.size for layer in experiment.structure.layers}
  stem = sizes['stem/kernel']
  assert held.kept == pytest.approx(stem + 0.3 * (sum(sizes.values()) - stem), abs=5)
  assert 'n_m sampling' in structured.infeasible


def test_the_dry_run_knows_how_many_images_of_a_set_that_is_not_here_are_trained_on(tmp_path):
  fields = {'epochs': 2, 'batch_size': 100, 'data_dir': str(tmp_path)}
  configs = [small(**fields | {'dataset': name}) for name in ('cifar10', 'mnist')]
  both = agenda.make(configs, need_data=False)
  steps = [cost.steps for cost in estimate.costs(both.jobs, both.experiments)]
  assert sorted(steps) == [2 * 450, 2 * 540]  # nine tenths of 50,000 and 60,000


def test_durations_are_said_in_units_that_fit():
  assert [estimate.duration(s) for s in (3.2, 80, 600, 7200, 864_000)] == [
    '4 s',
    '80 s',
    '10 min',
    '2.0 h',
    '10.0 days',
  ]


def test_more_workers_than_gpus_are_refused(monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  assert workers.environment(1, 2)['CUDA_VISIBLE_DEVICES'] == '5'
  with pytest.raises(ValueError, match='number of GPUs, 2; got 3'):
    workers.environment(0, 3)


@pytest.mark.parametrize('path', sorted((ROOT / 'configs' / 'sweeps').glob('*.py')), ids=str)
def test_every_sweep_file_can_be_planned(path):
  configs = command.load_sweep(str(path), ['--config.epochs=20'])
  assert all(config.epochs == 20 for config in configs)
  known = [
    config
    for config in configs
    if {config.pruning.ratio, config.pruning.select} <= {*pruning.RATIOS, *pruning.SCORES}
  ]
  jobs = agenda.make(known[:: max(1, len(known) // 4)], need_data=False).jobs
  assert jobs


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    ('return default()', "a ConfigDict whose item 0 is 'augment'"),
    ('return "text"', "a str whose item 0 is 't'"),
    ('return [default(), None]', 'a list whose item 1 is None'),
    ('return 7', "TypeError: 'int' object is not iterable"),
    ('return [1 / 0]', 'line 3: ZeroDivisionError'),
    ('yield 1 / 0', 'line 3: ZeroDivisionError'),
    ('import nosuch', 'line 3: ModuleNotFoundError'),
    ('return [changed(default(), {"epochs": "x"})]', r"line 3: .*epochs must be .* int, got 'x'"),
    ('return [changed(default(), {"seed": 1.0})]', r'line 3: .*seed must be .* int, got 1\.0'),
    ('return [', 'SyntaxError: .* line 3'),
  ],
)
def test_a_mistake_in_a_sweep_file_is_said_in_one_line_with_the_file(tmp_path, body, message):
  file = tmp_path / 'file.py'
  imports = 'from random_pruning_jax.config import default; from random_pruning_jax.config_files '
  file.write_text(f'{imports} import changed\ndef get_sweep():\n  {body}\n')
  with pytest.raises(ValueError, match=f'{file}.*{message}') as refused:
    command.load_sweep(str(file), [])
  assert '\n' not in str(refused.value)


SWEEP_FILE = """
import sys; sys.path.insert(0, {tests!r})
from tiny import tinier_config
def get_sweep():
  fields = {{'epochs': 1, 'evaluation__epsilons': (), 'evaluation__foreign': (), **{more!r}}}
  return [tinier_config(seed=seed, **fields) for seed in (10, 11, 12)]
"""


def start(tmp_path, more, *arguments, **environment):
  file = tmp_path / 'file.py'
  file.write_text(SWEEP_FILE.format(tests=str(ROOT / 'tests'), more=more))
  words = ['sweep', f'--config={file}', f'--workdir={tmp_path / "runs"}', *arguments]
  # Tests in the background of a shell ignore Ctrl-C, and what they start would inherit that.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    return subprocess.Popen(
      [sys.executable, '-m', 'random_pruning_jax', *words],
      stderr=subprocess.PIPE,
      text=True,
      env=os.environ | {'PYTHONPATH': str(ROOT)} | environment,
      cwd=ROOT,
    )
  finally:
    signal.signal(signal.SIGINT, before)


def test_a_sweep_that_was_killed_goes_on_where_it_stopped(tmp_path):
  directory = tmp_path / 'runs'
  process = start(tmp_path, {})
  while process.poll() is None and not any(map(runlog.read_log, directory.glob('digits-*'))):
    time.sleep(0.005)
  process.kill()
  process.communicate()
  assert not list(directory.glob(f'*/{results.FAILED}'))
  jobs = planned(*command.load_sweep(str(tmp_path / 'file.py'), []))
  assert agenda.read_manifest(directory).keys() == {job.tag for job in jobs}
  work.work(jobs, directory)
  assert sorted(row['seed'] for row in results.read([directory])) == [10, 11, 12]
  assert not list(directory.glob(f'*/{lease.FILE}'))


def test_workers_share_the_runs_and_the_status_says_that_some_failed(tmp_path):
  """Runs that cannot be, so that nothing is trained: what is tested is who takes which."""
  process = start(tmp_path, {'pruning__ratio': 'nonsense'}, '--workers=2', '--skip-invalid')
  _, said = process.communicate()
  assert process.returncode == 1, said
  assert '0 done, 0 running, 3 failed, 0 to do' in said
  failures = sorted((tmp_path / 'runs').glob(f'*/{results.FAILED}'))
  assert len(failures) == 3 and all('nonsense' in path.read_text() for path in failures)
  assert not workers.log_file(tmp_path / 'runs', 0).read_text()


def test_ctrl_c_ends_the_sweep_and_leaves_no_lease(tmp_path):
  directory = tmp_path / 'runs'
  process = start(tmp_path, {'epochs': 40, 'checkpoint__every_epochs': 40}, '--together=1')
  while process.poll() is None and not any(map(runlog.read_log, directory.glob('digits-*'))):
    time.sleep(0.005)
  process.send_signal(signal.SIGINT)
  process.communicate(timeout=120)
  assert process.returncode != 0
  assert not list(directory.glob(f'*/{lease.FILE}'))
  states = [agenda.state(place) for place in directory.glob('digits-*')]
  assert 'interrupted' in states and 'done' not in states and 'failed' not in states


def test_sigterm_outside_of_a_step_ends_the_sweep_with_its_own_status(
  tmp_path,
):
  process = start(tmp_path, {})
  while process.poll() is None and not list((tmp_path / 'runs').glob('*/config.json')):
    time.sleep(0.005)  # its program is not compiled yet
  process.send_signal(signal.SIGTERM)
  _, said = process.communicate(timeout=120)
  assert process.returncode == preemption.EXIT_STATUS, said


def test_workers_that_give_up_are_named_and_the_status_says_so(tmp_path):
  process = start(tmp_path, {}, '--workers=2', JAX_PLATFORMS='nonsense')
  _, said = process.communicate(timeout=120)
  assert process.returncode == 2, said
  assert 'worker 0 gave up with status 2' in said and 'worker 1 gave up' in said
  assert '0 done, 0 running, 0 failed, 3 to do' in said
  assert 'nonsense' in workers.log_file(tmp_path / 'runs', 0).read_text()


def test_the_status_of_workers_that_gave_up_counts_where_runs_are_left_alone(tmp_path):
  jobs = agenda.make([small(pruning__ratio='nonsense')], skip_invalid=True).jobs
  assert workers.run(['no-command'], 1, jobs, tmp_path) == 2
  work.record_failure(jobs[0], tmp_path / jobs[0].tag, 'it cannot be')
  assert workers.run(['no-command'], 1, jobs, tmp_path) == 0


def test_workers_that_are_killed_before_they_have_a_run_are_said(tmp_path):
  process = start(tmp_path, {}, '--workers=2')
  children = pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children')
  while process.poll() is None and not list((tmp_path / 'runs').glob('worker-1.log')):
    time.sleep(0.005)
  for child in children.read_text().split():
    os.kill(int(child), signal.SIGKILL)
  _, said = process.communicate(timeout=120)
  assert process.returncode == 128 + signal.SIGKILL, said
  assert 'worker 1 was ended by SIGKILL' in said and '3 to do' in said


def test_a_dry_run_has_all_cores_however_many_workers_there_are_to_be():
  for dry_run, devices in ((True, 0), (False, 1)):
    args = types.SimpleNamespace(workers=64, cpu_devices=0, worker=-1, dry_run=dry_run)
    command._share_cores(args)
    assert args.cpu_devices == devices


def test_a_worker_that_is_killed_costs_its_run_and_begins_again(tmp_path):
  directory = tmp_path / 'runs'
  process = start(tmp_path, {'epochs': 2}, '--workers=2', '--together=1')
  while process.poll() is None and not any(map(runlog.read_log, directory.glob('digits-*'))):
    time.sleep(0.005)
  [place, *_] = [found for found in directory.glob('digits-*') if runlog.read_log(found)]
  os.kill(lease.pid(place / lease.FILE), signal.SIGKILL)
  _, said = process.communicate()
  assert process.returncode == 1, said
  assert '2 done, 0 running, 1 failed, 0 to do' in said
  assert 'ended by SIGKILL (out of memory?)' in agenda.read_failure(place)['error']
  assert len(results.read([directory])) == 2


def test_of_several_runs_that_a_dead_worker_had_none_is_blamed_before_it_is_alone(tmp_path):
  jobs = planned(small(), small(seed=1), small(seed=2))
  dead = workers.Worker(types.SimpleNamespace(pid=1, returncode=-signal.SIGKILL), 0, ['sweep'])
  for job in jobs:
    (tmp_path / job.tag).mkdir()
    (tmp_path / job.tag / lease.FILE).write_text(
      json.dumps({'pid': 1, 'host': 'elsewhere.invalid', 'started': '1'})
    )
  work.record_failure(jobs[2], tmp_path / jobs[2].tag, 'for another reason')
  assert workers._after(dead, jobs, tmp_path) == (0, ['sweep', '--together=1'])
  assert states(tmp_path, jobs) == ['running', 'running', 'failed']
  (tmp_path / jobs[1].tag / lease.FILE).unlink()
  assert workers._after(dead, jobs, tmp_path) == (0, ['sweep'])
  assert states(tmp_path, jobs) == ['failed', 'waiting', 'failed']


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


def test_runs_that_cannot_train_together_train_in_turn(tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise MemoryError('too little memory for both')

  monkeypatch.setattr(run, 'train_many', refuse)
  jobs = planned(small(), small(seed=1))
  work.work(jobs, tmp_path, together=2)
  assert states(tmp_path, jobs) == ['done', 'done']
