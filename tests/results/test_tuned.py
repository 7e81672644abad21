"""Each method at the radius that validation data choose."""

import pandas as pd
import pytest
from support.made_frames import frame, one_run

from fsamlab.report import figures
from fsamlab.results.study import Study
from fsamlab.results.tuned import own_radii, tuned, tuned_tables

VAL = {0.1: 0.7, 0.2: 0.9, 0.4: 0.8}  # of SAM; its test accuracy is the reverse, and must not choose


def of_radius(method, seed, rho, val, test, **more):
    return one_run(method, seed, test, optimizer__rho=rho, final___val___acc1=val, final___val___loss=1.0, **more)


def runs(*more, seeds=(0, 1)):
    found = [of_radius("sam", s, rho, VAL[rho] + 0.01 * s, 1.5 - VAL[rho] + 0.02 * s) for rho in VAL for s in seeds]
    found += [
        of_radius("vasso", s, rho, rho, rho, optimizer__lmbda=m) for m in (0.1, 0.6) for rho in VAL for s in seeds
    ]
    found += [
        of_radius(m, s, 0.0, 0.5, 0.5 + 0.01 * s, optimizer__ascent="none") for m in ("sgd", "sgd_2x") for s in seeds
    ]
    return frame(*found, *more)


def lines(table):
    return {tuple(line[: table.num_names]): line[table.num_names :] for line in table.lines}


def test_validation_chooses_the_radius_and_test_data_are_shown():
    found = tuned(Study(runs()))
    assert found.header == [
        *("method", "optimizer.lmbda", "rho", "n", "validation, at the end"),
        *("test, at the end", "vs SGD, equal compute", "passes", "time"),
    ]
    table = lines(found)
    sam = table["SAM", "null"]
    assert sam[:2] == ["0.2 (of 3)", "2"]
    assert sam[2].startswith("90.50 ± ")
    assert sam[3].startswith("61.00 ± ")
    assert sam[4].startswith("+10.50 [+4.15, ")
    assert sam[4].endswith(" 2/2*")  # these runs do not tell their passes
    assert table["VaSSO", "0.1"][0] == table["VaSSO", "0.6"][0] == "0.4 (of 3)"
    assert table["SGD, 2x epochs", "null"][0] == "-"
    assert table["SGD", "null"][4] == "-"
    assert [note.split(":")[0] for note in found.notes[:3]] == ["VaSSO, 0.1", "VaSSO, 0.6", "vs SGD, equal compute"]
    assert "0.4 is the largest value tried" in found.notes[0]


def test_further_seeds_of_the_chosen_radius_enter_the_means_and_not_the_choice():
    further = of_radius("sam", 7, 0.2, 0.0, 0.61)  # with it the mean of radius .2 is the lowest
    sam = lines(tuned(Study(runs(further))))["SAM", "null"]
    assert sam[:2] == ["0.2 (of 3)", "3"]
    assert sam[4].endswith(" 2/2*")  # SGD has no seed 7


def test_radii_without_a_column_are_said():
    assert own_radii(Study(runs())) == []  # several of one method: a column
    own = frame(
        *(of_radius(m, s, rho, 0.5, 0.5) for m, rho in (("sgd", 0.0), ("fsam", 0.8), ("sam", 0.4)) for s in (0, 1))
    )
    assert own_radii(Study(own)) == ["each method has its own optimizer.rho: sam 0.4, fsam 0.8"]
    assert own_radii(Study(own.assign(**{"optimizer.rho": 0.2}))) == []
    assert own_radii(Study(own.assign(status="failed"))) == []
    noisy = own.assign(
        **{"optimizer.rho": 2 * own["optimizer.rho"], "data.batch_size": 128, "directory": own["directory"] + "b"}
    )
    assert own_radii(Study(pd.concat([own, noisy], ignore_index=True))) == []  # sam .4 and .8, with the batch size


def test_a_mean_square_error_chooses_the_lowest():
    regression = {"task/headline": "mse", "task/title": "squared error", "task/higher_is_better": False}
    regression["task/percent"] = False
    found = [
        {**of_radius("sam", 0, rho, 0, 0), **regression, "final/val/mse": value, "final/test/mse": value}
        for rho, value in ((0.1, 3.0), (0.2, 1.0), (0.4, 2.0))
    ]
    assert lines(tuned(Study(frame(*found))))[("SAM",)][0] == "0.2 (of 3)"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda r: r[r["optimizer.rho"].isin([0.0, 0.2])], "no method has finished runs with several values"),
        (lambda r: r.drop(columns="final/val/acc1"), r"a validation split \(data.val_size\)"),
        (lambda r: r.assign(status="failed"), "no method has finished runs"),
        (lambda r: r.assign(seed=range(len(r))), "SAM: no seed has finished runs with all values of optimizer.rho"),
        (
            lambda r: r.assign(**{"train.epochs": r["optimizer.rho"].map(lambda v: 9 if v == 0.1 else 8)}),
            "differ in tra",
        ),
        (lambda r: r.assign(seed=0), "SAM has the same optimizer.rho and seed more than once"),
    ],
)
def test_what_prevents_a_choice_is_said(changed, message):
    with pytest.raises(ValueError, match=message):
        tuned(Study(changed(runs())))


def test_the_table_of_a_paper_and_of_the_terminal_are_the_same():
    study = Study(runs())
    (found,) = tuned_tables(study)
    assert found == tuned(study)
    text = figures.tuned_table(study)
    assert text.startswith(f"{found.title}\n\n| method | optimizer.lmbda | rho | n |")
    assert text.endswith(found.notes[-1])
    assert r"\toprule" in figures.tuned_table(study, form="latex")
    with pytest.raises(ValueError, match="form='html'"):
        figures.tuned_table(study, form="html")
    assert tuned_tables(Study(runs()[lambda r: r["optimizer.rho"] == 0])) == []
