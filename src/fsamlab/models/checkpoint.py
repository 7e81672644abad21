"""Weights to start from: a run's checkpoint or a plain state_dict."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fsamlab.config import ConfigError
from fsamlab.project import PROJECT_ROOT
from fsamlab.torch_file import verify

log = logging.getLogger(__name__)


def load_weights(model: nn.Module, checkpoint: str) -> None:
    """Load weights into `model`; a classifier of another shape stays as it is, with a warning.

    Args:
        checkpoint: a file written by a run (`checkpoints/last.pt`, weights under `model`) or a plain
            state_dict; relative to the current directory. Loaded with `weights_only=True`.

    Raises:
        ConfigError: no such file, a file of another kind, or weights of another model.
    """
    state = _read(checkpoint)
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        first = f"it lacks {missing[0]}" if missing else f"it has {unexpected[0]}"
        raise ConfigError(
            "model.checkpoint",
            checkpoint,
            f"holds another model's weights: {len(missing)} missing, {len(unexpected)} unexpected ({first})",
        )
    differing = [name for name in own if own[name].shape != state[name].shape]
    classifier = classifier_names(model)
    for name in differing:
        if name.rpartition(".")[0] not in classifier:
            shapes = f"{list(state[name].shape)} there, {list(own[name].shape)} here"
            raise ConfigError("model.checkpoint", checkpoint, f"{name} has another shape ({shapes})")
    if differing:
        log.warning("%s: the classifier (%s) has another shape; it starts fresh", checkpoint, ", ".join(differing))
    # a classifier is replaced or kept as a whole: old biases mean nothing to new weights
    fresh = {name.rpartition(".")[0] for name in differing}
    model.load_state_dict({n: own[n] if n.rpartition(".")[0] in fresh else state[n] for n in own})


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Return the module names of the classifier: what timm says, else the last linear layer."""
    said = getattr(model, "pretrained_cfg", {}).get("classifier")
    if said:
        return (said,) if isinstance(said, str) else tuple(said)
    return tuple(name for name, module in model.named_modules() if isinstance(module, nn.Linear))[-1:]


def _read(checkpoint: str) -> Mapping[str, Tensor]:
    path = PROJECT_ROOT / Path(checkpoint).expanduser()  # not the cwd: the run's identity names it
    if not path.is_file():
        raise ConfigError("model.checkpoint", checkpoint, f"there is no file {path}")
    try:
        with path.open("rb") as file:
            verify(file, path)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError("model.checkpoint", checkpoint, f"is no file of weights ({reason})") from error
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(
            "model.checkpoint",
            checkpoint,
            "must hold a state_dict, alone or under the key model, as runs write it",
        )
    return state
