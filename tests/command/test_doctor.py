"""`fsamlab doctor` on whole and on broken machines: what it says, what it waits for, what it never prints."""

import importlib.metadata
import json
import os
import sys
import time

import pytest
import torch
from support.fake_slurm import DOWN, fake_tools, lines  # noqa: F401

from fsamlab.command.doctor import account, files, machine, slurm, steps, view
from fsamlab.command.doctor.items import FAILED, NOTE, SEEN, WORKS, Item, emit, parse, without_secrets
from fsamlab.command.doctor.processes import Processes
from fsamlab.command.main import main
from fsamlab.storage.locks import NO_LOCKS

HANGS = "/bin/sleep 60 & wait"  # a child that outlives its shell and holds its streams
PARTITIONS = lines("gpu*|up|1-00:00:00|4|gpu:a100:4", "cpu|up|infinite|1|(null)")
SINFO = f"case $1 in --version) echo 'slurm 22.05.8'; exit;; esac\n{PARTITIONS}"
SCONTROL = "echo 'ClusterName             = lab'; echo 'MaxArraySize            = 1001'"


def states(items):
    return {item.topic: item.state for item in items}


def asked():
    with Processes() as processes:
        return list(slurm.slurm(processes))


# processes


def test_a_hanging_tool_and_its_children_are_ended(fake):
    fake(sinfo=HANGS)
    start = time.monotonic()
    with Processes() as processes:
        answer = processes.ask(["sinfo"], seconds=0.3)
    assert answer.problem == "sinfo gave no answer within 0.3 s"
    assert time.monotonic() - start < 30


def test_what_a_stopped_process_has_printed_is_kept(fake):
    fake(tool=f"echo '{Item('a', 'b', WORKS).line()}'; {HANGS}")
    with Processes() as processes:
        assert parse(processes.ask(["tool"], seconds=0.5).out) == [Item("a", "b", WORKS)]


def test_a_failing_tool_is_one_line(fake):
    fake(tool="echo first; echo 'the reason' >&2; exit 3", silent="exit 4")
    with Processes() as processes:
        assert processes.ask(["tool"]).problem == "first"
        assert processes.ask(["silent"]).problem == "silent ended with exit code 4"
        assert processes.ask(["none"]).problem == "none: No such file or directory"


def test_processes_end_with_the_block(fake, tmp_path):
    fake(tool=f"echo $$ > {tmp_path}/pid; {HANGS}")
    with Processes() as processes:
        future = view.Worker("test").submit(lambda: processes.ask(["tool"], seconds=60))
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            time.sleep(0.01)
    assert view.wait(future, 30, "the tool").problem is not None


def test_a_probe_that_crashes_is_a_failed_item():
    with Processes() as processes:
        (item,) = processes.probe("no_such_probe", seconds=60, topic="torch", advice="do this")
    assert item == Item("torch", "KeyError: 'no_such_probe'", FAILED, "do this")


def test_items_survive_other_lines(capsys):
    emit([Item("a", "ü ± x", NOTE, "do")])
    assert parse(f"a library's line\n{capsys.readouterr().out}more\n") == [Item("a", "ü ± x", NOTE, "do")]


# SLURM


def test_no_slurm(fake):
    fake()
    assert asked() == [Item("SLURM", "no sinfo in PATH", NOTE, slurm.NOT_HERE)]


def test_a_cluster(fake):
    calls = fake(sinfo=SINFO, scontrol=SCONTROL)
    found = {item.topic: item for item in asked()}
    assert found["SLURM"] == Item("SLURM", "slurm 22.05.8; the controller answers", WORKS)
    assert (
        found["partitions"].found
        == "gpu* up, 4 nodes, at most 1-00:00:00, gpu:a100:4; cpu up, 1 node, at most infinite"
    )
    assert found["cluster"].found == "cluster lab, MaxArraySize 1001"
    assert not any("sbatch" in call for call in calls())


@pytest.mark.parametrize("sinfo", [DOWN, f"case $1 in --version) echo slurm 1;; *) {DOWN};; esac"])
def test_a_controller_that_does_not_answer(fake, sinfo):
    fake(sinfo=sinfo)
    (item,) = asked()
    assert item.state == FAILED
    assert "Unable to contact slurm controller" in item.found
    assert item.advice == slurm.UNANSWERED


def test_a_hanging_sinfo(fake, monkeypatch):
    monkeypatch.setattr(Processes.ask, "__defaults__", (0.3, None))
    fake(sinfo=HANGS)
    (item,) = asked()
    assert (item.state, item.found) == (FAILED, "sinfo gave no answer within 0.3 s")


def test_tools_without_a_cluster_are_no_failure(fake):
    fake(sinfo="echo 'sinfo: fatal: Could not establish a configuration source' >&2; exit 1")
    assert [item.state for item in asked()] == [NOTE]


def submitted(fake, monkeypatch, tmp_path, sbatch, **settings):
    calls = fake(sbatch=sbatch, squeue="echo 'PENDING (Priority)'")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/bin:/bin")
    monkeypatch.setattr(slurm, "WAIT_SECONDS", 0.2)
    with Processes() as processes:
        return list(slurm.submit(processes, settings, tmp_path / "runs")), calls()


RUNS_THE_JOB = """
for word in "$@"; do
  case "$word" in
    --output=*) out="${word#--output=}";;
    --wrap=*) /bin/sh -c "${word#--wrap=}" > "$out" 2>&1;;
  esac
done
echo '77;lab'
"""


def test_a_submitted_job_tries_the_file_system_from_its_node(fake, monkeypatch, tmp_path):
    settings = {"partition": "gpu", "account": None, "setup": ["export HELLO=1"]}
    found, calls = submitted(fake, monkeypatch, tmp_path, RUNS_THE_JOB, **settings)
    assert {item.state for item in found} <= {WORKS, SEEN}
    assert found[0].found.startswith("77 ran on ")
    assert any(item.topic.startswith("flock on ") for item in found)
    assert "--partition=gpu" in calls[0]
    assert "--account" not in calls[0]
    assert not (tmp_path / "runs").exists()


def test_a_job_that_waits_and_a_job_that_cannot_start_python(fake, monkeypatch, tmp_path):
    (waits,), _ = submitted(fake, monkeypatch, tmp_path, "echo 78")
    assert waits.state == NOTE
    assert waits.found == "78: PENDING (Priority) after 0.2 s"
    (broken,), _ = submitted(fake, monkeypatch, tmp_path, RUNS_THE_JOB, python="/no/such/python")
    assert broken.state == FAILED
    assert "not found" in broken.found
    (refused,), _ = submitted(fake, monkeypatch, tmp_path, "echo 'sbatch: error: invalid partition' >&2; exit 1")
    assert (refused.state, refused.found) == (FAILED, "sbatch: error: invalid partition")


# the file system of runs_dir


def test_a_directory_that_works_is_left_as_it_was(tmp_path):
    found = states(files.files(str(tmp_path / "a" / "b")))
    assert {found[topic] for topic in ("runs_dir", "flock", "hard links", "atomic replace")} == {WORKS}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file/runs", "/sys/fsamlab_runs"])
def test_a_directory_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_text("")
    found = list(files.files(str(tmp_path / place)))
    assert found[-1].topic == "runs_dir"
    assert found[-1].state == FAILED
    assert "conf/local/default.yaml" in found[-1].advice


def test_a_file_system_without_flock_and_links(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(min(NO_LOCKS), os.strerror(min(NO_LOCKS)))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    monkeypatch.setattr(files.os, "link", refuse)
    found = states(files.tried(tmp_path))
    assert found == {"flock": NOTE, "hard links": NOTE, "atomic replace": WORKS, "clock": SEEN}


def test_a_lock_that_keeps_nobody_out_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(files.fcntl, "flock", lambda *arguments: None)
    assert files.lock(tmp_path / "lock").state == FAILED


MOUNTS = """
22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:30 / /home rw shared:2 - nfs4 server:/home rw,vers=4.2,local_lock=none
31 22 0:31 / /scratch\\040a rw shared:3 - lustre 10.0.0.1@o2ib:/s rw,localflock
32 22 0:32 / /homes rw shared:4 - xfs /dev/sdb1 rw
"""


@pytest.mark.parametrize(
    ("place", "said", "state"),
    [
        ("/home/me", "nfs4 from server:/home, shared over a network", SEEN),
        ("/homes/me", "xfs", SEEN),
        ("/srv", "ext4", SEEN),
        ("/scratch a/runs", "lustre from 10.0.0.1@o2ib:/s, shared over a network, mounted with localflock", NOTE),
    ],
)
def test_the_type_of_the_file_system(monkeypatch, place, said, state):
    monkeypatch.setattr(files.Path, "read_text", lambda *a, **k: MOUNTS.strip())
    item = files.mount(files.Path(place))
    assert (item.found, item.state) == (said, state)


# libraries, W&B, secrets


def missing(monkeypatch, name):
    real = importlib.metadata.version

    def version(asked):
        if asked == name:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(asked)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_a_missing_library_is_named(monkeypatch):
    missing(monkeypatch, "wandb")
    item = machine.libraries()
    assert item.state == NOTE
    assert item.found.endswith("no wandb")
    assert item.advice == "pip install wandb"


def test_wandb_is_missing_or_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert [item.state for item in account.account()] == [NOTE]
    missing(monkeypatch, "wandb")
    (item,) = account.account()
    assert item.advice.startswith("pip install wandb")


def test_no_secret_is_printed(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("SHORT_KEY", "at")
    text = "bad key 0123456789abcdef at https://me:pass@proxy.example/x"
    assert without_secrets(text) == "bad key *** at https://***@proxy.example/x"
    item = view.without_secrets_in(Item("W&B", text, NOTE, text))
    assert "0123456789abcdef" not in item.found + item.advice


# the steps


def test_a_training_of_few_steps_works_on_this_device(tmp_path):
    found = list(steps.steps("cpu", str(tmp_path / "runs")))
    assert {item.state for item in found} == {WORKS}
    assert [item.topic for item in found][:2] == ["F-SAM on cpu, fp32", "F-SAM on cpu, bf16"]
    assert found[-1].found.endswith("continued to the same bits")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_wrong_numbers_and_a_failing_device_are_found(monkeypatch, tmp_path):
    real = steps.trained

    def spoiled(cfg, device):
        trainer = real(cfg, torch.device("cpu"))
        if device.type == "meta" and cfg.train.precision == "bf16":
            raise RuntimeError("device-side assert triggered\nmore")
        if device.type == "meta":
            trainer.last_row["train/loss"] *= 1.1
        return trainer

    monkeypatch.setattr(steps, "trained", spoiled)
    found = {item.topic: item for item in steps.steps("meta", str(tmp_path))}
    assert found["F-SAM on meta, fp32"].state == FAILED
    assert "on the CPU in fp32" in found["F-SAM on meta, fp32"].found
    assert found["F-SAM on meta, bf16"].found == "RuntimeError: device-side assert triggered"


def test_weights_that_are_not_finite_are_found():
    trainer = steps.trained(steps.config("fp32"), torch.device("cpu"))
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.inf)
    assert steps.judged("x", trainer, steps._loss(trainer), 1e-3).state == FAILED


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    item = steps.resumed(tmp_path / "file" / "runs")
    assert (item.state, item.topic) == (FAILED, "checkpoint in runs_dir")


# the command


@pytest.fixture
def doctor(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")

    def run(*words, items=None):
        if items is not None:
            monkeypatch.setattr(view, "examined", lambda *arguments: items)
        code = main(["doctor", *words])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def test_the_exit_code_follows_what_was_tested(doctor):
    good = [Item("flock", "keeps", WORKS), Item("GPU", "none", NOTE, "buy one")]
    code, out, _ = doctor(items=good)
    assert code == 0
    assert "look   GPU: none; buy one" in out
    assert "2 tests: 2 work, 0 failed; no GPU was tested" in out
    code, out, _ = doctor(items=[*good, Item("SLURM", "no answer", FAILED, "ask again")])
    assert code == 1
    assert "failed SLURM: no answer; ask again" in out


def test_json_is_one_object(doctor):
    code, out, err = doctor("--json", items=[Item("SLURM", "no answer", FAILED, "ask again")])
    found = json.loads(out)
    assert (code, found["exit"], err) == (1, 1, "")
    assert [item["topic"] for item in found["items"]] == ["project", "SLURM"]


def test_a_mistyped_word_is_one_line(doctor):
    code, out, err = doctor("runs_dri=/x", items=[])
    assert (code, out) == (1, "")
    assert err.startswith("error: runs_dri: ")
    assert err.count("\n") == 1


def test_a_directory_without_a_project_is_a_finding(doctor, monkeypatch):
    from fsamlab.config import ConfigError

    def refuse(*words):
        raise ConfigError("directory", "/x", "lies in no study folder")

    monkeypatch.setattr(view, "composing", refuse)
    code, out, _ = doctor(items=[])
    assert code == 1
    assert "failed project: directory=/x: lies in no study folder" in out


def test_a_check_that_raises_or_hangs_loses_no_other(monkeypatch):
    checks = {
        "a": lambda: [Item("a", "fine")],
        "b": lambda: 1 / 0,
        "c": lambda: time.sleep(60),
        "d": lambda: [Item("d", "fine")],
    }
    found = view.at_once(checks, 0.5)
    assert [item.topic for item in found] == ["a", "b", "c", "d"]
    assert [item.state for item in found] == [SEEN, FAILED, FAILED, SEEN]
    assert "ZeroDivisionError" in found[1].found


@pytest.mark.long
def test_a_whole_examination(doctor, monkeypatch, tmp_path, fake):
    """A machine without SLURM and git, with a key for W&B that must not be printed."""
    fake()
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    code, out, err = doctor("--json", f"runs_dir={tmp_path / 'runs'}")
    found = {item["topic"]: item for item in json.loads(out)["items"]}
    assert "0123456789abcdef" not in out + err
    assert {t: i for t, i in found.items() if i["state"] == FAILED} == {}
    assert code == 0
    assert "logged in to" in found["W&B"]["found"]
    assert found["2 ranks, gloo"]["state"] == found["checkpoint in runs_dir"]["state"] == WORKS
    assert found["SLURM"]["found"] == "no sinfo in PATH"
    assert not (tmp_path / "runs").exists()
