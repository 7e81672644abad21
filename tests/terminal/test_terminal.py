"""What is printed is what it is: brackets and colons of names and messages are no markup; a closed pipe is no error."""

import io
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from support.made_runs import put
from support.runs import ROOT

from fsamlab.command.check_view import print_check
from fsamlab.command.main import COMMANDS, main
from fsamlab.command.status_view import age
from fsamlab.metrics import CLASSIFICATION, Headline
from fsamlab.results import summary
from fsamlab.sweep.plan import JobPlan
from fsamlab.terminal import text as terminal
from fsamlab.terminal.board import SweepBoard
from fsamlab.terminal.progress import describe, print_run, progress

ODD = ("[red]x[/red]", "[/]", ":boom: [link=a]b", "[bold")


@pytest.fixture
def sweep(tmp_path):
    """A finished and a failed run for each odd text, which are names, messages and, but for slashes, directories."""
    root = tmp_path / "[red]runs"
    for number, odd in enumerate(ODD):
        put(root / f"{number}{odd.replace('/', '')}", name=odd)
        put(root / f"{number}{odd.replace('/', '')} failed", name=odd, status="failed", exception=f"E: {odd}")
    return root


def plan(directory):
    return JobPlan(
        overrides=["a=[/]"],
        directory=directory,
        run_id=directory.name,
        config_hash="0",
        config={"optimizer": {"name": "sam"}},
    )


@pytest.fixture(params=[False, True], ids=["plain", "terminal"])
def screen(request, monkeypatch):
    """Show as on a terminal, or not; what tells the two apart is asserted at the end."""
    if request.param:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "300")
    else:
        monkeypatch.setenv("COLUMNS", "300")
        for key in ("FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"):
            monkeypatch.delenv(key, raising=False)
    return request.param


def test_the_end_of_a_sweep(sweep, screen, capsys):
    assert summary.print_sweep(sweep, sorted(sweep.iterdir())) == len(ODD)
    text = capsys.readouterr().out
    assert "4 of 8 runs finished" in text
    for odd in ODD:
        assert f" {odd} " in text  # the table
        assert f"failed: E: {odd}" in text
    assert f"fsamlab collect {sweep} " in text
    assert ("\x1b[" in text) is screen


@pytest.mark.parametrize(
    ("states", "offered", "left_out"),
    [
        (("failed", None), ("resubmit",), ("collect", "report", "less ", "launch.py -m", "queued")),
        (("failed", "finished"), ("resubmit", "collect", "report", "less {}/1/metrics.jsonl"), ("launch.py -m",)),
        (("finished", "finished"), ("collect", "report", "less {}/0/metrics.jsonl", "launch.py -m"), ("resubmit",)),
    ],
)
def test_what_is_offered_after_a_sweep_can_help(tmp_path, capsys, states, offered, left_out):
    for number, status in enumerate(states):
        if status is not None:
            put(tmp_path / str(number), name="sam", status=status)
    summary.print_sweep(tmp_path, [tmp_path / str(number) for number in range(len(states))])
    text = capsys.readouterr().out
    for words in offered:
        assert words.format(tmp_path) in text, words
    for words in left_out:
        assert words not in text, words
    assert ("not begun  1: did not run" in text) is (None in states)


def test_accuracies_are_in_per_cent_with_their_spread(tmp_path, capsys):
    for seed, accuracy in enumerate((0.5, 0.7)):
        put(tmp_path / f"a{seed}", accuracy=accuracy, seed=seed)
    put(tmp_path / "b", name="one", accuracy=0.25)
    main(["collect", str(tmp_path)])
    text = capsys.readouterr().out
    assert " 60.00 ± 14.14 " in text  # n - 1
    assert " 25.00 │" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"), (7200, "2 h ago"), (180000, "2 d ago")],
)
def test_how_long_ago(seconds, text):
    assert age(seconds) == text


def test_values_of_keys_that_not_all_methods_have(tmp_path, capsys):
    put(tmp_path / "a", accuracy=0.5, data={"num_classes": 64})
    put(tmp_path / "b", accuracy=0.6)
    main(["collect", str(tmp_path)])
    lines = [[cell.strip() for cell in line.split("│")[1:4]] for line in capsys.readouterr().out.splitlines()]
    assert ["sam", "64", "1"] in lines
    assert ["sam", "null", "1"] in lines


def test_collect_status_check_and_measurements(sweep, screen, capsys):
    assert main(["collect", str(sweep)]) == 0
    assert f"8 runs in {sweep}/results.csv" in capsys.readouterr().out
    assert main(["status", str(sweep)]) == 1
    text = capsys.readouterr().out
    for number, odd in enumerate(ODD):
        name = f"{number}{odd.replace('/', '')} failed"
        assert f"{name}: E: {odd}" in text
        assert f" {name} " in text  # the table
        assert f"2 of 8 runs: {odd}" in text
    runs = sorted(path for path in sweep.iterdir() if path.is_dir())
    print_check(sweep, [plan(run) for run in runs])
    text = capsys.readouterr().out
    assert all(f"{run.name}  a=[/]" in text for run in runs)
    for run in runs[:2]:
        (run / "measurements").mkdir()
        row = {"step": 1, "epoch": 1.0, "measured": "2026", "note": "[/]", "sharpness/one_step": 0.5}
        (run / "measurements" / "a.jsonl").write_text(json.dumps(row) + "\n")
    for shown in (runs[:1], runs[:2]):
        summary.print_measurements(shown, terminal.console())
        text = capsys.readouterr().out
        assert all(run.name in text for run in shown)
        assert f"{len(shown)} of {len(shown)} runs: [/]" in text


@pytest.mark.parametrize("odd", ODD)
def test_one_run_and_its_progress(tmp_path, monkeypatch, capsys, odd):
    config = SimpleNamespace(optimizer=SimpleNamespace(name=odd), data=SimpleNamespace(name=odd), seed=0)
    found = {f"cost/{part}_seconds": 1.0 for part in ("train", "eval", "diagnostics")}
    found |= {"cost/steps": 1, "cost/epochs": 1, "cost/step_ms": 1.0}
    print_run(config, tmp_path / "[red]", found, f"http://x/{odd}")
    text = capsys.readouterr().out
    assert f"{odd} on {odd}, seed 0" in text
    assert f"http://x/{odd}\n" in text
    assert f"files: {tmp_path / '[red]'}\n" in text
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    trainer = SimpleNamespace(step=0, last_step=2, epoch=0, epochs=1, last_row={}, headline=CLASSIFICATION)
    with progress(trainer, odd, True) as bar:
        bar.update(trainer)
    assert odd in capsys.readouterr().err
    run = put(tmp_path / "run", status="failed", exception=odd)
    with SweepBoard({0: run}, {0: odd}) as board:
        board.started(0)
        board.refresh([0])
        board.bar.refresh()
        board.ended(0, 1)
    text = capsys.readouterr().err
    assert f" {odd}  " in text.partition("failed: ")[0]
    assert f"failed: {odd}" in text


MSE = Headline("mse", "mean squared error", higher_is_better=False, percent=False)
HITS = Headline("hits", "hits within 0.5", higher_is_better=True, percent=True)


def test_a_row_in_words_shows_the_headline_of_the_task():
    row = {"train/loss": 0.25, "val/mse": 0.51234567, "test/mse": 1234.5678, "val/hits": 0.75, "val/acc1": 0.5}
    assert describe(row, MSE) == "loss 0.250  val mse 0.51235  test mse 1234.6"
    assert describe(row, HITS) == "loss 0.250  val hits 75.00 %"
    assert describe(row) == "loss 0.250  val 50.00 %"


def test_the_table_of_one_run_shows_the_headline_of_its_task(tmp_path, capsys):
    config = SimpleNamespace(optimizer=SimpleNamespace(name="sam"), data=SimpleNamespace(name="diabetes"), seed=0)
    found = {f"cost/{part}_seconds": 1.0 for part in ("train", "eval", "diagnostics")}
    found |= {"cost/steps": 1, "cost/epochs": 9, "cost/step_ms": 1.0, "best/epoch": 4.0}
    found |= {"final/val/mse": 0.6, "final/test/mse": 0.7, "best/val/mse": 0.4, "best/test/mse": 0.5}
    print_run(config, tmp_path, {**found, **{f"task/{k}": v for k, v in MSE.record().items()}}, None)
    text = capsys.readouterr().out
    assert re.search(r"epoch +┃ train loss ┃ val mse ┃ test mse", text)
    assert re.search(r"at the end +│ +9 │ +- │ +0.6 │ +0.7 ", text)
    assert re.search(r"at the best validation mean squared error │ +4 │ +│ +0.4 │ +0.5 ", text)


def closing(*words, read=0, code="import sys; from fsamlab.command.main import main; sys.exit(main(sys.argv[1:]))"):
    """Run a command whose reader takes `read` bytes and goes; return exit code and what it said on stderr."""
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    done.stdout.read(read)
    done.stdout.close()
    error = done.stderr.read().decode()
    done.stderr.close()
    return done.wait(60), error


@pytest.mark.parametrize("words", [["status"], ["status", "--json"]])
def test_a_closed_pipe_is_silent(sweep, words):
    assert closing(*words, sweep) == (141, "")


def test_a_closed_pipe_stops_no_command_that_writes_results(sweep):
    assert closing("collect", sweep) == (0, "")
    assert (sweep / "results.csv").is_file()


@pytest.mark.long
def test_a_closed_pipe_is_silent_for_what_prints_much():
    assert closing("wandb-workspace", "demo", "--json") == (141, "")
    assert closing("wandb-workspace", "demo", "--json", read=100) in [(141, ""), (0, "")]  # a pipe may take all of it
    assert closing("check", "+sweeps=quickstart") == (141, "")
    assert closing("--help")[1] == ""
    code = "import runpy, sys; sys.argv = ['launch.py', '--help']; runpy.run_path('launch.py', run_name='__main__')"
    assert closing(code=code) == (141, "")


def test_output_that_the_reader_only_begins_to_read(tmp_path):
    for number in range(2000):
        put(tmp_path / f"{number:04d}{'x' * 200}")
    assert closing("status", tmp_path, "--json", read=100) == (141, "")


def test_another_broken_pipe_is_an_error(monkeypatch, capsys):
    def broken(args):
        raise BrokenPipeError(32, "a worker's")

    monkeypatch.setitem(COMMANDS, "status", broken)
    assert main(["status", "x"]) == 1
    assert "a worker's" in capsys.readouterr().err


def test_streams_that_are_no_files_or_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert main(["status", str(tmp_path / "none")]) == 2
    monkeypatch.setattr("sys.stdout", None)
    assert main(["status", str(tmp_path / "none")]) == 2


def test_a_damaged_file_is_one_line(tmp_path, capsys):
    run = put(tmp_path / "a")
    (run / "summary.json").write_text("{")
    assert main(["collect", str(tmp_path)]) == 1
    line, *_ = capsys.readouterr().out.splitlines()
    assert line.startswith(f"  damaged  a: {run}/summary.json is not a JSON object")
