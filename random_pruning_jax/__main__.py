"""`python -m random_pruning_jax` is the console script `random-pruning`."""

import sys

from random_pruning_jax.main import main

if __name__ == '__main__':
  sys.exit(main())
