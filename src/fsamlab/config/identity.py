"""A run's identity: what can change the trained weights, and nothing else.

Two configurations that differ in it never share a directory; two that agree never run twice. Only
what differs from the schemas' defaults counts, so a field added later does not rename old runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from fsamlab.config import Config, DataConfig, typed
from fsamlab.config.project import PROJECT_ROOT

NEUTRAL = frozenset(  # cannot change the trained weights: recorded, but no part of the identity
    {
        "name",
        "seed",  # stands in the directory's name by itself, so that seeds of one setting share a hash
        "force",
        "runs_dir",
        "on_code_change",
        "diagnostics",
        "tracker",
        "data.root",
        "data.download",
        "data.num_workers",
        "train.device",
        "train.num_threads",
        "train.eval_every_epochs",
        "train.log_every_steps",
        "train.checkpoint_every_minutes",
        "train.checkpoint_every_steps",
        "train.save_best",
        "train.keep_state",
        "train.progress",
    }
)
PATHS = ("data.root", "model.checkpoint")  # one file is one run, however its path is written
ROOT_IS_CONTENT = frozenset({"image_folder"})  # here data.root says which images, not where they lie


def differences(config: Config) -> dict[str, Any]:
    """Return the dotted keys whose values differ from the schemas' defaults, flat and sorted."""
    found: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        for f in dataclasses.fields(node):
            value = getattr(node, f.name)
            if dataclasses.is_dataclass(value):
                walk(value, f"{prefix}{f.name}.")
                continue
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            if value != default:
                found[prefix + f.name] = value

    walk(config, "")
    return dict(sorted(found.items()))


def is_neutral(key: str, config: Config) -> bool:
    """Return whether a dotted key is left out of the identity."""
    if key == "data.root" and (config.data.name in ROOT_IS_CONTENT or config.data.import_path):
        return False
    return key in NEUTRAL or key.split(".")[0] in NEUTRAL


def canonical(path: str) -> str:
    """Return a path as the identity has it: relative inside the project, absolute elsewhere, without `~`, `.` and `..`.

    Links stay as they are: where they lead may change.
    """
    text = os.path.normpath(PROJECT_ROOT / Path(path).expanduser())
    absolute = Path("/" + text.lstrip("/"))  # POSIX keeps two slashes at the start; Linux reads them as one
    return str(absolute.relative_to(PROJECT_ROOT) if absolute.is_relative_to(PROJECT_ROOT) else absolute)


def config_hash(config: Config) -> str:
    """Return 8 hex digits over what can change the trained weights, the seed left out."""
    semantic = {k: v for k, v in differences(config).items() if not is_neutral(k, config)}
    semantic.update({k: canonical(semantic[k]) for k in PATHS if k in semantic})
    if semantic.get("data.root") == DataConfig.root:  # the default, written in another way
        del semantic["data.root"]
    return hashlib.sha256(json.dumps(semantic, sort_keys=True).encode()).hexdigest()[:8]


def run_id(config: Config) -> str:
    """Return `<optimizer>-<model>-<data>-s<seed>-<hash>`, usable as a file name."""
    names = "-".join((config.optimizer.name, config.model.name, config.data.name))
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', names)}-s{config.seed}-{config_hash(config)}"


def runs_root(runs_dir: str) -> Path:
    """Return the absolute directory of all runs; a relative one is anchored at the project, not at the cwd."""
    return PROJECT_ROOT / Path(runs_dir).expanduser()


def run_directory(config: Config) -> Path:
    """Return the run's own directory, `<runs_dir>/<name>/<run_id>`."""
    return runs_root(config.runs_dir) / config.name / run_id(config)


def register_resolvers() -> None:
    """Make the resolvers of conf/ known to OmegaConf: run_id, anchored."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("run_id", lambda _root_: run_id(typed(_root_)), replace=True)
    OmegaConf.register_new_resolver("anchored", lambda d: str(runs_root(d)), replace=True)
