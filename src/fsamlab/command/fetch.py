"""`fsamlab fetch`: download data and pretrained weights before jobs run on nodes without internet."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

from fsamlab.config import Config, ConfigError, typed
from fsamlab.config.project import PROJECT_ROOT, in_project
from fsamlab.storage.digests import LISTED
from fsamlab.terminal import output

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "fashion_mnist": "FashionMNIST"}
FOLDERS |= {name: place.folder for name, place in LISTED.items()}
NO_FILES = {"digits": "comes with scikit-learn", "synthetic": "is generated"}


def fetch(overrides: list[str]) -> list[Exception]:
    """Fetch everything that the jobs of a command line read and print a line for each; return the errors.

    Args:
        overrides: the words of launch.py, with `+sweeps=NAME` and comma lists.

    Raises:
        ConfigError, HydraException: a job of the grid is not valid. Then nothing was fetched.
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
    lines: list[str] = []  # several configurations may give the same line
    for job in jobs:
        try:
            line = job()
        except Exception as e:  # the other jobs are still fetched
            wrong.append(e)
            continue
        if line not in lines:
            lines.append(line)
            output.show(line)
    return wrong


def grid(overrides: list[str]) -> list[Config]:
    """Return every job of a command line, composed and checked as the sweeper does; without a sweep that is one job."""
    from hydra.types import RunMode

    from fsamlab.config import compose

    with compose.composing(overrides) as context:
        loader = context.config_loader
        master = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
        jobs = compose.jobs_of(loader, master.hydra.sweeper, master.hydra.overrides.task)
        return [typed(loader.load_sweep_config(master, job)) for job in jobs]


def fetch_data(config: Config) -> str:
    """Read a data set as a run would, and download it first where it is missing; return the line to print."""
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
    place = in_project(data.root) / FOLDERS.get(data.name, "")
    if data.name == "fashion_mnist" and not place.exists():
        place = readers.DEBIAN_FASHION_MNIST
    # Counting the files of an image folder would take too long.
    size = f", {bytes_of(place) / 1e6:.1f} MB" if data.name in FOLDERS else ""
    return f"data {data.name}: {place}{size}, {word}"


def fetch_weights(config: Config) -> str:
    """Load the weights of a timm model, which puts them into the cache that jobs read; return the line to print.

    The model is built for the size of the run's images, as in a run: a model that does not take these images is refused
    here.
    """
    from fsamlab.models.timm_model import timm_model

    name = config.model.name
    place = weights_place(name)
    before = bytes_of(place)
    # any number of classes and channels gives the same file
    timm_model(num_classes=10, in_channels=3, name=name, pretrained=True, image_size=image_size_of(config))
    after = bytes_of(place)
    word = "there already" if after == before else "fetched"
    return f"weights {name}: {place}, {after / 1e6:.1f} MB, {word}"


def image_size_of(config: Config) -> tuple[int, int] | None:
    """Return height and width of a run's images; None where the data cannot be read, as fetch_data reports."""
    import torch

    from fsamlab.data import build_data

    data = dataclasses.replace(config.data, download=False)
    try:
        return build_data(data, config.seed, torch.device("cpu"), PROJECT_ROOT).image_size
    except ConfigError:
        return None


def weights_place(name: str) -> Path:
    """Return where the weights of a model are kept: the cache of Hugging Face (HF_HOME) or of torch (TORCH_HOME)."""
    import timm
    import torch
    from huggingface_hub import constants

    try:
        source = timm.get_pretrained_cfg(name)
    except RuntimeError:  # the tag does not exist; timm_model reports that
        source = None
    if source is not None and source.hf_hub_id:
        return Path(constants.HF_HUB_CACHE) / f"models--{source.hf_hub_id.split('@')[0].replace('/', '--')}"
    url = source.url if source is not None and source.url else ""
    return Path(torch.hub.get_dir()) / "checkpoints" / (Path(url).name if isinstance(url, str) else url[1])


def bytes_of(place: Path) -> int:
    """Return the size in bytes of a file, or of all files below a directory; links do not count."""
    files = [place] if place.is_file() else place.rglob("*")
    return sum(p.stat().st_size for p in files if p.is_file() and not p.is_symlink())
