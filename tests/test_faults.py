"""What goes wrong on real machines, done to real runs: they go on to the very same numbers."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
import standin
import started
from killed import newest
from ports import free_port
from tiny import assert_equal, log_of, tinier_config

from random_pruning_jax import (
  beginning,
  checkpoints,
  data,
  feed,
  kernels,
  parallel,
  preemption,
  prepared,
  processor,
  run,
  runlog,
  train,
)
from random_pruning_jax.data import crops
from random_pruning_jax.experiment import build
from random_pruning_jax.meter import Meter

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
import sys
sys.path.insert(0, 'tests')
from tiny import tinier_config

def get_config():
  return tinier_config(checkpoint__every_steps=1)
"""


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An uninterrupted run, its workdir and last state; checkpoints of steps 10 and 20."""
  workdir = tmp_path_factory.mktemp('whole')
  return workdir, train.train(tinier_config(), workdir, show=False)


@pytest.fixture
def copy(whole, tmp_path):
  shutil.copytree(whole[0], tmp_path / 'copy')
  return tmp_path / 'copy'


@pytest.fixture
def start(tmp_path):
  """Starts `random-pruning train` on the tiny config, with a checkpoint after every step."""
  file = tmp_path / 'config.py'
  file.write_text(CONFIG)

  def command(workdir, *arguments, prefix=(), **options):
    train = [sys.executable, '-m', 'random_pruning_jax', 'train', f'--config={file}']
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


def test_sigterm_ends_the_command_with_its_own_status(start, tmp_path):
  process = start(tmp_path / 'run', '--config.epochs=200')
  wait_for_steps(tmp_path / 'run', process)
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=120)
  assert process.returncode == preemption.EXIT_STATUS == 75, error
  assert 'saved at step' in error and 'the same command goes on' in error


def test_a_signal_to_all_processes_of_a_streamed_run_leaves_its_workers_at_work(start, tmp_path):
  streamed = ('data_loading=streamed', 'augment.mode=resized', 'image_size=8', 'data_workers=1')
  fields = [f'--config.{field}' for field in ('epochs=200', *streamed)]
  process = start(tmp_path / 'run', *fields, start_new_session=True)
  wait_for_steps(tmp_path / 'run', process)
  os.killpg(process.pid, signal.SIGTERM)  # as SLURM does
  _, error = process.communicate(timeout=120)
  assert process.returncode == preemption.EXIT_STATUS, error


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
  """As where BatchNorm's statistics overflow and the loss stays finite."""
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
    record = tmp_path / 'checkpoints' / '20' / 'record' / 'metadata'
    found = checkpoints.digest(state.replace(params=altered))
    assert found in record.read_text()
    record.write_text(record.read_text().replace(found, checkpoints.digest(state)))
    with pytest.raises(checkpoints.NotReadableError, match=r'/20: the state has checksum'):
      checkpoints.restore(saved, state, parallel.devices(), 20)


def ready_for_a_full_disk(workdir):
  """The run at step 10, which will save after every step."""
  shutil.rmtree(workdir / 'checkpoints' / '20')
  shutil.rmtree(workdir / 'tensorboard')
  config = workdir / 'config.json'
  config.write_text(config.read_text().replace('"every_steps": 0', '"every_steps": 1'))


def together(start, workdir, count, *arguments, **options):
  """As many processes of one run as `count`."""
  address, several = f'localhost:{free_port()}', options | {'env': started.without_devices()}
  joined = (f'--coordinator-address={address}', f'--num-processes={count}', '--cpu-devices=2')
  return [start(workdir, *arguments, *joined, f'--process-id={i}', **several) for i in range(count)]


@pytest.mark.parametrize('processes', [1, 2])
def test_files_that_cannot_grow_end_the_run_with_the_reason_and_lose_nothing(
  whole, start, copy, processes
):
  """Files can grow to 4 kB only, which the log stays under and a checkpoint does not."""
  ready_for_a_full_disk(copy)
  limited = {'prefix': ['bash', '-c', 'ulimit -f 4; exec "$@"', 'bash']}
  if processes == 1:
    all_of_them = [start(copy, **limited)]
  else:
    all_of_them = together(start, copy, processes, **limited)
  for process in all_of_them:
    _, error = process.communicate(timeout=180)
    assert process.returncode == 2, error
    assert 'could not be written' in error and 'File too large' in error
    assert 'Traceback' not in error
    assert 'checkpoint at step 11' in error and 'that of step 10 is there' in error
  state = train.train(tinier_config(checkpoint__every_steps=1), copy, show=False)
  assert_equal(state, whole[1])
  assert log_of(copy) == log_of(whole[0])


# In a file system of its own, with room for the run as it is and little more; then it is taken out.
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
  # For a checkpoint, or for a line of the log. On a busy machine TensorStore's threads write into
  # the same line that their event loop is closed.
  _, said = error.split('random-pruning: ')
  assert 'No space left on device' in said, error
  state = train.train(tinier_config(checkpoint__every_steps=1), out, show=False)
  assert_equal(state, whole[1])
  assert log_of(out) == log_of(whole[0])


def test_a_run_does_not_go_on_with_other_training_images(copy):
  record = copy / 'checkpoints' / '20' / 'record' / 'metadata'
  shutil.rmtree(copy / 'checkpoints' / '10')
  record.write_text(json.dumps(json.loads(record.read_text()) | {'per_epoch': 9}))
  with pytest.raises(ValueError, match='had 9 steps an epoch until step 20, and would have 10'):
    train.train(tinier_config(), copy, show=False)


def test_a_run_does_not_go_on_with_images_that_have_other_labels(copy, monkeypatch):
  load = data.load

  def turned(*arguments, **options):
    images, labels = load(*arguments, **options)
    return data.Images(images, labels[::-1])

  monkeypatch.setattr(data, 'load', turned)
  with pytest.raises(ValueError, match=r'checksum of training labels was .*, and is '):
    train.train(tinier_config(), copy, show=False)


SAVED = {'step': 5, 'per_epoch': 10, 'devices': 4, 'pixels': crops.pixels(), 'crops': crops.VERSION}


def test_other_pixels_of_the_same_labels_are_said(capsys):
  run = prepared.open_run(build(tinier_config()))
  record = SAVED | {'data': run.facts}
  beginning.check_record(run, record)
  assert not capsys.readouterr().err
  measured = {'mean': [mean + 1e-5 for mean in run.facts['mean']]}  # as decoders may differ
  beginning.check_record(run, record | {'data': run.facts | measured | {prepared.PIXELS: 'others'}})
  assert 'until step 5 training images had other pixels' in capsys.readouterr().err


def test_other_devices_are_said_where_they_change_what_is_computed(capsys):
  record = SAVED | {'devices': 2}
  beginning.check_record(prepared.open_run(build(tinier_config())), record)
  assert not capsys.readouterr().err
  run = prepared.open_run(build(tinier_config(optimizer__accumulate=2)))
  beginning.check_record(run, SAVED)
  assert not capsys.readouterr().err
  beginning.check_record(run, record)
  assert 'there were 2 devices, and now there are 4' in capsys.readouterr().err


def test_pixels_of_streamed_images_that_will_differ_after_a_resume_are_said(capsys):
  record = SAVED | {'pixels': 'another'}
  resident = prepared.open_run(build(tinier_config()))
  beginning.check_record(resident, record)
  assert 'resized' not in capsys.readouterr().err
  streamed = {'data_loading': 'streamed', 'augment__mode': 'resized', 'data_workers': 0}
  run = prepared.open_run(build(tinier_config(image_size=8, **streamed)))
  beginning.check_record(run, SAVED)
  assert 'WARNING' not in capsys.readouterr().err
  beginning.check_record(run, SAVED | {'crops': 1})
  assert 'until step 5 another version of this package cut' in capsys.readouterr().err
  beginning.check_record(run, record)
  said = capsys.readouterr().err
  assert 'WARNING: until step 5 another resized' in said and f'now {crops.pixels()} does' in said


def test_a_run_says_when_another_jax_will_go_on_with_it(copy, capsys):
  run = prepared.open_run(build(tinier_config()), copy)
  for step, said in ((20, False), (10, True)):  # at 20 it has ended
    record = copy / 'checkpoints' / str(step) / 'record' / 'metadata'
    beginning.restore_or_init(run)
    assert 'JAX' not in capsys.readouterr().err
    saved = json.loads(record.read_text())
    assert saved['jax'] == jax.__version__
    record.write_text(json.dumps(saved | {'jax': '0.1'}))
    beginning.restore_or_init(run)
    warning = f'until step {step} JAX 0.1 computed, now {jax.__version__} does'
    assert (warning in capsys.readouterr().err) == said
    shutil.rmtree(record.parents[1])
    run.saved.orbax.reload()
  run.saved.close()


EIGHT = """
import sys
sys.path.insert(0, 'tests')
from tiny import tinier_config
from random_pruning_jax import beginning, checkpoints, parallel
from random_pruning_jax.experiment import build
experiment = build(tinier_config())
like = beginning.abstract_state(experiment)
with checkpoints.Manager(sys.argv[1]) as saved:
  for devices in (1, 2, 4, 8):
    state = checkpoints.restore(saved, like, parallel.devices(devices), 20).state
    on = state.params['head']['kernel'].sharding.device_set
    print('on', len(on), checkpoints.digest(state))
"""


@pytest.fixture(scope='module')
def on_eight(whole):
  """The digests of a checkpoint of four devices, read on some of eight: {devices: digest}."""
  command = [sys.executable, '-c', EIGHT, str(whole[0])]
  environment = started.without_devices() | {'JAX_NUM_CPU_DEVICES': '8'}
  read = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
  assert read.returncode == 0, read.stderr
  lines = [line.split() for line in read.stdout.splitlines()]
  return {int(words[1]): words[2] for words in lines if words[:1] == ['on']}


@pytest.mark.parametrize('devices', [1, 2, 4, 8])
def test_a_checkpoint_of_four_devices_is_the_same_on_any_number(whole, on_eight, devices):
  assert on_eight[devices] == checkpoints.digest(whole[1])


ACCELERATED = """
import sys
sys.path.insert(0, 'tests')
import jax
from tiny import tinier_config
from random_pruning_jax import checkpoints, parallel, train
if jax.default_backend() == 'cpu':
  sys.exit(77)
on = parallel.devices(1)
print(checkpoints.digest(train.train(tinier_config(), sys.argv[1], on=on, show=False)))
"""


@pytest.mark.parametrize('kind', ['stand-in', 'accelerator'])
def test_a_checkpoint_of_an_accelerator_goes_on_on_a_cpu(whole, tmp_path, kind):
  """It is the same to the bit, and its second half can be trained here. The stand-in is one for
  JAX (standin.py)."""
  environment = {name: value for name, value in os.environ.items() if name != 'JAX_PLATFORMS'}
  if kind == 'stand-in' and not standin.plugin():
    pytest.skip(f'{standin.PACKAGE}, which brings the stand-in, is not installed')
  if kind == 'accelerator' and processor.only_cpu(environment):
    pytest.skip('no accelerator is here that JAX is installed for')
  script = tmp_path / 'script.py'
  script.write_text(ACCELERATED)
  through = ['tests/standin.py'] if kind == 'stand-in' else []
  command = [sys.executable, *through, str(script), str(tmp_path / 'run')]
  paths = {'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])}
  ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment | paths)
  if kind == 'accelerator' and ran.returncode == 77:
    pytest.skip('no accelerator was found')
  assert ran.returncode == 0, ran.stderr
  with checkpoints.Manager(tmp_path / 'run') as saved:
    read = checkpoints.restore(saved, whole[1], parallel.devices(), 20).state
  assert checkpoints.digest(read) == ran.stdout.split()[-1]
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '20')
  assert int(train.train(tinier_config(), tmp_path / 'run', show=False).step) == 20
