"""`fsamlab status` on the screen: the counts, the table, what went wrong and what to type next."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fsamlab import output
from fsamlab.config import ConfigError
from fsamlab.door import project_relative, report
from fsamlab.record import STATUSES
from fsamlab.sweep.cluster import cancel_command, local_cluster
from fsamlab.sweep.status import BAD, RunState, SweepState, seconds_since, sweep_runs, sweep_state
from fsamlab.terminal import console, counted, percent

ORDER = ("finished", "running", "queued", "preempted", "failed", "cancelled", "lost", "damaged")
COLOURS = {"finished": "green", "running": "cyan", "queued": "blue", "preempted": "yellow", **dict.fromkeys(BAD, "red")}
IDLE_LOOKS = 3  # between two jobs of a local sweep there is a moment in which none runs
assert set(ORDER) == set(STATUSES)


def show(paths: Sequence[Path], *, failed: bool, as_json: bool, watch: float | None) -> int:
    """Print the state of sweeps; return the exit code: 0, 1 when something failed, 2 when there are no runs."""
    try:
        state = sweep_state(paths)
    except ConfigError as e:
        report(e)
        return 2
    if as_json:
        for note in [*state.damage, *([state.jobs.problem] if state.jobs.problem else [])]:
            print(f"note: {note}", file=sys.stderr)
        output.show(json.dumps([r.as_dict() for r in (state.bad if failed else state.runs)], indent=1))
        return state.exit_code
    screen = console()
    if watch is not None:
        try:
            state = _watch(paths, state, failed, watch, screen)
        except KeyboardInterrupt:
            return state.exit_code
    screen.print(counts(state), style="bold")
    shown = state.bad if failed else state.runs
    if shown:
        screen.print(table(shown))
    for line in notes(state, paths):
        screen.print(line, soft_wrap=True)
    return state.exit_code


def _watch(paths: Sequence[Path], state: SweepState, failed: bool, seconds: float, screen: Console) -> SweepState:
    """Show the state again and again until nothing is active; return the last."""
    idle = 0
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        while True:
            runs = state.bad if failed else state.runs
            if len(runs) > screen.height - 6:  # what has finished gives way
                runs = [r for r in runs if r.status != "finished"]
            problem = [state.jobs.problem] if state.jobs.problem else []
            live.update(Group(counts(state), table(runs), *problem), refresh=True)
            idle = 0 if any(r.active for r in state.runs) else idle + 1
            if idle >= (IDLE_LOOKS if any(r.never_ran for r in state.runs) else 1):
                return state
            time.sleep(seconds)
            state = sweep_state(paths)


def counts(state: SweepState) -> str:
    """Return `12 runs: 7 finished, 2 running, ...`."""
    number = Counter(r.status for r in state.runs)
    words = ", ".join(f"{number[s]} {s}" for s in ORDER if number[s])
    return f"{counted(len(state.runs), 'run')}: {words}"


def table(runs: Sequence[RunState]) -> Table:
    """Return a row for each run."""
    found = Table()
    for column in ("run", "status", "tries", "step", "%", "loss", "val %", "test %", "updated", "SLURM"):
        found.add_column(
            column,
            justify="left" if column in ("run", "status", "SLURM") else "right",
            overflow="fold",
            no_wrap=column == "status",
        )
    for r in runs:
        get, latest = r.disk.get, r.disk.get("latest") or {}
        step, last = get("step"), get("last_step")
        loss = latest.get("train/loss", latest.get("train/loss_perturbed"))
        slurm = " ".join(w for w in (r.job_id, r.job and r.job.state, r.job and r.job.nodes) if w)
        found.add_row(
            Text(r.run.directory.name),
            Text(r.status, style=COLOURS[r.status]),
            str(get("attempts", "-")),
            "-" if step is None else f"{step}/{last}" if last else str(step),
            f"{100 * step / last:.0f}" if step is not None and last else "-",
            "-" if loss is None else f"{loss:.3f}",
            percent(latest.get("val/acc1")),
            percent(latest.get("test/acc1")),
            age(seconds_since(get("updated"))),
            Text(slurm),
        )
    return found


def age(seconds: float | None) -> str:
    """Return `12 s ago`, `3 min ago`, `5 h ago`, `2 d ago`."""
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def notes(state: SweepState, paths: Sequence[Path]) -> list[Text]:
    """Return the lines below the table: failures with their logs, warnings, what to type next."""
    lines = [Text(f"  damaged  {line}", style="red") for line in state.damage]
    for r in state.bad:
        name = r.run.directory.name
        lines.append(Text(f"{r.status:>9}  {name}: {r.reason or 'ended without a word'}", style="red"))
        if r.log is not None:
            lines.append(Text(f"           log: {project_relative(r.log)}"))
    warnings = Counter(str(w) for r in state.runs for w in r.disk.get("warnings") or [])
    lines += [Text(f"{n} of {len(state.runs)} runs: {w}", style="yellow") for w, n in warnings.items()]
    never = sum(r.never_ran for r in state.runs)
    if never:
        what = "no job and no launcher at work is known for them"
        lines.append(Text(f"{never} of {len(state.runs)} runs did not run, and {what}"))
    if state.jobs.problem:
        lines.append(Text(f"{state.jobs.problem}; shown is what the runs themselves wrote last", style="yellow"))
    lines += [Text(f"stop what is active: {cancel}") for cancel in cancel_commands(state)]
    stopped = [r for r in state.runs if r.status in BAD or (r.status == "preempted" and not r.active)]
    if never and not any(r.active for r in state.runs):
        stopped += [r for r in state.runs if r.never_ran]
    if stopped:
        lines.append(Text(f"run them again:      fsamlab resubmit {' '.join(project_relative(p) for p in paths)}"))
    return lines


def cancel_commands(state: SweepState) -> list[str]:
    """Return the `scancel` command for what is active, one for each cluster."""
    active = [r.job_ref for r in state.runs if r.active and r.job_ref]
    # an array is only named as a whole when all of its tasks are shown here, not for one run out of a sweep
    siblings = [ref for d in {r.run.sweep_dir for r in state.runs} for s in sweep_runs(d) for ref, _ in s.jobs]
    here = local_cluster() if any(ref.cluster for ref in active) else None
    commands = []
    for cluster in dict.fromkeys(ref.cluster for ref in active):
        ids = [ref.id for ref in (*active, *siblings) if ref.cluster == cluster]
        states = {ref.id: job for ref, job in state.jobs.items() if ref.cluster == cluster}
        commands.append(cancel_command(ids, states, None if cluster == here else cluster))
    return [command for command in commands if command is not None]
