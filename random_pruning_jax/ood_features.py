"""Out-of-distribution scores from penultimate features, and the training statistics they need.

One pass over the training set calls `with_batch` for each batch; scores are then fitted to the
`Statistics` in float64 on the host, where a covariance keeps its small eigenvalues.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from random_pruning_jax.ood import Setting

# features [N, F], logits [N, K] -> scores [N], larger = more in-distribution.
FeatureScore = Callable[[np.ndarray, np.ndarray], np.ndarray]
_EPS = np.finfo(np.float64).eps


class Head(NamedTuple):
  """The last layer: logits = features @ kernel + bias."""

  kernel: np.ndarray  # [F, K]
  bias: np.ndarray  # [K]


class Statistics(NamedTuple):
  """What one pass over the training set leaves behind, in float64."""

  counts: np.ndarray  # images of each class, [K]
  sums: np.ndarray  # sums of the features of each class, [K, F]
  products: np.ndarray  # sum of h h^T, [F, F]
  max_logits: float  # sum of the largest logits
  bank: tuple[np.ndarray, ...]  # float32 [b, F], features of the first images seen


def empty(num_features: int, num_classes: int) -> Statistics:
  return Statistics(
    counts=np.zeros(num_classes, np.int64),
    sums=np.zeros((num_classes, num_features)),
    products=np.zeros((num_features, num_features)),
    max_logits=0.0,
    bank=(),
  )


def with_batch(
  statistics: Statistics,
  features: np.ndarray,
  logits: np.ndarray,
  labels: np.ndarray,
  *,
  bank_size: int = 50_000,
) -> Statistics:
  """The statistics with one more batch: features [B, F], logits [B, K], labels [B] in [0, K).

  The bank holds the first `bank_size` images, so let a larger training set come in random order.
  """
  num_classes, num_features = statistics.sums.shape
  batch = len(labels)
  shapes = (np.shape(features), np.shape(logits))
  if shapes != ((batch, num_features), (batch, num_classes)):
    raise ValueError(
      f'features and logits must be [{batch}, {num_features}] and [{batch}, {num_classes}], '
      f'got {list(shapes[0])} and {list(shapes[1])}'
    )
  labels = np.asarray(labels)
  if batch and not 0 <= labels.min() <= labels.max() < num_classes:
    raise ValueError(f'labels must lie in [0, {num_classes}), got {labels.min()} to {labels.max()}')
  room = bank_size - sum(map(len, statistics.bank))
  kept = np.asarray(features[: max(room, 0)], np.float32)
  exact = np.asarray(features, np.float64)
  members = np.eye(num_classes)[labels]
  return Statistics(
    counts=statistics.counts + np.bincount(labels, minlength=num_classes),
    sums=statistics.sums + members.T @ exact,
    products=statistics.products + exact.T @ exact,
    max_logits=statistics.max_logits + np.max(logits, axis=-1).sum(dtype=np.float64),
    bank=(*statistics.bank, kept) if len(kept) else statistics.bank,
  )


def mahalanobis(statistics: Statistics, head: Head) -> FeatureScore:
  """max over classes of -(h - mu_c)^T Sigma^-1 (h - mu_c), one Sigma for all (Lee et al., 2018).

  Sigma is the mean over images of (h - mu_c)(h - mu_c)^T about their own class's mean; the
  pseudo-inverse leaves out directions in which the training features do not vary.
  """
  del head
  from sklearn import metrics  # here, because it takes a second that `--help` need not wait for

  seen = statistics.counts > 0
  counts, sums = statistics.counts[seen, None], statistics.sums[seen]
  means = sums / counts
  total = _total(statistics)
  # The difference below has the rounding error of `products`, however small it is itself.
  noise = np.linalg.norm(statistics.products) / total * len(statistics.products) * _EPS
  whiten = _inverse_root((statistics.products - means.T @ sums) / total, noise)
  centres = means @ whiten

  def score(features, logits):
    del logits
    points = np.asarray(features, np.float64) @ whiten
    if not whiten.size:  # features that never vary tell nothing
      return np.zeros(len(points))
    return -metrics.pairwise.euclidean_distances(points, centres, squared=True).min(axis=1)

  return score


def knn(statistics: Statistics, head: Head, k: int | None = None) -> FeatureScore:
  """-(squared distance of h / |h| to its k-th nearest in the training bank) (Sun et al., 2022).

  k in [1, size of the bank], by default 50, or the size of a smaller bank.
  """
  del head
  from sklearn import neighbors

  bank = _normalised(_bank(statistics))
  k = min(50, len(bank)) if k is None else k
  if not 1 <= k <= len(bank):
    raise ValueError(f'k must lie in [1, {len(bank)}], the size of the bank, got {k}')
  index = neighbors.NearestNeighbors(n_neighbors=k, algorithm='brute').fit(bank)

  def score(features, logits):
    del logits
    distances, _ = index.kneighbors(_normalised(np.asarray(features)))
    return -(distances[:, -1] ** 2)

  return score


def vim(statistics: Statistics, head: Head, dim: int | None = None) -> FeatureScore:
  """logsumexp(z) - alpha |R^T (h - u)|, energy less a virtual logit (Wang et al., 2022).

  u = -pinv(W) b is where all logits vanish, R spans the training features about u beyond their
  `dim` largest principal directions, and alpha makes the virtual logit as large as the largest
  logit on average. dim in [1, F), by default half of the directions in which the features vary, and
  at most all but one of them: with none left, alpha would divide by rounding errors. Where there
  are fewer than two, the score is the energy.
  """
  from scipy import special

  bank, total = _bank(statistics), _total(statistics)
  num_features = len(statistics.products)
  if dim is not None and not 1 <= dim < num_features:
    raise ValueError(f'dim must lie in [1, {num_features}), got {dim}')
  kernel, bias = np.asarray(head.kernel, np.float64), np.asarray(head.bias, np.float64)
  origin = -np.linalg.pinv(kernel.T) @ bias
  mean = statistics.sums.sum(axis=0) / total
  cross = np.outer(origin, mean)
  moment = statistics.products / total - cross - cross.T + np.outer(origin, origin)
  values, vectors = np.linalg.eigh(moment)  # values rise
  vary = int((values > values[-1] * num_features * _EPS).sum())
  dim = vary // 2 if dim is None else min(dim, vary - 1)
  residual = vectors[:, : num_features - dim]

  def virtual(features):
    return np.linalg.norm((features - origin) @ residual, axis=1)

  alpha = statistics.max_logits / total / virtual(bank).mean() if vary > 1 else 0.0

  def score(features, logits):
    return special.logsumexp(np.asarray(logits, np.float64), axis=1) - alpha * virtual(features)

  return score


def react(statistics: Statistics, head: Head, percentile: float = 90.0) -> FeatureScore:
  """Energy of the logits of min(h, c), c a percentile of the bank's features (Sun et al., 2021)."""
  from scipy import special

  if not 0 < percentile <= 100:
    raise ValueError(f'percentile must lie in (0, 100], got {percentile}')
  ceiling = np.percentile(_bank(statistics), percentile)

  def score(features, logits):
    del logits
    return special.logsumexp(np.minimum(features, ceiling) @ head.kernel + head.bias, axis=1)

  return score


# (statistics, head, **setting) -> score of features and logits.
FEATURE_SCORES: dict[str, Callable[..., FeatureScore]] = {
  'mahalanobis': mahalanobis,
  'knn': knn,
  'vim': vim,
  'react': react,
}


def settings(num_features: int, bank_size: int) -> dict[str, tuple[Setting, ...]]:
  """Settings to try on a validation set, by score: OpenOOD v1.5's, where they are possible.

  For ViM also a fifth, a third and half of the directions, since CIFAR's networks have few. A score
  that is not listed has no settings.
  """
  dims = {num_features // 5, num_features // 3, num_features // 2, 256, 1000}
  return {
    'knn': tuple({'k': k} for k in (1, 10, 50, 100, 200, 500, 1000) if k <= bank_size),
    'vim': tuple({'dim': dim} for dim in sorted(dims) if 1 <= dim < num_features),
    'react': tuple({'percentile': p} for p in (85.0, 90.0, 95.0, 99.0)),
  }


def _total(statistics: Statistics) -> int:
  total = int(statistics.counts.sum())
  if not total:
    raise ValueError('the statistics must hold at least one training image, got none')
  return total


def _bank(statistics: Statistics) -> np.ndarray:
  if not statistics.bank:
    raise ValueError('the bank must hold at least one training image, got none')
  return np.concatenate(statistics.bank)


def _normalised(features: np.ndarray) -> np.ndarray:
  return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-10)


def _inverse_root(covariance: np.ndarray, noise: float) -> np.ndarray:
  """A with A A^T the pseudo-inverse, [F, rank], where eigenvalues up to `noise` count as 0."""
  values, vectors = np.linalg.eigh(covariance)
  varies = values > noise
  return vectors[:, varies] / np.sqrt(values[varies])
