"""Accuracy and calibration: functions of logits [N, K] and labels [N] int, each label in [0, K).

Pure and jittable, in float32; several of them in one `jit` share their softmax. The number of bins
is static: `jax.jit(functools.partial(ece, n_bins=10))`. A metric is NaN where a softmax holds one,
and for labels out of range inside of `jit` (ValueError outside).
"""

import functools
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Metric = Callable[[jax.Array, jax.Array], jax.Array]

# Where the temperature is looked for; a fit that ends at a bound has no minimum inside.
TEMPERATURE_RANGE = (0.01, 100.0)


def _checked(metric: Metric) -> Metric:
  """Refuses logits and labels that do not belong together, before a broadcast hides it.

  A single number is NaN where the softmax of the logits holds a NaN.
  """

  @functools.wraps(metric)
  def wrapper(logits, labels, *args, **kwargs):
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not labels.size:
      raise ValueError(
        'logits must be [N, K] and labels [N] with N > 0, '
        f'got {list(logits.shape)} and {list(labels.shape)}'
      )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
      raise ValueError(f'labels must be integers, got {labels.dtype}')
    labels = labels.astype(jnp.int32)  # K itself may be more than a uint8 holds
    inside = ((labels >= 0) & (labels < logits.shape[-1])).all()
    if not isinstance(inside, jax.core.Tracer) and not inside:
      raise ValueError(
        f'labels must lie in [0, {logits.shape[-1]}), got {labels.min()} to {labels.max()}'
      )
    logits = logits.astype(jnp.float32)
    found = metric(logits, labels, *args, **kwargs)
    if isinstance(found, dict):
      return found
    # argmax of NaNs is some class, perhaps the right one, and a maximum on a CPU may drop a NaN.
    known = jnp.isfinite(jax.nn.softmax(logits)).all()
    return jnp.where(known & inside, found, jnp.nan)

  return wrapper


@_checked
def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Share of images whose largest logit is the label's; the lowest class wins a tie."""
  return _share(jnp.argmax(logits, axis=-1) == labels)


@_checked
def nll(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean of -log p_label, in nats: >= 0, log K for a uniform guess."""
  log_p = jax.nn.log_softmax(logits)
  # abs, not minus: the mean is at most 0, and minus would turn a loss of 0 into -0.
  return jnp.abs(jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=-1)))


@_checked
def brier(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean over images of the sum over classes of (p_c - 1[c = label])^2, in [0, 2] (Brier, 1950)."""
  target = jax.nn.one_hot(labels, logits.shape[-1])
  return jnp.mean(jnp.sum((jax.nn.softmax(logits) - target) ** 2, axis=-1))


@_checked
def ece(logits: jax.Array, labels: jax.Array, n_bins: int = 15) -> jax.Array:
  """Expected calibration error: |accuracy - confidence| averaged over bins of equal width.

  The confidence is the largest probability, the bins are (low, high] and weighted by their
  images (Guo et al., 2017). In [0, 1].
  """
  confidence, correct = _top(logits, labels)
  return _gap(confidence, correct, _equal_width(confidence, n_bins), n_bins)


@_checked
def ece_equal_mass(logits: jax.Array, labels: jax.Array, n_bins: int = 15) -> jax.Array:
  """`ece` over bins that hold equally many images, to within one (Nguyen and O'Connor, 2015)."""
  _check_bins(n_bins)
  confidence, correct = _by_confidence(*_top(logits, labels))
  n = len(correct)
  # array_split's rule: the first n % n_bins bins hold one image more.
  ends = np.cumsum([len(part) for part in np.array_split(np.empty(n, np.bool_), n_bins)])
  bins = jnp.searchsorted(jnp.asarray(ends), jnp.arange(n), side='right')
  return _gap(confidence, correct, bins, n_bins)


@_checked
def classwise_ece(logits: jax.Array, labels: jax.Array, n_bins: int = 15) -> jax.Array:
  """Mean over classes of the calibration error of "is it this class?" (Kull et al., 2019).

  Most of the probabilities are near 0, so it is about K times smaller than `ece`.
  """
  probabilities = jax.nn.softmax(logits)

  def one_class(label):
    p = probabilities[:, label]
    return _gap(p, (labels == label).astype(jnp.float32), _equal_width(p, n_bins), n_bins)

  # One class at a time: memory for [N, n_bins], not [N, K, n_bins].
  return jnp.mean(jax.lax.map(one_class, jnp.arange(logits.shape[-1])))


@_checked
def mce(logits: jax.Array, labels: jax.Array, n_bins: int = 15) -> jax.Array:
  """Maximum calibration error: the largest |accuracy - confidence| of any bin that is not empty.

  Bins as in `ece` (Naeini et al., 2015). A bin of two images can decide it.
  """
  confidence, correct = _top(logits, labels)
  count, gap = _bin_sums(correct - confidence, _equal_width(confidence, n_bins), n_bins)
  return jnp.max(jnp.abs(gap) / jnp.maximum(count, 1))


@_checked
def aurc(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Area under the risk-coverage curve: the mean over k of the error among the k most confident.

  Geifman and El-Yaniv (2017); 0 is best, and a random ranking gives the error rate. The confidence
  is the largest probability; ties count as the mean over their orders.
  """
  _, correct = _by_confidence(*_top(logits, labels))
  errors = jnp.cumsum(1 - correct[::-1])
  return jnp.mean(errors / jnp.arange(1, len(errors) + 1))


@_checked
def temperature(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """The T > 0 for which nll(logits / T, labels) is least (Guo et al., 2017).

  Fit it on validation logits and divide the test logits by it. The loss is convex in 1 / T, so its
  derivative changes sign once, and bisection on log T cannot miss. A T at a bound of
  `TEMPERATURE_RANGE` says that there is no minimum inside: with every image correct, or all logits
  of each image equal, T falls to 0.01; where the label's logit is on average below the mean of its
  image's logits, T rises to 100. Logits that are not finite give NaN.
  """
  # Differences to the label's logit keep the sums small.
  margins = logits - jnp.take_along_axis(logits, labels[:, None], axis=-1)

  def too_sharp(log_t):
    weights = jax.nn.softmax(margins / jnp.exp(log_t))
    return jnp.mean(jnp.sum(weights * margins, axis=-1)) > 0

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) / 2
    sharp = too_sharp(middle)
    return jnp.where(sharp, middle, low), jnp.where(sharp, high, middle)

  # Thirty halvings of log 10^4 reach the resolution of float32.
  bounds = jnp.log(jnp.asarray(TEMPERATURE_RANGE))
  low, high = jax.lax.fori_loop(0, 30, halve, (bounds[0], bounds[1]))
  return jnp.where(jnp.isfinite(margins).all(), jnp.exp((low + high) / 2), jnp.nan)


@_checked
def reliability_diagram(
  logits: jax.Array, labels: jax.Array, n_bins: int = 15
) -> dict[str, jax.Array]:
  """What a reliability diagram draws: the bins of `ece`, each an array [n_bins].

  low, high: the bin is (low, high]; count: its images; accuracy, confidence: their means, 0 where
  the bin is empty. sum(count * |accuracy - confidence|) / N is `ece`.
  """
  confidence, correct = _top(logits, labels)
  bins = _equal_width(confidence, n_bins)
  count, hits = _bin_sums(correct, bins, n_bins)
  _, total = _bin_sums(confidence, bins, n_bins)
  edges = jnp.asarray(np.linspace(0, 1, n_bins + 1), jnp.float32)
  filled = jnp.maximum(count, 1)
  return {
    'low': edges[:-1],
    'high': edges[1:],
    'count': count,
    'accuracy': hits / filled,
    'confidence': total / filled,
  }


METRICS: dict[str, Metric] = {
  'accuracy': accuracy,
  'nll': nll,
  'brier': brier,
  'ece': ece,
  'ece_equal_mass': ece_equal_mass,
  'classwise_ece': classwise_ece,
  'mce': mce,
  'aurc': aurc,
}


def _share(correct: jax.Array) -> jax.Array:
  """Mean of booleans, counted in integers: float32 cannot count beyond 2^24."""
  return jnp.sum(correct, dtype=jnp.int32) / correct.size


def _top(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The largest probability [N] and whether its class is the label's, 0 or 1 [N]."""
  correct = jnp.argmax(logits, axis=-1) == labels
  return jnp.max(jax.nn.softmax(logits), axis=-1), correct.astype(jnp.float32)


def _by_confidence(confidence: jax.Array, correct: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Both sorted by rising confidence; ties share their mean correctness.

  A saturated softmax gives many confidences of exactly 1, whose order would otherwise be that of
  the images.
  """
  order = jnp.argsort(confidence)
  confidence = confidence[order]
  hits = jnp.cumsum(jnp.concatenate([jnp.zeros(1), correct[order]]).astype(jnp.int32))
  first = jnp.searchsorted(confidence, confidence, side='left')
  last = jnp.searchsorted(confidence, confidence, side='right')
  return confidence, (hits[last] - hits[first]) / (last - first)


def _equal_width(confidence: jax.Array, n_bins: int) -> jax.Array:
  """Index [N] of the bin (low, high] of [0, 1]; 0 itself falls in the first."""
  _check_bins(n_bins)
  inner = jnp.asarray(np.linspace(0, 1, n_bins + 1)[1:-1], jnp.float32)
  return jnp.searchsorted(inner, confidence, side='left')


def _check_bins(n_bins: int) -> None:
  if not isinstance(n_bins, numbers.Integral) or n_bins < 1:
    raise ValueError(f'n_bins must be a whole number of at least 1, got {n_bins!r}')


def _bin_sums(values: jax.Array, bins: jax.Array, n_bins: int) -> tuple[jax.Array, jax.Array]:
  """Number of images and sum of their values, each [n_bins].

  Reduced as [N, n_bins], which XLA sums pairwise: adding one by one, as a scatter does, loses
  digits for a million images.
  """
  member = bins[:, None] == jnp.arange(n_bins)
  sums = jnp.sum(jnp.where(member, values[:, None], 0), axis=0)
  return jnp.sum(member, axis=0, dtype=jnp.int32), sums


def _gap(confidence: jax.Array, correct: jax.Array, bins: jax.Array, n_bins: int) -> jax.Array:
  _, gaps = _bin_sums(correct - confidence, bins, n_bins)
  return jnp.sum(jnp.abs(gaps)) / len(confidence)
