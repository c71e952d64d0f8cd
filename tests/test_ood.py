"""Scores and metrics of foreign images against golden numbers, scikit-learn and definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.covariance
import sklearn.metrics

from random_pruning_jax import norms, ood, ood_features

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
  # To find both foreign images, reject up to 2: that is the one own image at 1.
  assert ood.fpr95_ood_positive(own, foreign) == pytest.approx(1 / 3)
  # To keep all three own, accept from 1: that is the foreign image at 2.
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
  # The definition: the strictest threshold that keeps 95 % of one's own.
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
  assert ood.msp(logits)[0] == pytest.approx(0.625)
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
  assert np.isfinite(ood.SCORES[name](jnp.asarray([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]]))).all()


def test_odin_steps_towards_the_predicted_class():
  # A linear model: the step raises the predicted class's margin by epsilon |w|_1.
  w = jnp.asarray([0.5, -2.0, 1.0])

  def network(images):
    score = images.reshape(len(images), -1) @ w
    return jnp.stack([score, -score], axis=1)

  # Also beyond black and white, to where the first image is moved.
  images = jnp.asarray([[0.0, 1.0, 0.1], [0.9, 0.1, 0.5]]).reshape(2, 1, 1, 3)
  margins = 2 * np.abs(images.reshape(2, 3) @ w) + 2 * 0.01 * 3.5
  expected = 1 / (1 + np.exp(-margins / 10))
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
    assert ood.gen(logits[0][:2], **setting).shape == (2,)
  images = jnp.full((2, 1, 1, 3), 0.5)
  for setting in ood.SETTINGS['odin']:
    assert ood.odin(lambda x: x.reshape(len(x), -1), images, **setting).shape == (2,)


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
  noise = ood.gaussian_noise(keys, (4, 4, 1))
  np.testing.assert_array_equal(noise[2:], ood.gaussian_noise(keys[2:], (4, 4, 1)))
  shuffled = ood.pixel_shuffled(keys, images)
  np.testing.assert_array_equal(shuffled[2:], ood.pixel_shuffled(keys[2:], images[2:]))


# Feature-based scores: a Gaussian cloud a class in 6 of 8 dimensions; one is constant, one dead.


@pytest.fixture(scope='module')
def training():
  rng = np.random.RandomState(5)
  labels = rng.randint(0, 3, 400)
  features = rng.randn(400, 8) @ rng.randn(8, 8) + 2 * rng.randn(3, 8)[labels]
  features[:, 3], features[:, 6] = 0.7, 0.0
  head = ood_features.Head(rng.randn(8, 3), rng.randn(3))
  features = features.astype(np.float32)
  return features, features @ head.kernel + head.bias, labels, head


@pytest.fixture(scope='module')
def statistics(training):
  features, logits, labels, _ = training
  gathered = ood_features.empty(8, 3)
  for part in np.array_split(np.arange(400), 7):
    gathered = ood_features.with_batch(gathered, features[part], logits[part], labels[part])
  return gathered


@pytest.fixture(scope='module')
def foreign(training):
  features = training[0][:50] + np.random.RandomState(6).randn(50, 8).astype(np.float32)
  return features, features @ training[3].kernel + training[3].bias


def test_statistics_of_a_stream_are_those_of_the_whole(training, statistics):
  features, logits, labels, _ = training
  whole = ood_features.with_batch(ood_features.empty(8, 3), features, logits, labels)
  for streamed, expected in zip(statistics[:4], whole[:4], strict=True):
    np.testing.assert_allclose(streamed, expected, rtol=1e-12, atol=1e-12)
  np.testing.assert_array_equal(np.concatenate(statistics.bank), features)


def test_the_bank_stops_at_its_size(training):
  features, logits, labels, _ = training
  gathered = ood_features.empty(8, 3)
  for part in np.array_split(np.arange(400), 4):
    gathered = ood_features.with_batch(
      gathered, features[part], logits[part], labels[part], bank_size=150
    )
  np.testing.assert_array_equal(np.concatenate(gathered.bank), features[:150])
  assert gathered.counts.sum() == 400
  many = np.zeros((50_001, 1), np.float32)
  assert len(of_training(many, many, np.zeros(50_001, int)).bank[0]) == 50_000


def test_mahalanobis_agrees_with_scikit_learn(training, statistics, foreign):
  features, _, labels, head = training
  means = np.stack([features[labels == c].mean(0, dtype=np.float64) for c in range(3)])
  varying = [0, 1, 2, 4, 5, 7]
  model = sklearn.covariance.EmpiricalCovariance(assume_centered=True)
  model.fit((features - means[labels])[:, varying])
  inside = foreign[0].copy()
  inside[:, [3, 6]] = features[0, [3, 6]]
  expected = -np.min([model.mahalanobis((inside - m)[:, varying]) for m in means], axis=0)
  score = ood_features.mahalanobis(statistics, head)
  np.testing.assert_allclose(score(inside, foreign[1]), expected, rtol=1e-5)


def test_knn_is_the_distance_to_the_kth_of_all_pairs(training, statistics, foreign):
  unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (foreign[0], training[0])]
  distances = np.sort(((unit[0][:, None] - unit[1][None]) ** 2).sum(-1), axis=1)
  for k in (1, 10):
    score = ood_features.knn(statistics, training[3], k=k)
    np.testing.assert_allclose(score(*foreign), -distances[:, k - 1], atol=1e-5)
  usual, fifty = (ood_features.knn(statistics, training[3], **of) for of in ({}, {'k': 50}))
  np.testing.assert_array_equal(usual(*foreign), fifty(*foreign))


def test_vim_follows_its_definition(training, statistics, foreign):
  features, logits, _, head = training
  origin = -np.linalg.pinv(head.kernel.T) @ head.bias
  np.testing.assert_allclose(origin @ head.kernel + head.bias, 0, atol=1e-9)
  _, _, directions = np.linalg.svd(features - origin)  # principal first
  residual = directions[4:].T
  alpha = logits.max(1).mean() / np.linalg.norm((features - origin) @ residual, axis=1).mean()
  virtual = alpha * np.linalg.norm((foreign[0] - origin) @ residual, axis=1)
  expected = np.log(np.exp(foreign[1]).sum(1)) - virtual
  got = ood_features.vim(statistics, head, dim=4)(*foreign)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
  # About the origin, the features span 7 directions: 6, and the one of the constants.
  half = ood_features.vim(statistics, head, dim=3)(*foreign)
  np.testing.assert_array_equal(half, ood_features.vim(statistics, head)(*foreign))


def test_react_clips_at_a_percentile_and_100_is_the_energy(training, statistics, foreign):
  features, _, _, head = training
  clipped = np.minimum(foreign[0], np.percentile(features, 85)) @ head.kernel + head.bias
  expected = np.log(np.exp(clipped).sum(1))
  got = ood_features.react(statistics, head, percentile=85)(*foreign)
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  usual = ood_features.react(statistics, head)(*foreign)
  ninety = ood_features.react(statistics, head, percentile=90)(*foreign)
  np.testing.assert_array_equal(usual, ninety)
  plain = ood_features.react(statistics, head, percentile=100)(features, None)
  np.testing.assert_allclose(plain, ood.energy(training[1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['mahalanobis', 'knn'])
def test_far_features_score_below_the_training_set(name, training, statistics):
  features, logits, _, head = training
  far = np.random.RandomState(7).randn(200, 8) * 30
  score = ood_features.FEATURE_SCORES[name](statistics, head)
  own, out = score(features, logits), score(far, far @ head.kernel + head.bias)
  assert np.isfinite(own).all() and np.isfinite(out).all()
  assert ood.auroc(own, out) > 0.9


def of_training(features, logits, labels):
  empty = ood_features.empty(features.shape[1], logits.shape[1])
  return ood_features.with_batch(empty, features, logits, labels)


@pytest.mark.parametrize('name', ood_features.FEATURE_SCORES)
@pytest.mark.parametrize('value', [0.0, 0.7])
def test_features_that_never_vary_tell_nothing_and_stop_nothing(name, value, training):
  _, _, labels, head = training
  features = np.full((400, 8), value, np.float32)
  logits = features @ head.kernel + head.bias
  score = ood_features.FEATURE_SCORES[name](of_training(features, logits, labels), head)
  found = score(features[:50], logits[:50])
  assert np.isfinite(found).all() and np.ptp(found) < 1e-6


def test_vim_keeps_a_direction_in_which_training_features_vary():
  """Of 12 features 3 vary: half of 12 would leave none, and the score would be rounding alone."""
  rng = np.random.RandomState(8)
  labels = rng.randint(0, 3, 400)
  features = np.zeros((400, 12), np.float32)
  features[:, :3] = rng.rand(400, 3) + np.eye(3)[labels]
  head = ood_features.Head(rng.randn(12, 3), np.zeros(3))
  far = features + 0.5 * rng.rand(400, 12).astype(np.float32) * (features > 0)
  found = []
  for order in (np.arange(12), np.arange(12)[::-1]):  # another order changes nothing but rounding
    own = ood_features.Head(head.kernel[order], head.bias)
    known, new = features[:, order], far[:, order]
    statistics = of_training(known, known @ own.kernel, labels)
    for dim in (None, 8):
      found.append(ood_features.vim(statistics, own, dim)(new, new @ own.kernel))
  np.testing.assert_allclose(found[2], found[0], rtol=1e-5)
  np.testing.assert_allclose(found[3], found[1], rtol=1e-5)
  two = ood_features.vim(of_training(features, features @ head.kernel, labels), head, 2)
  np.testing.assert_allclose(found[1], two(far, far @ head.kernel), rtol=1e-5)


def test_mahalanobis_leaves_out_classes_without_an_image(training, foreign):
  features, logits, labels, _ = training
  there = labels < 2
  three, two = (
    ood_features.mahalanobis(of_training(features[there], logits[there, :k], labels[there]), None)
    for k in (3, 2)
  )
  assert np.isfinite(two(*foreign)).all()
  np.testing.assert_array_equal(three(*foreign), two(*foreign))


def test_mahalanobis_leaves_out_directions_that_are_rounding():
  """60 images, 128 features, tight classes far from zero: as from features about their means."""
  rng = np.random.RandomState(9)
  labels = np.arange(60) % 3
  centres = 10 * rng.rand(3, 128)

  def near(of):
    return (centres[of] + 0.05 * rng.randn(len(of), 128)).astype(np.float32)

  features, tests = near(labels), near(labels)
  logits = np.zeros((60, 3), np.float32)
  score = ood_features.mahalanobis(of_training(features, logits, labels), None)
  means = np.stack([features[labels == c].astype(np.float64).mean(0) for c in range(3)])
  inverse = np.linalg.pinv(np.cov((features - means[labels]).T, bias=True), rcond=1e-9)
  away = tests[:, None] - means
  expected = -np.einsum('ncf,fg,ncg->nc', away, inverse, away).min(1)
  np.testing.assert_allclose(score(tests, None), expected, rtol=1e-3)


def test_vim_sees_what_the_logits_cannot(training, statistics):
  features, logits, _, head = training
  blind = np.linalg.svd(head.kernel.T)[2][-1]  # a direction that leaves every logit as it is
  far = features + 100 * blind
  np.testing.assert_allclose(far @ head.kernel + head.bias, logits, atol=1e-4)
  score = ood_features.vim(statistics, head)
  assert ood.auroc(score(features, logits), score(far, logits)) > 0.99


def test_react_is_not_fooled_by_one_huge_activation(training, statistics):
  features, logits, _, head = training
  unit = np.argmax(head.kernel.max(axis=1))
  far = features.copy()
  far[:, unit] += 1000
  far_logits = far @ head.kernel + head.bias
  assert ood.auroc(ood.energy(logits), ood.energy(far_logits)) < 0.01
  score = ood_features.react(statistics, head)
  assert ood.auroc(score(features, logits), score(far, far_logits)) > 0.1


def test_every_setting_to_choose_from_is_possible(training, statistics, foreign):
  for name, choices in ood_features.settings(num_features=8, bank_size=400).items():
    assert choices
    for setting in choices:
      score = ood_features.FEATURE_SCORES[name](statistics, training[3], **setting)
      assert score(*foreign).shape == (50,)
  # As many neighbours as there are images, and not all of 256 directions.
  choices = ood_features.settings(num_features=256, bank_size=200)
  assert choices['knn'][-1] == {'k': 200} and choices['vim'][-1] == {'dim': 128}


def test_settings_that_cannot_be_are_refused(training, statistics):
  features, logits, labels, head = training
  with pytest.raises(ValueError, match=r'k must lie in \[1, 400\].* got 401'):
    ood_features.knn(statistics, head, k=401)
  with pytest.raises(ValueError, match=r'dim must lie in \[1, 8\), got 8'):
    ood_features.vim(statistics, head, dim=8)
  with pytest.raises(ValueError, match=r'percentile must lie in \(0, 100\], got 0'):
    ood_features.react(statistics, head, percentile=0)
  with pytest.raises(ValueError, match='at least one training image'):
    ood_features.mahalanobis(ood_features.empty(8, 3), head)
  with pytest.raises(ValueError, match=r'got \[400, 8\] and \[399, 3\]'):
    ood_features.with_batch(statistics, features, logits[1:], labels)
  with pytest.raises(ValueError, match=r'labels must lie in \[0, 3\), got -1'):
    ood_features.with_batch(statistics, features, logits, labels - 1)
