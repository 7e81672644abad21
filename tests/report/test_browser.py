"""The page in a real browser: what it draws, and what the controls do."""

import numpy as np
import pytest
from support.browser import ACCURACY, CHART, choose, description, ends, line
from support.made_runs import accuracy, make_run, make_sweep, row

from fsamlab.report.page import write_report


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = make_sweep(tmp_path_factory.mktemp("runs") / "made")
    make_run(root / "z-failed", "sam", 9, epochs=2, status="failed", exception="Diverged: loss is nan")
    for i, rho in enumerate((0.05, 0.1, 0.4)):
        for seed in (0, 1):
            last = {**row("fsam", seed, 5), "test/acc1": rho + 0.1 * seed}
            make_run(root / f"rho{i}-{seed}", "fsam", seed, rho=rho, rows=[last])
    write_report([root], root / "report.html")
    return root / "report.html"


def canvas(page, chart):
    return page.eval_on_selector(f"{chart} canvas", "node => node.toDataURL()")


def wait_for_canvas(page, chart, relation, picture):
    """Wait until the chart's picture is (===) or is no longer (!==) `picture`."""
    plot = page.locator(f"{chart} .plot").element_handle()
    compare = f"([plot, picture]) => plot.querySelector('canvas')?.toDataURL() {relation} picture"
    page.wait_for_function(compare, arg=[plot, picture])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 600])
def test_it_opens_and_fits(opened, made, scheme, width):
    page = opened(made, scheme=scheme, width=width)
    description(page, ACCURACY)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 29)"}[scheme]
    widths = page.evaluate("[...document.querySelectorAll('.uplot')].map((n) => n.getBoundingClientRect().right)")
    assert widths
    assert max(widths) <= width


def test_the_lines_are_the_means_over_seeds(opened, made):
    page = opened(made)
    found = ends(description(page, ACCURACY))
    values = [100 * accuracy("sam", seed, 5) for seed in range(3)]
    assert found["SAM, rho 0.2"] == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)), 3)
    assert found["SAM, rho 0.2 (failed)"] == (pytest.approx(100 * accuracy("sam", 9, 2)), None, 1)
    mean, low, high = page.eval_on_selector(f"{ACCURACY} .plot", "n => n.uplot.data.slice(1, 4).map((y) => y[4])")
    assert [low, high] == [pytest.approx(mean + 1), pytest.approx(mean - 1)]  # the seeds' std is 1 %


def test_grouping_by_any_key(opened, made):
    page = opened(made)
    assert page.locator("#legend .chip").count() == 7
    choose(page, "Group by", "optimizer.name")
    found = ends(description(page, ACCURACY))
    assert set(found) == {"SGD", "SAM", "F-SAM", "SAM (failed)"}
    assert found["F-SAM"][2] == 9
    choose(page, "Group by", "optimizer.rho")
    assert set(ends(description(page, ACCURACY))) == {"rho 0.05", "rho 0.1", "rho 0.2", "rho 0.4", "rho 0.2 (failed)"}
    choose(page, "and", "seed")
    assert "rho 0.4, seed 1" in page.locator("#legend").inner_text()
    choose(page, "Group by", "run")
    assert page.locator("#legend .chip").count() == 16
    assert page.locator("#legend .chip").first.inner_text() == "fsam-s0"
    assert not page.get_by_label("and", exact=True).first.is_visible()


def test_the_legend_hides_and_shows(opened, made):
    page = opened(made)
    chip = page.locator("#legend .chip", has_text="SGD")
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    assert "SGD, rho 0.2" not in ends(description(page, ACCURACY))
    chip.press("Enter")
    assert "SGD, rho 0.2" in ends(description(page, ACCURACY))


def test_axes(opened, made):
    page = opened(made)
    choose(page, "Group by", "optimizer.name")
    assert "against epoch" in description(page, ACCURACY)
    assert page.eval_on_selector(f"{ACCURACY} .plot", "n => n.uplot.data[0].at(-1)") == 5
    choose(page, "x axis", "step")
    assert page.eval_on_selector(f"{ACCURACY} .plot", "n => n.uplot.data[0].at(-1)") == 50
    choose(page, "x axis", "time")
    assert "against seconds, evaluation and measurement included" in description(page, ACCURACY)
    # seeds have times of their own: their mean after a step stands at their mean time, to the end of the slowest
    times, values = line(page, ACCURACY, "SGD")
    epochs = np.arange(1, 6)
    assert times == pytest.approx([np.mean([2.0 * e + 0.1 * seed for seed in range(3)]) for e in epochs])
    assert values == pytest.approx([np.mean([100 * accuracy("sgd", s, e) for s in range(3)]) for e in epochs], rel=1e-4)
    choose(page, "x axis", "training")  # of 10 ms for each of SGD's steps and 20 ms for SAM's
    assert "against seconds of training alone" in description(page, ACCURACY)
    assert line(page, ACCURACY, "SGD") == (pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5]), values)
    assert line(page, ACCURACY, "SAM")[0] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert "SAM (failed)" not in ends(description(page, ACCURACY))  # it has no time of a step


def test_runs_of_different_steps_are_interpolated(opened, tmp_path):
    make_run(tmp_path / "made" / "a", rows=[{**row("sam", 0, e), "test/acc1": 0.1 * e} for e in (1, 4, 5)])
    make_run(tmp_path / "made" / "b", seed=1, rows=[{**row("sam", 1, e), "test/acc1": 0.1 * e} for e in (2, 3)])
    write_report([tmp_path / "made"], tmp_path / "report.html")
    page = opened(tmp_path / "report.html")
    description(page, ACCURACY)
    assert line(page, ACCURACY, "SAM") == ([2, 3], pytest.approx([20, 30]))  # where both runs have values
    said = "SAM: drawn from epoch 2 to 3, where all 2 runs have values."
    assert said in page.locator(ACCURACY).inner_text()
    choose(page, "x axis", "time")
    assert line(page, ACCURACY, "SAM") == (pytest.approx([4.05, 6.05]), pytest.approx([20, 30]))


def test_a_mean_over_many_different_points_keeps_some_and_the_last(opened, tmp_path):
    for seed in (0, 1):
        rows = [{"step": 2 * i + seed, "epoch": 2.0 * i + seed, "test/acc1": 0.001 * i} for i in range(301)]
        make_run(tmp_path / "made" / f"{seed}", seed=seed, rows=rows)
    write_report([tmp_path / "made"], tmp_path / "report.html")
    page = opened(tmp_path / "report.html")
    description(page, ACCURACY)
    x, _ = line(page, ACCURACY, "SAM")
    assert 250 < len(x) <= 401
    assert (x[0], x[-1]) == (1, 600)  # those that both runs have values at


def test_smoothing_is_a_debiased_moving_average(opened, made):
    page = opened(made)
    page.get_by_label("Smoothing").fill("0.9")
    mean, total = 0.0, 0.0
    for epoch in range(1, 6):
        mean, total = 0.9 * mean + 0.1 * 2.0 / epoch, 0.9 * total + 0.1
    found = ends(description(page, CHART.format("training loss")))
    assert found["SGD, rho 0.2"][0] == pytest.approx(mean / total, 1e-3)


def test_log_scale_is_for_a_section(opened, made):
    page = opened(made)
    loss = CHART.format("training loss")
    description(page, loss)
    before = canvas(page, loss)
    page.locator("section[aria-labelledby=curves-loss] label:has-text('log scale') input").check()
    assert page.eval_on_selector(f"{loss} .plot", "n => n.uplot.scales.y.distr") == 3
    wait_for_canvas(page, loss, "!==", before)
    description(page, ACCURACY)
    assert page.eval_on_selector(f"{ACCURACY} .plot", "n => n.uplot.scales.y.distr") != 3


def test_accuracies_are_shown_from_the_first_tenth_on(opened, tmp_path):
    root = tmp_path / "made"
    rows = [{**row("sam", 0, e), "test/acc1": 0.1 if e == 1 else 0.8 + 0.01 * e} for e in range(1, 12)]
    make_run(root / "sam", rows=rows)
    write_report([root], root / "report.html")
    page = opened(root / "report.html")
    description(page, ACCURACY)
    scale = "document.querySelector('.plot').uplot.scales.y.min"
    assert page.evaluate(scale) > 80
    page.get_by_label("first tenth too").check()
    page.wait_for_function(f"() => {scale} < 20")


def test_bands_can_be_switched_off(opened, made):
    page = opened(made)
    description(page, ACCURACY)
    assert page.eval_on_selector(f"{ACCURACY} .plot", "n => n.uplot.bands.length") == 7
    page.get_by_label("± std").uncheck()
    assert page.eval_on_selector(f"{ACCURACY} .plot", "n => n.uplot.bands.length") == 0


def test_values_under_the_pointer(opened, made):
    page = opened(made)
    choose(page, "Group by", "optimizer.name")
    description(page, ACCURACY)
    over = page.locator(f"{ACCURACY} .u-over")
    box = over.bounding_box()
    over.hover(position={"x": box["width"] / 2, "y": box["height"] / 2})
    tooltip = page.locator(".tooltip")
    assert tooltip.is_visible()
    text = tooltip.inner_text()
    values = [100 * accuracy("sam", seed, 3) for seed in range(3)]
    assert text.startswith("epoch 3")
    assert f"SAM: {np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} (n = 3)" in text
    assert "SAM (failed)" not in text  # it ended at epoch 2
    over.hover(position={"x": 0.59 * box["width"], "y": box["height"] / 2})  # between two points: the nearer one
    assert tooltip.inner_text().startswith("epoch 3")
    page.mouse.move(5, 5)
    assert not tooltip.is_visible()


def test_values_with_the_keyboard(opened, made):
    page = opened(made)
    choose(page, "Group by", "optimizer.name")
    description(page, ACCURACY)
    plot = page.locator(f"{ACCURACY} .plot")
    plot.focus()
    plot.press("Home")
    plot.press("ArrowRight")
    said = page.locator("[role=status].unseen").inner_text()
    assert said.startswith("epoch 2. ")
    assert f"SAM: {100 * accuracy('sam', 1, 2):.1f} ± 1.0 (n = 3)" in said
    plot.press("Escape")
    assert not page.locator(".tooltip").is_visible()


def test_dragging_zooms_and_a_double_click_resets(opened, made):
    page = opened(made)
    description(page, ACCURACY)
    over = page.locator(f"{ACCURACY} .u-over")
    box = over.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 55, steps=4)
    page.mouse.up()
    low = page.eval_on_selector(f"{ACCURACY} .plot", "n => n.uplot.scales.x.min")
    assert low == pytest.approx(3, abs=0.1)
    over.dblclick()
    assert page.eval_on_selector(f"{ACCURACY} .plot", "n => n.uplot.scales.x.min") == 1


def test_sorting(opened, made):
    page = opened(made)
    table = page.locator("#results table")
    heads = [text.strip() for text in table.locator("thead th").all_inner_texts()]
    column = heads.index("test, at the end,\u00a0%")
    head = table.locator("thead th").nth(column)
    for order, sign in (("descending", -1), ("ascending", 1)):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == order
        cells = table.locator(f"tbody tr > :nth-child({column + 1})").all_inner_texts()
        values = [float(cell.split(" ")[0]) for cell in cells]
        assert values == sorted(values, key=lambda v, sign=sign: sign * v)
        assert len(set(values)) > 3


def test_a_ratio_is_one_of_means(opened, made):
    page = opened(made)
    choose(page, "Group by", "optimizer.name")
    found = ends(description(page, CHART.format("noise scale tr Sigma / |mu|^2, samples (ratio of means)")))
    assert found["SAM"][:2] == (pytest.approx(20 / 4, rel=1e-3), None)  # the mean of the ratios is 6.43


def test_the_decomposition(opened, made):
    page = opened(made)
    choose(page, "Group by", "optimizer.name")
    found = ends(description(page, CHART.format("quality of the EMA: cos(m, g), measured and predicted")))
    assert found["SAM, measured"][0] == pytest.approx(np.mean([0.5, 0.25, 0.5 / 3]), abs=0.005)
    assert found["SAM, if w stood still"] == (0.9, 0.0, 3)
    table = page.locator("table.bars", has_text="shares of")
    table.scroll_into_view_if_needed()
    assert "25 ± 0 (n = 3)" in table.inner_text()
    assert "75 ± 0 (n = 3)" in table.inner_text()
    full = table.locator("td").first
    bar, track = (full.locator(part).evaluate("n => n.getBoundingClientRect().width") for part in (".bar", ".track"))
    assert bar == pytest.approx(0.25 * track, rel=0.02)
    friendly = page.locator("table.bars", has_text="trained with SGD")
    friendly.scroll_into_view_if_needed()
    assert "0.1 ± 0 (n = 3)" in friendly.inner_text()
    widths = friendly.locator(".bar").evaluate_all("bars => bars.map((b) => b.getBoundingClientRect().width)")
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.02)  # .02 against .01 an epoch
    page.locator("#decomposition input[type=range]").nth(1).fill("0")
    assert "0.02 ± 0 (n = 3)" in page.locator("table.bars", has_text="trained with SGD").inner_text()


def test_a_single_measured_point_is_a_bar(opened, tmp_path):
    root = tmp_path / "made"
    for optimizer, value in (("sgd", 4.0), ("sam", 2.0)):
        for seed in (0, 1):
            measured = {"curvature/lambda_max": value + 0.2 * seed}
            make_run(root / f"{optimizer}{seed}", optimizer, seed, measured=measured)
    write_report([root], root / "report.html")
    page = opened(root / "report.html")
    figure = page.locator(CHART.format("largest Hessian eigenvalue (measured at a checkpoint)"))
    figure.scroll_into_view_if_needed()
    table = figure.locator("table.bars")
    text = table.inner_text()
    assert "at epoch 5" in text
    assert "4.10 ± 0.14 (n = 2)" in text
    sam, sgd = table.locator(".bar").evaluate_all("bars => bars.map((b) => b.getBoundingClientRect().width)")
    assert sam == pytest.approx(sgd * 2.1 / 4.1, rel=0.02)


def test_sensitivity(opened, made):
    page = opened(made)
    chart = CHART.format("sensitivity to optimizer.rho")
    description(page, chart)
    x, y = page.eval_on_selector(f"{chart} .plot", "n => [n.uplot.data[0], n.uplot.data[1]]")
    assert x == [0.05, 0.1, 0.2, 0.4]
    assert page.eval_on_selector(f"{chart} .plot", "n => n.uplot.series[1].label") == "F-SAM"
    wanted = [100 * np.mean([rho + 0.1 * s for s in (0, 1)]) - 10 for rho in (0.05, 0.1, 0.4)]  # best: .1 below the end
    assert [y[0], y[1], y[3]] == pytest.approx(wanted, rel=1e-4)
    choose(page, "y axis", "final/train/loss")
    assert ends(description(page, chart))["F-SAM"][0] == pytest.approx(0.4)


def test_the_list_of_runs(opened, made):
    page = opened(made)
    page.locator("#runs summary").click()
    rows = page.locator("#runs tbody tr")
    rows.first.wait_for()
    assert rows.count() == 16
    failed = rows.filter(has_text="z-failed")
    assert "failed" in failed.inner_text()
    assert page.locator("#unfinished tbody tr").count() == 1
    assert "Diverged: loss is nan" in page.locator("#unfinished").inner_text()


def test_names_are_text_and_run_nothing(opened, tmp_path):
    root = tmp_path / "made"
    evil = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
    make_run(root / "<script>window.hacked=1", evil, 0, name=evil, model=evil)
    make_run(root / "<img src=x onerror=window.hacked=1>", "sam", 1, status="failed", exception=evil)
    write_report([root], root / "report.html")
    page = opened(root / "report.html")
    description(page, ACCURACY)
    page.locator("#runs summary").click()
    for value in ("run", "model.name", "setting"):
        choose(page, "Group by", value)
        description(page, ACCURACY)
    over = page.locator(f"{ACCURACY} .u-over")
    over.hover()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert evil in page.locator("#unfinished").inner_text()
    assert evil in page.locator("h1").inner_text()


def test_many_groups_are_cut_and_said(opened, tmp_path):
    root = tmp_path / "many"
    for i in range(40):
        make_run(root / f"r{i:02}", "sam", 0, rho=0.01 * (i + 1), epochs=2)
    write_report([root], root / "report.html")
    page = opened(root / "report.html")
    assert page.get_by_label("Group by", exact=True).first.input_value() == "optimizer.name"
    choose(page, "Group by", "setting")
    assert "40 groups: the first 30 are drawn" in page.locator("#notes").inner_text()
    assert page.locator("#legend .chip").count() == 30
    lines = "n => (n.uplot.series.length - 1) / 3"
    description(page, ACCURACY)
    assert page.eval_on_selector(f"{ACCURACY} .plot", lines) == 30
    page.locator("#legend .chip").first.click()
    assert page.eval_on_selector(f"{ACCURACY} .plot", lines) == 29  # none that has no entry in the legend


def test_colours_follow_the_scheme_and_the_button(opened, made):
    page = opened(made, scheme="light")
    description(page, ACCURACY)
    light = canvas(page, ACCURACY)
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) == "rgb(22, 24, 29)"
    wait_for_canvas(page, ACCURACY, "!==", light)  # axes and grid are drawn anew
    button = page.locator("#theme")
    button.click()
    assert button.inner_text() == "colours: light"
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.locator(f"{ACCURACY} .plot").scroll_into_view_if_needed()  # the button is at the top of the page
    wait_for_canvas(page, ACCURACY, "===", light)
    button.click()
    assert page.evaluate(ground) == "rgb(22, 24, 29)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility_rules_hold(opened, made, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(made, scheme=scheme)
    page.locator("#runs summary").click()
    page.locator("#runs tbody tr").first.wait_for()
    for _ in range(8):
        page.mouse.wheel(0, 800)
        page.wait_for_timeout(30)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
