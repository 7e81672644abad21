"""A training loop in small, run as a process of its own: writes metrics.jsonl, mirrors it, prints one line of JSON.

Its argument is JSON: see `Loop` in test_wandb_tracker.py. At the steps in `pause_at` it prints PAUSED and waits
for a line on stdin, so that a test can break something at exactly this point.
"""

import json
import logging
import signal
import sys
import time
from pathlib import Path

from fsamlab.config import TrackerConfig
from fsamlab.tracking import build_tracker


def main(spec):
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, lambda signum, frame: None)  # training goes on, as it does inside SLURM
    directory, seconds = Path(spec["directory"]), {"log": 0.0}
    metrics = directory / f"{spec['run_id']}.jsonl"

    def timed(what, call):
        began = time.monotonic()
        result = call()
        seconds[what] = max(seconds.get(what, 0.0), time.monotonic() - began)
        return result

    tracker = timed(
        "build",
        lambda: build_tracker(
            TrackerConfig(name="wandb", **spec["tracker"]),
            run_id=spec["run_id"],
            name="fsam-s0",
            group="study",
            job_type="fsam",
            config={"optimizer": {"name": "fsam", "rho": 0.2}, "seed": 3},
            directory=Path(spec["wandb_directory"]),
            start_step=spec["start"],
            metrics=metrics if spec["replay"] else None,
        ),
    )
    with metrics.open("a") as f:
        for step in range(spec["start"] + 1, spec["steps"] + 1):
            row = {"step": step, "train/loss": 1 / step, "val/acc1": step / 100}
            f.write(json.dumps(row) + "\n")
            f.flush()
            timed("log", lambda row=row, step=step: tracker.log(row, step))
            if step in spec["pause_at"]:
                print("PAUSED", flush=True)
                sys.stdin.readline()
    timed("finish", lambda: tracker.finish({"best/val/acc1": 0.5, "cost": 7}, spec["exit_code"]))
    tracker.log({"train/loss": -1.0}, spec["steps"] + 1)
    tracker.finish({"best/val/acc1": -1.0}, 0)
    started = [pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()]
    return {"url": tracker.url, "started": len(started), "seconds": seconds}


results = [main(spec) for spec in json.loads(sys.argv[1])]
print(json.dumps(results), flush=True)
