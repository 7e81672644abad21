"""Tables of accuracies, costs and measured values."""

import math

import pytest
from support.made_frames import frame, one_run

from fsamlab.report.figures import (
    accuracy_table,
    by_method,
    conventions_table,
    cost_table,
    measured_table,
    paired_table,
)
from fsamlab.results import study


def line(table, start):
    (found,) = [text for text in table.splitlines() if text.startswith(f"| {start} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_methods_line_by_line(methods):
    table = accuracy_table(methods)
    assert line(table, "method") == ["method", "n", "at the end"]
    assert line(table, "SGD") == ["SGD", "2", "60.00 ± 14.14"]
    assert line(table, "SAM") == ["SAM", "2", "75.00 ± 21.21"]
    assert line(table, "F-SAM") == ["F-SAM", "1", "80.00"]  # leads, but its spread is not known: not bold
    assert table.index("| SGD") < table.index("| SAM") < table.index("| F-SAM")
    assert "mean ± standard deviation over n seeds" in table


@pytest.mark.parametrize(("lead", "bold"), [(0.0142, True), (0.0141, False)])
def test_the_best_is_bold_when_ahead_by_more_than_the_larger_spread(lead, bold):
    # standard deviations: SAM .01 / sqrt 2 = .0071, SGD .02 / sqrt 2 = .01414
    runs = [one_run("sgd", 0, 0.5), one_run("sgd", 1, 0.52)]
    runs += [one_run("sam", s, 0.51 + lead + d) for s, d in ((0, -0.005), (1, 0.005))]
    table = accuracy_table(frame(*runs))
    assert line(table, "SAM")[2].startswith("**") is bold
    assert "**" not in line(table, "SGD")[2]


def test_both_columns_where_a_validation_split_was_held_out():
    table = accuracy_table(frame(one_run("sgd", 0, 0.5, best=0.6), one_run("sgd", 1, 0.5, best=0.8)))
    assert line(table, "method") == ["method", "n", "at best validation epoch", "at the end"]
    assert line(table, "SGD") == ["SGD", "2", "70.00 ± 14.14", "50.00 ± 0.00"]


def test_parameters_that_vary_are_part_of_the_name():
    table = accuracy_table(
        frame(*(one_run("sam", 0, 0.5, optimizer__rho=r) for r in (0.1, 0.05)), one_run("sgd", 0, 0.4))
    )
    names = [text.split("|")[1].strip() for text in table.splitlines() if text.startswith("| S")]
    assert names == ["SGD", "SAM, rho 0.05", "SAM, rho 0.1"]


def test_a_parameter_that_only_some_runs_have_is_part_of_the_name():
    runs = [one_run("sam", 0, 0.5), one_run("sam", 0, 0.6, optimizer__ascent_batch_size=32.0)]
    names = [text.split("|")[1].strip() for text in accuracy_table(frame(*runs)).splitlines() if "| SAM" in text]
    assert names == ["SAM, ascent_batch_size null", "SAM, ascent_batch_size 32"]  # in the order of the other tables


def test_conditions_are_lines_and_methods_columns():
    accuracies = {("sgd", 0.2): 0.8, ("sgd", 0.4): 0.6, ("fsam", 0.2): 0.9, ("fsam", 0.4): 0.6}
    runs = [one_run(m, s, a + s / 100, data__label_noise=noise) for (m, noise), a in accuracies.items() for s in (0, 1)]
    table = accuracy_table(frame(*runs))
    assert "at the end, mean ± standard deviation over 2 seeds" in table
    assert line(table, "data.label_noise") == ["data.label_noise", "SGD", "F-SAM"]
    assert line(table, "0.2") == ["0.2", "80.50 ± 0.71", "**90.50 ± 0.71**"]
    assert line(table, "0.4") == ["0.4", "60.50 ± 0.71", "60.50 ± 0.71"]
    uneven = accuracy_table(frame(*runs[1:]))
    assert "over (n) seeds" in uneven
    assert line(uneven, "0.2")[1:] == ["81.00 (1)", "90.50 ± 0.71 (2)"]


def test_two_conditions():
    runs = [
        one_run(m, 0, 0.5, data__name=d, model__name=n) for m in ("sgd", "sam") for d in ("a", "b") for n in ("x", "y")
    ]
    table = accuracy_table(frame(*runs[:-1]))
    assert line(table, "model") == ["model", "data", "SGD", "SAM"]
    assert line(table, "y | b") == ["y", "b", "50.00", "-"]


def test_gains_are_taken_seed_by_seed(methods):
    table = paired_table(methods)  # SGD .5 .7, SAM .6 .9, F-SAM one seed
    assert line(table, "SAM") == ["SAM", "+15.00 [-48.53, +78.53] 2/2*"]
    (fsam,) = methods.loc[(methods["optimizer.name"] == "fsam") & (methods["status"] == "finished"), "final/test/acc1"]
    assert line(table, "F-SAM") == ["F-SAM", f"{100 * (fsam - 0.5):+.2f} 1/1*"]
    assert "| SGD |" not in table
    fsams = methods["optimizer.name"] == "fsam"
    at_end = methods["final/test/acc1"].where(~fsams)
    unknown = methods.assign(**{"final/test/acc1": at_end, "best/test/acc1": 0.5})  # F-SAM's best epoch alone is known
    assert line(paired_table(unknown), "F-SAM")[1:] == ["+0.00 0/1*", "-"]
    with pytest.raises(ValueError, match="has one SGD run to compare with"):
        paired_table(methods[methods["optimizer.name"] != "sgd"])
    assert line(paired_table(methods, "sam"), "F-SAM")[0] == "F-SAM"
    with pytest.raises(ValueError, match="has one ASAM run to compare with; `optimizer=asam` makes it"):
        paired_table(methods, "asam")


def test_cost(methods):
    table = cost_table(methods)
    assert line(table, "SGD") == ["SGD", "2", "10.0", "1.00", "-", "-"]
    assert line(table, "F-SAM") == ["F-SAM", "1", "25.0", "2.50", "-", "-"]
    passes = methods["optimizer.name"].map({"sgd": 10.0}).fillna(20.0)
    table = cost_table(methods.assign(**{"cost/steps": [50, 50, 50, 200, 100, 100], "cost/passes": passes}))
    assert line(table, "method")[-3:] == ["/ SGD", "time", "passes"]
    assert line(table, "SAM")[-3:] == ["2.50", "1.25", "2.00"]
    assert line(table, "F-SAM")[-3:] == ["2.50", "5.00", "2.00"]


def test_cost_in_the_order_of_the_values():
    sizes = (128, 16, 64)
    table = cost_table(frame(*(one_run(m, 0, 0.5, data__batch_size=size) for m in ("sam", "sgd") for size in sizes)))
    found = [[cell.strip() for cell in text.split("|")[1:3]] for text in table.splitlines()[2:]]
    assert found == [[m, size] for m in ("SGD", "SAM") for size in ("16", "64", "128")]


def test_n_is_of_the_runs_that_were_measured(methods):
    one_step, trace = "measured/sharpness/one_step", "measured/curvature/trace"
    runs = methods.assign(**{one_step: [0.25, 0.75, 9.0, None, 0.5, None], trace: [None, 2.0, None, None, 3.0, None]})
    table = measured_table(runs)
    assert line(table, "SAM") == ["SAM", "2", "0.5 ± 0.35", "2 (n = 1)"]
    assert line(table, "SGD") == ["SGD", "1", "0.5", "3"]
    assert "F-SAM" not in table


def test_measured_values_and_their_conventions(methods):
    key, rho = "measured/sharpness/one_step", "measured/diagnostics/rho"
    runs = methods.assign(**{key: [0.25, 0.75, 9.0, 0.5, 0.125, 0.125], rho: 0.05})
    assert line(measured_table(runs), "SAM") == ["SAM", "2", "0.5 ± 0.35"]
    assert line(measured_table(runs), "F-SAM") == ["F-SAM", "1", "0.5"]
    assert line(conventions_table(runs), "rho") == ["rho", "0.05"]
    with pytest.raises(ValueError, match="different rho"):
        measured_table(runs.assign(**{rho: [0.05, 0.1, 0.05, 0.05, 0.05, 0.05]}))
    with pytest.raises(ValueError, match="no run has sharpness/one_step"):
        measured_table(methods)
    with pytest.raises(ValueError, match="conventions"):
        conventions_table(methods)


def test_no_finished_run_no_table(methods):
    with pytest.raises(ValueError, match="no finished run"):
        accuracy_table(methods.assign(status="failed"))
    with pytest.raises(ValueError, match="no run has final/test/acc1"):
        accuracy_table(methods.drop(columns="final/test/acc1"))


def test_a_mean_over_fewer_runs_has_its_own_n(methods):
    runs = frame(*methods.to_dict("records"), one_run("sam", 3, None))  # no summary.json
    assert line(accuracy_table(runs), "SAM") == ["SAM", "3", "75.00 ± 21.21 (n = 2)"]
    assert line(accuracy_table(runs), "SGD") == ["SGD", "2", "60.00 ± 14.14"]


def test_infinite_values_are_missing_ones(methods):
    one_step, trace = "measured/sharpness/one_step", "measured/curvature/trace"
    inf = math.inf
    runs = methods.assign(**{one_step: [0.25, inf, 9.0, -inf, 0.5, 1.5], trace: [1.0, 3.0, inf, 4.0, inf, inf]})
    table = measured_table(runs)
    assert line(table, "SAM") == ["SAM", "2", "0.25 (n = 1)", "2 ± 1.4"]
    assert line(table, "F-SAM") == ["F-SAM", "1", "-", "4"]
    assert line(table, "SGD") == ["SGD", "2", "1 ± 0.71", "-"]


def noise(runs, above, below, prefix="final/noise/"):
    ratios = [a / b if b else math.nan for a, b in zip(above, below)]
    return runs.assign(**{f"{prefix}trace_sigma": above, f"{prefix}grad_sq": below, f"{prefix}scale": ratios})


def test_a_noise_scale_is_the_ratio_of_the_means(methods):
    runs = noise(methods, [2.0, 4.0, 9.0, 5.0, 8.0, 2.0], [0.5, 1.5, 9.0, 0.1, -0.5, 0.25])
    table = measured_table(runs, ["noise/scale", "noise/grad_sq"])
    assert line(table, "SAM") == ["SAM", "2", "3", "1 ± 0.71"]  # 3 / 1, not the mean of 4 and 2.67
    assert line(table, "F-SAM") == ["F-SAM", "1", "50", "0.1"]
    assert line(table, "SGD") == ["SGD", "2", "-", "-0.125 ± 0.53"]  # the mean denominator is negative
    one_part = runs.assign(**{"final/noise/grad_sq": [0.5, math.nan, 9.0, 0.1, -0.5, 0.25]})
    assert line(measured_table(one_part, ["noise/scale"]), "SAM") == ["SAM", "2", "4 (n = 1)"]


def test_latex_has_the_numbers_of_the_markdown():
    runs = [one_run("sgd", s, 0.5 + s / 100) for s in (0, 1)]
    runs += [one_run("sam", s, 0.8 + s / 100, optimizer__rho=r) for s in (0, 1) for r in (0.05, 0.1)]
    plain, table = accuracy_table(frame(*runs)), accuracy_table(frame(*runs, one_run("a_b&c", 0, 0.9)), form="latex")
    assert line(plain, "SGD") == ["SGD", "2", "50.50 ± 0.71"]
    assert table.splitlines() == [
        "% Test accuracy in %, mean ± standard deviation over n seeds",
        "",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"method & n & at the end \\",
        r"\midrule",
        r"SGD & 2 & 50.50 $\pm$ 0.71 \\",
        r"SAM, rho 0.05 & 2 & 80.50 $\pm$ 0.71 \\",
        r"SAM, rho 0.1 & 2 & 80.50 $\pm$ 0.71 \\",
        r"a\_b\&c & 1 & 90.00 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    with pytest.raises(ValueError, match="form='html': must be one of markdown, latex"):
        accuracy_table(frame(*runs), form="html")


def test_latex_has_a_table_for_each_metric_and_bold_where_markdown_has():
    runs = [
        one_run(m, s, a + s / 100, best=a, data__label_noise=0.2)
        for m, a in (("sgd", 0.5), ("sam", 0.6))
        for s in (0, 1)
    ]
    runs += [{**run, "data.label_noise": 0.4, "directory": run["directory"] + "+"} for run in runs]
    table = accuracy_table(frame(*runs), form="latex")
    assert table.count(r"\begin{tabular}{lrr}") == 2
    assert r"data.label\_noise & SGD & SAM \\" in table
    assert r"0.4 & 50.50 $\pm$ 0.71 & \textbf{60.50 $\pm$ 0.71} \\" in table
    assert "**" not in table


def tied_runs():
    """Two widths, the wider trained for fewer epochs; SGD twice as long as SAM in both."""
    return frame(
        *(
            one_run(method, seed, 0.5 + seed / 10, model__width=width, train__epochs=epochs * (1 + (method == "sgd")))
            for width, epochs in ((32, 8), (16, 24))
            for method in ("sgd", "sam")
            for seed in (0, 1)
        )
    ).assign(**{"measured/curvature/trace": 1.0})


TIED = "train.epochs changes together with model.width: a difference between its values may be due to either."


@pytest.mark.parametrize("table", [accuracy_table, cost_table, paired_table])
def test_what_changes_together_with_what_names_the_lines_stands_below(table):
    runs = tied_runs()
    assert table(runs).splitlines()[-1] == TIED
    assert "together" not in table(runs[runs["model.width"] == 32].assign(**{"train.epochs": 8}))


def test_what_changes_together_is_a_comment_in_latex():
    assert accuracy_table(tied_runs(), form="latex").splitlines()[-1] == f"% {TIED}"


def test_what_changes_with_the_method_stands_below_measured_values():
    runs = tied_runs()
    table = measured_table(runs[runs["model.width"] == 32], ["curvature/trace"])
    assert table.splitlines()[-1] == TIED.replace("model.width", "optimizer.name")


def test_figures_and_tables_take_a_study_and_compute_its_settings_once(methods, monkeypatch):
    tables, own = (accuracy_table, cost_table, paired_table), study.as_text
    expected = [table(methods) for table in tables]
    seen = []
    monkeypatch.setattr(study, "as_text", lambda values: seen.append(values.name) or own(values))
    found = study.Study(methods)
    assert [table(found) for table in tables] == expected
    assert by_method(found)
    assert sorted(seen) == sorted(found.config_keys)
