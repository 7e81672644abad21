"""What the commands cost over a sweep of many runs, and over one run with a huge metrics.jsonl: CPU time, peak memory.

    python benchmarks/many_runs.py                                   # 10,000 runs, and a metrics.jsonl of 500 MB
    python benchmarks/many_runs.py --runs 1000 --megabytes 50
    python benchmarks/many_runs.py --code before=/path/to/a/checkout --code after=.

With several checkouts every command runs with the code of each in turn, and their outputs are compared.
`--syscalls` also counts the system calls of a run with strace.

Four in five runs have finished; the others have failed, were preempted, run (their process is this one), or died. All
have the files, the configuration and the keys of real runs, and the sweep has the record of its launch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from report import METHODS, ROOT, configuration, rows

from fsamlab.config import from_plain
from fsamlab.config.compose import register
from fsamlab.config.identity import run_id
from fsamlab.rundir.ownership import pid_scope, process_start

STATES = ("finished",) * 16 + ("failed", "preempted", "running", "lost")
ENVIRONMENT = {
    "git": {"sha": "0123456789abcdef", "dirty": False, "source": "0123456789ab"},
    "python": "3.11.7",
    "libraries": {"torch": "2.14.1", "numpy": "2.4.6", "fsamlab": "0.1.0"},
    **{"host": "node", "machine": "x86_64", "cpu": "a CPU", "num_cpus": 2, "num_threads": 1},
    **{"device": "cpu", "device_name": None, "slurm_job_id": None},
}
TIMES = {"started": "2026-01-01T10:00:00+00:00", "updated": "2026-01-01T10:05:00+00:00"}


def lay(directory: Path, config: dict[str, Any], name: str, state: str, num_rows: int, number: int) -> None:
    """Write the files of one run."""
    (directory / "checkpoints").mkdir(parents=True)
    words = [f"seed={config['seed']}", f"optimizer={config['optimizer']['name']}", "name=many"]
    (directory / "config.yaml").write_text(yaml.dump(config, Dumper=yaml.CSafeDumper, sort_keys=False))
    (directory / "overrides.yaml").write_text(yaml.safe_dump(words))
    logged = rows(random.Random(number), num_rows)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
    (directory / "run.log").write_text("training\nDiverged: the loss is nan\n")
    last = logged[-1]
    latest = {key: last[key] for key in ("train/loss", "train/acc1", "val/loss", "val/acc1", "test/loss", "test/acc1")}
    step = 20 * num_rows if state == "finished" else 10 * num_rows
    status = {
        **{"run_id": name, "config_hash": name[-8:], **TIMES, "attempts": 1, "host": "node", "pid": os.getpid()},
        **{"slurm_job_id": None, "slurm_cluster": None, "forced": False, "starting_over": False, "warnings": []},
        **{"exception": "Diverged: the loss is nan" if state == "failed" else None},
        **{"status": "running" if state == "lost" else state, "step": step, "last_step": 20 * num_rows},
        **{"resumed_at": 0, "starts_here": 1, "epoch": 200.0, "latest": latest},
    }
    owner = {"token": "0", "directory": str(directory), "attempt": 1, **pid_scope(), "pid": os.getpid()}
    owner["pid_start"] = process_start(os.getpid()) if state == "running" else "1"
    owner |= {"slurm_job_id": None, "slurm_restart": 0, "released": state not in ("running", "lost")}
    inputs = {"data": {"digest": "c8658d5e5336c1b2", "what": "split and labels 76b8624cd8187c51"}}
    for file, value in (("status", status), ("owner", owner), ("env", ENVIRONMENT), ("inputs", inputs)):
        (directory / f"{file}.json").write_text(json.dumps(value, indent=1) + "\n")
    if state == "finished":
        summary: dict[str, Any] = {f"final/{key}": value for key, value in last.items() if "/" in key}
        summary |= {f"best/{part}/acc1": last[f"{part}/acc1"] for part in ("val", "test")}
        summary |= {"best/step": step, "best/epoch": 200.0, "cost/steps": step, "cost/step_ms": 30.0}
        summary |= {"cost/train_seconds": 100.0, "cost/eval_seconds": 3.0, "cost/diagnostics_seconds": 1.0}
        summary |= {f"diagnostics/{key}": 1 for key in ("num_samples", "batch_size", "rho", "eta", "num_pairs")}
        (directory / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")


def make_sweep(sweep: Path, num_runs: int, num_rows: int = 10) -> None:
    """Write a sweep of methods, radii, learning rates, shares of label noise and ten seeds, with its launch record."""
    register()
    plain = {method: configuration(method) for method in METHODS}
    jobs = []
    (sweep / "launches").mkdir(parents=True)
    with (sweep / "launches" / "1.configs.jsonl").open("w") as configs:
        for i in range(num_runs):
            seed, method, setting = i % 10, METHODS[i // 10 % len(METHODS)], i // 10 // len(METHODS)
            config = {**plain[method], "name": "many", "seed": seed}
            key, unit = ("weight_decay", 1e-4) if method == "sgd" else ("rho", 0.05)
            value, lr = unit * (1 + setting % 10), 0.01 * (1 + setting // 10 % 5)
            config["optimizer"] = {**config["optimizer"], key: value, "lr": lr}
            config["data"] = {**config["data"], "label_noise": 0.1 * (setting // 50)}
            name = run_id(from_plain(config))
            lay(sweep / name, config, name, STATES[i % len(STATES)], num_rows, i)
            configs.write(json.dumps(config) + "\n")
            words = [f"optimizer={method}", f"seed={seed}", f"optimizer.{key}={value}", f"optimizer.lr={lr}"]
            words.append(f"data.label_noise={config['data']['label_noise']}")
            job = {"overrides": words, "directory": name, "run_id": name, "config_hash": name[-8:]}
            jobs.append({**job, "slurm_job_id": None})
    record = {"time": TIMES["started"], "command": ["launch.py", "-m"], "git": ENVIRONMENT["git"], "jobs": jobs}
    record |= {"launcher": "local", "cluster": None, "hydra_overrides": [], "sweep_dir": str(sweep.resolve())}
    (sweep / "launches" / "1.json").write_text(json.dumps(record, indent=1) + "\n")


def damage(sweep: Path, every: int) -> None:
    """Damage one file of every n-th run, in turn: status, summary, configuration, rows, owner."""
    files = ("status.json", "summary.json", "config.yaml", "metrics.jsonl", "owner.json")
    for i, run in enumerate(sorted(path.parent for path in sweep.glob("*/config.yaml"))[::every]):
        (run / files[i % len(files)]).write_text("{broken\n")


def make_long(directory: Path, megabytes: int) -> None:
    """Write a run whose metrics.jsonl has so many megabytes; only a thousand rows are in memory."""
    register()
    lay(directory, configuration("fsam"), "fsam-s0-0", "finished", 1000, 0)
    step = 0
    with (directory / "metrics.jsonl").open("w") as file:
        while file.tell() < megabytes * 1e6:
            for row in rows(random.Random(step), 1000):
                step += 20
                file.write(json.dumps({**row, "step": step, "epoch": step / 1000}) + "\n")
    status = json.loads((directory / "status.json").read_text())
    (directory / "status.json").write_text(json.dumps({**status, "step": step, "last_step": step}))


def run(code: Path, words: list[str]) -> tuple[float, float, str]:
    """Run `fsamlab WORDS` with the code of a checkout; return CPU seconds, peak memory in MB, and the output."""
    environment = {**os.environ, "PYTHONPATH": str(code.resolve() / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "fsamlab.command.main", *words]
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, cwd=code, env=environment, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        text = out.read().decode()
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, 1, 4), text[-2000:]  # 1: some runs failed; 4: no reference of the setting
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3, text


def num_syscalls(code: Path, words: list[str]) -> int:
    """Return the number of system calls of a command."""
    environment = {**os.environ, "PYTHONPATH": str(code.resolve() / "src"), "OMP_NUM_THREADS": "1"}
    command = ["strace", "-c", "-f", sys.executable, "-m", "fsamlab.command.main", *words]
    counted = subprocess.run(command, cwd=code, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=-1)
    return int(re.findall(r"^100\.00\s+\S+\s+\S*\s+(\d+).* total$", counted.stderr, re.MULTILINE)[-1])


def digest(text: str, written: Path | None) -> str:
    """Return a digest of an output and of the file that the command wrote, without what depends on the time."""
    content = text + (written.read_text() if written is not None else "")
    for pattern in (r"\d+ (s|min|h|d) ago", r"made in [\d.]+ s", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( UTC)?"):
        content = re.sub(pattern, "", content)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--damage", type=int, default=0, metavar="N", help="damage a file of every n-th run")
    parser.add_argument("--code", action="append", default=[], metavar="NAME=CHECKOUT")
    parser.add_argument("--only", nargs="*", help="only the commands with these names")
    parser.add_argument("--syscalls", action="store_true")
    parser.add_argument("--keep", type=Path, help="make the runs there, or use those that are there")
    arguments = parser.parse_args()
    codes = {name: Path(path) for name, _, path in (word.partition("=") for word in arguments.code)} or {"": ROOT}
    with tempfile.TemporaryDirectory(prefix="many-runs-") as folder:
        root = (arguments.keep or Path(folder)).resolve()
        sweep, long = root / "many", root / "long" / "run"
        if arguments.runs and not sweep.exists():
            make_sweep(sweep, arguments.runs)
            if arguments.damage:
                damage(sweep, arguments.damage)
        if arguments.megabytes and not long.exists():
            make_long(long, arguments.megabytes)
        csv, page = sweep / "results.csv", root / "report.html"
        commands: dict[str, tuple[list[str], Path | None]] = {"start": (["--version"], None)}
        if arguments.runs:
            commands |= {
                "status": (["status", str(sweep)], None),
                "status --json": (["status", str(sweep), "--json"], None),
                "collect": (["collect", str(sweep)], csv),
                "compare": (["compare", str(sweep)], None),
                "report": (["report", str(sweep), "--out", str(page)], page),
            }
        if arguments.megabytes:
            commands["long report"] = (["report", str(long), "--out", str(page)], page)
            commands["long collect"] = (["collect", str(long)], long / "results.csv")
            commands["long sync"] = (["sync", str(long), "--dry-run"], None)
        for name, (words, written) in commands.items():
            if arguments.only and name not in arguments.only:
                continue
            for label, code in codes.items():
                seconds, memory, text = run(code, words)
                line = f"{name:14} {label:8} {seconds:7.2f} s CPU  {memory:6.0f} MB  {digest(text, written)}"
                if written is not None:
                    line += f"  {written.stat().st_size / 1e6:.2f} MB in {written.name}"
                if arguments.syscalls:
                    line += f"  {num_syscalls(code, words)} system calls"
                print(line, flush=True)


if __name__ == "__main__":
    main()
