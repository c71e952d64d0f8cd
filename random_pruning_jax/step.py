"""The state of training and the step: pure functions, free of data, devices and files."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax

from random_pruning_jax import masks


class TrainState(flax.struct.PyTreeNode):
  """All that training changes. The masks live in the optimizer state (`masks.keep_sparse`)."""

  step: chex.Array  # int32 [], steps done
  params: chex.ArrayTree
  batch_stats: chex.ArrayTree
  opt_state: optax.OptState
  average: chex.ArrayTree = ()  # moving average of the parameters, where the config wants one

  @property
  def masks(self) -> masks.Masks:
    return masks.of(self.opt_state)

  @property
  def variables(self) -> dict[str, chex.ArrayTree]:
    """What is evaluated: the averaged parameters, where there are any."""
    return {'params': self.average or self.params, 'batch_stats': self.batch_stats}


def create_state(
  variables: dict, mask_tree: masks.Masks, tx: optax.GradientTransformation, average: bool = False
) -> TrainState:
  """The state before the first step: parameters exactly zero outside the masks."""
  params = masks.apply(variables['params'], mask_tree)
  opt_state = masks.with_masks(tx.init(params), mask_tree)
  averaged = jax.tree.map(jnp.copy, params) if average else ()
  return TrainState(jnp.zeros((), jnp.int32), params, variables['batch_stats'], opt_state, averaged)


def train_step(
  state: TrainState,
  batch: dict[str, chex.Array],
  *,
  model,
  tx: optax.GradientTransformation,
  label_smoothing: float = 0.0,
  accumulate: int = 1,
  average_decay: float = 0.0,
  axis_name: str | None = None,
) -> tuple[TrainState, dict[str, chex.Array]]:
  """One step of SGD on a batch; pure. Only `tx` knows whether the network is sparse.

  The batch is {'image': float32 [B, H, W, C] in [0, 1], 'label': int32 [B]}; `accumulate` divides
  B. Returns the new state and the old one's {'loss', 'accuracy'}, float32 [] each. The gradient is
  the mean over `accumulate` equal parts of the batch, taken one after the other; BatchNorm
  normalises each part by itself. Gradients, statistics and metrics are averaged over the devices of
  the mapped axis `axis_name`, if given.
  """
  gradients = functools.partial(
    _gradients, state.params, model=model, label_smoothing=label_smoothing
  )
  if accumulate == 1:
    batch_stats, (grads, metrics) = gradients(state.batch_stats, batch)
  else:
    parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)
    batch_stats, found = jax.lax.scan(gradients, state.batch_stats, parts)
    grads, metrics = jax.tree.map(lambda x: x.mean(0), found)
  if axis_name and jax.lax.axis_size(axis_name) > 1:  # over one device, pmean traces divisions by 1
    grads, batch_stats, metrics = jax.lax.pmean((grads, batch_stats, metrics), axis_name)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  average = state.average
  if average_decay:
    average = optax.incremental_update(params, average, 1 - average_decay)
  return TrainState(state.step + 1, params, batch_stats, opt_state, average), metrics


def _gradients(params, batch_stats, batch, *, model, label_smoothing):
  """(new BatchNorm statistics, (gradient, {'loss', 'accuracy'})): a scan's (carry, output)."""

  def loss_fn(params):
    logits, updated = model.apply(
      {'params': params, 'batch_stats': batch_stats},
      batch['image'],
      train=True,
      mutable=['batch_stats'],
    )
    labels = jax.nn.one_hot(batch['label'], logits.shape[-1])
    labels = optax.smooth_labels(labels, label_smoothing)
    loss = optax.softmax_cross_entropy(logits, labels).mean()
    return loss, (logits, updated['batch_stats'])

  (loss, (logits, updated)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
  metrics = {'loss': loss, 'accuracy': jnp.mean(logits.argmax(-1) == batch['label'])}
  return updated, (grads, metrics)


def scan_steps(step: Callable, state: Any, inputs: tuple) -> tuple[Any, dict[str, chex.Array]]:
  """`step(state, input)` for each of `inputs` [S, ...]: the last state, and metrics [S].

  A single step skips the scan, which on a CPU would add a tenth to its time.
  """
  if len(jax.tree.leaves(inputs)[0]) == 1:
    state, metrics = step(state, jax.tree.map(lambda x: x[0], inputs))
    return state, jax.tree.map(lambda x: x[None], metrics)
  return jax.lax.scan(step, state, inputs)
