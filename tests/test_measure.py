"""A run is measured again and again: rows gather what was found, one table shows several runs."""

import fcntl
import json
import math
import shutil
import time
import types

import jax
import pytest
from tiny import change_record, tinier_config

from random_pruning_jax import checkpoints, main, measure, parallel, results, run, runlog, suites
from random_pruning_jax.experiment import build
from random_pruning_jax.report import reading
from random_pruning_jax.sweep import agenda
from random_pruning_jax.training import recorder
from random_pruning_jax.training.meter import Meter


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A trained run with its dense twin, and the rows that training left."""
  workdir = tmp_path_factory.mktemp('runs') / 'tiny'
  config = tinier_config(
    dense_twin=True, gradient_flow_every=10, checkpoint__every_steps=10, checkpoint__keep=3
  )
  return workdir, run.run(config, workdir, show=False)


@pytest.fixture
def copied(trained, tmp_path):
  shutil.copytree(trained[0], tmp_path / 'run')
  return tmp_path / 'run'


def rows_of(workdir):
  return [json.loads(line) for line in (workdir / results.FILE).read_text().splitlines()]


def checkpoints_of(workdir):
  return sorted(path.name for path in (workdir / 'checkpoints').glob('*') if path.name.isdigit())


def test_training_ends_with_the_quick_suite_and_its_data(trained):
  row = trained[1][0]
  assert {'accuracy', 'temperature', 'ood/natural_patches/gen/auroc'} <= row['metrics'].keys()
  assert 'adversarial/fgsm/8/255' in row['metrics']
  assert len(row['reliability']['count']) == 15 and sum(row['reliability']['count']) == 360
  assert row['gradient']['step'] == [0, 10, 20] and len(row['gradient']['egf_2']) == 3


def test_a_row_counts_the_weights_that_are_kept_and_their_multiply_adds(trained):
  sparse, dense = trained[1]
  for row in (sparse, dense):
    layers = row['layers'].values()
    assert row['kept'] == sum(layer['kept'] for layer in layers)
    assert row['prunable'] == sum(math.prod(layer['shape']) for layer in layers)
    assert row['density'] == row['kept'] / row['prunable']
  assert 0 < sparse['macs'] < sparse['dense_macs'] == dense['macs'] == dense['dense_macs']


def test_a_row_says_how_much_of_the_time_its_first_calls_took(trained):
  for row in trained[1]:
    assert 0 < row['compile_seconds'] < row['train_seconds']
  kept = types.SimpleNamespace(_called=set(), _compile_seconds=0.0, _meter=Meter(0))
  for program in ('step', 'step', 'validation', 'step'):
    with recorder.Recorder.compiling(kept, program):
      time.sleep(0.01)
    assert kept._compile_seconds >= 0.01 * len(kept._called)
  first_calls = kept._compile_seconds
  with recorder.Recorder.compiling(kept, 'step'):
    time.sleep(0.01)
  assert kept._compile_seconds == first_calls


def test_the_last_epoch_is_validated_however_many_lie_between_two_validations():
  config = tinier_config(epochs=5, checkpoint__every_epochs=2, checkpoint__every_steps=15)
  experiment = types.SimpleNamespace(config=config)
  told = types.SimpleNamespace(_run=types.SimpleNamespace(experiment=experiment, per_epoch=10))
  due = {step: recorder.Recorder._due(told, step) for step in range(1, 51)}
  assert [step for step, (validate, _) in due.items() if validate] == [20, 40, 50]
  assert [step for step, (_, save) in due.items() if save] == [15, 30, 45]


def test_a_later_suite_adds_its_numbers_and_keeps_what_was_there(copied):
  before = rows_of(copied)[-1]
  changes = [('evaluation.shifts', ('digits', 'imagenet_a')), ('evaluation.batch_size', 60)]
  measure.evaluate_run(copied, suite=('shifts',), changes=changes, show=False)
  after = rows_of(copied)[-1]
  assert len(rows_of(copied)) == 2
  assert after['metrics']['shifts/digits/accuracy'] == before['metrics']['accuracy']
  for name, value in before['metrics'].items():
    assert after['metrics'][name] == value
  assert 'shifts/imagenet_a' in after['skipped']
  for name in ('train_seconds', 'validation', 'step', 'layers', 'reliability', 'gradient'):
    assert after[name] == before[name]


def test_what_suites_found_before_one_that_is_interrupted_is_kept(copied, monkeypatch):
  before = rows_of(copied)[-1]

  def interrupted(bench):
    raise KeyboardInterrupt

  monkeypatch.setitem(suites.SUITES, 'adversarial', interrupted)
  changes = [('evaluation.shifts', ('digits',))]
  names = ('shifts', 'calibration', 'adversarial')
  with pytest.raises(KeyboardInterrupt):
    measure.evaluate_run(copied, suite=names, changes=changes, show=False)
  row = results.row_of(copied)
  assert row['metrics']['shifts/digits/accuracy'] == before['metrics']['accuracy']
  assert before['metrics'].keys() < row['metrics'].keys()
  assert row['settings'].keys() == {'quick', 'shifts', 'calibration'}


def test_what_has_no_checkpoints_of_its_own_is_not_said_to_go_on_from_one(monkeypatch, capsys):
  def interrupted(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr('random_pruning_jax.commands.report.run', interrupted)
  assert main.main(['report', 'runs']) == 130
  assert capsys.readouterr().err == 'random-pruning: interrupted; give the same command again.\n'


def test_an_interrupted_measurement_is_not_said_to_go_on(copied, monkeypatch, capsys):
  def interrupted(bench):
    raise KeyboardInterrupt

  monkeypatch.setitem(suites.SUITES, 'adversarial', interrupted)
  assert main.main(['evaluate', str(copied), '--suite=calibration,adversarial']) == 130
  assert capsys.readouterr().err.splitlines()[-1] == (
    'random-pruning: interrupted; rows of suites that ended are kept; the same command measures '
    'all again.'
  )
  assert results.row_of(copied)['settings'].keys() == {'quick', 'calibration'}


def test_rows_after_each_suite_end_with_the_one_that_a_single_row_would_be(copied):
  state = measure.load_state(build(runlog.read_config(copied)), copied).state
  asked = {'suite': ('shifts', 'quick'), 'changes': [('evaluation.shifts', ('digits', 'mnist'))]}
  count = len(rows_of(copied))
  measure.evaluate_run(copied, trained=state, show=False, **asked)
  *earlier, whole = rows_of(copied)
  assert len(earlier) == count  # one row of training, which says that the run is done
  (copied / results.FILE).write_text(''.join(json.dumps(row) + '\n' for row in earlier))
  measure.evaluate_run(copied, show=False, **asked)
  *_, last = rows_of(copied)
  assert len(rows_of(copied)) == count + 2
  for name in measure.GATHERED:
    assert last[name] == whole[name]


def test_a_set_that_has_come_is_skipped_no_more(copied):
  changes = [('evaluation.foreign', ('mnist', 'natural_patches'))]
  row = measure.evaluate_run(copied, changes=changes, show=False)
  assert 'ood/mnist' in row['skipped']
  line = json.loads((copied / results.FILE).read_text().splitlines()[-1])
  line['skipped']['ood/natural_patches'] = 'it was not there'
  line['notes'] |= {'ood/natural_patches/gen': 'gamma=1', 'adversarial/pgd/1/255': 'of ten images'}
  results.append(copied, line)
  row = measure.evaluate_run(copied, changes=changes, show=False)
  assert row['skipped'].keys() == {'ood/mnist'}
  assert 'ood/natural_patches/gen' not in row['notes']  # measured anew, and without a remark
  assert row['notes']['adversarial/pgd/1/255'] == 'of ten images'


def gathered(workdir, suites, metrics, **parts):
  """The row that a run of `suites` finding `metrics` appends to what was found before."""
  parts = {'notes': {}, 'skipped': {}} | parts
  row = {'step': 1, 'masks': 'm', 'metrics': dict.fromkeys(metrics, 0.5), **parts}
  row = measure._gathered(workdir, row | {'settings': dict.fromkeys(suites)})
  results.append(workdir, row)
  return row


def test_a_suite_that_is_run_again_leaves_nothing_of_what_it_found_before(tmp_path):
  noise, mean, fog = 'ood/gaussian_noise/knn/auroc', 'corruptions/accuracy', 'corruptions/fog/nll'
  old = {'notes': {'corruptions': 'old', 'patches': 'resized'}, 'skipped': {'ood/mnist': 'old'}}
  gathered(tmp_path, ('quick', 'ood', 'corruptions'), ('accuracy', noise, mean, fog), **old)
  row = gathered(tmp_path, ('corruptions',), [fog])
  assert row['metrics'].keys() == {'accuracy', noise, fog}
  assert row['notes'] == {'patches': 'resized'} and row['skipped'] == {'ood/mnist': 'old'}
  made_here = 'corruptions_regenerated/fog/nll'
  row = gathered(tmp_path, ('corruptions',), [made_here])
  assert row['metrics'].keys() == {'accuracy', noise, made_here}
  row = gathered(tmp_path, ('corruptions',), [fog])
  assert row['metrics'].keys() == {'accuracy', noise, fog}
  row = gathered(tmp_path, ('ood',), ['ood/patches/knn/auroc'])
  assert row['metrics'].keys() == {'accuracy', 'ood/patches/knn/auroc', fog}
  assert not row['skipped'] and row['settings'].keys() == {'quick', 'ood', 'corruptions'}


def test_the_quick_suite_leaves_what_others_found_but_no_mean_of_other_sets(tmp_path):
  means, noise = {'ood/near/knn/auroc', 'ood/far/knn/auroc'}, 'ood/gaussian_noise/knn/auroc'
  of_two = {'notes': {'ood/near': 'mean of one, two', 'ood/far': 'mean of three'}}
  gathered(tmp_path, ('ood', 'adversarial'), (*means, noise, 'adversarial/pgd/1/255'), **of_two)
  row = gathered(tmp_path, ('quick',), ['ood/near/msp/auroc'], **of_two)
  assert {*means, noise, 'adversarial/pgd/1/255'} < row['metrics'].keys()
  row = gathered(tmp_path, ('calibration',), ['accuracy'])
  assert means < row['metrics'].keys() and row['notes'] == of_two['notes']
  row = gathered(tmp_path, ('quick',), ['accuracy'])
  assert row['metrics'].keys() == {'accuracy', noise, 'adversarial/pgd/1/255'}
  assert not row['notes']


def test_a_state_in_memory_gives_the_numbers_of_its_checkpoint_and_stands_for_no_other(copied):
  config = runlog.read_config(copied)
  experiment = build(config)
  loaded = [measure.load_state(experiment, copied, step) for step in ('10', '20')]
  for (state, record, _), step in zip(loaded, ('10', '20'), strict=True):
    for trained, *_ in loaded:
      trained = jax.device_get(trained)
      found, beside, _ = measure.load_state(experiment, copied, step, trained)
      assert checkpoints.digest(found) == checkpoints.digest(state) == beside['digest']
      assert beside == record
  asked = {'suite': ('calibration',), 'checkpoint': '20', 'show': False}
  memory = measure.evaluate_run(copied, trained=loaded[1][0], **asked)
  assert memory['metrics'] == measure.evaluate_run(copied, **asked)['metrics']


def test_a_row_has_the_peak_of_memory_that_training_found(copied, trained):
  """CPUs do not tell it; a device that does leaves it in the checkpoint."""
  assert trained[1][0]['peak_device_bytes'] is None
  change_record(copied, 20, lambda record: record | {'peak_bytes': 123_456})
  row = measure.evaluate_run(copied, suite=('calibration',), checkpoint='20', show=False)
  assert row['peak_device_bytes'] == rows_of(copied)[-1]['peak_device_bytes'] == 123_456


def test_another_checkpoint_begins_a_row_of_its_own(copied):
  best = rows_of(copied)[-1]
  other = '10' if best['step'] == 20 else '20'
  row = measure.evaluate_run(copied, suite=('calibration',), checkpoint=other, show=False)
  assert row['step'] == int(other) and not row['final']
  assert not any(name.startswith('ood/') for name in row['metrics'])
  assert results.row_of(copied)['step'] == best['step']  # still the run's result
  again = measure.evaluate_run(copied, suite=('calibration',), show=False)
  assert again['final'] and again['metrics'].keys() == best['metrics'].keys()


def test_the_newest_checkpoint_says_whether_the_run_has_ended(copied):
  """The one that is measured does not say it, and may be older."""
  config = json.loads((copied / runlog.CONFIG_FILE).read_text())
  change_record(copied, 10, lambda record: record | {'validation': {'accuracy': 1.0, 'nll': 0.0}})
  for epochs, ended in ((2, True), (4, False)):
    (copied / runlog.CONFIG_FILE).write_text(json.dumps(config | {'epochs': epochs}))
    row = measure.evaluate_run(copied, suite=('calibration',), show=False)
    assert row['step'] == 10 and row['final'] == ended


def test_what_is_left_of_a_deleted_checkpoint_keeps_no_other_from_being_measured(copied, capsys):
  """A process that is killed while it deletes one leaves a part."""
  shutil.rmtree(copied / 'checkpoints' / '10' / 'record')
  row = measure.evaluate_run(copied, suite=('calibration',), show=False)
  assert row['step'] == 20 and row['final']
  warning = f'WARNING: checkpoint {copied}/checkpoints/10 cannot be read'
  assert capsys.readouterr().err.count(warning) == 1
  (copied / 'checkpoints' / '20' / 'record' / 'metadata').write_text('{')
  with pytest.raises(checkpoints.NotReadableError, match='checkpoints/20 cannot be read'):
    measure.evaluate_run(copied, suite=('calibration',), show=False)


def test_a_checkpoint_is_measured_where_a_newer_one_cannot_be_read(copied):
  (copied / 'checkpoints' / '20' / 'record' / 'metadata').write_text('{')
  row = measure.evaluate_run(copied, suite=('calibration',), checkpoint='10', show=False)
  assert row['step'] == 10 and not row['final']  # nothing says that the run has ended


def test_what_is_measured_of_a_run_before_its_end_is_not_its_result(copied):
  config = runlog.read_config(copied)
  (copied / results.FILE).unlink()
  shutil.rmtree(copied / 'checkpoints' / '20')
  early = measure.evaluate_run(copied, suite=('calibration',), show=False)
  assert early['step'] == 10 and not early['final']
  assert agenda.state(copied) == 'interrupted'
  assert [each.state for each in reading.read([copied]) if not each.dense] == ['missing']
  row, _ = run.run(config, copied, show=False)
  assert row['final'] and 'ood/natural_patches/msp/auroc' in row['metrics']
  assert checkpoints_of(copied) == ['10', '20'] and agenda.state(copied) == 'done'


def test_a_run_that_was_measured_in_part_alone_is_measured_whole_by_train(copied):
  (copied / results.FILE).unlink()
  assert measure.evaluate_run(copied, suite=('calibration',), show=False)['final']
  assert agenda.state(copied) == 'interrupted'
  row, _ = run.run(runlog.read_config(copied), copied, show=False)
  assert 'ood/natural_patches/msp/auroc' in row['metrics'] and agenda.state(copied) == 'done'


def test_a_row_says_for_each_suite_how_it_was_measured(copied):
  changes = [('evaluation.attacked_images', 8), ('evaluation.attacks.pgd.steps', 1)]
  names = ('pgd_l2', 'apgd_ce', 'apgd_targeted', 'square')
  changes += [(f'evaluation.attacks.{name}.epsilons', ()) for name in names]
  measure.evaluate_run(copied, suite=('adversarial',), changes=changes, show=False)
  row = measure.evaluate_run(copied, suite=('calibration',), data_dir='moved', show=False)
  assert (row['config']['data_dir'], row['config']['evaluation.attacks.pgd.steps']) == ('moved', 20)
  assert 'adversarial/pgd/8/255' in row['metrics']
  found = {suite: fields['attacks.pgd.steps'] for suite, fields in row['settings'].items()}
  assert found == {'quick': 20, 'adversarial': 1, 'calibration': 20}


def test_a_row_that_could_not_be_written_is_said_before_anything_is_measured(copied, capsys):
  (copied / results.FILE).unlink()
  (copied / results.FILE).mkdir()
  shutil.rmtree(copied / 'checkpoints')  # which would be read first
  assert main.main(['evaluate', str(copied)]) == 2
  said = capsys.readouterr().err
  assert results.FILE in said and 'directory' in said


def test_the_numbers_are_those_of_training_on_other_devices_and_batches(copied):
  before = rows_of(copied)[-1]['metrics']
  row = measure.evaluate_run(
    copied, changes=[('evaluation.batch_size', 77)], on=parallel.devices(3), show=False
  )
  for name, value in before.items():
    assert row['metrics'][name] == pytest.approx(value, rel=2e-3, abs=2e-3), name


def test_devices_that_do_not_divide_the_batch_measure_all_the_same(copied):
  config = json.loads((copied / runlog.CONFIG_FILE).read_text())
  config['batch_size'] = 122  # of two devices and not of four
  (copied / runlog.CONFIG_FILE).write_text(json.dumps(config))
  before = rows_of(copied)[-1]['metrics']
  row = measure.evaluate_run(copied, suite=('calibration',), show=False)
  assert row['metrics']['accuracy'] == before['accuracy']


def test_a_run_whose_warm_up_lasts_into_its_last_epoch_is_measured_like_any_other(copied):
  config = json.loads((copied / runlog.CONFIG_FILE).read_text())
  config['schedule']['warmup_epochs'] = 1.6  # of two
  (copied / runlog.CONFIG_FILE).write_text(json.dumps(config))
  before = rows_of(copied)[-1]['metrics']
  row = measure.evaluate_run(copied, suite=('calibration',), show=False)
  assert row['metrics']['accuracy'] == before['accuracy']


def test_a_run_that_another_process_trains_is_left_to_it(copied):
  config = runlog.read_config(copied)
  with (copied / '.lock').open('a') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    other = runlog.read_config(copied)
    other.evaluation.epsilons = (1.0,)
    with pytest.raises(ValueError, match='is being trained by another process'):
      run.run(other, copied, show=False)
    other.dense_twin = False
    (error,) = run.run_many([other], [copied], show=False)
    assert 'is being trained by another process' in str(error)
    # The other process still measures by its own config.
    assert runlog.read_config(copied).evaluation.epsilons == config.evaluation.epsilons
  assert run.run(config, copied, show=False)[0]['step'] == 20


def test_what_was_measured_as_asked_is_not_measured_again_beside_other_suites(copied):
  config = runlog.read_config(copied)
  changes = [('evaluation.batch_size', 77)]
  measure.evaluate_run(copied, suite=('calibration',), changes=changes, show=False)
  count = len(rows_of(copied))
  run.run(config, copied, show=False)
  assert len(rows_of(copied)) == count
  measure.evaluate_run(copied, suite=('quick',), changes=changes, show=False)
  run.run(config, copied, show=False)
  assert len(rows_of(copied)) == count + 2 and rows_of(copied)[-1]['settings']['quick'] != changes


def test_a_dense_twin_may_be_added_later(copied):
  config = runlog.read_config(copied)
  shutil.rmtree(copied / run.TWIN)
  config.dense_twin = False
  (alone,) = run.run(config, copied, show=False)
  config.dense_twin = True
  sparse, dense = run.run(config, copied, show=False)
  assert [row['config']['dense_twin'] for row in (alone, sparse, dense)] == [False, True, False]
  assert sparse['metrics'] == alone['metrics'] and dense['density'] == 1.0


def test_a_run_that_is_named_twice_is_measured_once(copied, capsys):
  twin, count = copied / run.TWIN, len(rows_of(copied))
  named = [str(copied), str(twin), f'{copied}/../{copied.name}']
  assert main.main(['evaluate', *named, '--suite=calibration']) == 0
  assert capsys.readouterr().out.splitlines()[0].split() == ['erk/random', 'dense']
  assert len(rows_of(copied)) == len(rows_of(twin)) == count + 1


def test_every_checkpoint_is_found_before_any_is_measured(copied, capsys):
  empty, count = copied.parent / 'empty', len(rows_of(copied))
  empty.mkdir()
  shutil.copy(copied / runlog.CONFIG_FILE, empty)
  assert main.main(['evaluate', str(copied), str(empty), '--suite=calibration']) == 2
  assert 'empty/checkpoints must hold a checkpoint' in capsys.readouterr().err
  assert len(rows_of(copied)) == count


def test_several_runs_and_their_twins_make_one_table(copied, capsys):
  other = copied.parent / 'other'
  shutil.copytree(copied, other)
  shutil.rmtree(other / run.TWIN)
  status = main.main(
    ['evaluate', str(copied), f'--workdir={other}', '--suite=calibration',
     '--config.evaluation.batch_size=90']
  )  # fmt: skip
  assert status == 0
  head, *lines = capsys.readouterr().out.splitlines()
  assert [head.count(word) for word in ('erk/random', 'dense ', 'other')] == [2, 1, 1]
  accuracy = next(line for line in lines if line.startswith('test accuracy'))
  assert accuracy.count('%') == 3 and '*' in accuracy
  assert rows_of(other)[-1]['config']['evaluation.batch_size'] == 90


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--suite=oood'], 'suite must be one of adversarial, calibration'),
    (['--config.seed=3'], 'a checkpoint takes --config.evaluation.FIELD=VALUE'),
    (
      ['--config.evaluation.sed=3'],
      'unknown field config.evaluation.sed; config.evaluation',
    ),
    (['--config.evaluation.batch_size=many'], 'many'),
    (['--config.evaluation.checkpoint=latest'], '--checkpoint chooses another'),
    (['--config.evaluation.suites=("ood",)'], '--suite chooses another'),
    (['--config.evaluation.foreign=("mnist","mnits")'], "unknown data set 'mnits'"),
    (['--config.evaluation.near=("cifar1O",)'], "unknown data set 'cifar1O'"),
    (['--config.evaluation.shifts=("digitz",)'], "unknown data set 'digitz'"),
    (['--config.evaluation.validation_foreign=mnits'], "unknown data set 'mnits'"),
    (
      ['--config.evaluation.severities=(6,)'],
      'severities must be whole numbers from 1 to 5, got 6',
    ),
  ],
)
def test_what_is_wrong_is_one_line_and_status_two(copied, arguments, message, capsys):
  assert main.main(['evaluate', str(copied), *arguments]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1


def test_evaluate_needs_a_workdir(capsys):
  assert main.main(['evaluate']) == 2
  assert 'must be given the workdir' in capsys.readouterr().err
