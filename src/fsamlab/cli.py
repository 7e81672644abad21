"""The `fsamlab` command: what one does with runs after they ran."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; return the exit code."""
    parser = argparse.ArgumentParser(prog="fsamlab", description="Work with the runs that launch.py has made.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("collect", help="one tidy CSV with a row per run, and the mean ± std table")
    one.add_argument("runs", nargs="+", type=Path, help="run directories, or directories of runs")
    one.add_argument("--csv", type=Path, help="where to write the CSV (default: results.csv in the first directory)")
    two = commands.add_parser(
        "measure",
        help="sharpness, curvature and the perturbation's decomposition at the checkpoints of runs",
        description="Measure checkpoints of finished or running runs; rows go to RUN/measurements/.",
        epilog="key=value: diagnostics=full|paper|light, diagnostics.rho=0.1, diagnostics.batchnorm=batch, "
        "checkpoint=last|best, device=cpu, force=true, hydra/launcher=submitit_slurm, hydra.launcher.num_jobs=1, ...",
    )
    two.add_argument("words", nargs="+", metavar="RUN | key=value", help="run directories, or directories of runs")
    three = commands.add_parser(
        "fetch",
        help="data and pretrained weights onto the disk, for jobs on nodes without internet",
        description="Get the data sets and the pretrained weights that runs read; train nothing.",
        epilog="The words are those of launch.py: +sweeps=NAME, data=cifar100, data.root=/datasets, "
        "model=timm model.name=NAME model.pretrained=true; lists (data=cifar10,cifar100) are taken one by one.",
    )
    three.add_argument("words", nargs="*", metavar="+sweeps=NAME | group=option | key=value")
    args = parser.parse_args(argv)
    if args.command == "measure":
        return _measure(args.words)
    if args.command == "fetch":
        return _fetch(args.words)
    return _collect(args.runs, args.csv)


def _measure(words: list[str]) -> int:
    import logging

    from fsamlab import door
    from fsamlab.measure import measure_runs
    from fsamlab.sweep.results import find_runs
    from fsamlab.sweep.summary import print_measurements
    from fsamlab.terminal import console

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    overrides = [w for w in words if "=" in w and not Path(w).exists()]
    paths = [Path(w) for w in words if w not in overrides]
    runs = find_runs(paths)
    if not runs:
        print(_no_runs(paths), file=sys.stderr)
        return 1
    try:
        outcome = measure_runs(runs, overrides)
    except Exception as e:
        return door.report(e)
    except KeyboardInterrupt:
        return 130
    screen = console()
    print_measurements([run for run, wrong in outcome.items() if wrong is None], screen)
    failed = {run: wrong for run, wrong in outcome.items() if wrong is not None}
    for run, wrong in failed.items():
        screen.print(f"   failed  {run.name}: {wrong}", style="red", highlight=False, markup=False, soft_wrap=True)
    return 1 if failed else 0


def _fetch(words: list[str]) -> int:
    from fsamlab import door
    from fsamlab.fetch import fetch

    try:
        return max(map(door.report, fetch(words)), default=0)
    except Exception as e:
        return door.report(e)
    except KeyboardInterrupt:
        return 130


def _no_runs(paths: list[Path]) -> str:
    named = " ".join(map(str, paths)) or "."
    return f"error: {named}: no run directory (one with a config.yaml) there"


def _collect(paths: list[Path], csv: Path | None) -> int:
    from fsamlab.sweep.results import collect, find_runs
    from fsamlab.sweep.summary import print_failures, settings_table
    from fsamlab.terminal import console

    directories = find_runs(paths)
    if not directories:
        print(_no_runs(paths), file=sys.stderr)
        return 1
    frame = collect(directories)
    csv = csv or paths[0] / "results.csv"
    frame.to_csv(csv, index=False)
    screen = console()
    if (frame["status"] == "finished").any():
        screen.print(settings_table(frame))
    print_failures(frame, screen)
    screen.print(f"{len(frame)} runs in {csv}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
