"""The output of `fsamlab check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fsamlab.rundir.find import current_status
from fsamlab.sweep.plan import JobPlan
from fsamlab.terminal.tables import wrapped
from fsamlab.terminal.text import console, project_relative


def print_check(sweep_dir: Path, plans: Sequence[JobPlan]) -> int:
    """Print the jobs of a launch, each with its status on disk, and their number; return the number of damaged runs."""
    screen = console()
    counts: Counter[str] = Counter()
    damaged = 0
    for plan in plans:
        state = current_status(plan.directory)
        status = "new" if state["status"] == "queued" else state["status"]
        counts[status] += 1
        screen.print(wrapped(screen, f"{status:>9}  {plan.run_id}  {' '.join(plan.overrides)}"), soft_wrap=True)
        if status == "damaged":
            damaged += 1
            screen.print(f"           {state['exception']}", style="red", soft_wrap=True)
    words = ", ".join(f"{n} {status}" for status, n in counts.items())
    where = project_relative(sweep_dir)
    screen.print(f"{len(plans)} runs below {where}/ are valid: {words}; nothing was started", soft_wrap=True)
    return damaged
