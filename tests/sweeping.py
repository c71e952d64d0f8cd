"""Jobs of small sweeps, and how far they are."""

from tiny import tiny_config

from random_pruning_jax.sweep import agenda


def small(**changes):
  fields = {'epochs': 1, 'evaluation__foreign': (), 'evaluation__epsilons': ()}
  return tiny_config(**fields | changes)


def planned(*configs):
  return agenda.make(configs).jobs


def states(directory, jobs):
  return [agenda.state(directory / job.tag) for job in jobs]
