"""Launch records: configurations of a short or damaged file, and sweeps that were moved or copied."""

import json
import shutil

import pytest
import yaml
from support.runs import compose_tiny

from fsamlab.command.main import main
from fsamlab.config import to_plain
from fsamlab.config.identity import run_id
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.run import run
from fsamlab.storage.writing import write_json
from fsamlab.sweep.launches import Plans, add_job_ids, read_launches, write_launch
from fsamlab.sweep.local import LocalLauncher
from fsamlab.sweep.plan import JobPlan
from fsamlab.sweep.runs import sweep_runs

CODE = {"sha": None, "dirty": False, "source": None}


def planned(sweep, number=3):
    configs = [compose_tiny("train.max_steps=3", "name=sweep", f"seed={seed}") for seed in range(number)]
    return [JobPlan.of(config, [f"seed={config.seed}"], sweep / run_id(config)) for config in configs]


@pytest.fixture
def sweep(tmp_path):
    """Three runs that were launched and did not start."""
    write_launch(tmp_path / "sweep", planned(tmp_path / "sweep"), [], PROJECT_ROOT, CODE, "local", [])
    return tmp_path / "sweep"


def configs_file(sweep):
    return sweep / "launches" / "1.configs.jsonl"


@pytest.fixture
def started(monkeypatch):
    """The runs that a local launcher is given, which are not trained."""
    found = []

    def run(launcher, jobs, on_submitted):
        found.extend(jobs)
        return []

    monkeypatch.setattr(LocalLauncher, "run", run)
    return found


@pytest.mark.parametrize("keep", [[], [0], [1], [0, 2], [2, 1, 0], [0, 1, 1, 2]])
def test_a_configuration_belongs_to_the_job_of_its_identity(sweep, keep):
    """Wherever its line stands: a missing line must not shift the others to other runs."""
    lines = configs_file(sweep).read_text().splitlines(keepends=True)
    configs_file(sweep).write_text("".join(lines[i] for i in keep))
    plans = read_launches(sweep)[0].plans()
    assert plans.found == [plan for i, plan in enumerate(planned(sweep)) if i in keep]
    assert [job.run_id for job in plans.lost] == [p.run_id for i, p in enumerate(planned(sweep)) if i not in keep]
    assert (plans.damage is None) == (len(keep) == 3)


def test_a_damaged_line_is_the_loss_of_one_run(sweep, started, caplog):
    lines = configs_file(sweep).read_text().splitlines(keepends=True)
    configs_file(sweep).write_text(lines[0] + lines[1][:40] + "\n" + lines[2])
    first, lost, last = planned(sweep)
    assert main(["resubmit", str(sweep)]) == 1
    assert [job.directory for job in started] == [first.directory, last.directory]
    assert f"{configs_file(sweep)} is damaged: line 2 is not a JSON object" in caplog.text
    assert f"{lost.run_id} has no configuration any more" in caplog.text


def test_the_runs_own_configuration_is_the_second_source(sweep, started, caplog):
    """A file that lost its end, and a run that stopped half way: it is resubmitted as it was launched."""
    plans = planned(sweep)
    configs_file(sweep).unlink()
    for plan in plans[:2]:
        plan.directory.mkdir()
        (plan.directory / "config.yaml").write_text(yaml.safe_dump(plan.config))
    write_json(plans[0].directory / "status.json", {"status": "finished"})
    write_json(plans[1].directory / "status.json", {"status": "failed"})
    (plans[2].directory).mkdir()
    (plans[2].directory / "config.yaml").write_text(yaml.safe_dump(plans[0].config))  # of another run
    (launch,) = read_launches(sweep)
    assert launch.plans().found == plans[:2]
    assert [job.run_id for job in launch.plans().lost] == [plans[2].run_id]
    assert main(["resubmit", str(sweep)]) == 1
    assert [job.config for job in started] == [plans[1].config]
    assert "2 of 3 configurations are taken from the runs' own config.yaml" in caplog.text


def test_an_older_record_is_of_the_sweep_that_holds_it(sweep):
    """Directories were recorded as absolute paths, of where the sweep lay then."""
    entry = json.loads((sweep / "launches" / "1.json").read_text())
    del entry["sweep_dir"], entry["cluster"]
    for job in entry["jobs"]:
        job["directory"] = f"/elsewhere/{job['directory']}"
    write_json(sweep / "launches" / "1.json", entry)
    (launch,) = read_launches(sweep)
    assert launch.plans() == Plans(planned(sweep), [], None)
    assert not launch.is_of_a_copied_sweep


def test_no_directory_in_a_record_is_absolute(sweep):
    entry = json.loads((sweep / "launches" / "1.json").read_text())
    assert [job["directory"] for job in entry["jobs"]] == [plan.run_id for plan in planned(sweep)]


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_sweep_is_where_it_lies(sweep, started, how, capsys):
    """`mv` and `cp -r`: finished runs stay finished, the others start in the new place, the old one is left alone."""
    done, deleted, open_ = planned(sweep)
    for plan in (done, deleted):
        plan.directory.mkdir()
        (plan.directory / "config.yaml").write_text(yaml.safe_dump(plan.config))
        write_json(plan.directory / "status.json", {"status": "finished"})
    new = sweep.parent / "new"
    if how == "moved":
        sweep.rename(new)
    else:
        shutil.copytree(sweep, new)
    shutil.rmtree(new / deleted.run_id)
    assert main(["status", str(new), "--json"]) == 0
    states = {entry["directory"]: entry["status"] for entry in json.loads(capsys.readouterr().out)}
    expected = {done.run_id: "finished", deleted.run_id: "queued", open_.run_id: "queued"}
    assert states == {str(new / name): status for name, status in expected.items()}
    main(["resubmit", str(new)])
    assert [job.directory for job in started] == [new / deleted.run_id, new / open_.run_id]
    assert sweep.exists() == (how == "copied")
    if how == "copied":
        assert sorted(p.name for p in sweep.iterdir()) == sorted(["launches", done.run_id, deleted.run_id])
        assert len(read_launches(sweep)) == 1


def test_the_jobs_of_the_original_are_not_the_copys(sweep):
    (launch,) = read_launches(sweep)
    add_job_ids(launch, {plan.directory: f"7_{i}" for i, plan in enumerate(planned(sweep))})
    shutil.copytree(sweep, sweep.parent / "copy")
    assert [run.slurm_job_id for run in sweep_runs(sweep)] == ["7_0", "7_1", "7_2"]
    assert [run.slurm_job_id for run in sweep_runs(sweep.parent / "copy")] == [None, None, None]
    sweep.rename(sweep.parent / "moved")
    assert [run.slurm_job_id for run in sweep_runs(sweep.parent / "moved")] == ["7_0", "7_1", "7_2"]


def test_a_csv_of_results_is_true_wherever_its_sweep_lies(sweep, tmp_path, monkeypatch):
    import pandas as pd

    (plan,) = planned(sweep, 1)
    plan.directory.mkdir()
    (plan.directory / "config.yaml").write_text(yaml.safe_dump(to_plain(compose_tiny())))
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "sweep"]) == 0
    assert list(pd.read_csv(sweep / "results.csv")["directory"]) == [plan.run_id]


@pytest.mark.long
def test_a_moved_and_a_copied_sweep_go_on_for_real(launch, tmp_path):
    """Launched, moved, one run deleted, resubmitted; copied, another deleted, resubmitted: each in its own place."""
    import subprocess
    import sys

    from support.runs import ROOT, TINY

    from fsamlab.rundir.reading import read_status

    words = ("-m", *TINY, "train.max_steps=4", "name=sweep", "optimizer=fsam", "hydra.launcher.num_jobs=1")
    assert launch(*words, "seed=0,1").returncode == 0
    old, moved, copy = tmp_path / "runs" / "sweep", tmp_path / "moved", tmp_path / "copy"
    old.rename(moved)
    first, second = sorted(p.name for p in moved.glob("*-s*"))

    def resubmit(sweep):
        command = [sys.executable, "-m", "fsamlab.command.main", "resubmit", str(sweep)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    assert "nothing to resubmit" in resubmit(moved)
    shutil.rmtree(moved / first)
    assert "1 of 2 runs are finished already and are not run again\n" in resubmit(moved)
    shutil.copytree(moved, copy)
    shutil.rmtree(copy / second)
    before = (moved / second / "status.json").read_bytes()
    resubmit(copy)
    for sweep in (moved, copy):
        assert [read_status(sweep / name)["status"] for name in (first, second)] == ["finished"] * 2
    assert (moved / second / "status.json").read_bytes() == before
    assert not old.exists()


def test_two_launches_at_once_submit_a_run_once(tmp_path, monkeypatch):
    """The second one chooses when the first one's jobs are in the record, and finds them in the queue."""
    import threading
    import time

    from fsamlab.sweep import slurm, status
    from fsamlab.sweep.cluster import Answer, JobState
    from fsamlab.sweep.submit import choose, start, sweep_lock

    submitted: list = []

    class Launcher(slurm.SubmititLauncher):
        def run(self, jobs, on_submitted):
            time.sleep(0.2)  # the other one is on its way
            numbers = range(len(submitted), len(submitted) + len(jobs))
            submitted.extend(job.directory for job in jobs)
            on_submitted([str(n + 1) for n in numbers])
            self.detached = True
            return []

    monkeypatch.setattr(slurm, "local_cluster", lambda: None)
    monkeypatch.setattr(status, "ask", lambda refs: Answer({ref: JobState("PENDING") for ref in refs}))

    def go():
        with sweep_lock(tmp_path) as lock:
            choice = choose(tmp_path, planned(tmp_path, 2), force=False)
            launcher = Launcher(submitit_folder=str(tmp_path / ".submitit" / "%j"))
            start(launcher, tmp_path, choice, lock, argv=[], hydra_overrides=[], on_end=lambda ended: 0)

    threads = [threading.Thread(target=go) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(submitted) == sorted(plan.directory for plan in planned(tmp_path, 2))
    assert len(read_launches(tmp_path)) == 2


def test_a_run_that_cannot_be_started_is_said_and_the_others_start(sweep, started, caplog):
    first, second, third = planned(sweep)
    first.directory.mkdir()
    (first.directory / "status.json").write_text("{}")
    assert main(["resubmit", str(sweep)]) == 1
    assert [job.directory for job in started] == [second.directory, third.directory]
    assert f"{first.directory}/status.json is damaged: status is missing; remove the file" in caplog.text


def test_a_run_that_is_trained_by_hand_is_not_started_twice(sweep, started):
    """A living process of any kind counts, not only SLURM's jobs."""
    from fsamlab.rundir.ownership import Ownership

    plan, *_ = planned(sweep)
    run(compose_tiny("train.max_steps=3", "name=sweep", "seed=0"), plan.directory)
    (plan.directory / "summary.json").unlink()
    write_json(plan.directory / "status.json", {"status": "running", "step": 1})
    owner = Ownership(plan.directory)
    try:
        main(["resubmit", str(sweep)])
    finally:
        owner.release()
    assert plan.directory not in [job.directory for job in started]


def test_the_process_of_the_original_does_not_write_into_the_copy(tmp_path):
    """owner.json came with the copy; its process lives, and trains the original."""
    from fsamlab.rundir.find import current_status
    from fsamlab.rundir.ownership import Ownership

    original = tmp_path / "sweep" / "run"
    original.mkdir(parents=True)
    write_json(original / "status.json", {"status": "running"})
    owner = Ownership(original)
    try:
        shutil.copytree(tmp_path / "sweep", tmp_path / "copy")
        assert current_status(original)["status"] == "running"
        assert current_status(tmp_path / "copy" / "run")["status"] == "lost"
        Ownership(tmp_path / "copy" / "run").release()
        assert owner.holds()
        (tmp_path / "sweep").rename(tmp_path / "moved")
        assert current_status(tmp_path / "moved" / "run")["status"] == "running"
        (tmp_path / "moved").rename(tmp_path / "sweep")
    finally:
        owner.release()
