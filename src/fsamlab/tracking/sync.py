"""`fsamlab sync`: upload local runs to W&B, as training would have mirrored them. A second sync sends nothing.

The files of a run are replayed into the W&B run of the same id: the rows after the server's last step, the summary and
the exit code. Before and after the upload the server is asked what it has, because an upload that ends without an error
does not prove that the rows have arrived.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fsamlab.config import ConfigError
from fsamlab.storage.reading import Damaged
from fsamlab.tracking.local_run import LocalRun, read_run
from fsamlab.tracking.wandb_server import CannotUpload, ServerRun, WandbServer, environment_here, one_line
from fsamlab.tracking.wandb_session import WandbSession, kill_service
from fsamlab.tracking.wandb_tracker import GRACE_SECONDS, KILL_SECONDS
from fsamlab.tracking.worker import within

SHOWN_SECONDS = 10.0  # within this time after an upload, the server must show the rows
ROW_SECONDS = 0.02  # allowed for handing one row to wandb-core, which takes a hundredth of it
STATES = {0: ("finished",), 1: ("failed", "crashed", "killed")}  # exit code -> states that W&B may show for it
OTHER_PLACE = "`--project` sends the whole run to another project, where its id is new"


class CannotSync(RuntimeError):
    """One run could not be uploaded completely. Other runs can still be uploaded."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of one run's upload.

    Attributes:
        num_sent: number of rows sent; with `dry_run` the number of rows to send.
        num_there: number of rows that the server had before; None if the server could not be asked.
        url: page of the run on the server.
        skipped: why the run was not uploaded; None if it was.
        failed: why the run is not complete on the server; None if it is.
    """

    num_sent: int = 0
    num_there: int | None = 0
    url: str | None = None
    skipped: str | None = None
    failed: str | None = None


def sync_runs(
    runs: list[Path],
    *,
    project: str | None = None,
    entity: str | None = None,
    timeout: float = 120.0,
    dry_run: bool = False,
) -> Iterator[tuple[Path, Outcome]]:
    """Upload runs one after another, and yield the outcome of each.

    Args:
        runs: the run directories.
        project, entity: used instead of the runs' own tracker.project and tracker.entity.
        timeout: seconds for the upload of one run.
        dry_run: send nothing, and count the rows to send. Without a key all rows are counted, because the server cannot
            be asked which rows it has.

    Raises:
        CannotUpload: no key or no server. If it is raised later, the runs that were yielded are done, and the runs
            after them were not tried.
    """
    server = None if dry_run and not environment_here().has_key else WandbServer()
    seen: dict[tuple[str, str | None, str], Path] = {}
    with tempfile.TemporaryDirectory(prefix="fsamlab-sync-", ignore_cleanup_errors=True) as scratch:
        for index, run in enumerate(runs):
            try:
                local = read_run(run, project, entity, timeout)
                if isinstance(local, str):
                    yield run, Outcome(skipped=local)
                    continue
                place = (local.tracker.project, local.tracker.entity, local.wandb_id)
                if seen.setdefault(place, run) != run:
                    raise CannotSync(f"is the same W&B run as {seen[place]}; sync one of them, or use --project")
                if server is None:
                    yield run, Outcome(len(local.rows), None)
                else:
                    yield run, sync_run(local, server, Path(scratch), dry_run)
            except (CannotSync, CannotUpload, ConfigError, Damaged, OSError) as e:
                yield run, Outcome(failed=one_line(e))
                if isinstance(e, CannotUpload) and server is not None and not server.answers():
                    gone = f"W&B server {server.environment.base_url} does not answer any more"
                    raise CannotUpload(f"{gone}; {len(runs) - index - 1} more runs were not tried") from e


def sync_run(local: LocalRun, server: WandbServer, scratch: Path, dry_run: bool) -> Outcome:
    """Upload what the server lacks of one run, and check that the server has it.

    Raises:
        CannotSync: the server's history belongs to another training of this run, or is not complete after the upload.
        CannotUpload: the upload failed.
    """
    before = _ask(local, server)
    num_there = before.num_rows if before else 0
    if before is not None:
        check_belongs(local, before)
    first = 0 if before is None else bisect_right(local.rows.steps, before.last_step)  # the first row that is missing
    num_missing = len(local.rows) - first
    gap = first - num_there
    after: ServerRun | None
    if before is not None and not num_missing and not _differs(local, before, num_there):
        sent, after = 0, before  # complete: to open the W&B run would set its state to running for a while
    elif dry_run:
        sent, after = num_missing, before
    else:
        problems = upload(local, first, server, scratch)
        sent, after = num_missing, _shown(local, server, num_there + num_missing, problems)
    if gap:
        what = f"{abs(gap)} rows up to step {before.last_step if before else 0}"
        where = "are in the files and not there" if gap > 0 else "are there and not in the files"
        done = "to send" if dry_run else "sent"
        raise CannotSync(f"{sent} rows {done}, but {what} {where}, and steps cannot go back; {OTHER_PLACE}")
    return Outcome(sent, num_there, after.url if after else None)


def check_belongs(local: LocalRun, there: ServerRun) -> None:
    """Refuse a W&B run whose history is not that of the files.

    A run that was started over (force=true) keeps its W&B id, but its steps begin again, below the server's last step.

    Raises:
        CannotSync: the server has a later step than the files, or other values at its last step.
    """
    step = there.last_step
    over = "the run was started over (force=true), or resumed from before that"
    if step > local.last_step:
        raise CannotSync(f"W&B has step {step}, the files end at {local.last_step}: {over}; {OTHER_PLACE}")
    place = bisect_left(local.rows.steps, step)
    row = local.rows[place] if place < len(local.rows) and local.rows.steps[place] == step else None
    # Past the step of the last resume, the server's row is from an earlier attempt; its last bits may differ.
    if row is None or step > local.resumed_at > 0:
        return
    times = {"step", "time", "time/step_ms"}
    other = [k for k, v in row.items() if k not in times and not same(v, there.last_row.get(k, v))]
    if other:
        values = f"{other[0]} is {there.last_row[other[0]]} there and {row[other[0]]} in the files"
        raise CannotSync(f"W&B has another history under this id: at step {step} {values}: {over}; {OTHER_PLACE}")


def upload(local: LocalRun, first: int, server: WandbServer, scratch: Path) -> list[str]:
    """Send rows, summary and exit code, and return the warnings of wandb. No files of wandb remain.

    Args:
        local: the run.
        first: number of the first row to send; all rows after this one are sent too.
        server: the server.
        scratch: a directory for the files of wandb while it sends.

    Raises:
        CannotUpload: wandb failed or took too long.
    """
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as directory:

        def send() -> list[str]:
            session = WandbSession(local.tracker, "online", **local.arguments, directory=Path(directory), machine=False)
            for row in local.rows.since(first):
                session.log(row, int(row["step"]))
            session.finish(local.summary, local.exit_code)
            return session.problems

        seconds = (
            local.tracker.init_timeout
            + GRACE_SECONDS
            + ROW_SECONDS * (len(local.rows) - first)
            + local.tracker.finish_timeout
        )
        try:
            return list(within(seconds, send, "upload"))
        except BaseException as e:
            # the next run starts a new wandb-core, and the interpreter does not wait for the old one at its end
            within(KILL_SECONDS, kill_service, "ending wandb-core")
            server.forget()  # only now: the connection sends a last message when it is dropped, which could hang
            if not isinstance(e, Exception):
                raise
            raise CannotUpload(f"{type(e).__name__}: {one_line(e)}") from e


def _shown(local: LocalRun, server: WandbServer, num_rows: int, problems: list[str]) -> ServerRun:
    """Wait until the server shows all of the run, and return what it shows."""
    deadline = time.monotonic() + SHOWN_SECONDS
    while True:
        after = _ask(local, server)
        differs = "the run is not there" if after is None else _differs(local, after, num_rows)
        if after is not None and not differs:
            return after
        if time.monotonic() > deadline:
            reported = f" (W&B reported: {' '.join(' '.join(problems).split())})" if problems else ""
            raise CannotSync(f"the server does not have all of it after the upload: {differs}{reported}")
        time.sleep(0.5)


def _ask(local: LocalRun, server: WandbServer) -> ServerRun | None:
    return server.run(local.tracker.project, local.tracker.entity, local.wandb_id)


def _differs(local: LocalRun, there: ServerRun, num_rows: int) -> str | None:
    """Return the first difference between the server's run and the local run in words, None without a difference."""
    if there.num_rows != num_rows or there.last_step != local.last_step:
        return f"{there.num_rows} rows to step {there.last_step}, not {num_rows} to step {local.last_step}"
    other = [k for k, v in local.summary.items() if v is not None and not same(v, there.summary.get(k))]
    if other:
        return f"{other[0]} is {there.summary.get(other[0])} in the summary, not {local.summary[other[0]]}"
    if there.state not in STATES[local.exit_code]:
        return f"the run is {there.state}, not {STATES[local.exit_code][0]}"
    return None


def same(ours: Any, theirs: Any) -> bool:
    """Return whether two values agree. On its way through W&B, NaN or infinity may have become null or a string."""
    if isinstance(ours, float) and not math.isfinite(ours):
        names = {json.dumps(ours), str(ours)} | ({"inf"} if ours > 0 else set())
        return theirs is None or theirs == ours or str(theirs) in names
    if isinstance(ours, int | float) and isinstance(theirs, int | float):
        return math.isclose(ours, theirs, rel_tol=1e-9)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(v, theirs[k]) for k, v in ours.items())
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)
