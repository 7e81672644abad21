"""The metric table: documented in both directions, and a row by pattern for keys that it does not know."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from support.runs import ROOT

from fsamlab import metrics
from fsamlab.metrics.table import OF_BATCHES, OF_SAMPLES, PATTERNS

PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
OF_THE_SUMMARY = ("final/", "best/")
KEY = re.compile(r"`([a-z0-9_]+(?:/[a-z0-9_]+)*)`")


def documented(page):
    """Return {key: unit} of the tables of docs/metrics.md whose columns are the key, its meaning, its unit, ..."""
    found, inside = [], False
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells:
            inside = False
        elif cells[0] == "key":
            inside = cells[2] == "unit"
        elif inside and (keys := KEY.findall(cells[0])):
            units = cells[2].split(", ")
            assert len(units) in (1, len(keys)), line
            found += zip(keys, units if len(units) == len(keys) else units * len(keys))
    assert len(dict(found)) == len(found)
    return dict(found)


def test_every_row_is_on_the_page_with_its_unit_and_every_key_of_the_page_has_a_row():
    # final/... and best/... are one line each on the page: the keys without them have a line of their own
    rows = {row.key: row.unit for row in metrics.ROWS if not row.key.startswith(OF_THE_SUMMARY)}
    assert {row.key.split("/", 1)[1] for row in metrics.ROWS if row.key.startswith(OF_THE_SUMMARY)} <= rows.keys()
    assert len(rows) > 150
    assert documented(PAGE) == rows


def test_a_key_or_unit_that_differs_on_the_page_is_found():
    assert documented(PAGE.replace("`curvature/trace`", "`curvature/trail`")).keys() - {r.key for r in metrics.ROWS}
    assert documented(PAGE.replace("| samples |", "| steps |"))["noise/scale"] == "steps"


def test_keys_in_the_text_of_the_page_have_a_row():
    exact = {row.key for row in metrics.ROWS}
    text = PAGE.split("## A new metric")[0]  # where keys are made up
    named = {key for key in KEY.findall(text) if "/" in key and not key.endswith("_")}  # the others are prefixes
    assert [key for key in sorted(named) if key.removeprefix("final/").removeprefix("best/") not in exact] == []


def test_rows_are_there_once_and_refer_to_rows():
    keys = [row.key for row in metrics.ROWS]
    assert len(set(keys)) == len(keys)
    assert not [key for key in keys if "*" in key]
    for row in metrics.ROWS:
        assert {*(row.ratio_of or ()), *(chart.points for chart in row.charts if chart.points)} <= set(keys)
        assert row.section in metrics.SECTIONS
        assert not row.headline or row.title
    for section in metrics.SECTIONS:
        places = sorted(row.headline for row in metrics.ROWS if row.section == section and row.headline)
        assert places == list(range(1, len(places) + 1))


def test_no_pattern_is_hidden_by_one_before_it():
    samples = [row.key.replace("*", "own") for row in PATTERNS]
    assert [metrics.of(sample) for sample in samples] == list(PATTERNS)


@pytest.mark.parametrize(
    ("key", "section", "family", "percent", "better"),
    [
        ("val/acc10", "accuracy", None, True, "max"),
        ("test/mae", "loss", None, False, "min"),
        ("val/f1", "accuracy", None, False, None),
        ("train/loss_own", "loss", None, False, "min"),
        ("perturbation/own_coefficient", "perturbation", metrics.OF_A_STEP, False, None),
        ("perturbation/own", "perturbation", OF_BATCHES, False, None),
        ("curvature/along_own", "curvature", OF_BATCHES, False, None),
        ("curvature/own", "curvature", OF_SAMPLES, False, None),
        ("diagnostics/perturbation_own", "schedule and cost", OF_BATCHES, False, None),
        ("mine/value", "schedule and cost", None, False, None),
        ("mine/own_share", "schedule and cost", None, True, None),
    ],
)
def test_keys_without_a_row_have_that_of_a_pattern(key, section, family, percent, better):
    row = metrics.of(key)
    assert (row.section, row.family, row.percent, row.better) == (section, family, percent, better)
    assert metrics.of(f"measured/{key}") is metrics.of(f"final/{key}") is row


def test_a_summary_keeps_values_and_no_clock():
    kept = {"val/mse", "test/acc1", "perturbation/own", "mine/value", "train/lr"}
    left = {"step", "epoch", "time", "time/step_ms", "cost/steps", "diagnostics/rho", "foo"}
    assert {key for key in kept | left if metrics.of(key).final} == kept


def test_what_was_measured_at_a_checkpoint_is_a_family_of_its_own():
    assert metrics.family("final/curvature/trace") == OF_SAMPLES
    assert metrics.family("measured/curvature/trace") == f"{OF_SAMPLES} at checkpoints"
    assert metrics.family("measured/diagnostics/num_batches") == f"{OF_BATCHES} at checkpoints"
    assert metrics.family("measured/test/acc1") is None
    measured = ["noise/scale", "final/sharpness/one_step", "measured/perturbation/full_share"]
    assert all(map(metrics.is_measured, measured))
    assert not any(map(metrics.is_measured, ["perturbation/cos_ema", "diagnostics/rho", "test/acc1"]))


def test_accuracies_are_fractions():
    assert all(map(metrics.is_accuracy, ("val/acc1", "measured/test/acc1", "best/test/acc1")))
    assert not any(map(metrics.is_accuracy, ("val/loss", "perturbation/full_share")))
    assert [metrics.factor(key) for key in ("best/test/acc1", "perturbation/skipped_share", "val/loss")] == [
        100,
        100,
        1,
    ]


def test_titles():
    assert metrics.title("measured/curvature/trace") == "Hessian trace (measured at a checkpoint)"
    assert metrics.title("measured/mine/value") == "mine/value (measured at a checkpoint)"
    assert metrics.title("val/acc10") == "val/acc10, %"
    assert metrics.title("perturbation/skipped_share") == "perturbation/skipped_share, %"


@pytest.mark.parametrize(
    ("key", "section"),
    [
        ("test/acc1", "accuracy"),
        ("train/loss_perturbed", "loss"),
        ("perturbation/loss_clean", "perturbation"),
        ("measured/curvature/trace", "curvature"),
        ("time/step_ms", "schedule and cost"),
    ],
)
def test_sections(key, section):
    assert metrics.of(key).section == section


def test_a_page_begins_with_the_headlines():
    keys = ["time/step_ms", "curvature/trace", "val/acc1", "curvature/lambda_2", "curvature/lambda_max", "test/acc1"]
    assert metrics.ordered(keys) == [keys[i] for i in (5, 2, 4, 1, 3, 0)]


def test_the_table_imports_nothing_heavy():
    code = "import sys, fsamlab.metrics; print(sorted(m for m in sys.modules if m.startswith('fsamlab')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = ["fsamlab", *(f"fsamlab.metrics{name}" for name in ("", ".headline", ".row", ".table"))]
    assert done.stdout.strip() == str(modules)
