"""Adversarial images: pixels in [0, 1] that raise a loss within a ball around the clean image.

Everything is pure and jittable with epsilon, the images and the network traced: one compilation
serves a curve of epsilons. epsilon is in pixels (8 / 255). A whole attack is one compiled call; on
a CPU, XLA's own convolutions are slow to differentiate inside a loop, which a large `unroll` avoids
at the price of a longer compilation. Each image has its own key (`norms.image_keys`), so neither
the batch size nor the devices matter.
"""

import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp

from random_pruning_jax import norms
from random_pruning_jax.attacks.auto_pgd import apgd
from random_pruning_jax.attacks.square_search import square
from random_pruning_jax.norms import LossFn

LogitsFn = Callable[[jax.Array], jax.Array]
Attack = Callable[..., jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """-log p_label of each image, [B, K], [B] -> [B]."""
  # optax subtracts the label's logit from logsumexp, which loses the digits of small losses.
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  return -_pick(log_p, labels)


def log_odds(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """log((1 - p_label) / p_label) of each image, [B, K], [B] -> [B].

  It rises with the cross-entropy and has its gradient's direction, also where p_label is so near to
  1 that the cross-entropy's gradient loses its digits: else sure networks would look robust.
  """
  logits = logits.astype(jnp.float32)
  return jax.nn.logsumexp(_others(logits, labels), axis=-1) - _pick(logits, labels)


def margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Largest other logit minus the label's, [B, K], [B] -> [B]: above 0 where misclassified."""
  logits = logits.astype(jnp.float32)
  return jnp.max(_others(logits, labels), axis=-1) - _pick(logits, labels)


def dlr(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Margin / (z_(1) - z_(3)), [B, K], [B] -> [B]; K >= 3 (Croce and Hein, 2020).

  The difference of logits ratio: above 0 where misclassified, and independent of the logits' scale.
  """
  first, _, third = _largest(logits, 3)
  return margin(logits, labels) / (first - third + 1e-12)


def dlr_targeted(logits: jax.Array, labels: jax.Array, targets: jax.Array) -> jax.Array:
  """(z_target - z_label) / (z_(1) - (z_(3) + z_(4)) / 2), [B, K], [B], [B] -> [B]; K >= 4."""
  first, _, third, fourth = _largest(logits, 4)
  logits = logits.astype(jnp.float32)
  rise = _pick(logits, targets) - _pick(logits, labels)
  return rise / (first - (third + fourth) / 2 + 1e-12)


def fgsm(loss_fn: LossFn, images: jax.Array, epsilon: float) -> jax.Array:
  """clip(x + epsilon sign(grad loss), 0, 1): one step to a corner (Goodfellow et al., 2015).

  loss_fn: images [B, H, W, C] -> loss [B], each of its own image alone (so with BatchNorm's running
  statistics).
  """
  _, gradient = norms.loss_and_gradient(loss_fn, images)
  return jnp.clip(images + epsilon * jnp.sign(gradient), 0, 1)


def pgd(
  loss_fn: LossFn,
  images: jax.Array,
  epsilon: float,
  keys: jax.Array,
  *,
  steps: int = 20,
  step_size: float = 0.25,
  norm: str = 'linf',
  restarts: int = 1,
  judge: LossFn | None = None,
  random_start: bool = True,
  unroll: int = 1,
) -> jax.Array:
  """The last of `steps` projected steps of step_size * epsilon up the loss (Madry et al., 2018).

  loss_fn: images [B, H, W, C] -> loss [B]; keys [B]. norm 'linf' follows the gradient's sign,
  'l2' its direction. The start is random in the ball; with several restarts each image keeps the
  result of highest `judge` loss (by default `loss_fn`). The loop is unrolled `unroll` steps at a
  time: `unroll=steps` leaves no loop.
  """
  ball = norms.get(norm)
  if steps < 1:
    raise ValueError(f'steps must be at least 1, got {steps}')
  if not 0 < step_size <= 2:
    raise ValueError(f'step_size must lie in (0, 2], got {step_size}')

  def climb(_, moved):
    _, gradient = norms.loss_and_gradient(loss_fn, moved)
    moved = moved + step_size * epsilon * ball.direction(gradient)
    return norms.inside(ball, images, moved, epsilon)

  def run(start_keys):
    start = norms.start(ball, images, epsilon, start_keys) if random_start else images
    return jax.lax.fori_loop(0, steps, climb, start, unroll=unroll)

  return norms.restarted(run, keys, restarts, judge or loss_fn, images)


def apgd_targeted(
  logits_fn: LogitsFn,
  images: jax.Array,
  labels: jax.Array,
  epsilon: float,
  keys: jax.Array,
  *,
  targets: int = 9,
  **settings,
) -> jax.Array:
  """Auto-PGD on `dlr_targeted` towards each of the likeliest wrong classes in turn.

  Each image keeps the attempt of largest margin; `targets` is at most K - 1 (Croce and Hein, 2020).
  """
  if targets < 1:
    raise ValueError(f'targets must be at least 1, got {targets}')
  logits = logits_fn(images)
  likeliest = jax.lax.top_k(_others(logits, labels), min(targets, logits.shape[-1] - 1))[1]
  classes = likeliest.T  # [targets, B]

  def judge(pixels):
    return margin(logits_fn(pixels), labels)

  def attempt(choice):
    target, target_keys = choice

    def loss_fn(pixels):
      return dlr_targeted(logits_fn(pixels), labels, target)

    return apgd(loss_fn, images, epsilon, target_keys, judge=judge, **settings)

  split = norms.draw(jax.random.split, keys, len(classes)).T
  return norms.strongest(attempt, (classes, split), judge, images)


def _untargeted(attack: Attack, loss: Callable[[jax.Array, jax.Array], jax.Array], **preset):
  """`attack` on `loss` of the logits, in the shape of `ATTACKS`."""

  def run(logits_fn, images, labels, epsilon, keys, **settings):
    def loss_fn(pixels):
      return loss(logits_fn(pixels), labels)

    if settings.get('restarts', 1) > 1:  # a misclassified image may have the smaller loss
      settings['judge'] = lambda pixels: margin(logits_fn(pixels), labels)
    return attack(loss_fn, images, epsilon, keys, **(preset | settings))

  run.settings = settings_of(attack)
  return run


def settings_of(attack: Attack) -> frozenset[str]:
  """Names of an attack's own settings: its attribute `settings`, or else its keywords."""
  if hasattr(attack, 'settings'):
    return attack.settings
  named = inspect.signature(attack).parameters.values()
  options = {p.name for p in named if p.kind is p.KEYWORD_ONLY or p.default is not p.empty}
  return frozenset(options - {'judge'})


apgd_targeted.settings = settings_of(apgd_targeted) | settings_of(apgd)


def _fgsm(loss_fn: LossFn, images: jax.Array, epsilon: float, keys: jax.Array) -> jax.Array:
  del keys  # FGSM leaves nothing to chance
  return fgsm(loss_fn, images, epsilon)


# (logits_fn, images [B, H, W, C], labels [B], epsilon, keys [B], **settings) -> images of the same
# shape; settings are the attack's own (steps, restarts, queries), by default the literature's.
# Those of the cross-entropy climb its `log_odds`, which have the same maxima and steps.
ATTACKS: dict[str, Attack] = {
  'fgsm': _untargeted(_fgsm, log_odds),
  'pgd': _untargeted(pgd, log_odds),
  'pgd_l2': _untargeted(pgd, log_odds, norm='l2', steps=50, step_size=0.1),
  'apgd_ce': _untargeted(apgd, log_odds),
  'apgd_targeted': apgd_targeted,
  'square': _untargeted(square, margin),
}
LEAST_CLASSES = {'apgd_targeted': 4}  # classes that an attack's loss needs, where more than two


def robust_accuracy(*correct: jax.Array) -> jax.Array:
  """Share of images that are classified correctly in every row, f32[]; each row is bool [N].

  One row is for the clean images, so that an attack cannot raise the share by correcting a
  misclassified one; the others are for one attack each, at the same epsilon and norm.
  """
  return jnp.mean(jnp.all(jnp.stack(correct), axis=0), dtype=jnp.float32)


def epsilon_curve(correct: jax.Array) -> jax.Array:
  """Robust accuracy [E] from rows bool [E, N] of rising epsilon, of which the first is clean (0).

  An image lost at one epsilon is lost at every larger one, whose ball contains the smaller: the
  curve never rises.
  """
  return jnp.mean(jax.lax.cummin(jnp.asarray(correct, jnp.float32), axis=0), axis=1)


def _pick(values: jax.Array, labels: jax.Array) -> jax.Array:
  return jnp.take_along_axis(values, labels[:, None], axis=-1)[:, 0]


def _others(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """The logits with that of the label at -inf."""
  return jnp.where(labels[:, None] == jnp.arange(logits.shape[-1]), -jnp.inf, logits)


def _largest(logits: jax.Array, count: int) -> jax.Array:
  """The `count` largest logits, [count, B]."""
  if logits.shape[-1] < count:
    raise ValueError(f'this loss needs at least {count} classes, got {logits.shape[-1]}')
  return jax.lax.top_k(logits.astype(jnp.float32), count)[0].T
