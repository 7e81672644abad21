"""A SLURM job with several runs, without SLURM: `python packed_job.py PICKLE WORD`, with SLURM's variables set.

In the place of submitit, a handler of USR2 prints `requeued` and exits (WORD `requeue`), or refuses (WORD `refuse`).
"""

import pickle
import signal
import sys
from pathlib import Path

from fsamlab.sweep.packed import PackRunner


def handler(signum, frame):
    if sys.argv[2] == "refuse":
        raise RuntimeError("Job not requeued because: timed-out too many times.")
    print("requeued", flush=True)
    sys.exit(-1)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, handler)
    signal.signal(signal.SIGTERM, lambda signum, frame: None)
    PackRunner()(pickle.loads(Path(sys.argv[1]).read_bytes()))
