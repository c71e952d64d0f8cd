"""Processes that a test starts, and what they are given."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys


def without_devices() -> dict[str, str]:
  """The tests' environment but for their four devices, for a process that chooses how many."""
  flags = [flag for flag in os.environ['XLA_FLAGS'].split() if 'device_count' not in flag]
  return os.environ | {'XLA_FLAGS': ' '.join(flags)}


def python(code: str, **env: str) -> subprocess.Popen:
  """A program of its own, with these in its environment besides."""
  return subprocess.Popen(
    [sys.executable, '-c', code],
    env={**os.environ, **env},
    cwd=pathlib.Path(__file__).parents[1],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def free_port(above: int = 0) -> int:
  """A free port, of all or of those from `above` on."""
  for port in range(above, 65536):
    with socket.socket() as sock, contextlib.suppress(OSError):
      sock.bind(('localhost', port))
      return sock.getsockname()[1]
  raise OSError(f'no port from {above} on is free.')
