"""A checkpoint that keeps its promises passes; a broken one fails, naming the layer."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import change_record, tinier_config, tiny_config

from random_pruning_jax import (
  checkpoints,
  data,
  main,
  masks,
  models,
  optimizers,
  paths,
  runlog,
  train,
  verify,
)
from random_pruning_jax.experiment import (
  build,
  initial_masks,
  initial_variables,
  keys,
  score_batches,
)
from random_pruning_jax.step import create_state


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of one epoch, its workdir and last state."""
  workdir = tmp_path_factory.mktemp('run')
  return workdir, train.train(tiny_config(epochs=1, pruning__dense=('stem',)), workdir, show=False)


def broken(trained, tmp_path, change):
  """A copy of the run whose checkpoint holds `change(params, masks)`, saved with its checksum."""
  workdir, state = trained
  shutil.copytree(workdir, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / 'checkpoints')
  params, kept = change(*jax.device_get((state.params, state.masks)))
  state = state.replace(params=params, opt_state=masks.with_masks(state.opt_state, kept))
  with checkpoints.Manager(tmp_path / 'run') as saved:
    checkpoints.save(saved, state, {'per_epoch': 10, 'validation': None})
  return tmp_path / 'run'


def test_a_trained_run_holds_and_says_what_is_effective(trained, capsys):
  assert main.main(['verify', f'--workdir={trained[0]}', '--cpu-devices=4']) == 0
  out = capsys.readouterr().out
  assert 'step 10: all holds' in out
  assert 'effective density' in out and 'dead units' in out
  verdict = verify.verify(trained[0])
  assert verdict.layers[0].name == 'stem/kernel' and verdict.layers[0].kept == 18
  assert 0 < verdict.effective_density <= verdict.density < 0.4
  for layer in verdict.layers:
    assert layer.kept == layer.planned and layer.effective <= layer.kept and layer.outside == 0


def test_a_weight_outside_its_mask_is_found_and_its_layer_named(trained, tmp_path, capsys):
  def change(params, kept):
    kernel = np.array(params['stage2_block0']['conv1']['kernel'])
    kernel[np.unravel_index(np.argmin(kept['stage2_block0']['conv1']['kernel']), kernel.shape)] = (
      1e-9
    )
    params['stage2_block0']['conv1']['kernel'] = kernel
    return params, kept

  place = broken(trained, tmp_path, change)
  assert main.main(['verify', f'--workdir={place}', '--checkpoint=latest']) == 1
  err = capsys.readouterr().err
  assert 'stage2_block0/conv1/kernel: 1 weights outside the mask are not zero' in err
  assert err.count('FAILED') == 1


def test_another_count_and_another_place_are_found(trained, tmp_path):
  def change(params, kept):
    more = np.array(kept['head']['kernel'])
    more.ravel()[np.argmin(more)] = True
    kept['head']['kernel'] = more
    kept['stage1_block0']['conv1']['kernel'] = np.flip(kept['stage1_block0']['conv1']['kernel'])
    return masks.apply(params, kept), kept

  failures = verify.verify(broken(trained, tmp_path, change), 'latest').failures
  planned = masks.count(trained[1].masks)['head/kernel']
  assert failures == (
    "stage1_block0/conv1/kernel: the mask is not the one of the config's seed",
    f'head/kernel: {planned + 1} weights kept, planned {planned}',
  )


def one_more(state):
  """The state whose masks keep a weight more in one layer."""
  kept = jax.device_get(state.masks)
  more = np.array(kept['stem']['kernel'])
  more.ravel()[np.argmin(more)] = True
  kept['stem']['kernel'] = more
  return state.replace(opt_state=masks.with_masks(state.opt_state, kept))


@pytest.mark.parametrize(
  'changes', [{'model__width': 256}, {'model__width': 64, 'pruning__ratio': 'magnitude'}]
)
def test_of_a_large_layer_too_one_weight_more_than_planned_is_found(tmp_path, changes):
  """A layer of 2,304; or of 576 for a score as ratio, which may differ by a weight in 1,000."""
  untrained(tinier_config(**changes), tmp_path, change=one_more)
  [failure] = verify.verify(tmp_path, 'latest').failures
  assert failure.startswith('stem/kernel: ') and 'weights kept, planned' in failure


def test_numbers_that_are_none_and_masked_batch_norm_are_found(trained, tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoints, '_check_finite', lambda *_: None)  # as before it was there

  def change(params, kept):
    params['head']['kernel'] = np.where(kept['head']['kernel'], np.float32(np.nan), np.float32(0))
    params['stem']['kernel'] = np.full_like(params['stem']['kernel'], np.inf)
    kept['stem_norm']['scale'] = np.array([True, False])
    return params, kept

  failures = verify.verify(broken(trained, tmp_path, change), 'latest').failures
  for name in ('head', 'stem'):
    assert f'{name}/kernel: not all weights are finite' in failures
  assert 'stem_norm/scale: masked, though it is never pruned' in failures


def test_averaged_weights_and_statistics_are_looked_at(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoints, '_check_finite', lambda *_: None)

  def change(state):
    average = jax.tree.map(np.ones_like, state.params)
    stats = jax.tree.map(lambda x: np.full_like(x, np.nan), state.batch_stats)
    return state.replace(average=average, batch_stats=stats)

  untrained(tinier_config(optimizer__average_decay=0.9), tmp_path, change=change)
  failures = verify.verify(tmp_path, 'latest').failures
  assert 'stem_norm/mean: not all statistics are finite' in failures
  assert any(f.startswith('head/kernel: ') and 'outside the mask' in f for f in failures)


def test_a_run_is_told_of_before_its_twin_that_has_no_checkpoint(trained, tmp_path, capsys):
  shutil.copytree(trained[0], tmp_path / 'run')
  runlog.claim(tmp_path / 'run' / 'dense_twin', tiny_config())
  assert main.main(['verify', f'--workdir={tmp_path}/run', '--cpu-devices=4']) == 2
  captured = capsys.readouterr()
  assert 'step 10: all holds' in captured.out and 'dense_twin' in captured.err


def test_a_network_cut_in_two_is_found(trained, tmp_path):
  def change(params, kept):
    kept['head']['kernel'] = np.zeros_like(kept['head']['kernel'])
    return masks.apply(params, kept), kept

  verdict = verify.verify(broken(trained, tmp_path, change), 'latest')
  assert 'all layers: no path leads from the input to the output' in verdict.failures
  assert verdict.effective_density == 0 and verdict.layers[0].dead_units == 2


def test_an_altered_checksum_is_refused(trained, tmp_path, capsys):
  shutil.copytree(trained[0], tmp_path / 'run')
  change_record(tmp_path / 'run', int(trained[1].step), lambda record: record | {'masks': '0' * 16})
  assert main.main(['verify', f'--workdir={tmp_path}/run', '--checkpoint=latest']) == 2
  assert 'the checkpoint was altered' in capsys.readouterr().err


def untrained(config, workdir, batches_of=None, change=lambda state: state):
  """Saves the initial state of a config's run, once it went through `change`.

  `batches_of` are the images that its scores see.
  """
  experiment = build(config)
  runlog.claim(workdir, experiment.config)
  variables = initial_variables(experiment.model, keys(config.seed).init, experiment.spec.shape)
  kept = initial_masks(experiment, variables, score_batches(experiment, batches_of))
  tx = optimizers.maker(experiment.config, 1)(optimizers.rates(experiment.config))
  state = create_state(variables, kept, tx)
  with checkpoints.Manager(workdir) as saved:
    checkpoints.save(saved, change(state), {'per_epoch': 10, 'validation': None})
  return kept


@pytest.mark.parametrize(
  'changes',
  [
    {'pruning__ratio': 'magnitude', 'pruning__select': 'magnitude'},
    {
      'pruning__ratio': 'uniform',
      'pruning__select': 'magnitude',
      'pruning__sampling': 'fan_in',
    },
    {'recipe': 'authors'},
  ],
)
def test_other_schemes_hold_too(tmp_path, changes):
  """From the initial state: what a scheme keeps does not change while it trains."""
  untrained(tinier_config(seed=3, model__width=16, **changes), tmp_path)
  verdict = verify.verify(tmp_path, 'latest')
  assert verdict.failures == ()
  assert all(layer.planned is not None for layer in verdict.layers)


def test_the_layers_of_a_snip_ratio_are_compared_with_the_score_computed_again(tmp_path):
  config = tinier_config(seed=3, model__width=16, pruning__ratio='snip')
  kept = untrained(config, tmp_path / 'right', data.load('digits', 'train'))
  verdict = verify.verify(tmp_path / 'right', 'latest')
  assert verdict.failures == ()
  planned = {layer.name: layer.planned for layer in verdict.layers}
  assert planned == {name: masks.count(kept)[name] for name in planned}


@pytest.mark.parametrize(('moved', 'holds'), [(4, True), (8, False)])
def test_layers_of_a_score_of_data_may_differ_by_what_rounding_moves(tmp_path, moved, holds):
  """Two layers of 126 and 140 weights, as on other devices; the total is the budget."""

  def change(state):
    kept = jax.device_get(state.masks)
    more, fewer = (np.array(kept[layer]['kernel']) for layer in ('stem', 'head'))
    more.ravel()[np.flatnonzero(~more)[:moved]] = True
    fewer.ravel()[np.flatnonzero(fewer)[:moved]] = False
    kept['stem']['kernel'], kept['head']['kernel'] = more, fewer
    return state.replace(opt_state=masks.with_masks(state.opt_state, kept))

  config = tinier_config(model__width=14, pruning__ratio='snip', pruning__select='snip')
  untrained(config, tmp_path, data.load('digits', 'train'), change)
  failures = verify.verify(tmp_path, 'latest').failures
  assert any('planned' in failure for failure in failures) != holds


def test_random_masks_of_a_ratio_that_is_a_score_are_those_of_the_seed(tmp_path):
  untrained(tinier_config(pruning__ratio='magnitude', pruning__select='magnitude'), tmp_path)
  config = tmp_path / runlog.CONFIG_FILE
  config.write_text(config.read_text().replace('"select": "magnitude"', '"select": "random"'))
  failures = verify.verify(tmp_path, 'latest').failures
  assert "head/kernel: the mask is not the one of the config's seed" in failures


@pytest.mark.parametrize(
  ('dense', 'sampling', 'more'),
  [((), 'exact', 0), (('stem',), 'exact', 0), ((), 'exact', 1), ((), 'bernoulli', 0)],
)
def test_where_the_images_of_a_score_are_not_here_the_total_is_compared(
  tmp_path, capsys, dense, sampling, more
):
  config = tinier_config(
    dataset='cifar10',
    data_dir=str(tmp_path / 'none'),
    pruning__ratio='magnitude',
    pruning__dense=dense,
    pruning__sampling=sampling,
  )
  change = one_more if more else lambda state: state
  untrained(config, tmp_path / 'run', change=change)  # its total is the budget, as SNIP's is
  text = (tmp_path / 'run' / runlog.CONFIG_FILE).read_text()
  (tmp_path / 'run' / runlog.CONFIG_FILE).write_text(text.replace('magnitude', 'snip'))
  verdict = verify.verify(tmp_path / 'run', 'latest')
  assert verdict.layers[0].planned is None and bool(verdict.failures) == bool(more)
  assert not more or verdict.failures[-1].startswith('all layers: ')
  compared = 'only the total of all layers is' if sampling == 'exact' else 'no number of weights is'
  assert f'{compared} compared, because snip needs data' in capsys.readouterr().err


def test_effective_weights_are_those_on_a_path():
  """Stem of 4 units, head of 3 classes: a unit without outgoing weights makes its incoming dead."""
  from test_scores import TinyNetwork

  kept = {
    'stem': {'kernel': np.ones((3, 3, 1, 4), bool)},
    'stem_norm': {'scale': np.ones(4, bool), 'bias': np.ones(4, bool)},
    'head': {'kernel': np.ones((4, 3), bool), 'bias': np.ones(3, bool)},
  }
  kept['head']['kernel'][1] = False  # unit 1 leads nowhere
  kept['stem']['kernel'][..., 2] = False  # nothing leads to unit 2
  found = paths.effective(TinyNetwork(3), kept, (5, 5, 1))
  assert found['stem/kernel'].sum((0, 1, 2)).tolist() == [9, 0, 0, 9]
  assert found['head/kernel'].sum(1).tolist() == [3, 0, 0, 3]
  assert paths.dead_units(found['stem/kernel']) == 2
  assert paths.dead_units(found['head/kernel']) == 0


@pytest.mark.parametrize(('name', 'side'), [('vgg11', 28), ('resnet10', 8)])
def test_paths_lead_through_every_pixel_of_a_pooled_map(name, side):
  """Of a dense network all weights are on one, but for those that see padding beside one pixel."""
  model = models.create(name, 3, width=2)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, side, side, 1)))['params']
  kept = jax.tree.map(lambda s: np.ones(s.shape, bool), shapes)
  found = paths.effective(model, kept, (side, side, 1))
  assert found['stem/kernel'].all() and found['head/kernel'].all()
  last = ('conv7', 'conv8') if name == 'vgg11' else ('stage2', 'stage3', 'stage4')
  for layer, mask in found.items():
    assert mask.all() or (layer.startswith(last) and mask.sum() <= 4 / 9 * mask.size), layer


def test_paths_are_counted_without_overflow():
  """All paths of a dense network of 26 layers; their number has some forty digits."""
  model = models.create('cifar_resnet26', 10, width=16)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8, 8, 1)))['params']
  kept = jax.tree.map(lambda s: np.ones(s.shape, bool), shapes)
  found = paths.effective(model, kept, (8, 8, 1))
  assert all(mask.all() for mask in found.values())
