"""Ports for tests of several processes."""

import contextlib
import socket


def free_port(above=0):
  """One that is free, of all or of those from `above` on."""
  for port in range(above, 65536):
    with socket.socket() as sock, contextlib.suppress(OSError):
      sock.bind(('localhost', port))
      return sock.getsockname()[1]
  raise OSError(f'no port from {above} on is free.')
