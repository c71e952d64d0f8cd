"""What a sweep is to do, known before anything trains."""

import json
import pathlib
import types

import pytest
from sweeping import planned, small

from random_pruning_jax import pruning
from random_pruning_jax.commands import sweep as command
from random_pruning_jax.sweep import agenda

ROOT = pathlib.Path(__file__).parents[1]


def test_all_that_is_wrong_is_said_at_once_before_anything_starts():
  configs = [
    small(),
    small(pruning__ratio='nonsense'),
    small(model__name='resnet7'),
    small(pruning__density=0.0),
    small(seed=2, dense_twin=True),
    small(pruning__dense=('nolayer',)),
    small(seed=1, evaluation__corruptions=('foggy',)),
    small(batch_size=5000),
    small(batch_size=5000, seed=1),
    small(model__width=2**62),
    small(seed=3, evaluation__foreign=('mnist', 'natural_patchez')),
  ]
  with pytest.raises(ValueError) as refused:
    agenda.make(configs)
  text = str(refused.value)
  assert text.startswith('10 of 11 configs are invalid; nothing was started.')
  for word in ('nonsense', 'resnet7', '(0, 1], got 0.0', 'dense_twin', '(config 4)'):
    assert word in text
  assert "got ['nolayer']" in text and "got 'foggy'" in text
  assert '(config 8): batch_size must lie in [1, 1257], the training images; got 5000' in text
  assert '(config 9): it cannot be built (TypeError: ' in text
  assert "(config 10): unknown data set 'natural_patchez'" in text


@pytest.mark.parametrize(
  'configs',
  [
    [small(), small()],
    [small(pruning__ratio='er', pruning__density=1.0), small(pruning__density=1.0)],
    [small(), small(data_dir='/elsewhere')],
    [small(), small(pruning__sampling='exact')],  # what the recipe says anyway
    [small(), small(evaluation__attacked_images=9)],  # measured otherwise, and in one directory
    [
      small(model__name='resnet20', model__width=16),
      small(model__name='cifar_resnet20', model__width=0),
    ],
    [small(dataset='cifar10'), small(dataset='cifar10:3.0.2')],
  ],
)
def test_duplicates_are_refused(configs):
  with pytest.raises(ValueError, match='configs 0 and 1 are the same run'):
    agenda.make(configs)


def test_configs_that_smoke_mode_makes_equal_are_one_job_the_first():
  configs = [small(smoke=True, model__name=name) for name in ('resnet20', 'resnet56')]
  jobs = planned(*configs, small(smoke=True, model__name='resnet56', seed=1))
  assert [job.config.seed for job in jobs] == [0, 1]
  assert jobs[0].tag == planned(configs[0])[0].tag


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


def test_a_file_of_test_images_that_is_not_there_is_found_before_anything_starts(tmp_path):
  splits = [{'name': name, 'shardLengths': ['2', '2']} for name in ('train', 'test')]
  info = {'name': 'cifar10', 'fileFormat': 'array_record', 'splits': splits}
  place = tmp_path / 'cifar10' / '3.0.2'
  place.mkdir(parents=True)
  (place / 'dataset_info.json').write_text(json.dumps(info))
  for name in ('train', 'test'):
    (place / f'cifar10-{name}.array_record-00000-of-00002').touch()
  (place / 'cifar10-train.array_record-00001-of-00002').touch()
  with pytest.raises(ValueError, match=r'there is no cifar10-test\.array_record-00001-of-00002'):
    agenda.make([small(dataset='cifar10', data_dir=str(tmp_path))])


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
  imports = 'from random_pruning_jax.config import default; from random_pruning_jax.config.files '
  file.write_text(f'{imports} import changed\ndef get_sweep():\n  {body}\n')
  with pytest.raises(ValueError, match=f'{file}.*{message}') as refused:
    command.load_sweep(str(file), [])
  assert '\n' not in str(refused.value)


def test_a_dry_run_has_all_cores_however_many_workers_there_are_to_be():
  for dry_run, devices in ((True, 0), (False, 1)):
    args = types.SimpleNamespace(workers=64, cpu_devices=0, worker=-1, dry_run=dry_run)
    command._share_cores(args)
    assert args.cpu_devices == devices
