"""Differences from SGD at equal compute, seed by seed: the reference, the numbers, and what is marked."""

import math

import numpy as np
import pytest
from scipy import stats
from support.made_frames import frame, one_run

from fsamlab.results.gains import EQUAL, Gain, reference_words
from fsamlab.results.paired import Paired
from fsamlab.results.study import Study
from fsamlab.results.summary import settings_table
from fsamlab.results.tuned import tuned

SEEDS = range(4)
PASSES = {"sgd": 10.0, "sgd_2x": 20.0, "adamw": 10.0, "sam": 20.0, "fsam": 20.0, "fsam_quarter": 12.5, "random": 10.0}
LEVEL = {name: 0.6 + 0.03 * i for i, name in enumerate(PASSES)}
NOISE = np.random.default_rng(5).normal(0, 0.01, (len(PASSES), len(SEEDS)))
KEY = "final/test/acc1"


def accuracy(method, seed):
    return LEVEL[method] + NOISE[list(PASSES).index(method), seed]


def runs(*methods, **more):
    ascent = {"optimizer__ascent": "none"}
    return [
        one_run(
            m,
            seed,
            accuracy(m, seed),
            cost___passes=PASSES[m],
            **{**(ascent if m in ("sgd_2x", "sgd") else {}), **more},
        )
        for m in methods
        for seed in SEEDS
    ]


def gains(study, against=EQUAL):
    table = study.settings(against=against)
    names = table["optimizer.name"]
    found = table[f"{KEY} gain"].items()
    return {names[i]: None if g is None else (names[g.reference], g.equal, g) for i, g in found}


def test_the_reference_has_as_many_passes_and_the_numbers_are_those_of_a_paired_t_test():
    found = gains(Study(frame(*runs(*(m for m in PASSES if m != "adamw")))))
    assert {m: None if g is None else g[:2] for m, g in found.items()} == {
        "sgd": None,
        "sgd_2x": ("sgd", False),
        "sam": ("sgd_2x", True),
        "fsam": ("sgd_2x", True),
        "fsam_quarter": ("sgd", False),
        "random": ("sgd", True),
    }
    ours, theirs = ([100 * accuracy(m, seed) for seed in SEEDS] for m in ("fsam", "sgd_2x"))
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    gain = found["fsam"][2]
    assert gain.pairs.interval(0.05) == pytest.approx((low, high))
    mean = np.mean(ours) - np.mean(theirs)
    assert gain.text == f"{mean:+.2f} [{low:+.2f}, {high:+.2f}] 4/4"
    assert found["fsam_quarter"][2].text.endswith(" 4/4*")


def test_twice_the_epochs_are_equal_compute_also_as_a_setting_of_the_training():
    longer = [{**run, "cost/passes": 20.0} for run in runs("sgd", train__epochs=20)]
    study = Study(frame(*runs("sgd", "fsam", train__epochs=10), *longer))
    table = study.settings()
    assert "train.epochs" in study.keys
    (fsam,) = table.index[table["optimizer.name"] == "fsam"]
    gain = table.loc[fsam, f"{KEY} gain"]
    assert gain.equal
    assert table.loc[gain.reference, "train.epochs"] == 20
    both = Study(frame(*runs("sgd", "sgd_2x", "fsam", train__epochs=10), *longer))
    assert gains(both)["fsam"][:2] == ("sgd_2x", True)  # that with the same epochs, of two


def test_the_reference_has_the_same_base_and_conditions():
    adam = {"optimizer__base": "adamw"}
    twice = [{**run, "cost/passes": 20.0} for run in runs("adamw", optimizer__ascent="none", **adam)]
    study = Study(frame(*runs("sgd", "sgd_2x"), *twice, *runs("fsam", **adam)))
    assert gains(study)["fsam"][:2] == ("adamw", True)
    apart = [*runs("sgd_2x", "sam", data__name="a"), *runs("fsam", "sgd", "sam", data__name="b")]
    assert gains(Study(frame(*apart)))["fsam"][:2] == ("sgd", False)


def test_a_method_may_be_the_reference_and_of_several_settings_the_one_that_agrees():
    study = Study(frame(*runs("sgd", "sgd_2x", "sam", "fsam")))
    found = gains(study, "sam")
    assert found["fsam"][:2] == ("sam", True)
    assert found["sgd"][:2] == ("sam", False)
    assert found["sam"] is None
    grid = [run for rho in (0.1, 0.2) for run in runs("sam", "fsam", optimizer__rho=rho)]
    table = Study(frame(*grid)).settings(against="sam")
    pairs = {i: gain.reference for i, gain in table[f"{KEY} gain"].items() if gain is not None}
    assert len(pairs) == 2
    for one, other in pairs.items():
        assert table.loc[one, "optimizer.rho"] == table.loc[other, "optimizer.rho"]


def test_passes_that_are_not_known_are_not_equal():
    old = [{k: v for k, v in run.items() if k != "cost/passes"} for run in runs("sgd", "sgd_2x", "fsam")]
    assert gains(Study(frame(*old)))["fsam"][:2] == ("sgd", False)


@pytest.mark.parametrize(
    ("differences", "percent", "higher", "text"),
    [
        ([1.0, 2.0, 3.0], True, True, "+2.00 [-0.48, +4.48] 3/3"),
        ([-1.0], True, True, "-1.00 0/1"),
        ([-0.002, -0.001, -0.004], False, False, "-0.0023 [-0.0061, +0.0015] 3/3"),
        ([0.0, 0.0], False, True, "+0.00 [+0.00, +0.00] 0/2"),
    ],
)
def test_the_text(differences, percent, higher, text):
    assert Gain(Paired.of(differences), higher, 0, True, percent).text == text


def test_the_terminal_says_what_the_numbers_are(monkeypatch):
    study = Study(frame(*runs("sgd", "sgd_2x", "fsam", "fsam_quarter")))
    shown = settings_table(study)
    headings = [str(column.header) for column in shown.columns]
    assert headings[4:] == ["vs SGD, equal compute", "passes", "time", "time per step"]
    cells = {line[0]: line[1:] for line in zip(*(column.cells for column in shown.columns))}
    assert cells["fsam"][4] == "2.00x"
    assert cells["fsam_quarter"][4] == "1.25x"
    assert cells["sgd"][3:5] == ("-", "1.00x")
    table = study.settings()
    words = reference_words([gain for gain in table[f"{KEY} gain"] if gain is not None])
    assert len(words) == 2
    assert words[1].startswith("* minus plain SGD, not at equal compute")
    alone = settings_table(Study(frame(*runs("fsam"))))
    assert [str(column.header) for column in alone.columns][4:] == ["passes", "time", "time per step"]
    assert next(zip(*(column.cells for column in alone.columns)))[4] == "20.0"  # without SGD: in epochs of SGD


def test_chosen_radii_are_compared_at_equal_compute():
    grid = [{**run, "final/val/acc1": rho} for rho in (0.1, 0.2) for run in runs("fsam", optimizer__rho=rho)] + [
        {**run, "final/val/acc1": 0.5} for run in runs("sgd", "sgd_2x")
    ]
    found = tuned(Study(frame(*grid)))
    lines = {line[0]: line for line in found.lines}
    assert lines["F-SAM"][5].endswith(" 4/4")
    assert lines["F-SAM"][6] == "2.00x"
    assert lines["SGD, 2x epochs"][5].endswith("*")
    assert not math.isnan(float(lines["F-SAM"][5].split()[0]))
