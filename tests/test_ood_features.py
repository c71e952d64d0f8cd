"""Scores of features: a Gaussian cloud a class in 6 of 8 dimensions; one is constant, one dead."""

import numpy as np
import pytest
import sklearn.covariance

from random_pruning_jax import ood, ood_features


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


def distances_to(bank, features):
  """Squared, between directions, [N, b], in each row from the nearest to the farthest."""
  unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, bank)]
  return np.sort(((unit[0][:, None] - unit[1][None]) ** 2).sum(-1), axis=1)


def test_knn_is_the_distance_to_the_kth_of_all_pairs(training, statistics, foreign):
  distances = distances_to(training[0], foreign[0])
  for k in (1, 10):
    score = ood_features.knn(statistics, training[3], k=k)
    np.testing.assert_allclose(score(*foreign), -distances[:, k - 1], atol=1e-5)
  usual, fifty = (ood_features.knn(statistics, training[3], **of) for of in ({}, {'k': 50}))
  np.testing.assert_array_equal(usual(*foreign), fifty(*foreign))
  few = of_training(*(part[:20] for part in training[:3]))  # the farthest of all that there are
  farthest = -distances_to(few.bank[0], foreign[0])[:, -1]
  np.testing.assert_allclose(ood_features.knn(few, None)(*foreign), farthest, atol=1e-5)


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
  if name in ('vim', 'react'):
    np.testing.assert_allclose(found, ood.energy(logits[:50]), rtol=1e-5)


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
  tried = {name: [value for of in each for value in of.values()] for name, each in choices.items()}
  assert tried == {'knn': [1, 10, 50, 100, 200], 'vim': [51, 85, 128], 'react': [85, 90, 95, 99]}


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
