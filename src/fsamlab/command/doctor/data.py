"""Which data sets lie at their roots. Only names of files are looked at; this module runs in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fsamlab.command.doctor.items import SEEN, Item
from fsamlab.command.fetch import FOLDERS, NO_FILES
from fsamlab.config import ConfigError, CorruptedConfig
from fsamlab.config.compose import composing
from fsamlab.config.project import CONF, in_project
from fsamlab.storage.digests import DEBIAN_FASHION_MNIST

WITHOUT_FILES = (*NO_FILES, "diabetes")


def data(*words: str) -> Iterator[Item]:
    """Yield the data sets that are here, and those that are not, with the roots of the user's own settings.

    Args:
        words: words of a command line, such as `data.root=DIR`.
    """
    here, missing = [], []
    for name in sorted(path.stem for path in (CONF / "data").glob("*.yaml")):
        if name in WITHOUT_FILES:
            continue
        place = place_of(name, words)
        if place is None:
            missing.append(name)
        else:
            here.append(f"{name} in {place}")
    yield Item("data without files", ", ".join(sorted(WITHOUT_FILES)))
    yield Item("data here", "; ".join(here) or "none")
    advice = "`fsamlab fetch data=NAME data.root=DIR` gets most of them; docs/data.md" if missing else ""
    yield Item("data not here", ", ".join(missing) or "none", SEEN, advice)


def place_of(name: str, words: tuple[str, ...]) -> Path | None:
    """Return the folder of a data set; None where the folder is not there."""
    from hydra import compose

    with composing(words):
        cfg = compose("config", overrides=[f"data={name}", *words]).data
    root = in_project(cfg.root)
    if name in FOLDERS:
        place = root / FOLDERS[name]
        if name == "fashion_mnist" and not place.exists():
            place = DEBIAN_FASHION_MNIST
        return place if place.exists() else None
    if "corruptions" in cfg:
        try:
            CorruptedConfig(name=cfg.name, root=cfg.root).found(root)
        except ConfigError:
            return None
        return root
    return root if all((root / part).is_dir() for part in ("train", "val")) else None
