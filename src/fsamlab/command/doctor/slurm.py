"""SLURM: which cluster and partitions there are. SLURM is only asked; `submit` starts one job for `--submit`."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fsamlab.command.doctor.files import missing, remove
from fsamlab.command.doctor.items import FAILED, NOTE, WORKS, Item, parse
from fsamlab.command.doctor.processes import Processes

NOT_HERE = "use hydra/launcher=local, or work on a login node of the cluster"
NO_CLUSTER = "configuration source"  # words of the tools where they find no slurm.conf
UNANSWERED = "ask again later; if it stays, `scontrol ping` and the administrator know more"
SHOWN = 6  # partitions
SBATCH = ("partition", "account", "qos", "constraint")  # settings of the launcher that a site may ask for
WAIT_SECONDS = 90.0  # for the end of the submitted job
POLL_SECONDS = 1.0


def slurm(processes: Processes) -> Iterator[Item]:
    """Yield the findings; every tool is asked with a bound."""
    if shutil.which("sinfo") is None:
        yield Item("SLURM", "no sinfo in PATH", NOTE, NOT_HERE)
        return
    version = processes.ask(["sinfo", "--version"])
    if version.problem is not None:
        yield unanswered("", version.problem)
        return
    # --all would show partitions that this user may not use
    partitions = processes.ask(["sinfo", "--noheader", "--format=%P|%a|%l|%D|%G"])
    if partitions.problem is not None:
        yield unanswered(f"{version.out.strip()}; ", partitions.problem)
        return
    yield Item("SLURM", f"{version.out.strip()}; the controller answers", WORKS)
    yield Item("partitions", partitions_said(partitions.out))
    settings = processes.ask(["scontrol", "show", "config"])
    facts = {key.strip(): value.strip() for key, _, value in (s.partition("=") for s in settings.out.splitlines())}
    named = {"ClusterName": "cluster", "MaxArraySize": "MaxArraySize", "AccountingStorageType": "accounting"}
    if settings.problem is None:
        yield Item("cluster", ", ".join(f"{said} {facts[key]}" for key, said in named.items() if key in facts))
    else:
        yield Item("cluster", settings.problem, NOTE, UNANSWERED)


def unanswered(version: str, problem: str) -> Item:
    """Return the finding about tools that give no answer; a machine with tools alone belongs to no cluster."""
    if NO_CLUSTER in problem:
        return Item("SLURM", f"{version}its tools are installed, but no cluster is configured", NOTE, NOT_HERE)
    return Item("SLURM", version + problem, FAILED, UNANSWERED)


def partitions_said(text: str) -> str:
    """Return one partition after another, as `gpu* up, 4 nodes, 1-00:00:00, gpu:a100:4`."""
    said = []
    for line in text.splitlines():
        name, up, limit, nodes, gres = [*line.split("|"), "", "", "", ""][:5]
        gpus = f", {gres}" if gres and gres != "(null)" else ""
        said.append(f"{name} {up}, {nodes} node{'' if nodes == '1' else 's'}, at most {limit}{gpus}")
    more = f"; and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return "; ".join(said[:SHOWN]) + more or "none"


def submit(processes: Processes, settings: dict[str, object], runs_dir: Path) -> Iterator[Item]:
    """Submit a job of one minute that looks at `runs_dir` from a node, and wait a bounded time for its end.

    Args:
        processes: runs sbatch and squeue.
        settings: those of `hydra/launcher=slurm`.
        runs_dir: must exist on the nodes too; the output of the job lies there until it was read.
    """
    if shutil.which("sbatch") is None:
        yield Item("SLURM job", "no sbatch in PATH", FAILED, NOT_HERE)
        return
    made = missing(runs_dir)
    runs_dir.mkdir(parents=True, exist_ok=True)
    out = runs_dir / f".doctor-job-{time.time_ns()}.txt"
    setup = settings.get("setup")
    lines = [str(line) for line in setup] if isinstance(setup, list) else []
    python = str(settings.get("python") or shlex.quote(sys.executable))
    lines.append(f"{python} -m fsamlab.command.doctor.probe files {shlex.quote(str(runs_dir))}")
    flags = [f"--{key}={settings[key]}" for key in SBATCH if settings.get(key) is not None]
    words = ["--parsable", "--job-name=fsamlab-doctor", "--time=1", "--ntasks=1", f"--output={out}", *flags]
    answer = processes.ask(["sbatch", *words, f"--wrap={'; '.join([*lines, 'echo ended on $(hostname)'])}"])
    if answer.problem is not None:
        remove(made)
        yield Item("SLURM job", answer.problem, FAILED, "conf/local/slurm.yaml holds partition, account and the like")
        return
    job = answer.out.strip().partition(";")[0]
    text = _printed(out, WAIT_SECONDS)
    if "ended on" not in text:
        state = processes.ask(["squeue", "--noheader", "--format=%T (%r)", f"--jobs={job}"])
        said = state.out.strip() or state.problem or "no longer in the queue"
        advice = f"`squeue -j {job}` shows the job, `scancel {job}` removes it; its output goes to {out}"
        yield Item("SLURM job", f"{job}: {said} after {WAIT_SECONDS:g} s", NOTE, advice)
        return
    out.unlink(missing_ok=True)
    remove(made)
    node = text.rpartition("ended on")[2].strip()
    items = parse(text)
    if not items:
        first = next((line for line in text.splitlines() if line.strip()), "no output")
        advice = "the lines of hydra.launcher.setup must make fsamlab importable on the node"
        yield Item("SLURM job", f"{job} on {node}: {first}", FAILED, advice)
        return
    yield Item("SLURM job", f"{job} ran on {node}", WORKS)
    for item in items:
        yield Item(f"{item.topic} on {node}", item.found, item.state, item.advice)


def _printed(path: Path, seconds: float) -> str:
    """Return the output of the job, once the job has ended or the time is up."""
    deadline = time.monotonic() + seconds
    while True:
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if "ended on" in text or time.monotonic() > deadline:
            return text
        time.sleep(POLL_SECONDS)
