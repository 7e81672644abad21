"""Any model of timm by its name there."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from fsamlab.config import ConfigError


def timm_model(
    num_classes: int, in_channels: int, name: str, pretrained: bool, drop_path: float | None = None
) -> nn.Module:
    """Return a timm model with a classifier for `num_classes`, freshly initialised.

    Args:
        name: with or without a pretrained tag, for example `deit_small_patch16_224.fb_in1k`.
        pretrained: start from timm's weights; taken from the cache, or fetched where there is network.
        drop_path: stochastic depth; null leaves the model's own value.

    Raises:
        ConfigError: unknown name, weights that cannot be got, or a model without stochastic depth.
    """
    import timm  # slow to import, and most runs do without

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ConfigError("model.name", name, f"is not a model of timm {timm.__version__}{hint}")
    options: dict[str, Any] = {} if drop_path is None else {"drop_path_rate": drop_path}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels, **options)
    except TypeError as error:
        if drop_path is None or "drop_path_rate" not in str(error):
            raise
        raise ConfigError("model.drop_path", drop_path, f"{name} has no stochastic depth; leave it null") from None
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise
        reason = str(error).splitlines()[0]
        raise ConfigError(
            "model.pretrained",
            True,
            f"the weights of {name} could not be got ({reason}); fetch them once on a node with network, "
            "or choose a name of timm.list_pretrained()",
        ) from error
