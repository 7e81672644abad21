"""The page in a real browser: a height that stays, means over all runs of a group, radii that differ."""

import json

import pytest
from support.browser import ACCURACY, CHART, choose, description, line, page_of
from support.made_runs import make_run, make_sweep, row
from support.marks import long_but

from fsamlab.report.page import write_report

PLACES = """() => {
    const nodes = [...document.querySelectorAll("h2, section, figure, table")];
    const seen = nodes.filter((node) => node.getClientRects().length);
    const tops = seen.map((node) => Math.round(node.getBoundingClientRect().top + scrollY));
    return [document.documentElement.scrollHeight, ...tops];
}"""
DETAILS = "details:not(.chart details) > summary"


@pytest.fixture(scope="module")
def high(tmp_path_factory):
    """Runs with everything a page can show: curves, single points, decomposition, sensitivity, an early end."""
    root = tmp_path_factory.mktemp("runs") / "made"
    for optimizer in ("sgd", "sam", "fsam"):
        for seed in (0, 1):
            for rho in (0.1, 0.2, 0.8):
                measured = {"curvature/lambda_max": rho + seed, "sharpness/one_step": -rho, "mine/value": rho}
                epochs = 5 if rho < 0.8 or seed else 4
                rows = [row(optimizer, seed, e) | {"noise/grad_sq": 3.0 - e} for e in range(1, epochs + 1)]
                rows[-1]["late/value"] = rho
                directory = root / f"{optimizer}-{rho}-{seed}"
                make_run(directory, optimizer, seed, rho=rho, epochs=epochs, rows=rows, measured=measured)
    write_report([root], root / "report.html")
    return root / "report.html"


def scrolled(page):
    """Return where everything stands, before and after scrolling through the page."""
    page.evaluate("scrollTo(0, 0)")
    before = page.evaluate(PLACES)
    for y in range(0, before[0], 600):
        page.evaluate(f"scrollTo(0, {y})")
        page.wait_for_timeout(30)
    undrawn = "[...document.querySelectorAll('.plot')].filter((n) => n.offsetParent && !n.children.length).length"
    page.wait_for_function(f"() => {undrawn} === 0")
    return before, page.evaluate(PLACES)


@pytest.mark.parametrize("width", long_but((1400,), [1400, 600]))
def test_nothing_moves_while_one_scrolls(opened, high, width):
    page = opened(high, width=width)
    before, after = scrolled(page)
    assert page.locator("figure table.bars").count() == 2
    assert page.locator("#decomposition table.bars").count() == 10
    assert after == before
    for box in page.locator("label:has-text('log scale') input").all():
        box.check()  # which adds a sentence below a chart
    for summary in page.locator(DETAILS).all():
        summary.click()
    for axis in ("step", "time"):
        choose(page, "x axis", axis)
        before, after = scrolled(page)
        assert after == before


def test_a_mean_ends_with_its_first_run(opened, tmp_path):
    for seed, epochs in enumerate((5, 3, 5)):
        make_run(tmp_path / f"sam-{seed}", "sam", seed, epochs=epochs)
        rows = [row("fsam", seed, e) for e in range(1, 6)]
        if seed == 0:
            rows[4]["test/acc1"] = rows[1]["train/loss"] = float("nan")
        make_run(tmp_path / f"fsam-{seed}", "fsam", seed, rows=rows)
    page = page_of(opened, tmp_path)
    description(page, ACCURACY)
    assert line(page, ACCURACY, "SAM")[0] == [1, 2, 3]
    assert line(page, ACCURACY, "F-SAM")[0] == [1, 2, 3, 4]
    text = page.locator(ACCURACY).inner_text()
    assert "F-SAM: drawn to epoch 4, where all 3 runs have values." in text
    assert "SAM: drawn to epoch 3, where all 3 runs have values." in text
    loss = CHART.format("training loss")
    description(page, loss)
    assert line(page, loss, "F-SAM")[0] == [1, 2, 3, 4, 5]  # a gap is interpolated
    assert "F-SAM: drawn" not in page.locator(loss).inner_text()
    ratio = CHART.format("noise scale tr Sigma / |mu|^2, samples (ratio of means)")
    description(page, ratio)
    assert line(page, ratio, "SAM") == ([1, 2, 3], pytest.approx([5, 5, 5]))
    assert "SAM: drawn to epoch 3" in page.locator(ratio).inner_text()
    choose(page, "x axis", "step")
    assert "SAM: drawn to step 30" in page.locator(ACCURACY).inner_text()
    page.locator("#legend .chip", has_text="F-SAM").click()
    assert "F-SAM" not in page.locator(ACCURACY).inner_text()


def test_sentences_on_ends_are_merged(opened, tmp_path):
    for i, method in enumerate(("sam", "fsam", "sgd", "asam")):
        for seed, epochs in enumerate((5, 3)):
            make_run(tmp_path / f"{method}-{seed}", method, seed, epochs=epochs, model="a" if i < 2 else "b")
    page = page_of(opened, tmp_path)
    accuracy = page.locator(ACCURACY)
    assert "4 groups are drawn only where all of a group's runs have values." in accuracy.inner_text()
    choose(page, "Group by", "model.name")
    assert "b, a: drawn to epoch 3, where all of their runs have values." in accuracy.inner_text()


def test_runs_that_have_nothing_in_common_have_no_mean(opened, tmp_path):
    for seed, epochs in enumerate(((1, 2), (4, 5))):
        make_run(tmp_path / f"s{seed}", seed=seed, rows=[row("sam", seed, e) for e in epochs])
    page = page_of(opened, tmp_path)
    description(page, ACCURACY)
    assert "no values in the groups shown" in page.locator(ACCURACY).inner_text()
    assert "SAM: not drawn, no epoch is in all runs." in page.locator(ACCURACY).inner_text()


def test_the_mean_is_over_the_runs_that_have_the_metric(opened, tmp_path):
    for seed, epochs in enumerate((5, 3, 5)):
        rows = [row("sam", seed, e) | ({"val/loss": 0.1 * e} if seed < 2 else {}) for e in range(1, epochs + 1)]
        make_run(tmp_path / f"s{seed}", seed=seed, rows=rows)
    page = page_of(opened, tmp_path)
    loss = CHART.format("validation loss")
    description(page, loss)
    assert line(page, loss, "SAM")[0] == [1, 2, 3]
    assert "SAM: drawn to epoch 3, where all 2 runs have values." in page.locator(loss).inner_text()


def test_checkpoints_of_their_own_are_one_point(opened, tmp_path):
    for seed, epoch in enumerate((3, 5)):
        make_run(tmp_path / f"s{seed}", seed=seed, epochs=epoch, measured={"curvature/trace": 1.0 + seed})
    page = page_of(opened, tmp_path)
    figure = page.locator(CHART.format("Hessian trace (measured at a checkpoint)"))
    assert "at epoch 4" in figure.inner_text()
    assert "1.50 ± 0.71 (n = 2)" in figure.inner_text()
    assert "SAM: the mean of values at epoch 3, 5." in figure.inner_text()


def radii(root, **of_method):
    for method, radius in of_method.items():
        summary = {"diagnostics/perturbation_rho": radius}
        make_run(root / method, method, summary=summary, model="b" if method == "fsam" else "a")
    return root


def test_rises_at_different_radii_are_not_on_one_scale(opened, tmp_path):
    page = page_of(opened, radii(tmp_path, sgd=0.05, sam=0.2, fsam=0.2))
    friendly = page.locator("table.bars", has_text="Friendliness")
    captions = friendly.locator("caption").all_inner_texts()
    assert [text.split(":")[0] for text in captions] == [
        "Friendliness at radius 0.2, trained with F-SAM",
        "Friendliness at radius 0.2, trained with SAM",
        "Friendliness at radius 0.05, trained with SGD",
    ]
    warning = page.locator("#decomposition .warning")
    assert warning.inner_text() == (
        "Measured at different radii (0.05, 0.2): rises may not be compared. Bars have a scale for each radius."
    )
    page.locator("summary", has_text="more of perturbation").click()
    chart = page.locator(CHART.format("perturbation/rise_batch_sam"))
    assert "Measured at different radii (0.05, 0.2): rises may not be compared." in chart.inner_text()
    page.locator("#legend .chip", has_text="SGD").click()
    assert not warning.is_visible()
    assert "radii" not in chart.inner_text()
    choose(page, "Group by", "model.name")
    assert "at radius 0.05 and 0.2, trained with a:" in page.locator("#decomposition").inner_text()
    assert warning.is_visible()


def test_a_radius_has_a_scale_of_its_own(opened, tmp_path):
    page = page_of(opened, radii(tmp_path, sgd=0.05, sam=0.2))
    path = tmp_path / "sgd" / "metrics.jsonl"
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**r, "perturbation/rise_batch_sam": 9.0}) + "\n" for r in rows))
    page = page_of(opened, tmp_path)
    bars = page.locator("table.bars", has_text="Friendliness").locator("tr:has(th:text-is('SAM')) td:nth-child(2)")
    share = "cells => cells.map((c) => parseFloat(c.querySelector('.bar').style.width))"
    assert bars.evaluate_all(share) == [100, 100]


def test_a_negative_cosine_is_said_beside_the_share(opened, tmp_path):
    for method, cosine in (("sam", -0.5), ("fsam", 0.5)):
        make_run(tmp_path / method, method, rows=[row(method, 0, 1) | {"perturbation/cos_batch_full": cosine}])
    page = page_of(opened, tmp_path)
    heads = page.locator("table.bars", has_text="shares of").locator("tbody th").all_inner_texts()
    assert heads == ["F-SAM", "SAM (cosine < 0)"]


def test_other_controls_leave_hidden_what_is_hidden(opened, tmp_path):
    page = page_of(opened, make_sweep(tmp_path / "made", ("sgd", "sam"), seeds=2))
    page.locator("#legend .chip", has_text="SGD").click()
    choose(page, "x axis", "step")
    page.get_by_label("± std").uncheck()
    page.locator("#theme").click()
    assert page.locator("#legend .chip[aria-pressed=false]").all_inner_texts() == ["SGD"]
    choose(page, "Group by", "optimizer.name")  # the same groups by another name
    assert page.locator("#legend .chip[aria-pressed=false]").all_inner_texts() == ["SGD"]
