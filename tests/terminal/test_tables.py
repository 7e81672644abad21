"""At 80 columns nothing is broken in the middle of a word, and runs are told apart by what varies."""

import argparse
import fnmatch
import io
import json
import re

import pytest
from rich.console import Console
from support.made_runs import put

from fsamlab.command import help, main
from fsamlab.command.options import parser
from fsamlab.rundir.find import what_varies
from fsamlab.terminal import tables
from fsamlab.terminal.tables import Column, fitted, shortened, table, without_common

NAMES = [f"{m}-small_cnn-digits-s{s}-{7 * s + i:08x}" for i, m in enumerate(("sgd", "sam_full_ema")) for s in (0, 10)]


def drawn(found, width):
    screen = Console(file=io.StringIO(), width=width)
    screen.print(found)
    return screen.file.getvalue().splitlines()


def wide_table(width):
    columns = [Column("run", names=True), Column("status"), Column("at best validation epoch", right=True)]
    columns += [Column("nothing", rank=1), Column("step", right=True, rank=2), Column("loss", right=True, rank=3)]
    return table(columns, [[name, "finished", "88.80 ± 2.04", "-", "384/384", "0.123"] for name in NAMES], width)


def test_a_table_with_room_is_whole():
    lines = drawn(wide_table(120), 120)
    assert all(name in "\n".join(lines) for name in NAMES)
    assert "at best validation epoch" in lines[1]
    assert "no room" not in lines[-1]


def test_what_is_left_out_goes_by_rank_and_is_named():
    lines = drawn(wide_table(78), 78)
    assert max(map(len, lines)) <= 78
    assert lines[-1].strip() == "no room for nothing"  # which is empty, whatever its rank
    lines = drawn(wide_table(66), 66)
    assert lines[-1].strip() == "no room for nothing, step, loss"
    assert sum("sam_full_ema-*-s10-" in line for line in lines) == 1


@pytest.mark.parametrize("width", range(50, 130, 4))
def test_no_cell_is_broken_at_any_width(width):
    lines = drawn(wide_table(width), width)
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if line.startswith("│")]
    assert len(rows) == len(NAMES)
    assert all("finished" in row and "88.80 ± 2.04" in row for row in rows)


@pytest.mark.parametrize("width", [16, 20, 26, 30])
def test_a_shortened_name_still_finds_its_directory_and_no_other(width):
    for names in ([shortened(name, width) for name in NAMES], fitted(NAMES, width), without_common(NAMES)):
        for pattern, name in zip(names, NAMES):
            assert [n for n in NAMES if fnmatch.fnmatchcase(n, pattern)] == [name]
        assert names is without_common(NAMES) or max(map(len, names)) <= max(width, tables.LEAST, 28)


def test_names_without_a_common_part_and_a_single_name_stay_readable():
    assert without_common(["a-b-c", "d-e-f"]) == ["a-b-c", "d-e-f"]
    assert without_common(["a-b", "c-d-e"]) == ["a-b", "c-d-e"]
    assert without_common(["sam-net-data-s0-12"]) == ["sam-*-12"]
    assert fitted([], 10) == []


def test_what_varies_is_what_the_name_does_not_say():
    jobs = [
        ["optimizer=sam", "seed=0", f"optimizer.rho={r}", "train.epochs=3", f"tracker={t}"]
        for r, t in (("1", "x"), ("2", "y"))
    ]
    assert what_varies(jobs) == ["rho=1", "rho=2"]
    assert what_varies([["a.width=1", "b.width=2"], ["a.width=2", "b.width=3"], []]) == [
        "a.width=1 b.width=2",
        "a.width=2 b.width=3",
        "",
    ]
    assert what_varies([]) == []
    assert what_varies([["task.loss=a\\:b"], ["task.loss=a\\:c"]]) == ["loss=a:b", "loss=a:c"]  # as Hydra escapes it


@pytest.fixture
def sweep(tmp_path):
    """Two radii and two widths under one method's name, one run failed."""
    root, jobs = tmp_path / "s", []
    for i, (rho, width) in enumerate(((0.05, 8), (0.05, 16), (0.2, 8), (0.2, 16))):
        run = put(
            root / f"fsam-small_cnn-digits-s0-{i:08x}",
            name="fsam",
            status="failed" if i == 3 else "finished",
            exception="RuntimeError: " + "a long reason " * 8,
            accuracy=0.5,
        )
        state = json.loads((run / "status.json").read_text())
        latest = {"train/loss": 1.23456, "val/acc1": 0.8, "test/acc1": 0.75}
        state.update(step=100_000, last_step=120_000, latest=latest, updated="2024-01-01T00:00:00+00:00", attempts=3)
        (run / "status.json").write_text(json.dumps(state))
        words = ["optimizer=fsam", "seed=0", f"optimizer.rho={rho}", f"model.width={width}"]
        (run / "overrides.yaml").write_text(json.dumps(words))
        (run / "config.yaml").write_text(
            json.dumps(
                {
                    "name": "s",
                    "seed": 0,
                    "optimizer": {"name": "fsam", "rho": rho},
                    "model": {"name": "small_cnn", "width": width},
                }
            )
        )
        jobs.append(words)
    return root


def test_every_command_fits_into_80_columns_and_names_what_varies(sweep, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main.main(["status", str(sweep)]) == 1
    out = capsys.readouterr().out
    assert "rho=0.05 width=16" in out
    assert re.search(r"failed  fsam-small_cnn-digits-s0-00000003\s+\(rho=0.2 width=16\)", out)
    assert "no room for" in out
    assert all(len(line) <= 80 for line in out.splitlines() if str(sweep) not in line)
    assert main.main(["collect", str(sweep)]) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines() if str(sweep) not in line)
    assert re.search(r"\(rho=0.2\s+width=16\): RuntimeError", out)


def test_a_log_without_a_width_keeps_lines_and_names_whole(sweep, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    main.main(["status", str(sweep)])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith("a long reason") and "(rho=0.2 width=16)" in line for line in lines)
    assert any("│ fsam-small_cnn-digits-s0-00000000 │ rho=0.05 width=8 " in line for line in lines)


def test_help_pages_fit_into_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    pages = [help.page(), parser().format_help()]
    (subparsers,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    pages += [one.format_help() for one in subparsers.choices.values()]
    assert len(pages) > 10
    assert max(len(line) for page in pages for line in page.splitlines()) <= 80


def test_uploads_say_which_run_they_are_of(sweep, monkeypatch, capsys):
    from fsamlab.command import sync_view

    monkeypatch.setenv("COLUMNS", "80")
    runs = sorted(sweep.iterdir())
    done = sync_view.Outcome(num_sent=3, num_there=4)
    monkeypatch.setattr(sync_view, "sync_runs", lambda runs, **options: ((run, done) for run in runs))
    assert sync_view.show_sync(runs, dry_run=False) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "fsam-small_cnn-digits-s0-00000001 (rho=0.05 width=16): 3 rows sent" in out
