"""Jobs of small sweeps, and how far they are."""

from tiny import tinier_config, tiny_config

from random_pruning_jax.sweep import agenda

FIELDS = {'epochs': 1, 'evaluation__foreign': (), 'evaluation__epsilons': ()}


def small(**changes):
  return tiny_config(**FIELDS | changes)


def smaller(**changes):
  """The same of two layers, for runs that are compiled."""
  return tinier_config(**FIELDS | changes)


def planned(*configs):
  return agenda.make(configs).jobs


def states(directory, jobs):
  return [agenda.state(directory / job.tag) for job in jobs]
