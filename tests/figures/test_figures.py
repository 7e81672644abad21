"""What is drawn: hand-computed means and standard deviations, read back from the figures."""

import re
import runpy
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from support.made_frames import frame, one_run, rows_of
from support.runs import ROOT

from fsamlab.figures.canvas import look
from fsamlab.figures.measured import EMA_QUALITY
from fsamlab.report import figures
from fsamlab.results.frames import methods_of
from fsamlab.results.methods import BLUE, GREY, METHODS, VERMILION, style

HALF = 0.1 / 2**0.5  # the standard deviation (n - 1) of two values .1 apart


def lines(axes):
    """{label: (x, y, colour)} of the lines with a label."""
    shown = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()), to_hex(line.get_color())) for line in shown
    }


def bands(axes):
    """[(lowest, highest) at each x, colour] of the filled bands."""
    found = []
    for band in axes.collections:
        points = band.get_paths()[0].vertices
        at = {x: points[points[:, 0] == x][:, 1] for x in np.unique(points[:, 0])}
        found.append(([(y.min(), y.max()) for y in at.values()], to_hex(band.get_facecolor()[0], keep_alpha=False)))
    return found


def dots(axes):
    """{label: (mean, half the bar or None)} of a panel of by_method."""
    found = {}
    for bars in sorted(axes.containers, key=lambda bars: bars[0].get_ydata()[0]):
        point, _, ranges = bars
        ends = ranges[0].get_segments()[0][:, 0] if ranges else None
        half = None if ends is None or not np.isfinite(ends).all() else (ends[1] - ends[0]) / 2
        found[bars.get_label()] = (point.get_xdata()[0], half, to_hex(point.get_color()))
    return found


def words(figure):
    return " | ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


# ---------------------------------------------------------------------------------- over training


def test_a_curve_is_the_mean_over_finished_seeds_in_per_cent(methods):
    rows = rows_of(methods, test___acc1=[0.2, 0.5, 0.6])
    figure = figures.curves(rows, methods, "test/acc1")
    found = lines(figure.axes[0])
    assert list(found) == ["SGD", "SAM", "F-SAM"]
    assert found["SAM"][0] == [1, 2, 3]
    assert found["SAM"][1] == pytest.approx([25, 55, 65])  # not the failed run's, which are .2 higher
    assert found["F-SAM"][1] == pytest.approx([20, 50, 60])
    assert [found[name][2] for name in found] == [GREY, BLUE, VERMILION]
    (_, grey), (sam, blue) = bands(figure.axes[0])  # F-SAM has one seed: no band
    assert (grey, blue) == (GREY, BLUE)
    assert np.array(sam) == pytest.approx(
        100 * np.array([[0.25 - HALF, 0.25 + HALF], [0.55 - HALF, 0.55 + HALF], [0.65 - HALF, 0.65 + HALF]])
    )
    assert "mean ± standard deviation over 1 to 2 seeds" in words(figure)
    assert "test accuracy (%)" in words(figure)


def test_a_curve_has_no_point_where_a_seed_is_missing(methods):
    rows = rows_of(methods, test___loss=[3.0, 2.0, 1.0])
    last = (rows["directory"] == methods["directory"][1]) & (rows["epoch"] == 3)
    table = lines(figures.curves(rows[~last], methods, "test/loss").axes[0])
    assert table["SAM"][0] == [1, 2]
    assert table["SGD"][0] == [1, 2, 3]
    assert table["SGD"][1] == pytest.approx([3.05, 2.05, 1.05])  # a loss is no per cent


def test_exchanged_frames_are_said(methods):
    rows = rows_of(methods, test___acc1=[0.5, 0.6])
    for draw in (lambda: figures.curves(methods, rows, "test/acc1"), lambda: figures.decomposition(rows, methods)):
        with pytest.raises(ValueError, match="where the runs belong; are the two exchanged"):
            draw()


def test_curves_by_a_hyper_parameter():
    runs = frame(*(one_run("fsam", seed, 0.5, optimizer__lmbda=lmbda) for lmbda in (0.9, 0.6) for seed in (0, 1)))
    found = lines(figures.curves(rows_of(runs, val___loss=[2.0, 1.0]), runs, "val/loss", by="optimizer.lmbda").axes[0])
    assert list(found) == [r"$\lambda$ 0.6", r"$\lambda$ 0.9"]
    assert len({colour for _, _, colour in found.values()}) == 2
    runs = frame(*(one_run("sam", 0, 0.5, data__batch_size=size) for size in (64, 128)))
    found = lines(figures.curves(rows_of(runs, val___loss=[2.0, 1.0]), runs, "val/loss", by="data.batch_size").axes[0])
    assert list(found) == ["batch size 64", "batch size 128"]


def test_curves_by_a_key_that_some_methods_lack_leave_those_out(methods):
    found = lines(figures.curves(rows_of(methods, val___loss=[2.0]), methods, "val/loss", by="optimizer.lmbda").axes[0])
    assert list(found) == [r"$\lambda$ 0.9"]


def test_a_curve_for_each_seed():
    runs = frame(one_run("sam", 0, 0.5), one_run("sam", 1, 0.5))
    figure = figures.curves(rows_of(runs, val___loss=[2.0, 1.0]), runs, "val/loss", by="seed")
    assert [found[1] for found in lines(figure.axes[0]).values()] == [[2.0, 1.0], [2.1, 1.1]]
    assert "one seed" in words(figure)


def test_what_fsamlab_measure_found_is_drawn_where_training_has_nothing(methods):
    rows = rows_of(methods, **{"measured___sharpness___one_step": [0.3]})
    figure = figures.curves(rows, methods, "sharpness/one_step")
    found = lines(figure.axes[0])
    assert found["SAM"][:2] == ([1], pytest.approx([0.35]))
    bars = [collection.get_segments()[0][:, 1] for collection in figure.axes[0].collections]
    assert list(bars[1]) == pytest.approx([0.35 - HALF, 0.35 + HALF])  # SAM's, after SGD's
    assert figure.axes[0].get_title() == "sharpness/one_step"


def test_what_training_logged_comes_first(methods):
    rows = rows_of(methods, sharpness___one_step=[0.2], measured___sharpness___one_step=[0.3])
    assert lines(figures.curves(rows, methods, "sharpness/one_step").axes[0])["F-SAM"][1] == pytest.approx([0.2])
    assert lines(figures.curves(rows, methods, "measured/sharpness/one_step").axes[0])["F-SAM"][1] == pytest.approx(
        [0.3]
    )


def test_the_axis_of_an_accuracy_leaves_the_rise_out():
    runs = frame(one_run("sam", 0, 0.5))
    rows = rows_of(runs, test___acc1=[0.1, *(0.8 for _ in range(10))], test___loss=[9.0, *(0.8 for _ in range(10))])
    assert figures.curves(rows, runs, "test/acc1").axes[0].get_ylim()[0] == pytest.approx(78)  # epoch 1 of 11: left out
    assert figures.curves(rows, runs, "test/loss").axes[0].get_ylim()[1] > 9


def test_figure_1_has_the_shares_where_they_were_measured():
    order = ("sgd", "sam", "sam_full", "sam_component", "sam_noise")
    runs = frame(*(one_run(m, seed, 0.5) for m in (*reversed(order), "fsam") for seed in (0, 1)))
    rows = rows_of(runs, test___acc1=[0.4, 0.6], perturbation___full_share=[0.5, 0.25])
    figure = figures.decomposition(runs, rows)
    accuracy, share = figure.axes
    assert list(lines(accuracy)) == list(lines(share)) == [style(m).label for m in order]
    assert lines(accuracy)["SAM, noise component"][1] == pytest.approx([45, 65])
    assert lines(share)["SAM"][1] == pytest.approx([55, 30])
    assert lines(share)["SAM"][2] == BLUE
    assert inside(figure)
    for axes in figure.axes:  # a label is no longer than its axis
        assert axes.yaxis.label.get_window_extent().height < axes.bbox.height
    others = rows["directory"].isin(runs.loc[runs["optimizer.name"] != "fsam", "directory"])
    rows.loc[others, "perturbation/full_share"] = None  # measured for fsam only, which is not shown
    assert len(figures.decomposition(runs, rows).axes) == 1


def test_figure_1_without_what_the_paper_draws_says_so():
    runs = frame(*(one_run(m, seed, 0.5) for m in ("sam", "sam_component", "sam_noise") for seed in (0, 1)))
    rows = rows_of(runs, test___acc1=[0.4, 0.6])
    said = words(figures.decomposition(runs, rows)).replace("\n", " ")  # a note may be broken into lines
    assert "SAM-full, which Figure 1 of the paper has, has no run here" in said
    as_drawn = runs.replace({"optimizer.name": {"sam_component": "sam_full"}})
    assert "has no run here" not in words(figures.decomposition(as_drawn, rows)).replace("\n", " ")
    with pytest.raises(ValueError, match=r"no finished run of sam_full.*fig1_decomposition"):
        figures.decomposition(runs[runs["optimizer.name"] != "sam_component"], rows)


INF = float("inf")


def test_a_line_that_ends_early_says_so():
    runs = frame(*(one_run(m, s, 0.5) for m in ("sgd", "sam") for s in (0, 1)))
    rows = rows_of(runs, perturbation___grad_norm=[3.0, 2.0, 1.0])
    whole = words(figures.curves(rows, runs, "perturbation/grad_norm"))
    assert "×" not in whole
    assert "no line" not in whole
    rows.loc[(rows["directory"] == runs["directory"][3]) & (rows["epoch"] == 3), "perturbation/grad_norm"] = -INF
    figure = figures.curves(rows, runs, "perturbation/grad_norm")
    assert lines(figure.axes[0])["SAM"][:2] == ([1, 2], pytest.approx([3.05, 2.05]))
    (cross,) = [line for line in figure.axes[0].get_lines() if line.get_marker() == "x"]
    assert (list(cross.get_xdata()), to_hex(cross.get_color())) == ([2], BLUE)
    assert "× SAM ends at epoch 2 of 3: then a run has no (finite) value" in " ".join(words(figure).split())
    assert "SGD ends" not in words(figure)
    assert inside(figure)


def test_a_run_that_is_never_finite_is_a_missing_one():
    runs = frame(*(one_run(m, s, 0.5) for m in ("sgd", "sam") for s in (0, 1)))
    rows = rows_of(runs, perturbation___grad_norm=[3.0, 2.0])
    rows.loc[rows["directory"] == runs["directory"][0], "perturbation/grad_norm"] = INF
    figure = figures.curves(rows, runs, "perturbation/grad_norm")
    assert lines(figure.axes[0])["SGD"][1] == pytest.approx([3.1, 2.1])
    assert "over 1 to 2 seeds" in words(figure)
    rows.loc[rows["directory"] == runs["directory"][1], "perturbation/grad_norm"] = INF
    figure = figures.curves(rows, runs, "perturbation/grad_norm")
    assert list(lines(figure.axes[0])) == ["SAM"]
    assert "no line for SGD: no epoch at which all its runs" in " ".join(words(figure).split())
    rows["perturbation/grad_norm"] = INF
    with pytest.raises(ValueError, match=r"^perturbation/grad_norm is not finite in any run$"):
        figures.curves(rows, runs, "perturbation/grad_norm")


def with_noise(rows, above, below):
    rows = rows.assign(**{"noise/trace_sigma": above, "noise/grad_sq": below})
    return rows.assign(**{"noise/scale": rows["noise/trace_sigma"] / rows["noise/grad_sq"]})


def test_a_noise_scale_over_training_is_the_ratio_of_the_means():
    runs = frame(one_run("sam", 0, 0.5), one_run("sam", 1, 0.5))
    rows = rows_of(runs, test___acc1=[0.1, 0.2, 0.3, 0.4])
    rows = with_noise(rows, [2.0, 2.0, 2.0, 2.0] * 2, [1.0, 0.5, -1.0, 0.5, 0.01, 0.5, 0.5, 0.3])
    figure = figures.curves(rows, runs, "noise/scale")
    found = lines(figure.axes[0])["SAM"]
    assert found[0] == [1, 2, 3, 4]
    assert found[1] == pytest.approx([2 / 0.505, 4, np.nan, 5], nan_ok=True)  # not the mean of 2 and 200
    assert bands(figure.axes[0]) == []
    (alone,) = [line for line in figure.axes[0].get_lines() if line.get_linestyle() == "None"]
    assert list(alone.get_xdata()) == [4]  # between gaps a line shows nothing
    assert "ratio of the means over 2 seeds" in words(figure)
    assert "gaps: the mean of noise/grad_sq is not positive" in " ".join(words(figure).split())
    with pytest.raises(ValueError, match=r"noise/scale has no value: the mean of noise/grad_sq is nowhere positive"):
        figures.curves(rows.assign(**{"noise/grad_sq": -1.0}), runs, "noise/scale")
    with pytest.raises(ValueError, match="no run has noise/trace_sigma"):
        figures.curves(rows.drop(columns="noise/trace_sigma"), runs, "noise/scale")


def test_too_many_lines_are_refused():
    runs = frame(*(one_run("sam", s, 0.5) for s in range(13)))
    rows = rows_of(runs, val___loss=[2.0, 1.0])
    with pytest.raises(ValueError, match=r"^seed has 13 values, a figure has room for 12 lines; choose some, runs\["):
        figures.curves(rows, runs, "val/loss", by="seed")
    assert len(lines(figures.curves(rows, runs[runs["seed"] < 12], "val/loss", by="seed").axes[0])) == 12


def test_a_logarithmic_axis():
    runs = frame(*(one_run(m, s, 0.5) for m in ("sam", "random") for s in (0, 1)))
    rows = rows_of(runs, perturbation___grad_norm=[1.0, 0.02072])
    rows.loc[rows["directory"].isin(runs["directory"][2:]), "perturbation/grad_norm"] += 1000
    (axes,) = figures.curves(rows, runs, "perturbation/grad_norm", log_y=True).axes
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    assert low == pytest.approx(0.07072 / 2)  # of the least mean: the band there reaches down to 1e-5
    assert high > 1000
    assert figures.curves(rows, runs, "perturbation/grad_norm").axes[0].get_yscale() == "linear"
    with pytest.raises(ValueError, match="means that are not positive: no logarithmic axis"):
        figures.curves(rows.assign(**{"perturbation/grad_norm": 0.0}), runs, "perturbation/grad_norm", log_y=True)


def test_an_accuracy_uses_its_axis():
    runs = frame(one_run("sam", 0, 0.5))
    rows = rows_of(runs, test___acc1=[0.1, *(0.8 for _ in range(10))])
    assert figures.curves(rows, runs, "test/acc1").axes[0].get_ylim() == pytest.approx((78, 82))


# -------------------------------------------------------------------------------------- by method


def test_a_mean_over_fewer_runs_has_its_n_beside_it(methods):
    runs = methods.assign(**{"final/train/loss": [1.0, INF, 1.0, 2.0, 3.0, 5.0]})
    figure = figures.by_method(runs, "final/train/loss")
    assert dots(figure.axes[0])["SAM"][:2] == (1.0, None)
    assert [text.get_text() for text in figure.axes[0].texts] == ["n = 1"]
    assert [text.get_text() for text in figures.by_method(methods).axes[0].texts] == []
    runs["final/train/loss"] = [1.0, INF, 1.0, INF, 3.0, None]  # all of F-SAM
    figure = figures.by_method(runs, "final/train/loss")
    assert [text.get_text() for text in figure.axes[0].texts] == ["n = 1", "n = 1", "not finite"]
    with pytest.raises(ValueError, match="final/train/loss is not finite in any run"):
        figures.by_method(methods.assign(**{"final/train/loss": INF}), "final/train/loss")


def test_a_noise_scale_by_method_is_the_ratio_of_the_means(methods):
    runs = with_noise(methods, [2.0, 4.0, 9.0, 5.0, 8.0, 2.0], [0.5, 1.5, 9.0, 0.1, -0.5, 0.25])
    runs = runs.rename(columns=lambda name: name.replace("noise/", "final/noise/"))
    figure = figures.by_method(runs, "final/noise/scale")
    assert {name: found[:2] for name, found in dots(figure.axes[0]).items()} == {
        "SAM": (3.0, None),
        "F-SAM": (50.0, None),
    }
    assert [text.get_text() for text in figure.axes[0].texts] == ["not positive"]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["SGD", "SAM", "F-SAM"]
    assert "ratio of the means over 1 to 2 seeds" in words(figure)


def test_dots_are_means_with_standard_deviations_in_the_order_of_methods(methods):
    figure = figures.by_method(methods)
    found = dots(figure.axes[0])
    assert list(found) == ["SGD", "SAM", "F-SAM"]
    assert found["SAM"][:2] == (pytest.approx(75), pytest.approx(100 * 0.3 / 2**0.5))
    assert found["SGD"][:2] == (pytest.approx(60), pytest.approx(100 * 0.2 / 2**0.5))
    assert found["F-SAM"][:2] == (pytest.approx(80), None)  # one seed has no spread
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["SGD", "SAM", "F-SAM"]
    low, high = figure.axes[0].get_ylim()
    assert low > high  # the first on top


def test_the_look_of_every_method_can_be_drawn():
    """Some markers are formulas."""
    runs = frame(*(one_run(m, s, 0.5 + s / 10) for m in METHODS for s in (0, 1)))
    assert list(dots(figures.by_method(runs).axes[0])) == [style(m).label for m in methods_of(runs)]
    names = [*METHODS]
    for some in (names[start : start + 12] for start in range(0, len(names), 12)):  # a figure of curves has 12 lines
        of_some = runs[runs["optimizer.name"].isin(some)]
        figure = figures.curves(rows_of(of_some, test___acc1=[0.2]), of_some, "test/acc1")  # one epoch: a marker
        figure.draw_without_rendering()
        assert set(lines(figure.axes[0])) == {style(m).label for m in some}


def test_figure_2a_has_a_panel_for_each_base():
    names = ("sam", "fsam", "sam_full_ema")
    runs = [one_run(m, s, 0.5 + s / 10) for m in ("sgd", *names) for s in (0, 1)]
    runs += [one_run(m, s, 0.6 + s / 10, optimizer__base="adamw") for m in ("adamw", *names) for s in (0, 1)]
    figure = figures.components(frame(*runs, one_run("random", 0, 0.1)))
    sgd, adamw = figure.axes
    assert adamw.get_title() == "base optimizer AdamW"
    assert list(dots(adamw)) == ["AdamW", "SAM", "F-SAM", "SAM-full (EMA)"]
    assert list(dots(sgd)) == ["SGD", "SAM", "F-SAM", "SAM-full (EMA)"]
    assert dots(sgd)["F-SAM"][0] == pytest.approx(55)
    assert dots(adamw)["F-SAM"][0] == pytest.approx(65)
    assert figure.get_figwidth() == figures.TWO_COLUMNS


def test_many_panels_are_several_rows_with_one_label(methods):
    runs = [one_run(m, 0, size / 1000, data__batch_size=size) for m in ("sgd", "sam") for size in (128, 16, 32, 64)]
    figure = figures.by_method(frame(*runs), panel="data.batch_size")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [f"batch size {size}" for size in (16, 32, 64, 128)]
    assert panels[0].get_position().y0 > panels[3].get_position().y1
    assert words(figure).count("test accuracy at the end (%)") == 1
    assert dots(panels[3])["SAM"][0] == pytest.approx(12.8)
    (only,) = figures.by_method(methods, panel="optimizer.lmbda").axes  # SGD and SAM have none
    assert list(dots(only)) == ["F-SAM"]


def inside(figure):
    """Whether the labels of a figure and of its axes lie on its page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with look():
        FigureCanvasAgg(figure).draw()
    page = figure.bbox.padded(1)
    texts = [text for axes in figure.axes for text in (axes.xaxis.label, axes.yaxis.label, axes.title)]
    boxes = [text.get_window_extent() for text in (*texts, *figure.texts) if text.get_text()]
    assert len(boxes) >= 2
    return all(page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes)


@pytest.mark.parametrize("metric", [figures.AT_END, figures.AT_BEST])
def test_labels_are_not_cut_off(metric):
    bases = [one_run(m, 0, 0.5, best=0.6, optimizer__base=base) for m in ("sam", "fsam") for base in ("sgd", "adamw")]
    radii = [one_run("sam", 0, rho, best=rho, optimizer__rho=rho) for rho in (0.1, 0.2)]
    assert inside(figures.by_method(frame(*bases), metric, panel="optimizer.base"))
    assert inside(figures.by_method(frame(*bases[::2]), metric))
    assert inside(figures.rho(frame(*radii), metric))


def test_letters_in_latex_count_once_in_a_legend():
    runs = frame(*(one_run("sam", 0, 0.5, optimizer__rho=rho) for rho in (0.05, 0.1, 0.2, 0.4, 0.8)))
    figure = figures.curves(rows_of(runs, val___loss=[2.0]), runs, "val/loss", by="optimizer.rho")
    assert figure.legends[0]._ncols == 2


def test_figure_2b_shows_sam_db_beside_sam_and_sgd(methods):
    both = frame(*methods.to_dict("records"), one_run("sam_db", 0, 0.4))
    assert list(dots(figures.other_batch(both).axes[0])) == ["SGD", "SAM", "SAM-db"]
    assert dots(figures.other_batch(both).axes[0])["SAM-db"][0] == pytest.approx(40)


# ---------------------------------------------------------------------- against a hyper-parameter


@pytest.fixture
def radii(methods):
    runs = [one_run("sgd", s, 0.5 + s / 5) for s in (0, 1)]
    runs += [
        one_run(m, s, 0.6 + r + s / 10, optimizer__rho=r)
        for m in ("fsam", "sam")
        for r in (0.2, 0.05, 0.1)
        for s in (0, 1)
    ]
    return frame(*runs)


def test_figure_3_is_drawn_over_doubling_radii_with_sgd_as_a_level(radii):
    figure = figures.rho(radii)
    (axes,) = figure.axes
    found = lines(axes)
    assert found["SAM"][0] == [0.05, 0.1, 0.2]
    assert found["SAM"][1] == pytest.approx([70, 75, 85])
    assert found["SGD"][1] == pytest.approx([60, 60])
    assert axes.get_xscale() == "log"
    assert axes.xaxis.get_transform().base == 2
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.05", "0.1", "0.2"]
    (level,) = [patch for patch in axes.patches if to_hex(patch.get_facecolor()) == GREY]
    sgd = 100 * radii.loc[radii["optimizer.name"] == "sgd", "final/test/acc1"]
    assert (level.get_y(), level.get_height()) == (pytest.approx(60 - sgd.std()), pytest.approx(2 * sgd.std()))
    spread = next(band for band, colour in bands(axes) if colour == BLUE)
    assert spread[0] == pytest.approx((70 - 100 * HALF, 70 + 100 * HALF))
    assert "standard deviation over 2 seeds" in words(figure)


def test_figure_4_has_a_line_for_every_method():
    runs = [one_run(m, 0, b / 1000, data__batch_size=b) for m in ("sgd", "sam") for b in (128, 64)]
    found = lines(figures.batch_size(frame(*runs)).axes[0])
    assert found["SGD"][:2] == ([64, 128], pytest.approx([6.4, 12.8]))


def test_figure_2c_marks_the_descent_batch():
    runs = [one_run("sam_batch", 0, 0.5, optimizer__ascent_batch_size=b) for b in (32.0, 64.0, 128.0)]
    axes = figures.ascent_batch(frame(*runs, one_run("sam", 0, 0.7))).axes[0]
    assert lines(axes)["SAM, other batch size"][:2] == ([32, 64, 128], pytest.approx([50, 50, 50]))
    assert lines(axes)["SAM"][1] == pytest.approx([70, 70])  # no ascent_batch_size: a level
    assert [64, 64] in [list(line.get_xdata()) for line in axes.get_lines()]


def test_an_ablation_goes_on_a_linear_axis():
    runs = [one_run("fsam", 0, 0.5, optimizer__sigma=s) for s in (0.0, 0.5, 1.0)]
    assert figures.versus(frame(*runs), "optimizer.sigma").axes[0].get_xscale() == "linear"
    runs = [one_run("fsam", 0, 0.5, optimizer__lmbda=value) for value in (0.1, 0.6, 0.8)]  # one factor is small
    assert figures.versus(frame(*runs), "optimizer.lmbda").axes[0].get_xscale() == "linear"


# --------------------------------------------------------------------------------------- measured

COSINES = {"cos_ema_full": 0.3, "cos_ema_full_predicted": 0.9, "cos_ema_full_independent": 0.7, "cos_batch_full": 0.2}


def test_ema_quality_has_a_panel_for_each_lambda():
    runs = frame(
        *(one_run("fsam", s, 0.5, optimizer__lmbda=lm) for lm in (0.9, 0.6) for s in (0, 1)), one_run("sam", 0, 0.5)
    )
    rows = rows_of(runs, **{f"perturbation___{key}": [value, value / 2] for key, value in COSINES.items()})
    figure = figures.ema_quality(rows, runs)
    assert [axes.get_title() for axes in figure.axes] == [r"$\lambda$ = 0.6", r"$\lambda$ = 0.9"]
    found = lines(figure.axes[1])
    assert list(found) == [look.label for look in EMA_QUALITY.values()]
    assert found["measured cos(m, g)"][1:] == (pytest.approx([0.35, 0.2]), VERMILION)
    assert found["if w stood still, batches as drawn"][1:] == (pytest.approx([0.95, 0.5]), BLUE)
    assert bands(figure.axes[0])[0][0][0] == pytest.approx((0.35 - HALF, 0.35 + HALF))
    assert figure.axes[0].get_ylim() == (0, 1)
    assert "×" not in words(figure)
    cut = rows.copy()
    last = (rows["directory"] == runs["directory"][0]) & (rows["epoch"] == 2)
    cut.loc[last, "perturbation/cos_ema_full"] = INF
    said = " ".join(words(figures.ema_quality(cut, runs)).split())
    assert "× measured cos(m, g) ends at epoch 1 of 2: then a run has no (finite) value" in said
    rows["perturbation/cos_batch_full"] -= 0.5  # as late in training
    assert figures.ema_quality(rows, runs).axes[0].get_ylim()[0] < -0.4


def measured(method="fsam", seeds=(0, 1), **columns):
    conventions = {"diagnostics/perturbation_rho": 0.2, "diagnostics/rho": 0.05, "diagnostics/num_samples": 1024}
    runs = [one_run(method, s, 0.5) for s in seeds]
    return [
        {
            **r,
            **conventions,
            "diagnostics/sample_hash": f"h{r['seed']}",
            **{k.replace("___", "/"): v + 0.1 * r["seed"] for k, v in columns.items()},
        }
        for r in runs
    ]


def test_friendliness_pairs_the_batch_with_the_others():
    runs = frame(
        *measured(
            final___perturbation___rise_batch_sam=0.3,
            final___perturbation___rise_other_sam=0.1,
            final___perturbation___rise_batch_sam_noise=0.2,
            final___perturbation___rise_other_sam_noise=-0.05,
        )
    )
    figure = figures.friendliness(runs)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths[:4] == pytest.approx([0.35, 0.15, 0.25, 0.0])
    colours = [to_hex(bar.get_facecolor()) for bar in figure.axes[0].patches]
    assert colours[:4] == [BLUE, BLUE, style("sam_noise").colour, style("sam_noise").colour]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["SAM", "SAM, noise component"]
    errors = [c.get_segments()[0][:, 0] for c in figure.axes[0].collections]
    assert list(errors[0]) == pytest.approx([0.35 - HALF, 0.35 + HALF])
    assert "step 0.2 (nats)" in words(figure)


def test_sharpness_has_a_panel_for_each_measured_quantity():
    runs = frame(
        *measured("sam", final___sharpness___one_step=0.4),
        *measured("sgd", final___sharpness___one_step=0.5, final___curvature___trace=7.0),
    )
    one_step, trace = figures.sharpness(runs).axes
    assert one_step.get_title() == "one-step sharpness"
    assert [axes.get_xlabel() for axes in (one_step, trace)] == ["nats", "nats / weight²"]
    assert dots(one_step)["SAM"][:2] == (pytest.approx(0.45), pytest.approx(HALF))
    assert list(dots(trace)) == ["SGD"]
    assert one_step.get_ylim() == trace.get_ylim()  # a method keeps its line
    runs = frame(*runs.to_dict("records"), one_run("fsam", 0, 0.5))  # not measured
    one_step, _ = figures.sharpness(runs).axes
    assert [tick.get_text() for tick in one_step.get_yticklabels()] == ["SGD", "SAM"]


def test_a_sharpness_that_is_not_finite_is_said():
    runs = frame(
        *measured("sam", final___sharpness___one_step=0.4, final___curvature___trace=INF),
        *measured("sgd", final___sharpness___one_step=0.5, final___curvature___trace=-INF),
    )
    runs.loc[0, "final/sharpness/one_step"] = INF
    figure = figures.sharpness(runs)
    one_step, trace = figure.axes
    assert dots(one_step)["SAM"][:2] == (0.5, None)
    assert [text.get_text() for text in one_step.texts] == ["n = 1"]
    assert dots(trace) == {}
    assert [text.get_text() for text in trace.texts] == ["not finite", "not finite"]
    assert list(trace.get_xticks()) == []
    assert "over 1 to 2 seeds" in words(figure)
    with pytest.raises(ValueError, match="final/curvature/trace is not finite in any run"):
        figures.sharpness(runs, ["curvature/trace"])


def test_what_fsamlab_measure_found_comes_first_and_alone():
    runs = frame(
        *measured(final___sharpness___one_step=0.4, final___curvature___trace=7.0, measured___sharpness___one_step=0.6)
    )
    (axes,) = figures.sharpness(runs).axes
    assert dots(axes)["F-SAM"][0] == pytest.approx(0.65)


# ----------------------------------------------------------------------------------------- errors


def test_other_conventions_are_refused():
    runs = frame(
        *measured("sam", final___sharpness___one_step=0.4), *measured("fsam", final___sharpness___one_step=0.5)
    )
    assert figures.sharpness(runs)
    runs.loc[3, "diagnostics/rho"] = 0.1
    with pytest.raises(ValueError, match=r"different rho \(0.05, 0.1\): not comparable"):
        figures.sharpness(runs)
    runs["diagnostics/rho"] = 0.05
    runs.loc[3, "diagnostics/sample_hash"] = "other"
    with pytest.raises(ValueError, match="sample_hash"):
        figures.sharpness(runs)
    runs["diagnostics/sample_hash"] = "same"
    runs.loc[3, "diagnostics/perturbation_rho"] = 0.5  # the radius of another quantity
    assert figures.sharpness(runs)


def test_other_conventions_are_refused_over_training(methods):
    runs = methods.assign(**{"diagnostics/num_samples": [64, 64, 64, 128, 64, 64]})
    with pytest.raises(ValueError, match="different num_samples"):
        figures.curves(rows_of(runs, sharpness___one_step=[0.1]), runs, "sharpness/one_step")
    assert figures.curves(rows_of(runs, test___loss=[0.1]), runs, "test/loss")


NEEDS = {
    "decomposition": ("fig1_decomposition", lambda runs, rows: figures.decomposition(runs, rows)),
    "components": (
        "no finished run of sam_full_ema.*fig2a_components_sgd",
        lambda runs, rows: figures.components(runs),
    ),
    "other_batch": ("no finished run of sam_db.*fig2b_other_batch", lambda runs, rows: figures.other_batch(runs)),
    "ascent_batch": ("no finished run of sam_batch.*fig2c_perturbation", lambda runs, rows: figures.ascent_batch(runs)),
    "rho": ("optimizer.rho has fewer than two values.*fig3_rho", lambda runs, rows: figures.rho(runs)),
    "batch_size": ("data.batch_size has fewer than two.*fig4_batch_size", lambda runs, rows: figures.batch_size(runs)),
    "ema_quality": (
        "rows with perturbation/cos_ema_full; .*diagnostics=paper",
        lambda r, rows: figures.ema_quality(rows, r),
    ),
    "ema of sam": ("no run has optimizer.lmbda", lambda runs, rows: figures.ema_quality(rows, runs, "sam")),
    "friendliness": ("diagnostics=paper", lambda runs, rows: figures.friendliness(runs)),
    "unknown method": ("no finished run of gsam", lambda runs, rows: figures.friendliness(runs, "gsam")),
    "sharpness": ("fsamlab measure RUNS diagnostics=full", lambda runs, rows: figures.sharpness(runs)),
    "curves": ("no finished run has rows with val/acc1", lambda runs, rows: figures.curves(rows, runs, "val/acc1")),
    "validation": ("best/test/acc1; it needs a validation split", lambda r, _: figures.by_method(r, figures.AT_BEST)),
    "no number": ("optimizer.base is no number", lambda runs, rows: figures.versus(runs, "optimizer.base")),
    "unknown key": ("no run has optimizer.gamma", lambda runs, rows: figures.versus(runs, "optimizer.gamma")),
}


@pytest.mark.parametrize("case", NEEDS)
def test_what_is_missing_is_named(case, methods):
    message, draw = NEEDS[case]
    with pytest.raises(ValueError, match=message) as error:
        draw(methods, rows_of(methods, test___acc1=[0.5]))
    assert "\n" not in str(error.value)


def test_a_failed_run_is_not_what_a_figure_needs(methods):
    runs = frame(*methods.to_dict("records"), {**one_run("sam_db", 0, 0.1), "status": "failed"})
    with pytest.raises(ValueError, match=r"no finished run of sam_db.*fig2b_other_batch"):
        figures.other_batch(runs)


def test_samples_of_a_seed_may_differ_with_what_is_varied_only():
    size = {64: "a", 128: "b"}
    runs = frame(*(one_run("sam", 0, 0.5, data__batch_size=b, diagnostics___sample_hash=size[b]) for b in size))
    rows = rows_of(runs, sharpness___one_step=[0.1])
    assert figures.curves(rows, runs, "sharpness/one_step", by="data.batch_size")
    runs = frame(*(one_run(m, 0, 0.5, diagnostics___sample_hash=m) for m in ("sam", "fsam")))
    with pytest.raises(ValueError, match=r"different sample_hash \(fsam, sam\)"):
        figures.curves(rows_of(runs, sharpness___one_step=[0.1]), runs, "sharpness/one_step")


def test_no_finished_run_is_an_error(methods, tmp_path):
    for runs in (methods.assign(status="failed"), methods.iloc[:0], frame()):
        with pytest.raises(ValueError, match="no finished run"):
            figures.by_method(runs)
        with pytest.raises(ValueError, match="no finished run"):
            figures.curves(frame(), runs, "test/acc1")
    with pytest.raises(ValueError, match="no runs here"):
        figures.load(tmp_path)


def test_runs_of_different_settings_are_not_averaged(methods):
    mixed = frame(*methods.to_dict("records"), one_run("sam", 3, 0.5, data__batch_size=128))
    with pytest.raises(ValueError, match=r"differ in data.batch_size \(128, 64\)"):
        figures.by_method(mixed)


def test_settings_without_the_key_are_no_exception(methods):
    runs = frame(*methods.to_dict("records"), one_run("fsam", 0, 0.8, optimizer__lmbda=0.6))
    assert figures.versus(runs, "optimizer.lmbda")  # SGD and SAM have none: levels
    mixed = frame(*runs.to_dict("records"), one_run("sgd", 2, 0.5, data__batch_size=128))
    with pytest.raises(ValueError, match=r"differ in data.batch_size \(128, 64\)"):
        figures.versus(mixed, "optimizer.lmbda")
    twice = frame(*runs.to_dict("records"), one_run("sgd", 1, 0.7, directory="runs/other/sgd"))
    with pytest.raises(ValueError, match=r"seed more than once: sgd-1.*, runs/other/sgd"):
        figures.versus(twice, "optimizer.lmbda")


def test_a_missing_value_is_another_setting():
    runs = frame(one_run("sam", 0, 0.5), one_run("sam", 1, 0.7, data__label_noise=0.4))
    with pytest.raises(ValueError, match=r"differ in data.label_noise \(0.4, null\)"):
        figures.by_method(runs)


def test_a_missing_convention_is_another_one():
    runs = frame(*measured("sam", final___sharpness___one_step=0.4))
    runs["diagnostics/batchnorm"] = ["eval", None]
    with pytest.raises(ValueError, match=r"different batchnorm \(eval, null\)"):
        figures.sharpness(runs)


def test_a_seed_counts_once(methods):
    twice = frame(*methods.to_dict("records"), one_run("sam", 1, 0.9, directory="runs/other/sam"))
    with pytest.raises(ValueError, match=r"seed more than once: sam-1.*, runs/other/sam"):
        figures.by_method(twice)


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_files_are_vectors_with_the_same_bytes(methods, tmp_path, suffix):
    rows = rows_of(methods, test___acc1=[0.2, 0.5, 0.6])
    first, second = (figures.save(figures.curves(rows, methods, "test/acc1"), tmp_path / f"{n}{suffix}") for n in "ab")
    content = first.read_bytes()
    assert content == second.read_bytes()
    assert not re.search(rb"<image|/Subtype ?/Image|/CreationDate|dc:date", content)
    if suffix == ".pdf":
        assert b"/FontFile2" in content  # TrueType, embedded
        assert b"/Type3" not in content


def test_another_suffix_is_refused(methods, tmp_path):
    with pytest.raises(ValueError, match=r"\.pdf or \.svg"):
        figures.save(figures.by_method(methods), tmp_path / "a.png")


def test_the_users_settings_are_neither_used_nor_changed(methods, tmp_path):
    plain = figures.save(figures.by_method(methods), tmp_path / "plain.svg").read_bytes()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "svg.hashsalt": "mine"}):
        before = dict(matplotlib.rcParams)
        again = figures.save(figures.by_method(methods), tmp_path / "again.svg").read_bytes()
        assert dict(matplotlib.rcParams) == before
    assert again == plain


def test_pyplot_is_not_loaded():
    code = "import fsamlab.report.figures, sys; print('matplotlib.pyplot' in sys.modules, 'IPython' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_notebook_shows_svg_and_markdown(methods):
    picture = figures.show(figures.by_method(methods))
    assert picture._repr_svg_().startswith("<svg")
    assert picture._repr_markdown_() is None
    assert figures.show("| a |")._repr_markdown_() == "| a |"


def test_the_benchmark_prints_what_it_draws():
    table = runpy.run_path(str(ROOT / "benchmarks" / "ema_quality.py"))["table"]
    runs = frame(*(one_run("fsam", s, 0.5) for s in (0, 1)))
    rows = rows_of(runs, **{f"perturbation___{key}": [value, value / 2] for key, value in COSINES.items()})
    found = table(figures.ema_table(rows, runs)).splitlines()
    assert len(found) == 4
    assert found[2] == "| 0.9 | 1 | 0.350 ± 0.071 | 0.950 ± 0.071 | 0.750 ± 0.071 | 0.250 ± 0.071 |"


def test_the_radius_of_the_steps_matters_for_the_rises_only(methods):
    runs = methods.assign(**{"diagnostics/perturbation_rho": [0.2, 0.2, 0.2, 0.2, 0.05, 0.05]})
    rows = rows_of(runs, perturbation___full_share=[0.5], perturbation___rise_other_sam=[0.5])
    assert figures.curves(rows, runs, "perturbation/full_share")
    message = r"different perturbation_rho \(0.05, 0.2\).* diagnostics.perturbation_rho=0.1`"
    with pytest.raises(ValueError, match=message):
        figures.curves(rows, runs, "perturbation/rise_other_sam")


def test_measurements_made_alike_afterwards_are_compared(methods):
    key, rho = "measured/perturbation/rise_other_sam", "measured/diagnostics/perturbation_rho"
    runs = methods.assign(**{"diagnostics/perturbation_rho": [0.2, 0.2, 0.2, 0.2, 0.05, 0.05]})
    rows = rows_of(runs, perturbation___rise_other_sam=[0.5]).assign(**{key: 0.25, rho: 0.1})
    twice = pd.concat([rows.assign(**{key: 9.0}), rows])  # the later measurement of a step counts
    assert lines(figures.curves(twice, runs, key).axes[0])["SAM"][:2] == ([1], [0.25])
    rows.loc[0, rho] = 0.2
    with pytest.raises(ValueError, match=r"different perturbation_rho \(0.1, 0.2\)"):
        figures.curves(rows, runs, key)


def test_figures_say_which_settings_change_together():
    runs = frame(
        *(
            one_run("sam", seed, 0.5 + seed / 10, model__width=width, train__epochs=epochs)
            for width, epochs in ((32, 8), (16, 24))
            for seed in (0, 1)
        )
    )
    said = "train.epochs changes together with model.width"
    rows = rows_of(runs, test___acc1=[0.5, 0.6])
    for figure in (
        figures.versus(runs, "model.width"),
        figures.by_method(runs, panel="model.width"),
        figures.curves(rows, runs, "test/acc1", by="model.width"),
    ):
        assert said in words(figure).replace("\n", " ")
    same = runs.assign(**{"train.epochs": 8})
    assert "together" not in words(figures.versus(same, "model.width"))


def test_figures_by_method_say_what_else_changes_with_it():
    runs = frame(*(one_run(m, s, 0.5, train__epochs=e) for m, e in (("sgd", 24), ("sam", 12)) for s in (0, 1)))
    runs = runs.assign(**{"final/sharpness/one_step": 0.1})
    said = "train.epochs changes together with optimizer.name"
    for figure in (figures.by_method(runs), figures.sharpness(runs)):
        assert said in words(figure).replace("\n", " ")
