"""The schema of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fsamlab.checks import (
    MISSING,
    ConfigError,
    check_fields,
    did_you_mean,
    function_path,
    label,
    location,
    number,
    word,
)

WIDE = ("depth", "width", "dropout", "init")
OWN_MODELS: dict[str, tuple[str, ...]] = {  # the models of fsamlab.models -> the optional fields that each model uses
    "small_cnn": ("width",),
    "resnet18": ("init",),
    "resnet34": ("init",),
    "vgg16_bn": ("dropout",),
    "vgg16": ("dropout",),
    "vgg19_bn": ("dropout",),
    "vgg19": ("dropout",),
    "wrn28_10": WIDE,
    "wrn28_10_official": WIDE,
    "wrn16_8_official": WIDE,
    "pyramidnet110": ("depth", "alpha", "block"),
    "mlp": ("width", "depth"),
}
WIDE_DEPTH = (6, 4)  # layers of n blocks in each of three stages, 6n, and outside of the stages
PYRAMID_DEPTH = {"basic": (6, 2), "bottleneck": (9, 2)}  # likewise, by model.block
OF_TIMM = ("drop_path",)
OPTIONS = ("width", "depth", "alpha", "dropout", "drop_path", "init", "block")  # fields that only some models use
WITHOUT_BLOCKS = ("vgg16_bn", "vgg16", "vgg19_bn", "vgg19", "mlp")  # own models that are one row of layers
FOR_TABLES = ("mlp",)  # their input is (batch, columns); all other models take images


@dataclass
class ModelConfig:
    """A model by name; `library=timm` gives any model of timm."""

    name: str = label(MISSING, 200)
    library: str = word("own", "own", "timm")
    import_path: str | None = function_path(None)  # package.module:function(num_classes=, in_channels=) -> nn.Module
    pretrained: bool = False  # library=timm
    checkpoint: str | None = location(None)  # weights to start from: a run's last.pt, a state_dict
    width: int | None = number(None, 1, 1024)  # small_cnn, mlp, wrn* (widening factor)
    depth: int | None = number(None, 1, 2000)  # wrn*, pyramidnet110, mlp (hidden layers)
    alpha: int | None = number(None, 1, 5000)  # pyramidnet110
    dropout: float | None = number(None, 0, 1, open_high=True)  # vgg*, wrn*
    drop_path: float | None = number(None, 0, 1, open_high=True)  # library=timm
    # resnet*, wrn*: the start weights. official: as the code of the F-SAM authors draws them; he: He's, fan out. null
    # follows the name: he for resnet18 and wrn28_10, as in earlier versions, official for the other networks.
    init: str | None = word(None, "official", "he")
    block: str | None = word(None, "bottleneck", "basic")  # pyramidnet110; null is basic, as in earlier versions

    def __post_init__(self) -> None:
        check_fields("model.", self)
        if self.pretrained and self.library != "timm":
            raise ConfigError(
                "model.pretrained", True, "only timm models come with weights; use model=timm model.name=..."
            )

    def check_name(self) -> None:
        """Refuse the name of a model that this package does not have, and fields that do not fit the model.

        Names of timm and imported models are checked when they are built.

        Raises:
            ConfigError: lists the names, the models that use the field, or the depths.
        """
        if self.import_path is not None:
            return
        if self.library == "own" and self.name not in OWN_MODELS:
            raise ConfigError(
                "model.name",
                self.name,
                f"must be one of {', '.join(OWN_MODELS)}{did_you_mean(self.name, list(OWN_MODELS))}, "
                "a timm model (model=timm model.name=...), or a model by model.import_path",
            )
        used = OWN_MODELS[self.name] if self.library == "own" else OF_TIMM
        for name, value in self.options().items():
            if name not in used:
                raise no_effect(name, value, self.name)
        if self.depth is not None and used == WIDE:
            check_depth(self.depth, *WIDE_DEPTH)
        if self.depth is not None and self.name == "pyramidnet110":
            check_depth(self.depth, *PYRAMID_DEPTH[self.block or "basic"])

    def options(self) -> dict[str, Any]:
        """Return the optional fields that are set."""
        return {name: getattr(self, name) for name in OPTIONS if getattr(self, name) is not None}


def check_depth(depth: int, step: int, rest: int) -> None:
    """Refuse a depth that is not `step` n + `rest` for a positive integer n."""
    if depth < step + rest or (depth - rest) % step:
        examples = ", ".join(str(step * n + rest) for n in (1, 2, 3, 4))
        raise ConfigError("model.depth", depth, f"must be {step}n+{rest} ({examples}, ...)")


def no_effect(field: str, value: object, model: str) -> ConfigError:
    """Return the one-line error for an optional field that a model does not use."""
    users = [name for name, fields in OWN_MODELS.items() if field in fields] or ["models of timm"]
    allowed = f"has no effect in model={model}; leave it null (it is for {', '.join(users)})"
    return ConfigError(f"model.{field}", value, allowed)
