"""A tuning study with made-up runs: what is asked, which trials go on, and that no interruption changes the study."""

import itertools
import json
import math
import random

import pytest
import yaml

from fsamlab.checks import ConfigError
from fsamlab.config.space import Dimension
from fsamlab.storage.reading import Damaged
from fsamlab.sweep.plan import JobPlan
from fsamlab.sweep.tuning.halving import rungs
from fsamlab.sweep.tuning.launching import Detached, Failure
from fsamlab.sweep.tuning.methods import Method, asked_study
from fsamlab.sweep.tuning.record import FILE, Group, Study, Trial, read_study, same_study
from fsamlab.sweep.tuning.settings import Settings
from fsamlab.sweep.tuning.study import Work
from fsamlab.terminal.errors import SweepFailed

RHO = Dimension("optimizer.rho", "float", 0.01, 0.5, log=True)
MODE = Dimension("optimizer.radius", "choice", values=("constant", "cosine"))
EPOCHS = 9


class Killed(BaseException):
    """The process dies."""


def settings(**other):
    given = {"trials": 9, "parallel": 2, "sampler": "tpe", "sampler_seed": 0}
    halving = {"min_epochs": other.pop("min_epochs", None), "factor": other.pop("factor", 3)}
    return Settings.of({**given, "halving": halving, **other})


def method(name, *space, seeds=("seed=0", "seed=1"), objective=None):
    train = {"epochs": EPOCHS, "eval_every_epochs": 1}
    config = {"train": train, "optimizer": {"epoch_multiplier": 1}, "data": {}, "objective": objective}
    return Method([f"optimizer={name}"], list(seeds), space, JobPlan([], None, name, f"hash-{name}", config))


METHODS = (method("sgd"), method("sam", RHO), method("fsam", RHO, MODE))


def value_of(words, epoch):
    """Return a validation accuracy that depends on method, radius, seed and epoch."""
    given = dict(word.split("=") for word in words)
    peak = {"sam": 0.05, "fsam": 0.2, "sgd": 1}[given["optimizer"]]
    off = abs(math.log(float(given.get("optimizer.rho", 1)) / peak)) + 5 * (given.get("optimizer.radius") == "cosine")
    return 0.9 - 0.1 * off - 0.5 / (epoch + 1) + 0.001 * int(given.get("seed", 0))


class Runner:
    """Writes the rows of runs, epoch after epoch; may die before one of them."""

    def __init__(self, sweep_dir, kill_at=None, fail=lambda name, times: None):
        self.sweep_dir, self.left, self.fail = sweep_dir, kill_at, fail
        self.trained, self.rounds = [], []

    def train(self, plans):
        self.rounds.append([(plan.directory.name, plan.until) for plan in plans])
        failures = {}
        for plan in plans:
            name = plan.directory.name
            why = self.fail(name, sum(name == one for one, _ in self.trained))
            if why is not None:
                self.trained.append((name, 0))
                failures[plan.directory] = why
                continue
            plan.directory.mkdir(exist_ok=True)
            rows = plan.directory / "metrics.jsonl"
            begin = len(rows.read_text().splitlines()) if rows.exists() else 0
            for epoch in range(begin + 1, (plan.until or EPOCHS) + 1):
                if self.left == 0:
                    raise Killed
                self.left = None if self.left is None else self.left - 1
                self.trained.append((name, epoch))
                with rows.open("a") as f:
                    row = {"step": epoch, "epoch": epoch, "val/acc1": value_of(plan.overrides, epoch), "test/acc1": 0}
                    f.write(json.dumps(row) + "\n")
        return failures


def compose(sweep_dir):
    def plan(words):
        name = " ".join(words).replace("optimizer", "").replace(" ", "_")
        return JobPlan(words, sweep_dir / name, name, "", {})

    return plan


def begin(sweep_dir, runner, methods=METHODS, **other):
    given = settings(**other)
    asked, old = asked_study(list(methods), given), read_study(sweep_dir)
    study = asked if old is None else same_study(old, asked, sweep_dir)
    return Work(study, given, list(methods), runner, compose(sweep_dir))


def tuned(sweep_dir, runner=None, **other):
    sweep_dir.mkdir(exist_ok=True)
    work = begin(sweep_dir, runner or Runner(sweep_dir), **other)
    while trials := work.next():
        work.round(trials)
    return work.study


def test_each_method_is_tuned_by_itself_and_a_method_without_a_key_is_trained_once(tmp_path):
    runner = Runner(tmp_path)
    study = tuned(tmp_path, runner)
    assert study.names() == ["sgd", "sam", "fsam"]
    assert [len(group.trials) for group in study.groups] == [1, 9, 9]
    assert all(group.is_over for group in study.groups)
    assert len(runner.rounds) == 5  # of two trials of each method, the runs of all methods at once
    assert [len(one) for one in runner.rounds] == [10, 8, 8, 8, 4]
    assert len(set(runner.trained)) == len(runner.trained) == EPOCHS * 2 * 19
    _, sam, fsam = study.groups
    assert 0.5 < sam.best.params["optimizer.rho"] / 0.05 < 2
    for group in (sam, fsam):
        assert group.best.values == [max(trial.values[0] for trial in group.trials)]
    assert fsam.best.params["optimizer.radius"] == "constant"
    for trial in sam.trials:
        assert trial.values[0] == pytest.approx(sum(trial.of_seeds[0]) / 2)
        words = [f"optimizer=sam optimizer.rho={trial.params['optimizer.rho']} seed={seed}".split() for seed in (0, 1)]
        assert trial.of_seeds[0] == [value_of(one, EPOCHS) for one in words]


def test_methods_begin_with_the_same_proposals():
    names = {"sam": METHODS[1], "other": method("sam2", RHO)}
    asked = [asked_study([one], settings(sampler="random")).groups[0] for one in names.values()]
    from fsamlab.sweep.tuning.sampling import proposed

    first, second = ([proposed((RHO,), group, n, "random", 0).params for n in range(4)] for group in asked)
    assert first == second
    assert len({one["optimizer.rho"] for one in first}) == 4
    assert first != [proposed((RHO,), asked[0], n, "random", 1).params for n in range(4)]


HALVED = {"min_epochs": 1, "factor": 3}


def test_successive_halving(tmp_path):
    runner = Runner(tmp_path)
    study = tuned(tmp_path, runner, **HALVED)
    for group in study.groups[1:]:
        assert group.epochs == [1, 3, 9]
        assert [len(trial.values) for trial in group.ranked(0)] == [3, 2, 2, 1, 1, 1, 1, 1, 1]
        assert (group.count("finished"), group.count("pruned")) == (1, 8)
        assert group.best is group.ranked(0)[0]  # the made-up order is the same at all epochs
        assert group.best.rung == 2
    assert study.groups[0].epochs == [9]  # nothing to choose: trained once, to the end
    assert len(set(runner.trained)) == len(runner.trained)  # runs go on, they do not start over
    assert [{until for _, until in one} for one in runner.rounds] == [{None, 1}, {1}, {1}, {1}, {1}, {3}, {None}]


@pytest.mark.parametrize(
    ("epochs", "least", "factor", "expected"),
    [
        (9, None, 3, [9]),
        (9, 1, 3, [1, 3, 9]),
        (10, 1, 3, [1, 3, 9, 10]),
        (8, 4, 2, [4, 8]),
        (99, 5, 4, [5, 20, 80, 99]),
    ],
)
def test_the_rungs(epochs, least, factor, expected):
    assert rungs(epochs, least, factor) == expected


def state(sweep_dir):
    return json.loads((sweep_dir / FILE).read_text())


@pytest.mark.parametrize("halving", [{}, HALVED], ids=["whole", "halved"])
def test_a_study_that_is_killed_anywhere_ends_as_an_undisturbed_one(tmp_path, halving):
    tuned(tmp_path / "whole", **halving)
    total = len(list((tmp_path / "whole").glob("*=*")))
    draw = random.Random(0)
    for number in range(3):
        place, kills = tmp_path / f"killed{number}", 0
        while True:
            runner = Runner(place, kill_at=draw.randrange(60 if halving else 150))
            try:
                tuned(place, runner, **halving)
                break
            except Killed:
                kills += 1
        assert kills > 1
        assert state(place) == state(tmp_path / "whole")
        assert len(list(place.glob("*=*"))) == total  # and no other run was begun


@pytest.mark.parametrize("at_write", range(1, 7))
def test_a_kill_around_any_write_of_the_record(tmp_path, monkeypatch, at_write):
    few = {"methods": METHODS[1:2], "trials": 3, "min_epochs": 3}
    tuned(tmp_path / "whole", **few)
    write, count = Study.write, itertools.count(1)

    def dies(study, sweep_dir):
        number = next(count)
        if number == at_write and number % 2:
            raise Killed
        write(study, sweep_dir)
        if number == at_write:
            raise Killed

    monkeypatch.setattr(Study, "write", dies)
    try:
        tuned(tmp_path / "killed", **few)
    except Killed:
        monkeypatch.undo()
        tuned(tmp_path / "killed", **few)
    assert state(tmp_path / "killed") == state(tmp_path / "whole")
    assert next(count) > at_write


LOST = Failure("lost", "its process is gone")
DIVERGED = Failure("failed", "Diverged: diverged at step 3", diverged=True)


def test_a_training_that_diverges_fails_its_trial_and_the_study_goes_on(tmp_path):
    bad = next(t for t in tuned(tmp_path / "a").groups[1].trials).runs[1]
    runner = Runner(tmp_path / "b", fail=lambda name, times: DIVERGED if name == bad else None)
    study = tuned(tmp_path / "b", runner)
    assert [name for name, _ in runner.trained].count(bad) == 1
    trial = study.groups[1].trials[0]
    assert (trial.state, trial.reason, trial.values) == ("failed", "failed: Diverged: diverged at step 3", [])
    assert [len(group.trials) for group in study.groups] == [1, 9, 9]
    assert study.groups[1].count("finished") == 8
    assert study.groups[1].best is not None


def test_a_run_that_fails_once_is_tried_again(tmp_path):
    tuned(tmp_path / "whole")
    bad = read_study(tmp_path / "whole").groups[1].trials[0].runs[1]
    runner = Runner(tmp_path / "b", fail=lambda name, times: LOST if name == bad and times == 0 else None)
    study = tuned(tmp_path / "b", runner)
    assert study.groups[1].trials[0].tries == 1
    study.groups[1].trials[0].tries = 0
    assert study == read_study(tmp_path / "whole")


def test_a_run_that_fails_twice_fails_its_trial(tmp_path):
    bad = read_bad(tmp_path)
    runner = Runner(tmp_path / "b", fail=lambda name, times: LOST if name == bad else None)
    study = tuned(tmp_path / "b", runner)
    trial = study.groups[1].trials[0]
    assert (trial.state, trial.tries, trial.reason) == ("failed", 2, "lost: its process is gone")
    assert study.groups[1].count("finished") == 8


def read_bad(tmp_path):
    return tuned(tmp_path / "a").groups[1].trials[0].runs[1]


def test_when_all_runs_fail_the_study_stops_and_the_same_command_goes_on(tmp_path):
    tuned(tmp_path / "whole")
    with pytest.raises(SweepFailed, match=r"all 10 runs of this round failed \(lost: its process is gone\); the same"):
        tuned(tmp_path / "b", Runner(tmp_path / "b", fail=lambda name, times: LOST))
    assert [trial.state for group in read_study(tmp_path / "b").groups for trial in group.trials] == ["running"] * 5
    study = tuned(tmp_path / "b")
    for group in study.groups:
        for trial in group.trials:
            trial.tries = 0
    assert study == read_study(tmp_path / "whole")


def test_a_launcher_that_does_not_wait(tmp_path):
    class Leaves(Runner):
        def train(self, plans):
            done = all((plan.directory / "metrics.jsonl").exists() for plan in plans)
            super().train(plans)
            if not done:
                raise Detached
            return {}

    tuned(tmp_path / "whole", trials=4)
    rounds = 0
    while True:
        try:
            tuned(tmp_path / "b", Leaves(tmp_path / "b"), trials=4)
            break
        except Detached:
            rounds += 1
    assert rounds == 2
    assert state(tmp_path / "b") == state(tmp_path / "whole")


def test_more_trials_for_a_study_that_is_over(tmp_path):
    tuned(tmp_path / "a", trials=4)
    study = tuned(tmp_path / "a", trials=9)
    tuned(tmp_path / "whole", trials=9)
    assert study == read_study(tmp_path / "whole")
    assert state(tmp_path / "a") == state(tmp_path / "whole")


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [
        ({}, {"sampler_seed": 1}, "hydra.sweeper.sampler_seed=1: the study in {} has 0: give that again, or another"),
        ({}, {"trials": 5}, "hydra.sweeper.trials=5: the study in {} has 9"),
        (HALVED, {**HALVED, "trials": 12}, "hydra.sweeper.trials=12: the study in {} has 9"),
        ({}, HALVED, "hydra.sweeper.halving.min_epochs=1: the study in {} has None"),
        ({}, {"methods": METHODS[:2]}, "methods=sgd, sam: the study in {} has sgd, sam, fsam"),
        (
            {"methods": METHODS[1:2]},
            {"methods": [method("sam", Dimension("optimizer.rho", "float", 0.01, 1, log=True))]},
            "searched keys of sam=optimizer.rho=log(0.01,1): the study in {} has optimizer.rho=log(0.01,0.5)",
        ),
        (
            {"methods": METHODS[1:2]},
            {"methods": [method("sam", RHO, seeds=["seed=0"])]},
            "seeds=seed=0: the study in {} has seed=0 seed=1",
        ),
        (
            {"methods": METHODS[1:2]},
            {"methods": [method("sam", RHO, objective="val/loss")]},
            "objective=val/loss: the study in {} has null",
        ),
        (
            {"methods": METHODS[1:2]},
            {"methods": [method("x", RHO)]},
            "method=optimizer=x: the study in {} has sam with",
        ),
    ],
)
def test_another_study_in_the_same_place_is_refused(tmp_path, before, now, reason):
    tuned(tmp_path, **before)
    with pytest.raises(ConfigError) as error:
        tuned(tmp_path, **now)
    assert reason.format(tmp_path) in str(error.value)


def test_a_changed_conf_does_not_change_the_runs_of_a_trial(tmp_path):
    with pytest.raises(Killed):
        tuned(tmp_path, Runner(tmp_path, kill_at=3))
    work = begin(tmp_path, Runner(tmp_path))
    work.compose = lambda words: JobPlan(words, tmp_path / f"new-{'-'.join(words)}", "", "", {})
    with pytest.raises(SweepFailed, match=r"trial 0 would be new-.* now, and was .*: conf/ has changed since"):
        work.round(work.next())


def test_a_setting_that_cannot_be_used_fails_its_trial_alone(tmp_path):
    work = begin(tmp_path, Runner(tmp_path))
    usual = work.compose

    def picky(words):
        if any(word.startswith("optimizer.rho=0.3") for word in words):
            raise ConfigError("optimizer.rho", 0.3, "is not for today")
        return usual(words)

    work.compose = picky
    while trials := work.next():
        work.round(trials)
    failed = [t for group in work.study.groups for t in group.trials if t.state == "failed"]
    assert len(failed) == sum(str(t.params.get("optimizer.rho")).startswith("0.3") for t in failed) > 0
    assert all(group.best for group in work.study.groups)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:-30], "is not a JSON object"),
        (lambda text: text.replace('"finished"', '"done"', 1), "is damaged: state is 'done'"),
        (lambda text: text.replace('"number": 0', '"number": "0"', 1), "is damaged: number is '0'"),
        (lambda text: text.replace('"space"', '"room"', 1), "is damaged: space is missing"),
    ],
)
def test_a_damaged_record(tmp_path, change, reason):
    tuned(tmp_path, trials=2)
    (tmp_path / FILE).write_text(change((tmp_path / FILE).read_text()))
    with pytest.raises(Damaged) as error:
        read_study(tmp_path)
    assert reason in str(error.value)
    assert "restore the file" in str(error.value)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"trials": 0}, "hydra.sweeper.trials=0: must be"),
        ({"trials": 2.5}, "hydra.sweeper.trials=2.5"),
        ({"sampler": "grid"}, "hydra.sweeper.sampler=grid"),
        ({"factor": 1}, "hydra.sweeper.halving.factor=1"),
        ({"halving": None}, "hydra.sweeper.halving=null: must be {min_epochs: 5"),
        ({"trails": 3}, "hydra.sweeper.trails=3: is no setting; there are trials, parallel"),
    ],
)
def test_settings_that_are_refused(given, reason):
    with pytest.raises(ConfigError) as error:
        settings(**given)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("least", "space", "reason"),
    [
        (9, (RHO,), "halving.min_epochs=9: must be below the 9 epochs of the training"),
        (1, (Dimension("train.epochs", "int", 3, 9),), "cannot halve where train.epochs is searched"),
    ],
)
def test_a_halving_that_does_not_go_with_the_training(least, space, reason):
    with pytest.raises(ConfigError) as error:
        asked_study([method("sam", *space)], settings(min_epochs=least))
    assert reason in str(error.value)


def test_a_pause_needs_an_evaluation():
    rare = method("sam", RHO)
    rare.plan.config["train"]["eval_every_epochs"] = 4
    with pytest.raises(ConfigError) as error:
        asked_study([rare], settings(min_epochs=2))
    assert "must be at least train.eval_every_epochs=4" in str(error.value)


def test_the_name_of_a_group():
    def group(*words):
        return Group(list(words), [], {}, [1], "", 1)

    assert Study({}, [group("a=1", "optimizer=sam")]).names() == ["sam"]
    assert Study({}, [group("a=1")]).names() == ["all trials"]
    found = Study({}, [group("a=1", "b=2", "optimizer=sam"), group("a=1", "b=3", "optimizer=sam")])
    assert found.names() == ["b=2", "b=3"]


def test_the_table_of_settings_is_that_of_the_file():
    from support.runs import ROOT

    text = yaml.safe_load((ROOT / "conf/hydra/sweeper/tune.yaml").read_text())
    assert Settings.of(text) == Settings(30, 5, "tpe", 0, None, 3)


def test_of_equal_trials_the_earlier_one_is_the_best():
    trials = [Trial(n, {}, values=[value]) for n, value in enumerate((0.1, 0.7, 0.7, 0.3))]
    assert [t.number for t in Group([], [], {}, [1], "", 4, trials=trials).ranked(0)] == [1, 2, 3, 0]
    assert [t.number for t in Group([], [], {}, [1], "", 4, higher_is_better=False, trials=trials).ranked(0)] == [
        0,
        3,
        1,
        2,
    ]
