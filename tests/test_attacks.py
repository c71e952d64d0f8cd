"""Attacks on a linear model with a closed form, on a small trained network, and against foolbox."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from random_pruning_jax import attacks, norms

SETTINGS = {
  'fgsm': {},
  'pgd': {'steps': 10, 'restarts': 2},
  'pgd_l2': {'steps': 10},
  'apgd_ce': {'steps': 20},
  'apgd_targeted': {'steps': 20},
  'square': {'queries': 200},
}
LINF = [name for name in SETTINGS if name != 'pgd_l2']
SHAPE = (6, 6, 2)


def logits_fn(params, images):
  hidden = jax.nn.relu(images.reshape(len(images), -1) @ params['w1'] + params['b1'])
  return hidden @ params['w2']


@pytest.fixture(scope='module')
def task():
  """A network trained on noisy images of five random prototypes, and its test images."""
  rng = np.random.RandomState(0)
  prototypes = rng.uniform(0.3, 0.7, (5, *SHAPE))
  labels = jnp.asarray(rng.randint(0, 5, 256))
  noise = rng.normal(0, 0.15, (256, *SHAPE))
  images = jnp.asarray(np.clip(prototypes[np.asarray(labels)] + noise, 0, 1), jnp.float32)
  size = int(np.prod(SHAPE))
  params = {
    'w1': jnp.asarray(rng.normal(0, size**-0.5, (size, 32)), jnp.float32),
    'b1': jnp.zeros(32),
    'w2': jnp.asarray(rng.normal(0, 32**-0.5, (32, 5)), jnp.float32),
  }
  tx = optax.adam(1e-2)

  @jax.jit
  def step(params, state):
    def loss(p):
      return jnp.mean(attacks.cross_entropy(logits_fn(p, images[:192]), labels[:192]))

    updates, state = tx.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for _ in range(40):
    params, state = step(params, state)
  return params, images[192:], labels[192:]


@functools.cache
def compiled(name):
  """The attack and the survivors' flags, compiled once for every epsilon."""

  @jax.jit
  def run(params, images, labels, epsilon, keys):
    network = functools.partial(logits_fn, params)
    attacked = attacks.ATTACKS[name](network, images, labels, epsilon, keys, **SETTINGS[name])
    return attacked, jnp.argmax(network(attacked), axis=-1) == labels

  return run


def keys_of(images, seed=0):
  return norms.image_keys(jax.random.key(seed), jnp.arange(len(images)))


def attack(name, task, epsilon):
  params, images, labels = task
  return compiled(name)(params, images, labels, jnp.float32(epsilon), keys_of(images))


def clean(task):
  params, images, labels = task
  return jnp.argmax(logits_fn(params, images), axis=-1) == labels


def test_every_attack_of_the_table_is_tried_here():
  assert set(SETTINGS) == set(attacks.ATTACKS)


@pytest.mark.parametrize('name', SETTINGS)
def test_epsilon_zero_returns_the_clean_images(name, task):
  attacked, correct = attack(name, task, 0.0)
  np.testing.assert_array_equal(attacked, task[1])
  np.testing.assert_array_equal(correct, clean(task))


@pytest.mark.parametrize('name', SETTINGS)
@pytest.mark.parametrize('epsilon', [8 / 255, 0.5])
def test_attacked_images_stay_in_the_ball_and_in_the_range_of_pixels(name, epsilon, task):
  attacked, _ = attack(name, task, epsilon)
  moved = (attacked - task[1]).reshape(len(attacked), -1)
  order = 2 if name == 'pgd_l2' else np.inf
  assert np.linalg.norm(moved, ord=order, axis=1).max() <= epsilon + 1e-6
  assert attacked.min() >= 0 and attacked.max() <= 1
  assert np.abs(moved).max() > 0


@pytest.mark.parametrize('name', SETTINGS)
def test_a_curve_of_epsilons_never_rises_and_ends_near_zero(name, task):
  epsilons = [0.1, 0.2, 0.6, 2.0] if name == 'pgd_l2' else [0.02, 0.05, 0.1, 0.3]
  rows = [clean(task), *(attack(name, task, epsilon)[1] for epsilon in epsilons)]
  curve = attacks.epsilon_curve(jnp.stack(rows))
  assert curve[0] == pytest.approx(float(jnp.mean(clean(task))))
  assert all(b <= a for a, b in itertools.pairwise(curve))
  assert curve[0] > 0.9 and curve[-1] < 0.1


@pytest.mark.parametrize('epsilon', [0.03, 0.06, 0.1])
def test_stronger_attacks_leave_no_more_images_right(epsilon, task):
  right = {name: float(jnp.mean(attack(name, task, epsilon)[1])) for name in LINF}
  assert right['pgd'] <= right['fgsm'] < float(jnp.mean(clean(task)))
  assert right['apgd_ce'] <= right['pgd'] + 1 / 64
  assert right['apgd_targeted'] <= right['pgd'] + 1 / 64
  assert right['square'] >= max(right['pgd'], right['apgd_targeted'])


def test_epsilon_one_leaves_nothing_right_of_a_white_box(task):
  for name in ('pgd', 'apgd_ce', 'apgd_targeted'):
    assert jnp.mean(attack(name, task, 1.0)[1]) == 0


def test_one_compilation_serves_every_epsilon(task):
  params, images, labels = task
  traced = []

  @jax.jit
  def run(epsilon):
    traced.append(epsilon)
    network = functools.partial(logits_fn, params)
    return attacks.ATTACKS['fgsm'](network, images, labels, epsilon, keys_of(images))

  assert np.abs(run(0.02) - images).max() > np.abs(run(0.01) - images).max()
  assert len(traced) == 1


@pytest.mark.parametrize('name', ['pgd', 'apgd_targeted', 'square'])
def test_an_image_meets_the_same_attack_in_any_batch(name, task):
  params, images, labels = task
  whole, _ = attack(name, task, 0.05)
  keys = norms.image_keys(jax.random.key(0), jnp.arange(5, 9))
  part, _ = compiled(name)(params, images[5:9], labels[5:9], jnp.float32(0.05), keys)
  np.testing.assert_allclose(part, whole[5:9], atol=1e-5)


@pytest.mark.parametrize('name', ['fgsm', 'pgd', 'apgd_ce', 'apgd_targeted'])
def test_a_linear_model_loses_exactly_epsilon_times_the_l1_norm(name):
  # z = (0, w.x, -50, -50): every margin rises by epsilon ||w||_1 while no pixel is clipped.
  rng = np.random.RandomState(1)
  w = jnp.asarray(rng.normal(size=18), jnp.float32)

  def network(images):
    score = images.reshape(len(images), -1) @ w
    low = jnp.full_like(score, -50)  # the targeted loss wants four classes
    return jnp.stack([jnp.zeros_like(score), score, low, low], axis=1)

  images = jnp.asarray(rng.uniform(0.4, 0.6, (7, 3, 3, 2)), jnp.float32)
  labels = jnp.asarray([0, 1, 0, 1, 0, 1, 1])
  epsilon = 0.03
  settings = {} if name == 'fgsm' else {'steps': 10}
  run = functools.partial(attacks.ATTACKS[name], network, **settings)
  attacked = jax.jit(run)(images, labels, epsilon, keys_of(images))
  rise = attacks.margin(network(attacked), labels) - attacks.margin(network(images), labels)
  np.testing.assert_allclose(rise, epsilon * jnp.sum(jnp.abs(w)), rtol=1e-4)


@pytest.mark.parametrize('name', ['fgsm', 'pgd', 'pgd_l2', 'apgd_ce'])
def test_a_network_does_not_look_robust_because_it_is_sure(name):
  """Three linear classes, the third far behind: logits times 100 leave every boundary in place."""
  rng = np.random.RandomState(3)
  w = jnp.asarray(rng.normal(size=(18, 2)), jnp.float32)
  images = jnp.asarray(rng.uniform(0.4, 0.6, (9, 3, 3, 2)), jnp.float32)

  def network(scale, images):
    logits = images.reshape(len(images), -1) @ w
    return scale * jnp.append(logits, jnp.full((len(images), 1), -99.0), axis=1)

  labels = jnp.argmax(network(1, images), axis=-1)
  settings = {} if name == 'fgsm' else {'steps': 10}

  @jax.jit
  def moved(scale):
    of_scale = functools.partial(network, scale)
    return attacks.ATTACKS[name](of_scale, images, labels, 0.05, keys_of(images), **settings)

  plain, sure = moved(1.0), moved(100.0)
  assert np.abs(plain - images).max() > 0.01
  np.testing.assert_allclose(sure, plain, atol=1e-5)


def test_l2_pgd_moves_a_linear_model_along_its_weights():
  w = jnp.asarray(np.random.RandomState(2).normal(size=12), jnp.float32)
  images = jnp.full((2, 2, 2, 3), 0.5)

  def loss(x):
    return x.reshape(2, -1) @ w

  run = functools.partial(attacks.pgd, loss, norm='l2', steps=60)
  moved = jax.jit(run)(images, 0.1, keys_of(images))
  expected = 0.5 + 0.1 * w / jnp.linalg.norm(w)
  np.testing.assert_allclose(moved.reshape(2, -1), jnp.stack([expected] * 2), atol=1e-4)


@pytest.mark.parametrize('name', ['pgd', 'pgd_l2', 'apgd_ce'])
def test_images_of_half_precision_are_attacked_in_float32(name, task):
  params, images, labels = task
  small = images[:4].astype(jnp.bfloat16)
  run = functools.partial(attacks.ATTACKS[name], functools.partial(logits_fn, params), steps=3)
  moved = jax.jit(run)(small, labels[:4], 0.03, keys_of(small))
  length = jnp.abs if name != 'pgd_l2' else lambda x: jnp.sqrt(jnp.sum(x**2, (1, 2, 3)))
  assert moved.dtype == jnp.float32
  assert float(length(moved - small.astype(jnp.float32)).max()) < 0.03 + 1e-6


def test_a_direction_has_length_one_however_small_the_gradient_is():
  gradient = jnp.asarray([[3.0, -4.0], [3e-30, -4e-30], [0.0, 0.0]]).reshape(3, 1, 2, 1)
  found = norms.NORMS['l2'].direction(gradient).reshape(3, 2)
  np.testing.assert_allclose(found, [[0.6, -0.8], [0.6, -0.8], [0, 0]], rtol=1e-6)


def test_of_several_restarts_each_image_keeps_its_worst(task):
  params, images, labels = task

  def loss(pixels):
    return attacks.cross_entropy(logits_fn(params, pixels), labels)

  one, three = (jax.jit(functools.partial(attacks.pgd, loss, steps=5, restarts=n)) for n in (1, 3))
  keys = keys_of(images)
  split = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
  alone = [loss(one(images, 0.1, each)) for each in split]
  np.testing.assert_allclose(loss(three(images, 0.1, keys)), np.max(alone, 0), rtol=1e-5)


@pytest.mark.parametrize('name', ['pgd', 'apgd_ce'])
def test_an_image_that_one_restart_loses_is_lost(name, task):
  params, images, labels = task
  keys, network = keys_of(images), functools.partial(logits_fn, params)

  @functools.partial(jax.jit, static_argnames='restarts')
  def attack(keys, restarts=1):
    run = attacks.ATTACKS[name]
    return run(network, images, labels, 0.06, keys, steps=3, restarts=restarts)

  def right(moved):
    return network(moved).argmax(-1) == labels

  alone = [
    right(attack(each)) for each in jax.vmap(lambda k: jax.random.split(k, 8), out_axes=1)(keys)
  ]
  found = right(attack(keys, restarts=8))
  np.testing.assert_array_equal(found, right(images) & np.all(alone, axis=0))
  assert name == 'apgd_ce' or found.sum() < np.min([each.sum() for each in alone])


@pytest.mark.parametrize('attack', [attacks.pgd, attacks.apgd])
def test_of_several_restarts_the_judge_decides(attack, task):
  params, images, labels = task

  def loss(pixels):
    return attacks.cross_entropy(logits_fn(params, pixels), labels)

  run = functools.partial(attack, loss, steps=1, restarts=2, judge=lambda pixels: -loss(pixels))
  moved = jax.jit(run)(images, 0.1, keys_of(images))
  assert (loss(moved) <= loss(images)).all()


def test_attacks_on_the_cross_entropy_are_judged_by_the_margin(task):
  params, images, labels = task

  def judged(loss_fn, images, epsilon, keys, *, restarts, judge):
    return judge(images)

  network = functools.partial(logits_fn, params)
  run = attacks._untargeted(judged, attacks.cross_entropy)
  found = run(network, images, labels, 0.1, keys_of(images), restarts=2)
  np.testing.assert_array_equal(found, attacks.margin(network(images), labels))


def test_settings_that_are_given_replace_those_of_the_table():
  def taken(loss_fn, images, epsilon, keys, *, steps):
    return steps

  run = attacks._untargeted(taken, attacks.cross_entropy, steps=50)
  assert (run(None, None, None, 0.1, None), run(None, None, None, 0.1, None, steps=1)) == (50, 1)


@pytest.mark.parametrize(
  ('name', 'attack', 'of', 'settings'),
  [
    ('pgd', attacks.pgd, attacks.cross_entropy, {'steps': 3}),
    ('apgd_ce', attacks.apgd, attacks.cross_entropy, {'steps': 3}),
    ('square', attacks.square, attacks.margin, {'queries': 30}),
  ],
)
def test_attacks_of_the_table_climb_the_loss_of_the_literature(name, attack, of, settings, task):
  params, images, labels = task

  def loss(pixels):
    return of(logits_fn(params, pixels), labels)

  arguments = (0.1, keys_of(images))
  found = attacks.ATTACKS[name](
    functools.partial(logits_fn, params), images, labels, *arguments, **settings
  )
  np.testing.assert_allclose(found, attack(loss, images, *arguments, **settings), atol=1e-6)


@pytest.mark.parametrize('name', norms.NORMS)
def test_random_starts_are_all_over_the_ball(name):
  images = jnp.full((200, 2, 2, 3), 0.5)
  moved = norms.start(norms.get(name), images, 0.1, keys_of(images)).reshape(200, -1) - 0.5
  np.testing.assert_allclose(moved.mean(0), 0, atol=0.015)
  if name == 'linf':
    np.testing.assert_allclose(moved.std(0), 0.1 / np.sqrt(3), rtol=0.1)
  else:
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 0.1, rtol=1e-5)


def test_settings_that_are_not_given_are_those_of_the_literature():
  wanted = {
    attacks.pgd: {'steps': 20, 'step_size': 0.25, 'norm': 'linf', 'restarts': 1},
    attacks.apgd: {'steps': 100, 'norm': 'linf', 'restarts': 1},
    attacks.apgd_targeted: {'targets': 9},
    attacks.square: {'queries': 5000, 'p_init': 0.8},
  }
  for attack, settings in wanted.items():
    named = inspect.signature(attack).parameters
    assert {name: named[name].default for name in settings} == settings


def test_a_step_of_l2_pgd_is_a_tenth_of_epsilon(task):
  params, images, labels = task
  network, inner = functools.partial(logits_fn, params), 0.2 + 0.6 * images  # none is clipped
  run = functools.partial(attacks.ATTACKS['pgd_l2'], network, steps=1, random_start=False)
  moved = run(inner, labels, 0.5, keys_of(inner))
  lengths = np.linalg.norm((moved - inner).reshape(len(inner), -1), axis=1)
  np.testing.assert_allclose(lengths, 0.05, rtol=1e-4)


@pytest.mark.parametrize(('targets', 'tried'), [(3, 3), (9, 4)])  # of five classes
def test_each_target_has_a_start_of_its_own(targets, tried, task):
  params, images, labels = task
  blind = lambda pixels: jax.lax.stop_gradient(logits_fn(params, pixels))  # noqa: E731
  run = functools.partial(attacks.apgd_targeted, blind, targets=targets, steps=1)
  found = jax.jit(run)(images, labels, 0.2, keys_of(images))
  split = jax.vmap(lambda key: jax.random.split(key, tried), out_axes=1)(keys_of(images))
  starts = [images, *(norms.start(norms.get('linf'), images, 0.2, keys) for keys in split)]
  margins = jnp.stack([attacks.margin(blind(each), labels) for each in starts])
  np.testing.assert_allclose(attacks.margin(blind(found), labels), margins.max(0), atol=1e-5)


def test_an_unrolled_loop_gives_the_same_images_without_a_loop(task):
  params, images, labels = task

  def loss(pixels):
    return attacks.cross_entropy(logits_fn(params, pixels), labels)

  looped, unrolled = (
    jax.jit(functools.partial(attacks.pgd, loss, steps=4, random_start=False, unroll=n))
    for n in (1, 4)
  )
  arguments = (images, 0.05, keys_of(images))
  np.testing.assert_allclose(looped(*arguments), unrolled(*arguments), atol=1e-6)
  assert 'while' in looped.lower(*arguments).as_text()
  assert 'while' not in unrolled.lower(*arguments).as_text()


def foolbox_attack(name, params, images, labels, epsilon):
  foolbox = pytest.importorskip('foolbox', reason='foolbox is not installed: pip install foolbox')
  eagerpy = pytest.importorskip('eagerpy', reason='eagerpy is not installed: pip install eagerpy')
  peers = {
    'fgsm': lambda: foolbox.attacks.FGSM(),
    'linf': lambda: foolbox.attacks.LinfPGD(steps=10, rel_stepsize=0.25, random_start=False),
    'l2': lambda: foolbox.attacks.L2PGD(steps=10, rel_stepsize=0.1, random_start=False),
  }
  model = foolbox.models.JAXModel(functools.partial(logits_fn, params), bounds=(0, 1))
  pixels, targets = eagerpy.astensor(images), eagerpy.astensor(labels)
  _, clipped, _ = peers[name]()(model, pixels, targets, epsilons=epsilon)
  return clipped.raw


@pytest.mark.parametrize(
  ('name', 'epsilon'), [('fgsm', 0.03), ('fgsm', 0.3), ('linf', 0.05), ('l2', 0.5)]
)
def test_fgsm_and_pgd_agree_with_foolbox(name, epsilon, task):
  params, images, labels = task
  expected = foolbox_attack(name, params, images, labels, epsilon)

  def loss(pixels):
    return attacks.cross_entropy(logits_fn(params, pixels), labels)

  if name == 'fgsm':
    got = attacks.fgsm(loss, images, epsilon)
  else:
    step_size = 0.25 if name == 'linf' else 0.1
    got = jax.jit(
      functools.partial(
        attacks.pgd, loss, norm=name, steps=10, step_size=step_size, random_start=False
      )
    )(images, epsilon, keys_of(images))
  # A sign of a gradient at 0 may turn with its rounding: a pixel in a thousand at most.
  assert np.mean(np.abs(got - expected) > 1e-5) < 1e-3
  right = [np.mean(jnp.argmax(logits_fn(params, x), -1) == labels) for x in (got, expected)]
  assert right[0] == right[1]


def test_losses_of_a_case_worked_by_hand():
  logits, labels = jnp.asarray([[4.0, 1.0, 3.0, 0.0], [4.0, 1.0, 3.0, 0.0]]), jnp.asarray([0, 2])
  np.testing.assert_allclose(attacks.margin(logits, labels), [-1, 1])
  np.testing.assert_allclose(attacks.dlr(logits, labels), [-1 / 3, 1 / 3])
  targeted = attacks.dlr_targeted(logits, labels, jnp.asarray([1, 0]))
  np.testing.assert_allclose(targeted, [-3 / 3.5, 1 / 3.5])
  p = np.exp(4) / np.exp([4, 1, 3, 0]).sum()
  assert attacks.cross_entropy(logits, labels)[0] == pytest.approx(-np.log(p))
  half = logits.astype(jnp.bfloat16)  # its losses are not rounded to bfloat16
  for loss in (attacks.margin, attacks.dlr, attacks.cross_entropy):
    np.testing.assert_array_equal(loss(half, labels), loss(logits, labels))
    assert loss(half, labels).dtype == jnp.float32


def test_images_wrong_from_the_start_count_as_wrong():
  was_right = jnp.asarray([True, True, False, False])
  attacked = jnp.asarray([True, False, True, False])  # the third was repaired by accident
  assert attacks.robust_accuracy(was_right, attacked) == 0.25
  assert attacks.robust_accuracy(was_right) == 0.5
  assert attacks.robust_accuracy(was_right, attacked, jnp.asarray([False, True, True, True])) == 0
  curve = attacks.epsilon_curve(jnp.stack([was_right, attacked, was_right]))
  np.testing.assert_allclose(curve, [0.5, 0.25, 0.25])


@pytest.mark.parametrize('name', SETTINGS)
def test_pixels_that_are_integers_are_refused(name):
  images, labels = jnp.full((2, *SHAPE), 255, jnp.uint8), jnp.zeros(2, int)
  run = functools.partial(attacks.ATTACKS[name], lambda pixels: pixels[:, 0, :, 0] * 1.0)
  with pytest.raises(ValueError, match=r'images must be floats in \[0, 1\], got uint8'):
    jax.eval_shape(run, images, labels, 0.1, keys_of(images))


def test_a_key_of_the_old_kind_gives_the_keys_of_its_new_one():
  old, new = (
    norms.image_keys(key, jnp.arange(3)) for key in (jax.random.PRNGKey(5), jax.random.key(5))
  )
  assert old.shape == (3,) and (old == new).all()


def test_wrong_settings_are_refused_with_what_is_known(task):
  params, images, labels = task
  network, keys = functools.partial(logits_fn, params), keys_of(images)

  def loss(pixels):
    return attacks.cross_entropy(network(pixels), labels)

  with pytest.raises(ValueError, match="one of linf, l2, got 'l1'"):
    attacks.pgd(loss, images, 0.1, keys, norm='l1')
  with pytest.raises(ValueError, match='steps must be at least 1, got 0'):
    attacks.apgd(loss, images, 0.1, keys, steps=0)
  with pytest.raises(ValueError, match=r'step_size must lie in \(0, 2\], got 0'):
    attacks.pgd(loss, images, 0.1, keys, step_size=0)
  with pytest.raises(ValueError, match='targets must be at least 1, got 0'):
    attacks.apgd_targeted(network, images, labels, 0.1, keys, targets=0)
  with pytest.raises(ValueError, match='restarts must be at least 1, got 0'):
    attacks.pgd(loss, images, 0.1, keys, restarts=0)
  with pytest.raises(ValueError, match=r'keys must be one an image, \[64\].* got \[\]'):
    attacks.pgd(loss, images, 0.1, jax.random.key(0))
  with pytest.raises(ValueError, match=r'one loss an image, \[64\], got \[\]'):
    attacks.fgsm(lambda x: jnp.mean(loss(x)), images, 0.1)
  with pytest.raises(ValueError, match='at least 4 classes, got 3'):
    attacks.dlr_targeted(jnp.zeros((1, 3)), labels[:1], labels[:1])
  with pytest.raises(ValueError, match=r'p_init must lie in \(0, 1\], got 2'):
    attacks.square(loss, images, 0.1, keys, p_init=2)
