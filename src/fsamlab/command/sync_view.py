"""The output of `fsamlab sync`: one line for each run when the run is done, and one line for all runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fsamlab.rundir.find import settings_of
from fsamlab.terminal.tables import wrapped
from fsamlab.terminal.text import console, counted
from fsamlab.tracking.sync import Outcome, sync_runs


def show_sync(runs: list[Path], dry_run: bool, **options: Any) -> int:
    """Upload runs, print the outcome of each run, and return the exit code.

    Args:
        runs: the run directories.
        dry_run: only print what would be sent.
        options: further arguments of :func:`sync_runs`.

    Raises:
        CannotUpload: as :func:`sync_runs`, after the line for all runs.
    """
    screen = console()
    outcomes: list[Outcome] = []
    settings = dict(zip(runs, settings_of(runs)))
    try:
        for run, outcome in sync_runs(runs, dry_run=dry_run, **options):
            outcomes.append(outcome)
            name = f"{run.name} ({setting})" if (setting := settings[run]) else run.name
            screen.print(
                wrapped(screen, f"{name}: {line(outcome, dry_run)}", hang=4),
                style="red" if outcome.failed else None,
                soft_wrap=True,
            )
    finally:
        if outcomes:
            screen.print(closing(outcomes, len(runs), dry_run), soft_wrap=True)
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def line(outcome: Outcome, dry_run: bool) -> str:
    """Return the outcome of one run in words."""
    if outcome.failed:
        return f"failed: {outcome.failed}"
    if outcome.skipped:
        return f"skipped: {outcome.skipped}"
    if outcome.num_there is None:
        return f"{outcome.num_sent} rows in the files"
    return f"{outcome.num_sent} rows {'to send' if dry_run else 'sent'}, {outcome.num_there} were there"


def closing(outcomes: list[Outcome], num_runs: int, dry_run: bool) -> str:
    """Return the line for all runs: how many are complete on the server, and where."""
    failed, skipped = (sum(bool(getattr(o, what)) for o in outcomes) for what in ("failed", "skipped"))
    not_tried = num_runs - len(outcomes)  # after Ctrl-C, or when the server went away
    whole = len(outcomes) - failed - skipped
    is_there = f"{'is' if whole == 1 else 'are'} complete in W&B"
    parts = [f"{counted(whole, 'run')} {'checked' if dry_run else is_there}"]
    others = ((failed, "failed"), (skipped, "skipped"), (not_tried, "not tried"))
    parts += [f"{number} {word}" for number, word in others if number]
    if any(o.num_there is None for o in outcomes):
        parts.append("no API key here: the rows that W&B has already are not known")
    urls = sorted({o.url for o in outcomes if o.url})
    places = urls if len(urls) < 2 else sorted({url.rpartition("/runs/")[0] for url in urls})
    return "  ".join([", ".join(parts), *places])
