"""Suites of corrupted and of shifted images."""

import dataclasses
import importlib.util
import itertools
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from small import bench, few_digits, make_set, run

from random_pruning_jax import data
from random_pruning_jax.data import corrupted
from random_pruning_jax.suites import corruptions, shifts


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
  """A data directory with darker digits 0 to 3."""
  root = tmp_path_factory.mktemp('sets')
  few_digits(root)
  return str(root)


def test_a_shifted_set_of_other_classes_or_without_labels_is_skipped(tmp_path):
  images = np.zeros((3, 8, 8, 1), np.uint8)
  make_set(tmp_path, 'unlabelled', images, [-1, 0, 1])
  make_set(tmp_path, 'three', images, [0, 1, 2], names=('x', 'y', 'z'))
  found = run(('shifts',), data_dir=str(tmp_path), shifts=('unlabelled', 'three'))
  assert not found.numbers and found.skipped == {
    'shifts/unlabelled': 'labels of unlabelled must lie in [0, 10), got -1 to 1',
    'shifts/three': 'without the names of classes there must be 10, as of the network, got 3',
  }


@pytest.mark.parametrize(
  ('own', 'others', 'found'),
  [
    ('cat dog owl', 'owl cat', [2, 0]),
    ('cat dog owl', 'cat dog owl', [0, 1, 2]),
    ('cat dog owl', '0 1 2', [0, 1, 2]),  # as CIFAR-10.1 in TFDS
    ('0 1 2', 'owl cat dog', [0, 1, 2]),
    ('0 1 2', '2 0 1', [2, 0, 1]),
    ('0 1 2', '2 1', [2, 1]),
    ('cat dog', 'cat owl elk ape emu', 'among those of the network, got owl, elk, ape and 1 more'),
    ('cat dog', '0 1 2', 'there must be 2, as of the network, got 3'),
    ('0 1 2', '0 1', 'there must be 3, as of the network, got 2'),
  ],
)
def test_labels_are_those_of_classes_of_the_same_name_or_as_they_are(own, others, found):
  if isinstance(found, list):
    assert shifts.matched(own.split(), others.split()).tolist() == found
  else:
    with pytest.raises(data.DataError, match=found):
      shifts.matched(own.split(), others.split())


def test_a_shifted_set_of_some_classes_in_another_order_is_measured_by_their_names(tmp_path):
  shutil.copytree(data.find('digits'), tmp_path / 'digits/1.0.0')
  names = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
  (tmp_path / 'digits/1.0.0/label.labels.txt').write_text('\n'.join(names))
  images, labels = data.load('digits', 'test')
  some = labels >= 7
  make_set(tmp_path, 'last', images[some], 9 - labels[some], names=('nine', 'eight', 'seven'))
  make_set(tmp_path, 'other', images[:3], [0, 1, 1], names=('nine', 'ten'))
  found = run(('shifts',), data_dir=str(tmp_path), shifts=('last', 'other'))
  chosen = bench().outputs().logits[some][:, 7:].argmax(-1) + 7
  assert found.numbers['shifts/last/accuracy'] == pytest.approx((chosen == labels[some]).mean())
  assert found.notes['shifts/last'] == (
    'labels matched by the names of classes, among the 3 classes that occur'
  )
  why = 'its classes must be among those of the network, got ten'
  assert found.skipped == {'shifts/other': why}


def test_logits_of_classes_that_do_not_occur_are_masked():
  logits = np.array([[9.0, 1, 2, 3], [9.0, 5, 4, 0]])
  found, labels = shifts.within(logits, np.array([3, 1]))
  np.testing.assert_array_equal(found, [[1, 3], [5, 0]])
  np.testing.assert_array_equal(labels, [1, 0])


def test_an_imagenet_subset_counts_its_own_classes_alone(sets, monkeypatch):
  monkeypatch.setattr(shifts, 'SUBSETS', ('few_digits',))
  masked = run(('shifts',), data_dir=sets, shifts=('few_digits', 'few_digits:1.0.0'))
  monkeypatch.undo()
  plain = run(('shifts',), data_dir=sets, shifts=('few_digits',))
  for name in ('shifts/few_digits', 'shifts/few_digits:1.0.0'):
    assert masked.numbers[f'{name}/accuracy'] > plain.numbers['shifts/few_digits/accuracy']
    assert masked.notes[name] == 'among the 4 classes that occur'


def test_a_version_of_a_set_has_the_shifted_and_corrupted_sets_of_the_set(sets, monkeypatch):
  monkeypatch.setitem(shifts.SHIFTS, 'digits', ('few_digits',))
  monkeypatch.setitem(corruptions.FAMILIES, 'digits', corruptions.Family('digits_corrupted', {}))
  on = bench(data_dir=sets)
  on.experiment.config.dataset = 'digits:1.0.0'
  assert 'shifts/few_digits/accuracy' in shifts.full(on).numbers
  assert 'digits_corrupted is not prepared' in corruptions.full(on).skipped['corruptions']


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """Corruptions of the digits at five severities: half the brightness, and another one black."""
  root = tmp_path_factory.mktemp('prepared')
  images, labels = data.load('digits', 'test')
  make_set(root, 'dark', images[:50] // 2, labels[:50])
  make_set(root, 'black', images[:50] * 0, labels[:50])
  for name in (*corruptions.ALEXNET, 'spatter'):
    for severity in range(1, 6):
      called = {'fog': 'mist'}.get(name, name)
      made = root / ('black' if name == 'spatter' else 'dark')
      shutil.copytree(made, root / f'digits_corrupted/{called}_{severity}')
  return root


@pytest.fixture
def corrupted_digits(prepared, tmp_path, monkeypatch):
  """A test's own directory of these, with links to their files, which are decoded once."""
  for files in prepared.glob('**/1.0.0'):
    place = tmp_path / files.relative_to(prepared)
    place.parent.mkdir(parents=True)
    place.symlink_to(files)
  family = corruptions.Family('digits_corrupted', {'fog': 'mist'}, alexnet=True)
  monkeypatch.setitem(corruptions.FAMILIES, 'digits', family)
  return tmp_path


def test_prepared_corruptions_are_measured_and_averaged(corrupted_digits):
  asked = {'data_dir': str(corrupted_digits), 'severities': (5, 4, 3, 2, 1)}  # in any order
  found = run(('corruptions',), corruptions=(*corruptions.ALEXNET, 'spatter'), **asked).numbers
  on = bench(data_dir=str(corrupted_digits))
  accuracy, black = (
    (on.predict(images, '').argmax(-1) == labels).mean()
    for images, labels in map(on.images, ('dark', 'black'))
  )
  assert found['corruptions/spatter/accuracy'] == pytest.approx(black) != accuracy
  for name in ('corruptions/accuracy', 'corruptions/fog/accuracy', 'corruptions/snow/accuracy'):
    assert found[name] == pytest.approx(accuracy)
  assert found['corruptions/fog/ce'] == pytest.approx((1 - accuracy) / 0.819)
  assert found['corruptions/mce'] == pytest.approx(
    np.mean([(1 - accuracy) / error for error in corruptions.ALEXNET.values()])
  )
  clean = (on.outputs().logits.argmax(-1) == on.labels()).mean()
  added = [(clean - accuracy) / (error - 0.4348) for error in corruptions.ALEXNET.values()]
  assert found['corruptions/relative_mce'] == pytest.approx(np.mean(added))


def test_how_corrupted_images_were_adapted_is_noted(corrupted_digits):
  images, labels = data.load('digits', 'test')
  make_set(
    corrupted_digits, 'colour', images[:9].repeat(2, 1).repeat(2, 2).repeat(3, 3), labels[:9]
  )
  shutil.copytree(corrupted_digits / 'colour', corrupted_digits / 'digits_corrupted/saturate_1')
  asked = {'data_dir': str(corrupted_digits), 'severities': (1,)}
  notes = run(('corruptions',), corruptions=('saturate',), **asked).notes
  assert notes['digits_corrupted'] == 'resized 16x16 -> 8x8, colour -> grey'
  assert 'digits_corrupted' not in run(('corruptions',), corruptions=('snow',), **asked).notes


def test_a_corrupted_set_of_other_classes_is_skipped(corrupted_digits):
  on = bench(data_dir=str(corrupted_digits), corruptions=('fog',))
  fewer = dataclasses.replace(on.experiment.spec, num_classes=3)
  on.experiment = on.experiment._replace(spec=fewer)
  found = corruptions.full(on)
  assert not found.numbers
  assert 'must lie in [0, 3), got 0 to 9' in found.skipped['corruptions/fog']


def test_only_a_family_that_asks_for_it_is_compared_with_alexnet(corrupted_digits, monkeypatch):
  family = corruptions.FAMILIES['digits']._replace(alexnet=False)
  monkeypatch.setitem(corruptions.FAMILIES, 'digits', family)
  found = run(('corruptions',), data_dir=str(corrupted_digits)).numbers
  assert 'corruptions/accuracy' in found and 'corruptions/fog/accuracy' in found
  assert not {'corruptions/mce', 'corruptions/fog/ce'} & found.keys()


def test_a_corruption_is_measured_at_each_severity(corrupted_digits):
  worst = corrupted_digits / 'digits_corrupted/mist_5'
  shutil.rmtree(worst)
  shutil.copytree(corrupted_digits / 'black', worst)
  of = {'data_dir': str(corrupted_digits), 'corruptions': ('fog',)}
  both, dark, black = (
    run(('corruptions',), severities=severities, **of).numbers['corruptions/fog/accuracy']
    for severities in ((1, 5), (1,), (5,))
  )
  assert black < dark and both == pytest.approx((dark + black) / 2)


def test_without_all_fifteen_at_all_severities_there_is_no_mean(corrupted_digits):
  shutil.rmtree(corrupted_digits / 'digits_corrupted/snow_3')
  found = run(('corruptions',), data_dir=str(corrupted_digits))
  assert 'corruptions/snow' in found.skipped and 'no mean' in found.notes['corruptions']
  assert 'corruptions/fog/accuracy' in found.numbers
  assert not {'corruptions/accuracy', 'corruptions/mce'} & found.numbers.keys()
  found = run(('corruptions',), data_dir=str(corrupted_digits), corruptions=('snow',))
  assert found.skipped.keys() == {'corruptions', 'corruptions/snow'}  # and nothing is made here
  found = run(('corruptions',), data_dir=str(corrupted_digits), severities=(1, 2))
  assert 'corruptions/snow' not in found.skipped and 'no mean' in found.notes['corruptions']
  assert not {'corruptions/accuracy', 'corruptions/mce'} & found.numbers.keys()


def test_it_is_said_how_many_corrupted_sets_of_those_asked_for_are_missing(corrupted_digits):
  for made in (corrupted_digits / 'digits_corrupted').iterdir():
    if made.name != 'brightness_1':
      shutil.rmtree(made)
  found = run(('corruptions',), data_dir=str(corrupted_digits))
  why = found.skipped['corruptions']
  assert why.startswith('74 of the 75 sets asked for of digits_corrupted are not prepared')
  assert 'docs/evaluation.md' in why and not found.numbers


def test_images_corrupted_here_are_noted_beside_the_missing_mean(monkeypatch):
  def inverted(images, *_):
    return images._replace(images=255 - images.images)

  # Not by the extra, which refuses images as small as the digits.
  monkeypatch.setattr(corrupted, 'why_not', lambda shape: '')
  monkeypatch.setattr(corrupted, 'corrupted', inverted)
  on = bench()
  right = on.predict(255 - on.images().images, 'inverted').argmax(-1) == on.labels()
  for asked, count in ((20, 20), (0, 360), (1000, 360)):
    found = run(('corruptions',), corruptions=('fog',), severities=(1,), corrupted_images=asked)
    note = found.notes['corruptions_regenerated']
    assert note.startswith(f'the first {count} test images, corrupted here') and 'no mean' in note
    accuracy = found.numbers['corruptions_regenerated/fog/accuracy']
    assert accuracy == pytest.approx(right[:count].mean())


def test_shifted_and_corrupted_sets_have_the_names_of_tfds():
  def configs(*names):
    return {f'{of}/{each.name}' for of in names for each in tfds.builder_cls(of).BUILDER_CONFIGS}

  for family in corruptions.FAMILIES.values():
    named = itertools.product(corruptions.NAMES, range(1, 6))
    assert {corruptions._tfds_name(family, *each) for each in named} == configs(family.dataset)
  assert set(shifts.SHIFTS['cifar10']) == configs('cifar10_1')
  assert shifts.SHIFTS['imagenet2012'][0] in configs('imagenet_v2')


def test_alexnet_itself_has_an_mce_of_one():
  found = corruptions.against_alexnet(corruptions.ALEXNET, corruptions.ALEXNET_CLEAN)
  assert found['mce'] == pytest.approx(1) and found['relative_mce'] == pytest.approx(1)
  assert found['fog/ce'] == 1


@pytest.mark.skipif(
  importlib.util.find_spec('imagecorruptions') is None, reason='needs the extra `corruptions`'
)
def test_images_are_corrupted_here_once_and_kept(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  rng = np.random.RandomState(0)
  images = data.Images(rng.randint(0, 255, (3, 32, 32, 1)).astype(np.uint8), np.arange(3))
  state = np.random.get_state()[1].copy()
  first = corrupted.corrupted(images, 'shot_noise', 3, 'grey')
  assert first.images.shape == (3, 32, 32, 1) and (first.images != images.images).any()
  np.testing.assert_array_equal(first.labels, images.labels)
  np.testing.assert_array_equal(np.random.get_state()[1], state)  # nobody's chance is touched
  again = corrupted.corrupted(images, 'shot_noise', 3, 'grey')
  assert isinstance(again.images, np.memmap)
  np.testing.assert_array_equal(first.images, again.images)
  others = data.Images(images.images, images.labels + 1)  # a class more, before the others
  found = corrupted.corrupted(others, 'shot_noise', 3, 'grey').labels
  np.testing.assert_array_equal(found, others.labels)
  mapped = data.Images(first.images, images.labels)  # of a file that is gone
  shutil.rmtree(pathlib.Path(tmp_path))
  assert corrupted.corrupted(mapped, 'fog', 1, 'mapped').images.shape == (3, 32, 32, 1)
  np.testing.assert_array_equal(
    corrupted.corrupted(images, 'shot_noise', 3, 'grey').images, first.images
  )
