"""Programs run without this package, and the commands say what files hold or why there is none."""

import dataclasses
import io
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import started
from exported import network, same
from tiny import tiny_config

from random_pruning_jax import checkpoints, cost, export, files, main, masks, optimizers, runlog
from random_pruning_jax.experiment import build, keys
from random_pruning_jax.files import program as hlo
from random_pruning_jax.step import create_state


def test_stablehlo_runs_in_a_process_without_this_package(program, tmp_path):
  stored, path = program
  images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
  np.save(tmp_path / 'images.npy', images)
  script = f"""
import sys
class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('random_pruning_jax', 'flax'):
      raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import jax, numpy as np
program = jax.export.deserialize(bytearray(open({str(path)!r}, 'rb').read()))
logits = program.call(np.load('images.npy'))
one = program.call(np.load('images.npy')[:1])
assert one.shape == (1, 10)
np.save('logits.npy', logits)
"""
  script = script.replace('import jax, numpy', 'import jax, jax.export, numpy')
  subprocess.run([sys.executable, '-c', script], cwd=tmp_path, check=True)
  there = np.load(tmp_path / 'logits.npy')
  assert there == pytest.approx(stored.logits(images), abs=1e-5)
  here = files.load(path)
  assert here.logits(images) == pytest.approx(there, abs=1e-6)
  assert here.kept() == stored.kept()


def test_a_program_says_nothing_of_the_place_where_it_was_written(program):
  assert b'.py' not in program[1].read_bytes()


def test_a_program_that_this_jax_cannot_read_is_refused_with_both_versions(program, tmp_path):
  data, path = program[1].read_bytes(), tmp_path / 'net'
  entry, length = hlo.read_entry(data)
  assert entry['jax'] == jax.__version__
  whole = jax.export.deserialize(bytearray(data[:length]))
  newer = dataclasses.replace(whole, mlir_module_serialized=b'of later operations')
  said = rf'with JAX 99\.0; this is JAX {re.escape(jax.__version__)}, which cannot read it \('
  path.write_bytes(hlo.pack(newer.serialize(), entry | {'jax': '99.0'}))
  with pytest.raises(ValueError, match=said) as caught:
    files.load(path).logits(np.zeros((1, 8, 8, 1), np.uint8))
  assert '\n' not in str(caught.value)
  path.write_bytes(hlo.pack(b'\xff' * length, entry | {'jax': '99.0'}))
  with pytest.raises(ValueError, match=said):
    files.load(path)
  del entry['jax']
  path.write_bytes(hlo.pack(data[:length], entry))
  assert files.load(path).written_with == ''


def test_inspect_says_what_is_inside_and_what_it_costs(program, tmp_path, capsys):
  stored, hlo = program
  path = files.save(stored, tmp_path / 'net')
  assert main.main(['inspect', str(path), '--json']) == 0
  found = json.loads(capsys.readouterr().out)
  structure = stored.about.structure
  assert found['dense_macs'] == cost.macs(structure.layers) > found['macs'] > 0
  assert found['kept'] == sum(stored.kept().values())
  assert found['bytes'] == path.stat().st_size
  assert main.main(['inspect', str(hlo)]) == 0
  out = capsys.readouterr().out
  assert 'cifar_resnet8, width 2, 10 classes' in out and 'stage3_block0/conv2' in out
  assert main.main(['inspect', str(tmp_path / 'none')]) == 2


def test_inspect_uses_no_device(program, tmp_path):
  """Which another process may have."""
  stored, hlo = program
  paths = [str(files.save(stored, tmp_path / 'net')), str(hlo)]
  code = 'from random_pruning_jax import main\n'
  code += f'for path in {paths}: main.main(["inspect", path])'
  out, err = started.python(code, JAX_PLATFORMS='none').communicate(timeout=60)
  assert out.count('10 classes') == 2, err


def test_a_pipe_is_read_like_the_file_that_comes_through_it(tmp_path, capsys):
  path = files.save(network(), tmp_path / 'net')
  reading, writing = os.pipe()
  with open(writing, 'wb') as end:
    end.write(path.read_bytes())  # a few kilobytes, for which a pipe has room
  assert main.main(['inspect', f'/dev/fd/{reading}', '--json']) == 0
  os.close(reading)
  through = json.loads(capsys.readouterr().out)
  assert main.main(['inspect', str(path), '--json']) == 0
  assert through == json.loads(capsys.readouterr().out) | {'file': f'/dev/fd/{reading}'}


def test_a_name_that_stdout_cannot_show_is_escaped_and_no_stdout_is_no_error(tmp_path, monkeypatch):
  path = files.save(network(), tmp_path / 'größe')
  shown = io.BytesIO()
  monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)
  monkeypatch.setattr(sys, 'argv', ['random-pruning', 'inspect', str(path)])
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(shown, 'ascii'))
  assert main.main() == 0
  assert b'gr\\xf6\\xdfe, seeded' in shown.getvalue()
  monkeypatch.setattr(sys, 'stdout', None)  # as where a process begins with it closed
  assert main.main() == 0


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The workdir of a run whose only checkpoint holds made-up weights, and its state."""
  workdir = tmp_path_factory.mktemp('run')
  experiment = build(tiny_config(pruning__density=0.3, model__dtype='bfloat16'))
  stored = network(key=jax.random.key_data(keys(experiment.config.seed).masks))
  tx = optimizers.maker(experiment.config, 1)(optimizers.rates(experiment.config))
  state = create_state(stored.variables, stored.masks, tx).replace(step=np.int32(7))
  runlog.claim(workdir, experiment.config)
  with checkpoints.Manager(workdir) as saved:
    checkpoints.save(saved, state, {'per_epoch': 10, 'validation': None})
  return workdir, state


def test_a_run_is_exported_as_its_checkpoint(run, tmp_path, capsys):
  workdir, state = run
  flags = [f'--workdir={workdir}', '--cpu-devices=4', '--checkpoint=latest']
  assert main.main(['export', *flags, f'--out={tmp_path / "net"}']) == 0
  assert ': seeded, ' in capsys.readouterr().out
  loaded = files.load(tmp_path / 'net')
  params = jax.device_get(state.params)
  assert jax.tree.all(jax.tree.map(np.array_equal, loaded.variables['params'], params))
  assert masks.checksum(loaded.masks) == masks.checksum(jax.device_get(state.masks))
  assert (loaded.about.dataset, loaded.about.step, loaded.about.dtype) == ('digits', 7, 'bfloat16')
  assert 'data_dir' not in loaded.about.config
  assert main.main(['export', *flags, f'--out={tmp_path}/net.safetensors', '--masks']) == 0
  assert same(files.load(tmp_path / 'net.safetensors'), loaded)


def test_an_export_that_cannot_be_is_refused_before_anything_is_read(tmp_path, capsys):
  flags = [f'--workdir={tmp_path / "none"}', '--cpu-devices=4', f'--out={tmp_path / "net"}']
  for wrong, message in (
    ('--format=zip', 'format must be one of'),
    ('--dtype=int8', 'dtype must be one of'),
    (f'--out={tmp_path}/net.PT', 'stablehlo, got a file with the suffix .pt'),
  ):
    assert main.main(['export', *flags, wrong]) == 2
    assert message in capsys.readouterr().err


def test_an_export_of_a_checkpoint_that_is_not_there_names_those_that_are(run, tmp_path, capsys):
  flags = [f'--workdir={run[0]}', '--cpu-devices=4', f'--out={tmp_path / "net"}']
  for asked in ('99', '²'):  # the second is a digit, and no number
    assert main.main(['export', *flags, f'--checkpoint={asked}']) == 2
    assert re.search(rf"one of \[\d+.*\], got '{asked}'", capsys.readouterr().err)


def test_masks_are_drawn_where_chance_selects_or_all_are_kept():
  found = {
    (select, density): export.draw_of(tiny_config(pruning__select=select, pruning__density=density))
    for select in ('random', 'magnitude')
    for density in (0.3, 1.0)
  }
  assert [choice for choice, draw in found.items() if not draw] == [('magnitude', 0.3)]


def test_a_suffix_in_capitals_names_its_format_too(run, tmp_path):
  with pytest.raises(ValueError, match='stablehlo holds float32'):
    export.export(run[0], tmp_path / 'net.STABLEHLO', dtype='float16')
