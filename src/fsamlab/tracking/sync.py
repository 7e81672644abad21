"""`fsamlab sync`: local runs into W&B, as training would have mirrored them; a second time sends nothing.

A run's files are replayed into the W&B run of the same id: the rows after the server's last step, the summary, the exit
code. Before and after, the server is asked what it has, since neither a finished upload nor wandb's word for it is
proof that the rows are there.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import time
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

SHOWN_SECONDS = 10.0  # until an uploaded row has to be in the server's answers
ROW_SECONDS = 0.02  # handing one row to wandb-core takes a hundredth of that
STATES = {0: ("finished",), 1: ("failed", "crashed", "killed")}  # exit code -> what W&B makes of it
OTHER_PLACE = "`--project` sends all of the run to another project, where its id is new"


class CannotSync(RuntimeError):
    """One run that could not be uploaded whole; the others can."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        num_sent: rows sent now, with `dry_run` those that would be.
        num_there: rows that the server had before; None where it could not be asked.
        url: where the server shows the run.
        skipped: why it was left alone.
        failed: why it is not whole on the server.
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
    """Upload runs one after another, and yield what became of each.

    Args:
        project, entity: in place of the runs' own tracker.project and tracker.entity.
        timeout: seconds for the upload of one run.
        dry_run: only say what would be sent; without a key all rows, since the server cannot be asked what it has.

    Raises:
        CannotUpload: no key or no server; where it comes later, what was yielded is done and the rest was not tried.
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
    """Upload what the server lacks of one run, and see that it is there.

    Raises:
        CannotSync: the server's history is not of this run, or not whole afterwards.
        CannotUpload: the upload failed.
    """
    before = _ask(local, server)
    num_there = before.num_rows if before else 0
    if before is not None:
        check_belongs(local, before)
    missing = [row for row in local.rows if before is None or row["step"] > before.last_step]
    gap = len(local.rows) - len(missing) - num_there
    after: ServerRun | None
    if before is not None and not missing and not _differs(local, before, num_there):
        sent, after = 0, before  # all there: opening the run would only make it a running one for a while
    elif dry_run:
        sent, after = len(missing), before
    else:
        problems = upload(local, missing, server, scratch)
        sent, after = len(missing), _shown(local, server, num_there + len(missing), problems)
    if gap:
        what = f"{abs(gap)} rows up to step {before.last_step if before else 0}"
        where = "are in the files and not there" if gap > 0 else "are there and not in the files"
        done = "to send" if dry_run else "sent"
        raise CannotSync(f"{sent} rows {done}, but {what} {where}, and steps cannot go back; {OTHER_PLACE}")
    return Outcome(sent, num_there, after.url if after else None)


def check_belongs(local: LocalRun, there: ServerRun) -> None:
    """Refuse to go on with a W&B run whose history cannot be this one's.

    A run that was started over (force=true) keeps its W&B id, and its steps begin again below the server's last.

    Raises:
        CannotSync: the server is further than the files, or has other values at its last step.
    """
    step = there.last_step
    over = "the run was started over (force=true), or resumed from before that"
    if step > local.last_step:
        raise CannotSync(f"W&B has step {step}, the files end at {local.last_step}: {over}; {OTHER_PLACE}")
    row = next((row for row in local.rows if row["step"] == step), None)
    if row is None or step > local.resumed_at > 0:  # an earlier attempt's row, made again since: not bit-identical
        return
    times = {"step", "time", "time/step_ms"}
    other = [k for k, v in row.items() if k not in times and not same(v, there.last_row.get(k, v))]
    if other:
        values = f"{other[0]} is {there.last_row[other[0]]} there and {row[other[0]]} in the files"
        raise CannotSync(f"W&B has another history under this id: at step {step} {values}: {over}; {OTHER_PLACE}")


def upload(local: LocalRun, rows: list[dict[str, Any]], server: WandbServer, scratch: Path) -> list[str]:
    """Send rows, summary and exit code; return what wandb warned of. wandb's own files are left nowhere.

    Raises:
        CannotUpload: wandb failed, or was not done in time.
    """
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as directory:

        def send() -> list[str]:
            session = WandbSession(local.tracker, "online", **local.arguments, directory=Path(directory), machine=False)
            for row in rows:
                session.log(row, int(row["step"]))
            session.finish(local.summary, local.exit_code)
            return session.problems

        seconds = local.tracker.init_timeout + GRACE_SECONDS + ROW_SECONDS * len(rows) + local.tracker.finish_timeout
        try:
            return list(within(seconds, send, "upload"))
        except BaseException as e:
            within(KILL_SECONDS, kill_service, "ending wandb-core")  # the next run gets a new one, and the end none
            server.forget()  # not before: what wandb sends when it is dropped would meet the dying wandb-core
            if not isinstance(e, Exception):
                raise
            raise CannotUpload(f"{type(e).__name__}: {one_line(e)}") from e


def _shown(local: LocalRun, server: WandbServer, num_rows: int, problems: list[str]) -> ServerRun:
    """Wait until the server has everything, and return it."""
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
    """Return in what the server's run is not yet the local one, None where it is."""
    if there.num_rows != num_rows or there.last_step != local.last_step:
        return f"{there.num_rows} rows to step {there.last_step}, not {num_rows} to step {local.last_step}"
    other = [k for k, v in local.summary.items() if v is not None and not same(v, there.summary.get(k))]
    if other:
        return f"{other[0]} is {there.summary.get(other[0])} in the summary, not {local.summary[other[0]]}"
    if there.state not in STATES[local.exit_code]:
        return f"the run is {there.state}, not {STATES[local.exit_code][0]}"
    return None


def same(ours: Any, theirs: Any) -> bool:
    """Return whether two values agree after a way through W&B, where NaN and infinity may become null or strings."""
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
