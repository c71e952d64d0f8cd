"""Data sets: found, decoded, cached and adapted, or refused with a message that helps."""

import concurrent.futures
import functools
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from random_pruning_jax import data
from random_pruning_jax.data import crops, decode, natural_patches, places, specs, store, streamed
from random_pruning_jax.data.load import split_expression

REAL = pathlib.Path(__file__).parents[1] / '../shared/data/tfds'
SETS = {'tiny': (6, 4, 3), 'tiny_grey': (5, 5, 1), 'tiny_mixed': (None, None, 3)}
SETS |= {'tiny_broken': (6, 4, 3), 'tiny_mixed_broken': (None, None, 3)}  # test images are cut off


@pytest.fixture(scope='module', autouse=True)
def own_cache(tmp_path_factory):
  """No test reads or writes the user's own cache or data."""
  root = tmp_path_factory.mktemp('cache')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(root))
    patch.setenv('TFDS_DATA_DIR', str(root / 'none'))
    yield root


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


def run_python(code, **env):
  return subprocess.Popen(
    [sys.executable, '-c', code],
    env={**os.environ, **env},
    cwd=pathlib.Path(__file__).parents[1],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


OFFLINE = """
import socket, sys
def refuse(*_): raise RuntimeError('the network was used')
socket.socket.connect = socket.getaddrinfo = refuse
from random_pruning_jax import data
print(len(data.load('digits', 'train').images), len(data.load('natural_patches', 'test').images))
print(sorted({'tensorflow', 'jax'} & set(sys.modules)))
"""


def test_two_processes_prepare_bundled_sets_at_once_offline_and_without_tensorflow(tmp_path):
  running = [run_python(OFFLINE, XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)]
  for process in running:
    out, err = process.communicate(timeout=120)
    assert out == '1257 1040\n[]\n', err
    assert 'rror' not in err
  left = [path.name for path in tmp_path.rglob('*') if 'incomplete' in path.name]
  assert left == []


def test_importing_the_package_loads_neither_tfds_nor_jax():
  process = run_python('import random_pruning_jax.data, sys; print(*sys.modules)')
  modules = process.communicate(timeout=60)[0].split()
  assert 'random_pruning_jax.data' in modules
  assert not {'tensorflow_datasets', 'jax', 'sklearn', 'joblib', 'requests'} & set(modules)


def test_digits_are_those_of_scikit_learn_each_in_one_split():
  from sklearn.datasets import load_digits

  splits = [data.load('digits', split) for split in ('train', 'validation', 'test')]
  assert [len(part.labels) for part in splits] == [1257, 180, 360]
  images = np.concatenate([part.images for part in splits])
  labels = np.concatenate([part.labels for part in splits])
  assert images.dtype == np.uint8 and labels.dtype == np.int32 and images.shape[1:] == (8, 8, 1)
  source = load_digits()
  ours = sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))
  scaled = np.round(source.images * 255 / 16).astype(np.uint8)
  theirs = sorted(
    (image.tobytes(), label) for image, label in zip(scaled, source.target, strict=True)
  )
  assert ours == theirs


@pytest.mark.parametrize('split, share', [('train', 0.7), ('validation', 0.1), ('test', 0.2)])
def test_digits_splits_hold_every_class_in_proportion(split, share):
  from sklearn.datasets import load_digits

  counts = np.bincount(data.load('digits', split).labels, minlength=10)
  np.testing.assert_allclose(counts, share * np.bincount(load_digits().target), atol=1.5)


@pytest.mark.parametrize('name, split', [('digits', 'train'), ('natural_patches', 'test')])
def test_normalisation_in_the_table_is_that_of_the_images(name, split):
  pixels = data.load(name, split).images / 255
  spec = data.describe(name)
  assert spec.mean == pytest.approx((pixels.mean(),), abs=1e-4)
  assert spec.std == pytest.approx((pixels.std(),), abs=1e-4)


def test_patches_are_means_of_alternating_squares():
  photo = np.zeros((32, 48, 3), np.uint8)
  photo[16:, 16:32] = 100  # square (1, 1)
  patches = np.stack(list(natural_patches.patches(photo)))
  assert patches.shape == (3, 8, 8)  # squares (0, 0), (0, 2) and (1, 1)
  assert [patch.max() for patch in patches] == [0, 0, 100]


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
  run_python(KILLED, XDG_CACHE_HOME=str(tmp_path)).communicate(timeout=60)
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


@pytest.mark.parametrize(
  'available, rules',
  [
    (['train', 'test'], ['train[:90%]', 'train[90%:]', 'test']),
    (['train', 'validation', 'test'], ['train', 'validation', 'test']),
    (['train', 'validation'], ['train[:90%]', 'train[90%:]', 'validation']),
    (['train', 'val', 'test'], ['train', 'val', 'test']),
    (['train', 'val'], ['train[:90%]', 'train[90%:]', 'val']),
    (['train', 'valid', 'test'], ['train', 'valid', 'test']),
    (['validation'], [None, None, 'validation']),
    (['test'], [None, None, 'test']),
    (['train'], ['train[:90%]', 'train[90%:]', None]),
  ],
)
def test_test_images_never_choose_the_epoch(available, rules):
  found = specs.split_rules(available)
  assert [found.get(split) for split in ('train', 'validation', 'test')] == rules


@pytest.mark.parametrize('name', data.SPECS)
def test_the_table_is_consistent(name):
  spec = data.SPECS[name]
  assert len(spec.mean) == len(spec.std) == spec.shape[2]
  assert all(0 < number < 1 for number in spec.mean + spec.std)
  assert spec.mode in ('reflect', 'zeros', 'resized', 'none')
  assert (spec.pad > 0) == (spec.mode in ('reflect', 'zeros'))
  assert set(spec.splits) <= {'train', 'validation', 'test'}


def test_crops_of_cifar_are_padded_as_the_authors_pad_them():
  found = {name: (spec.pad, spec.mode, spec.flip) for name, spec in data.SPECS.items()}
  assert found['cifar10'] == (4, 'reflect', True) and found['cifar100'] == (4, 'zeros', True)


@pytest.mark.parametrize('name', ['cifar10', 'cifar100', 'svhn_cropped', 'mnist', 'imagenet2012'])
def test_images_that_choose_the_epoch_are_what_training_leaves(name):
  splits = data.SPECS[name].splits
  end = splits['train'].removeprefix('train[:').removesuffix('%]')
  assert splits['validation'] == f'train[{end}%:]' and splits['test'] in ('test', 'validation')


def test_images_that_need_no_change_are_not_copied():
  images = np.zeros((2, 8, 8, 1), np.uint8)
  adapted, note = data.adapt(images, 8, 8, 1)
  assert adapted is images and note == ''


def test_colour_becomes_grey_by_luma_and_grey_becomes_colour_by_repetition():
  red = np.zeros((1, 2, 2, 3), np.uint8)
  red[..., 0] = 255
  grey, note = data.adapt(red, 2, 2, 1)
  assert note == 'colour -> grey' and (grey == 76).all() and grey.shape == (1, 2, 2, 1)
  colour, note = data.adapt(grey, 2, 2, 3)
  assert note == 'grey -> colour' and (colour == 76).all() and colour.shape == (1, 2, 2, 3)


def test_resizing_keeps_the_mean_and_is_antialiased():
  stripes = np.zeros((1, 32, 32, 1), np.uint8)
  stripes[:, ::2] = 200
  small, note = data.adapt(stripes, 8, 8, 1)
  assert note == 'resized 32x32 -> 8x8'
  assert abs(small.astype(int) - 100).max() <= 12  # without antialiasing: 0 or 200


def test_a_foreign_set_meets_a_network_in_size_and_channels(tiny_dir):
  adapted, note = data.load_adapted('tiny', 'test', (8, 8, 1), str(tiny_dir))
  assert adapted.images.shape == (3, 8, 8, 1) and len(adapted.labels) == 3
  assert note == 'resized 6x4 -> 8x8, colour -> grey'


def test_images_of_different_sizes_are_fitted(tiny_dir):
  adapted, note = data.load_adapted('tiny_mixed', 'test', (4, 4, 1), str(tiny_dir))
  assert adapted.images.shape == (3, 4, 4, 1) and note == 'resized to 4x4, colour -> grey'
  with pytest.raises(data.DataError, match='differ in size'):
    data.load('tiny_mixed', 'test', str(tiny_dir))


def test_images_with_an_alpha_channel_cannot_be_adapted():
  with pytest.raises(data.DataError, match='1 or 3 channels, got 4'):  # as a missing set: skipped
    data.adapt(np.zeros((1, 2, 2, 4), np.uint8), 2, 2, 3)


def test_a_missing_set_says_where_it_was_sought_what_makes_it_and_what_to_download(tmp_path):
  with pytest.raises(data.DataError) as error:
    data.load('cifar10', 'train', str(tmp_path))
  message = str(error.value)
  assert str(tmp_path / 'cifar10') in message
  assert f'random-pruning prepare cifar10 --data-dir={tmp_path}' in message
  assert 'cifar-10-binary.tar.gz  170,052,171 bytes' in message


@pytest.mark.parametrize(
  'name, split, message',
  [
    ('cifar01', 'train', "unknown data set 'cifar01'; did you mean cifar10"),
    ('tiny', 'validate', "no split 'validate'; it has train .7., test .3."),
    ('tiny', 'train[:', 'no split'),
    ('tiny', 'train[:0]', r"no images in 'train\[:0\]'; it has train .7."),
    ('tiny', 'test[3:1]', r"no images in 'test\[3:1\]'; it has train .7."),
    ('natural_patches', 'train', 'no train images; its splits are test'),
    ('imagenet_resized/33x33', 'test', "no variant '33x33'; it has 8x8, 16x16"),
    ('digits:9.9.9', 'test', 'data set digits:9.9.9: .* at version 9.9.9, only: 1.0.0'),
    ('cifar10:9.9.9', 'test', 'cannot be loaded at version 9.9.9, only: 3'),
    ('someone:cifar10', 'test', 'is named NAME, NAME/CONFIG or NAME:1.0.0'),
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


@pytest.mark.parametrize('left', [0.5, 0, None])
@pytest.mark.parametrize('name', ['tiny-test*', 'dataset_info.json', 'features.json'])
def test_a_damaged_set_is_named_with_what_to_do(fresh, name, left):
  path = data.find('tiny', str(fresh))
  (file,) = path.glob(name)
  content = file.read_bytes()
  file.write_bytes(content[: int(len(content) * left)]) if left is not None else file.unlink()
  for read in (
    lambda: data.load('tiny', 'test', str(fresh)),
    lambda: streamed.EncodedImages('tiny', 'test', str(fresh))[0],
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
  data.check_splits('imagenet2012', str(fresh))


def test_another_format_is_refused_with_the_command(fresh):
  info = fresh / 'tiny/1.2.0/dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  with pytest.raises(
    data.DataError, match='stored as tfrecord, and array_record is wanted'
  ) as error:
    data.load('tiny', 'test', str(fresh))
  assert f'random-pruning prepare tiny --data-dir={fresh}' in str(error.value)


def test_a_bucket_must_be_mounted():
  with pytest.raises(data.DataError, match='must be a local path'):
    data.load('cifar10', 'test', 'gs://bucket/tfds')


def test_the_newest_version_is_read_and_a_variant_must_be_named(tmp_path):
  for path in ('a/1.9.0', 'a/1.10.0', 'b/small/1.0.0', 'b/large/1.0.0', 'a/unfinished'):
    (tmp_path / path).mkdir(parents=True)
    (tmp_path / path / 'dataset_info.json').write_text(json.dumps({}))
  assert places.locate('a', tmp_path) == tmp_path / 'a/1.10.0'
  assert places.locate('a:1.9.0', tmp_path) == tmp_path / 'a/1.9.0'
  assert places.locate('a:2.0.0', tmp_path) is None
  assert places.locate('b/large', tmp_path) == tmp_path / 'b/large/1.0.0'
  with pytest.raises(data.DataError, match='name one: b/large, b/small'):
    places.locate('b', tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason='needs real images in ../shared/data/tfds')
def test_real_images_are_decoded_as_tfds_decodes_them():
  import tensorflow_datasets as tfds

  images, labels = data.load('cifar10', 'validation', str(REAL))
  assert images.shape == (5000, 32, 32, 3)
  source = tfds.builder('cifar10', data_dir=REAL).as_data_source('train[90%:]')
  for index, example in zip((0, 7, 4999), source.__getitems__([0, 7, 4999]), strict=True):
    np.testing.assert_array_equal(images[index], example['image'])
    assert labels[index] == example['label']
  adapted, note = data.load_adapted('imagenet_resized/32x32', 'test', (8, 8, 1), str(REAL))
  assert adapted.images.shape == (1000, 8, 8, 1) and note == 'resized 32x32 -> 8x8, colour -> grey'
