"""Data sets: found, decoded, cached and adapted, or refused with a message that helps."""

import concurrent.futures
import functools
import importlib
import resource
import shutil
import time

import numpy as np
import pytest
import started

from random_pruning_jax import data
from random_pruning_jax.data import crops, decode, places, store, streamed
from random_pruning_jax.data.load import split_expression

pytestmark = pytest.mark.usefixtures('own_cache')

SETS = {'tiny': (6, 4, 3), 'tiny_grey': (5, 5, 1), 'tiny_mixed': (None, None, 3)}
SETS |= {'tiny_broken': (6, 4, 3), 'tiny_mixed_broken': (None, None, 3)}  # test images are cut off


@pytest.fixture(scope='module')
def tiny_dir(tmp_path_factory):
  """A data directory with small TFDS sets, 7 training and 3 test images each."""
  import tensorflow_datasets as tfds

  from random_pruning_jax.data.digits import png

  class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.2.0')

    def _info(self):
      image = tfds.features.Image(shape=SETS[self.name])
      label = tfds.features.ClassLabel(num_classes=4)
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict({'image': image, 'label': label})
      )

    def _split_generators(self, dl_manager):
      return {
        'train': self._generate_examples(range(7)),
        'test': self._generate_examples([7, 8, 9]),
      }

    def _generate_examples(self, numbers):
      for number in numbers:
        image = png(tiny_image(self.name, number))
        broken = 'broken' in self.name and number >= 7
        yield number, {'image': image[:45] if broken else image, 'label': number % 4}

  root = tmp_path_factory.mktemp('data')
  for name in SETS:
    class_name = name.title().replace('_', '')
    builder = type(class_name, (Tiny,), {'__module__': __name__}, skip_registration=True)
    builder(data_dir=root).download_and_prepare(file_format='array_record')
  return root


def tiny_image(name, number):
  height, width, channels = SETS[name]
  shape = (height or 8 + number, width or 8, channels)
  pixels = np.arange(np.prod(shape)).reshape(shape) + 10 * number
  return pixels.astype(np.uint8).squeeze()


@pytest.fixture
def fresh(tiny_dir, tmp_path, monkeypatch):
  """An own copy of the tiny sets and an empty cache, for tests that damage them."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  shutil.copytree(tiny_dir, tmp_path / 'data')
  return tmp_path / 'data'


def test_images_and_labels_come_as_they_were_stored(tiny_dir):
  images, labels = data.load('tiny', 'train[:100%]', str(tiny_dir))
  numbers = images[:, 0, 0, 0] // 10
  assert sorted(numbers) == list(range(7))
  np.testing.assert_array_equal(labels, numbers % 4)
  for image, number in zip(images, numbers, strict=True):
    np.testing.assert_array_equal(image, tiny_image('tiny', number))


def test_training_and_validation_images_share_none_and_keep_tfds_order(tiny_dir):
  parts = [data.load('tiny', split, str(tiny_dir)) for split in ('train', 'validation')]
  together = data.load('tiny', 'train[:100%]', str(tiny_dir))
  assert [len(part.labels) for part in parts] == [6, 1]
  np.testing.assert_array_equal(np.concatenate([p.images for p in parts]), together.images)


def test_the_second_load_is_mapped_from_the_cache_and_equals_the_first(fresh):
  first = data.load('tiny', 'test', str(fresh))
  second = data.load('tiny', 'test', str(fresh))
  without = data.load('tiny', 'test', str(fresh), cache=False)
  assert isinstance(second.images, np.memmap) and not isinstance(without.images, np.memmap)
  for other in (second, without):
    np.testing.assert_array_equal(first.images, other.images)
    np.testing.assert_array_equal(first.labels, other.labels)


def cached_files(name):
  return sorted((places.cache_dir() / 'images').glob('*/' + name))


@pytest.mark.parametrize('name', ['images.npy', 'labels.npy', 'meta.json'])
@pytest.mark.parametrize('harm', ['truncated', 'altered', 'removed'])
def test_a_damaged_cache_is_made_anew(fresh, name, harm):
  wanted = data.load('tiny', 'test', str(fresh), cache=False)
  data.load('tiny', 'test', str(fresh))
  (file,) = cached_files(name)
  content = file.read_bytes()
  file.unlink()  # a new file, so that arrays that are still mapped stay what they were
  if harm == 'truncated':
    file.write_bytes(content[: len(content) // 2])
  if harm == 'altered':
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
  for _ in range(2):
    loaded = data.load('tiny', 'test', str(fresh))
    np.testing.assert_array_equal(loaded.images, wanted.images)
    np.testing.assert_array_equal(loaded.labels, wanted.labels)
  assert cached_files(name) == [file]
  assert [path.name for path in file.parents[1].iterdir()] == [file.parent.name]


def test_of_many_that_need_images_at_once_one_decodes(fresh, monkeypatch):
  made, decoded = decode.decode, []

  def slowly(*arguments):
    decoded.append(arguments)
    time.sleep(0.2)
    return made(*arguments)

  monkeypatch.setattr(decode, 'decode', slowly)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(lambda _: data.load('tiny', 'test', str(fresh)), range(4)))
  assert len(decoded) == 1
  for images, _ in found:
    np.testing.assert_array_equal(images, found[0].images)


KILLED = """
import os, signal, sys
import numpy as np
from random_pruning_jax.data import store
def chunks():
  yield np.zeros((2, 2, 2, 1), np.uint8), np.zeros(2, np.int32)
  os.kill(os.getpid(), signal.SIGKILL)
store.fetch('set', {}, [], lambda: store.Decoded((4, 2, 2, 1), chunks()))
"""


def test_what_a_killed_process_left_of_an_entry_is_removed_when_it_is_made(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  started.python(KILLED, XDG_CACHE_HOME=str(tmp_path)).communicate(timeout=60)
  folder = places.cache_dir() / 'images'
  assert ['incomplete' in path.name for path in folder.iterdir()] == [True]
  pieces = [(np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, np.int32))]
  store.fetch('set', {}, [], lambda: store.Decoded((4, 2, 2, 1), iter(pieces)))
  assert ['incomplete' in path.name for path in folder.iterdir()] == [False]


def test_the_cache_follows_the_source_files(fresh):
  data.load('tiny', 'test', str(fresh))
  for file in cached_files('images.npy'):
    before = file.stat().st_ino
  (fresh / 'tiny/1.2.0/features.json').touch()
  data.load('tiny', 'test', str(fresh))
  (file,) = cached_files('images.npy')
  assert file.stat().st_ino != before


def test_the_cache_follows_the_way_in_which_images_are_cropped(fresh, monkeypatch):
  def entries():
    for name, size in (('tiny', None), ('tiny_mixed', (4, 4))):
      data.load(name, 'test', str(fresh), size=size)
    return [file.stat().st_ino for file in cached_files('images.npy')]

  before = entries()
  monkeypatch.setattr(crops, 'VERSION', crops.VERSION + 1)
  assert [new != old for old, new in zip(before, entries(), strict=True)] == [False, True]


def test_the_cache_tells_images_of_one_size_apart_by_how_they_were_resized(fresh):
  load = functools.partial(data.load, 'tiny_mixed', 'train', str(fresh), size=(4, 4))
  whole, centre = (load(resize=resize, cache=False).images for resize in (0, 8))
  assert (whole != centre).any()
  np.testing.assert_array_equal(load().images, whole)
  np.testing.assert_array_equal(load(resize=8).images, centre)


def test_a_cache_that_cannot_be_written_is_done_without(tiny_dir, tmp_path, monkeypatch, caplog):
  blocked = tmp_path / 'a_file'
  blocked.write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(blocked))
  assert data.load('tiny', 'test', str(tiny_dir)).images.shape == (3, 6, 4, 3)
  assert 'could not be kept' in caplog.text


def test_a_full_disk_is_done_without(fresh, caplog):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))  # bytes; the images are 216
  try:
    assert data.load('tiny', 'test', str(fresh)).images.shape == (3, 6, 4, 3)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert 'could not be kept' in caplog.text
  assert list((places.cache_dir() / 'images').iterdir()) == []


def test_reading_never_writes_to_the_data_directory(fresh):
  before = sorted(fresh.rglob('*'))
  data.load('digits', 'test', str(fresh))
  data.load('tiny', 'test', str(fresh))
  assert sorted(fresh.rglob('*')) == before


def test_a_set_outside_the_table_is_described_by_its_training_images(tiny_dir):
  spec = data.describe('tiny', str(tiny_dir))
  pixels = data.load('tiny', 'train', str(tiny_dir)).images / 255
  assert (spec.num_classes, spec.shape, spec.mode, spec.flip) == (4, (6, 4, 3), 'none', False)
  assert spec.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-4)
  assert spec.std == pytest.approx(pixels.std((0, 1, 2)), abs=1e-4)
  mixed, size = data.describe('tiny_mixed', str(tiny_dir)), (224, 224)  # as evaluation shows them
  shown = data.load('tiny_mixed', 'train', str(tiny_dir), size=size, resize=256).images / 255
  assert len(shown) == 6  # one of seven is held out
  assert mixed.mean == pytest.approx(shown.mean((0, 1, 2)), abs=1e-4)


def test_a_foreign_set_meets_a_network_in_size_and_channels(tiny_dir):
  adapted, note = data.load_adapted('tiny', 'test', (8, 8, 1), str(tiny_dir))
  assert adapted.images.shape == (3, 8, 8, 1) and len(adapted.labels) == 3
  assert note == 'resized 6x4 -> 8x8, colour -> grey'


@pytest.mark.parametrize(('name', 'size'), [('tiny', None), ('tiny_mixed', (8, 8))])
def test_adapted_images_are_those_of_the_whole_set_and_mapped_from_the_cache(
  fresh, monkeypatch, name, size
):
  module = importlib.import_module('random_pruning_jax.data.adapt')
  monkeypatch.setattr(module, 'CHUNK', 2)  # of three images
  images, labels = data.load(name, 'test', str(fresh), size=size)
  wanted, _ = data.adapt(images, 8, 8, 1)
  written = []
  for _ in range(2):
    found, _ = data.load_adapted(name, 'test', (8, 8, 1), str(fresh))
    assert isinstance(found.images, np.memmap)
    np.testing.assert_array_equal(found.images, wanted)
    np.testing.assert_array_equal(found.labels, labels)
    written.append([file.stat().st_mtime_ns for file in cached_files('images.npy')])
  assert len(written[0]) == 2 and written[0] == written[1]


def test_images_of_different_sizes_are_fitted(tiny_dir):
  adapted, note = data.load_adapted('tiny_mixed', 'test', (4, 4, 1), str(tiny_dir))
  assert adapted.images.shape == (3, 4, 4, 1) and note == 'resized to 4x4, colour -> grey'
  whole, centre = (
    data.load_adapted('tiny_mixed', 'test', (4, 4, 3), str(tiny_dir), resize) for resize in (0, 8)
  )
  assert (whole[1], centre[1]) == ('resized to 4x4', 'resized to 4x4 (centre of 8)')
  assert (whole[0].images != centre[0].images).any()
  with pytest.raises(data.DataError, match="may differ in size: data_loading must be 'streamed'"):
    data.load('tiny_mixed', 'test', str(tiny_dir))


@pytest.mark.parametrize(
  'name, split, message',
  [
    ('cifar01', 'train', "unknown data set 'cifar01'; did you mean cifar10"),
    ('tiny_gray', 'train', 'did you mean tiny_grey.* prepared in .*: tiny, tiny_broken, tiny_grey'),
    ('tiny', 'validate', "no split 'validate'; it has train .7., test .3."),
    ('tiny', 'train[:', 'no split'),
    ('tiny', 'train[:0]', r"no images in 'train\[:0\]'; it has train .7."),
    ('tiny', 'test[3:1]', r"no images in 'test\[3:1\]'; it has train .7."),
    ('natural_patches', 'train', 'no train images; its splits are test'),
    ('imagenet_resized/33x33', 'test', "no variant '33x33'; it has 8x8, 16x16"),
    ('digits:9.9.9', 'test', 'data set digits:9.9.9: .* at version 9.9.9, only: 1.0.0'),
    ('cifar10:9.9.9', 'test', 'cannot be loaded at version 9.9.9, only: 3'),
    ('someone:cifar10', 'test', 'is named NAME, NAME/CONFIG or NAME:1.0.0'),
    ('9', 'test', 'is named NAME, NAME/CONFIG or NAME:1.0.0, got .9.'),  # TFDS has 16 lines for it
  ],
)
def test_wrong_names_are_answered_with_the_known_ones(tiny_dir, name, split, message):
  with pytest.raises(data.DataError, match=message):
    data.load(name, split, str(tiny_dir))


@pytest.mark.parametrize('name', ['tiny_broken', 'tiny_mixed_broken'])
def test_an_image_that_cannot_be_decoded_is_named(tiny_dir, name):
  message = f'{name}, image [012] of test: an image cannot be decoded'
  with pytest.raises(data.DataError, match=message):
    data.load(name, 'test', str(tiny_dir), size=(4, 4))
  source, augment = streamed.EncodedImages(name, 'test', str(tiny_dir)), streamed.Augment((4, 4), 3)
  with pytest.raises(data.DataError, match=message):
    streamed.Example(source, augment, 0, 3, (0, 1, 2))(0)
  with pytest.raises(data.DataError, match=message):
    streamed.Pixels(source, augment)[0]


def test_an_image_of_another_shape_than_its_set_declares_is_named_with_both(fresh):
  features = fresh / 'tiny/1.2.0/features.json'
  turned = features.read_text().replace('"6"', '"x"').replace('"4"', '"6"').replace('"x"', '"4"')
  features.write_text(turned)
  with pytest.raises(data.DataError, match=r'tiny, image 0 of test: .* be 4x6, .*, got 6x4'):
    data.load('tiny', 'test', str(fresh))


def test_a_streamed_image_whose_label_is_no_class_is_named(fresh):
  features = fresh / 'tiny/1.2.0/features.json'
  features.write_text(features.read_text().replace('"numClasses": "4"', '"numClasses": "3"'))
  source = streamed.EncodedImages('tiny', 'train', str(fresh))
  shown = streamed.Example(source, streamed.Augment((4, 4), 3), 0, 6, tuple(range(6)))
  for read in (lambda: shown(0), lambda: np.asarray(streamed.Labels(source))):
    with pytest.raises(data.DataError, match=r'tiny, image \d of train.*: .* in \[0, 3\), got 3'):
      read()


@pytest.mark.parametrize('left', [0.5, 0, None])
@pytest.mark.parametrize('name', ['tiny-test*', 'dataset_info.json', 'features.json'])
def test_a_damaged_set_is_named_with_what_to_do(fresh, name, left):
  path = data.find('tiny', str(fresh))
  (file,) = path.glob(name)
  content = file.read_bytes()
  file.write_bytes(content[: int(len(content) * left)]) if left is not None else file.unlink()
  for read in (
    lambda: data.load('tiny', 'test', str(fresh)),
    lambda: streamed.EncodedImages('tiny', 'test', str(fresh)).read([0]),
  ):
    with pytest.raises(data.DataError) as error:
      read()
    assert str(path.parent) in str(error.value) and '\n' not in str(error.value)
    assert 'prepare it again' in str(error.value)


@pytest.mark.parametrize(
  ('keys', 'found'), [(('image', 'label', 'id'), 'label'), (({'x': 'image'}, 'label'), None)]
)
def test_unusual_keys_of_a_set_are_read_or_refused(tiny_dir, monkeypatch, keys, found):
  from tensorflow_datasets.core import DatasetInfo

  monkeypatch.setattr(DatasetInfo, 'supervised_keys', keys)
  path = data.find('tiny', str(tiny_dir))
  if found:
    assert decode.kind_of('tiny', path).label == found
  else:
    with pytest.raises(data.DataError, match='tiny is no set of 8-bit images with a class label'):
      decode.kind_of('tiny', path)


def test_a_known_set_has_its_test_images_under_any_name_of_their_split_or_is_refused(fresh):
  """ImageNet of folders train and val: its validation images are its test images."""
  (fresh / 'tiny_mixed').rename(fresh / 'imagenet2012')
  path = data.find('imagenet2012', str(fresh))
  with pytest.raises(
    data.DataError, match=r"no test images \(split 'validation'\); its .* are train"
  ):
    data.check_splits('imagenet2012', str(fresh))
  info = path / 'dataset_info.json'
  info.write_text(info.read_text().replace('"test"', '"val"'))
  assert split_expression('imagenet2012', 'test', path) == 'val'
  [file] = path.glob('*-test.*')
  with pytest.raises(data.DataError, match='there is no tiny_mixed-val'):
    data.check_splits('imagenet2012', str(fresh))
  file.rename(path / file.name.replace('test', 'val'))
  data.check_splits('imagenet2012', str(fresh))


def test_another_format_is_refused_with_the_command(fresh):
  info = fresh / 'tiny/1.2.0/dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  with pytest.raises(
    data.DataError, match='stored as tfrecord, and array_record is wanted'
  ) as error:
    data.load('tiny', 'test', str(fresh))
  assert f'random-pruning prepare tiny --data-dir={fresh}' in str(error.value)
