"""`fsamlab fetch`: data and pretrained weights onto the disk, before jobs run on nodes without internet."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

from fsamlab.config import Config, ConfigError, typed
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.terminal import output

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "fashion_mnist": "FashionMNIST"}
NO_FILES = {"digits": "comes with scikit-learn", "synthetic": "is generated"}


def fetch(overrides: list[str]) -> list[Exception]:
    """Get what the jobs of a command line read, print a line for each thing; return what went wrong.

    Args:
        overrides: those of launch.py, `+sweeps=NAME` and comma lists among them.

    Raises:
        ConfigError, HydraException: a job of the grid is not valid. Nothing was fetched.
    """
    configs = grid(overrides)
    sets = {(c.data.import_path or c.data.name, c.data.root): c for c in configs}
    models = {
        (c.model.name, c.data.import_path or c.data.name, getattr(c.data, "image_size", None)): c
        for c in configs
        if c.model.pretrained and c.model.import_path is None
    }
    wrong: list[Exception] = []
    jobs = [*(partial(fetch_data, c) for c in sets.values()), *(partial(fetch_weights, c) for c in models.values())]
    lines: list[str] = []
    for job in jobs:
        try:
            line = job()
        except Exception as e:  # the others are fetched all the same
            wrong.append(e)
            continue
        if line not in lines:
            lines.append(line)
            output.show(line)
    return wrong


def grid(overrides: list[str]) -> list[Config]:
    """Return every job of a command line, composed and checked as the sweeper does; one without a sweep."""
    from hydra.types import RunMode

    from fsamlab.config import compose

    with compose.composing(overrides) as context:
        loader = context.config_loader
        master = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
        params = [f"{key}={values}" for key, values in master.hydra.sweeper.params.items()]
        jobs = compose.grid(loader, [*params, *master.hydra.overrides.task])
        return [typed(loader.load_sweep_config(master, job)) for job in jobs]


def fetch_data(config: Config) -> str:
    """Get a data set that is not there yet and read it, as a run would; return the line about it."""
    import torch

    from fsamlab.data import build_data, readers

    def read(download: bool) -> None:
        data = dataclasses.replace(config.data, download=download)
        build_data(data, config.seed, torch.device("cpu"), PROJECT_ROOT)

    data, word = config.data, "there already"
    if data.import_path is not None:
        read(download=True)
        return f"data {data.name}: read by {data.import_path}"
    if data.name in NO_FILES:
        return f"data {data.name}: {NO_FILES[data.name]}, nothing to fetch"
    try:
        read(download=False)
    except ConfigError as e:
        if e.key != "data.root":
            raise
        read(download=True)
        word = "fetched"
    place = PROJECT_ROOT / Path(data.root).expanduser() / FOLDERS.get(data.name, "")
    if data.name == "fashion_mnist" and not place.exists():
        place = readers.DEBIAN_FASHION_MNIST
    size = f", {bytes_of(place) / 1e6:.1f} MB" if data.name in FOLDERS else ""  # image folders have too many files
    return f"data {data.name}: {place}{size}, {word}"


def fetch_weights(config: Config) -> str:
    """Load a timm model's weights, which puts them into the cache that jobs read; return the line about it.

    The model is built for the size of the run's images, as the run does: what does not take them is refused here.
    """
    from fsamlab.models.timm_model import timm_model

    name = config.model.name
    place = weights_place(name)
    before = bytes_of(place)
    # the same file for any number of classes and channels
    timm_model(num_classes=10, in_channels=3, name=name, pretrained=True, image_size=image_size_of(config))
    after = bytes_of(place)
    word = "there already" if after == before else "fetched"
    return f"weights {name}: {place}, {after / 1e6:.1f} MB, {word}"


def image_size_of(config: Config) -> tuple[int, int] | None:
    """Return height and width of a run's images; None where its data cannot be read, which is said of the data."""
    import torch

    from fsamlab.data import build_data

    data = dataclasses.replace(config.data, download=False)
    try:
        return build_data(data, config.seed, torch.device("cpu"), PROJECT_ROOT).image_size
    except ConfigError:
        return None


def weights_place(name: str) -> Path:
    """Return where a model's weights are kept: in Hugging Face's cache (HF_HOME), or in torch's (TORCH_HOME)."""
    import timm
    import torch
    from huggingface_hub import constants

    try:
        source = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that does not exist: timm_model says so
        source = None
    if source is not None and source.hf_hub_id:
        return Path(constants.HF_HUB_CACHE) / f"models--{source.hf_hub_id.split('@')[0].replace('/', '--')}"
    url = source.url if source is not None and source.url else ""
    return Path(torch.hub.get_dir()) / "checkpoints" / (Path(url).name if isinstance(url, str) else url[1])


def bytes_of(place: Path) -> int:
    """Return the size of a file, or of the files below a directory; links do not count."""
    files = [place] if place.is_file() else place.rglob("*")
    return sum(p.stat().st_size for p in files if p.is_file() and not p.is_symlink())
