"""Streamed images: a folder becomes a set, each step sees its own images, and training runs."""

import concurrent.futures
import gc
import io
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
from PIL import Image
from tiny import tiny_config

from random_pruning_jax import (
  checkpoints,
  data,
  export,
  feed,
  main,
  measure,
  run,
  runlog,
  train,
)
from random_pruning_jax.data import crops, decode, folder, order, places, streamed
from random_pruning_jax.data.digits import png
from random_pruning_jax.experiment import build, score_batches
from random_pruning_jax.suites import bench

COLOURS = {'blue': (0, 0, 255), 'green': (0, 255, 0), 'red': (255, 0, 0)}
TRAIN, TEST = 12, 5  # images of each class


def jpeg(path, colour, number, rng):
  """An image of any size, lighter towards its right, so that crops differ. The number of an image
  is in how strong its colour is, so that it is seen in any crop."""
  height, width = rng.integers(20, 60, 2)
  pixels = np.ones((height, width, 3)) * np.array(colour) / 255 * (100 + 8 * number)
  pixels += np.linspace(0, 60, width)[None, :, None]
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95, subsampling='4:4:4')


def who(images):
  """(class, number) of each image, by its pixels alone."""
  means = images.mean((1, 2))
  numbers = np.round((means.max(1) - means.min(1) - 100) / 8).astype(int)
  classes = 2 - means.argmax(1)  # blue, green and red, by name
  return list(zip(classes.tolist(), numbers.tolist(), strict=True))


def all_of(number):
  return [(label, i) for label in range(3) for i in range(number)]


@pytest.fixture(scope='module', autouse=True)
def data_dir(tmp_path_factory):
  """A set `colours` made of a folder of images that differ in size."""
  root, rng = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
  for split, number in (('train', TRAIN), ('val', TEST), ('test', TEST)):
    for name, colour in COLOURS.items():
      for i in range(number):
        jpeg(root / 'images' / split / name / f'{i}.jpg', colour, i, rng)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(root / 'cache'))
    folder.prepare_folder(root / 'images', 'colours', str(root / 'tfds'))
    yield str(root / 'tfds')


def streamed_config(data_dir, **changes):
  fields = {'dataset': 'colours', 'data_dir': data_dir, 'batch_size': 8, 'image_size': 16}
  fields |= {'augment__mode': 'resized', 'augment__flip': 'yes', 'data_workers': 0, 'log_every': 2}
  fields |= {'evaluation__foreign': (), 'evaluation__batch_size': 8, 'epochs': 2}
  return tiny_config(**(fields | changes))


def source(data_dir, split='train'):
  return streamed.EncodedImages('colours', split, data_dir)


def example(data_dir, mine=None, batch_size=8, seed=5, **augment):
  places_of_batch = tuple(range(batch_size)) if mine is None else mine
  augment = streamed.Augment((16, 16), 3, **augment)
  return streamed.Example(source(data_dir), augment, seed, batch_size, places_of_batch)


def test_a_folder_becomes_a_set_with_its_images_as_they_are(data_dir, tmp_path):
  spec = data.describe('colours', data_dir)
  assert (spec.num_classes, spec.shape, spec.resize) == (3, (224, 224, 3), 256)
  assert places.split_sizes(data.find('colours', data_dir)) == {
    'test': 15,
    'train': 36,
    'val': 15,
  }
  images = [source(data_dir)[i] for i in range(36)]
  labels = [label for _, label in images]
  assert np.bincount(labels).tolist() == [12] * 3 and labels != sorted(labels)  # shuffled
  decoded = np.stack([streamed.Augment((8, 8), 3)(encoded) for encoded, _ in images])
  assert sorted(who(decoded)) == all_of(TRAIN)
  assert [label for label, _ in who(decoded)] == labels
  with pytest.raises(data.DataError, match=r'is in .* already'):
    folder.prepare_folder(tmp_path, 'colours', data_dir)
  with pytest.raises(data.DataError, match='digits is the name of a set'):
    folder.prepare_folder(tmp_path, 'digits', data_dir)
  with pytest.raises(data.DataError, match='must hold SPLIT/CLASS/IMAGE'):
    folder.prepare_folder(tmp_path, 'empty', data_dir)


@pytest.mark.parametrize(
  ('files', 'message'),
  [
    ({'train/a/1.png': 1, 'train/b/1.bmp': 1}, r'b/1\.bmp must be an image \(.*\): convert it'),
    ({'train/a/1.png': 1, 'train/a/2.png': 0}, r'a/2\.png must be an image: cannot identify'),
    ({'train/a/1.png': 1, 'test/a/1.png': 1, 'test/b/1.png': 1}, 'of every class; none of b'),
    ({'train/a/1.png': 1, 'train/a/2.png': 0.5}, r'a/2\.png must be an image: .*truncated'),
    ({'train/a/1.png': 1, 'train/2.png': 1}, r'train/2\.png must lie in a split and class'),
    ({'train/a/1.png': 1, '2.png': 1}, r'images/2\.png must lie in a split and class'),
    ({'train/a/1.png': 1, 'train/b/': 1}, 'train/b must hold images: it is empty'),
    ({'train/a/1.png': 1, 'val/': 1}, 'val must hold a directory for each class: it has none'),
    ({'Train/a/1.png': 1}, 'must have a split of train, validation, val, valid, test; got Train'),
    ({'val/a/1.png': 1, 'validation/a/1.png': 1}, 'one split for validation, got validation, val'),
    ({os.fsdecode(b'train/a/\xff.png'): 1}, r"a/.*ff.png' must have a name in UTF-8: rename it"),
  ],
)
def test_no_file_of_a_folder_is_left_out_in_silence(tmp_path, files, message):
  png = io.BytesIO()
  Image.effect_noise((40, 40), 50).save(png, 'PNG')
  for name, share in files.items():
    path = tmp_path / 'images' / name
    (path if name.endswith('/') else path.parent).mkdir(parents=True, exist_ok=True)
    if not name.endswith('/'):
      path.write_bytes(png.getvalue()[: int(share * len(png.getvalue()))] or b'no image')
    (path.parent / '._1.jpg').write_text("a system's own note")
  with pytest.raises(data.DataError, match=message):
    folder.prepare_folder(tmp_path / 'images', 'mine', str(tmp_path))


@pytest.mark.parametrize(('kind', 'left'), [('PNG', -8), ('TGA', None)])
def test_what_opencv_cannot_decode_is_refused_by_the_name_of_its_file(tmp_path, kind, left):
  """Pillow can: it needs no end of a PNG, and knows more formats."""
  pytest.importorskip('cv2')
  encoded, path = io.BytesIO(), tmp_path / 'images/train/a/1.png'
  Image.effect_noise((40, 40), 50).convert('RGB').save(encoded, kind)
  path.parent.mkdir(parents=True)
  path.write_bytes(encoded.getvalue()[:left])
  with pytest.raises(data.DataError, match=r'a/1\.png must be an image: .* decoded by OpenCV'):
    folder.prepare_folder(tmp_path / 'images', 'mine', str(tmp_path))


KILLED = """
import os, pathlib, signal, sys
from random_pruning_jax.data import folder
pathlib.Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # when all is written
folder.prepare_folder(sys.argv[1], 'mine', sys.argv[2])
"""


def test_what_a_killed_preparation_left_is_removed_by_the_next(data_dir, tmp_path):
  images = pathlib.Path(data_dir).parent / 'images'
  root = pathlib.Path(__file__).parents[1]
  command = [sys.executable, '-c', KILLED, images, tmp_path]
  subprocess.run(command, cwd=root, stderr=subprocess.DEVNULL, check=False)
  assert len(list(tmp_path.glob('incomplete.mine.*'))) == 1
  folder.prepare_folder(images, 'mine', str(tmp_path))
  assert [path.name for path in tmp_path.glob('[!.]*')] == ['mine']


def test_of_two_that_prepare_a_folder_at_once_the_second_is_told_that_it_is_there(
  data_dir, tmp_path
):
  def said(number):
    try:
      folder.prepare_folder(pathlib.Path(data_dir).parent / 'images', 'mine', str(tmp_path))
    except Exception as error:
      return str(error)
    return ''

  with concurrent.futures.ThreadPoolExecutor() as pool:
    both = sorted(pool.map(said, range(2)))
  assert both == ['', f'mine is in {tmp_path} already; choose another name']


def test_a_full_disk_ends_a_preparation_in_one_line_and_leaves_nothing(data_dir, tmp_path):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # bytes of a file; train has more
  try:
    with pytest.raises(data.DataError, match='mine could not be prepared') as error:
      folder.prepare_folder(pathlib.Path(data_dir).parent / 'images', 'mine', str(tmp_path))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert '\n' not in str(error.value) and not list(tmp_path.glob('[!.]*'))


def test_hidden_directories_of_a_folder_are_neither_splits_nor_classes(data_dir, tmp_path):
  colours = pathlib.Path(data_dir).parent / 'images'
  shutil.copytree(colours / 'test', tmp_path / 'images/train')
  for hidden in ('.cache/x', 'train/.ipynb_checkpoints'):
    shutil.copytree(colours / 'test/blue', tmp_path / 'images' / hidden)
  folder.prepare_folder(tmp_path / 'images', 'mine', str(tmp_path))
  path = data.find('mine', str(tmp_path))
  assert places.split_sizes(path) == {'train': 15}
  assert decode.kind_of('mine', path).num_classes == 3


def test_a_folder_of_the_home_directory_may_have_valid_alone(data_dir, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  shutil.copytree(pathlib.Path(data_dir).parent / 'images/test', tmp_path / 'images/valid')
  path = folder.prepare_folder('~/images', 'mine', str(tmp_path))
  assert places.split_sizes(path) == {'valid': 15}


def test_a_set_without_test_images_is_refused_before_it_is_trained_on(tmp_path):
  path = tmp_path / 'images/train/a/1.png'
  path.parent.mkdir(parents=True)
  for number in range(20):
    Image.new('RGB', (8, 8), (number, 3 * number, 9 * number)).save(path.with_name(f'{number}.png'))
  folder.prepare_folder(tmp_path / 'images', 'mine', str(tmp_path))
  with pytest.raises(data.DataError, match='mine has no test images; its splits are train'):
    run.run(streamed_config(str(tmp_path), dataset='mine'), tmp_path / 'run', show=False)
  assert not (tmp_path / 'run').exists()


def test_a_folder_of_images_of_one_size_is_resident_and_seen_as_it_is(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 12, 3), np.uint8)
  for number, image in enumerate(pixels):
    path = tmp_path / f'images/{("train", "test")[number % 2]}/{"ab"[number < 20]}/{number}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
  folder.prepare_folder(tmp_path / 'images', 'mine', str(tmp_path))
  fields = {'dataset': 'mine', 'image_size': 0, 'augment__mode': 'reflect', 'augment__pad': 2}
  experiment = build(streamed_config(str(tmp_path), **fields))
  assert experiment.spec.shape == (8, 12, 3) and feed.feed(experiment).loading == 'resident'
  seen, _ = feed.held_out(experiment, 'test')
  assert {image.tobytes() for image in seen} == {image.tobytes() for image in pixels[1::2]}
  resized = build(streamed_config(str(tmp_path), dataset='mine'))
  assert resized.spec.shape == (16, 16, 3) and feed.feed(resized).loading == 'streamed'
  assert feed.held_out(resized, 'test').images.shape == (20, 16, 16, 3)


def test_images_that_may_differ_in_size_are_resident_nowhere(data_dir):
  resident = {'data_loading': 'resident', 'augment__mode': 'none', 'augment__flip': 'no'}
  with pytest.raises(data.DataError, match=r"colours may .*: data_loading must be 'streamed'"):
    feed.feed(build(streamed_config(data_dir, **resident)))


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
  """Of 36 images in batches of 8, four, which are others the next time."""
  seen = who(
    np.concatenate([b['image'] for b in streamed.batches(example(data_dir), 0, 8, workers=0)])
  )
  dropped = [set(all_of(TRAIN)) - set(part) for part in (seen[:32], seen[32:])]
  assert [len(part) for part in dropped] == [4, 4] and dropped[0] != dropped[1]


def test_preparing_a_folder_says_what_its_splits_are_for(data_dir, tmp_path, capsys):
  folders = pathlib.Path(data_dir).parent / 'images'
  (tmp_path / 'two').mkdir()
  for split in ('train', 'val'):
    (tmp_path / 'two' / split).symlink_to(folders / split)
  arguments = [f'--image-folder={tmp_path / "two"}', '--name=two', f'--data-dir={tmp_path}']
  assert main.main(['prepare', *arguments]) == 0
  printed, said = capsys.readouterr()
  assert printed == f'{tmp_path / "two/1.0.0"}\n'
  assert 'train images: train[:90%], validation images: train[90%:], test images: val' in said


def test_an_interrupted_preparation_is_not_said_to_go_on(data_dir, tmp_path, capsys, monkeypatch):
  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(Image, 'open', interrupted)
  images = pathlib.Path(data_dir).parent / 'images'
  arguments = [f'--image-folder={images}', '--name=mine', f'--data-dir={tmp_path}']
  assert main.main(['prepare', *arguments]) == 130
  assert capsys.readouterr().err == ('random-pruning: interrupted; give the same command again.\n')


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


STREAMING = """
import contextlib, multiprocessing, signal, sys, time
from random_pruning_jax.data import streamed
source = streamed.EncodedImages('colours', 'train', sys.argv[1])
example = streamed.Example(source, streamed.Augment((16, 16), 3), 5, 8, tuple(range(8)))
steps = streamed.batches(example, 0, 1000, workers=2)
next(steps), next(steps)  # one of each worker
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
  command = [sys.executable, '-c', script, data_dir]
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.DEVNULL}
  with subprocess.Popen(command, cwd=root, text=True, **pipes) as streaming:
    workers = [int(number) for number in streaming.stdout.readline().split()]
    streaming.kill()
    # Each has a copy of this pipe's other end, which is closed once all of them have ended.
    ended = select.select([streaming.stdout], [], [], 20)[0]
    for worker in () if ended else workers:
      os.kill(worker, signal.SIGKILL)
  assert len(workers) == 2 and ended


def test_ctrl_c_is_for_the_run_and_not_for_its_workers(data_dir):
  root = pathlib.Path(__file__).parents[1]
  command = [sys.executable, '-c', STREAMING, data_dir]
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
  """Those held out are in a folder `val`."""
  experiment = build(streamed_config(data_dir))
  images, labels = feed.held_out(experiment, split)
  assert images.shape == (15, 16, 16, 3) and sorted(who(images)) == all_of(TEST)
  assert [label for label, _ in who(images)] == labels.tolist()


def test_statistics_are_of_training_images_as_evaluation_shows_images(data_dir):
  """Whoever decodes those that training sees."""
  experiment = build(streamed_config(data_dir))
  measured = bench.Bench(experiment, {}, {}).images(split='train')
  wanted, labels = data.load(
    'colours', 'train', data_dir, size=(16, 16), resize=experiment.spec.resize
  )
  np.testing.assert_array_equal(measured.images[:], wanted)
  np.testing.assert_array_equal(measured.labels[:], labels)


def test_what_a_config_says_of_crops_is_what_images_go_through(data_dir):
  crops = {'area': (0.2, 0.5), 'aspect': (0.9, 1.1)}
  fields = {f'augment__{name}': value for name, value in crops.items()}
  experiment = build(streamed_config(data_dir, resize=20, **fields | {'augment__flip': 'no'}))
  found = feed.stream_example(experiment, source(data_dir)).augment
  assert found == streamed.Augment((16, 16), 3, random=True, flip=False, resize=20, **crops)
  wanted = data.load('colours', 'validation', data_dir, size=(16, 16), resize=20)
  np.testing.assert_array_equal(feed.held_out(experiment).images, wanted.images)


@pytest.fixture(scope='module')
def whole(data_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole')
  return workdir, train.train(streamed_config(data_dir), workdir, show=False)


def test_a_streamed_run_trains_and_is_measured(whole):
  workdir, state = whole
  assert int(state.step) == 2 * (36 // 8)
  row = measure.evaluate_run(workdir, show=False)
  assert row['images'] == 15 and 0 <= row['metrics']['accuracy'] <= 1


def test_an_exported_network_is_shown_what_evaluation_shows(whole, data_dir):
  about = export.read(whole[0]).about
  spec = build(streamed_config(data_dir)).spec
  assert (about.shape, about.resize) == ((16, 16, 3), spec.resize) and spec.resize > 16


def test_an_interrupted_streamed_run_goes_on_to_the_very_same_numbers(whole, data_dir, tmp_path):
  """Threads decoded its images, and two processes do when it goes on."""
  config = streamed_config(data_dir, checkpoint__every_steps=3)

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
  config.data_workers = 2
  state = train.train(config, tmp_path, show=False)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(whole[1]))
  # Memory that the workers shared, of which Grain has a thread let go.
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
    train.train(streamed_config(other), whole[0], show=False)
  with pytest.raises(ValueError, match=message):
    measure.load_run(whole[0], data_dir=other)
  assert not (whole[0] / checkpoints.UNREADABLE).exists()


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
    train.train(streamed_config(data_dir), tmp_path, show=False)
  shares = [line['waiting'] for line in runlog.read_log(tmp_path) if line['kind'] == 'train']
  usual = [line['waiting'] for line in runlog.read_log(whole[0]) if line['kind'] == 'train']
  # Before the first line threads begin, and with the last one's step no batch is waited for.
  for share, few in zip(shares[1:-1], usual[1:-1], strict=True):
    assert few < share and 0.6 < share <= 1


def test_scores_of_images_read_only_the_images_they_look_at(data_dir, monkeypatch):
  read, seen = streamed.EncodedImages.read, set()

  def watched(self, indices):
    seen.update(map(int, indices))
    return read(self, indices)

  monkeypatch.setattr(streamed.EncodedImages, 'read', watched)
  experiment = build(streamed_config(data_dir, pruning__ratio='snip'))
  [batch] = score_batches(experiment, feed.feed(experiment).images).values()
  assert len(batch['label']) == 8
  assert seen == set(order.batch_indices(0, 0, 36, 8).tolist())


def test_an_augmentation_that_a_feed_does_not_have_is_refused(data_dir):
  with pytest.raises(ValueError, match='one of resized, none where images are streamed'):
    feed.feed(build(streamed_config(data_dir, augment__mode='reflect', augment__pad=2)))
  with pytest.raises(ValueError, match='where images are resident'):
    feed.feed(build(tiny_config(augment__mode='resized', data_loading='resident')))
  with pytest.raises(ValueError, match="data_loading must be 'streamed'"):
    feed.feed(build(tiny_config(image_size=16)))
