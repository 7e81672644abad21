"""`fsamlab doctor`: ask everything at the same time, print a table and what to do; read this module first.

The doctor itself imports no torch and touches neither runs_dir nor data. All that can hang or crash (a driver, a file
server, sinfo) is asked in processes that are killed when their time is up.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from fsamlab.command.doctor.items import FAILED, NOTE, SEEN, WORKS, Item, without_secrets
from fsamlab.command.doctor.machine import machine
from fsamlab.command.doctor.processes import Processes
from fsamlab.command.doctor.slurm import slurm, submit
from fsamlab.config import typed
from fsamlab.config.compose import composing
from fsamlab.config.project import PROJECT_ROOT, in_project
from fsamlab.terminal import output
from fsamlab.terminal.errors import one_line
from fsamlab.terminal.tables import Column, table, wrapped
from fsamlab.terminal.text import console, counted
from fsamlab.tracking.worker import Worker, wait

Check = Callable[[], Iterable[Item]]

LOOK_SECONDS = 30.0  # for a probe that looks; an import from a slow file server takes long
STEP_SECONDS = 150.0  # for a probe that trains
SPARE_SECONDS = 60.0  # beyond the bounds of the processes of one check, which are asked one after another
FILE_SERVER = "the file server of this directory does not answer; use another runs_dir=DIR"
DRIVER = "`nvidia-smi` and the kernel's log (dmesg) know more; train.device=cpu avoids the GPU"
TORCH = "`python -c 'import torch'` shows the whole error"
SAID = {SEEN: "", NOTE: "look", WORKS: "works", FAILED: "FAILED"}
STYLES = {NOTE: "yellow", WORKS: "green", FAILED: "red"}
WAITING = "looking at this machine, and training a few steps: 10 to 20 s, longer on a busy machine"
UNTESTED_GPU = "no GPU was tested, because torch has none here"


def doctor(words: Sequence[str], as_json: bool, job: bool) -> int:
    """Examine the machine, print the findings, and return 1 if something that was tested does not work, else 0.

    Args:
        words: `key=value` words of a command line, such as `runs_dir=DIR` and `data.root=DIR`.
        as_json: print one JSON object instead of a table and lines.
        job: submit a job of one minute to SLURM too.

    Raises:
        ConfigError, HydraException: a word cannot be used.
    """
    runs_dir, launcher, project = settings(words, job)
    if not as_json:
        waiting = console(stderr=True)
        waiting.print(wrapped(waiting, WAITING), soft_wrap=True)
    items = [without_secrets_in(item) for item in (*project, *examined(words, runs_dir, launcher))]
    code = 1 if any(item.state == FAILED for item in items) else 0
    if as_json:
        output.show(json.dumps({"exit": code, "items": [asdict(item) for item in items]}, indent=1))
    else:
        show(items)
    return code


def settings(words: Sequence[str], job: bool) -> tuple[Path, dict[str, Any] | None, list[Item]]:
    """Return runs_dir, the settings of the SLURM launcher where a job is wanted, and the finding about the project."""
    from hydra import compose

    try:
        with composing(words):
            cfg = compose("config", overrides=list(words))
            runs_dir = in_project(typed(cfg).runs_dir)
            wanted = compose("config", overrides=["hydra/launcher=slurm"], return_hydra_config=True) if job else None
    except Exception as e:
        line = one_line(e)
        if words or line is None:
            raise
        advice = "work in a study folder (`fsamlab init DIR`) or a checkout, and mend what the line names"
        return PROJECT_ROOT / "runs", None, [Item("project", line, FAILED, advice)]
    from omegaconf import OmegaConf

    keys = ("partition", "account", "qos", "constraint", "setup", "python")
    launcher = None
    if wanted is not None:
        launcher = {key: wanted.hydra.launcher.get(key) for key in keys}
        launcher = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in launcher.items()}
    return runs_dir, launcher, [Item("project", f"{PROJECT_ROOT}; its configuration composes", WORKS)]


def examined(words: Sequence[str], runs_dir: Path, launcher: dict[str, Any] | None) -> list[Item]:
    """Return all findings, in the order of the table; all checks run at the same time."""
    place = str(runs_dir)
    with Processes() as ask:

        def probe(name: str, *arguments: str, seconds: float, topic: str, advice: str) -> Check:
            return lambda: ask.probe(name, *arguments, seconds=seconds, topic=topic, advice=advice)

        def gpus() -> list[Item]:
            """Look at the GPUs, and then train on each of them in a process of its own."""
            found = ask.probe("devices", seconds=LOOK_SECONDS, topic="torch", advice=f"{TORCH}; {DRIVER}")
            numbers = [m[1] for item in found if (m := re.fullmatch(r"GPU (\d+)", item.topic))]
            further: dict[str, Check] = {n: probe_of_gpu(n) for n in numbers}
            if len(numbers) > 1:
                further["nccl"] = probe("ranks", "nccl", seconds=STEP_SECONDS, topic="2 ranks, nccl", advice=DRIVER)
            return found + at_once(further, STEP_SECONDS + SPARE_SECONDS)

        def probe_of_gpu(n: str) -> Check:
            device = f"cuda:{n}"
            return probe("steps", device, place, seconds=STEP_SECONDS, topic=f"F-SAM on {device}", advice=DRIVER)

        checks: dict[str, Check] = {
            "machine": machine,
            "git": lambda: [git(ask)],
            "torch": gpus,
            "files": probe("files", place, seconds=LOOK_SECONDS, topic=f"runs_dir {place}", advice=FILE_SERVER),
            "data": probe("data", *words, seconds=LOOK_SECONDS, topic="data", advice="data.root=DIR; see the line"),
            "W&B": probe("account", seconds=LOOK_SECONDS, topic="W&B", advice="tracker=none trains without wandb"),
            "SLURM": lambda: list(slurm(ask)),
            "steps": probe("steps", "cpu", place, seconds=STEP_SECONDS, topic="F-SAM on cpu", advice=TORCH),
            "ranks": probe("ranks", "gloo", seconds=STEP_SECONDS, topic="2 ranks, gloo", advice=TORCH),
        }
        if launcher is not None:
            checks["SLURM job"] = lambda: list(submit(ask, launcher, runs_dir))
        return at_once(checks, 2 * STEP_SECONDS + SPARE_SECONDS)


def at_once(checks: dict[str, Check], seconds: float) -> list[Item]:
    """Make all checks at the same time, each in a thread; return their items in order.

    A check that has not returned in time, or that raises, becomes a failed item.
    """
    futures = {name: Worker(f"doctor {name}").submit(partial(_listed, check)) for name, check in checks.items()}
    found: list[Item] = []
    deadline = time.monotonic() + seconds
    for name, future in futures.items():
        try:
            found += wait(future, max(0.0, deadline - time.monotonic()), name)
        except Exception as e:
            said = one_line(e) or f"{type(e).__name__}: {e}"
            found.append(Item(name, said, FAILED, "the doctor itself failed here; the other lines hold"))
    return found


def _listed(check: Check) -> list[Item]:
    return list(check())


def git(ask: Processes) -> Item:
    """Return the version of git and the commit of the project; env.json of a run names the commit."""
    version = ask.ask(["git", "--version"])
    if version.problem is not None:
        return Item("git", version.problem, NOTE, "without git, env.json of a run does not name the commit")
    commit = ask.ask(["git", "-C", str(PROJECT_ROOT), "rev-parse", "--short=9", "HEAD"])
    said = f"commit {commit.out.strip()}" if commit.problem is None else "the project is in no repository"
    return Item("git", f"{version.out.strip().removeprefix('git version ')}; {said}")


def without_secrets_in(item: Item) -> Item:
    """Return an item as it may be printed."""
    return replace(item, found=without_secrets(item.found), advice=without_secrets(item.advice))


def show(items: Sequence[Item]) -> None:
    """Print the table, a line for each note and for each failure, and what was tested."""
    screen = console()
    columns = [Column("what"), Column("found"), Column("tested")]
    rows: list[list[str | Text]] = [
        [item.topic, item.found, Text(SAID[item.state], style=STYLES.get(item.state, ""))] for item in items
    ]
    screen.print(table(columns, rows, screen.width))
    for state, word in ((NOTE, "look  "), (FAILED, "failed")):
        for item in items:
            if item.state == state:
                advice = f"; {item.advice}" if item.advice else ""
                line = f"{word} {item.topic}: {item.found}{advice}"
                screen.print(wrapped(screen, line, hang=7), style=STYLES[state], soft_wrap=True)
    works, failed = (sum(item.state == state for item in items) for state in (WORKS, FAILED))
    gpu = "" if any(item.topic.startswith("F-SAM on cuda") for item in items) else f"; {UNTESTED_GPU}"
    screen.print(
        wrapped(screen, f"{counted(works + failed, 'test')}: {works} work, {failed} failed{gpu}"), soft_wrap=True
    )
