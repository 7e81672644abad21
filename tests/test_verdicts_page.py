"""docs/verdicts.md shows what `fsamlab verdict` makes of the committed runs."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
from functools import cache

import pandas as pd
import pytest
from support.runs import ROOT

from fsamlab.command.main import main
from fsamlab.results.claims import read_claims

CLAIMS = ROOT / "docs" / "verdicts" / "claims.yaml"
PAGE = (ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8")


@cache  # the command reads 1,500 runs
def printed():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["verdict", str(CLAIMS), "--markdown"]) in (0, 3, 4)
    return out.getvalue().strip()


def test_the_table_is_that_of_the_command():
    assert printed().count("\n") > 10
    assert printed() in PAGE


def test_the_headline_of_the_readme_is_that_of_the_claims():
    found = re.findall(r"\*\*(holds|does not hold|undecided)\*\*", printed())
    assert len(found) == len(read_claims(CLAIMS).claims)
    counts = {word: found.count(word) for word in ("holds", "does not hold", "undecided")}
    said = re.search(
        r"Of (\d+) claims (\d+) hold, (\d+) do(?:es)? not, and (\d+) (?:are|is) undecided",
        " ".join((ROOT / "README.md").read_text(encoding="utf-8").split()),
    )
    assert said
    assert [int(one) for one in said.groups()] == [len(found), *counts.values()]


def test_every_link_of_the_page_leads_to_a_file():
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE)
    assert {f"verdicts/{path.name}" for path in CLAIMS.parent.glob("*.svg")} <= set(links)  # no picture without a place
    for link in links:
        assert link.startswith("http") or (CLAIMS.parent.parent / link).exists(), link


@pytest.mark.long
def test_the_pictures_are_made_from_the_committed_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pictures.py", str(tmp_path)])
    runpy.run_path(str(CLAIMS.parent / "pictures.py"), run_name="__main__")
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn | {"claims.svg"} == {path.name for path in CLAIMS.parent.glob("*.svg")}


def test_the_committed_runs_are_finished_and_small():
    for path in sorted(CLAIMS.parent.glob("*.csv")):
        runs = pd.read_csv(path)
        assert set(runs["status"]) == {"finished"}
        assert not runs.duplicated(["run_id", "seed"]).any()
        assert path.stat().st_size < 2**20
