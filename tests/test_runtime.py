"""Settings of the machine: memory, determinism, traces."""

import argparse
import os
import subprocess
import sys

import jax
import pytest
from tiny import tiny_config

from random_pruning_jax import kernels, parallel, processor, profiling, train
from random_pruning_jax.commands import arguments


def environment(*given, before=()):
  parser = argparse.ArgumentParser()
  arguments.add_runtime(parser)
  return arguments.runtime_environment(parser.parse_args(given), dict(before))


def test_memory_and_determinism_are_asked_of_jax_by_its_own_variables():
  assert environment() == {}
  assert environment('--mem_fraction=0.9') == {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.9'}
  assert environment('--mem_fraction=0') == {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
  assert environment('--deterministic', before={'XLA_FLAGS': '--a=1'}.items()) == {
    'XLA_FLAGS': '--a=1 --xla_gpu_deterministic_ops=true'
  }
  with pytest.raises(ValueError, match=r'--mem_fraction must lie in \[0, 1\], got 1.5'):
    environment('--mem_fraction=1.5')


def test_a_profile_traces_the_steps_that_were_asked_for(tmp_path):
  train.train(tiny_config(epochs=1), tmp_path, show=False, profile=profiling.span('3:4'))
  found = [path.name for path in (tmp_path / profiling.FOLDER).rglob('*') if path.is_file()]
  assert any(name.endswith('.xplane.pb') for name in found)
  assert 'perfetto_trace.json.gz' in found


@pytest.mark.parametrize('text', ['3', '4:3', 'a:b', '0:2', '3:'])
def test_a_profile_of_no_steps_is_refused(text):
  with pytest.raises(ValueError, match='--profile must be START:STOP'):
    profiling.span(text)


def test_peak_memory_is_a_number_of_bytes_or_unknown():
  assert parallel.peak_bytes() is None or parallel.peak_bytes() > 0
  assert (jax.default_backend() == 'cpu') <= (parallel.peak_bytes() is None)


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


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='only GNU libc is told')
def test_a_prepared_process_gets_the_memory_that_it_freed_without_new_pages():
  script = """
import ctypes, resource, sys
from random_pruning_jax import processor
if sys.argv[1] == 'prepared': processor.prepare()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def use(size):
  place = libc.malloc(size)
  libc.memset(place, 1, size)
  libc.free(place)
use(64 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use(64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
  environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
  plain, prepared = (
    int(subprocess.check_output([sys.executable, '-c', script, how], env=environment))
    for how in ('plain', 'prepared')
  )
  assert prepared < 100 and plain > 64 << 20 >> 16, (prepared, plain)  # pages of 64 kB at most
