"""Out-of-distribution detection: scores of logits, and metrics of two sets of scores.

A score is larger the more an image looks in-distribution (OpenOOD's convention). Scores that need
the penultimate features are in `ood_features`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax import norms

Score = Callable[[jax.Array], jax.Array]
Setting = Mapping[str, Any]


def msp(logits: jax.Array) -> jax.Array:
  """Log of the largest softmax probability, [N, K] -> [N] in [-log K, 0].

  It ranks as the probability does (Hendrycks and Gimpel, 2017), which is 1 in float32 for every
  image that the network is sure of.
  """
  return jnp.max(_log_softmax(_float32(logits)), axis=-1)


def max_logit(logits: jax.Array) -> jax.Array:
  """Largest logit, [N, K] -> [N] (Hendrycks et al., 2022)."""
  return jnp.max(_float32(logits), axis=-1)


def energy(logits: jax.Array, temperature: float = 1.0) -> jax.Array:
  """T log sum exp(z / T), the negative free energy, [N, K] -> [N] (Liu et al., 2020)."""
  return temperature * jax.nn.logsumexp(_float32(logits) / temperature, axis=-1)


def entropy(logits: jax.Array) -> jax.Array:
  """Negative entropy, sum of p log p, [N, K] -> [N] in [-log K, 0] (Malinin and Gales, 2018)."""
  log_p = _log_softmax(_float32(logits))
  return jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def gen(logits: jax.Array, gamma: float = 0.1, top: int = 100) -> jax.Array:
  """-sum of p^gamma (1 - p)^gamma over the `top` largest p, [N, K] -> [N] (Liu et al., 2023)."""
  logits = _float32(logits)
  top = min(top, logits.shape[-1])
  log_p = jax.lax.top_k(_log_softmax(logits), top)[0]
  # 1 - p from log p: near p = 1 the difference itself would be 0.
  return -jnp.sum(jnp.exp(gamma * log_p) * (-jnp.expm1(log_p)) ** gamma, axis=-1)


def odin(
  logits_fn: Score, images: jax.Array, temperature: float = 1000.0, epsilon: float = 0.0014
) -> jax.Array:
  """`msp` of f(x') / T, x' a step towards higher confidence, [B] (Liang et al., 2018).

  x' = x + epsilon sign(grad log p_predicted(x; T)), images [B, H, W, C] in [0, 1]. epsilon is in
  pixels: the original divides the sign by the normalisation's std in normalised units, which is
  the same step. As in the original, x' is not clipped.
  """

  def confidence(pixels):
    return msp(_float32(logits_fn(pixels)) / temperature)

  gradient = jax.grad(lambda pixels: jnp.sum(confidence(pixels)))(images)
  return confidence(images + epsilon * jnp.sign(gradient))


SCORES: dict[str, Score] = {
  'msp': msp,
  'max_logit': max_logit,
  'energy': energy,
  'entropy': entropy,
  'gen': gen,
}

# What OpenOOD v1.5 tries on a validation set; a score that is not listed has no settings.
SETTINGS: dict[str, tuple[Setting, ...]] = {
  'gen': tuple(
    {'gamma': gamma, 'top': top}
    for gamma in (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
    for top in (10, 100, 500, 1000)
  ),
  'odin': tuple(
    {'temperature': temperature, 'epsilon': epsilon}
    for temperature in (1.0, 10.0, 100.0, 1000.0)
    for epsilon in (0.0014, 0.0028)
  ),
}


def auroc(in_scores: np.ndarray, out_scores: np.ndarray) -> float:
  """Probability that a random in-distribution image scores above a random out-of-distribution one.

  Ties count half; 0.5 is chance. in_scores [N], out_scores [M]; it is the area under the ROC curve
  (Hanley and McNeil, 1982).
  """
  true, false = _found(*_positives(in_scores, out_scores))
  return float(np.trapezoid(true, false) / (true[-1] * false[-1]))


def aupr_in(in_scores: np.ndarray, out_scores: np.ndarray) -> float:
  """Area under the precision-recall curve, trapezoids as in OpenOOD; in-distribution is positive.

  A random score gets N / (N + M): compare only sets of equal sizes. Ties raise it, to 0.75 for
  constant scores on sets of equal sizes, as in scikit-learn's precision and recall.
  """
  return _aupr(*_positives(in_scores, out_scores))


def aupr_out(in_scores: np.ndarray, out_scores: np.ndarray) -> float:
  """`aupr_in` with out-of-distribution as positive; a random score gets M / (N + M)."""
  positive, scores = _positives(in_scores, out_scores)
  return _aupr(~positive, -scores)


def fpr95_ood_positive(in_scores: np.ndarray, out_scores: np.ndarray) -> float:
  """Share of in-distribution images rejected where 95 % of OoD images are rejected (OpenOOD)."""
  positive, scores = _positives(in_scores, out_scores)
  return _fpr95(~positive, -scores)


def fpr95_id_positive(in_scores: np.ndarray, out_scores: np.ndarray) -> float:
  """Share of OoD images kept where 95 % of in-distribution images are kept (Liang et al., 2018)."""
  return _fpr95(*_positives(in_scores, out_scores))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
  'auroc': auroc,
  'aupr_in': aupr_in,
  'aupr_out': aupr_out,
  'fpr95_ood_positive': fpr95_ood_positive,
  'fpr95_id_positive': fpr95_id_positive,
}


def separation(in_scores: np.ndarray, out_scores: np.ndarray) -> dict[str, float]:
  """Every metric by name, each in [0, 1], from scores [N] and [M]."""
  return {name: metric(in_scores, out_scores) for name, metric in METRICS.items()}


def choose(
  settings: Iterable[Setting], score: Callable[[Setting], tuple[np.ndarray, np.ndarray]]
) -> Setting:
  """The setting of largest AUROC on a validation set, the first where several are equal.

  `score(setting)` gives (in_scores [N], out_scores [M]) of validation images, never of test images.
  """
  settings = list(settings)
  if not settings:
    raise ValueError('there must be at least one setting to choose from, got none')
  return max(settings, key=lambda setting: auroc(*score(setting)))


def gaussian_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Images [B, *shape] of independent pixels from N(0.5, 0.5^2), clipped to [0, 1]; keys [B]."""
  return jnp.clip(0.5 + 0.5 * norms.draw(jax.random.normal, keys, shape), 0, 1)


def pixel_shuffled(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Each image [H, W, C] with its pixels in a random order of its own: same colours, no shapes.

  The channels of a pixel stay together; keys [B].
  """

  def shuffle(k, image):
    pixels = image.reshape(-1, image.shape[-1])
    order = jnp.argsort(jax.random.bits(k, (len(pixels),)))
    return pixels[order].reshape(image.shape)

  return jax.vmap(shuffle)(keys, images)


def _float32(logits: jax.Array) -> jax.Array:
  return jnp.asarray(logits, jnp.float32)


def _log_softmax(logits: jax.Array) -> jax.Array:
  """log p with the digits of 1 - p where a p is near 1, [N, K] -> [N, K]."""
  top = jnp.argmax(logits, axis=-1, keepdims=True)
  below = logits - jnp.take_along_axis(logits, top, axis=-1)
  others = jnp.where(top == jnp.arange(logits.shape[-1]), 0, jnp.exp(below))
  return below - jnp.log1p(jnp.sum(others, axis=-1, keepdims=True))


def _positives(in_scores: np.ndarray, out_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Whether each image is in-distribution [N + M] and its score [N + M], checked."""
  in_scores, out_scores = np.asarray(in_scores), np.asarray(out_scores)
  for name, scores in (('in_scores', in_scores), ('out_scores', out_scores)):
    if scores.ndim != 1 or not scores.size:
      raise ValueError(f'{name} must be [N] with N > 0, got {list(scores.shape)}')
    if not np.isfinite(scores).all():
      raise ValueError(f'{name} must be finite, got {np.sum(~np.isfinite(scores))} that are not')
  scores = np.concatenate([in_scores, out_scores])
  positive = np.arange(len(scores)) < len(in_scores)
  return positive, scores.astype(np.result_type(scores, np.float32))  # -1 of uint8 is 255


def _aupr(positive: np.ndarray, scores: np.ndarray) -> float:
  true, false = _found(positive, scores)
  precision = true[1:] / (true + false)[1:]
  # With nothing found, where recall is 0, precision is taken for 1.
  return float(np.trapezoid(np.append(1.0, precision), true / true[-1]))


def _fpr95(positive: np.ndarray, scores: np.ndarray) -> float:
  true, false = _found(positive, scores)
  return float(false[np.argmax(true / true[-1] >= 0.95)] / false[-1])


def _found(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Positives and negatives that score at least t, counted for each score t, highest first.

  Both begin with 0, above the highest score, and end with all.
  """
  values, place = np.unique(scores, return_inverse=True)
  counts = (np.bincount(place[which], minlength=len(values)) for which in (positive, ~positive))
  true, false = (np.append(0, np.cumsum(count[::-1])) for count in counts)
  return true, false
