"""An option of the group `experiment` that composes to a given configuration, and holds no more than what differs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from fsamlab.checks import ConfigError
from fsamlab.config import Config, to_plain, typed
from fsamlab.config.compose import composing

ALWAYS = ("optimizer", "model", "data")  # groups whose option the file names; others where they differ from the default
GROUPS = (*ALWAYS, "train", "diagnostics")
NOT_OF_A_SETTING = ("name", "seed", "force", "runs_dir", "on_code_change", "tracker")  # of one launch, and of a machine


@dataclass(frozen=True)
class Experiment:
    """The content of an option file.

    Attributes:
        options: {group: option}.
        changes: nested keys that differ from these options.
    """

    options: dict[str, str]
    changes: dict[str, Any]

    def text(self, comments: list[str], name: str | None = None) -> str:
        """Return the file; `name` is the `name` of the runs, None leaves it out."""
        lines = ["# @package _global_", *(f"# {line}" for line in comments), "defaults:"]
        lines += [f"  - override /{group}: {_scalar(option)}" for group, option in self.options.items()]
        body = {**({} if name is None else {"name": name}), **self.changes}
        rest = yaml.safe_dump(body, sort_keys=False, allow_unicode=True) if body else ""
        return "\n".join([*lines, "", rest]) if rest else "\n".join([*lines, ""])


def _scalar(text: str) -> str:
    """Return a text as YAML reads it back; `off` without quotes would be false."""
    return yaml.safe_dump([text], default_flow_style=True, width=1000).strip()[1:-1]


def experiment_of(config: Config) -> Experiment:
    """Return the shortest option file for a configuration, without name, seed, tracker and what a launch decides.

    Raises:
        ConfigError: no option file gives the configuration.
    """
    plain = to_plain(config)
    with composing():
        options = {group: option for group in GROUPS if (option := _nearest(group, plain[group])) is not None}
        words = [f"{group}={option}" for group, option in options.items()]
        default: Any = OmegaConf.to_container(compose("config", overrides=words), resolve=True)
    changes = {key: value for key, value in _changes(plain, default).items() if key not in NOT_OF_A_SETTING}
    found = Experiment(options, changes)
    check(found, config)
    return found


def check(experiment: Experiment, config: Config) -> None:
    """Compose the file, and refuse one that does not give the configuration.

    Raises:
        ConfigError: names the keys that differ.
    """
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "experiment", "written_by_fsamlab_best.yaml")
        file.parent.mkdir()
        file.write_text(experiment.text([]), encoding="utf-8")
        with composing():
            again = typed(
                compose("config", overrides=[f"hydra.searchpath=['file://{place}']", f"experiment={file.stem}"])
            )
    wanted, got = to_plain(config), to_plain(again)
    differing = [key for key in _flat(_changes(wanted, got)) if key.split(".")[0] not in NOT_OF_A_SETTING]
    differing += [
        key for key in _flat(_changes(got, wanted)) if key.split(".")[0] not in (*NOT_OF_A_SETTING, *differing)
    ]
    if differing:
        allowed = "no option file gives this setting; start the seeds from the words in overrides.yaml of the run"
        raise ConfigError("experiment", ", ".join(dict.fromkeys(differing)), allowed)


def _nearest(group: str, section: Mapping[str, Any]) -> str | None:
    """Return the option of a group that differs from a section in the fewest keys; None where the default is as near.

    The optimizer's option is the one with the name of the method, if there is one.
    """
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    names = hydra.config_loader.get_group_options(group)
    if group == "optimizer" and section["name"] in names:
        return str(section["name"])
    far = {name: len(_flat(_changes(section, _option(group, name)))) for name in names}
    best = min(names, key=lambda name: (far[name], name != section.get("name"), name))
    if group not in ALWAYS and len(_flat(_changes(section, _option(group, None)))) <= far[best]:
        return None
    return best


@cache
def _option(group: str, name: str | None) -> dict[str, Any]:
    """Return the section that an option gives, in plain types; None means the default option of config.yaml."""
    whole: Any = OmegaConf.to_container(compose("config" if name is None else f"{group}/{name}"), resolve=True)
    return dict(whole[group])


def _changes(wanted: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of `wanted`, nested, whose values differ from `default`."""
    found: dict[str, Any] = {}
    for key, value in wanted.items():
        before = default.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            below = _changes(value, before)
            if below:
                found[key] = below
        elif key not in default or value != before or isinstance(value, bool) != isinstance(before, bool):
            found[key] = value
    return found


def _flat(node: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys of a nested mapping."""
    keys = []
    for key, value in node.items():
        keys += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else [f"{prefix}{key}"]
    return keys
