"""A folder of images becomes a set, whole or not at all, and says what it cannot take."""

import concurrent.futures
import io
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
from colours import TRAIN, all_of, source, streamed_config, who
from PIL import Image

from random_pruning_jax import data, feed, main, run
from random_pruning_jax.data import decode, folder, places, streamed
from random_pruning_jax.experiment import build

pytestmark = pytest.mark.usefixtures('data_dir')


@pytest.mark.parametrize('sizes', [(8,), (8, 9)])
def test_the_least_that_a_set_can_hold_is_described(tmp_path, sizes):
  """One training image, without blue; its size the test image's, or another."""
  rng = np.random.RandomState(0)
  for split, size in (('train', sizes[0]), ('test', sizes[-1])):
    pixels = rng.randint(0, 256, (size, size, 3), np.uint8) * np.array([1, 1, 0], np.uint8)
    (tmp_path / 'images' / split / 'only').mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / 'images' / split / 'only/one.png')
  folder.prepare_folder(tmp_path / 'images', 'least', str(tmp_path))
  spec = data.describe('least', str(tmp_path))
  assert spec.mean[2] == 0 and spec.std[2] == 1 and min(spec.std) > 0


def test_a_folder_becomes_a_set_with_its_images_as_they_are(data_dir, tmp_path):
  spec = data.describe('colours', data_dir)
  assert (spec.num_classes, spec.shape, spec.resize) == (3, (224, 224, 3), 256)
  assert places.split_sizes(data.find('colours', data_dir)) == {
    'test': 15,
    'train': 36,
    'val': 15,
  }
  images = source(data_dir).read(range(36))
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
