"""Whatever way a layer takes, the logits are those of the dense network."""

import numpy as np
import pytest
from exported import network
from small import two_layers

from random_pruning_jax import sparse_inference

SHAPE = (2, 8, 8, 1)
IMAGES = np.random.default_rng(0).random(SHAPE, np.float32)


def test_sparse_ways_give_the_dense_logits():
  stored = network(width=4, density=0.2)
  layers = list(stored.about.structure.shapes)
  ways = {}
  for number, layer in enumerate(layers):
    ways[layer.removesuffix('/kernel')] = ('columns', 'taps')[number % 2]
  found = sparse_inference.predictor(stored.model, stored.variables, SHAPE, ways=ways)
  assert found.ways == ways
  expected = stored.logits(IMAGES)
  assert np.abs(found.logits(IMAGES) - expected).max() < 1e-5 * max(1, np.abs(expected).max())


def test_ways_and_layers_that_are_unknown_are_named():
  stored = network()
  for ways, message in (({'stem': 'fast'}, 'dense, columns, taps'), ({'tail': 'dense'}, 'no tail')):
    with pytest.raises(ValueError, match=message):
      sparse_inference.predictor(stored.model, stored.variables, SHAPE, ways=ways)


def test_a_layer_is_timed_once_and_its_times_kept(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  kernel = np.random.default_rng(0).standard_normal((64, 16), np.float32)
  kernel *= np.random.default_rng(1).random(kernel.shape) < 0.1
  site = sparse_inference.Site('head', (1, 64), 1, 0)
  first = sparse_inference.fastest(kernel, site)
  (file,) = tmp_path.rglob('sparse_inference/*.json')
  file.write_text('{"dense": 2.0, "columns": 1.0}')
  assert first in sparse_inference.WAYS
  assert sparse_inference.fastest(kernel, site) == 'columns'


def test_the_measured_predictor_is_right_whatever_it_chose(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  model, variables = two_layers()
  found = sparse_inference.predictor(model, variables, SHAPE)
  assert set(found.ways) == {'stem', 'head'} and set(found.ways.values()) <= {'dense', 'columns'}
  expected = model.apply(variables, IMAGES)
  assert np.abs(found.logits(IMAGES) - expected).max() < 1e-4
