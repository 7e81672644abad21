"""The output of `fsamlab check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fsamlab.rundir.find import current_status
from fsamlab.sweep.plan import JobPlan
from fsamlab.terminal.tables import wrapped
from fsamlab.terminal.text import console, project_relative


def print_check(sweep_dir: Path, plans: Sequence[JobPlan], told: str | None = None) -> int:
    """Print the jobs of a launch, each with its status on disk, and their number; return the number of damaged runs.

    Args:
        sweep_dir: the directory of the sweep.
        plans: the jobs.
        told: the launcher's line about what each job will use.
    """
    screen = console()
    counts: Counter[str] = Counter()
    damaged = 0
    unsaid = unsaid_values(plans)
    for plan in plans:
        state = current_status(plan.directory)
        status = "new" if state["status"] == "queued" else state["status"]
        counts[status] += 1
        screen.print(
            wrapped(screen, f"{status:>9}  {plan.run_id}  {' '.join(plan.overrides)}{unsaid[plan.directory]}"),
            soft_wrap=True,
        )
        if status == "damaged":
            damaged += 1
            screen.print(f"           {state['exception']}", style="red", soft_wrap=True)
    words = ", ".join(f"{n} {status}" for status, n in counts.items())
    where = project_relative(sweep_dir)
    if told is not None:
        screen.print(told, soft_wrap=True)
    screen.print(f"{len(plans)} runs below {where}/ are valid: {words}; nothing was started", soft_wrap=True)
    return damaged


def unsaid_values(plans: Sequence[JobPlan]) -> dict[Path, str]:
    """Return {directory of a job: the optimizer's values that the job's words do not say}, ready to be printed.

    A value is named where the jobs of one method differ in it, for example lambda where a recipe takes it from the
    network, or rho where each data set has a recipe of its own.
    """
    values: dict[tuple[str, str], set[str]] = {}
    for plan in plans:
        optimizer = plan.config["optimizer"]
        for key, value in optimizer.items():
            values.setdefault((optimizer["name"], key), set()).add(str(value))
    found = {}
    for plan in plans:
        said = {word.partition("=")[0] for word in plan.overrides}
        optimizer = plan.config["optimizer"]
        words = [
            f"optimizer.{key}={value}"
            for key, value in optimizer.items()
            if len(values[optimizer["name"], key]) > 1 and f"optimizer.{key}" not in said
        ]
        found[plan.directory] = f"  ({', '.join(words)})" if words else ""
    return found
