"""Preparing data sets, and what is said where that cannot be done."""

import socket

import pytest

from random_pruning_jax import data


@pytest.fixture(autouse=True)
def cache_of_each_test(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def no_network(monkeypatch):
  def refuse(*_, **__):
    raise socket.gaierror('no network in this test')

  monkeypatch.setattr(socket, 'getaddrinfo', refuse)


def test_bundled_sets_are_prepared_where_asked_and_only_once(tmp_path):
  path = data.prepare('natural_patches', str(tmp_path / 'data'))
  assert path == tmp_path / 'data/natural_patches/1.0.0'
  times = [file.stat().st_mtime_ns for file in path.iterdir()]
  assert data.prepare('natural_patches', str(tmp_path / 'data')) == path
  assert [file.stat().st_mtime_ns for file in path.iterdir()] == times
  assert data.find('natural_patches', str(tmp_path / 'data')) == path


def test_without_a_network_the_files_to_download_by_hand_are_named(tmp_path, no_network):
  with pytest.raises(data.DataError) as error:
    data.prepare('mnist', str(tmp_path))
  message = str(error.value)
  assert 'mnist cannot be downloaded: storage.googleapis.com is out of reach' in message
  assert 'train-images-idx3-ubyte.gz  9,912,422 bytes' in message and '--manual-dir=' in message


def test_a_wrong_file_in_manual_dir_is_refused_without_a_network(tmp_path, no_network):
  (tmp_path / 'manual').mkdir()
  (tmp_path / 'manual/cifar-10-binary.tar.gz').write_bytes(b'not the images')
  with pytest.raises(data.DataError, match='not the registered one') as error:
    data.prepare('cifar10', str(tmp_path / 'data'), str(tmp_path / 'manual'))
  assert 'cifar-10-binary.tar.gz  170,052,171 bytes' in str(error.value)
  assert not list((tmp_path / 'data').rglob('dataset_info.json'))


def test_imagenet_asks_for_its_archives(tmp_path, no_network):
  with pytest.raises(data.DataError) as error:
    data.prepare('imagenet2012', str(tmp_path))
  message = str(error.value)
  assert 'ILSVRC2012_img_val.tar  6,744,924,160 bytes' in message
  assert 'https://image-net.org/download-images' in message


def test_a_set_in_another_format_is_left_alone(tmp_path):
  folder = tmp_path / 'mnist/3.0.1'
  folder.mkdir(parents=True)
  (folder / 'dataset_info.json').write_text('{"name": "mnist", "splits": []}')
  with pytest.raises(
    data.DataError, match='stored as tfrecord, and array_record is wanted'
  ) as error:
    data.prepare('mnist', str(tmp_path))
  assert 'train-images-idx3-ubyte.gz  9,912,422 bytes' in str(error.value)


def test_a_manual_dir_that_is_not_there_is_refused(tmp_path):
  with pytest.raises(data.DataError, match=r'manual_dir .*nowhere is no directory'):
    data.prepare('mnist', str(tmp_path), str(tmp_path / 'nowhere'))


def test_of_a_set_in_variants_one_must_be_named_whatever_is_there(tmp_path):
  made = tmp_path / 'cifar10_corrupted/brightness_1/1.0.0'
  for _ in ('none', 'one'):
    with pytest.raises(data.DataError, match=r'in 95 variants, name one: .*/brightness_2, '):
      data.prepare('cifar10_corrupted', str(tmp_path))
    made.mkdir(parents=True, exist_ok=True)
    (made / 'dataset_info.json').write_text('{"fileFormat": "array_record"}')
  assert data.prepare('cifar10_corrupted/brightness_1', str(tmp_path)) == made


def test_an_unknown_name_is_refused(tmp_path):
  with pytest.raises(data.DataError, match='did you mean cifar100'):
    data.prepare('cifar_100', str(tmp_path))
