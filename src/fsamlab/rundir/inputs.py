"""Digests of everything that a run reads from outside: inputs.json in the run directory.

The configuration says where data and start weights lie; the digests say what their content is. They are recorded when a
run starts, and compared when a run continues, when a finished run is skipped and when a run is measured. A file that no
longer exists is not compared: a run with a checkpoint needs no start weights, and the reader of any other missing file
reports it.

This module imports no torch, so that a sweep can compare its finished runs quickly.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from fsamlab.config import Config, ConfigError
from fsamlab.config.data import HUMAN_FILES
from fsamlab.config.import_path import search_project
from fsamlab.config.project import in_project
from fsamlab.storage.digests import LISTED, entry, of_fashion_mnist, of_file, of_images, of_listed
from fsamlab.storage.reading import Damaged, read_json
from fsamlab.storage.writing import write_json

log = logging.getLogger(__name__)

FILE = "inputs.json"
# a change of these modules is treated as a change of src/
CODE = ("data.import_path", "model.import_path", "task.import_path", "task.loss", "optimizer.")
IMAGE_FOLDERS = ("imagenet", "image_folder")

Seen = dict[str, dict[str, str]]  # config key -> {"digest": 16 hex digits, "what": in words}
Memory = dict[tuple[str, Path], dict[str, str]]


def look(
    config: Config,
    facts: Mapping[str, Any] | None = None,
    memory: Memory | None = None,
    pretrained: Path | None = None,
) -> Seen:
    """Return the digests of all existing inputs that a configuration names.

    Args:
        config: the configuration of the run.
        facts: facts about the built data (`Data.facts`); with them split and labels are digested too.
        memory: digests of files that other configurations name as well; the caller keeps this dictionary.
        pretrained: the file of timm's weights that the model starts from, if the model starts from one.
    """
    memory = {} if memory is None else memory
    found: Seen = {}

    def add(key: str, digest: Callable[[Path], dict[str, str] | None], path: Path) -> None:
        at = digest.__name__, path
        if at not in memory:
            try:
                seen = digest(path)
            except OSError as e:  # the file is gone or cannot be read: its reader reports that
                log.debug("%s is not compared: %s", path, e)
                seen = None
            if seen is None:
                return
            memory[at] = seen
        found[key] = memory[at]

    data, model = config.data, config.model
    root = in_project(data.root)
    if data.import_path is None and data.name in IMAGE_FOLDERS:
        add("data.root", of_images, root)
    if data.import_path is None and data.name in LISTED:
        add("data.root", of_listed, root / LISTED[data.name].folder)
    if data.import_path is None and data.name == "fashion_mnist":  # torchvision checks the files of CIFAR
        add("data.root", of_fashion_mnist, root)
    if data.import_path is None and data.noise_type == "human":
        add("data.human_labels", of_file, root / HUMAN_FILES[data.name])
    if model.checkpoint is not None:
        add("model.checkpoint", of_file, in_project(model.checkpoint))
    paths = (data.import_path, model.import_path, config.task.import_path, config.task.loss)
    foreign = dict(zip(CODE, paths))
    foreign |= {f"optimizer.{axis}": path for axis, path in config.optimizer.imported().items()}
    for key, import_path in foreign.items():
        source = None if import_path is None else source_of(import_path.partition(":")[0])
        if source is not None:
            add(key, of_file, source)
    if facts is not None:
        found["data"] = entry(json.dumps(facts, sort_keys=True).encode(), f"split and labels {facts.get('split_hash')}")
    if pretrained is not None:
        add("model.pretrained", of_file, pretrained)
    return found


def start_weights(config: Config) -> dict[str, str] | None:
    """Return the digest of the file in `model.checkpoint`; None where no file is named, or the file is missing."""
    path = config.model.checkpoint
    try:
        return None if path is None else of_file(in_project(path))
    except OSError:  # the reader of the file reports the error
        return None


def check_start_weights(config: Config, before: dict[str, str] | None, seen: Seen) -> None:
    """Refuse start weights that were replaced while they were read, as a run that still trains replaces its last.pt.

    Args:
        config: the configuration of the run.
        before: the result of :func:`start_weights` before the weights were read; None where no weights were read.
        seen: the result of :func:`look` after the weights were read.

    Raises:
        ConfigError: the file has changed meanwhile, so that nobody can tell which of the two files the model has.
    """
    if before is not None and seen.get("model.checkpoint") != before:
        allowed = "was replaced while the run read the file, as a training run does; start from a copy of the file"
        raise ConfigError("model.checkpoint", config.model.checkpoint, allowed)


def check(directory: Path, config: Config, now: Seen, remedy: str = "or start over with force=true") -> bool:
    """Compare the recorded inputs of a run with the present inputs; return whether the run has a record.

    Args:
        directory: the run directory.
        config: the configuration of the run.
        now: the result of :func:`look`.
        remedy: what the user may do besides restoring the inputs, for the message.

    Raises:
        ConfigError: data or start weights have changed; or imported code has changed and `on_code_change=refuse`.
    """
    before = recorded(directory)
    if before is None:
        return False
    for key in sorted(before.keys() & now.keys()):
        if before[key]["digest"] == now[key]["digest"]:
            continue
        change = f"{before[key]['what']} then, {now[key]['what']} now"
        if not key.startswith(CODE):
            name = directory.name
            allowed = f"has changed since {name} started ({change}): restore the old content, {remedy}"
            raise ConfigError(key, value_of(config, key), allowed)
        if config.on_code_change == "refuse":
            raise ConfigError("on_code_change", "refuse", f"the code of {key} has changed ({change})")
        log.warning("WARNING: the code of %s=%s has changed (%s)", key, value_of(config, key), change)
    return True


def compare_finished(runs: Iterable[tuple[Path, Config]]) -> dict[Path, ConfigError]:
    """Compare the inputs of finished runs that a sweep is about to skip.

    Returns:
        The runs whose inputs have changed, each with its error. The configuration would now give other results than the
        results of these runs.
    """
    memory: Memory = {}
    changed: dict[Path, ConfigError] = {}
    without = 0
    for directory, config in runs:
        try:
            without += not check(directory, config, look(config, memory=memory))
        except ConfigError as e:
            changed[directory] = e
    if without:
        log.info("not compared: %d of the finished runs have no record of their data and start weights", without)
    return changed


def record(directory: Path, now: Seen, guard: Callable[[], None] | None = None) -> None:
    """Write inputs.json; `guard` is called right before the file takes its place."""
    write_json(directory / FILE, now, guard)


def recorded(directory: Path) -> Seen | None:
    """Return the content of inputs.json; None where the file does not exist, or is damaged, which is logged."""
    try:
        found = read_json(directory / FILE)
        if found is not None and not all(
            isinstance(seen, dict) and {"digest", "what"} <= seen.keys() for seen in found.values()
        ):
            raise Damaged(f"{directory / FILE} does not hold digests")
    except Damaged as e:
        log.warning("%s; the run's data and start weights are not compared", e)
        return None
    return found


def source_of(module: str) -> Path | None:
    """Return the file of a module, found without importing anything; None where no file is found."""
    search_project()
    path: Any = None
    parts = module.split(".")
    for n in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:n]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def value_of(config: Config, key: str) -> Any:
    """Return the value of a dotted key; for a whole section, the name of the section's choice."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return getattr(value, "name", value)
