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
    args = parser.parse_args(argv)
    return _collect(args.runs, args.csv)


def _collect(paths: list[Path], csv: Path | None) -> int:
    from fsamlab.sweep.results import collect, find_runs
    from fsamlab.sweep.summary import print_failures, settings_table
    from fsamlab.terminal import console

    directories = find_runs(paths)
    if not directories:
        print(
            f"error: {' '.join(map(str, paths))}: no run directory (one with a config.yaml) there",
            file=sys.stderr,
        )
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
