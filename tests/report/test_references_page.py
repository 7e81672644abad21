"""Reference numbers on the page: the table beside ours, the curve under ours, and nothing for other settings."""

import pytest
from support.browser import ACCURACY, choose, description, ends, line
from support.pages import data_of, written
from support.reference_runs import put_run

from fsamlab.report.page import write_report
from fsamlab.results.reference_files import known_references

SAM = next(one for one in known_references() if one.name == "nblt-sam")
LABEL = "SAM, official log (nblt/F-SAM, seed\N{NO-BREAK SPACE}1)"


@pytest.fixture
def root(tmp_path):
    for seed in (0, 1):
        put_run(
            tmp_path / "made" / f"sam-{seed}", "optimizer=sam", seed=seed, curve=(60.0, 70.0, 80.9, 80.7 + 0.2 * seed)
        )
    put_run(tmp_path / "made" / "fsam", "optimizer=fsam", "optimizer.lmbda=0.9", curve=(60.0, 70.0, 80.0))
    return tmp_path / "made"


def test_the_same_setting_stands_in_the_table_with_its_source(root):
    html, page = written(root)
    assert "Beside reference numbers" in page.text
    hard = "nblt\N{NON-BREAKING HYPHEN}sam"
    assert f"SAM last 2 80.80 ± 0.14 80.78 +0.02 {hard}" in page.text
    assert f"SAM best on test 2 80.90 ± 0.00 80.88 +0.02 {hard}" in page.text
    assert "nblt/F-SAM at 2e2f989, results/SAM/CIFAR100" in page.text
    assert "nblt-fsam" not in page.text  # lambda 0.9 has no reference
    (curve,) = data_of(html)["references"]
    names = [run["name"] for run in data_of(html)["runs"]]
    assert [names[run] for run in curve["runs"]] == ["sam-0", "sam-1"]
    assert (curve["label"], curve["metric"]) == (LABEL, "test/acc1")
    assert (curve["x"], tuple(curve["y"])) == ([*range(1, 201)], SAM.curve)


def test_other_settings_have_nothing(tmp_path):
    put_run(tmp_path / "made" / "sam", "optimizer=sam", optimizer__rho=0.1)
    html, page = written(tmp_path / "made")
    assert "Beside reference numbers" not in page.text
    assert data_of(html)["references"] == []


def test_a_run_that_still_trains_has_the_curve_and_no_table(tmp_path):
    put_run(tmp_path / "made" / "sam", "optimizer=sam", status="preempted")
    html, page = written(tmp_path / "made")
    assert "Beside reference numbers" not in page.text
    assert [curve["runs"] for curve in data_of(html)["references"]] == [[0]]


def test_the_reference_lies_under_the_runs_and_enters_no_mean(opened, root):
    write_report([root], root / "report.html")
    page = opened(root / "report.html", width=600)
    found = ends(description(page, ACCURACY))
    assert found[LABEL] == (80.78, None, 1)
    assert found["SAM"] == (80.80, 0.14, 2)
    assert line(page, ACCURACY, LABEL)[1] == list(SAM.curve)
    widths = page.eval_on_selector(
        f"{ACCURACY} .plot", "n => n.uplot.series.filter((s) => s.label).map((s) => s.width)"
    )
    assert min(widths[1:]) < max(widths[1:])
    chip = page.locator(f"{ACCURACY} .legend .chip")
    assert chip.all_inner_texts() == [LABEL]
    assert page.evaluate("document.documentElement.scrollWidth") <= 600
    choose(page, "x axis", "step")  # the log has epochs alone
    assert LABEL not in description(page, ACCURACY)
    assert chip.count() == 0
    choose(page, "x axis", "epoch")
    page.locator("#legend .chip", has_text="SAM").filter(has_not_text="F-SAM").click()
    assert LABEL not in description(page, ACCURACY)
