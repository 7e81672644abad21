"""`fsamlab measure`: what it finds, what it leaves alone, and what it says when it cannot."""

import collections
import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support.runs import ROOT, compose_tiny

from fsamlab.command.main import main
from fsamlab.command.measurement import measure_run, run_config
from fsamlab.config import ConfigError, from_plain, to_plain
from fsamlab.config.compose import quoted
from fsamlab.results.collect import collect
from fsamlab.run import run
from fsamlab.rundir import checkpoint
from fsamlab.rundir.measurements import latest, read_measurements
from fsamlab.rundir.rows import read_rows

SMALL = ("diagnostics.num_batches=2", "diagnostics.max_products=7", "diagnostics.num_probes=2",
         "diagnostics.num_ascent_steps=2", "diagnostics.num_pairs=2")  # fmt: skip
PARTS = {"sharpness", "curvature", "perturbation", "noise"}


def measure_config(directory, *overrides):
    """Compose what `fsamlab measure` composes for one run."""
    from hydra import compose, initialize_config_dir

    from fsamlab.config import typed_measure
    from fsamlab.config.compose import register

    register()
    words = [*SMALL, *overrides, f"root={quoted(directory.parent)}", f"run={quoted(directory.name)}"]
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed_measure(compose("measure", overrides=words))


def measure(directory, *overrides):
    (directory / "measurements").mkdir(exist_ok=True)
    return measure_run(directory, measure_config(directory, *overrides))


def fsamlab(*words, timeout=300):
    command = [sys.executable, "-m", "fsamlab.command.main", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def contents(directory):
    """Every file of a run but its measurements, with its bytes and its times."""
    return {
        p: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in sorted(directory.rglob("*"))
        if p.is_file() and "measurements" not in p.parts
    }


def measured(row):
    return {k: v for k, v in row.items() if k.split("/")[0] in PARTS and "_share" not in k}


@pytest.mark.parametrize("variant", ["fsam", "sam"])
def test_a_kept_state_is_measured_as_training_measured_it(tmp_path, variant):
    training = (*SMALL, "diagnostics=full", "train.keep_state=true", "train.epochs=1", f"optimizer={variant}")
    run(compose_tiny(*training), tmp_path / "r")
    before = contents(tmp_path / "r")
    path = measure(tmp_path / "r", "diagnostics=full")
    assert contents(tmp_path / "r") == before
    (row,) = read_measurements(tmp_path / "r")
    trained = read_rows(tmp_path / "r")[-1]
    assert measured(row) == measured(trained)
    assert ("perturbation/cos_ema_full" in row) == (variant == "fsam")
    assert (row["step"], row["checkpoint"], row["diagnostics/batchnorm"]) == (5, "last", "eval")
    assert path.parent == tmp_path / "r" / "measurements"


def test_weights_alone_are_measured_without_the_ema_and_it_is_said(tmp_path, capsys):
    run(compose_tiny("optimizer=fsam", "train.epochs=1"), tmp_path / "r")
    measure(tmp_path / "r", "diagnostics=full")
    (row,) = read_measurements(tmp_path / "r")
    assert "perturbation/rise_other_sam" in row
    assert not any("ema" in key or "fsam" in key for key in row if "/" in key)
    assert "no EMA" in row["note"]


def test_a_preempted_runs_checkpoint_has_everything(tmp_path):
    config = compose_tiny("optimizer=fsam", "train.checkpoint_every_steps=3")
    saved = []
    real = checkpoint.save

    def save_once(directory, payload, *args, **keywords):
        if not saved:
            saved.append(payload["step"])
            real(directory, payload, *args, **keywords)
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save_once)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "r")
    before = contents(tmp_path / "r")
    measure(tmp_path / "r", "diagnostics=paper")
    assert latest(tmp_path / "r")["step"] == 3
    assert "perturbation/cos_ema_full" in latest(tmp_path / "r")
    assert contents(tmp_path / "r") == before
    run(config, tmp_path / "r")  # and it goes on as if nothing had been


def test_measuring_again_is_no_work_and_other_settings_are_another_file(tmp_path):
    run(compose_tiny("optimizer=sam", "train.epochs=1"), tmp_path / "r")
    first = measure(tmp_path / "r", "diagnostics=light")
    text = first.read_text()
    assert measure(tmp_path / "r", "diagnostics=light") == first
    assert first.read_text() == text
    assert measure(tmp_path / "r", "diagnostics=light", "force=true") == first
    again = json.loads(first.read_text())
    assert measured(again) == measured(json.loads(text))
    other = measure(tmp_path / "r", "diagnostics=light", "diagnostics.rho=0.1")
    assert other != first
    assert latest(tmp_path / "r")["sharpness/one_step"] == json.loads(other.read_text())["sharpness/one_step"]


def test_collect_joins_the_newest_step(tmp_path):
    run(compose_tiny("optimizer=sam", "train.epochs=1"), tmp_path / "r")
    measure(tmp_path / "r", "diagnostics=light")
    row = collect([tmp_path / "r"]).iloc[0]
    assert row["measured/sharpness/one_step"] == latest(tmp_path / "r")["sharpness/one_step"]
    assert row["measured/diagnostics/rho"] == 0.05
    assert row["final/sharpness/one_step"] == pytest.approx(row["measured/sharpness/one_step"], rel=1e-6)
    older = {"step": 1, "epoch": 0.1, "measured": "9", "sharpness/one_step": 1e9, "sharpness/old": 1.0}
    (tmp_path / "r" / "measurements" / "older.jsonl").write_text(json.dumps(older) + "\n")
    assert "measured/sharpness/old" not in collect([tmp_path / "r"])


@pytest.mark.parametrize("data", ["digits", "synthetic", "image_folder", "fashion_mnist"])
def test_a_config_comes_back_from_its_file(tmp_path, data):
    given = ("data.root=x",) if data == "image_folder" else ()
    from hydra import compose, initialize_config_dir

    from fsamlab.config import typed
    from fsamlab.config.compose import register

    register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        config = typed(compose("config", overrides=[f"data={data}", "optimizer=fasam", *given]))
    again = from_plain(json.loads(json.dumps(to_plain(config))))
    assert again == config
    assert type(again.data) is type(config.data)


def test_a_config_of_another_version_is_one_line(tmp_path):
    plain = to_plain(compose_tiny())
    plain["train"]["warp"] = 9
    with pytest.raises(ConfigError, match=r"train\.warp=9: is no key of this version"):
        from_plain(plain)
    del plain["train"]["warp"], plain["train"]["keep_state"]  # an older one's file: the default holds
    assert from_plain(plain).train.keep_state is False


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Two finished runs below a directory whose name needs quoting."""
    root = tmp_path_factory.mktemp("with space, and=sign")
    torch.set_num_threads(1)
    for seed in (0, 1):
        run(compose_tiny("optimizer=sam", "train.epochs=1", f"seed={seed}"), root / f"r{seed}")
    return root


@pytest.mark.long
def test_many_runs_from_the_command_line(two_runs):
    done = fsamlab("measure", two_runs, "diagnostics=light", "hydra.launcher.num_jobs=2")
    assert done.returncode == 0, done.stderr
    assert "r0" in done.stdout
    assert "one_step" in done.stdout
    assert all(latest(two_runs / f"r{seed}")["sharpness/one_step"] > 0 for seed in (0, 1))


@pytest.mark.long
def test_through_another_launcher(two_runs):
    done = fsamlab("measure", two_runs, "diagnostics=light", "diagnostics.rho=0.3", "hydra/launcher=slurm",
                   "hydra.launcher.cluster=local", "hydra.launcher.poll_seconds=1")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(latest(two_runs / f"r{seed}")["diagnostics/rho"] == 0.3 for seed in (0, 1))


@pytest.mark.long
def test_one_failure_takes_no_other_result_with_it(two_runs, tmp_path):
    import shutil

    shutil.copytree(two_runs, tmp_path / "copy")
    (tmp_path / "copy" / "r0" / "checkpoints" / "last.pt").write_bytes(b"torn")
    done = fsamlab("measure", tmp_path / "copy", "diagnostics=light", "diagnostics.rho=0.2")
    assert done.returncode == 1
    assert "r0" in done.stdout
    assert "failed" in done.stdout
    assert latest(tmp_path / "copy" / "r1")["diagnostics/rho"] == 0.2
    assert (tmp_path / "copy" / "r0" / "measurements" / "run.log").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("diagnostics=off",), "diagnostics=off: measures nothing of a checkpoint"),
        (("diagnostics.rhoo=1",), "diagnostics.rhoo: unknown key (did you mean rho?)"),
        (("diagnostics.num_batches=500",), "to decompose so many batches of"),
        (("diagnostics.rho=nan",), "diagnostics.rho=nan: must be finite and >= 1e-09"),
        (("diagnostics.batchnorm=train",), "diagnostics.batchnorm=train: must be one of eval, reestimated, batch"),
        (("diagnostics.quantities=[lamda]",), "must be one of one_step, m_sharpness"),
        (("checkpoint=best",), "a run with train.save_best=true keeps it"),
        (("checkpoint=first",), "checkpoint=first: must be one of last, best"),
        (("optimizer.rho=1",), "optimizer.rho: is no key of a measurement, which has checkpoint, force, device"),
        (("task.loss=a:b",), "task.loss: is no key of a measurement"),
        (("seed=3",), "seed: is no key of a measurement"),
    ],
)
def test_bad_words_are_one_line_before_anything_starts(two_runs, words, line, capfd):
    before = sorted(p for p in two_runs.rglob("*"))
    assert main(["measure", str(two_runs), *words]) == 1
    error = capfd.readouterr().err
    assert line in error
    assert len(error.splitlines()) == 1
    assert sorted(p for p in two_runs.rglob("*")) == before


def test_a_run_that_has_no_checkpoint_yet(tmp_path, capfd):
    config = compose_tiny()
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.yaml").write_text(yaml.safe_dump(to_plain(config)))
    assert main(["measure", str(tmp_path), "diagnostics=full"]) == 1
    assert "the run has not written it yet" in capfd.readouterr().err
    assert dataclasses.asdict(run_config(Path(tmp_path) / "r")) == to_plain(config)


@pytest.fixture
def counted(monkeypatch):
    """Count what is measured."""
    from fsamlab.diagnostics import Diagnostics

    calls, real = [], Diagnostics.measure

    def measure(self, now, **options):
        calls.append(now.step)
        return real(self, now, **options)

    monkeypatch.setattr(Diagnostics, "measure", measure)
    return calls


def test_a_forced_start_takes_the_measurements_of_the_old_weights_with_it(tmp_path, counted, monkeypatch):
    directory = tmp_path / "r"
    run(compose_tiny("optimizer=sam", "train.epochs=1", "diagnostics=off"), directory)
    first = measure(directory, "diagnostics=light")
    old = first.read_text()
    monkeypatch.setattr(
        "fsamlab.run.assembly.derive_seed", lambda *a: 77
    )  # as after a change of the code: other weights
    run(compose_tiny("optimizer=sam", "train.epochs=1", "diagnostics=off", "force=true"), directory)
    assert read_measurements(directory) == []
    assert measure(directory, "diagnostics=light") == first
    assert len(counted) == 2
    new = json.loads(first.read_text())
    assert measured(new) != measured(json.loads(old))
    first.write_text(old)  # copied back, or written by a process that began before the forced start
    measure(directory, "diagnostics=light")
    assert measured(json.loads(first.read_text())) == measured(new)
    measure(directory, "diagnostics=light")
    assert len(counted) == 3


def test_a_forced_start_during_a_measurement_keeps_its_row_out(tmp_path, monkeypatch):
    from fsamlab.diagnostics import Diagnostics

    directory = tmp_path / "r"
    run(compose_tiny("optimizer=sam", "train.epochs=1", "diagnostics=off"), directory)
    real = Diagnostics.measure

    def started_over(self, trainer, **options):
        monkeypatch.setattr(Diagnostics, "measure", real)
        run(compose_tiny("optimizer=sam", "train.epochs=1", "diagnostics=off", "force=true"), directory)
        return real(self, trainer, **options)

    monkeypatch.setattr(Diagnostics, "measure", started_over)
    with pytest.raises(ConfigError, match="was started over during the measurement"):
        measure(directory, "diagnostics=light")
    assert read_measurements(directory) == []
    status = json.loads((directory / "status.json").read_text())
    (directory / "status.json").write_text(json.dumps({**status, "status": "running", "starting_over": True}))
    with pytest.raises(ConfigError, match="is starting over"):
        measure(directory, "diagnostics=light")


def test_two_launches_at_once_measure_once(tmp_path, counted, monkeypatch):
    import threading

    from fsamlab.command import measurement as module

    monkeypatch.setattr(module, "POLL_SECONDS", 0.02)
    directory = tmp_path / "r"
    run(compose_tiny("optimizer=sam", "train.epochs=1", "diagnostics=off"), directory)
    config = measure_config(directory, "diagnostics=light")
    threads = [threading.Thread(target=module.measure_typed, args=(config,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counted) == 1
    assert len(read_measurements(directory)) == 1


def test_a_requeued_job_that_had_measured_does_not_begin_again(tmp_path, counted, monkeypatch):
    from fsamlab.command.measure import measure_frozen
    from fsamlab.rundir.frozen_job import FrozenJob

    directory = tmp_path / "r"
    run(compose_tiny("optimizer=sam", "train.epochs=1", "diagnostics=off"), directory)
    plain = dataclasses.asdict(measure_config(directory, "diagnostics=light", "force=true"))
    job = FrozenJob("", plain, [], directory / "measurements", {})
    for number in ("7", "7", "8"):
        monkeypatch.setenv("SLURM_JOB_ID", number)
        measure_frozen(job)
    assert len(counted) == 2  # job 7's second start is SLURM's restart of it; job 8 was asked to measure again


QUANTITIES = ("one_step", "worst_case", "trace", "decomposition", "noise")


@pytest.fixture
def quantities(monkeypatch):
    """Count the calls of each quantity; the name in `at[0]` is interrupted."""
    from fsamlab.diagnostics.quantities import OF_DECOMPOSITION, OF_OBJECTIVE

    calls, at = collections.Counter(), [None]

    def watched(name, quantity):
        def wrapper(*arguments):
            calls[name] += 1
            if name == at[0]:
                raise KeyboardInterrupt
            return quantity(*arguments)

        return wrapper

    for table in (OF_OBJECTIVE, OF_DECOMPOSITION):
        for name, (group, quantity) in table.items():
            monkeypatch.setitem(table, name, (group, watched(name, quantity)))
    return calls, at


@pytest.fixture
def kept_run(tmp_path):
    directory = tmp_path / "r"
    run(compose_tiny("optimizer=fsam", "train.epochs=1", "train.keep_state=true", "diagnostics=off"), directory)
    return directory


def test_an_interrupted_measurement_goes_on_where_it_stood(kept_run, quantities):
    calls, at = quantities
    words = ("diagnostics=full", f"diagnostics.quantities=[{','.join(QUANTITIES)}]")
    whole = measured(json.loads(measure(kept_run, *words).read_text()))
    for path in (kept_run / "measurements").glob("*.jsonl"):
        path.unlink()
    for name in ("trace", "noise"):
        at[0] = name
        with pytest.raises(KeyboardInterrupt):
            measure(kept_run, *words)
    at[0] = None
    calls.clear()
    assert measured(json.loads(measure(kept_run, *words).read_text())) == whole
    assert calls == {"noise": 1}
    calls.clear()
    measure(kept_run, *words, "force=true")
    assert set(calls) == set(QUANTITIES)  # the finished quantities are gone with the row that holds them


@pytest.mark.parametrize("what", ["weights", "settings", "damaged", "force"])
def test_what_an_interrupted_measurement_had_finished_stays_with_it(kept_run, quantities, what):
    from fsamlab.command.measurement import measure_typed

    calls, at = quantities
    words = ("diagnostics=full", f"diagnostics.quantities=[{','.join(QUANTITIES)}]")
    at[0] = "trace"
    with pytest.raises(KeyboardInterrupt):
        measure(kept_run, *words)
    at[0] = None
    calls.clear()
    if what == "weights":
        path = kept_run / "checkpoints" / "last.pt"
        state = checkpoint.load(path)
        next(iter(state["model"].values())).mul_(1.5)
        checkpoint.save(path.parent, state)
    elif what == "damaged":
        (stored,) = (kept_run / "measurements").glob(".*/finished_quantities.json")
        stored.write_text("{")
    overrides = {"settings": ["diagnostics.num_pairs=3"], "force": ["force=true"]}.get(what, [])
    measure_typed(measure_config(kept_run, *words, *overrides))
    assert set(calls) == set(QUANTITIES)


def test_each_measurement_is_judged_by_its_own_status(kept_run):
    from fsamlab.command.measure import failure
    from fsamlab.command.measurement import measure_typed, say

    light, full = (measure_config(kept_run, f"diagnostics={name}") for name in ("light", "full"))
    measure_typed(light)
    say(kept_run, full, "failed", exception="ValueError: of another measurement")
    assert failure(kept_run, light) is None
    assert failure(kept_run, full) == "ValueError: of another measurement"


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    from fsamlab.storage.reading import Damaged

    directory = tmp_path / "r"
    run(compose_tiny("optimizer=sam", "train.epochs=1", "diagnostics=off"), directory)
    path = directory / "checkpoints" / "last.pt"
    content = bytearray(path.read_bytes())
    tensor = max(checkpoint.load(path)["model"].values(), key=torch.numel)
    content[bytes(content).index(tensor.numpy().tobytes()) + 2] ^= 64
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"last\.pt is damaged: the checksum"):
        measure(directory, "diagnostics=light")


def test_a_run_that_is_named_twice_is_measured_once(two_runs, monkeypatch):
    from fsamlab.command import measure as module

    monkeypatch.setattr("fsamlab.sweep.local.LocalLauncher.run", lambda self, jobs, on_submitted: jobs_of.extend(jobs))
    jobs_of = []
    module.measure_runs([two_runs / "r0", two_runs / "r0", two_runs / "r1" / ".." / "r0"], ["diagnostics=light"])
    assert len(jobs_of) == 1
