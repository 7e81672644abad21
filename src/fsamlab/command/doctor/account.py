"""Weights & Biases: installed, logged in, online or offline. Nothing is sent; this module runs in its own process."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from urllib.parse import urlsplit

from fsamlab.command.doctor.items import NOTE, SEEN, Item

UNUSED = "runs keep everything in their own files, and `fsamlab sync` uploads them later"


def account() -> Iterator[Item]:
    """Yield the findings; keys are never part of a finding."""
    try:
        version = importlib.metadata.version("wandb")
        from fsamlab.tracking.wandb_environment import read_environment

        environment = read_environment()
    except ImportError:  # PackageNotFoundError is one
        yield Item("W&B", "not installed, or cannot be imported", NOTE, f"pip install wandb; until then {UNUSED}")
        return
    except Exception as e:  # settings of wandb that wandb refuses; the message may repeat a key
        found = f"its settings cannot be read ({type(e).__name__})"
        yield Item("W&B", found, NOTE, f"`wandb login --verify` says more; until then {UNUSED}")
        return
    server = urlsplit(environment.base_url).hostname or "no server"
    mode = f", mode {environment.mode}" if environment.mode else ""
    if environment.mode in ("offline", "disabled"):
        yield Item("W&B", f"{version}{mode} (WANDB_MODE or a settings file)", SEEN)
    elif environment.has_key:
        yield Item("W&B", f"{version}, logged in to {server}{mode}; whether the server answers was not tried", SEEN)
    else:
        broken = ", and a file of wandb or netrc cannot be read" if environment.problems else ""
        advice = f"`wandb login` or WANDB_API_KEY; until then {UNUSED}"
        yield Item("W&B", f"{version}, no API key for {server}{broken}", NOTE, advice)
