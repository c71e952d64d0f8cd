"""What goes wrong on real machines, done to real runs: they go on to the very same numbers."""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import pytest
import started
from killed import newest
from tiny import assert_equal, change_record, log_of, tinier_config

from random_pruning_jax import checkpoints, feed, kernels, main, parallel, run, runlog, train
from random_pruning_jax.system import preemption
from random_pruning_jax.training.checkpoint_manager import Best, sealed
from random_pruning_jax.training.meter import Meter

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
import sys
sys.path.insert(0, 'tests')
from tiny import tinier_config

def get_config():
  return tinier_config(checkpoint__every_steps=1)
"""


@pytest.fixture
def config_file(tmp_path):
  """The tiny config, with a checkpoint after every step."""
  (tmp_path / 'config.py').write_text(CONFIG)
  return tmp_path / 'config.py'


@pytest.fixture
def start(config_file):
  """Starts `random-pruning train` on it."""

  def command(workdir, *arguments, prefix=(), **options):
    train = [sys.executable, '-m', 'random_pruning_jax', 'train', f'--config={config_file}']
    return subprocess.Popen(
      [*prefix, *train, f'--workdir={workdir}', *arguments],
      cwd=ROOT,
      stderr=subprocess.PIPE,
      text=True,
      **options,
    )

  return command


def wait_for_steps(workdir, process, steps=1):
  """Returns when the run has saved that many steps more, or has ended."""
  before = newest(workdir)
  while process.poll() is None and newest(workdir) < before + steps:
    time.sleep(0.005)


def test_a_run_that_is_asked_to_stop_saves_and_goes_on(whole, tmp_path):
  add, taken = Meter.add, []

  def signal_at_7(self, metrics):
    taken.append(metrics)
    if len(taken) == 7:
      os.kill(os.getpid(), signal.SIGTERM)
    return add(self, metrics)

  with pytest.MonkeyPatch.context() as patch, pytest.raises(preemption.Preempted, match='step 8'):
    patch.setattr(Meter, 'add', signal_at_7)
    train.train(tinier_config(), tmp_path, show=False)
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  state = train.train(tinier_config(), tmp_path, show=False)
  assert_equal(state, whole[1])
  assert log_of(tmp_path) == log_of(whole[0])


def ask_to_stop(*_):
  os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_is_asked_to_stop_in_its_last_validation_stops(whole, tmp_path):
  write = runlog.RunLog.write

  def signal_at_20(self, kind, step, metrics):
    write(self, kind, step, metrics)
    if (kind, step) == ('validation', 20):
      ask_to_stop()

  with pytest.MonkeyPatch.context() as patch, pytest.raises(preemption.Preempted, match='step 20'):
    patch.setattr(runlog.RunLog, 'write', signal_at_20)
    train.train(tinier_config(), tmp_path, show=False)
  assert_equal(train.train(tinier_config(), tmp_path, show=False), whole[1])
  assert log_of(tmp_path) == log_of(whole[0])


def test_a_run_that_is_asked_to_stop_while_it_compiles_takes_no_step(tmp_path, monkeypatch):
  monkeypatch.setattr(kernels, 'wait', ask_to_stop)
  with preemption.raise_when_asked(), pytest.raises(preemption.Preempted):
    train.train(tinier_config(), tmp_path, show=False)
  assert not (tmp_path / 'checkpoints').exists()


def test_being_asked_to_stop_is_not_lost_where_other_code_takes_what_is_raised():
  def asked():
    with contextlib.suppress(preemption.Preempted):  # as in a destructor
      ask_to_stop()

  with pytest.raises(preemption.Preempted), preemption.raise_when_asked():
    asked()
    raise ImportError('initialization failed')  # as an extension says it
  with preemption.raise_when_asked():
    asked()
    with preemption.Watch() as watch:
      assert watch.asked()
  with preemption.raise_when_asked(), preemption.Watch() as watch:
    assert not watch.asked()
  with pytest.raises(preemption.Preempted), preemption.raise_when_asked():
    with contextlib.suppress(OSError), preemption.Watch():  # as a sweep does of a run that fails
      ask_to_stop()
      raise OSError('no space left on device')
    preemption.check()


def test_a_feed_that_fails_as_it_closes_costs_no_checkpoint(tmp_path, monkeypatch):
  made = feed.feed

  def failing(experiment):
    fed = made(experiment)

    def stream(calls):
      try:
        yield from fed.stream(calls)
      finally:
        raise OSError('a worker does not end')

    return fed._replace(stream=stream)

  monkeypatch.setattr(feed, 'feed', failing)
  with pytest.raises(OSError, match='does not end'):
    train.train(tinier_config(), tmp_path, show=False)
  assert (tmp_path / 'checkpoints' / '20').is_dir()


def test_sigterm_to_a_streamed_run_and_its_workers_ends_it_with_its_own_status(start, tmp_path):
  streamed = ('data_loading=streamed', 'augment.mode=resized', 'image_size=8', 'data_workers=1')
  fields = [f'--config.{field}' for field in ('epochs=200', *streamed)]
  process = start(tmp_path / 'run', *fields, start_new_session=True)
  wait_for_steps(tmp_path / 'run', process)
  os.killpg(process.pid, signal.SIGTERM)  # as SLURM does
  _, error = process.communicate(timeout=120)
  assert process.returncode == preemption.EXIT_STATUS == 75, error
  assert 'saved at step' in error and 'the same command goes on' in error


def test_a_bucket_and_a_file_are_no_directories(tmp_path):
  (tmp_path / 'file').write_text('')
  for place, message in (('gs://bucket/runs', 'a local path'), (tmp_path / 'file', 'a directory')):
    with pytest.raises(ValueError, match=f'workdir must be {message}'):
      run.run(tinier_config(), place, show=False)


def test_sigterm_to_one_of_two_processes_stops_both_after_the_same_step(start, tmp_path):
  processes = together(start, tmp_path / 'run', 2, '--config.epochs=200')
  wait_for_steps(tmp_path / 'run', processes[0])
  processes[1].send_signal(signal.SIGTERM)
  errors = [process.communicate(timeout=180)[1] for process in processes]
  assert [process.returncode for process in processes] == [75, 75], errors
  steps = {error.partition('saved at step ')[2].split(';')[0] for error in errors}
  assert len(steps) == 1
  assert (tmp_path / 'run' / 'checkpoints' / steps.pop()).exists()


def test_kills_at_random_moments_lose_nothing(whole, tmp_path):
  """SIGKILL while every step is being saved: a checkpoint of some step is always whole."""
  workdir = tmp_path / 'run'
  command = [sys.executable, 'tests/killed.py', str(workdir), '3', '0']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert done.stdout.count('status 9') == 3
  state = train.train(tinier_config(checkpoint__every_steps=1), workdir, show=False)
  assert_equal(state, whole[1])
  assert log_of(workdir) == log_of(whole[0])


def damaged(workdir, step, how):
  """Truncates, alters or removes the largest file of a checkpoint's state."""
  files = [path for path in (workdir / 'checkpoints' / str(step) / 'state').rglob('*')]
  largest = max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  if how == 'missing':
    largest.unlink()
  elif how == 'truncated':
    largest.write_bytes(content[: len(content) // 2])
  else:
    content[len(content) // 2] ^= 255
    largest.write_bytes(content)


@pytest.mark.parametrize('how', ['truncated', 'altered', 'missing'])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(whole, copy, how, capsys):
  damaged(copy, 20, how)
  state = train.train(tinier_config(), copy, show=False)
  said = capsys.readouterr().err
  assert f'checkpoint {copy}/checkpoints/20' in said and 'going on from step 10' in said
  assert_equal(state, whole[1])
  assert log_of(copy) == log_of(whole[0])
  assert (copy / checkpoints.UNREADABLE / '20').exists()


def test_a_run_without_a_readable_checkpoint_is_not_begun_anew(copy, capsys):
  for step in (10, 20):
    damaged(copy, step, 'truncated')
  with pytest.raises(checkpoints.NotReadableError, match=r'none .* can be read.*checkpoints/10'):
    train.train(tinier_config(), copy, show=False)
  assert (copy / 'checkpoints' / '20').exists()


def test_a_checkpoint_that_the_run_deletes_meanwhile_is_not_called_damaged(whole, copy):
  with checkpoints.Manager(copy) as saved:
    assert saved.all_steps() == [10, 20]
    shutil.rmtree(copy / 'checkpoints' / '10')
    with pytest.raises(checkpoints.NotReadableError, match=r'/10 is no longer .* Ask again\.$'):
      checkpoints.restore(saved, whole[1], parallel.devices(), 10)


def test_a_checkpoint_of_a_version_whose_state_has_other_parts_is_not_called_damaged(whole, copy):
  like, message = {'step': whole[1].step}, r'/20 holds other parts .* another version wrote it\.$'
  with (
    checkpoints.Manager(copy) as saved,
    pytest.raises(checkpoints.NotReadableError, match=message),
  ):
    checkpoints.restore(saved, like, parallel.devices(), 20)


def test_a_state_that_holds_infinity_takes_no_checkpoints_place(whole, tmp_path):
  """This happens if BatchNorm's statistics overflow while the loss stays finite."""
  _, state = whole
  broken = jax.tree.map(lambda x: x + jnp.inf, state.batch_stats)
  with checkpoints.Manager(tmp_path) as saved:
    checkpoints.save(saved, state.replace(batch_stats=broken), {'validation': None})
    with pytest.raises(
      runlog.NotFiniteError, match=r'batch_stats/.* at step 20; what was saved is intact'
    ):
      checkpoints.finish(saved)
    assert saved.all_steps() == []


def test_one_altered_weight_is_refused(whole, tmp_path):
  """A checkpoint that can be read, but is not what was saved."""
  state = jax.device_get(whole[1])
  altered = jax.tree.map(lambda x: x.copy(), state.params)
  altered['head']['kernel'].ravel()[0] += 1
  with checkpoints.Manager(tmp_path) as saved:
    checkpoints.save(saved, state.replace(params=altered), {'validation': None})
    checkpoints.finish(saved)
    found = checkpoints.record_of(saved, 20)['digest']
    assert found == checkpoints.digest(state.replace(params=altered))
    change_record(tmp_path, 20, lambda record: record | {'digest': checkpoints.digest(state)})
    with pytest.raises(checkpoints.NotReadableError, match=r'/20: the state has checksum'):
      checkpoints.restore(saved, state, parallel.devices(), 20)


def test_an_altered_record_is_refused_and_counts_for_no_best_checkpoint(copy, capsys):
  record = copy / 'checkpoints' / '10' / 'record' / 'metadata'
  found = json.loads(record.read_text())
  assert sealed(found) == found and found['validation']['accuracy'] < 1
  record.write_text(json.dumps(found | {'validation': {'accuracy': 1.0, 'nll': 0.0}}))
  with checkpoints.Manager(copy) as saved:
    with pytest.raises(checkpoints.NotReadableError, match='/10: its record is not what was saved'):
      checkpoints.record_of(saved, 10)
    assert checkpoints.find(saved, 'best') == 20
    both = [types.SimpleNamespace(step=step, metrics=None) for step in (10, 20)]
    assert Best(saved.directory).should_preserve(both, context=None) == [False, True]
  assert '/10: its record is not what was saved: it was altered. It is left out.' in (
    capsys.readouterr().err
  )


def ready_for_a_full_disk(workdir):
  """The run at step 10, which will save after every step."""
  shutil.rmtree(workdir / 'checkpoints' / '20')
  shutil.rmtree(workdir / 'tensorboard')
  config = workdir / 'config.json'
  config.write_text(config.read_text().replace('"every_steps": 0', '"every_steps": 1'))


def together(start, workdir, count, *arguments, **options):
  """Starts `count` processes of one run."""
  address, several = (
    f'localhost:{started.free_port()}',
    options | {'env': started.without_devices()},
  )
  joined = (f'--coordinator-address={address}', f'--num-processes={count}', '--cpu-devices=2')
  return [start(workdir, *arguments, *joined, f'--process-id={i}', **several) for i in range(count)]


def assert_lost_nothing(whole, copy, error):
  """A run at step 10 said why it ended, and goes on to the very same numbers."""
  assert 'could not be written' in error and 'File too large' in error
  assert 'Traceback' not in error
  assert 'checkpoint at step 11' in error and 'that of step 10 is there' in error
  state = train.train(tinier_config(checkpoint__every_steps=1), copy, show=False)
  assert_equal(state, whole[1])
  assert log_of(copy) == log_of(whole[0])


# Files can grow only to 4 kB: enough for the log, not for a checkpoint.
def test_files_that_cannot_grow_end_the_run_with_the_reason_and_lose_nothing(
  whole, copy, config_file, capsys
):
  ready_for_a_full_disk(copy)
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
  try:
    status = main.main(['train', f'--config={config_file}', f'--workdir={copy}'])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert status == 2
  assert_lost_nothing(whole, copy, capsys.readouterr().err)


def test_files_that_cannot_grow_end_both_processes_of_a_run_with_the_reason(whole, start, copy):
  ready_for_a_full_disk(copy)
  processes = together(start, copy, 2, prefix=['bash', '-c', 'ulimit -f 4; exec "$@"', 'bash'])
  errors = [process.communicate(timeout=180)[1] for process in processes]
  assert [process.returncode for process in processes] == [2, 2], errors
  for error in errors:
    assert_lost_nothing(whole, copy, error)


# Runs in a file system of its own, with room for little more than the run; then copies it out.
FULL = """
mount -t tmpfs -o size=$SIZE tmpfs "$PLACE" && cp -r "$FROM"/. "$PLACE" || exit 99
"$@"; status=$?
cp -r "$PLACE"/. "$OUT"; exit $status
"""


def test_a_full_disk_ends_the_run_with_the_reason_and_it_goes_on_with_room(
  whole, start, copy, tmp_path
):
  alone = ['unshare', '-rm']
  try:
    subprocess.run([*alone, 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt'], check=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip('no file system can be mounted here without privileges')
  ready_for_a_full_disk(copy)
  held = sum(-(-path.stat().st_size // 4096) * 4096 for path in copy.rglob('*')) + 100_000
  place, out = tmp_path / 'place', tmp_path / 'out'
  place.mkdir(), out.mkdir()
  names = {'SIZE': str(held), 'PLACE': str(place), 'FROM': str(copy), 'OUT': str(out)}
  process = start(place, prefix=[*alone, 'bash', '-c', FULL, 'bash'], env=os.environ | names)
  _, error = process.communicate(timeout=180)
  assert process.returncode == 2, error
  # There is no room for a checkpoint, or for a line of the log. On a busy machine, TensorStore's
  # threads add to the same line that their event loop is closed.
  _, said = error.split('random-pruning: ')
  assert 'No space left on device' in said, error
  state = train.train(tinier_config(checkpoint__every_steps=1), out, show=False)
  assert_equal(state, whole[1])
  assert log_of(out) == log_of(whole[0])
