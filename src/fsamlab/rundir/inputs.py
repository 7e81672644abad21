"""What a run reads from outside, as digests: inputs.json in the run directory.

The configuration says where data and start weights lie, not what they are; the digests do. They are recorded when a
run starts, and compared when it goes on, when a finished run is skipped and when a run is measured. What is gone is not
compared: a run with a checkpoint does without its start weights, and what is read after all says itself that it lacks.

Importing this module imports no torch, so that a sweep can compare its finished runs.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from fsamlab.config import Config, ConfigError
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.storage.files import Damaged, read_json, write_json

log = logging.getLogger(__name__)

FILE = "inputs.json"
CODE = ("data.import_path", "model.import_path")  # its change is treated as that of our own code
IMAGE_FOLDERS = ("imagenet", "image_folder")
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # those of torchvision
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist
IDX_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))

Seen = dict[str, dict[str, str]]  # config key -> {"digest": 16 hex digits, "what": in words}
Memory = dict[tuple[str, Path], dict[str, str]]


def hidden(name: str) -> bool:
    """Return whether a file or folder of this name belongs to a system or a tool, and is no data: `._0.png`."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def look(config: Config, facts: Mapping[str, Any] | None = None, memory: Memory | None = None) -> Seen:
    """Return the digests of what a configuration names and what is there now.

    Args:
        facts: of the built data (`Data.facts`): the split and the labels are compared too.
        memory: digests of files that other configurations name as well, kept by the caller.
    """
    memory = {} if memory is None else memory
    found: Seen = {}

    def add(key: str, digest: Callable[[Path], dict[str, str] | None], path: Path) -> None:
        at = digest.__name__, path
        if at not in memory:
            try:
                seen = digest(path)
            except OSError as e:  # gone, or not to be read: what reads it says so
                log.debug("%s is not compared: %s", path, e)
                seen = None
            if seen is None:
                return
            memory[at] = seen
        found[key] = memory[at]

    data, model = config.data, config.model
    root = PROJECT_ROOT / Path(data.root).expanduser()
    if data.import_path is None and data.name in IMAGE_FOLDERS:
        add("data.root", of_images, root)
    if data.import_path is None and data.name == "fashion_mnist":  # torchvision checks CIFAR's files by itself
        add("data.root", of_fashion_mnist, root)
    if model.checkpoint is not None:
        add("model.checkpoint", of_file, PROJECT_ROOT / Path(model.checkpoint).expanduser())
    for key, import_path in zip(CODE, (data.import_path, model.import_path)):
        source = None if import_path is None else source_of(import_path.partition(":")[0])
        if source is not None:
            add(key, of_file, source)
    if facts is not None:
        found["data"] = entry(json.dumps(facts, sort_keys=True).encode(), f"split and labels {facts.get('split_hash')}")
        if model.pretrained and model.import_path is None:
            from fsamlab.models.timm_model import weights_file

            weights = weights_file(model.name)
            if weights is not None:
                add("model.pretrained", of_file, weights)
    return found


def check(directory: Path, config: Config, now: Seen, remedy: str = "or start over with force=true") -> bool:
    """Compare what a run recorded with what there is now; return whether the run has a record.

    Raises:
        ConfigError: data or start weights are others; foreign code is, and `on_code_change=refuse`.
    """
    before = recorded(directory)
    if before is None:
        return False
    for key in sorted(before.keys() & now.keys()):
        if before[key]["digest"] == now[key]["digest"]:
            continue
        change = f"{before[key]['what']} then, {now[key]['what']} now"
        if key not in CODE:
            name = directory.name
            allowed = f"is not what {name} started with ({change}): restore what was there, {remedy}"
            raise ConfigError(key, value_of(config, key), allowed)
        if config.on_code_change == "refuse":
            raise ConfigError("on_code_change", "refuse", f"the code of {key} has changed ({change})")
        log.warning("WARNING: the code of %s=%s has changed (%s)", key, value_of(config, key), change)
    return True


def compare_finished(runs: Iterable[tuple[Path, Config]]) -> dict[Path, ConfigError]:
    """Compare the inputs of finished runs that are to be skipped.

    Returns:
        The runs whose inputs are others now, so that a result is not what the configuration would give, and the error.
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
        log.info("not compared: %d of the finished runs were made before data and start weights were recorded", without)
    return changed


def record(directory: Path, now: Seen, guard: Callable[[], None] | None = None) -> None:
    """Write inputs.json; `guard` is called before the file takes its place."""
    write_json(directory / FILE, now, guard)


def recorded(directory: Path) -> Seen | None:
    """Return what inputs.json holds; None where there is none, or a damaged one, which is said."""
    try:
        found = read_json(directory / FILE)
        if found is not None and not all(
            isinstance(seen, dict) and {"digest", "what"} <= seen.keys() for seen in found.values()
        ):
            raise Damaged(f"{directory / FILE} holds something else than digests")
    except Damaged as e:
        log.warning("%s; data and start weights are not compared", e)
        return None
    return found


def of_images(root: Path) -> dict[str, str] | None:
    """Digest the relative paths and sizes of the images in `root/train` and `root/val`."""
    lines, total = [], 0
    for part in ("train", "val"):
        for path in visible_images(root / part):
            size = path.stat().st_size
            total += size
            lines.append(f"{path.relative_to(root).as_posix()}\0{size}\n")
    if not lines:
        return None
    return entry("".join(sorted(lines)).encode(errors="surrogateescape"), f"{len(lines)} images of {total:,} bytes")


def visible_images(folder: Path) -> Iterator[Path]:
    """Yield the images below `folder/<class>/`, in no order; links are followed, what is hidden is not."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not hidden(name)]
        if Path(place) == folder:
            continue  # an image must lie in the folder of its class
        for name in files:
            if name.lower().endswith(IMAGE_ENDINGS) and not hidden(name):
                yield Path(place, name)


def of_fashion_mnist(root: Path) -> dict[str, str] | None:
    """Digest the content of Fashion-MNIST's files, compressed or not."""
    for folder in (root / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST):
        paths = [next((p for p in (folder / n, folder / f"{n}.gz") if p.exists()), None) for n in IDX_FILES]
        if None in paths:
            continue
        digest = hashlib.sha256()
        for path in paths:
            assert path is not None
            content = path.read_bytes()
            try:
                digest.update(gzip.decompress(content) if path.suffix == ".gz" else content)
            except (EOFError, gzip.BadGzipFile):  # the reader says so
                digest.update(content)
        return {"digest": digest.hexdigest()[:16], "what": f"content {digest.hexdigest()[:8]}"}
    return None


def of_file(path: Path) -> dict[str, str]:
    """Digest a file's content."""
    content = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(2**20):
            content.update(block)
    digest = content.hexdigest()
    return {"digest": digest[:16], "what": f"content {digest[:8]}"}


def entry(content: bytes, what: str) -> dict[str, str]:
    """Return the entry of a digested content."""
    return {"digest": hashlib.sha256(content).hexdigest()[:16], "what": what}


def source_of(module: str) -> Path | None:
    """Return the file of a module, found without importing anything; None where there is none."""
    path: Any = None
    parts = module.split(".")
    for n in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:n]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def value_of(config: Config, key: str) -> Any:
    """Return the value of a dotted key; for a whole section its name."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return getattr(value, "name", value)
