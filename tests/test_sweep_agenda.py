"""What a sweep is to do and what it will cost, known before anything trains."""

import io
import itertools
import json
import os
import pathlib
import types

import pytest
from sweeping import planned, small

from random_pruning_jax import processor, pruning, runlog
from random_pruning_jax.commands import sweep as command
from random_pruning_jax.sweep import agenda, estimate, view, work, workers

ROOT = pathlib.Path(__file__).parents[1]


def test_what_is_left_is_of_like_networks_or_grows_less_than_their_work(tmp_path):
  """Before this view has seen a run end, one after the other as long as those before took."""
  both = agenda.make([small(), small(seed=1), small(model__width=4)])
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


def test_all_that_is_wrong_is_said_at_once_before_anything_starts():
  configs = [
    small(),
    small(pruning__ratio='nonsense'),
    small(model__name='resnet7'),
    small(pruning__density=0.0),
    small(seed=2, dense_twin=True),
    small(pruning__dense=('nolayer',)),
    small(seed=1, evaluation__corruptions=('foggy',)),
  ]
  with pytest.raises(ValueError) as refused:
    agenda.make(configs)
  text = str(refused.value)
  assert text.startswith('6 of 7 configs are invalid; nothing was started.')
  for word in ('nonsense', 'resnet7', '(0, 1], got 0.0', 'dense_twin', '(config 4)'):
    assert word in text
  assert "got ['nolayer']" in text and "got 'foggy'" in text


@pytest.mark.parametrize(
  'configs',
  [
    [small(), small()],
    [small(pruning__ratio='er', pruning__density=1.0), small(pruning__density=1.0)],
    [small(), small(data_dir='/elsewhere')],
    [small(), small(pruning__sampling='exact')],  # what the recipe says anyway
    [small(), small(evaluation__attacked_images=9)],  # measured otherwise, and in one directory
  ],
)
def test_duplicates_are_refused(configs):
  with pytest.raises(ValueError, match='configs 0 and 1 are the same run'):
    agenda.make(configs)


def test_tags_are_readable_and_differ_with_every_field_but_the_place_of_the_data():
  configs = [
    small(),
    small(seed=1),
    small(optimizer__lr=0.2),
    small(pruning__select='magnitude'),
    small(pruning__density=1.0),
  ]
  tags = [planned(config)[0].tag for config in configs]
  assert len({tag.rpartition('-')[2] for tag in tags}) == 5
  assert tags[0].startswith('digits-cifar_resnet8-w2-erk-d0.3-s0-')
  assert tags[3].startswith('digits-cifar_resnet8-w2-erk-magnitude-d0.3-s0-')
  assert tags[4].startswith('digits-cifar_resnet8-w2-dense-s0-')
  assert planned(small(data_dir='/elsewhere'))[0].tag == tags[0]


def test_a_run_has_one_tag_while_it_is_invalid_and_once_it_is_valid(tmp_path):
  config = small(dataset='cifar10', data_dir=str(tmp_path))
  [invalid] = agenda.make([config], skip_invalid=True).jobs
  [valid] = agenda.make([config], need_data=False).jobs
  assert invalid.error and not valid.error and invalid.tag == valid.tag


def test_jobs_that_share_a_compilation_follow_each_other():
  jobs = planned(small(), small(model__width=4), small(seed=1), small(model__width=4, seed=1))
  assert [job.config.model.width for job in jobs] == [2, 2, 4, 4]


@pytest.mark.parametrize('n', [1, 2, 3, 7])
def test_shards_are_disjoint_and_together_everything(n):
  jobs = [agenda.Job(str(i), None, '') for i in range(5)]
  parts = [agenda.shard(jobs, f'{i}/{n}') for i in range(1, n + 1)]
  assert sorted(job.tag for part in parts for job in part) == [job.tag for job in jobs]


@pytest.mark.parametrize('which', ['0/2', '3/2', '1', 'a/b', '1/0'])
def test_a_shard_that_cannot_be_is_refused(which):
  with pytest.raises(ValueError, match='must be I/N'):
    agenda.shard([], which)


def test_the_dry_run_counts_what_is_kept_and_three_passes_a_step(tmp_path):
  both = agenda.make([small(), small(pruning__density=1.0)])
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
  both = agenda.make([small(), small(model__width=4, batch_size=60)])  # in half as large batches
  narrow, wide = (
    sum(x.macs for x in both.experiments[job.group].structure.layers) for job in both.jobs
  )
  seconds = estimate.seconds_per_step(both.jobs, both.experiments)
  assert list(seconds.values()) == [60, 30 * wide / narrow]  # measured, and scaled from that
  text = estimate.table(both.jobs, both.experiments, tmp_path, workers=4)
  left = estimate.duration(10 * 60 + 20 * 30 * wide / narrow)
  assert f'about {left} here with 4 workers' in text


def test_the_dry_run_counts_failed_runs_where_they_are_tried_again(tmp_path):
  both = agenda.make([small()])
  work.record_failure(both.jobs[0], tmp_path / both.jobs[0].tag, 'for want of memory')
  left, again = (estimate.table(*both, tmp_path, 1, retry) for retry in (False, True))
  assert 'What is not done takes about 0 s' in left
  assert 'What is not done takes about 0 s' not in again


def test_the_dry_run_counts_what_is_left_of_an_interrupted_run(tmp_path, monkeypatch):
  clock = types.SimpleNamespace(perf_counter=itertools.count(step=60).__next__)  # a look, a minute
  monkeypatch.setattr(estimate, 'time', clock)
  both = agenda.make([small()])  # of ten steps
  place = tmp_path / both.jobs[0].tag
  place.mkdir()
  (place / runlog.CONFIG_FILE).touch()
  (place / runlog.LOG_FILE).write_text(json.dumps({'kind': 'train', 'step': 8, 'loss': 1.0}))
  assert 'What is not done takes about 2 min here' in estimate.table(*both, tmp_path, 1)


def test_the_dry_run_knows_of_dense_layers_and_of_what_a_structure_allows():
  both = agenda.make(
    [
      small(pruning__dense=('stem',)),
      small(pruning__sampling='n_m', pruning__density=0.5, pruning__block=3),
    ]
  )
  held, structured = estimate.costs(both.jobs, both.experiments)
  experiment = both.experiments[both.jobs[0].group]
  sizes = {layer.name: layer.size for layer in experiment.structure.layers}
  stem = sizes['stem/kernel']
  assert held.kept == pytest.approx(stem + 0.3 * (sum(sizes.values()) - stem), abs=5)
  assert 'n_m sampling' in structured.infeasible


def test_the_dry_run_knows_how_many_images_of_a_set_that_is_not_here_are_trained_on(tmp_path):
  fields = {'epochs': 2, 'batch_size': 100, 'data_dir': str(tmp_path)}
  configs = [small(**fields | {'dataset': name}) for name in ('cifar10', 'mnist')]
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


def test_more_workers_than_gpus_are_refused(monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
  assert workers.environment(1, 2)['CUDA_VISIBLE_DEVICES'] == '5'
  with pytest.raises(ValueError, match='number of GPUs, 2; got 3'):
    workers.environment(0, 3)


def test_gpus_that_jax_cannot_use_are_not_counted(monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  if not processor.only_cpu(os.environ):
    pytest.skip('an accelerator is here that JAX is installed for')
  assert workers.environment(0, 3) == os.environ


@pytest.mark.parametrize('path', sorted((ROOT / 'configs' / 'sweeps').glob('*.py')), ids=str)
def test_every_sweep_file_can_be_planned(path):
  configs = command.load_sweep(str(path), ['--config.epochs=20'])
  assert all(config.epochs == 20 for config in configs)
  known = [
    config
    for config in configs
    if {config.pruning.ratio, config.pruning.select} <= {*pruning.RATIOS, *pruning.SCORES}
  ]
  jobs = agenda.make(known[:: max(1, len(known) // 4)], need_data=False).jobs
  assert jobs


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    ('return default()', "a ConfigDict whose item 0 is 'augment'"),
    ('return "text"', "a str whose item 0 is 't'"),
    ('return [default(), None]', 'a list whose item 1 is None'),
    ('return 7', "TypeError: 'int' object is not iterable"),
    ('return [1 / 0]', 'line 3: ZeroDivisionError'),
    ('yield 1 / 0', 'line 3: ZeroDivisionError'),
    ('import nosuch', 'line 3: ModuleNotFoundError'),
    ('return [changed(default(), {"epochs": "x"})]', r"line 3: .*epochs must be .* int, got 'x'"),
    ('return [changed(default(), {"seed": 1.0})]', r'line 3: .*seed must be .* int, got 1\.0'),
    ('return [', 'SyntaxError: .* line 3'),
  ],
)
def test_a_mistake_in_a_sweep_file_is_said_in_one_line_with_the_file(tmp_path, body, message):
  file = tmp_path / 'file.py'
  imports = 'from random_pruning_jax.config import default; from random_pruning_jax.config_files '
  file.write_text(f'{imports} import changed\ndef get_sweep():\n  {body}\n')
  with pytest.raises(ValueError, match=f'{file}.*{message}') as refused:
    command.load_sweep(str(file), [])
  assert '\n' not in str(refused.value)


def test_a_dry_run_has_all_cores_however_many_workers_there_are_to_be():
  for dry_run, devices in ((True, 0), (False, 1)):
    args = types.SimpleNamespace(workers=64, cpu_devices=0, worker=-1, dry_run=dry_run)
    command._share_cores(args)
    assert args.cpu_devices == devices
