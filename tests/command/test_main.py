import pytest

from fsamlab.command.main import main

READERS = ("status", "collect", "report", "measure", "sync")


def refused(capfd, command, *paths):
    """Return the one line with which `fsamlab COMMAND PATHS` refuses."""
    code = main([command, *map(str, paths)])
    printed = capfd.readouterr()
    assert code == (2 if command == "status" else 1)
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


@pytest.fixture
def run(tmp_path):
    """A run directory, as far as finding it goes."""
    directory = tmp_path / "sweep" / "run"
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text("seed: 0\n")
    return directory


@pytest.mark.parametrize("command", READERS)
def test_no_runs_is_one_line(command, tmp_path, capfd):
    line = refused(capfd, command, tmp_path)
    assert line.startswith(f"error: RUNS={tmp_path}: no run directory")
    assert line.endswith("; give a run's or a sweep's directory")
    assert not list(tmp_path.iterdir())


def test_the_directory_of_all_sweeps_is_refused_with_one_of_them(run, tmp_path, capfd):
    line = refused(capfd, "report", tmp_path)
    assert f"; give a run's or a sweep's directory, such as {run.parent}, or " in line
    assert line.endswith(f"{run.parents[1]}/* for the runs of all directories there")


@pytest.mark.parametrize("command", READERS)
def test_a_mistyped_path_among_others_is_refused(command, run, tmp_path, capfd):
    before = sorted(tmp_path.rglob("*"))
    line = refused(capfd, command, run, tmp_path / "tpyo")
    assert line.startswith(f"error: RUNS={tmp_path / 'tpyo'}: does not exist")
    assert sorted(tmp_path.rglob("*")) == before


def test_resubmit_refuses_a_mistyped_sweep(tmp_path, capfd):
    assert refused(capfd, "resubmit", tmp_path / "tpyo").startswith(f"error: RUNS={tmp_path / 'tpyo'}: does not exist")


def test_measure_without_a_run(capfd):
    assert refused(capfd, "measure", "diagnostics=full").startswith("error: RUNS=none: no run directory")


@pytest.mark.parametrize(("seconds", "shown"), [("-1", "-1.0"), ("nan", "nan"), ("1e12", "1000000000000.0")])
def test_seconds_that_cannot_be_waited(run, seconds, shown, capfd):
    assert main(["status", str(run), f"--watch={seconds}"]) == 1
    assert capfd.readouterr().err == f"error: --watch={shown}: must be finite and >= 0.01 and <= 86400\n"


@pytest.mark.parametrize("words", [("--watch", "{}"), ("{}", "--watch"), ("--watch", "0.5", "{}")])
def test_a_directory_may_follow_watch(run, words, capfd):
    (run / "status.json").write_text('{"status": "finished"}')
    assert main(["status", *(word.format(run) for word in words)]) == 0
    assert "1 run: 1 finished" in capfd.readouterr().out


def test_an_unknown_option_is_said_by_its_command(run, capfd):
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(run), "--opn"])
    err = capfd.readouterr().err
    assert err.startswith("usage: fsamlab report ")
    assert err.endswith("fsamlab report: error: unrecognized arguments: --opn (did you mean --open?)\n")
