"""One action chunk, in a process of its own: ``python -m groot_ros.policy.first_chunk CHECKPOINT``."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence

import numpy as np

from groot_ros.policy.generation import embodiment_for
from groot_ros.policy.local import DTYPES, LocalPolicy


def main(arguments: Sequence[str] | None = None) -> int:
    """Load a policy, run it once on an invented observation, print what came of it as one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m groot_ros.policy.first_chunk", description=main.__doc__)
    parser.add_argument("checkpoint", help="directory or hub id")
    parser.add_argument("--embodiment", default="sim_arm", help="name, or path of a YAML file")
    parser.add_argument("--dtype", choices=DTYPES, default="auto")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    try:
        embodiment = embodiment_for(options.embodiment, options.checkpoint)
        # By the plain model: what `benchmark load` reports is a load and a chunk, no more.
        policy = LocalPolicy(options.checkpoint, embodiment, device=options.device, dtype=options.dtype, engine=False)
    except (ValueError, OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    begin = time.perf_counter()
    chunk = policy.act(policy.blank_observation(), seed=0)
    result = {
        "seconds": time.perf_counter() - begin,
        "timings_s": chunk.timings_s,
        "shapes": {key: list(values.shape) for key, values in chunk.actions.items()},
        "finite": all(bool(np.isfinite(values).all()) for values in chunk.actions.values()),
        "process_peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
