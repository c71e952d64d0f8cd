"""Batches on the device: each image once, augmented by a function of its index."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from random_pruning_jax.data import order, resident

SHAPE = (25, 9, 7, 3)
AUGMENTED = {'pad': 2, 'mode': 'reflect', 'flip': True}
MODES = {'reflect': 'reflect', 'zeros': 'constant'}  # ours: NumPy's

jitted = jax.jit(resident.gather, static_argnames=('shape', 'pad', 'mode', 'flip'))
WAYS = {
  name: jax.jit(way, static_argnames=('shape', 'pad', 'mode'))
  for name, way in (('cpu', resident._take), ('accelerator', resident._choose))
}
choices = jax.jit(resident._choices, static_argnums=2)


def gather(images, labels, *arguments, **options):
  return jitted(resident.flat(images), labels, *arguments, shape=images.shape[1:], **options)


@pytest.fixture(scope='module')
def images():
  return np.random.RandomState(0).randint(0, 256, SHAPE).astype(np.uint8)


@pytest.fixture(scope='module')
def labels():
  return np.arange(SHAPE[0]) % 10


def test_an_epoch_visits_every_image_once_and_epochs_and_seeds_differ():
  orders = [order.epoch_order(seed, epoch, 100) for seed in (0, 1) for epoch in (0, 1)]
  assert all(sorted(order) == list(range(100)) for order in orders)
  assert len({tuple(order) for order in orders}) == 4
  assert orders[0].dtype == np.int32
  np.testing.assert_array_equal(orders[3], order.epoch_order(1, 1, 100))


def test_the_order_is_the_same_on_every_machine_and_numpy():
  assert order.epoch_order(0, 0, 8).tolist() == [3, 7, 4, 0, 2, 6, 5, 1]


def test_steps_walk_through_the_epochs_orders_and_drop_the_rest():
  batches = [order.batch_indices(3, step, 10, 4) for step in range(4)]
  first, second = (order.epoch_order(3, epoch, 10) for epoch in (0, 1))
  assert order.steps_per_epoch(10, 4) == 2 and order.steps_per_epoch(10, 10) == 1
  np.testing.assert_array_equal(np.concatenate(batches), [*first[:8], *second[:8]])


@pytest.mark.parametrize('batch_size', [0, 11])
def test_a_batch_that_the_images_cannot_fill_is_refused(batch_size):
  with pytest.raises(ValueError, match=rf'in \[1, 10\].* got {batch_size}'):
    order.batch_indices(0, 0, 10, batch_size)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('mode', MODES)
def test_crops_equal_those_of_numpys_padded_copy_at_every_offset(images, mode, way):
  top, left = np.divmod(np.arange(25), 5)  # all offsets of a padding of 2, one an image
  padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=MODES[mode])
  mirrored = np.arange(25) % 2 == 1
  options = {'shape': SHAPE[1:], 'pad': 2, 'mode': mode}
  crops = WAYS[way](resident.flat(images), np.arange(25), top, left, mirrored, **options)
  for index in range(25):
    wanted = padded[index, top[index] : top[index] + 9, left[index] : left[index] + 7]
    wanted = wanted[:, ::-1] if mirrored[index] else wanted
    np.testing.assert_array_equal(crops[index], wanted)


@pytest.mark.parametrize('mode', MODES)
def test_augmented_images_are_crops_of_the_padded_image_mirrored_or_not(images, labels, mode):
  indices = np.repeat(np.arange(5), 3)
  batch = gather(images, labels, indices, jax.random.key(0), pad=2, mode=mode, flip=True)
  padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=MODES[mode])
  crops = {
    padded[index, top : top + 9, left : left + 7][:, ::step].tobytes()
    for index in range(5)
    for top in range(5)
    for left in range(5)
    for step in (1, -1)
  }
  for image in np.asarray(jnp.round(batch['image'] * 255)).astype(np.uint8):
    assert image.tobytes() in crops


def test_all_offsets_and_both_sides_are_equally_likely():
  indices = np.arange(20_000)
  top, left, mirrored = choices(jax.random.key(1), indices, 1, True)
  counts = np.bincount(6 * top + 2 * left + mirrored, minlength=18)
  expected = 20_000 / 18
  assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_without_flips_no_image_is_mirrored():
  assert not choices(jax.random.key(1), np.arange(100), 1, False)[2].any()


def test_images_that_are_not_padded_are_mirrored_all_the_same(images, labels):
  key, indices = jax.random.key(1), np.arange(25)
  batch = gather(images, labels, indices, key, mode='none', flip=True)
  mirrored = np.asarray(choices(key, indices, 0, True)[2])
  assert 0 < mirrored.sum() < 25
  wanted = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
  np.testing.assert_array_equal(jnp.round(batch['image'] * 255), wanted)


def test_without_a_key_images_are_the_stored_ones_scaled(images, labels):
  indices = np.array([7, 0, 7], np.int32)
  batch = gather(images, labels, indices, **AUGMENTED)
  assert batch['image'].dtype == jnp.float32 and batch['label'].dtype == jnp.int32
  np.testing.assert_allclose(batch['image'], images[indices] / np.float32(255), rtol=1e-7)
  np.testing.assert_array_equal(batch['label'], labels[indices])


def test_augmentation_of_an_image_does_not_depend_on_its_batch(images, labels):
  key = jax.random.fold_in(jax.random.key(5), 3)  # seed 5, epoch 3
  together = gather(images, labels, np.arange(12), key, **AUGMENTED)['image']
  parts = [gather(images, labels, part, key, **AUGMENTED) for part in np.split(np.arange(12), 4)]
  np.testing.assert_array_equal(together, np.concatenate([part['image'] for part in parts]))
  reverse = gather(images, labels, np.arange(12)[::-1], key, **AUGMENTED)['image']
  np.testing.assert_array_equal(together, reverse[::-1])


def test_augmentation_changes_with_the_epoch(images, labels):
  keys = [jax.random.fold_in(jax.random.key(0), epoch) for epoch in (0, 1)]
  first, second = (gather(images, labels, np.arange(12), k, **AUGMENTED)['image'] for k in keys)
  assert np.mean(np.any(first != second, axis=(1, 2, 3))) > 0.5


def test_images_without_augmentation_in_training_are_not_changed(images, labels):
  plain = gather(images, labels, np.arange(4))['image']
  keyed = gather(images, labels, np.arange(4), jax.random.key(0), pad=4, mode='none')['image']
  np.testing.assert_array_equal(plain, keyed)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'pad': 7, 'mode': 'reflect'}, 'pad < 7, the image size; got 7'),
    ({'pad': 1, 'mode': 'mirror'}, "unknown padding mode 'mirror', known: reflect, zeros, none"),
    ({'pad': -1, 'mode': 'zeros'}, 'pad must be at least 0, got -1'),
  ],
)
def test_wrong_padding_is_refused(images, labels, options, message):
  with pytest.raises(ValueError, match=message):
    gather(images, labels, np.arange(2), jax.random.key(0), **options)
