"""Settings of the machine: memory, determinism, traces."""

import argparse
import os
import pathlib
import subprocess
import sys
import zlib

import jax
import pytest
from jaxlib import xla_client

from random_pruning_jax import kernels
from random_pruning_jax.commands import arguments
from random_pruning_jax.system import compiled, processor
from random_pruning_jax.training import profiling

ROOT = pathlib.Path(__file__).parents[1]


def environment(*given, before=()):
  parser = argparse.ArgumentParser()
  arguments.add_runtime(parser)
  return arguments.runtime_environment(parser.parse_args(given), dict(before))


def test_memory_and_determinism_are_asked_of_jax_by_its_own_variables():
  assert environment() == {}
  assert environment('--mem-fraction=0') == {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
  assert environment('--deterministic', before={'XLA_FLAGS': '--a=1'}.items()) == {
    'XLA_FLAGS': '--a=1 --xla_gpu_deterministic_ops=true'
  }
  with pytest.raises(ValueError, match=r'--mem-fraction must lie in \[0, 1\], got 1.5'):
    environment('--mem-fraction=1.5')


@pytest.mark.parametrize('name', ['XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION'])
def test_a_gpu_gets_the_fraction_of_memory_that_was_asked_for_whatever_the_shell_set(
  name, monkeypatch
):
  monkeypatch.setenv(name, '0.5')
  for variable, value in environment('--mem-fraction=0.9').items():
    monkeypatch.setenv(variable, value)
  assert xla_client.generate_pjrt_gpu_plugin_options()['memory_fraction'] == 0.9


COMMAND = """
import os, sys
sys.path.insert(0, 'tests')
from random_pruning_jax.main import main
status = main(sys.argv[1:])
print(os.environ['XLA_FLAGS'], os.environ['XLA_CLIENT_MEM_FRACTION'])
sys.exit(status)
"""
CONFIG = """
from tiny import tinier_config
def get_config():
  return tinier_config(epochs=1, evaluation__suites=('calibration',), evaluation__foreign=())
"""


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  """A run of the command in a process of its own, where PyTorch is installed and not to be used."""
  workdir = tmp_path_factory.mktemp('ran')
  (workdir / 'config.py').write_text(CONFIG)
  (workdir / 'packages').mkdir()
  (workdir / 'packages' / 'torch.py').write_text('raise AssertionError("imported")')
  paths = [str(workdir / 'packages'), os.environ.get('PYTHONPATH', '')]
  command = [sys.executable, '-c', COMMAND, 'train', f'--config={workdir / "config.py"}']
  command += [f'--workdir={workdir}', '--deterministic', '--mem-fraction=0.5', '--profile=3:4']
  environ = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environ)
  assert done.returncode == 0, done.stderr
  return workdir, done.stdout


def test_a_run_of_the_command_takes_its_settings_of_the_machine(ran):
  """A CPU accepts those that only GPUs read, and ignores them."""
  workdir, said = ran
  last = said.splitlines()[-1].split()
  assert '--xla_gpu_deterministic_ops=true' in last and last[-1] == '0.5'
  traces = [path.name for path in (workdir / profiling.FOLDER).rglob('*') if path.is_file()]
  assert any(name.endswith('.xplane.pb') for name in traces)
  assert 'perfetto_trace.json.gz' in traces
  assert (workdir / 'results.jsonl').exists()


def test_a_run_writes_for_tensorboard_without_pytorch(ran):
  workdir, _ = ran
  assert list((workdir / 'tensorboard').iterdir())


COMPILES = """
import argparse
from random_pruning_jax.commands import arguments
parser = argparse.ArgumentParser()
arguments.add_runtime(parser)
arguments.start_jax(parser.parse_args(['--cpu-devices=1']))
import jax
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append('cache_hits' in event))
jax.jit(lambda x: x + 1)(1.0)
print(sum(hits))
"""


def test_what_was_compiled_is_found_by_the_next_start_in_the_users_cache(tmp_path):
  outside = ('JAX_COMPILATION_CACHE_DIR', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS')
  environment = {name: value for name, value in os.environ.items() if name not in outside}
  environment['XDG_CACHE_HOME'] = str(tmp_path)
  command = [sys.executable, '-c', COMPILES]
  hits = [int(subprocess.check_output(command, cwd=ROOT, env=environment)) for _ in range(2)]
  assert hits[0] == 0 and hits[1] >= 1
  (processor_of,) = (tmp_path / 'random_pruning_jax' / 'compiled').iterdir()
  assert any(processor_of.iterdir())


@pytest.fixture
def kept(tmp_path):
  """A directory of compiled programs that the settings of JAX name, as they were before, after."""
  names = ('jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs')
  before = {name: getattr(jax.config, name) for name in names}
  yield tmp_path
  for name, value in before.items():
    jax.config.update(name, value)


def entry(size):
  """An entry of JAX's cache, of so many bytes."""
  filled = (zlib.compress(os.urandom(n), 0) for n in range(size))
  return next(data for data in filled if len(data) == size)


@pytest.mark.parametrize('length', [0, 512])
def test_a_compiled_program_that_was_cut_short_is_compiled_again(kept, length):
  (kept / 'cut-cache').write_bytes(entry(1024)[:length])
  whole = {'a-cache': entry(512), 'b-cache': entry(700), 'notes': b''}
  for name, data in whole.items():
    (kept / name).write_bytes(data)
  compiled.keep(kept)
  assert {path.name: path.read_bytes() for path in kept.iterdir()} == whole


def test_what_cannot_be_looked_at_among_compiled_programs_stays(kept):
  (kept / 'gone-cache').symlink_to(kept / 'removed by another process')
  (kept / 'folder-cache').mkdir()
  compiled.keep(kept)
  compiled.keep(kept / 'none')
  assert len(list(kept.iterdir())) == 2


@pytest.mark.parametrize('text', ['3', '4:3', 'a:b', '0:2', '3:', '1:²'])
def test_a_profile_of_no_steps_is_refused(text):
  with pytest.raises(ValueError, match='--profile must be START:STOP'):
    profiling.span(text)


def test_a_profile_ends_after_its_last_step_which_may_be_its_first(tmp_path):
  with profiling.Trace(tmp_path, profiling.span('2:2')) as trace:
    for step in (1, 2):
      trace.before(step)
      assert not (tmp_path / profiling.FOLDER).exists()
      trace.after(step, 1.0)
    assert list((tmp_path / profiling.FOLDER).rglob('*.xplane.pb'))
  with profiling.Trace(tmp_path / 'early', (1, 9)) as trace:
    trace.before(1)
  assert list((tmp_path / 'early').rglob('*.xplane.pb'))  # of a run that ends before


def test_one_network_has_one_cpu_device_where_kernels_share_the_cores_and_several_have_one_each():
  each = arguments.cpu_devices(apart=True)
  assert each & (each - 1) == 0 and 1 <= each <= os.cpu_count()
  assert arguments.cpu_devices(apart=False) == (1 if kernels.runs_dense() else each)


FLAG = '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE'


def test_flags_of_the_cpu_are_set_once_and_only_where_they_are_known():
  assert processor.environment({}, '0.10.2') == {'XLA_FLAGS': FLAG}
  assert processor.environment({'XLA_FLAGS': '--a=1'}, '0.10.2') == {'XLA_FLAGS': f'--a=1 {FLAG}'}
  assert processor.environment({'XLA_FLAGS': FLAG}, '0.10.2') == {}
  assert processor.environment({}, '0.11.0') == {}


def test_only_a_process_that_can_find_no_accelerator_keeps_its_memory():
  assert processor.only_cpu({'JAX_PLATFORMS': 'cpu'})
  assert not processor.only_cpu({'JAX_PLATFORMS': 'cuda,cpu'})


def install(support, site, monkeypatch):
  (site / support).mkdir(parents=True)
  (site / support / '__init__.py').touch()
  monkeypatch.syspath_prepend(site)


@pytest.mark.parametrize(
  ('support', 'chip'),
  [
    ('libtpu', 'accel0'),
    ('libtpu', 'vfio/0'),
    ('jax_plugins/xla_cuda13', 'nvidia0'),
    ('jax_plugins/xla_cuda12', 'dxg'),
  ],
)
def test_where_a_compiler_for_chips_is_and_no_chip_there_is_only_the_cpu(
  support, chip, tmp_path, monkeypatch
):
  install(support, tmp_path / 'site', monkeypatch)
  device = tmp_path / 'dev' / chip
  assert processor.only_cpu({}, tmp_path / 'dev')
  device.parent.mkdir(parents=True)
  device.touch()
  assert not processor.only_cpu({}, tmp_path / 'dev')


def test_support_of_a_kind_that_is_not_known_may_find_a_chip(tmp_path, monkeypatch):
  install('jax_plugins/xla_other', tmp_path / 'site', monkeypatch)
  assert not processor.only_cpu({}, tmp_path / 'dev')


MEMORY = """
import ctypes, pathlib, resource, sys
from random_pruning_jax.system import processor
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.restype = ctypes.c_void_p
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def take(megabytes):
  return libc.memset(libc.malloc(megabytes << 20), 1, megabytes << 20)
def held():
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  return next(int(line.split()[1]) >> 10 for line in lines if line.startswith('VmRSS'))
def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
"""


def memory(script: str) -> list[int]:
  """What a script prints that can use the functions of `MEMORY`."""
  command = [sys.executable, '-c', MEMORY + script]
  return list(
    map(int, subprocess.check_output(command, env=os.environ | {'JAX_PLATFORMS': 'cpu'}).split())
  )


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='only GNU libc is told')
def test_a_prepared_process_gets_the_memory_that_it_freed_without_new_pages():
  script = """
libc.free(take(64))
before = faults()
libc.free(take(64))
print(faults() - before)
"""
  (plain,), (prepared,) = memory(script), memory('processor.prepare()' + script)
  assert prepared < 100 and plain > 64 << 20 >> 16, (prepared, plain)  # pages of 64 kB at most


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='only GNU libc is told')
def test_what_compiling_freed_is_given_back_and_small_blocks_do_not_break_that_of_the_steps():
  before, freed, settled, faults = memory("""
processor.prepare()
first = held()
compiling = [take(1) for _ in range(200)]
for each in compiling[::2]:
  libc.free(each)
freed = held()
processor.give_back()
settled = held()
step = take(200)
libc.memset(libc.malloc(1), 1, 1)  # so that the block is not the last
libc.free(step)
batch, before = take(2), faults()
take(200)
print(first, freed, settled, faults() - before)
""")
  assert freed > before + 190 and settled < before + 110
  assert faults < 100


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='only GNU libc is told')
def test_what_two_steps_held_at_once_is_given_back_after_some_hundred_calls():
  both, still, after = memory("""
processor.prepare()
processor.give_back()
blocks = take(100), take(100)
libc.memset(libc.malloc(1), 1, 1)
for block in blocks:
  libc.free(block)
print(held(), processor.give_back(255) or held(), processor.give_back(256) or held())
""")
  assert still > both - 10 and after < both - 190
