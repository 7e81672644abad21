"""The figure of verdicts on claims."""

import math

import pytest

from fsamlab.report import figures
from fsamlab.results.claims import Claim
from fsamlab.results.paired import Paired
from fsamlab.results.verdicts import FAILS, HOLDS, UNDECIDED, Verdict


def verdict(name, differences, said=HOLDS, unit="points", margin=1.0, b="sam", factor=1.0):
    pairs = Paired.of(differences)
    claim = Claim(name, "fsam", ">", b, factor, None, margin)
    return Verdict(claim, "final/test/acc1", unit, pairs, pairs.interval(0.05), 0.01, 0.9, said, (1.0,), ({},))


def test_each_claim_is_a_point_with_its_interval_and_margin():
    found = [verdict("gain", [1.0, 2.0, 3.0]), verdict("loss", [-1.0, -2.0, -2.5], FAILS)]
    (axes,) = figures.claims(found).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["gain  (n = 3)", "loss  (n = 3)"]
    assert axes.get_ylim() == (1.5, -0.5)
    assert axes.get_xlabel() == "fsam − sam, points"
    points = [line.get_xydata()[0].tolist() for line in axes.lines if len(line.get_xydata()) == 1]
    assert points == [[2.0, 0.0], [pytest.approx(-11 / 6), 1.0]]
    intervals = [c.get_segments()[0][:, 0].tolist() for c in axes.collections if hasattr(c, "get_segments")]
    half = 4.302653 / math.sqrt(3)  # the .975 quantile of t with 2 degrees of freedom
    assert intervals[0] == pytest.approx([2 - half, 2 + half], rel=1e-6)


def test_small_differences_are_seen_beside_large_ones():
    small, large = verdict("small", [0.5, 1.0, 1.5]), verdict("large", [49.0, 50.0, 51.0])
    unknown = verdict("one pair", [3.0], UNDECIDED)  # without an interval
    (axes,) = figures.claims([unknown, small, large]).axes
    assert axes.get_xscale() == "symlog"
    assert axes.get_xlabel() == "fsam − sam, points (logarithmic beyond ±4)"
    assert {0, 2, 10, 20, 50} <= {*axes.get_xticks()}  # the large one can be read
    assert figures.claims([unknown, small]).axes[0].get_xscale() == "linear"


def test_units_do_not_share_an_axis():
    found = [verdict("gain", [1.0, 2.0]), verdict("cost", [-0.5, 0.1], UNDECIDED, "ms", 0.0, factor=1.02)]
    points, milliseconds = figures.claims(found).axes
    assert points.get_xlabel() == "fsam − sam, points"
    assert milliseconds.get_xlabel() == "fsam − 1.02 sam, ms"
    legend = [text.get_text() for text in points.figure.legends[0].get_texts()]
    assert legend == [HOLDS, UNDECIDED]


def test_one_pair_has_no_interval_and_no_verdicts_no_figure(tmp_path):
    figure = figures.claims([verdict("cosine", [0.3], UNDECIDED, "", b=None, factor=0.5)])
    assert figure.axes[0].get_xlabel() == "fsam − 0.5"
    assert figures.save(figure, tmp_path / "claims.svg").stat().st_size > 1000
    with pytest.raises(ValueError, match="no verdicts"):
        figures.claims([])
