"""Where the time of a command goes: `python benchmarks/overhead.py [--repeat N] [--cores N] [WORDS OF launch.py]`.

Without words the command is a shortened quickstart. Every process of the command (launch.py, the server of the local
launcher, each job) counts its own main thread's wall and CPU seconds by the kind of work; each moment counts once, for
the innermost kind. Prints a Markdown table of all processes together, and the seconds from the start of the first
process to the end of the first training step. The command is repeated, and the run with the least CPU time is shown,
because a shared machine disturbs some of the runs.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import sys
import threading
import time

KINDS = "OVERHEAD_DIRECTORY"  # environment variable: where each process leaves its counts
SHORT = ("-m", "+sweeps=quickstart", "seed=0", "train.epochs=3", "name=overhead")
TRAINING = "forward and backward of the steps"
PRODUCT = ("evaluation: forward", "diagnostics")
FIRST = "first_step"
WAITING = ("waiting", "start of a job's process", "python: other")  # nearly all of their wall time is idle
SHOWN = 0.0005  # of the CPU time; kinds below are counted and not shown

# module -> {function or Class.method: kind of work}; a name that ends with () is a generator
WORK: dict[str, dict[str, str]] = {
    "hydra._internal.config_loader_impl": {
        "ConfigLoaderImpl.load_configuration": "composition and checks",
        "ConfigLoaderImpl.load_sweep_config": "composition and checks",
    },
    "hydra.core.plugins": {"Plugins._initialize": "hydra: search for plugins"},
    "hydra._internal.hydra": {"Hydra.multirun": "hydra: other", "Hydra.run": "hydra: other"},
    "fsamlab.config": {"typed": "composition and checks"},
    "fsamlab.config.compose": {"check_words": "composition and checks", "jobs_of": "composition and checks"},
    "fsamlab.sweep.plan": {"compose_all": "composition and checks"},
    "fsamlab.sweep.submit": {"choose": "record of the launch", "write_launch": "record of the launch"},
    "fsamlab.rundir.environment": {"code_version": "version of the code (git)", "environment": "env.json"},
    "fsamlab.rundir.record": {
        "RunRecord.__init__": "files of the run, at its start",
        "RunRecord.append": "rows",
        "RunRecord.set_status": "status.json",
        "RunRecord.close": "files of the run, at its end",
        "RunRecord.write_summary": "files of the run, at its end",
    },
    "fsamlab.rundir.inputs": {"look": "digests of the inputs"},
    "fsamlab.run.resume": {"resume": "files of the run, at its start"},
    "fsamlab.data": {"build_data": "data"},
    "fsamlab.models": {"build_model": "model"},
    "fsamlab.optim": {"build_optimizer": "model"},
    "fsamlab.diagnostics.suite": {"Diagnostics.__init__": "model", "Diagnostics.measure": "diagnostics"},
    "fsamlab.tracking": {"build_tracker": "tracker"},
    "fsamlab.data.in_memory": {
        "InMemoryTrain.batches()": "batches (order, augmentation)",
        "InMemoryTrain.other": "batches (order, augmentation)",
        "InMemoryTrain.full()": "batches (order, augmentation)",
    },
    "fsamlab.train.trainer": {"Trainer.__init__": "model", "Trainer.fit": "loop", "Trainer._row": "rows"},
    "fsamlab.train.step": {"Stepper.make": "loop"},
    "fsamlab.optim.sharpness_aware": {"SharpnessAware.step": "optimizer", "SharpnessAware.step_micro": "optimizer"},
    "fsamlab.train.closures": {
        "Passes.backward": TRAINING,
        "Passes.forward": "forward",
        "BatchClosure.losses": TRAINING,
    },
    "fsamlab.train.evaluation": {"evaluated": "evaluation: other"},
    "fsamlab.run.bookkeeper": {"Bookkeeper.row": "rows", "Bookkeeper.boundary": "loop"},
    "fsamlab.rundir.checkpoint": {"save": "checkpoints"},
    "fsamlab.terminal.progress": {"print_run": "text at the end"},
    "fsamlab.results.summary": {"print_sweep": "text at the end"},
    "fsamlab.sweep.local": {"wait": "waiting", "_job": "job: other"},  # of versions before pool.py
    "fsamlab.sweep.pool": {"wait": "waiting", "run_job": "job: other"},
    "fsamlab.run": {"run": "run: other"},
    "fsamlab.sweep.job": {"JobRunner.__call__": "job: other"},
    "multiprocessing.popen_forkserver": {"Popen._launch": "start of a job's process"},
    "os": {"fsync": "fsync"},
}


class Ledger:
    """Wall and CPU seconds of the main thread of this process, by kind of work; the innermost kind counts."""

    def __init__(self, born: float) -> None:
        self.begin(born, "interpreter")

    def begin(self, born: float, kind: str) -> None:
        """Start to count, at the start of the process."""
        self.born, self.pid = born, os.getpid()
        self.main = threading.get_ident()
        self.seconds: dict[str, list[float]] = {}
        self.stack = [kind]
        self.wall, self.cpu = born, 0.0
        self.marks: dict[str, object] = {}

    def charge(self) -> None:
        """Count the time since the last call for the present kind."""
        wall, cpu = time.perf_counter(), time.thread_time()
        entry = self.seconds.setdefault(self.stack[-1], [0.0, 0.0, 0])
        entry[0] += wall - self.wall
        entry[1] += cpu - self.cpu
        self.wall, self.cpu = wall, cpu

    def enter(self, kind: str) -> None:
        """Begin work of a kind."""
        if threading.get_ident() != self.main:
            return
        self.charge()
        top = self.stack[-1]
        if top == "diagnostics":
            kind = top
        elif kind == "forward":
            kind = "evaluation: forward" if top == "evaluation: other" else top
        elif kind == "evaluation: other" and top == "evaluation: other":
            kind = top
        self.stack.append(kind)
        self.seconds.setdefault(kind, [0.0, 0.0, 0])[2] += 1

    def leave(self) -> None:
        """End the work that was begun last."""
        if threading.get_ident() != self.main:
            return
        self.charge()
        self.stack.pop()

    def dump(self) -> None:
        """Write the counts at the end of the process."""
        if self.pid != os.getpid():
            return
        self.charge()
        name = f"{os.getpid()}.json"
        content = {
            "argv": sys.argv[:3],
            "born": self.born,
            "died": self.wall,
            "seconds": self.seconds,
            "cpu": time.process_time(),
            "marks": self.marks,
        }
        with open(os.path.join(os.environ[KINDS], name), "w") as f:
            json.dump(content, f)


def timed(ledger: Ledger, function, kind: str, generator: bool):  # type: ignore[no-untyped-def]
    """Return `function` with its time counted as `kind`."""

    @functools.wraps(function)
    def call(*args, **kwargs):  # type: ignore[no-untyped-def]
        ledger.enter(kind)
        try:
            return function(*args, **kwargs)
        finally:
            ledger.leave()

    @functools.wraps(function)
    def each(*args, **kwargs):  # type: ignore[no-untyped-def]
        made = function(*args, **kwargs)
        while True:
            ledger.enter(kind)
            try:
                one = next(made)
            except StopIteration:
                return
            finally:
                ledger.leave()
            yield one

    return each if generator else call


def first_step(ledger: Ledger, make):  # type: ignore[no-untyped-def]
    """Return `Stepper.make` with the seconds until the end of its first call noted."""

    @functools.wraps(make)
    def call(*args, **kwargs):  # type: ignore[no-untyped-def]
        made = make(*args, **kwargs)
        if FIRST not in ledger.marks:
            ledger.charge()
            ledger.marks[FIRST] = {k: list(v) for k, v in ledger.seconds.items()}
            ledger.marks["at"] = ledger.wall
        return made

    return call


def patch(ledger: Ledger, name: str) -> None:
    """Wrap the functions of a module that has just been imported."""
    module = sys.modules.get(name)
    for path, kind in WORK.get(name, {}).items():
        *owners, function = path.removesuffix("()").split(".")
        owner = functools.reduce(getattr, owners, module)
        if function not in owner.__dict__:  # another version of the code
            continue
        wrapped = timed(ledger, owner.__dict__[function], kind, path.endswith("()"))
        if (name, function) == ("fsamlab.train.step", "make"):
            wrapped = first_step(ledger, wrapped)
        setattr(owner, function, wrapped)


def install() -> None:
    """Count the work of this process; called from a sitecustomize, before anything else is imported."""
    ledger = Ledger(birth())
    system = importlib._bootstrap  # type: ignore[attr-defined]
    find_and_load = system._find_and_load

    def counted(name, import_):  # type: ignore[no-untyped-def]
        known = name in sys.modules
        root, top = name.partition(".")[0], ledger.stack[-1]
        foreign = root not in sys.stdlib_module_names and root not in ("fsamlab", "hydra_plugins", "__mp_main__")
        within = top.startswith("import ") and top != "import fsamlab"
        if known or within or (top.startswith("import ") and not foreign):
            made = find_and_load(name, import_)
        else:
            ledger.enter(f"import {root}" if foreign else "import fsamlab")
            try:
                made = find_and_load(name, import_)
            finally:
                ledger.leave()
        if not known and name in WORK:
            patch(ledger, name)
        return made

    system._find_and_load = counted
    patch(ledger, "os")
    leave = os._exit

    def exit_now(code: int) -> None:
        ledger.dump()
        leave(code)

    os._exit = exit_now  # type: ignore[assignment]
    os.register_at_fork(after_in_child=lambda: ledger.begin(time.perf_counter(), "job: other"))
    atexit.register(ledger.dump)
    ledger.charge()
    ledger.stack = ["python: other"]


def birth() -> float:
    """Return when this process started, on the clock of perf_counter (Linux: both count from boot)."""
    with open("/proc/self/stat") as f:
        ticks = int(f.read().rsplit(")", 1)[1].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK") + (time.perf_counter() - time.clock_gettime(time.CLOCK_BOOTTIME))


def main() -> None:
    """Run the command and print the tables."""
    import argparse
    import shutil
    import subprocess
    import tempfile
    from pathlib import Path

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", help="write the counts of the shown run to this file")
    options, words = parser.parse_known_args()
    root = Path(__file__).resolve().parents[1]
    shown = None
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
            counts = Path(folder, "counts")
            counts.mkdir()
            hook = f"import sys; sys.path.append({str(root / 'benchmarks')!r}); import overhead; overhead.install()"
            Path(folder, "sitecustomize.py").write_text(hook)
            path = os.pathsep.join([folder, str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
            env = {**os.environ, "PYTHONPATH": path, KINDS: str(counts)}
            command = [sys.executable, "launch.py", *(words or SHORT), f"runs_dir={folder}/runs"]
            start = time.perf_counter()
            done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
            wall = time.perf_counter() - start
            if done.returncode:
                sys.exit(done.stdout + done.stderr)
            time.sleep(0.5)  # the server of the local launcher ends after launch.py
            processes = [json.loads(path.read_text()) for path in counts.iterdir()]
            shutil.rmtree(Path(folder, "runs"), ignore_errors=True)
        cpu = sum(p["cpu"] for p in processes)
        print(f"{wall:.2f} s wall, {cpu:.2f} s CPU, {len(processes)} processes", file=sys.stderr)
        if shown is None or cpu < shown[1]:
            shown = wall, cpu, start, processes
    assert shown is not None
    if options.keep:
        Path(options.keep).write_text(json.dumps(shown))
    show(*shown, options.cores)


def show(wall: float, cpu: float, start: float, processes: list[dict], cores: int) -> None:
    """Print the table of all processes, and the one up to the first step."""
    total: dict[str, list[float]] = {}
    threads = 0.0
    for process in processes:
        threads += process["cpu"] - sum(v[1] for v in process["seconds"].values())
        for kind, values in process["seconds"].items():
            entry = total.setdefault(kind, [0.0, 0.0, 0])
            waits = kind in WAITING
            for i, value in enumerate((values[1] if waits else values[0], values[1], values[2])):
                entry[i] += value
    total["other threads"] = [0.0, threads, 0]
    used, capacity = sum(v[1] for v in total.values()), wall * cores
    print(f"\n{wall:.2f} s wall on {cores} cores, {cpu:.2f} s CPU\n")
    print("| work | CPU s | % of CPU | wall s | calls |\n| --- | --- | --- | --- | --- |")
    for kind, (seconds, own, calls) in sorted(total.items(), key=lambda item: -item[1][1]):
        if own >= SHOWN * used:
            print(f"| {kind} | {own:.2f} | {100 * own / used:.1f} | {seconds:.2f} | {int(calls)} |")
    print(f"| cores without work of this command | | | {capacity - sum(v[0] for v in total.values()):.2f} | |")
    product = [sum(total.get(kind, [0.0, 0.0])[i] for kind in PRODUCT) for i in (0, 1)]
    steps = total.get(TRAINING, [0.0, 0.0])
    print("\n| neither forward nor backward of the steps | % of CPU | % of wall x cores |\n| --- | --- | --- |")
    for what, less in (("all", [0.0, 0.0]), ("without the forward passes of evaluation and diagnostics", product)):
        shares = 1 - (steps[1] + less[1]) / used, 1 - (steps[0] + less[0]) / capacity
        print(f"| {what} | {100 * shares[0]:.1f} | {100 * shares[1]:.1f} |")
    first = min((p for p in processes if FIRST in p["marks"]), key=lambda p: p["marks"]["at"], default=None)
    if first is None:
        return
    print(f"\nEnd of the first step: {first['marks']['at'] - start:.2f} s after the start of the command\n")
    print("| until then, in the process of that step | wall s | CPU s |\n| --- | --- | --- |")
    for kind, (seconds, used, _) in sorted(first["marks"][FIRST].items(), key=lambda item: -item[1][0]):
        if seconds > 0.004:
            print(f"| {kind} | {seconds:.3f} | {used:.3f} |")


if __name__ == "__main__":
    main()
