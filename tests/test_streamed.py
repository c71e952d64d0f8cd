"""Streamed images: each step sees its own images, and training runs."""

import gc
import json
import os
import pathlib
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import shared_memory

import jax
import numpy as np
import pytest
from colours import TEST, TRAIN, all_of, example, source, streamed_config, who
from PIL import Image
from tiny import tinier_config

from random_pruning_jax import (
  checkpoints,
  data,
  export,
  feed,
  measure,
  runlog,
  train,
)
from random_pruning_jax.data import crops, folder, order, streamed
from random_pruning_jax.data.digits import png
from random_pruning_jax.experiment import build, score_batches
from random_pruning_jax.suites import bench

pytestmark = pytest.mark.usefixtures('data_dir')


@pytest.fixture(scope='module', autouse=True)
def earlier_objects_are_aside():
  """Each stream collects garbage as it ends, which takes seconds among objects of other files."""
  gc.freeze()
  yield
  gc.unfreeze()


def small_config(data_dir, **changes):
  """A streamed run of two layers, which compile in half the time."""
  return streamed_config(data_dir, **{'model__name': tinier_config().model.name} | changes)


@pytest.mark.parametrize('decoder', crops.DECODERS)
def test_an_epoch_shows_each_image_once_in_the_order_of_its_seed(data_dir, decoder, monkeypatch):
  if not all(map(crops.installed, crops.NEEDED[decoder])):
    pytest.skip(f'{decoder} is not installed')
  monkeypatch.setattr(streamed, 'TOGETHER', 5)  # a batch is read in parts, the last of them smaller
  whole = streamed.Augment((8, 8), 3)
  stored = who(np.stack([whole(data) for data, _ in source(data_dir).read(range(36))]))
  shown = example(data_dir, batch_size=TRAIN, decoder=decoder)
  for epoch in range(2):
    batches = list(streamed.batches(shown, 3 * epoch, 3 * epoch + 3, workers=0))
    seen = who(np.concatenate([batch['image'] for batch in batches]))
    assert sorted(seen) == all_of(TRAIN)
    assert seen == [stored[i] for i in order.epoch_order(5, epoch, 36)]
    assert [c for c, _ in seen] == np.concatenate([batch['label'] for batch in batches]).tolist()


def test_an_incomplete_batch_at_the_end_of_an_epoch_is_dropped(data_dir):
  """Of 36 images in batches of 8, four are dropped, and others in the next epoch."""
  seen = who(
    np.concatenate([b['image'] for b in streamed.batches(example(data_dir), 0, 8, workers=0)])
  )
  dropped = [set(all_of(TRAIN)) - set(part) for part in (seen[:32], seen[32:])]
  assert [len(part) for part in dropped] == [4, 4] and dropped[0] != dropped[1]


def assert_same(one, other):
  for a, b in zip(one, other, strict=True):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_worker_processes_starts_and_hosts_change_no_pixel(data_dir):
  whole = list(streamed.batches(example(data_dir), 0, 6, workers=0))
  assert whole[0]['image'].shape == (8, 16, 16, 3) and whole[0]['image'].dtype == np.uint8
  assert_same(streamed.batches(example(data_dir), 3, 6, workers=0), whole[3:])
  processes = [
    jax.tree.map(np.copy, b) for b in streamed.batches(example(data_dir), 0, 6, workers=2)
  ]
  assert_same(processes, whole)
  halves = [
    list(streamed.batches(example(data_dir, mine), 0, 6, workers=0))
    for mine in (range(4), range(4, 8))
  ]
  joined = [jax.tree.map(lambda *x: np.concatenate(x), *pair) for pair in zip(*halves, strict=True)]
  assert_same(joined, whole)


# A run whose workers decode the images that it streams.
STREAMING = """
import contextlib, multiprocessing, signal, sys, time
from random_pruning_jax.data import streamed
workers = int(sys.argv[2])
source = streamed.EncodedImages('colours', 'train', sys.argv[1])
example = streamed.Example(source, streamed.Augment((16, 16), 3), 5, 8, tuple(range(8)))
steps = streamed.batches(example, 0, 1000, workers=workers)
for _ in range(workers):
  next(steps)  # one of each worker
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
with contextlib.closing(steps):
  print(*(child.pid for child in multiprocessing.active_children()), flush=True)
  time.sleep(60)
"""


# Images that are held out are decoded by other workers, for the cache.
DECODING = """
import multiprocessing, sys, time
import joblib
from random_pruning_jax.data import decode, find
joblib.cpu_count = lambda: 2
decode.CHUNK, decode.IDLE = 1, 60
decoded = decode.decode('colours', find('colours', sys.argv[1]), 'train', (16, 16))
next(decoded.chunks)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize('script', [STREAMING, DECODING])
def test_workers_end_with_a_run_that_is_killed(data_dir, script):
  root = pathlib.Path(__file__).parents[1]
  command = [sys.executable, '-c', script, data_dir, '2']
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.DEVNULL}
  with subprocess.Popen(command, cwd=root, text=True, **pipes) as streaming:
    workers = [int(number) for number in streaming.stdout.readline().split()]
    streaming.kill()
    # Each has a copy of this pipe's other end, which is closed once all of them have ended.
    ended = select.select([streaming.stdout], [], [], 20)[0]
    for worker in () if ended else workers:
      os.kill(worker, signal.SIGKILL)
  assert len(workers) == 2 and ended


def test_a_worker_that_finds_shared_memory_full_is_told_with_what_to_do():
  """The system then ends it by SIGBUS. Containers often have 64 MB, less than a batch."""
  steps = streamed.batches(lambda step: os.kill(os.getpid(), signal.SIGBUS), 0, 1, workers=1)
  with pytest.raises(ChildProcessError, match=r'^one of the data_workers ended: .*/dev/shm must'):
    next(steps)


def test_signals_that_all_processes_of_a_run_get_end_no_worker():
  def signalled(step):
    for number in (signal.SIGTERM, signal.SIGINT):
      os.kill(os.getpid(), number)
    return step

  assert list(streamed.batches(signalled, 0, 1, workers=1)) == [0]


def test_ctrl_c_is_for_the_run_and_not_for_its_workers(data_dir):
  root = pathlib.Path(__file__).parents[1]
  command = [sys.executable, '-c', STREAMING, data_dir, '1']
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
  with subprocess.Popen(command, cwd=root, text=True, start_new_session=True, **pipes) as streaming:
    streaming.stdout.readline()
    os.killpg(streaming.pid, signal.SIGINT)
    said = streaming.communicate(timeout=60)[1]
  assert said.count('Traceback') == 1 and said.splitlines()[-1] == 'KeyboardInterrupt'


def test_an_image_is_cropped_otherwise_in_each_epoch_and_with_each_seed(data_dir):
  def epoch(start, seed=5):
    steps = range(start, start + 4)
    found = streamed.batches(example(data_dir, seed=seed), start, start + 4, workers=0)
    return {
      int(index): image
      for step, batch in zip(steps, found, strict=True)
      for index, image in zip(order.batch_indices(seed, step, 36, 8), batch['image'], strict=True)
    }

  first = epoch(0)
  for other in (epoch(4), epoch(0, seed=6)):
    both = first.keys() & other.keys()
    assert sum((first[i] != other[i]).any() for i in both) > 0.9 * len(both)


def test_half_of_the_images_are_mirrored():
  image, rng = np.zeros((8, 8, 3), np.uint8), np.random.default_rng(0)
  image[:, :4] = 255
  augment = streamed.Augment((8, 8), 3, random=False)
  as_it_is = sum(augment(png(image), rng)[0, 0, 0] == 255 for _ in range(400))
  assert 160 < as_it_is < 240


@pytest.mark.parametrize('split', ['validation', 'test'])
def test_evaluation_decodes_every_image_once(data_dir, split):
  """Images held out are in a folder `val`."""
  experiment = build(small_config(data_dir))
  images, labels = feed.held_out(experiment, split)
  assert images.shape == (15, 16, 16, 3) and sorted(who(images)) == all_of(TEST)
  assert [label for label, _ in who(images)] == labels.tolist()


def test_statistics_are_of_training_images_as_evaluation_shows_images(data_dir):
  """No matter what decodes the images that training sees."""
  experiment = build(small_config(data_dir))
  measured = bench.Bench(experiment, {}, {}).images(split='train')
  wanted, labels = data.load(
    'colours', 'train', data_dir, size=(16, 16), resize=experiment.spec.resize
  )
  np.testing.assert_array_equal(measured.images[:], wanted)
  np.testing.assert_array_equal(measured.labels[:], labels)


def test_what_a_config_says_of_crops_is_what_images_go_through(data_dir):
  crops = {'area': (0.2, 0.5), 'aspect': (0.9, 1.1)}
  fields = {f'augment__{name}': value for name, value in crops.items()}
  experiment = build(small_config(data_dir, resize=20, **fields | {'augment__flip': 'no'}))
  found = feed.stream_example(experiment, source(data_dir)).augment
  assert found == streamed.Augment((16, 16), 3, random=True, flip=False, resize=20, **crops)
  wanted = data.load('colours', 'validation', data_dir, size=(16, 16), resize=20)
  np.testing.assert_array_equal(feed.held_out(experiment).images, wanted.images)


@pytest.fixture(scope='module')
def whole(data_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole')
  return workdir, train.train(small_config(data_dir), workdir, show=False)


def test_a_streamed_run_trains_and_is_measured(whole):
  workdir, state = whole
  assert int(state.step) == 2 * (36 // 8)
  row = measure.evaluate_run(workdir, show=False)
  assert row['images'] == 15 and 0 <= row['metrics']['accuracy'] <= 1


def test_an_exported_network_is_shown_what_evaluation_shows(whole, data_dir):
  about = export.read(whole[0]).about
  spec = build(small_config(data_dir)).spec
  assert (about.shape, about.resize) == ((16, 16, 3), spec.resize) and spec.resize > 16


def test_an_interrupted_streamed_run_goes_on_to_the_very_same_numbers(whole, data_dir, tmp_path):
  """Threads decoded its images, and a process does when it goes on."""
  config = small_config(data_dir, checkpoint__every_steps=3)

  def stopped(experiment):
    fed = made(experiment)

    def stream(calls):
      for number, inputs in enumerate(fed.stream(calls)):
        if number == 5:
          raise KeyboardInterrupt
        yield inputs

    return fed._replace(stream=stream)

  made = feed.feed
  with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(feed, 'feed', stopped)
    train.train(config, tmp_path, show=False)
  config.data_workers = 1
  state = train.train(config, tmp_path, show=False)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(whole[1]))
  # Memory that the worker shared, which a thread of Grain's releases.
  deadline = time.monotonic() + 10
  # Counted, since a list of them would keep them.
  while held := sum(type(x) is shared_memory.SharedMemory for x in gc.get_objects()):
    assert time.monotonic() < deadline, held
    time.sleep(0.01)


def changed(data_dir, to, change):
  """The set made anew in `to`, of its folder after `change`; returns its data_dir."""
  images = pathlib.Path(data_dir).parent / 'images'
  shutil.copytree(images, to / 'images')
  change(to / 'images')
  folder.prepare_folder(to / 'images', 'colours', str(to / 'tfds'))
  return str(to / 'tfds')


def brighten(images):
  for path in images.glob('train/*/*'):
    Image.open(path).point(lambda value: value // 2 + 90).save(path)


def rename(images):
  for path in images.glob('*/red'):
    path.rename(path.with_name('amber'))


def drop(images):
  for path in images.glob('*/red'):
    shutil.rmtree(path)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (brighten, r'its mean was \[0\.\d+, .*\], and is \[0\.\d+, .*\]\.$'),
    (rename, "its class 0 was 'blue', and is 'amber'"),
    (drop, 'its number of classes was 3, and is 2'),
  ],
)
def test_other_data_of_the_same_name_are_refused_wherever_a_run_is_read(
  whole, data_dir, tmp_path, change, message
):
  other = changed(data_dir, tmp_path, change)
  message = f"^colours at data_dir '{other}' is not the data set that .*{message}"
  with pytest.raises(ValueError, match=message):
    train.train(small_config(other), whole[0], show=False)
  with pytest.raises(ValueError, match=message):
    measure.load_run(whole[0], data_dir=other)
  assert not (whole[0] / checkpoints.UNREADABLE).exists()


def test_a_set_of_more_files_than_a_process_may_usually_open_is_read(data_dir, tmp_path):
  """As ImageNet is: 1,024 files, where the usual limit is 1,024."""
  shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
  path, shards = data.find('colours', str(tmp_path)), 12
  (file,) = path.glob('*-train.*')
  for shard in range(shards):
    os.link(file, path / f'colours-train.array_record-{shard:05}-of-{shards:05}')
  info = json.loads((path / 'dataset_info.json').read_text())
  for split in info['splits']:
    split['shardLengths'] *= shards if split['name'] == 'train' else 1
  (path / 'dataset_info.json').write_text(json.dumps(info))
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/dev/fd')) + shards // 2, hard))
  try:
    assert len(np.asarray(streamed.Labels(source(str(tmp_path))))) == 36 * shards
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_identity_of_streamed_images_is_of_images_labels_and_their_number(data_dir, tmp_path):
  known = source(data_dir).identity()
  shutil.copytree(data_dir, tmp_path / 'copy')
  assert source(str(tmp_path / 'copy')).identity() == known

  def swap(images):
    (images / 'train/red').rename(images / 'aside')
    (images / 'train/blue').rename(images / 'train/red')
    (images / 'aside').rename(images / 'train/blue')

  changes = {
    'labels': swap,
    'image': lambda images: shutil.copy(images / 'train/red/1.jpg', images / 'train/red/0.jpg'),
    'number': lambda images: (images / 'train/red/0.jpg').unlink(),
  }
  for name, change in changes.items():
    assert source(changed(data_dir, tmp_path / name, change)).identity() != known
  only_test = changed(data_dir, tmp_path, lambda images: (images / 'val/red/0.jpg').unlink())
  assert source(only_test).identity() == known


def test_the_log_says_how_much_of_the_time_training_waited(whole, data_dir, tmp_path):
  """Each batch takes 0.4 s to decode, and a step of this network far less."""
  decode = crops.DECODERS[crops.fastest()]

  def slow(*arguments):
    time.sleep(0.05 * len(os.sched_getaffinity(0)))  # one thread a core decodes a batch of 8
    return decode(*arguments)

  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(crops.DECODERS, crops.fastest(), slow)
    train.train(small_config(data_dir), tmp_path, show=False)
  shares = [line['waiting'] for line in runlog.read_log(tmp_path) if line['kind'] == 'train']
  usual = [line['waiting'] for line in runlog.read_log(whole[0]) if line['kind'] == 'train']
  # The first line includes the start of the threads, and the last one's step awaits no batch.
  for share, few in zip(shares[1:-1], usual[1:-1], strict=True):
    assert few < share and 0.6 < share <= 1


def test_scores_of_images_read_only_the_images_they_look_at(data_dir, monkeypatch):
  read, seen = streamed.EncodedImages.read, set()

  def watched(self, indices):
    seen.update(map(int, indices))
    return read(self, indices)

  monkeypatch.setattr(streamed.EncodedImages, 'read', watched)
  experiment = build(small_config(data_dir, pruning__ratio='snip'))
  [batch] = score_batches(experiment, feed.feed(experiment).images).values()
  assert len(batch['label']) == 8
  assert seen == set(order.batch_indices(0, 0, 36, 8).tolist())


def test_labels_and_pixels_of_a_set_are_read_few_images_at_a_time(data_dir, monkeypatch):
  """Together, the encoded images of a large set would fill the memory."""
  read, parts = streamed.EncodedImages.read, []

  def watched(self, indices):
    parts.append(len(indices))
    return read(self, indices)

  wanted = [label for _, label in source(data_dir).read(range(36))]
  monkeypatch.setattr(streamed, 'TOGETHER', 10)
  monkeypatch.setattr(streamed.EncodedImages, 'read', watched)
  assert np.asarray(streamed.Labels(source(data_dir))).tolist() == wanted
  pixels = streamed.Pixels(source(data_dir), streamed.Augment((8, 8), 3))[::-1]
  assert [label for label, _ in who(pixels)] == wanted[::-1]
  assert max(parts) == 10 and sum(parts) == 2 * 36


def test_an_augmentation_that_a_feed_does_not_have_is_refused(data_dir):
  with pytest.raises(ValueError, match='one of resized, none where images are streamed'):
    feed.feed(build(small_config(data_dir, augment__mode='reflect', augment__pad=2)))
  with pytest.raises(ValueError, match='where images are resident'):
    feed.feed(build(tinier_config(augment__mode='resized', data_loading='resident')))
  with pytest.raises(ValueError, match="data_loading must be 'streamed'"):
    feed.feed(build(tinier_config(image_size=16)))
