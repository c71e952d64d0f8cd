"""Predictions are the network's own, in order, for files and data sets, whatever the batch size."""

import dataclasses
import functools
import json
import pathlib
import re

import numpy as np
import pytest
from exported import network
from PIL import Image

from random_pruning_jax import data, files, main, predict
from random_pruning_jax.data import crops


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  return files.save(network(), tmp_path_factory.mktemp('file') / 'net')


@pytest.fixture(scope='module')
def loaded(file):
  return files.load(file)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  """Five digits as PNG files, in grey, and their pixels."""
  pixels, _ = data.load('digits', 'test')
  root = tmp_path_factory.mktemp('images')
  for number in range(5):
    Image.fromarray(np.asarray(pixels[number, ..., 0])).save(root / f'{number}.png')
  return [str(root / f'{number}.png') for number in range(5)], np.asarray(pixels[:5])


def test_files_and_their_pixels_are_one(loaded, images):
  names, pixels = images
  logits = loaded.logits(pixels)
  found = list(predict.of_files(loaded, names, batch_size=5, show=False))
  assert [each.image for each in found] == names
  assert [each.classes[0] for each in found] == logits.argmax(axis=1).tolist()
  for each, row in zip(found, logits, strict=True):
    assert each.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert np.log(each.probabilities[0]) == pytest.approx(
      row.max() - np.log(np.exp(row).sum()), abs=1e-4
    )
    assert (np.diff(each.probabilities) <= 0).all()


def test_a_last_batch_that_is_not_full_gives_the_same(loaded, images):
  names, _ = images
  whole = list(predict.of_files(loaded, names, batch_size=5, show=False))
  parts = list(predict.of_files(loaded, names, batch_size=2, show=False))
  for one, other in zip(whole, parts, strict=True):
    assert np.array_equal(one.classes, other.classes)
    assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_images_of_any_size_and_colour_are_fitted(loaded, tmp_path):
  Image.new('RGBA', (50, 31), (200, 10, 10, 255)).save(tmp_path / 'red.png')
  (found,) = predict.of_files(loaded, [str(tmp_path / 'red.png')], batch_size=5, show=False)
  assert len(found.classes) == 10


def test_the_command_writes_a_json_line_for_each_image(file, images, capsys):
  flags = ['--json', '--top=2', '--cpu-devices=4', '--batch-size=5']
  assert main.main(['predict', str(file), *images[0], *flags]) == 0
  lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [line['image'] for line in lines] == images[0]
  assert all(line['top'][0]['class'] == line['class'] for line in lines)
  assert all(len(line['top']) == 2 for line in lines)


def test_the_command_reads_a_data_set_and_says_how_many_are_right(file, loaded, capsys):
  pixels, labels = data.load('digits', 'test')
  flags = ['--dataset=digits', '--split=test', '--cpu-devices=4', '--batch-size=5']
  assert main.main(['predict', str(file), *flags]) == 0
  captured = capsys.readouterr()
  right = np.mean(loaded.logits(pixels).argmax(axis=1) == labels)
  assert len(captured.out.splitlines()) == len(labels)
  assert f'{len(labels)} images, {right:.2%} of them right' in captured.err


def test_labels_of_another_data_set_are_not_those_of_the_networks_classes(loaded):
  for name, known in (('digits:1.0.0', True), ('natural_patches', False)):
    first = next(predict.of_dataset(loaded, name, batch_size=5, show=False))
    assert (first.label is not None) == known and first.image == 'test[0]'


def test_images_without_a_label_are_neither_right_nor_wrong(loaded, tmp_path):
  from random_pruning_jax.data.digits import Digits

  class Unlabelled(Digits, skip_registration=True):
    """Digits of which nobody says what they are, as in test splits of competitions."""

    __module__ = Digits.__module__  # TFDS looks for files beside it

    def _generate_examples(self, split):
      for index, example in super()._generate_examples(split):
        yield index, example | {'label': -1}

  Unlabelled(data_dir=tmp_path).download_and_prepare(file_format='array_record')
  about = dataclasses.replace(loaded.about, dataset='unlabelled')
  network = dataclasses.replace(loaded, about=about)
  found = list(predict.of_dataset(network, 'unlabelled', data_dir=str(tmp_path), show=False))
  assert len(found) == 360 and {each.label for each in found} == {None}


@pytest.mark.parametrize(
  'arguments, message',
  [
    ([], 'image files, or --dataset'),
    (['a.png', '--dataset=digits'], 'and not both'),
    (['none.png'], 'none.png must be an image file'),
    (['none.png', '--top=0'], 'at least 1'),
    (['none.png', '--batch-size=0'], 'at least 1'),
    (['none.png', '--colour'], 'unknown argument --colour'),
  ],
)
def test_what_cannot_be_predicted_is_said_in_one_line(arguments, message, file, capsys):
  assert main.main(['predict', str(file), *arguments, '--cpu-devices=4']) == 2
  err = capsys.readouterr().err
  assert message in err and err.count('\n') == 1


def test_options_may_stand_between_the_file_and_its_images(file, images, capsys):
  names = images[0][:2]
  arguments = [str(file), '--top=1', names[0], '--batch-size=5', names[1], '--cpu-devices=4']
  assert main.main(['predict', *arguments]) == 0
  assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == names


@pytest.mark.parametrize('resize', [0, 10])
def test_an_image_that_is_too_large_or_damaged_is_refused_by_its_name(loaded, tmp_path, resize):
  about = dataclasses.replace(loaded.about, resize=resize)
  Image.new('1', (20_000, 20_000)).save(tmp_path / 'huge.png')
  (tmp_path / 'text.png').write_text('hello')
  Image.new('RGB', (8, 8)).convert('LAB').save(tmp_path / 'lab.tiff')  # none makes it grey
  whole = (tmp_path / 'huge.png').read_bytes()
  (tmp_path / 'broken.png').write_bytes(whole[:8] + b'\xff' + whole[9:])
  for name in ('huge.png', 'text.png', 'broken.png', 'lab.tiff'):
    with pytest.raises(ValueError, match=f'{name} must be an image file') as caught:
      predict._open(str(tmp_path / name), about)
    assert ' at 0x' not in str(caught.value)


def test_an_image_of_16_bits_is_what_it_is_with_8(loaded, images, tmp_path):
  _, pixels = images
  Image.fromarray(pixels[0, ..., 0].astype(np.uint16) * 257).save(tmp_path / 'deep.png')
  (deep,) = predict.of_files(loaded, [str(tmp_path / 'deep.png')], show=False)
  (usual,) = predict.of_files(loaded, images[0][:1], show=False)
  np.testing.assert_array_equal(deep.probabilities, usual.probabilities)


@pytest.mark.parametrize('kind', [np.int32, np.uint16, bool])
def test_images_of_other_integers_and_no_images_are_refused(loaded, images, kind):
  with pytest.raises(ValueError, match='must be uint8, or float in'):
    loaded.logits(images[1].astype(kind))
  with pytest.raises(ValueError, match='at least one, got none'):
    loaded.logits(images[1][:0])


def test_a_directory_is_no_file(loaded, tmp_path):
  with pytest.raises(ValueError, match='must go to a file, got the directory'):
    files.save(loaded, tmp_path)


def test_pixels_up_to_255_must_be_uint8(loaded, images):
  with pytest.raises(ValueError, match=r'float in \[0, 1\]; got 0 to 255'):
    loaded.logits(images[1].astype(np.float32))
  with pytest.raises(ValueError, match=r'float in \[0, 1\]; got -1 to 1'):  # normalised already
    loaded.logits(np.where(images[1] > 0, 1.0, -1.0))
  assert np.isfinite(loaded.logits(np.where(images[1] > 0, 1.0005, -0.0005))).all()  # rounding
  np.testing.assert_allclose(loaded.logits(images[1] / 255), loaded.logits(images[1]), atol=1e-5)


def test_of_images_that_differ_in_size_what_evaluation_shows_is_predicted(loaded, tmp_path):
  ramp = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)
  Image.fromarray(ramp).save(tmp_path / 'large.png')
  about = dataclasses.replace(loaded.about, resize=10)
  shown = crops.pillow(
    (tmp_path / 'large.png').read_bytes(),
    functools.partial(crops.central_region, size=(8, 8), resize=10),
    (8, 8),
    1,
  )
  np.testing.assert_array_equal(predict._open(str(tmp_path / 'large.png'), about), shown)
  assert (predict._open(str(tmp_path / 'large.png'), loaded.about) != shown).any()


def test_images_of_another_shape_are_refused(loaded):
  with pytest.raises(ValueError, match='must have the shape'):
    loaded.logits(np.zeros((1, 9, 8, 1), np.uint8))


def test_the_page_on_files_measures_a_file_as_evaluate_measures_a_run(loaded, capsys):
  page = pathlib.Path(__file__).parents[1] / 'docs/file-format.md'
  blocks = re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)
  [block] = [block for block in blocks if 'metrics' in block]
  names = {'network': loaded}
  exec(block.replace('svhn_cropped', 'natural_patches').replace("'pgd'", "'fgsm'"), names)
  accuracy = np.mean(loaded.logits(names['images']).argmax(axis=1) == names['labels'])
  first, second, third = capsys.readouterr().out.splitlines()
  assert float(first.split()[0]) == pytest.approx(accuracy, abs=1e-6)
  assert "'auroc'" in second and 0 <= float(third) <= 1
