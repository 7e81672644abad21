"""The identity of a run: every setting that can change the trained weights, and no other setting.

Two configurations with different identities never share a directory; two with equal identities never run twice. Only
values that differ from the schemas' defaults count, so a field that is added later does not rename old runs.
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
from fsamlab.config.project import PROJECT_ROOT, in_project

# Keys that cannot change the trained weights: recorded, but not part of the identity. A new key is part of the identity
# unless it stands here. A missing entry costs compute: the same training runs twice. A wrong entry is worse: a sweep
# skips a different run as finished. So a key stands here only if runs that differ in the key alone end in the same bits
# or, for device and threads, differ in rounding alone.
NEUTRAL = frozenset(
    {
        "name",
        "seed",  # stands beside the hash in the directory's name, so that all seeds of a setting share a hash
        "force",
        "runs_dir",
        "on_code_change",
        "objective",
        "diagnostics",  # a measurement leaves weights, gradients, BatchNorm statistics and random state as they were
        "tracker",
        "data.root",
        "data.download",
        "data.num_workers",  # every sample has a seed of its own, whichever worker reads the sample
        "train.device",  # rounding only: a run may move to another machine
        "train.num_threads",
        *("task.top5", "task.metrics", "task.headline", "task.better"),  # what is counted, and which epoch is the best
        "train.eval_every_epochs",
        "train.log_every_steps",
        "train.checkpoint_every_minutes",
        "train.checkpoint_every_steps",
        "train.save_best",
        "train.activation_checkpointing",  # the activations that are made again have the same bits
        "train.keep_state",
        "train.progress",
        "train.rank_timeout_minutes",
    }
)
PATHS = ("data.root", "model.checkpoint")  # one file gives one run, however its path is written
ROOT_IS_CONTENT = frozenset({"image_folder"})  # here data.root tells which images are used, not only where they lie


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
    """Return a path in the form of the identity: without `~`, `.` and `..`; relative inside the project.

    Symbolic links are not followed, because the target of a link may change.
    """
    text = os.path.normpath(in_project(path))
    absolute = Path("/" + text.lstrip("/"))  # POSIX keeps two slashes at the start; Linux reads them as one
    return str(absolute.relative_to(PROJECT_ROOT) if absolute.is_relative_to(PROJECT_ROOT) else absolute)


def config_hash(config: Config) -> str:
    """Return 8 hex digits over all settings that can change the trained weights, except the seed."""
    semantic = {k: v for k, v in differences(config).items() if not is_neutral(k, config)}
    semantic.update({k: canonical(semantic[k]) for k in PATHS if k in semantic})
    if semantic.get("data.root") == DataConfig.root:  # the default path in another spelling, such as ./data
        del semantic["data.root"]
    return hashlib.sha256(json.dumps(semantic, sort_keys=True).encode()).hexdigest()[:8]


def run_id(config: Config) -> str:
    """Return `<optimizer>-<model>-<data>-s<seed>-<hash>`, usable as a file name."""
    names = "-".join((config.optimizer.name, config.model.name, config.data.name))
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', names)}-s{config.seed}-{config_hash(config)}"


def runs_root(runs_dir: str) -> Path:
    """Return the absolute directory of all runs; a relative `runs_dir` starts at the project's directory."""
    return in_project(runs_dir)


def run_directory(config: Config) -> Path:
    """Return the directory of one run, `<runs_dir>/<name>/<run_id>`."""
    return runs_root(config.runs_dir) / config.name / run_id(config)


def register_resolvers() -> None:
    """Tell OmegaConf the resolvers that conf/ uses: run_id, anchored and by_model.

    `${by_model:{wrn28_10: 0.9}, 0.6}` is the value that the mapping has for the name of the model, else the last one.
    """
    from omegaconf import OmegaConf

    def by_model(values: Any, otherwise: Any, _root_: Any) -> Any:
        return values.get(_root_.model.name, otherwise)

    OmegaConf.register_new_resolver("run_id", lambda _root_: run_id(typed(_root_)), replace=True)
    OmegaConf.register_new_resolver("anchored", lambda d: str(runs_root(d)), replace=True)
    OmegaConf.register_new_resolver("by_model", by_model, replace=True)
