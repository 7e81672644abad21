"""The files of reference numbers: references.yaml of the package, and files of a user of the same form.

A project may have `conf/local/references.yaml`, and a command may name any file. Every file is checked when it is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fsamlab.config import SCHEMAS, ConfigError, did_you_mean
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.results.entries import NUMBER, Place, check_keys, check_kind
from fsamlab.results.references import DEFAULTS, KINDS, SECTIONS, Reference, Value
from fsamlab.storage.reading import damaged, read_yaml

SHIPPED = Path(__file__).with_name("references.yaml")
LOCAL = Path("conf", "local", "references.yaml")  # below the project


def known_references(files: Iterable[Path] = ()) -> list[Reference]:
    """Return the references of the package, of the project's own file, and of `files`.

    Raises:
        ConfigError: two references have one name.
        Damaged: a file is not of the form; the message names file, entry and key.
    """
    local = PROJECT_ROOT / LOCAL
    paths = {path.resolve(): path for path in [SHIPPED, *([local] if local.exists() else []), *files]}
    found: dict[str, tuple[Reference, Path]] = {}
    for path in paths.values():
        for reference in read_references(path):
            if reference.name in found:
                where = found[reference.name][1]
                raise ConfigError(f"{path}: name", reference.name, f"is in {where} too; choose another name")
            found[reference.name] = (reference, path)
    return [reference for reference, _ in found.values()]


def read_references(path: Path) -> list[Reference]:
    """Return the references of a file.

    Raises:
        ConfigError: the file does not exist.
        Damaged: the file is not of the form; the message names file, entry and key.
    """
    content = read_yaml(path)
    if content is None:
        raise ConfigError("--reference", str(path), "no such file or no content; `fsamlab compare --list` has names")
    if not isinstance(content, dict) or not isinstance(content.get("references"), list):
        raise damaged(path, "has no list `references`")
    stray = content.keys() - {"recipes", "references"}
    if stray:
        raise damaged(path, f"has the unknown key {sorted(map(str, stray))[0]!r}; the keys are recipes, references")
    recipes = content.get("recipes") or {}
    if not isinstance(recipes, dict):
        raise damaged(path, "recipes is not a mapping of names to settings")
    for name, setting in recipes.items():
        _check_setting(Place(path, f"recipe {name}"), setting)
    found: list[Reference] = []
    for number, entry in enumerate(content["references"], start=1):
        place = Place(path, f"reference {number}")
        if not isinstance(entry, dict):
            raise place.wrong(f"is {str(entry)[:60]!r} and must be a mapping")
        found.append(_reference(place, entry, recipes))
    twice = [one.name for i, one in enumerate(found) if one.name in {other.name for other in found[:i]}]
    if twice:
        raise damaged(path, f"has two references with the name {twice[0]!r}")
    return found


KEYS: dict[str, Any] = {  # of an entry -> kind of the value
    "name": str,
    "title": str,
    "source": dict,
    "recipes": list,
    "setting": dict,
    "whole": bool,
    "values": dict,
    "metric": str,
    "num_seeds": int,
    "seeds": list,
    "unknown": str,
    "not_here": str,
    "note": str,
    "seconds_per_epoch": NUMBER,
    "curve": list,
    "band": NUMBER,
}
REQUIRED = ("name", "title", "source", "values")
SOURCE = ("repository", "commit", "file", "url")


def _reference(place: Place, entry: dict[Any, Any], recipes: Mapping[Any, Any]) -> Reference:
    if isinstance(entry.get("name"), str):
        place = Place(place.path, f"reference {entry['name']!r}")
    check_keys(place, entry, KEYS, REQUIRED)
    check_keys(place, entry["source"], dict.fromkeys(SOURCE, str), ("repository",), "source.")
    setting: dict[str, Any] = {}
    for name in entry.get("recipes", []):
        if name not in recipes:
            raise place.wrong(f"recipes has {str(name)!r}, and the file has {', '.join(map(str, recipes)) or 'none'}")
        setting.update(recipes[name])
    own = entry.get("setting", {})
    _check_setting(place, own)
    setting.update(own)
    if "not_here" not in entry:
        missing = [key for key in ("data.name", "model.name", "optimizer.name") if key not in setting]
        if missing:
            raise place.wrong(f"setting has no {missing[0]}; without it no run can stand beside the values")
    if not entry["values"]:
        raise place.wrong(f"values is empty; it needs one of {', '.join(KINDS)}")
    shape = {"mean": NUMBER, "std": NUMBER, "epoch": int}
    for kind, value in entry["values"].items():
        if kind not in KINDS:
            raise place.wrong(f"values has {str(kind)!r}, and may have {', '.join(KINDS)}")
        if not isinstance(value, dict):
            raise place.wrong(f"values.{kind} is {str(value)[:60]!r} and must be a mapping, such as {{mean: 80.8}}")
        check_keys(place, value, shape, ("mean",), f"values.{kind}.")
    for key, kind in (("curve", NUMBER), ("seeds", int)):
        for value in entry.get(key, []):
            check_kind(place, key, value, kind)
    if entry.get("band", 1) <= 0:
        raise place.wrong(f"band is {entry['band']} and must be above 0")
    seeds = tuple(entry.get("seeds", ()))
    fields = {key: value for key, value in entry.items() if key not in ("recipes", "setting", "values")}
    fields.setdefault("num_seeds", len(seeds) or None)
    return Reference(
        **{
            **fields,
            "setting": setting,
            "whole": entry.get("whole", False),
            "values": {kind: Value(**value) for kind, value in entry["values"].items()},
            "seeds": seeds,
            "curve": tuple(float(value) for value in entry.get("curve", ())),
        }
    )


def _check_setting(place: Place, setting: Any) -> None:
    """Refuse keys that no configuration has: a run could never agree in a mistyped key."""
    if not isinstance(setting, dict):
        raise place.wrong(f"setting is {str(setting)[:60]!r} and must be a mapping of config keys to values")
    known = {*DEFAULTS, *(f"{group}.{f.name}" for group in SECTIONS for f in _fields(group))}
    for key in setting:
        if key not in known:
            hint = did_you_mean(str(key), sorted(known))
            raise place.wrong(f"setting has {str(key)!r}, which is no config key{hint}")


def _fields(group: str) -> list[Any]:
    schemas = [SECTIONS[group], *SCHEMAS.get(group, {}).values()]
    return [f for schema in schemas for f in dataclasses.fields(schema)]
