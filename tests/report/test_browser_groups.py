"""The page in a real browser: groups that can be told apart, what they mix, values that are few or cannot be drawn."""

import re
from itertools import pairwise

import pytest
import yaml
from support.browser import ACCURACY, CHART, choose, description, ends, line, looks, page_of
from support.made_runs import make_run, make_sweep, row


def test_groups_of_one_colour_are_told_apart(opened, tmp_path):
    for model in ("a", "b", "c"):
        for optimizer in ("sgd", "sgd_2x", "adamw"):
            make_run(tmp_path / f"{optimizer}-{model}", optimizer, model=model)
    found = looks(page_of(opened, tmp_path))
    assert len(found) == len(set(found.values())) == 9
    assert found["SGD, 2x epochs, a"][1] == "5 3"  # a method's first group looks like the method


def test_groups_of_several_methods_are_told_apart(opened, tmp_path):
    for i in range(25):
        for optimizer in ("sam", "fsam"):
            make_run(tmp_path / f"{optimizer}{i:02}", optimizer, rho=0.01 * (i + 1), epochs=2)
    page = page_of(opened, tmp_path)
    choose(page, "Group by", "optimizer.rho")
    assert len(set(looks(page).values())) == 25
    assert "also differ in optimizer.name." in page.locator("#notes").inner_text()
    choose(page, "and", "optimizer.name")
    assert "differ" not in page.locator("#notes").inner_text()


def test_finished_runs_have_the_methods_look_and_stand_first(opened, tmp_path):
    make_run(tmp_path / "a", "sgd_2x", status="failed", exception="x", epochs=2)
    make_run(tmp_path / "b", "sgd_2x", seed=1)
    found = looks(page_of(opened, tmp_path))
    assert list(found) == ["SGD, 2x epochs", "SGD, 2x epochs (failed)"]
    assert found["SGD, 2x epochs"][1] == "5 3"


def test_keys_that_would_look_the_same_are_written_out(opened, tmp_path):
    for i in range(2):
        config_path = make_run(tmp_path / f"{i}") / "config.yaml"
        config = yaml.safe_load(config_path.read_text())
        config["optimizer"]["size"] = config["data"]["size"] = i
        config_path.write_text(yaml.safe_dump(config))
    page = page_of(opened, tmp_path)
    choose(page, "Group by", "optimizer.size")
    assert list(looks(page)) == ["optimizer.size 0", "optimizer.size 1"]


def test_what_a_log_scale_cannot_show_is_said(opened, tmp_path):
    rows = [{**row("sam", 0, e), "noise/grad_sq": -0.1, "noise/trace_sigma": e - 3.0} for e in range(1, 6)]
    make_run(tmp_path / "a", rows=rows)
    page = page_of(opened, tmp_path)
    page.locator("section[aria-labelledby=curves-noise] label:has-text('log scale') input").check()
    sigma = page.locator(CHART.format("tr Sigma"))
    sigma.scroll_into_view_if_needed()
    page.wait_for_function("node => node.innerText.includes('log scale')", arg=sigma.element_handle())
    assert "3 points at or below 0 have no place on a log scale" in sigma.inner_text()
    scale = CHART.format("noise scale tr Sigma / |mu|^2, samples (ratio of means)")
    description(page, scale)
    assert "no values in the groups shown" in page.locator(scale).inner_text()
    assert "no value where the mean of the denominator is not positive" in page.locator(scale).inner_text()
    description(page, CHART.format("|mu|^2, unbiased"))
    assert "no positive value" in page.locator(CHART.format("|mu|^2, unbiased")).inner_text()


def test_a_band_below_zero_ends_below_the_line_on_a_log_scale(opened, tmp_path):
    for seed, value in enumerate((0.1, 1.0)):
        make_run(tmp_path / f"{seed}", seed=seed, rows=[{**row("sam", 0, e), "train/loss": value} for e in (1, 2, 3)])
    page = page_of(opened, tmp_path)
    loss = CHART.format("training loss")
    description(page, loss)
    page.locator("section[aria-labelledby=curves-loss] label:has-text('log scale') input").check()
    assert page.eval_on_selector(f"{loss} .plot", "n => n.uplot.data[3]") == pytest.approx([0.275] * 3)


def test_lines_with_other_points_say_where_theirs_are(opened, tmp_path):
    for i, (optimizer, epochs) in enumerate((("sam", range(1, 12)), ("fsam", (1, 6, 11)))):
        rows = [{**row(optimizer, 0, e), "train/loss": float("nan") if e == 5 else 0.1 * e} for e in epochs]
        make_run(tmp_path / f"{i}", optimizer, rows=rows, epochs=11)
    page = page_of(opened, tmp_path)
    loss = CHART.format("training loss")
    description(page, loss)
    assert line(page, loss, "SAM") == (
        [1, 2, 3, 4, 6, 7, 8, 9, 10, 11],
        pytest.approx([*(0.1, 0.2, 0.3, 0.4), *(0.1 * e for e in range(6, 12))]),
    )
    over = page.locator(f"{loss} .u-over")
    over.hover(position={"x": 0.3 * over.bounding_box()["width"], "y": 20})
    assert page.locator(".tooltip").inner_text().split("\n") == [
        "epoch 4",
        "F-SAM: 0.6 (n = 1) at 6",
        "SAM: 0.4 (n = 1)",
    ]


def test_bands_of_accuracies_fit_in(opened, tmp_path):
    for seed in (0, 1):
        rows = [{**row("sam", 0, e), "test/acc1": 0.5 + 0.2 * seed + 0.01 * e} for e in range(1, 12)]
        make_run(tmp_path / f"s{seed}", seed=seed, rows=rows)
    page = page_of(opened, tmp_path)
    description(page, ACCURACY)
    scale = "document.querySelector('.plot').uplot.scales.y"
    assert page.evaluate(f"{scale}.max") >= 71 + 14.14
    assert page.evaluate(f"{scale}.min") <= 62 - 14.14
    page.get_by_label("± std").uncheck()
    page.wait_for_function(f"() => {scale}.max < 72")


def test_a_ratio_where_a_part_is_missing(opened, tmp_path):
    rows = [{**row("sam", 0, e), "noise/trace_sigma": 10.0 * e, "noise/grad_sq": 1.0} for e in range(1, 4)]
    rows[0]["noise/grad_sq"] = float("nan")
    measured = {"noise/trace_sigma": 4.0, "noise/grad_sq": 1.0, "noise/scale": 4.0}
    make_run(tmp_path / "s0", rows=rows, epochs=3, measured=measured)
    measured = {"noise/trace_sigma": 8.0, "noise/grad_sq": 3.0, "noise/scale": 8 / 3}
    make_run(tmp_path / "s1", seed=1, rows=rows, epochs=3, measured=measured)
    page = page_of(opened, tmp_path)
    title = "noise scale tr Sigma / |mu|^2, samples (ratio of means)"
    description(page, CHART.format(title))
    assert line(page, CHART.format(title), "SAM") == ([2, 3], [20, 30])
    figure = page.locator(CHART.format(f"{title} (measured at a checkpoint)"))
    figure.scroll_into_view_if_needed()
    assert "3 (n = 2)" in figure.locator("table.bars").inner_text()  # 6 / 2, not the mean of 4 and 2.67


def test_sensitivity_of_a_ratio_is_one_of_means(opened, tmp_path):
    for rho in (0.1, 0.2):
        for seed in (0, 1):
            make_run(tmp_path / f"{rho}-{seed}", seed=seed, rho=rho)
    page = page_of(opened, tmp_path)
    choose(page, "y axis", "final/noise/scale")
    found = ends(description(page, CHART.format("sensitivity to optimizer.rho")))
    assert found["SAM"] == (6.0, None, 2)  # 15 / 2.5; the mean of 10 and 5 is 7.5


def test_what_perturbs_nothing_is_a_level(opened, tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"sgd-{seed}", "sgd", seed, rho=0.0)
        for rho in (0.1, 0.2, 0.8):
            make_run(tmp_path / f"sam-{rho}-{seed}", seed=seed, rho=rho)
    page = page_of(opened, tmp_path)
    chart = CHART.format("sensitivity to optimizer.rho")
    assert ends(description(page, chart))["SGD"] == (pytest.approx(41.5), pytest.approx(0.71), 2)
    x, *lines = page.eval_on_selector(f"{chart} .plot", "n => n.uplot.data")
    assert x == [0.1, 0.2, 0.8]  # SGD has a 0 there, and no place on a logarithmic axis
    assert page.eval_on_selector(f"{chart} .plot", "n => n.uplot.scales.x.distr") == 3
    labels = page.eval_on_selector(f"{chart} .plot", "n => n.uplot.series.slice(1).map((s) => s.label)")
    sgd = lines[labels.index("SGD")]
    assert [sgd[0], sgd[2]] == pytest.approx([41.5, 41.5])


def test_many_sensitivity_lines_are_cut_and_said(opened, tmp_path):
    for i in range(32):
        for rho in (0.1, 0.2):
            make_run(tmp_path / f"{i:02}-{rho}", model=f"m{i:02}", rho=rho, epochs=1)
    page = page_of(opened, tmp_path)
    assert page.locator("#sensitivity .chip").count() == 30
    assert "32 lines: the first 30 are drawn." in page.locator("#sensitivity").inner_text()


def test_values_of_another_epoch_say_so(opened, tmp_path):
    make_sweep(tmp_path / "made", ("sam",), seeds=2)
    make_run(tmp_path / "made" / "z", "fsam", epochs=2, status="failed", exception="x")
    page = page_of(opened, tmp_path / "made")
    page.locator("#all-runs").scroll_into_view_if_needed()
    shares = page.locator("table.bars", has_text="shares of")
    assert "F-SAM (failed) (at epoch 2)" in shares.inner_text()
    assert "SAM (at" not in shares.inner_text()
    friendly = page.locator("table.bars", has_text="Friendliness")
    friendly.first.wait_for()
    assert [re.search("with (.*):", text)[1] for text in friendly.locator("caption").all_inner_texts()] == [
        "SAM",
        "F-SAM (failed) (at epoch 2)",
    ]
    widths = friendly.locator(".bar:not(.pale)").evaluate_all(
        "bars => bars.map((b) => b.getBoundingClientRect().width)"
    )
    assert widths[0] == pytest.approx(widths[1] * 5 / 2, rel=0.02)  # .02 an epoch, one scale in all tables


def test_bars_begin_at_zero(opened, tmp_path):
    for optimizer, value in (("sgd", 3.0), ("sam", -1.0)):
        make_run(tmp_path / optimizer, optimizer, measured={"curvature/trace": value})
    page = page_of(opened, tmp_path)
    figure = page.locator(CHART.format("Hessian trace (measured at a checkpoint)"))
    figure.scroll_into_view_if_needed()
    edges = "nodes => nodes.map((n) => n.getBoundingClientRect()).map((box) => [box.left, box.right])"
    figure.locator(".bar").first.wait_for()
    (sam, sgd), (zero, _) = figure.locator(".bar").evaluate_all(edges), figure.locator(".zero").evaluate_all(edges)
    assert sam[1] == pytest.approx(zero[0], abs=1)
    assert sgd[0] == pytest.approx(zero[0], abs=1)
    assert sgd[1] - sgd[0] == pytest.approx(3 * (sam[1] - sam[0]), abs=2)


def test_small_values_are_short(opened, tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"s{seed}", seed=seed, measured={"curvature/trace": 2e-5 + 1e-5 * seed})
    page = page_of(opened, tmp_path)
    figure = page.locator(CHART.format("Hessian trace (measured at a checkpoint)"))
    figure.scroll_into_view_if_needed()
    assert "2.50e-5 ± 7.07e-6 (n = 2)" in figure.locator("table.bars").inner_text()
    choose(page, "x axis", "time")
    page.wait_for_function("node => node.innerText.includes('checkpoints have none')", arg=figure.element_handle())


def test_nothing_is_said_of_a_mean_that_has_no_time(opened, tmp_path):
    for seed, epochs in ((0, 4), (1, 5)):  # each measured at its own end
        make_run(tmp_path / f"s{seed}", seed=seed, epochs=epochs, measured={"curvature/trace": 2.0})
    page = page_of(opened, tmp_path)
    figure = page.locator(CHART.format("Hessian trace (measured at a checkpoint)"))
    figure.scroll_into_view_if_needed()
    assert "the mean of values at epoch 4, 5" in figure.inner_text()
    choose(page, "x axis", "time")
    page.wait_for_function("node => node.innerText.includes('checkpoints have none')", arg=figure.element_handle())
    assert "the mean of values" not in figure.inner_text()


def test_finished_runs_without_a_summary_still_make_a_page(opened, tmp_path):
    for rho in (0.1, 0.2):
        (make_run(tmp_path / f"{rho}", rho=rho) / "summary.json").unlink()
    page = page_of(opened, tmp_path)
    assert page.locator("#legend .chip").count() == 2
    assert page.locator("#sensitivity figure").count() == 0
    page.locator("#runs summary").click()
    page.locator("#runs tbody tr").first.wait_for()


def test_a_sensitivity_with_zero_has_no_log_scale(opened, tmp_path):
    for rho in (0.0, 0.1, 0.8):
        make_run(tmp_path / f"{rho}", rho=rho)
    page = page_of(opened, tmp_path)
    chart = CHART.format("sensitivity to optimizer.rho")
    description(page, chart)
    assert not page.get_by_label("log x").is_checked()
    page.get_by_label("log x").check()
    assert page.eval_on_selector(f"{chart} .plot", "n => n.uplot.scales.x.distr") != 3


def test_another_grouping_shows_what_was_hidden(opened, tmp_path):
    page = page_of(opened, make_sweep(tmp_path / "made", ("sgd", "sam"), seeds=2))
    page.locator("#legend .chip").first.click()
    assert len(ends(description(page, ACCURACY))) == 1
    choose(page, "Group by", "seed")
    choose(page, "Group by", "setting")
    assert len(ends(description(page, ACCURACY))) == 2


def test_what_is_missing_is_sorted_to_the_end(opened, tmp_path):
    for optimizer, value in (("sgd", 3.0), ("sam", None), ("fsam", 5.0)):
        make_run(tmp_path / optimizer, optimizer, measured=value and {"curvature/lambda_max": value})
    page = page_of(opened, tmp_path)
    head = page.locator("#results th", has_text="lambda_max, measured")
    for order in (["5", "3", "–"], ["3", "5", "–"]):
        head.locator("button").click()
        column = head.evaluate("n => n.cellIndex")
        assert page.locator(f"#results tbody tr > :nth-child({column + 1})").all_inner_texts() == order


def test_tick_labels_of_many_values_do_not_overlap(opened, tmp_path):
    for i in range(25):
        make_run(tmp_path / f"{i:02}", rho=0.01 * (i + 1), epochs=1)
    page = page_of(opened, tmp_path, width=600)
    chart = CHART.format("sensitivity to optimizer.rho")
    description(page, chart)
    axis = "n => n.uplot.axes[0]._values.map((text, i) => [text, n.uplot.valToPos(0.01 * (i + 1), 'x')])"
    labels = [(text, at) for text, at in page.eval_on_selector(f"{chart} .plot", axis) if text]
    assert labels[0][0] == "0.01"
    assert 5 < len(labels) < 25
    assert min(b - a for (_, a), (_, b) in pairwise(labels)) >= 40


@pytest.mark.parametrize("width", [1400, 600])
def test_long_names_fit(opened, tmp_path, width):
    name = "a_name_that_goes_on_and_on_" * 5
    rows = [{**row("sam", 0, e), f"perturbation/{name}": 1.0, f"mine/{name}": 1.0} for e in (1, 2)]
    for model in (name, "short"):
        make_run(tmp_path / f"{model}", model=model, name=name, rows=rows, measured={f"perturbation/{name}": 1.0})
    page = page_of(opened, tmp_path, width=width)
    for summary in page.locator("details:not(.chart details) > summary").all():
        summary.click()
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    description(page, ACCURACY)
    page.locator(f"{ACCURACY} .u-over").hover(position={"x": width / 10, "y": 50})
    tooltip = page.locator(".tooltip")
    assert name in tooltip.inner_text()
    inside = tooltip.evaluate("n => n.scrollWidth <= n.clientWidth && n.getBoundingClientRect().left >= 0")
    assert inside
    box = page.locator(f"{ACCURACY} .u-over").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 50)
    edges = tooltip.evaluate("n => [n.getBoundingClientRect().left, n.getBoundingClientRect().right]")
    assert tooltip.is_visible()
    assert edges[0] >= 0
    assert edges[1] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_link_leads_somewhere(opened, tmp_path):
    make_sweep(tmp_path / "made", ("sam",), seeds=1)
    page = page_of(opened, tmp_path / "made")
    lost = "[...document.querySelectorAll('a')].filter((a) => !document.querySelector(a.getAttribute('href'))).length"
    assert page.evaluate(lost) == 0
    assert page.locator("nav a", has_text="Sensitivity").count() == 0
