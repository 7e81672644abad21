"""Every small file of a run and of a launch, damaged in ten ways, under every command that looks at runs.

Nothing may print a traceback; whoever reads the file names it; and the other runs are treated as ever.
"""

import json
import shutil

import pytest
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from support.runs import TINY, compose_tiny

from fsamlab.command.main import main
from fsamlab.config.compose import composing
from fsamlab.config.identity import run_id
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.run import run
from fsamlab.storage.writing import write_json
from fsamlab.sweep import plan
from fsamlab.sweep.launches import write_launch
from fsamlab.sweep.local import LocalLauncher
from fsamlab.sweep.plan import JobPlan
from fsamlab.terminal import errors

SHORT = ("train.max_steps=3", "train.keep_state=true")
CODE = {"sha": None, "dirty": False, "source": None}
OF_A_RUN = ("status.json", "owner.json", "config.yaml", "overrides.yaml", "env.json", "summary.json")
MEASURED = ("measurements/last.jsonl", "measurements/status.json")
RECORD = "launches/1.json"
TRAINED = ("inputs.json", "metrics.jsonl", "checkpoints/last.pt")
OF_THE_SWEEP = (RECORD, "launches/1.configs.jsonl", "results.csv", ".launch.lock")
FILES = (*OF_A_RUN, *MEASURED, *TRAINED, *OF_THE_SWEEP)


def wrong_types(text):
    if not text.startswith("{"):
        return "status: [[1]]\n"
    objects = [json.loads(text)] if text.startswith("{\n") else map(json.loads, text.splitlines())
    return "".join(json.dumps({key: [[1]] for key in one}) + "\n" for one in objects)


DAMAGES = {
    "garbage": lambda text: "%&!: [}\n",
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "wrong types": wrong_types,
    "no keys": lambda text: "{}\n",
    "a list": lambda text: "[]\n",
    "null": lambda text: "null\n",
    "a number": lambda text: "3\n",
    "binary": lambda text: b"\xff\xfe\x00\x81" * 20,
    "a directory": None,
}
COMMANDS = ("status", "json", "collect", "report", "sync", "check", "launch", "resubmit", "measure")
NAMES = {  # who reads a file, and so has to name it
    "status.json": set(COMMANDS) - {"measure"},
    "config.yaml": {"collect", "report", "sync", "measure"},
    "summary.json": {"collect", "report", "sync"},
    "measurements/last.jsonl": {"collect", "report", "sync", "measure"},
    RECORD: {"status", "json", "launch", "resubmit"},
    "launches/1.configs.jsonl": {"resubmit"},
    "inputs.json": {"launch", "resubmit"},
}
LOCKED = (".launch.lock", "a directory")  # nothing can be chosen then
HARMLESS = {("config.yaml", "cut"), ("measurements/last.jsonl", "empty"), ("measurements/last.jsonl", "cut")}
HARMLESS |= {("measurements/last.jsonl", "binary")}  # a last line without its end is left out
HARMLESS |= {("inputs.json", "no keys")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two finished runs, one of them measured, and one whose process is gone."""
    sweep = tmp_path_factory.mktemp("made") / "runs" / "sweep"
    plans = []
    for seed in range(3):
        config = compose_tiny(*SHORT, f"seed={seed}", "name=sweep", f"runs_dir={sweep.parent}")
        plans.append(JobPlan.of(config, ["optimizer=fsam", f"seed={seed}"], sweep / run_id(config)))
        if seed < 2:
            run(config, plans[-1].directory, plans[-1].overrides)
    first, _, gone = (plan.directory for plan in plans)
    shutil.copytree(first, gone)
    for path in (gone / "summary.json", gone / "metrics.jsonl"):
        path.unlink()
    status = json.loads((first / "status.json").read_text())
    write_json(gone / "status.json", {**status, "status": "running", "run_id": gone.name})
    owner = json.loads((first / "owner.json").read_text())
    write_json(gone / "owner.json", {**owner, "released": False, "pid": 2**22, "pid_start": "1"})
    (first / "measurements").mkdir()
    row = {"step": 3, "epoch": 0.3, "measured": "2026", "checkpoint": "last", "sharpness/one_step": 0.5}
    (first / "measurements" / "last.jsonl").write_text(json.dumps(row) + "\n")
    write_json(first / "measurements" / "status.json", {"status": "finished"})
    write_launch(sweep, plans, ["launch.py"], PROJECT_ROOT, CODE, "local", ["hydra.launcher.num_jobs=1"])
    (sweep / ".launch.lock").touch()
    (sweep / "results.csv").write_text("run,status\n")
    return sweep


PLANS = {}  # words -> the composed job: no damage changes it, and Hydra takes longer than all else here


@pytest.fixture
def sweep(made, tmp_path, monkeypatch):
    """A copy of the runs, in the same place for each test."""
    place = made.parent.parent / "at_work"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(made, place / "sweep")

    def composed_once(loader, master, overrides, compose_job=plan.compose_job):
        words = (str(master.runs_dir), *overrides)
        if words not in PLANS:
            PLANS[words] = compose_job(loader, master, overrides)
        return PLANS[words]

    monkeypatch.setattr(plan, "compose_job", composed_once)
    monkeypatch.setenv("PATH", str(tmp_path))  # no scheduler
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    return place / "sweep"


def damage(path, how):
    change = DAMAGES[how]
    before = path.read_bytes().decode("latin-1")  # each byte is a character
    path.unlink()
    if change is None:
        path.mkdir()
        return
    content = change(before)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("latin-1"))


def launch(words):
    """`launch.py -m WORDS` in this process."""
    with composing(words) as context:
        master = context.config_loader.load_configuration("config", words, run_mode=RunMode.MULTIRUN)
        plugins = Plugins.instance()
        sweeper = plugins.instantiate_sweeper(hydra_context=context, task_function=lambda cfg: None, config=master)
        sweeper.sweep(list(master.hydra.overrides.task))


def give(command, sweep):
    """Give a command; return its exit code."""
    words = [*TINY, *SHORT, "optimizer=fsam", "seed=0,1,2", "name=sweep", f"runs_dir={sweep.parent}"]
    if command == "launch":
        return errors.call(lambda: launch(words))
    given = {
        "status": ["status", str(sweep)],
        "json": ["status", str(sweep), "--json"],
        "report": ["report", str(sweep), "--out", str(sweep.parent / "report.html")],
        "sync": ["sync", str(sweep), "--dry-run"],
        "check": ["check", *words],
        "measure": ["measure", str(sweep), "diagnostics=light"],
    }
    return main(given.get(command, [command, str(sweep)]))


def exercise(sweep, file, how, monkeypatch, capfd, caplog):
    """Damage a file and give every command; return what is wrong with what they said and did."""
    runs = sorted(p.parent for p in sweep.glob("*/owner.json"))
    gone = next(r for r in runs if not (r / "summary.json").exists())
    measured = next(r for r in runs if (r / "measurements").exists())
    hurt = gone if file == "owner.json" else measured
    path = sweep / file if file in OF_THE_SWEEP else hurt / file
    damage(path, how)
    started = []

    def start(launcher, jobs, on_submitted):
        started.extend(job.directory for job in jobs)
        return []

    monkeypatch.setattr(LocalLauncher, "run", start)
    faults = []
    for command in COMMANDS:
        started.clear()
        code = give(command, sweep)
        out, err = capfd.readouterr()
        out += caplog.text
        caplog.clear()
        said = out + err + (sweep.parent / "report.html").read_text() if command == "report" else out + err
        if "Traceback" in said:
            faults.append(f"{command}: {said[said.index('Traceback') :]}")
        expected = command in NAMES.get(file, ()) and (file, how) not in HARMLESS
        if expected and str(path) not in said.replace("\n", ""):
            faults.append(f"{command}: {path} is not named: {said}")
        if (file, how) == LOCKED and command in ("launch", "resubmit"):
            if code != 1 or started or f"{path}: Is a directory" not in said:
                faults.append(f"{command}: exit code {code}, started {started}: {said}")
            continue
        if expected and command not in ("report", "launch", "resubmit") and code != 1:
            faults.append(f"{command}: exit code {code}: {said}")
        if command in ("launch", "resubmit") and file not in ("owner.json", RECORD) and started != [gone]:
            faults.append(f"{command}: started {started}: {said}")
        if command in ("status", "collect") and any(r.name not in said for r in runs if r != hurt) and code == 2:
            faults.append(f"{command}: another run is not shown: {said}")
    return faults


@pytest.mark.parametrize(
    ("file", "how"), [("status.json", "no keys"), (RECORD, "cut"), ("summary.json", "a directory")]
)
def test_a_damaged_file_is_one_runs(sweep, monkeypatch, capfd, caplog, file, how):
    assert exercise(sweep, file, how, monkeypatch, capfd, caplog) == []


@pytest.mark.long
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_every_file_damaged_in_every_way(sweep, monkeypatch, capfd, caplog, file, how):
    assert exercise(sweep, file, how, monkeypatch, capfd, caplog) == []
