"""What test_accelerator.py looks at: runs on what JAX finds, in ROOT/one, four, together0, 1.

`python tests/standin.py tests/accelerated.py ROOT`.
"""

import json
import pathlib
import sys

import jax
from test_accelerator import pair

from random_pruning_jax import checkpoints, parallel, train
from random_pruning_jax.experiment import build
from random_pruning_jax.run import run_many
from random_pruning_jax.training import prepared, stacked


def main(root: pathlib.Path) -> None:
  configs, digests = pair(), {}
  for name, devices in (('one', 1), ('four', 4)):
    state = train.train(configs[0], root / name, on=parallel.devices(devices), show=False)
    digests[name] = checkpoints.digest(state)
  rows = run_many(configs, [root / f'together{i}' for i in range(len(configs))], show=False)
  run = prepared.open_run(build(configs[0]))
  facts = {
    'platform': jax.default_backend(),
    'way': stacked.default_way(jax.devices()),
    'calls': list(run.calls(0)),
    'convolution': str(run.experiment.model.conv_general_dilated),
    'rows': rows,
    'digests': digests,
  }
  (root / 'facts.json').write_text(json.dumps(facts))


main(pathlib.Path(sys.argv[1]))
