"""The command line as a person meets it, each command in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from tiny import tinier_config

from random_pruning_jax import main

ROOT = pathlib.Path(__file__).parents[1]
SMALL = [
  '--config=configs/digits.py',
  '--config.model.name=cifar_resnet2',  # of tiny.tinier_config
  '--config.model.width=2',
  '--config.epochs=2',
  '--config.schedule.warmup_epochs=0.0',
  '--config.pruning.density=0.5',
]


# Knows of that network in a process of its own, as MODELS does here.
KNOWN = (
  '-c import sys; sys.path.insert(0, "tests"); from tiny import tinier_config; tinier_config(); '
)


@pytest.fixture(scope='module', autouse=True)
def known():
  tinier_config()


def random_pruning(*arguments, script='-m random_pruning_jax'):
  return subprocess.run(
    [sys.executable, *script.split(' ', 1), *arguments],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of the digits config with its dense twin, and what it printed."""
  workdir = tmp_path_factory.mktemp('runs') / 'digits'
  script = (
    f'{KNOWN}from random_pruning_jax.main import main; status = main(sys.argv[1:]); '
    'print("tensorflow imported:", "tensorflow" in sys.modules); sys.exit(status)'
  )
  done = random_pruning('train', *SMALL, f'--workdir={workdir}', script=script)
  assert done.returncode == 0, done.stderr
  return workdir, done


def test_train_prints_dense_and_sparse_side_by_side(trained):
  _, done = trained
  lines = done.stdout.splitlines()
  assert 'erk/random' in lines[0] and 'dense' in lines[0]
  for name in ('sparsity', 'weights kept', 'test accuracy', 'NLL', 'ECE', 'AUROC', '8/255'):
    assert any(name in line for line in lines), name


def test_train_says_plain_lines_where_there_is_no_terminal(trained):
  _, done = trained
  assert 'epoch   2/2  step 38' in done.stderr
  assert '\r' not in done.stderr


def test_training_needs_no_tensorflow(trained):
  assert 'tensorflow imported: False' in trained[1].stdout


def test_the_rows_hold_every_number_and_the_whole_config(trained):
  workdir, _ = trained
  sparse = json.loads((workdir / 'results.jsonl').read_text())
  dense = json.loads((workdir / 'dense_twin' / 'results.jsonl').read_text())
  assert dense['density'] == 1 and sparse['density'] == pytest.approx(0.5, abs=0.01)
  assert sparse['kept'] == sum(layer['kept'] for layer in sparse['layers'].values())
  assert sparse['config']['pruning.ratio'] == 'erk'
  assert sparse['config']['pruning.sampling'] == 'exact'
  assert {'accuracy', 'nll', 'brier', 'ece', 'adversarial/fgsm/8/255'} <= sparse['metrics'].keys()
  assert 'ood/natural_patches/msp/auroc' in sparse['metrics']
  assert sparse['versions']['jax'] and sparse['step'] and sparse['masks'] != dense['masks']


def test_the_same_command_again_trains_nothing_and_prints_the_same_table(
  trained, capsys, monkeypatch
):
  workdir, done = trained
  log = (workdir / 'train.jsonl').read_bytes()
  monkeypatch.chdir(ROOT)
  assert main.main(['train', *SMALL, f'--workdir={workdir}']) == 0
  assert capsys.readouterr().out == done.stdout.replace('tensorflow imported: False\n', '')
  assert (workdir / 'train.jsonl').read_bytes() == log


def test_evaluate_gives_the_same_numbers_with_another_batch_and_device(trained):
  workdir, _ = trained
  script = f'{KNOWN}from random_pruning_jax.main import main; sys.exit(main())'
  again = random_pruning('evaluate', f'--workdir={workdir}', '--cpu-devices=1', script=script)
  assert again.returncode == 0, again.stderr
  lines = (workdir / 'results.jsonl').read_text().splitlines()
  before, after = json.loads(lines[0])['metrics'], json.loads(lines[-1])['metrics']
  assert len(lines) == 2
  for name, value in before.items():
    assert after[name] == pytest.approx(value, abs=2e-3), name


def test_a_workdir_of_another_config_is_refused_in_one_line(trained, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert main.main(['train', *SMALL, '--config.seed=9', f'--workdir={trained[0]}']) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert 'holds another config: seed is 0, got 9' in error


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['train', '--config=configs/none.py'], 'there is no configs/none.py'),
    (['train', '--config=configs/digits.py', '--config.sed=1'], 'unknown field config.sed'),
    (['train', '--config=configs/digits.py', '--seed=1'], 'unknown argument --seed=1'),
    (['train', '--config=configs/cifar.py:resnet20'], 'takes MODEL,RATIO,DENSITY'),
    (['train', '--config=configs/digits.py', '--config.pruning.density=2.0'], '(0, 1], got 2.0'),
    (
      [
        'train',
        *SMALL,
        '--config.evaluation.foreign=("mnist", "natural_patchez")',
        '--workdir=nowhere',
      ],
      "unknown data set 'natural_patchez'; did you mean natural_patches",
    ),
    (
      ['train', *SMALL, '--config.evaluation.near=("mnits",)', '--workdir=nowhere'],
      "unknown data set 'mnits'; did you mean mnist",
    ),
    (
      [
        'train',
        *SMALL,
        '--config.evaluation.suites=("shifts",)',
        '--config.evaluation.shifts=("mnist", "mnits")',
        '--workdir=nowhere',
      ],
      "unknown data set 'mnits'; did you mean mnist",
    ),
    (['evaluate', '--workdir=nowhere'], 'nowhere must be the workdir of a run'),
    (
      ['evaluate', '--config.evaluation.foreign=("mnist", "digits")', 'nowhere'],  # of one run
      'nowhere must be the workdir of a run',
    ),
  ],
)
def test_what_is_wrong_is_one_line_and_status_two(arguments, message, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert main.main(arguments) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count('\n') == 1


def test_a_traceback_is_shown_to_those_who_ask(monkeypatch):
  monkeypatch.chdir(ROOT)
  with pytest.raises(ValueError, match=r'unknown field config\.sed'):
    main.main(['--traceback', 'train', '--config=configs/digits.py', '--config.sed=1'])


def test_devices_that_are_not_there_are_one_line_and_status_two(monkeypatch):
  for platform in ('cuda', 'tpu'):
    monkeypatch.setenv('JAX_PLATFORMS', platform)
    done = random_pruning('plan', '--config=configs/digits.py')
    if not done.returncode:
      pytest.skip(f'this machine has a {platform} device')
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert said.startswith(f"random-pruning: no device of JAX_PLATFORMS='{platform}': ")
    assert not said.endswith(': ')


def test_who_reads_no_further_is_told_nothing():
  command = f'{sys.executable} -m random_pruning_jax plan --config=configs/digits.py | true'
  done = subprocess.run(
    ['bash', '-c', f'{command}; echo ${{PIPESTATUS[0]}}'], capture_output=True, text=True, cwd=ROOT
  )
  assert done.stdout == '141\n' and 'pipe' not in done.stderr.lower()


def test_a_broken_pipe_to_another_process_is_no_end_of_the_reading():
  script = (
    '-c import multiprocessing, sys\nfrom random_pruning_jax import main\n'
    'from random_pruning_jax.commands import plan\n'
    'def run(args, rest):\n'
    '  ours, theirs = multiprocessing.Pipe()\n'
    '  theirs.close()\n'
    '  ours.send(1)\n'
    'plan.run = run\n'
    'sys.exit(main.main())'
  )
  done = random_pruning('plan', '--config=configs/digits.py', script=script)
  assert done.returncode == 2 and 'Broken pipe' in done.stderr


def test_what_tensorstore_says_after_a_failure_is_for_those_who_ask_for_a_traceback():
  script = (
    '-c import asyncio\nfrom random_pruning_jax.main import main\n'
    'class Late:\n'
    '  def __del__(self):\n'
    '    loop = asyncio.new_event_loop()\n'
    '    loop.close()\n'
    '    loop.call_soon_threadsafe(print)\n'
    'class Other:\n'
    '  def __del__(self):\n'
    '    raise RuntimeError("something else")\n'
    'try:\n'
    '  main()\n'
    'finally:\n'
    '  Late(), Other()'
  )
  for options in ([], ['--traceback']):
    said = random_pruning(*options, 'train', '--config=none.py', script=script).stderr
    assert 'there is no none.py' in said and 'RuntimeError: something else' in said
    assert ('Event loop is closed' in said) == bool(options)


def test_help_lists_the_commands_and_imports_no_jax():
  script = (
    '-c import sys\nfrom random_pruning_jax.main import main\n'
    'try: main(["--help"])\n'
    'finally: print("imported:", {"jax", "flax", "tensorflow_datasets"} & set(sys.modules))'
  )
  done = random_pruning(script=script)
  assert all(command in done.stdout for command in main.COMMANDS)
  assert 'imported: set()' in done.stdout


@pytest.mark.parametrize('option', ['--data-dir', '--data_dir'])
def test_an_option_may_be_spelled_with_hyphens_or_underscores(option, tmp_path):
  assert main.main(['prepare', 'digits', f'{option}={tmp_path}']) == 0
  assert list(tmp_path.glob('digits/*/dataset_info.json'))
