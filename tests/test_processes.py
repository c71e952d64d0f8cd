"""Real processes on loopback: two of two devices give the numbers of one with four."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import started
from tiny import tinier_config

from random_pruning_jax import (
  checkpoints,
  cost,
  feed,
  masks,
  parallel,
  run,
  together,
  train,
)
from random_pruning_jax.experiment import (
  build,
  initial_masks,
  initial_variables,
  keys,
  score_batches,
)
from random_pruning_jax.training import beginning

ROOT = pathlib.Path(__file__).parents[1]
# All in one start of the processes, since each compiles for itself:
# - They do what `both` does; a run of one process goes on in them.
# - Process 1 sees one workdir late, and another in part.
# - Processes that disagree stop.
SCRIPT = """
import json
import sys
sys.path.insert(0, 'tests')
import jax
jax.config.update('jax_num_cpu_devices', 2)
from random_pruning_jax import parallel
from random_pruning_jax import together
from random_pruning_jax.system import hosts
hosts.connect(sys.argv[2], 2, int(sys.argv[3]))
from test_processes import SNIP, both
from tiny import tinier_config
import os
import pathlib
import shutil
import signal
import threading
import time
import numpy as np
from random_pruning_jax import checkpoints, data, feed, masks, run, train
from random_pruning_jax.training import beginning, prepared
from random_pruning_jax import footprint, measure, suites
from random_pruning_jax.system import preemption
from random_pruning_jax.training import room
from random_pruning_jax.commands import sweep
from random_pruning_jax.experiment import build
workdir = pathlib.Path(sys.argv[1])
both(workdir)
(workdir / f'together{jax.process_index()}').write_text(str(room.group_size(tinier_config())))
try:
  footprint.footprint(tinier_config(), tuple(jax.devices()))
except ValueError as error:
  (workdir / f'refused{jax.process_index()}').write_text(str(error))
run.run(tinier_config(**SNIP), workdir / 'of_one', show=False)
number = jax.process_index()
assert together.gather(np.full((1, 2), number)).tolist() == [[0, 0], [1, 1]]
assert together.of_first('of process ' + 'ab'[number] * 5000) == 'of process ' + 'a' * 5000
drawn = beginning.initial_masks
beginning.initial_masks = lambda *given: jax.tree.map(lambda x: np.roll(x, number), drawn(*given))
ready = prepared.open_run(build(tinier_config(**SNIP)), workdir / 'begun')
begun, _ = beginning.restore_or_init(ready)
beginning.initial_masks = drawn
(workdir / f'masks{number}').write_text(masks.checksum(jax.device_get(begun.masks)))
mine = {'kernel': np.arange(6.0) + number}
same = {'kernel': np.ones(6, bool)}
def only_here():
  with together.failing_together():
    if number == 1:
      raise OSError('no space is left here')
def turned(images):
  return data.Images(images.images[:: 1 - 2 * number], images.labels)
def other_images():
  made = feed.feed
  feed.feed = lambda experiment: made(experiment)._replace(images=turned(made(experiment).images))
  try:
    prepared.open_run(build(tinier_config()))
  finally:
    feed.feed = made
def other_held_out():
  made = feed.held_out
  feed.held_out = lambda experiment: turned(made(experiment))
  try:
    prepared.open_run(build(tinier_config()))
  finally:
    feed.held_out = made
seen = workdir
if number == 1:  # all but a checkpoint, which comes later, and the row
  seen = workdir / 'seen'
  shutil.copytree(workdir / 'checkpoints', seen / 'checkpoints')
  shutil.copy(workdir / 'config.json', seen)
  (seen / 'checkpoints' / '20').rename(seen / '20')
  come = (seen / '20').rename, (seen / 'checkpoints' / '20',)
  threading.Timer(2.0, *come).start()
experiment, (state, record, final) = measure.load_run(seen, '20')
found = {'restored': [int(state.step), checkpoints.digest(state), record, final]}
together.SHARED_WITHIN = 1.0
if number == 1:
  (seen / 'checkpoints' / '20').rename(seen / '20')
_, record, final = measure.load_state(experiment, seen, '20', trained=state)
found |= {'trained': [record, final]}
with checkpoints.Manager(seen) as saved:
  found |= {'best': checkpoints.find(saved, 'best')}
found |= {'row': run._row(tinier_config(**SNIP), seen, False, state)}
(workdir / f'found{number}').write_text(json.dumps(found))
def go_on():
  with checkpoints.Manager(seen) as saved:
    like = lambda _: beginning.abstract_state(experiment)
    checkpoints.restore_newest(saved, like, experiment.on)
def not_shared():
  place = workdir / f'of{number}'
  place.mkdir()
  together.check_shared('the workdir', place)
def lacking():  # 'mnist' is not here
  bench = suites.Bench(build(tinier_config()), {}, {})
  bench.images('mnist' if number else 'natural_patches')
def other_foreign():
  bench = suites.Bench(build(tinier_config()), {}, {})
  bench.images('digits' if number else 'natural_patches')
other = workdir / 'other'
disagreements = {
  'images': other_images,
  'held out': other_held_out,
  'foreign': other_foreign,
  'suites': lambda: measure.evaluate_run(workdir, suite=('quick', 'ood')[: 1 + number]),
  'unseen': go_on,
  'measured': lambda: measure.load_run(seen, '20'),
  'shared': not_shared,
  'set': lacking,
  'sweep': sweep._check_alone,
  'config': lambda: train.train(tinier_config(seed=number), other, show=False),
  'weights': lambda: beginning.check_beginning(mine, same),
  'masks': lambda: beginning.check_beginning(same, {'kernel': mine['kernel'] > 0}),
  # Which process 0 alone finds.
  'workdir': lambda: run.run(tinier_config(epochs=3, **SNIP), workdir, show=False),
  'disk': only_here,
  'step': lambda: together.wait_for_all(f'step {number}'),
}
said = {}
for name, disagree in disagreements.items():
  try:
    disagree()
  except (ValueError, OSError, data.DataError) as error:
    said[name] = str(error)
assert not other.exists()
(workdir / f'said{number}').write_text(json.dumps(said))
with preemption.Watch() as watch:  # one run
  assert not any(watch.asked() for _ in range(60))
if number == 1:  # while no step is taken
  os.kill(os.getpid(), signal.SIGTERM)
asked = 1
with preemption.Watch() as watch:  # the next
  while not watch.asked():
    asked += 1
    time.sleep(0.2)
(workdir / f'asked{number}').write_text(str(asked))
"""
# A small learning rate, so that rounding stays rounding.
SNIP = {'pruning__ratio': 'snip', 'optimizer__lr': 0.01}
STREAMED = {
  'optimizer__lr': 0.01,
  'data_loading': 'streamed',
  'augment__mode': 'resized',
  'image_size': 8,
  'data_workers': 0,
}


def both(workdir):
  """What one process does here, and two do in SCRIPT.

  A run trains and evaluates; SNIP's densities come from gradients on all the processes, as do the
  other scores' masks. A streamed run loses its last checkpoint and goes on.
  """
  first = jax.process_index() == 0
  run.run(tinier_config(**SNIP), workdir, show=False)
  kept = {}
  for score in ('grasp', 'synflow'):
    experiment = build(tinier_config(pruning__ratio=score, pruning__select=score))
    shallow = experiment.model.clone(width=8)
    structure = cost.structure(shallow, experiment.spec.shape)
    experiment = experiment._replace(model=shallow, structure=structure)
    images = feed.feed(experiment).images
    variables = initial_variables(experiment.model, keys(0).init, experiment.spec.shape)
    found = initial_masks(experiment, variables, score_batches(experiment, images))
    kept |= {f'{score}/{name}': mask for name, mask in masks.named_leaves(found).items()}
  place = workdir / 'streamed'
  whole = train.train(tinier_config(**STREAMED), place, show=False)
  together.wait_for_all('the whole run is saved')
  if first:
    shutil.rmtree(place / 'checkpoints' / '20')
  together.wait_for_all('its last checkpoint is gone')
  again = train.train(tinier_config(**STREAMED), place, show=False)
  assert checkpoints.digest(again) == checkpoints.digest(whole)
  if first:
    weights = masks.named_leaves(jax.device_get(again.params))
    np.savez(workdir / 'scores.npz', **kept, **{f'weights/{n}': x for n, x in weights.items()})
    (workdir / 'digest').write_text(checkpoints.digest(again))


def start(workdir, *rest):
  return subprocess.Popen(
    [sys.executable, '-c', SCRIPT, str(workdir), *map(str, rest)],
    env=started.without_devices(),
    cwd=ROOT,
    stderr=subprocess.PIPE,
    text=True,
  )


def row(workdir):
  return json.loads((workdir / 'results.jsonl').read_text())


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """The workdir of this process, of four devices."""
  workdir = tmp_path_factory.mktemp('alone')
  both(workdir)
  return workdir


@pytest.fixture(scope='module')
def two(alone, tmp_path_factory):
  """The workdir of two processes of two devices; `of_one` in it goes on from step 10 of `alone`."""
  workdir = tmp_path_factory.mktemp('two')
  kept = ('config.json', 'train.jsonl', 'checkpoints')
  others = [path.name for path in alone.iterdir() if path.name not in kept]
  shutil.copytree(alone, workdir / 'of_one', ignore=shutil.ignore_patterns(*others))
  shutil.rmtree(workdir / 'of_one' / 'checkpoints' / '20')
  address = f'localhost:{started.free_port()}'
  for process in [start(workdir, address, i) for i in range(2)]:
    _, error = process.communicate()
    assert process.returncode == 0, error
  return workdir


def read(workdir, devices, config):
  """The last state of a run in `workdir`, on that many devices of this process."""
  experiment = build(tinier_config(**config))
  like = beginning.abstract_state(experiment)
  with checkpoints.Manager(workdir) as saved:
    return checkpoints.restore(saved, like, parallel.devices(devices), 20).state


def assert_close(one, other, tolerance):
  """Weights that differ in the order in which gradients were summed, and nothing else."""
  pairs = jax.device_get((one.params, other.params))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), *pairs)


def assert_same_numbers(one, other):
  """Of all 360 test images, each once; rounding may change the answer to one of them."""
  for found in (one, other):
    assert found['images'] == sum(found['reliability']['count']) == 360
  assert one['metrics'].keys() == other['metrics'].keys()
  for name, value in one['metrics'].items():
    assert other['metrics'][name] == pytest.approx(value, abs=1.1 / 360), name


def test_two_processes_of_two_devices_equal_one_of_four(alone, two):
  one, both = row(alone), row(two)
  assert both['hosts'] == 2 and both['devices'] == 4
  assert both['masks'] == one['masks']
  assert_same_numbers(both, one)
  assert_close(read(two, 4, SNIP), read(alone, 4, SNIP), 2e-4)
  one, both = (np.load(workdir / 'scores.npz') for workdir in (alone, two))
  assert set(one) == set(both) and any(name.startswith('grasp') for name in one)
  for name in one:
    if name.startswith('weights'):  # of the streamed run, interrupted
      np.testing.assert_allclose(both[name], one[name], atol=2e-5, err_msg=name)
    else:  # two weights swap places where their scores differ by less than rounding
      assert (both[name] != one[name]).sum() <= 2, name


def test_a_run_of_one_process_goes_on_in_two(alone, two):
  """The checkpoint of step 10 was all that was left; two processes took it from there."""
  assert (two / 'of_one' / 'checkpoints' / '20').exists()
  assert row(two / 'of_one')['step'] == row(alone)['step']
  assert_same_numbers(row(two / 'of_one'), row(alone))
  assert_close(read(two / 'of_one', 4, SNIP), read(alone, 4, SNIP), 2e-4)


def test_every_process_looks_at_the_memory_of_a_device_of_its_own(two):
  assert [(two / f'together{i}').read_text() for i in range(2)] == ['4', '4']


def test_a_footprint_is_for_one_process(two):
  for i in range(2):
    assert 'by one process' in (two / f'refused{i}').read_text()


@pytest.mark.parametrize('devices', [1, 2, 4])
def test_a_checkpoint_of_two_processes_is_the_same_in_one(two, devices):
  state = read(two / 'streamed', devices, STREAMED)
  assert checkpoints.digest(state) == (two / 'digest').read_text()
  assert len(state.params['head']['kernel'].sharding.device_set) == devices
  # It was written from the host, and so names no device that must be there again.
  assert not list((two / 'streamed').rglob('_sharding'))


@pytest.fixture(scope='module')
def said(two):
  """What each of the two was told where they did not agree."""
  return [json.loads((two / f'said{i}').read_text()) for i in range(2)]


@pytest.mark.parametrize(
  ('what', 'whole'),
  [
    ('config', 'the config'),
    ('images', 'the training images'),
    ('held out', 'the validation images'),
    ('suites', 'what is evaluated'),
    ('masks', 'the masks'),
    ('weights', 'the initial weights'),
    ('step', 'what processes wait for'),
  ],
)
def test_a_process_that_begins_with_another_is_named(said, what, whole):
  wanted = f'{whole} must be the same on all 2 processes; process 1 differs from process 0.'
  assert [each[what] for each in said] == [wanted] * 2


def test_masks_of_scores_are_those_of_the_first_process_whatever_others_computed(two):
  assert [(two / f'masks{i}').read_text() for i in range(2)] == [row(two)['masks']] * 2


def test_a_workdir_that_is_not_shared_is_named(said):
  wanted = 'the workdir must be one that all processes share; process 1 does not see what process 0'
  assert all(each['shared'].startswith(wanted) for each in said)


def test_foreign_images_that_are_others_on_another_process_are_named(said):
  wanted = 'must be the same on all 2 processes; process 1 differs from process 0.'
  whole = ['natural_patches', 'digits']  # as each calls them
  for each, name in zip(said, whole, strict=True):
    assert each['foreign'] == f'the images of {name} test {wanted}'


def test_processes_wait_until_all_see_the_checkpoint_that_the_first_chose(two):
  """Process 1 sees it two seconds late."""
  one, other = (json.loads((two / f'found{i}').read_text())['restored'] for i in range(2))
  assert one == other and one[0] == 20 and one[1] == one[2]['digest']


def test_what_was_trained_is_measured_where_another_does_not_see_its_checkpoint_or_row(two):
  one, other = (json.loads((two / f'found{i}').read_text()) for i in range(2))
  assert one == other and one['trained'] == one['restored'][2:]
  assert one['row']['metrics'] == row(two)['metrics']


@pytest.mark.parametrize('what', ['unseen', 'measured'])
def test_a_checkpoint_that_another_process_does_not_see_ends_all_and_stays(two, said, what):
  wanted = 'checkpoint 20 must be seen here as process 0 sees it: checkpoint'
  assert said[1][what].startswith(wanted) and said[0][what] == f'process 1: {said[1][what]}'
  assert (two / 'checkpoints' / '20').exists() and not (two / 'unreadable').exists()


def test_what_one_process_lacks_all_do_without(said):
  assert 'mnist' in said[1]['set'] and said[0]['set'] == f'process 1: {said[1]["set"]}'


def test_a_sweep_of_processes_that_found_each_other_is_refused(said):
  assert all('--num-processes=1 keeps this one alone' in each['sweep'] for each in said)


def test_a_signal_between_two_runs_stops_the_next(two):
  asked = [int((two / f'asked{i}').read_text()) for i in range(2)]
  assert asked[0] == asked[1] < 50  # not after as many calls as the first made


def test_what_is_refused_on_one_process_ends_all(said):
  assert 'holds another config: epochs is 2, got 3' in said[0]['workdir']
  assert said[1]['workdir'] == f'process 0: {said[0]["workdir"]}'
  assert [each['disk'] for each in said] == [
    'process 1: no space is left here',
    'no space is left here',
  ]
