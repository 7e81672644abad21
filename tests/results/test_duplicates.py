"""Copies of one run: how they are found, which of them is shown, and what is said of the others."""

from fsamlab.results.duplicates import best_first, copies, measured_keys, notes_of


def test_runs_of_one_identity_stand_together():
    assert copies("abAcB", str.lower) == [["a", "A"], ["b", "B"], ["c"]]
    assert copies(["a", "a"], lambda run: None) == [["a"], ["a"]]


def ordered(*rows):
    names = {row["directory"]: row for row in rows}
    group = best_first(list(names), names.__getitem__, lambda name: "broken" not in name)
    return group, notes_of([[names[name] for name in group]])


def test_the_copy_without_damage_comes_first_then_the_one_with_more_measured_values():
    plain, more = {"directory": "a"}, {"directory": "b", "final/sharpness/one_step": 0.1}
    broken = {"directory": "broken", "measured/curvature/trace": 1.0, "measured/curvature/lambda_max": 2.0}
    assert ordered(broken, plain, more)[0] == ["b", "a", "broken"]
    assert ordered(plain, {"directory": "b"})[0] == ["a", "b"]  # alike: as given


def test_only_values_count_as_measured():
    row = {"diagnostics/num_samples": 64, "measured/diagnostics/rho": 0.1, "final/test/acc1": 0.5}
    assert measured_keys({**row, "final/noise/scale": None, "optimizer.rho": 0.1}) == set()
    assert measured_keys({**row, "measured/noise/scale": 3.0}) == {"measured/noise/scale"}


def test_what_is_not_shown_is_named():
    one = {"directory": "a", "final/sharpness/one_step": 0.1}
    other = {"directory": "b", "measured/curvature/trace": 1.0}
    group, (hidden, only_there) = ordered(one, other)
    assert group == ["a", "b"]
    assert hidden[0].endswith("shown once; not shown: b")
    assert only_there[0].startswith("measured only in directories that are not shown: measured/curvature/trace;")
    assert ordered(one, {"directory": "b"})[1][1] == []
    assert notes_of([[one], [other]]) == ([], [])
