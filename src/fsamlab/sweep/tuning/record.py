"""The record of a tuning study, `<sweep>/tune.json`: what was asked, what came out, what is still to come.

The record is all that a study keeps. Optuna's own study is made anew from the record for each proposal (sampling.py),
so the study continues after any kill, and needs no data base. The file is replaced as a whole.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fsamlab.checks import ConfigError, shown
from fsamlab.rundir.find import has_living_owner
from fsamlab.storage.reading import Damaged, damaged, misfit, read_json
from fsamlab.storage.writing import write_json

FILE = "tune.json"
PRESENCE = ".tune"  # a directory that the process at work on a study owns
RUNNING, PAUSED, PRUNED, FINISHED, FAILED = STATES = ("running", "paused", "pruned", "finished", "failed")
NUMBER = int | float
TRIAL = {
    **{"number": int, "params": {str: NUMBER | str}, "state": str, "rung": int, "values": [NUMBER]},
    **{"of_seeds": [[NUMBER]], "runs": [str], "tries": int, "reason": str | None},
}
GROUP = {
    **{"words": [str], "seeds": [str], "space": {str: str}, "epochs": [int], "setting": str, "size": int},
    **{"objective": str | None, "metric": str | None, "higher_is_better": bool, "percent": bool, "trials": [dict]},
}


@dataclass
class Trial:
    """One setting, tried with all seeds.

    Attributes:
        number: from 0, in the order of the proposals.
        params: {searched key: value}.
        state: running (asked for, not yet at the end of its rung), paused (there, and not yet judged), pruned (paused
            for good), finished or failed.
        rung: the number of the rung that the trial is to reach.
        values: the mean objective over the seeds, for each rung that was reached.
        of_seeds: the objective of each seed, for each rung that was reached.
        runs: the names of the run directories, one for each seed.
        tries: how often a run of the trial has failed.
        reason: why the trial has failed.
    """

    number: int
    params: dict[str, float | int | str]
    state: str = RUNNING
    rung: int = 0
    values: list[float] = field(default_factory=list)
    of_seeds: list[list[float]] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    tries: int = 0
    reason: str | None = None


@dataclass
class Group:
    """The trials of one method, or of one combination of the settings that are not searched.

    Attributes:
        words: the words that set the combination.
        seeds: the words that set the seeds; empty for the seed of the configuration.
        space: {searched key: range}; empty for a method without a searched key, which has one trial.
        epochs: the rungs: the epochs after which all trials pause, then those of the whole training.
        setting: hash of the configuration without the searched keys.
        size: the number of trials.
        objective: what judges, as the key of the configuration has it.
        metric: the column of a summary that judges; None until a run has told.
        higher_is_better: the direction of the metric.
        percent: whether the metric is shown in per cent.
        trials: in the order of their numbers.
    """

    words: list[str]
    seeds: list[str]
    space: dict[str, str]
    epochs: list[int]
    setting: str
    size: int
    objective: str | None = None
    metric: str | None = None
    higher_is_better: bool = True
    percent: bool = True
    trials: list[Trial] = field(default_factory=list)

    def ranked(self, rung: int) -> list[Trial]:
        """Return the trials with a value at a rung, the best one first; of equal ones the earlier trial first."""
        sign = -1 if self.higher_is_better else 1
        reached = [trial for trial in self.trials if len(trial.values) > rung]
        return sorted(reached, key=lambda trial: (sign * trial.values[rung], trial.number))

    @property
    def best(self) -> Trial | None:
        """The best trial that was trained to the end; None if there is none yet."""
        return next(iter(self.ranked(len(self.epochs) - 1)), None)

    def count(self, *states: str) -> int:
        """Return how many trials have one of the states."""
        return sum(trial.state in states for trial in self.trials)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return len(self.trials) >= self.size and not self.count(RUNNING, PAUSED)


@dataclass
class Study:
    """A tuning study.

    Attributes:
        settings: of :class:`fsamlab.sweep.tuning.settings.Settings`, as recorded.
        groups: one for each method.
    """

    settings: dict[str, Any]
    groups: list[Group]

    def names(self) -> list[str]:
        """Return a name for each group: the words in which the groups differ, the optimizer without its key."""
        common = set.intersection(*(set(group.words) for group in self.groups))
        names = []
        for group in self.groups:
            own = [word.removeprefix("optimizer=") for word in group.words if word not in common]
            alone = [word.removeprefix("optimizer=") for word in group.words if word.startswith("optimizer=")]
            names.append(" ".join(own) or " ".join(alone) or "all trials")
        return names

    def write(self, sweep_dir: Path) -> None:
        """Replace the record."""
        write_json(sweep_dir / FILE, asdict(self))


def read_study(sweep_dir: Path) -> Study | None:
    """Return the study of a sweep; None where the sweep has none.

    Raises:
        Damaged: the file does not hold a study.
    """
    path, mend = sweep_dir / FILE, "restore the file, or give the study another name=..."
    entry = read_json(path, {"settings": dict, "groups": [dict]}, ("settings", "groups"), mend)
    if entry is None:
        return None
    groups = []
    for group in entry["groups"]:
        wrong = misfit(group, GROUP, _required(Group))
        for trial in [] if wrong else group["trials"]:
            wrong = wrong or misfit(trial, TRIAL, _required(Trial))
            if not wrong and trial["state"] not in STATES:
                wrong = f"state is {trial['state']!r}"
        if wrong:
            raise damaged(path, f"is damaged: {wrong}", mend)
        groups.append(Group(**{**_own(Group, group), "trials": [Trial(**_own(Trial, t)) for t in group["trials"]]}))
    return Study(entry["settings"], groups)


def _required(cls: type) -> list[str]:
    return [f.name for f in fields(cls)]


def _own(cls: type, entry: dict[str, Any]) -> dict[str, Any]:
    return {f.name: entry[f.name] for f in fields(cls)}


def is_at_work(sweep_dir: Path) -> bool:
    """Return whether a process lives that continues the study of a sweep."""
    try:
        return has_living_owner(sweep_dir / PRESENCE)
    except Damaged:
        return False


def same_study(old: Study, new: Study, sweep_dir: Path) -> Study:
    """Return the recorded study, to be continued by a command that asks for `new`; more trials may be asked for.

    Raises:
        ConfigError: the command asks for another study.
    """

    def refuse(key: str, value: object, was: object) -> ConfigError:
        allowed = f"the study in {sweep_dir} has {was}: give that again, or another study another name=..."
        return ConfigError(key, value, allowed)

    halves = old.settings.get("min_epochs") is not None
    for key, value in new.settings.items():
        was = old.settings.get(key)
        grows = key == "trials" and not halves and value >= was
        if value != was and not grows:
            name = f"halving.{key}" if key in ("min_epochs", "factor") else key
            raise refuse(f"hydra.sweeper.{name}", value, was)
    if len(old.groups) != len(new.groups):
        raise refuse("methods", ", ".join(new.names()), ", ".join(old.names()))
    for name, before, now in zip(old.names(), old.groups, new.groups):
        if now.space != before.space:
            raise refuse(f"searched keys of {name}", _space(now), _space(before))
        if now.seeds != before.seeds:
            raise refuse("seeds", " ".join(now.seeds) or "none", " ".join(before.seeds) or "none")
        if now.setting != before.setting:
            what = "other settings than now (the command or conf/ has changed)"
            raise refuse("method", f"{' '.join(now.words)}", f"{name} with {what}")
        if now.objective != before.objective:
            raise refuse("objective", shown(now.objective), shown(before.objective))
        if now.epochs != before.epochs:
            raise refuse("epochs", now.epochs, before.epochs)
        before.size = now.size
    old.settings = new.settings
    return old


def _space(group: Group) -> str:
    return " ".join(f"{key}={text}" for key, text in group.space.items()) or "none"
