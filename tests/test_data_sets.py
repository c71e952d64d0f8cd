"""Sets known by name, what is said of those that are not here, and images adapted to others."""

import json
import pathlib

import numpy as np
import pytest
import started

from random_pruning_jax import data
from random_pruning_jax.data import bundled, missing, natural_patches, places, specs

pytestmark = pytest.mark.usefixtures('own_cache')

REAL = pathlib.Path(__file__).parents[1] / '../shared/data/tfds'


OFFLINE = """
import socket, sys
def refuse(*_): raise RuntimeError('the network was used')
socket.socket.connect = socket.getaddrinfo = refuse
from random_pruning_jax import data
print(len(data.load('digits', 'train').images), len(data.load('natural_patches', 'test').images))
print(sorted({'tensorflow', 'jax'} & set(sys.modules)))
"""


def test_two_processes_prepare_bundled_sets_at_once_offline_and_without_tensorflow(tmp_path):
  running = [started.python(OFFLINE, XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)]
  for process in running:
    out, err = process.communicate(timeout=120)
    assert out == '1257 1040\n[]\n', err
    assert 'rror' not in err
  left = [path.name for path in tmp_path.rglob('*') if 'incomplete' in path.name]
  assert left == []


KILLED = """
import os, signal
from random_pruning_jax import data
os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # when all is written
data.find('digits')
"""


def test_what_a_killed_process_left_of_a_bundled_set_is_removed_by_the_next(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  started.python(KILLED, XDG_CACHE_HOME=str(tmp_path)).communicate(timeout=60)
  root = places.cache_dir() / 'tfds'
  assert len(list(root.glob('incomplete.digits.*'))) == 1
  data.find('digits')
  assert [path.name for path in root.glob('[!.]*')] == ['digits']


def test_a_bundled_set_that_another_process_made_meanwhile_is_not_made_again(monkeypatch):
  path = data.find('digits')
  monkeypatch.delattr(missing, 'create')
  assert bundled.prepare('digits', path.parents[1]) == path


def test_importing_the_package_loads_neither_tfds_nor_jax():
  process = started.python('import random_pruning_jax.data, sys; print(*sys.modules)')
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


@pytest.mark.parametrize(
  'name, mean, std',
  [
    ('cifar10', (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ('cifar100', (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ('imagenet2012', (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
  ],
)
def test_normalisation_is_that_of_the_authors_and_of_torchvision(name, mean, std):
  assert (data.SPECS[name].mean, data.SPECS[name].std) == (mean, std)


@pytest.mark.parametrize('name', ['digits', 'mnist', 'svhn_cropped'])
def test_digits_are_never_mirrored(name):
  assert not data.SPECS[name].flip


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


def test_images_are_brought_to_a_height_and_a_width_of_their_own():
  halves = np.zeros((1, 8, 8, 1), np.uint8)
  halves[:, :, 4:] = 200
  wide, _ = data.adapt(halves, 8, 16, 1)  # of the four rows in the middle
  assert wide.shape == (1, 8, 16, 1)
  assert (wide[0, :, :6] == 0).all() and (wide[0, :, 10:] == 200).all()


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
