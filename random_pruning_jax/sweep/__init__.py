"""A list of configs becomes finished runs, whatever happens to some of them.

    agenda.py    configs -> jobs: a directory for each, checked before anything starts
    images.py    how many images a run trains on, by the sizes of its data set alone
    estimate.py  what jobs will cost: parameters, FLOPs, time
    lease.py     one process trains a run, however many work on a directory
    work.py      trains what is not done; failures are recorded and stop nothing
    workers.py   several processes, each on a GPU of its own
    view.py      what a person sees meanwhile
    ending.py    what a person is told at the end

States of a run are read from its directory and kept nowhere else (`agenda.state`), so a sweep that
was killed goes on from what it finds.
"""
