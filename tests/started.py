"""What processes that a test starts are given."""

import os


def without_devices() -> dict[str, str]:
  """The tests' environment but for their four devices, for a process that chooses how many."""
  flags = [flag for flag in os.environ['XLA_FLAGS'].split() if 'device_count' not in flag]
  return os.environ | {'XLA_FLAGS': ' '.join(flags)}
