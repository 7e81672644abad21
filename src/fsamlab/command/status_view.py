"""`fsamlab status` on the screen: counts, table, errors, and the commands to type next."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fsamlab.config import ConfigError
from fsamlab.metrics import CLASSIFICATION, Headline
from fsamlab.rundir.find import read_whole, what_varies
from fsamlab.rundir.reading import STATUSES
from fsamlab.sweep.cluster import cancel_command, local_cluster
from fsamlab.sweep.launches import read_launches
from fsamlab.sweep.run_state import RunState
from fsamlab.sweep.runs import sweep_runs
from fsamlab.sweep.status import BAD, SweepState, sweep_state
from fsamlab.sweep.tuning.record import Study, is_at_work, read_study
from fsamlab.sweep.tuning.view import describe
from fsamlab.terminal import output
from fsamlab.terminal.errors import report
from fsamlab.terminal.tables import Column, wrapped
from fsamlab.terminal.tables import table as fitting
from fsamlab.terminal.text import console, counted, project_relative, quantity

ORDER = ("finished", "running", "paused", "queued", "not begun", "preempted", "failed", "cancelled", "lost", "damaged")
COLOURS = {"finished": "green", "running": "cyan", "paused": "cyan", "queued": "blue", "preempted": "yellow"}
COLOURS |= {"not begun": "yellow", **dict.fromkeys(BAD, "red")}
PARTS = ("val", "test")  # the columns of the headline metric; its name or unit stands behind
IDLE_LOOKS = 3  # between two jobs of a local sweep, for a moment no job runs
assert set(ORDER) == {*STATUSES, "not begun"}


def show_status(paths: Sequence[Path], *, failed: bool, as_json: bool, watch: float | None) -> int:
    """Print the state of sweeps and return the exit code.

    The code is 0; 1 when a run failed, was cancelled or lost; 2 when there are no runs.

    Args:
        paths: sweep or run directories.
        failed: whether to show only failed, cancelled and lost runs.
        as_json: whether to print JSON.
        watch: seconds between two looks until no run is active; None looks once.
    """
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
        screen.print(table(shown, screen.width))
    studies, damage = studies_of(state)
    lines = [Text(wrapped(screen, line.plain), style=line.style) for line in notes(state, damage)]
    for study in studies.values():
        screen.print(describe(study, screen.width), soft_wrap=True)
    screen.print(Group(*lines), soft_wrap=True)  # at once: a call for each of some thousand lines takes a second
    for command in commands(state, paths, studies):  # one line for each command, so that it can be copied
        screen.print(command, soft_wrap=True)
    return state.exit_code


def _watch(paths: Sequence[Path], state: SweepState, failed: bool, seconds: float, screen: Console) -> SweepState:
    """Show the state again and again until no run is active; return the last state.

    A file or a pipe cannot be overwritten: there a line with the time and the counts is printed whenever the counts
    change.
    """
    idle, said = 0, ""
    with Live(console=screen, auto_refresh=False, transient=True) if screen.is_terminal else nullcontext() as live:
        while True:
            runs = state.bad if failed else state.runs
            if len(runs) > screen.height - 6:  # leave out finished runs
                runs = [r for r in runs if r.status != "finished"]
            problem = [state.jobs.problem] if state.jobs.problem else []
            if live is not None:
                live.update(Group(counts(state), table(runs, screen.width), *problem), refresh=True)
            elif said != (said := "; ".join([counts(state), *problem])):
                screen.print(f"{datetime.now():%H:%M:%S}  {said}", soft_wrap=True)
                screen.file.flush()
            at_work = any(is_at_work(d) for d in {r.run.sweep_dir for r in state.runs})
            idle = 0 if at_work or any(r.active for r in state.runs) else idle + 1
            if idle >= (IDLE_LOOKS if any(r.never_ran for r in state.runs) else 1):
                return state
            time.sleep(seconds)
            state = sweep_state(paths)


def counts(state: SweepState) -> str:
    """Return `12 runs: 7 finished, 2 running, ...`."""
    number = Counter(r.shown for r in state.runs)
    words = ", ".join(f"{number[s]} {s}" for s in ORDER if number[s])
    return f"{counted(len(state.runs), 'run')}: {words}"


COLUMNS = (
    Column("run", names=True),
    Column("setting"),
    Column("status"),
    Column("tries", right=True, rank=5),
    Column("step", right=True, rank=2),
    Column("%", right=True, rank=4),
    Column("loss", right=True, rank=6),
    Column("val", right=True, rank=3),
    Column("test", right=True, rank=1),
    Column("updated", right=True, rank=7),
    Column("SLURM", rank=8),
)


def table(runs: Sequence[RunState], width: int | None = None) -> Table:
    """Return a table with a row for each run; `setting` is there if the runs differ in more than their names show."""
    settings = what_varies([r.run.overrides for r in runs])
    headlines = list(dict.fromkeys(Headline.of(r.disk.get("task") or {}) for r in runs if "latest" in r.disk))
    rows: list[list[str | Text]] = []
    for r, setting in zip(runs, settings):
        get, latest = r.disk.get, r.disk.get("latest") or {}
        step, last = get("step"), get("last_step")
        loss = latest.get("train/loss", latest.get("train/loss_perturbed"))
        slurm = " ".join(w for w in (r.job_id, r.job and r.job.state, r.job and r.job.nodes) if w)
        rows.append(
            [
                r.run.directory.name,
                setting,
                Text(r.shown, style=COLOURS[r.shown]),
                str(get("attempts", "-")),
                "-" if step is None else f"{step}/{last}" if last else str(step),
                f"{100 * step / last:.0f}" if step is not None and last else "-",
                "-" if loss is None else f"{loss:.3f}",
                *_values(latest, Headline.of(get("task") or {}), len(headlines) > 1),
                age(seconds_since(get("updated"))),
                slurm,
            ]
        )
    common = headlines or [CLASSIFICATION]  # before the first row no run tells
    heading = f" {common[0].heading}" if len(common) == 1 else ""
    columns = [replace(c, heading=c.heading + heading) if c.heading in PARTS else c for c in COLUMNS]
    shown = [i for i, column in enumerate(COLUMNS) if column.heading != "setting" or any(settings)]
    return fitting([columns[i] for i in shown], [[row[i] for i in shown] for row in rows], width)


def _values(latest: dict[str, float], headline: Headline, named: bool) -> list[str]:
    """Return the validation and the test value of a run; `named` where the runs of the table have several headlines."""
    name = f"{headline.name} " if named else ""
    values = [latest.get(f"{part}/{headline.name}") for part in PARTS]
    unit = " %" if named and headline.percent else ""
    return ["-" if value is None else f"{name}{quantity(value, headline.percent)}{unit}" for value in values]


def seconds_since(updated: str | None) -> float | None:
    """Return the seconds since a time of status.json; None if it is missing or unreadable."""
    try:
        return None if updated is None else max(0.0, time.time() - datetime.fromisoformat(updated).timestamp())
    except ValueError:
        return None


def age(seconds: float | None) -> str:
    """Return `12 s ago`, `3 min ago`, `5 h ago`, `2 d ago`."""
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def notes(state: SweepState, damage: Sequence[str]) -> list[Text]:
    """Return the lines below the table: damaged files, failed runs with their logs, warnings."""
    lines = [Text(f"  damaged  {line}", style="red") for line in [*state.damage, *damage]]
    settings = what_varies([r.run.overrides for r in state.runs]) if state.bad else []
    for r, setting in zip(state.runs, settings):
        if r.status not in BAD:
            continue
        name = r.run.directory.name + (f" ({setting})" if setting else "")
        lines.append(Text(f"{r.status:>9}  {name}: {r.reason or 'ended without giving a reason'}", style="red"))
        if r.log is not None:
            lines.append(Text(f"           log: {project_relative(r.log)}"))
    warnings = Counter(str(w) for r in state.runs for w in r.disk.get("warnings") or [])
    lines += [Text(f"{n} of {len(state.runs)} runs: {w}", style="yellow") for w, n in warnings.items()]
    never = sum(r.never_ran for r in state.runs)
    if never:
        what = "no job and no active launcher is known for them"
        lines.append(Text(f"{never} of {len(state.runs)} runs did not run, and {what}"))
    if state.jobs.problem:
        lines.append(Text(f"{state.jobs.problem}; the table shows the last status that each run wrote", style="yellow"))
    return lines


def commands(state: SweepState, paths: Sequence[Path], studies: Mapping[Path, Study]) -> list[str]:
    """Return the commands to type next: to stop active jobs, and to start ended jobs again."""
    lines = [f"stop what is active: {cancel}" for cancel in cancel_commands(state)]
    if studies:
        over = {d for d, study in studies.items() if all(group.is_over for group in study.groups) or is_at_work(d)}
        return [*lines, *(f"continue the study:  {command_of(d)}" for d in studies if d not in over)]
    never = sum(r.never_ran for r in state.runs)
    stopped = [r for r in state.runs if r.status in BAD or (r.status == "preempted" and not r.active)]
    if never and not any(r.active for r in state.runs):
        stopped += [r for r in state.runs if r.never_ran]
    if stopped:
        lines.append(f"run them again:      fsamlab resubmit {' '.join(project_relative(p) for p in paths)}")
    return lines


def studies_of(state: SweepState) -> tuple[dict[Path, Study], list[str]]:
    """Return {sweep: its tuning study}, and a line for each record of a study that cannot be read."""
    damage: list[str] = []
    found = {d: read_whole(read_study, d, damage) for d in dict.fromkeys(r.run.sweep_dir for r in state.runs)}
    return {d: study for d, study in found.items() if study is not None}, damage


def command_of(sweep_dir: Path) -> str:
    """Return the latest command of a sweep, as typed."""
    launches = read_launches(sweep_dir)
    words = list(map(str, launches[-1].entry.get("command") or [])) if launches else []
    return shlex.join(["python", *words]) if words else "give its command again"


def cancel_commands(state: SweepState) -> list[str]:
    """Return the `scancel` commands for the active jobs, one for each cluster."""
    active = [r.job_ref for r in state.runs if r.active and r.job_ref]
    if not active:
        return []
    # an array is only named as a whole when all of its tasks are shown here, not for one run out of a sweep
    siblings = [ref for d in {r.run.sweep_dir for r in state.runs} for s in sweep_runs(d) for ref, _ in s.jobs]
    here = local_cluster() if any(ref.cluster for ref in active) else None
    commands = []
    for cluster in dict.fromkeys(ref.cluster for ref in active):
        ids = [ref.id for ref in (*active, *siblings) if ref.cluster == cluster]
        states = {ref.id: job for ref, job in state.jobs.items() if ref.cluster == cluster}
        commands.append(cancel_command(ids, states, None if cluster == here else cluster))
    return [command for command in commands if command is not None]
