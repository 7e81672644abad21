"""Weights to start from: the checkpoint of a run, a state_dict, or a state_dict inside the file of another tool."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fsamlab.config import ConfigError
from fsamlab.config.project import in_project
from fsamlab.storage.torch_file import verify

log = logging.getLogger(__name__)

NESTED = (  # keys under which runs of fsamlab, Lightning, timm, examples of DDP and other tools save weights
    "model",
    "state_dict",
    "model_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "module",
    "net",
    "weights",
)
# Prefixes that torch adds, at any depth of a name.
WRAPPERS = (
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
)
COUNTER = (
    "num_batches_tracked"  # of BatchNorm; old files lack this counter, and BatchNorm with a momentum does not use it
)
State = dict[str, Tensor]


def load_weights(model: nn.Module, checkpoint: str) -> None:
    """Load start weights into `model`. A classifier of another shape keeps its initial weights, with a warning.

    Args:
        model: the model.
        checkpoint: a file of a run (`checkpoints/last.pt`), a state_dict, or a file in which another tool nests a
            state_dict under its own names; relative to the project. The log says which names were removed. The file is
            loaded with `weights_only=True`, so no code in the file runs.

    Raises:
        ConfigError: the file does not exist, is of another kind, or holds the weights of another model or of several
            models.
    """
    own = model.state_dict()
    state = _unwrapped(_read(checkpoint), own, checkpoint)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        first = f"the file lacks {missing[0]}" if missing else f"the file has {unexpected[0]}"
        raise ConfigError(
            "model.checkpoint",
            checkpoint,
            f"holds the weights of another model: {len(missing)} missing, {len(unexpected)} unexpected ({first})",
        )
    differing = [name for name in own if own[name].shape != state[name].shape]
    for name, value in own.items():
        if value.is_floating_point() and not state[name].is_floating_point():  # torch would convert without a word
            kind = str(state[name].dtype).removeprefix("torch.")
            raise ConfigError("model.checkpoint", checkpoint, f"{name} is of type {kind}, which weights do not have")
        if not bool(torch.isfinite(state[name]).all()):
            raise ConfigError("model.checkpoint", checkpoint, f"{name} holds NaN or infinite values: it has diverged")
    classifier = classifier_names(model)
    for name in differing:
        if name.rpartition(".")[0] not in classifier:
            shapes = f"{list(state[name].shape)} there, {list(own[name].shape)} here"
            raise ConfigError("model.checkpoint", checkpoint, f"{name} has another shape ({shapes})")
    if differing:
        log.warning(
            "%s: the classifier (%s) has another shape and keeps its initial weights", checkpoint, ", ".join(differing)
        )
    # a classifier is replaced or kept as a whole: old biases mean nothing to new weights
    fresh = {name.rpartition(".")[0] for name in differing}
    model.load_state_dict({n: own[n] if n.rpartition(".")[0] in fresh else state[n] for n in own})


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Return the module names of the classifier: the names that timm gives, else the name of the last linear layer."""
    said = getattr(model, "pretrained_cfg", {}).get("classifier")
    if said:
        return (said,) if isinstance(said, str) else tuple(said)
    return tuple(name for name, module in model.named_modules() if isinstance(module, nn.Linear))[-1:]


def _read(checkpoint: str) -> Any:
    # Not from the cwd: the run's identity has the path, and must not depend on the cwd.
    path = in_project(checkpoint)
    if not path.is_file():
        raise ConfigError("model.checkpoint", checkpoint, f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with path.open("rb") as file:
            verify(file, path)
            return torch.load(file, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError
    ) as error:  # torch advises to load the file all the same, which would run code in the file
        allowed = "is not a file of weights (damaged, or with Python objects inside): save `model.state_dict()` alone"
        raise ConfigError("model.checkpoint", checkpoint, allowed) from error
    except Exception as error:  # readers raise many kinds of errors on a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError("model.checkpoint", checkpoint, f"is not a file of weights ({reason})") from error


def _unwrapped(content: Any, own: Mapping[str, Tensor], checkpoint: str) -> State:
    """Return the weights in a file's content under the model's own names; log the removed names."""
    taken: list[str] = []
    state = _nested(content, checkpoint, taken)
    for wrapper in WRAPPERS:
        plain = {name.replace(wrapper, ""): value for name, value in state.items()}
        if plain.keys() != state.keys():
            if len(plain) != len(state):
                raise _ambiguous(checkpoint, f"weights with and without {wrapper}")
            state = plain
            taken.append(f"{wrapper} in the names")
    # A prefix counts only if the whole model fits under it. So `module.` of DDP is removed, but `features.`, which
    # belongs to the names of the model itself, is not.
    prefixes = {""} if _fits(state, "", own) else {p for name in state for p in _prefixes(name) if _fits(state, p, own)}
    if len(prefixes) > 1:
        raise _ambiguous(checkpoint, f"the model's weights several times, under {', '.join(sorted(prefixes))}")
    prefix = prefixes.pop() if prefixes else ""
    if prefix:
        beside = [name for name in state if not name.startswith(prefix)]
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        taken.append(f"{prefix} before the names")
        if beside:
            taken.append(f"names that do not begin with this prefix ({len(beside)}, for example {beside[0]})")
    if taken:
        log.warning("%s: removed: %s", checkpoint, "; ".join(taken))
    counters = {name: value for name, value in own.items() if name.endswith(COUNTER) and name not in state}
    if counters and state.keys() | counters.keys() == own.keys():
        log.warning("%s has no %s, which starts at its initial value", checkpoint, COUNTER)
        state = {**state, **counters}
    return state


def _nested(content: Any, checkpoint: str, taken: list[str]) -> State:
    """Return the mapping of names to tensors inside a file's content, at any depth."""
    while isinstance(content, Mapping):
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return dict(content)
        inside = [key for key in NESTED if _may_hold_weights(content.get(key))]
        if len(inside) > 1:
            raise _ambiguous(checkpoint, f"several sets of weights ({', '.join(inside)})")
        if not inside:
            break
        content = content[inside[0]]
        if inside[0] != "model" or taken:  # the checkpoint of a run always has the key model: nothing to report
            taken.append(f"the key {inside[0]}")
    raise ConfigError(
        "model.checkpoint", checkpoint, f"must hold a state_dict, alone or under one of the keys {', '.join(NESTED)}"
    )


def _may_hold_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, Tensor | Mapping) for v in value.values())


def _prefixes(name: str) -> list[str]:
    """Return `a.`, `a.b.`, ... for the name `a.b.c`."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: n + 1]) + "." for n in range(len(parts))]


def _fits(state: State, prefix: str, own: Mapping[str, Tensor]) -> bool:
    return all(prefix + name in state or name.endswith(COUNTER) for name in own)


def _ambiguous(checkpoint: str, what: str) -> ConfigError:
    return ConfigError("model.checkpoint", checkpoint, f"holds {what}; save one set of weights alone")
