"""Outputs of whole sets: each image once, the same for any batch and any devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import two_layers

from random_pruning_jax import attacks, data, evaluate, norms, ood, parallel

IMAGES, LABELS = data.load('digits', 'test')
IMAGES, LABELS = np.asarray(IMAGES[:50]), LABELS[:50]
WAYS = [(1, 50), (1, 7), (3, 20), (4, 11), (4, 500)]  # devices, batch size


def network(devices=1, batch_size=50):
  return evaluate.Trained(*two_layers(), batch_size, parallel.devices(devices))


@functools.cache
def plain():
  """The network as a function of pixels."""
  model, variables = two_layers()
  return jax.jit(lambda images: model.apply(variables, images))


@pytest.mark.parametrize(('devices', 'batch_size'), WAYS)
def test_outputs_are_those_of_the_network_for_any_batch_and_devices(devices, batch_size):
  found = evaluate.outputs(network(devices, batch_size), evaluate.stored(IMAGES), features=True)
  np.testing.assert_allclose(found.logits, plain()(IMAGES / np.float32(255)), atol=1e-4)
  head = two_layers()[1]['params']['head']
  np.testing.assert_allclose(
    found.features @ head['kernel'] + head['bias'], found.logits, atol=1e-4
  )


def test_every_image_is_counted_once_and_features_come_on_request():
  done = []
  found = evaluate.outputs(network(3, 20), evaluate.stored(IMAGES), advance=done.append)
  assert sum(done) == len(IMAGES) == len(found.logits)
  assert found.features is None


def test_a_network_without_images_is_told_so_in_one_line():
  for see in (evaluate.outputs, evaluate.odin):
    with pytest.raises(ValueError, match=r'at least one image, got 0\.$'):
      see(network(), evaluate.stored(IMAGES[:0]))


@functools.cache
def of_noise_and_shuffled():
  """Logits of all images at once."""
  keys = [norms.image_keys(jax.random.key(seed), jnp.arange(50)) for seed in (0, 1)]
  noise = ood.gaussian_noise(keys[0], (8, 8, 1))
  shuffled = ood.pixel_shuffled(keys[1], IMAGES / np.float32(255))
  return plain()(noise), plain()(shuffled)


@pytest.mark.parametrize(('devices', 'batch_size'), WAYS)
def test_noise_and_shuffled_images_are_the_same_for_any_batch_and_devices(devices, batch_size):
  noise = evaluate.outputs(network(devices, batch_size), evaluate.gaussian_noise(50, (8, 8, 1)))
  shuffled = evaluate.outputs(network(devices, batch_size), evaluate.pixel_shuffled(IMAGES))
  for found, wanted in zip((noise, shuffled), of_noise_and_shuffled(), strict=True):
    np.testing.assert_allclose(found.logits, wanted, atol=1e-4)


@pytest.mark.parametrize(
  ('devices', 'batch_size', 'settings'),
  [(1, 50, {}), (1, 50, {'temperature': 1.0}), (3, 20, {'temperature': 10.0, 'epsilon': 0.01})],
)
def test_odin_of_a_set_is_odin_of_its_images(devices, batch_size, settings):
  found = evaluate.odin(network(devices, batch_size), evaluate.stored(IMAGES), **settings)
  wanted = ood.odin(plain(), jnp.asarray(IMAGES / np.float32(255)), **settings)
  np.testing.assert_allclose(found, wanted, atol=1e-5)


PGD = {'restarts': 2, 'steps': 3}


@functools.cache
def right_under_pgd():
  """Of all images at once."""
  attack = jax.jit(functools.partial(attacks.ATTACKS['pgd'], plain(), **PGD))
  keys = norms.image_keys(jax.random.key(0), jnp.arange(len(IMAGES)))
  moved = attack(jnp.asarray(IMAGES / np.float32(255)), LABELS, 8 / 255, keys)
  return np.asarray(plain()(moved)).argmax(-1) == LABELS


@pytest.mark.parametrize(('devices', 'batch_size'), WAYS)
def test_an_attack_is_the_same_for_any_batch_and_devices(devices, batch_size):
  on, settings = network(devices, batch_size), tuple(PGD.items())
  found = evaluate.survives(on, 'pgd', IMAGES, LABELS, 8 / 255, settings=settings)
  assert 0 < right_under_pgd().sum() < len(LABELS)
  np.testing.assert_array_equal(found, right_under_pgd())


def test_rows_that_are_not_attacked_count_as_wrong_and_change_no_other():
  every = evaluate.survives(network(), 'pgd', IMAGES, LABELS, 4 / 255)
  rows = np.array([3, 4, 17, 30])
  some = evaluate.survives(network(3, 3), 'pgd', IMAGES, LABELS, 4 / 255, rows=rows)
  np.testing.assert_array_equal(some[rows], every[rows])
  assert not np.delete(some, rows).any()
  assert not evaluate.survives(network(), 'pgd', IMAGES, LABELS, 4 / 255, rows=rows[:0]).any()


def test_an_images_chance_is_that_of_its_index_whichever_rows_are_attacked(monkeypatch):
  def noise(logits_fn, images, labels, epsilon, keys):
    return jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)

  monkeypatch.setitem(attacks.ATTACKS, 'noise', noise)
  every = evaluate.survives(network(), 'noise', IMAGES, LABELS, 0.0)
  rows = np.arange(1, len(LABELS))
  some = evaluate.survives(network(3, 20), 'noise', IMAGES, LABELS, 0.0, rows=rows)
  assert every[rows].any()
  np.testing.assert_array_equal(some[rows], every[rows])


def test_an_attack_at_epsilon_zero_leaves_the_clean_answers():
  found = evaluate.survives(network(), 'fgsm', IMAGES, LABELS, 0.0)
  logits = evaluate.outputs(network(), evaluate.stored(IMAGES)).logits
  np.testing.assert_array_equal(found, logits.argmax(-1) == LABELS)


@pytest.mark.parametrize(
  ('epsilon', 'name'),
  [(8 / 255, '8/255'), (1 / 255, '1/255'), (0.0039, '0.0039'), (0.1, '0.1'), (0.5, '0.5')],
)
def test_epsilons_are_named_as_people_write_them(epsilon, name):
  assert evaluate.epsilon_name(epsilon) == name


def test_a_length_is_no_number_of_pixel_steps():
  assert [evaluate.epsilon_name(e, 'l2') for e in (0.2, 0.5, 1.0)] == ['0.2', '0.5', '1']
