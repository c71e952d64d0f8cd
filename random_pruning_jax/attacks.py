"""Adversarial images: pixels in [0, 1] that raise a loss within a ball around the clean image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

LossFn = Callable[[jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """-log p_label of each image, [B, K], [B] -> [B]."""
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  return -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]


def fgsm(loss_fn: LossFn, images: jax.Array, epsilon: float) -> jax.Array:
  """clip(x + epsilon sign(grad loss), 0, 1): one step to a corner (Goodfellow et al., 2015).

  loss_fn: images [B, H, W, C] -> loss [B], each of its own image (running BatchNorm statistics).
  """
  gradient = jax.grad(lambda pixels: jnp.sum(loss_fn(pixels)))(images)
  return jnp.clip(images + epsilon * jnp.sign(gradient), 0, 1)
