"""What a sweep will cost, and what is left of it."""

import functools
import io
import itertools
import json
import types

import pytest
from sweeping import smaller

from random_pruning_jax import models, runlog
from random_pruning_jax.sweep import agenda, estimate, view, work


def test_what_is_left_is_of_like_networks_or_grows_less_than_their_work(tmp_path):
  """Before this view has seen a run end: one after the other, each as long as earlier runs took."""
  both = agenda.make([smaller(), smaller(seed=1), smaller(model__width=4)])
  costs = estimate.costs(both.jobs, both.experiments)
  (tmp_path / both.jobs[0].tag).mkdir()
  row = {'train_seconds': 80.0, 'evaluation_seconds': 20.0}
  (tmp_path / both.jobs[0].tag / 'results.jsonl').write_text(json.dumps(row))
  seen = view.View(both.jobs, costs, tmp_path, io.StringIO())
  wide = 100 * (costs[2].dense_flops / costs[0].dense_flops) ** 0.75
  assert seen.seconds_left() == pytest.approx(100 + wide)
  (tmp_path / both.jobs[1].tag).mkdir()  # a quarter of it was trained before it stopped
  line = {'kind': 'train', 'step': costs[1].steps / 4, 'loss': 1.0}
  (tmp_path / both.jobs[1].tag / 'train.jsonl').write_text(json.dumps(line))
  assert seen.seconds_left() == pytest.approx(75 + wide)


def test_the_dry_run_counts_what_is_kept_and_three_passes_a_step(tmp_path):
  both = agenda.make([smaller(), smaller(pruning__density=1.0)])
  sparse, dense = estimate.costs(both.jobs, both.experiments)
  structure = both.experiments[both.jobs[0].group].structure
  prunable = sum(layer.size for layer in structure.layers)
  assert dense.kept == prunable
  assert sparse.kept == pytest.approx(0.3 * prunable, abs=5)
  assert dense.steps == 10  # 1,257 digits in batches of 120
  macs = sum(layer.macs for layer in structure.layers)
  assert dense.flops == dense.dense_flops == sparse.dense_flops == 2 * 3 * 10 * 120 * macs
  assert sparse.flops < dense.flops
  text = estimate.table(both.jobs, both.experiments, tmp_path, workers=1)
  assert all(job.tag in text for job in both.jobs) and '2 runs' in text
  assert not any((tmp_path / job.tag).exists() for job in both.jobs)


def test_the_dry_run_measures_until_its_patience_ends_and_shares_the_cores(tmp_path, monkeypatch):
  clock = types.SimpleNamespace(perf_counter=itertools.count(step=60).__next__)  # a look, a minute
  monkeypatch.setattr(estimate, 'time', clock)
  both = agenda.make([smaller(), smaller(model__width=4, batch_size=60)])  # in half the batch
  narrow, wide = (
    sum(x.macs for x in both.experiments[job.group].structure.layers) for job in both.jobs
  )
  seconds = estimate.seconds_per_step(both.jobs, both.experiments)
  assert list(seconds.values()) == [60, 30 * wide / narrow]  # measured, and scaled from that
  text = estimate.table(both.jobs, both.experiments, tmp_path, workers=4)
  left = estimate.duration(10 * 60 + 20 * 30 * wide / narrow)
  assert f'about {left} here with 4 workers' in text


def test_the_dry_run_measures_the_step_that_its_runs_take(monkeypatch):
  """Which takes a device's batch in parts, where the config says so."""
  seen = set()

  class Seen(models.CifarResNet):
    def __call__(self, images, **options):
      seen.add(len(images))
      return super().__call__(images, **options)

  monkeypatch.setitem(models.MODELS, 'cifar_resnet8', functools.partial(Seen, depth=2))
  both = agenda.make([smaller(model__name='cifar_resnet8', optimizer__accumulate=5)])
  estimate.seconds_per_step(both.jobs, both.experiments)
  [experiment] = both.experiments.values()
  assert seen == {1, 120 // len(experiment.on) // 5}  # one image to count its layers


def test_the_dry_run_counts_failed_runs_where_they_are_tried_again(tmp_path):
  both = agenda.make([smaller()])
  work.record_failure(both.jobs[0], tmp_path / both.jobs[0].tag, 'for want of memory')
  left, again = (estimate.table(*both, tmp_path, 1, retry) for retry in (False, True))
  assert 'What is not done takes about 0 s' in left
  assert 'What is not done takes about 0 s' not in again


def test_the_dry_run_counts_what_is_left_of_an_interrupted_run(tmp_path, monkeypatch):
  clock = types.SimpleNamespace(perf_counter=itertools.count(step=60).__next__)  # a look, a minute
  monkeypatch.setattr(estimate, 'time', clock)
  both = agenda.make([smaller()])  # of ten steps
  place = tmp_path / both.jobs[0].tag
  place.mkdir()
  (place / runlog.CONFIG_FILE).touch()
  (place / runlog.LOG_FILE).write_text(json.dumps({'kind': 'train', 'step': 8, 'loss': 1.0}))
  assert 'What is not done takes about 2 min here' in estimate.table(*both, tmp_path, 1)


def test_the_dry_run_knows_of_dense_layers_and_of_what_a_structure_allows():
  both = agenda.make(
    [
      smaller(pruning__dense=('stem',)),
      smaller(pruning__sampling='n_m', pruning__density=0.5, pruning__block=3),
    ]
  )
  held, structured = estimate.costs(both.jobs, both.experiments)
  experiment = both.experiments[both.jobs[0].group]
  sizes = {layer.name: layer.size for layer in experiment.structure.layers}
  stem = sizes['stem/kernel']
  assert held.kept == pytest.approx(stem + 0.3 * (sum(sizes.values()) - stem), abs=5)
  assert 'n_m sampling' in structured.infeasible


def test_the_dry_run_adds_up_runs_that_can_be_trained_alone(tmp_path):
  bad = smaller(pruning__sampling='n_m', pruning__density=0.5, pruning__block=3)
  alone, beside = (
    estimate.table(*agenda.make(configs), tmp_path, 1).split('\n\n')[1].splitlines()[0]
    for configs in ([smaller()], [smaller(), bad])
  )
  assert alone.startswith('1 runs: ') and 'e+' in alone
  assert beside == alone.replace('1 runs', '1 runs (besides 1 that cannot be)')


def test_the_dry_run_knows_how_many_images_of_a_set_that_is_not_here_are_trained_on(tmp_path):
  fields = {'epochs': 2, 'batch_size': 100, 'data_dir': str(tmp_path)}
  configs = [smaller(**fields | {'dataset': name}) for name in ('cifar10', 'mnist')]
  both = agenda.make(configs, need_data=False)
  steps = [cost.steps for cost in estimate.costs(both.jobs, both.experiments)]
  assert sorted(steps) == [2 * 450, 2 * 540]  # nine tenths of 50,000 and 60,000


def test_durations_are_said_in_units_that_fit():
  assert [estimate.duration(s) for s in (3.2, 80, 600, 7200, 864_000)] == [
    '4 s',
    '80 s',
    '10 min',
    '2.0 h',
    '10.0 days',
  ]
