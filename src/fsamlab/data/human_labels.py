"""CIFAR-N: labels that people gave to the training images of CIFAR (Wei et al. 2022, arXiv 2110.12088).

The authors publish one file for each set, `CIFAR-10_human.pt` and `CIFAR-100_human.pt`, in the order of torchvision's
training part. A file holds a dictionary of numpy arrays; `clean_label` has the labels of CIFAR itself.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fsamlab.config import ConfigError, DataConfig
from fsamlab.config.data import HUMAN_FILES
from fsamlab.storage.reading import Damaged
from fsamlab.storage.torch_file import verify

COLUMNS = {  # data.human_labels -> key in the file
    "aggregate": "aggre_label",  # the majority of the three annotators
    "worst": "worse_label",  # a wrong label, where one of the three is wrong
    **{f"random{k}": f"random_label{k}" for k in (1, 2, 3)},  # the first, second and third annotator
    "fine": "noisy_label",  # CIFAR-100
}
SOURCE = "https://github.com/UCSC-REAL/cifar-10-100n, folder data"


def human_labels(clean: Tensor, num_classes: int, cfg: DataConfig, root: Path) -> Tensor:
    """Return the labels, int64 (n,), that people gave to the whole training part of a set.

    Args:
        clean: the labels of the set, int64 (n,), in the order of its files.
        num_classes: the number of classes.
        cfg: name of the set, and `human_labels`.
        root: the directory of the file.

    Raises:
        ConfigError: the file is missing, or its clean labels are not those of the set.
        Damaged: the file is damaged, or has another content.
    """
    path, column = root / HUMAN_FILES[cfg.name], COLUMNS[str(cfg.human_labels)]
    content = read(path, cfg)
    found = {key: _labels(path, content, key, num_classes) for key in ("clean_label", column)}
    for key, values in found.items():
        if len(values) != len(clean):
            raise ConfigError("data.human_labels", cfg.human_labels, _unlike(path, key, len(values), len(clean)))
    differing = int((found["clean_label"] != clean).sum())
    if differing:
        allowed = f"{path}: clean_label differs from the labels of {cfg.name} in {differing} of {len(clean)} images; "
        raise ConfigError("data.human_labels", cfg.human_labels, allowed + "the file is for another order or set")
    return found[column]


def read(path: Path, cfg: DataConfig) -> dict[str, Any]:
    """Return the content of a file of CIFAR-N. No code in the file can run: torch refuses all but the named classes.

    Raises:
        ConfigError: the file is missing.
        Damaged: the file cannot be read as a file of CIFAR-N.
    """
    try:
        with path.open("rb") as file:
            verify(file, path)
            with torch.serialization.safe_globals(_numpy_arrays()):
                content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        allowed = f"{path} does not exist; get {path.name} from {SOURCE}, and put the file into data.root={cfg.root}"
        raise ConfigError("data.human_labels", cfg.human_labels, allowed) from None
    except OSError as e:
        raise Damaged(f"{path} cannot be read: {e.strerror}") from None
    except pickle.UnpicklingError:  # torch's own message advises to load the file with the code in it
        raise Damaged(
            f"{path} holds more than arrays of integers, or no torch file; get it again from {SOURCE}"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as e:
        reason = str(e).strip().split("\n")[0]
        raise Damaged(f"{path} is not a file of CIFAR-N ({reason[:100]}); get it again from {SOURCE}") from None
    if not isinstance(content, dict):
        raise Damaged(f"{path} is not a file of CIFAR-N: no dictionary of labels; get it again from {SOURCE}")
    return content


def _numpy_arrays() -> list[Any]:
    """Return what torch has to allow for arrays of integers; numpy 1 wrote the first function under another name."""
    rebuild = np.zeros(0).__reduce__()[0]
    names = [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    return [*names, np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("int64", "int32"))]


def _labels(path: Path, content: dict[str, Any], key: str, num_classes: int) -> Tensor:
    if key not in content:
        raise Damaged(f"{path} has no {key}, but {', '.join(map(str, content))}; get it again from {SOURCE}")
    values = np.asarray(content[key])
    whole = values.ndim == 1 and values.dtype.kind in "iu"
    if not whole or (len(values) and not 0 <= values.min() <= values.max() < num_classes):
        raise Damaged(f"{path}: {key} does not hold labels 0 to {num_classes - 1}; get it again from {SOURCE}")
    return torch.from_numpy(values.astype(np.int64))


def _unlike(path: Path, key: str, found: int, needed: int) -> str:
    return f"{path}: {key} has {found} labels for {needed} training images; the file is for another set"
