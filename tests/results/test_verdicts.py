"""Claims: how a file is read, which runs a claim is about, and what the verdict says."""

import numpy as np
import pytest
import yaml
from support.made_frames import frame, one_run

from fsamlab.config import ConfigError
from fsamlab.results.claims import Damaged, read_claims
from fsamlab.results.study import Study
from fsamlab.results.verdicts import FAILS, HOLDS, UNDECIDED, verdicts

SEEDS = range(6)
NOISE = np.random.default_rng(1).normal(0, 0.004, (3, 6))


def run(method, seed, test, rho=0.2, val=None, **more):
    return one_run(method, seed, test, optimizer__rho=rho, final___val___acc1=test if val is None else val, **more)


def runs(sam=0.03, fsam=0.031, **more):
    """SGD at 70 %, SAM and F-SAM above SGD by so much, on the same draws; without the noise of a seed's draw."""
    draw = np.linspace(-0.05, 0.05, len(SEEDS))
    found = []
    for method, gain, noise in zip(("sgd", "sam", "fsam"), (0.0, sam, fsam), NOISE):
        found += [run(method, s, 0.7 + gain + draw[s] + noise[s], **more) for s in SEEDS]
    return found


@pytest.fixture
def judge(tmp_path):
    def judged(claims, found=None, **more):
        groups = {name: {"optimizer.name": name} for name in ("sgd", "sam", "fsam")}
        claims = [{"claim": one} if isinstance(one, str) else one for one in claims]
        content = {"runs": ["runs"], "groups": groups, "claims": claims, **more}
        (tmp_path / "claims.yaml").write_text(yaml.safe_dump(content))
        study = Study(frame(*(runs() if found is None else found)))
        return verdicts(read_claims(tmp_path / "claims.yaml"), study)

    return judged


def test_a_paired_difference_is_shown_that_two_means_would_not_show(judge):
    (one,) = judge(["sam > sgd"])
    assert one.verdict == HOLDS
    assert one.unit == "points"
    assert one.pairs.mean == pytest.approx(100 * (0.03 + (NOISE[1] - NOISE[0]).mean()))
    assert (one.pairs.n, one.pairs.above) == (6, 6)
    assert one.interval[0] > 0


@pytest.mark.parametrize(
    ("claim", "margin", "verdict"),
    [
        ("sam > sgd", 0, HOLDS),
        ("sgd < sam", 0, HOLDS),
        ("sgd > sam", 0, FAILS),
        ("sam < sgd", 0, FAILS),
        ("sam = fsam", 1, HOLDS),
        ("sam = sgd", 1, FAILS),
        ("sgd = sam", 1, FAILS),
        ("sam = fsam", 0.1, UNDECIDED),
        ("fsam > sam", 0, UNDECIDED),
        ("fsam > sam", 2, FAILS),
        ("fsam >= sam", 2, HOLDS),
        ("fsam <= sam", 2, HOLDS),
        ("sgd >= sam", 1, FAILS),
        ("sgd >= sam", 9, HOLDS),
        ("sam > 60", 0, HOLDS),
        ("sam < 60", 0, FAILS),
        ("sam <= 1.2 * sgd", 0, HOLDS),
        ("sam <= 1.0 * sgd", 0, FAILS),
    ],
)
def test_relations_and_margins(judge, claim, margin, verdict):
    (one,) = judge([{"claim": claim, "margin": margin}])
    assert one.verdict == verdict


def test_a_difference_below_the_margin_that_is_shown_holds_and_says_so(judge):
    (one,) = judge([{"claim": "sam > sgd", "margin": 9}])
    assert one.verdict == HOLDS
    assert one.notes == ["the difference is smaller than the margin of 9"]


def test_many_claims_need_more(judge):
    weak = [r for r in runs(sam=0.0048)]
    (alone,) = judge(["sam > sgd"], weak)
    many = judge(["sam > sgd", *(f"sam > {n}" for n in range(90, 99))], weak)
    assert alone.p_holds < 0.025 < many[0].p_holds == pytest.approx(10 * alone.p_holds)
    assert (alone.verdict, many[0].verdict) == (HOLDS, UNDECIDED)


def test_validation_chooses_the_radius_and_test_data_do_not(judge):
    grid = [run("sam", s, 0.9 - rho, rho=rho, val=rho) for rho in (0.1, 0.2, 0.4) for s in SEEDS]
    (one,) = judge([{"claim": "sam < sgd", "tune": ["optimizer.rho"]}], [*grid, *runs()[:6]])
    assert one.chosen == ({"optimizer.rho": 0.4}, {})
    assert one.means[0] == pytest.approx(50.0)


def test_the_range_over_the_radius_is_taken_within_each_seed_on_values_that_both_groups_have(judge):
    grid = [
        run(m, s, 0.8 - slope * rho + 0.1 * s, rho=rho)
        for m, slope in (("sam", 0.5), ("fsam", 0.25))
        for rho in ((0.1, 0.2, 0.4) if m == "sam" else (0.2, 0.4, 0.8))
        for s in SEEDS
    ]
    over = {"key": "optimizer.rho", "take": "range"}
    (one,) = judge([{"claim": "fsam < sam", "over": over}], grid, tune=["optimizer.rho"])
    assert one.means == (pytest.approx(5.0), pytest.approx(10.0))
    assert one.verdict == HOLDS


def test_one_claim_for_each_value(judge):
    found = [*runs(data__label_noise=0.2), *runs(sam=-0.03, data__label_noise=0.4)]
    low, high = judge([{"claim": "sam > sgd", "name": "noise", "for_each": {"data.label_noise": [0.2, 0.4]}}], found)
    assert (low.claim.name, high.claim.name) == ("noise data.label_noise=0.2", "noise data.label_noise=0.4")
    assert (low.verdict, high.verdict) == (HOLDS, FAILS)


def test_a_seed_without_partner_is_named(judge):
    (one,) = judge(["sam > sgd"], [*runs(), run("sam", 17, 0.1)])
    assert one.pairs.n == 6
    assert one.notes == ["1 seeds of sam have no partner"]


def test_another_metric_does_not_take_the_margin_of_the_file(judge):
    points, cost = judge(["sam >= sgd", {"claim": "sam >= sgd", "name": "cost", "metric": "cost/step_ms"}], margin=1)
    assert (points.claim.margin, cost.claim.margin, cost.unit) == (1.0, 0.0, "ms")


@pytest.mark.parametrize(
    ("found", "claim", "says"),
    [
        (
            [run("sam", 0, 0.5)],
            {"claim": "sam > sgd"},
            "group sgd has no finished run with this value; the runs have sam",
        ),
        ([run("sam", 0, 0.5), run("sgd", 1, 0.5)], {"claim": "sam > sgd"}, "no seed in common"),
        ([*runs(), run("sam", 0, 0.5, rho=0.4)], {"claim": "sam > sgd"}, "differ in optimizer.rho"),
        (runs(), {"claim": "sam > sgd", "metric": "final/test/acc5"}, "no run of claim .* has this column"),
        (runs(), {"claim": "sam > sgd", "where": {"data.nosie": 1}}, "no run has this config key"),
        ([*runs(), *runs()], {"claim": "sam > sgd"}, "two runs with one seed"),
        (runs(), {"claim": "sam > sgd", "over": {"key": "optimizer.rho"}}, "1 values in common; two are needed"),
    ],
)
def test_runs_that_allow_no_answer_are_one_line(judge, found, claim, says):
    with pytest.raises(ConfigError, match=says) as e:
        judge([claim], found)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"claims": [{"claim": "sam > sgt"}]}, "unknown group 'sgt' (did you mean sgd?)"),
        ({"claims": [{"claim": "sam better sgd"}]}, "is not of the form `fsam > sam`"),
        ({"claims": [{"claim": "sam > two * sgd"}]}, "neither a group"),
        ({"claims": [{"claim": "sam = sgd"}]}, "`=` needs a margin above 0"),
        ({"claims": [{"claim": "sam > sgd"}, {"claim": "sam > sgd"}]}, "two claims with the name 'sam > sgd'"),
        ({"claims": [{"claim": "sam > sgd", "marign": 1}]}, "claim 1: unknown key marign (did you mean margin?)"),
        ({"claims": [{"claim": "sam > sgd", "margin": "one"}]}, "margin is 'one' and must be a number"),
        (
            {"claims": [{"claim": "sam > sgd", "over": {"key": "optimizer.rho", "take": "most"}}]},
            "range | mean | worst",
        ),
        ({"claims": []}, "has no claims"),
        ({"claims": ["sam > sgd"]}, "must be a mapping such as"),
        ({"claims": [{"claim": "sam > sgd", "where": {"seed": [[1], 2]}}]}, "a plain value, or a list"),
        ({"groups": {"sam": {}}}, "a group is a name and a mapping"),
        ({"runs": []}, "names no runs"),
        ({"alpha": 2}, "must lie between 0 and 0.5"),
        ({"clams": []}, "unknown key clams (did you mean claims?)"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, change, says):
    groups = {name: {"optimizer.name": name} for name in ("sgd", "sam")}
    content = {"runs": ["runs"], "groups": groups, "claims": [{"claim": "sam > sgd"}], **change}
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(Damaged) as e:
        read_claims(path)
    assert says in str(e.value)
    assert str(path) in str(e.value)
    assert "\n" not in str(e.value)


def test_two_columns_of_the_same_runs(judge):
    found = [run("fsam", s, 0.7, final___own=0.1 + s, final___other=0.3 + 1.1 * s) for s in SEEDS]
    claim = {"claim": "fsam < sam", "metrics": {"fsam": "final/own", "sam": "final/other"}}
    groups = {"fsam": {"optimizer.name": "fsam"}, "sam": {"optimizer.name": "fsam"}}
    (one,) = judge([claim], found, groups=groups, margin=5)
    assert (one.pairs.n, one.claim.margin) == (6, 0.0)  # another unit than that of the file's margin
    assert one.pairs.mean == pytest.approx(-0.2 - 0.1 * np.mean(SEEDS), abs=1e-12)
    assert one.means == pytest.approx((0.1 + 2.5, 0.3 + 1.1 * 2.5))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"metrics": {"fsam": "final/own"}}, "metrics must be {fsam: COLUMN, sam: COLUMN}"),
        ({"metrics": {"fsam": "final/own", "sgd": "final/own"}}, "metrics must be {fsam: COLUMN, sam: COLUMN}"),
        ({"metrics": {"fsam": "final/own", "sam": 3}}, "metrics must be"),
        ({"metric": "final/own", "metrics": {"fsam": "final/own", "sam": "final/own"}}, "without metric"),
    ],
)
def test_columns_that_do_not_fit_the_groups_are_refused(judge, more, words):
    with pytest.raises(Damaged, match=words.replace("{", r"\{")):
        judge([{"claim": "fsam < sam", **more}])


def test_columns_of_different_units_are_refused(judge):
    found = [run(m, s, 0.7, final___own=0.1 + s, cost___step_ms=3.0) for s in SEEDS for m in ("sam", "fsam")]
    with pytest.raises(ConfigError, match="different units"):
        judge([{"claim": "fsam < sam", "metrics": {"fsam": "final/test/acc1", "sam": "cost/step_ms"}}], found)


def test_a_group_may_have_one_of_several_values_and_validation_chooses_among_them(judge):
    found = [run("sgd", s, 0.7) for s in SEEDS]
    for rho, val in ((0.1, 0.9), (0.2, 0.6), (0.4, 0.7)):
        found += [run("sam", s, 0.7 + rho, rho, val) for s in SEEDS]
    groups = {"sam": {"optimizer.name": "sam", "optimizer.rho": [0.2, 0.4]}, "sgd": {"optimizer.name": "sgd"}}
    (one,) = judge(["sam > sgd"], found, groups=groups, tune=["optimizer.rho"])
    assert one.chosen[0] == {"optimizer.rho": 0.4}
    assert one.pairs.mean == pytest.approx(40)
    groups["sam"]["optimizer.rho"] = [0.2, 0.3]
    with pytest.raises(ConfigError, match=r"optimizer\.rho=0\.3: .*the runs have 0\.1, 0\.2, 0\.4"):
        judge(["sam > sgd"], found, groups=groups)


def with_passes(**passes):
    return [{**one, "cost/passes": passes[one["optimizer.name"]]} for one in runs()]


def test_a_claim_at_equal_compute_refuses_groups_with_other_passes(judge):
    found = with_passes(sgd=10, sam=20, fsam=20.4)
    (one,) = judge(["fsam >= sam"], found, equal_compute=True, margin=2)
    assert one.passes == (pytest.approx(20.4), 20)
    assert one.notes == []
    both = r"claim 'fsam > sgd': fsam made 20.4 gradient passes and sgd 10, in epochs of SGD; take runs with as many"
    with pytest.raises(ConfigError, match=both):
        judge([{"claim": "fsam > sgd", "equal_compute": True}], found)
    with pytest.raises(ConfigError, match="the gradient passes of fsam and sgd are not known"):
        judge(["fsam > sgd"], equal_compute=True)
    assert judge([{"claim": "fsam > 60"}], found, equal_compute=True)[0].verdict == HOLDS  # one group alone
    with pytest.raises(Damaged, match="equal_compute is 'yes' and must be true or false"):
        judge(["fsam > sgd"], found, equal_compute="yes")


def test_a_claim_at_unequal_compute_says_so_and_passes_are_a_metric(judge):
    found = with_passes(sgd=10, sam=20, fsam=20)
    (one,) = judge(["sam > sgd"], found)
    assert one.notes == ["not at equal compute: 20 gradient passes of sam, 10 of sgd"]
    (cost,) = judge([{"claim": "sam <= 2 * sgd", "metric": "cost/passes"}], found)
    assert (cost.verdict, cost.unit, cost.notes) == (HOLDS, "epochs of SGD", [])
    old = [{k: v for k, v in one.items() if k != "cost/passes"} for one in found]
    counted = {"cost/epochs": 10.0, "cost/steps": 100, "data/num_train": 640, "optimizer.base": "sgd"}
    (derived,) = judge([{"claim": "sam <= 2 * sgd", "metric": "cost/passes"}], [{**one, **counted} for one in old])
    assert derived.means == (20, 10)
