"""Scores and metrics of foreign images against golden numbers, scikit-learn and definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from random_pruning_jax import norms, ood

# AUROC, FPR95 OoD-positive, FPR95 ID-positive, AUPR-in, AUPR-out.
GOLDEN = {
  'msp': (0.594116, 0.879000, 0.916250, 0.649207, 0.529608),
  'max_logit': (0.666910, 0.814000, 0.851250, 0.702123, 0.602919),
  'energy': (0.677165, 0.827000, 0.835000, 0.709485, 0.613777),
  'entropy': (0.607536, 0.867000, 0.897500, 0.658306, 0.533740),
  'gen': (0.618805, 0.864000, 0.910000, 0.666556, 0.537117),
}
COLUMNS = ('auroc', 'fpr95_ood_positive', 'fpr95_id_positive', 'aupr_in', 'aupr_out')


@pytest.fixture(scope='module')
def logits():
  labels = np.random.RandomState(1).randint(0, 10, 1000)
  own = np.random.RandomState(0).randn(1000, 10) * 2
  own[np.arange(1000), labels] += 3
  return own, np.random.RandomState(2).randn(800, 10) * 2


@pytest.mark.parametrize('name', GOLDEN)
def test_scores_and_metrics_have_their_golden_values(name, logits):
  score = jax.jit(ood.SCORES[name])
  got = ood.separation(*(np.asarray(score(part)) for part in logits))
  assert set(got) == set(COLUMNS)
  assert [got[column] for column in COLUMNS] == pytest.approx(GOLDEN[name], abs=1e-6)


def test_every_score_of_the_table_has_a_golden_value():
  assert set(ood.SCORES) == set(GOLDEN)


def test_metrics_of_a_case_worked_by_hand():
  own, foreign = np.array([4.0, 3.0, 1.0]), np.array([2.0, 0.0])
  # Of 6 pairs only (1, 2) is the wrong way round.
  assert ood.auroc(own, foreign) == pytest.approx(5 / 6)
  # To find both foreign images, reject up to 2: that costs one in-distribution image, at 1.
  assert ood.fpr95_ood_positive(own, foreign) == pytest.approx(1 / 3)
  # To keep all three in-distribution images, accept from 1: that lets in the foreign one at 2.
  assert ood.fpr95_id_positive(own, foreign) == pytest.approx(1 / 2)
  # (recall, precision): (0, 1), (1/3, 1), (2/3, 1), (2/3, 2/3), (1, 3/4), by trapezoids.
  assert ood.aupr_in(own, foreign) == pytest.approx(2 / 3 + (2 / 3 + 3 / 4) / 6)


def test_a_perfect_and_a_blind_score_have_known_numbers():
  perfect = ood.separation(np.array([2.0, 3.0]), np.array([0.0, 1.0]))
  assert perfect == {
    'auroc': 1.0, 'aupr_in': 1.0, 'aupr_out': 1.0,
    'fpr95_ood_positive': 0.0, 'fpr95_id_positive': 0.0,
  }  # fmt: skip
  blind = ood.separation(np.zeros(3), np.zeros(5))
  assert blind['auroc'] == 0.5
  assert blind['fpr95_ood_positive'] == blind['fpr95_id_positive'] == 1.0
  # Recall 0 has precision 1, recall 1 that of chance, and nothing lies between.
  assert blind['aupr_in'] == pytest.approx((1 + 3 / 8) / 2)
  assert blind['aupr_out'] == pytest.approx((1 + 5 / 8) / 2)


def test_metrics_agree_with_scikit_learn_where_scores_are_tied():
  rng = np.random.RandomState(0)
  own, foreign = rng.randint(2, 9, 300).astype(float), rng.randint(0, 7, 200).astype(float)
  truth, scores = np.r_[np.ones(300), np.zeros(200)], np.r_[own, foreign]
  assert ood.auroc(own, foreign) == pytest.approx(sklearn.metrics.roc_auc_score(truth, scores))
  precision, recall, _ = sklearn.metrics.precision_recall_curve(truth, scores)
  assert ood.aupr_in(own, foreign) == pytest.approx(sklearn.metrics.auc(recall, precision))
  precision, recall, _ = sklearn.metrics.precision_recall_curve(1 - truth, -scores)
  assert ood.aupr_out(own, foreign) == pytest.approx(sklearn.metrics.auc(recall, precision))
  false, true, _ = sklearn.metrics.roc_curve(truth, scores, drop_intermediate=False)
  assert ood.fpr95_id_positive(own, foreign) == false[np.argmax(true >= 0.95)]
  # The definition: the strictest threshold that keeps 95 % of the in-distribution images.
  thresholds = [t for t in np.unique(scores) if np.mean(own >= t) >= 0.95]
  assert ood.fpr95_id_positive(own, foreign) == np.mean(foreign >= max(thresholds))
  thresholds = [t for t in np.unique(scores) if np.mean(foreign <= t) >= 0.95]
  assert ood.fpr95_ood_positive(own, foreign) == np.mean(own <= min(thresholds))


@pytest.mark.parametrize('dtype', [np.uint8, np.int8, np.int64, np.float16, bool])
def test_metrics_take_scores_of_any_dtype(dtype):
  own, foreign = np.array([1, 1, 0, 1]), np.array([0, 1, 0])
  expected = ood.separation(own.astype(float), foreign.astype(float))
  assert ood.separation(own.astype(dtype), foreign.astype(dtype)) == expected


def test_metrics_refuse_scores_that_are_not_numbers():
  with pytest.raises(ValueError, match='out_scores must be finite, got 1'):
    ood.auroc(np.zeros(3), np.array([0.0, np.nan]))
  with pytest.raises(ValueError, match=r'in_scores must be \[N\] with N > 0, got \[0\]'):
    ood.auroc(np.zeros(0), np.zeros(2))


def test_scores_of_logits_worked_by_hand():
  logits = jnp.log(jnp.asarray([[1.0, 2.0, 5.0]]))  # p = 1/8, 2/8, 5/8
  p = np.array([1, 2, 5]) / 8
  assert ood.msp(logits)[0] == pytest.approx(np.log(0.625))
  assert ood.max_logit(logits)[0] == pytest.approx(np.log(5))
  assert ood.energy(logits)[0] == pytest.approx(np.log(8))
  assert ood.energy(logits, temperature=2.0)[0] == pytest.approx(
    2 * np.log(np.sqrt([1, 2, 5]).sum())
  )
  assert ood.entropy(logits)[0] == pytest.approx((p * np.log(p)).sum())
  two = (p[1:] ** 0.5 * (1 - p[1:]) ** 0.5).sum()
  assert ood.gen(logits, gamma=0.5, top=2)[0] == pytest.approx(-two)
  # Of 200 equal classes 100 count, unless another number is asked for.
  assert ood.gen(jnp.zeros((1, 200)))[0] == pytest.approx(-100 * (199 / 200**2) ** 0.1)


@pytest.mark.parametrize('name', ood.SCORES)
def test_scores_of_saturated_logits_are_finite(name):
  logits = jnp.asarray([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]])
  assert np.isfinite(jax.jit(ood.SCORES[name])(logits)).all()


@pytest.mark.parametrize('name', ood.SCORES)
def test_scores_tell_images_apart_of_which_the_network_is_very_sure(name):
  """Two classes, margins to 40: from 17 on, p is 1 in float32."""
  margins = np.arange(14, 40, 0.25)
  logits = np.stack([margins, np.zeros_like(margins)], axis=-1)
  scores = np.asarray(jax.jit(ood.SCORES[name])(logits), np.float64)
  assert (np.diff(scores) > 0).all()
  exact = np.log1p(np.exp(-margins))  # -log p of the first class, in float64
  wanted = {
    'msp': -exact,
    'entropy': -(exact * np.exp(-exact) + np.exp(-margins - exact) * (margins + exact)),
    'gen': -2 * np.exp(-0.1 * exact) * np.exp(-0.1 * (margins + exact)),
  }
  if name in wanted:
    np.testing.assert_allclose(scores, wanted[name], rtol=1e-5)


def test_odin_steps_towards_the_predicted_class():
  # A linear model: the step raises the predicted class's margin by epsilon |w|_1.
  w = jnp.asarray([0.5, -2.0, 1.0])

  def network(images):
    score = images.reshape(len(images), -1) @ w
    return jnp.stack([score, -score], axis=1)

  # Also beyond black and white, to where the first image is moved.
  images = jnp.asarray([[0.0, 1.0, 0.1], [0.9, 0.1, 0.5]]).reshape(2, 1, 1, 3)
  margins = 2 * np.abs(images.reshape(2, 3) @ w) + 2 * 0.01 * 3.5
  expected = -np.log1p(np.exp(-margins / 10))
  got = ood.odin(network, images, temperature=10.0, epsilon=0.01)
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  plain = ood.odin(network, images, temperature=1.0, epsilon=0.0)
  np.testing.assert_allclose(plain, ood.msp(network(images)), rtol=1e-6)


def test_choose_takes_the_setting_of_largest_auroc():
  def score(setting):
    return np.array([1.0, 2.0, 3.0]), np.array([0.0, setting['shift']])

  settings = [{'shift': 2.5}, {'shift': 0.5}, {'shift': 0.1}]
  assert ood.choose(settings, score) == {'shift': 0.5}
  with pytest.raises(ValueError, match='at least one setting'):
    ood.choose([], score)


def test_settings_are_settings_of_their_scores(logits):
  for setting in ood.SETTINGS['gen']:
    found = jax.eval_shape(functools.partial(ood.gen, **setting), logits[0][:2])
    assert found.shape == (2,)
  images = jnp.full((2, 1, 1, 3), 0.5)
  for setting in ood.SETTINGS['odin']:
    odin = functools.partial(ood.odin, lambda x: x.reshape(len(x), -1), **setting)
    assert jax.eval_shape(odin, images).shape == (2,)


def test_noise_images_are_clipped_gaussians():
  keys = jax.random.split(jax.random.key(0), 64)
  noise = np.asarray(ood.gaussian_noise(keys, (8, 8, 3)))
  assert noise.min() == 0 and noise.max() == 1
  # P(clipped to 0) = P(z < -1) = .1587, and as much at 1.
  assert np.mean(noise == 0) == pytest.approx(0.1587, abs=0.01)
  assert noise.mean() == pytest.approx(0.5, abs=0.01)


def test_shuffled_images_keep_their_pixels_and_lose_their_order():
  images = jax.random.uniform(jax.random.key(1), (3, 8, 8, 3))
  shuffle = jax.jit(ood.pixel_shuffled)
  keys = jax.random.split(jax.random.key(2), 3)
  shuffled = shuffle(keys, images)
  for before, after in zip(images, shuffled, strict=True):
    before, after = (np.asarray(x).reshape(-1, 3) for x in (before, after))
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(before[np.lexsort(before.T)], after[np.lexsort(after.T)])
  same = shuffle(keys, jnp.stack([images[0]] * 3))
  assert not np.array_equal(same[0], same[1])


def test_foreign_images_do_not_depend_on_the_batch():
  keys = norms.image_keys(jax.random.key(3), jnp.arange(5))
  images = jax.random.uniform(jax.random.key(4), (5, 4, 4, 1))

  @jax.jit
  def seen(keys, images):
    return ood.gaussian_noise(keys, (4, 4, 1)), ood.pixel_shuffled(keys, images)

  for whole, part in zip(seen(keys, images), seen(keys[2:], images[2:]), strict=True):
    np.testing.assert_array_equal(whole[2:], part)
