"""A run has one process: its lease is kept while it lives and taken over once it is gone."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import time

from random_pruning_jax.sweep import lease


def test_a_lease_of_a_dead_process_is_taken_over(tmp_path):
  gone = subprocess.Popen([sys.executable, '-c', ''])
  gone.wait()
  place = tmp_path / 'run'
  place.mkdir()
  for pid, started in ((gone.pid, '1'), (os.getpid(), 'another start')):
    found = {'pid': pid, 'host': lease._me()['host'], 'started': started}
    (place / lease.FILE).write_text(json.dumps(found))
    assert lease.holder(place) is None
    with lease.hold(place) as mine:
      assert mine and lease.holder(place)['pid'] == os.getpid()
    assert not (place / lease.FILE).exists()


def test_a_lease_is_nobodys_once_its_process_ended_though_none_has_asked_how(tmp_path):
  path = tmp_path / lease.FILE
  with subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE) as process:
    started = lease._started(process.pid)
    path.write_text(json.dumps(lease._me() | {'pid': process.pid, 'started': started}))
    assert lease.holder(tmp_path)['pid'] == process.pid
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert lease.holder(tmp_path) is None


def test_a_lease_that_a_crash_left_empty_is_taken_over(tmp_path):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / lease.FILE).touch()
  assert lease.pid(tmp_path / 'run') is None
  with lease.hold(tmp_path / 'run') as mine:
    assert mine and lease.holder(tmp_path / 'run')['pid'] == os.getpid()


def test_a_lease_from_another_host_lasts_while_it_is_touched(tmp_path):
  place = tmp_path / 'run'
  place.mkdir()
  path = place / lease.FILE
  path.write_text(json.dumps({'pid': 1, 'host': 'elsewhere.invalid', 'started': '1'}))
  assert lease.holder(place)['host'] == 'elsewhere.invalid'
  now = path.stat().st_mtime
  for stale in (now - lease.STALE_AFTER - 1, now + lease.STALE_AFTER + 60):  # or a clock set back
    os.utime(path, (stale, stale))
    assert lease.holder(place) is None


def test_a_lease_that_another_host_has_taken_since_is_left_to_it(tmp_path):
  others = json.dumps({'pid': 1, 'host': 'elsewhere.invalid', 'started': '1'})
  with lease.hold(tmp_path / 'run'):
    (tmp_path / 'run' / lease.FILE).write_text(others)
  assert (tmp_path / 'run' / lease.FILE).read_text() == others


def test_a_lease_from_another_host_is_read_where_nothing_may_be_written(tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

  path = tmp_path / 'run' / lease.FILE
  path.parent.mkdir()
  path.write_text(json.dumps({'pid': 1, 'host': 'elsewhere.invalid', 'started': '1'}))
  monkeypatch.setattr(pathlib.Path, 'touch', refuse)
  assert lease.holder(path.parent)['host'] == 'elsewhere.invalid'
  os.utime(path, (0, 0))
  assert lease.holder(path.parent) is None


def test_a_lease_is_touched_while_it_is_held(tmp_path, monkeypatch):
  monkeypatch.setattr(lease, 'TOUCHED_EVERY', 0.01)
  path = tmp_path / 'run' / lease.FILE
  with lease.hold(path.parent):
    os.utime(path, (0, 0))
    until = time.monotonic() + 30
    while not path.stat().st_mtime and time.monotonic() < until:
      time.sleep(0.01)
    assert path.stat().st_mtime
