"""The `fsamlab` command: everything that a user does with sweeps and runs besides starting them."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from fsamlab.command.options import parse
from fsamlab.config import in_range
from fsamlab.terminal import errors, output

if TYPE_CHECKING:
    from rich.console import Console


def _log() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")


def _init(args: argparse.Namespace) -> int:
    from fsamlab.command.init import init

    output.show(init(args.directory))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from fsamlab.command.doctor.view import doctor

    return doctor(args.words, as_json=args.json, job=args.submit)


def _check(args: argparse.Namespace) -> int:
    from fsamlab.command.check_view import print_check
    from fsamlab.sweep.resubmit import check

    _log()
    return 1 if print_check(*check(args.words)) else 0


def _fetch(args: argparse.Namespace) -> int:
    from fsamlab.command.fetch import fetch

    return max(map(errors.report, fetch(args.words)), default=0)


def _status(args: argparse.Namespace) -> int:
    from fsamlab.command.status_view import show_status

    in_range("--watch", args.watch, 0.01, 24 * 3600)
    return show_status(args.runs, failed=args.failed, as_json=args.json, watch=args.watch)


def _resubmit(args: argparse.Namespace) -> int:
    from fsamlab.sweep.resubmit import resubmit

    _log()
    logging.getLogger("fsamlab").setLevel(logging.INFO)
    resubmit(args.sweep, args.overrides)
    return 0


def _measure(args: argparse.Namespace) -> int:
    from fsamlab.command.measure import measure_runs
    from fsamlab.results.summary import print_measurements
    from fsamlab.terminal.text import console

    _log()
    outcome = measure_runs(*_runs_and_overrides(args.words))
    screen = console()
    print_measurements([run for run, wrong in outcome.items() if wrong is None], screen)
    return _print_failed(outcome, screen)


def _evaluate(args: argparse.Namespace) -> int:
    from fsamlab.command.evaluate import evaluate_runs
    from fsamlab.command.evaluate_view import print_evaluations
    from fsamlab.terminal.text import console

    _log()
    outcome, rows = evaluate_runs(*_runs_and_overrides(args.words))
    screen = console()
    print_evaluations(rows, screen)
    return _print_failed(outcome, screen)


def _runs_and_overrides(words: list[str]) -> tuple[list[Path], list[str]]:
    """Return the run directories that the words of a command line name, and the other words, which are for Hydra."""
    from fsamlab.rundir.find import runs_at

    overrides = [w for w in words if "=" in w and not Path(w).exists()]
    return runs_at([Path(w) for w in words if w not in overrides]), overrides


def _print_failed(outcome: dict[Path, str | None], screen: Console) -> int:
    """Print a line for each run whose job failed; return the exit code."""
    failed = {run: wrong for run, wrong in outcome.items() if wrong is not None}
    for run, wrong in failed.items():
        screen.print(f"   failed  {run.name}: {wrong}", style="red", soft_wrap=True)
    return 1 if failed else 0


def _sync(args: argparse.Namespace) -> int:
    from fsamlab.command.sync_view import show_sync
    from fsamlab.rundir.find import runs_at
    from fsamlab.tracking.wandb_server import check_place

    _log()
    runs = runs_at(args.runs)
    check_place(args.project, args.entity)
    in_range("--timeout", args.timeout, 0.01, 24 * 3600)
    return show_sync(runs, args.dry_run, project=args.project, entity=args.entity, timeout=args.timeout)


def _wandb_workspace(args: argparse.Namespace) -> int:
    from fsamlab.tracking.wandb_server import check_place
    from fsamlab.tracking.workspace import as_json, build, save_workspace

    check_place(args.project, args.entity)
    if args.json:
        output.show(as_json(build(args.project, args.entity or "", args.name)))
    else:
        output.show(save_workspace(args.project, args.entity, args.name))
    return 0


def _collect(args: argparse.Namespace) -> int:
    from fsamlab.results.collect import collect
    from fsamlab.results.study import Study
    from fsamlab.results.summary import print_failures, print_settings
    from fsamlab.rundir.find import runs_at
    from fsamlab.storage.writing import check_writable
    from fsamlab.terminal.text import console

    paths: list[Path] = args.runs
    runs = runs_at(paths)
    csv: Path = args.csv or paths[0] / "results.csv"
    check_writable(csv)
    frame = collect(runs)
    # relative to the CSV file, so that the paths stay right when the sweep is moved or copied
    here, parents = csv.parent.resolve(), {run.parent: run.parent.resolve() for run in runs}
    resolved = [
        run.resolve() if run.is_symlink() or run.name == ".." else parents[run.parent] / run.name for run in runs
    ]
    where = [os.path.relpath(run, here) for run in resolved]
    try:
        frame.assign(directory=where).to_csv(csv, index=False, encoding="utf-8", errors="surrogateescape")
    except OSError as e:  # pandas reports a full disk without the name of the file
        raise OSError(e.errno, e.strerror, str(csv)) from e
    screen = console()
    print_settings(Study(frame), screen)
    print_failures(frame, screen)
    screen.print(f"{len(frame)} runs in {csv}", soft_wrap=True)
    return 1 if (frame["status"] == "damaged").any() else 0


def _compare(args: argparse.Namespace) -> int:
    from fsamlab.command.compare_view import chosen_references, show_comparison, show_list

    in_range("--band", args.band, 0, 1e6, open_low=True)
    if args.list:
        return show_list(chosen_references(args.reference), args.json)
    if not args.runs:
        args.parser.error("the following arguments are required: DIR (or --list)")
    return show_comparison(args.runs, args.reference, args.band, args.json)


def _verdict(args: argparse.Namespace) -> int:
    from fsamlab.command.verdict_view import show_verdicts

    return show_verdicts(args.claims, args.form, args.figure)


def _best(args: argparse.Namespace) -> int:
    from fsamlab.command.best import best

    return best(
        args.runs,
        args.by,
        args.metric,
        args.at,
        write=args.write,
        sweep=args.sweep,
        num_seeds=args.seeds,
        as_json=args.json,
    )


def _report(args: argparse.Namespace) -> int:
    from fsamlab.report.page import write_report
    from fsamlab.terminal.text import counted

    out: Path = args.out or args.runs[0] / "report.html"
    start = time.perf_counter()
    gathered = write_report(args.runs, out, args.claims)
    seconds, size = time.perf_counter() - start, out.stat().st_size
    counts = ", ".join(f"{n} {status}" for status, n in gathered.counts().items())
    runs = counted(len(gathered.frame), "run")
    output.show(f"{runs} ({counts}) in {out}: {size / 1e3:.0f} kB, made in {seconds:.1f} s")
    if args.open and not webbrowser.open(out.resolve().as_uri()):
        print(
            f"error: --open: no browser found on this machine; open {out.resolve().as_uri()} elsewhere", file=sys.stderr
        )
        return 1
    return 0


COMMANDS = {
    "init": _init,
    "doctor": _doctor,
    "check": _check,
    "fetch": _fetch,
    "status": _status,
    "resubmit": _resubmit,
    "measure": _measure,
    "evaluate": _evaluate,
    "sync": _sync,
    "wandb-workspace": _wandb_workspace,
    "collect": _collect,
    "compare": _compare,
    "verdict": _verdict,
    "best": _best,
    "report": _report,
}
# These commands write files or start jobs, and finish that work also when nobody reads their output any more.
WORK = ("init", "fetch", "resubmit", "collect", "best", "report", "measure", "evaluate", "sync")


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand and return the exit code. An error is one line; only an unforeseen error has a traceback."""

    def command() -> int:
        args = parse(sys.argv[1:] if argv is None else argv)
        return COMMANDS[args.command](args)

    first = next(iter(sys.argv[1:] if argv is None else argv), None)
    return errors.call(command, work=first in WORK)


if __name__ == "__main__":
    sys.exit(main())
