"""The schema of a model."""

from __future__ import annotations

from dataclasses import dataclass

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

OWN_MODELS = ("small_cnn", "resnet18", "vgg16_bn", "wrn28_10", "pyramidnet110", "mlp")  # the models of fsamlab.models
FOR_TABLES = ("mlp",)  # their input is (batch, columns); all other models take images


@dataclass
class ModelConfig:
    """A model by name; `library=timm` gives any model of timm."""

    name: str = label(MISSING, 200)
    library: str = word("own", "own", "timm")
    import_path: str | None = function_path(None)  # package.module:function(num_classes=, in_channels=) -> nn.Module
    pretrained: bool = False  # library=timm
    checkpoint: str | None = location(None)  # weights to start from: a run's last.pt, a state_dict
    width: int | None = number(None, 1, 1024)  # small_cnn, mlp, wrn28_10 (widening factor)
    depth: int | None = number(None, 1, 2000)  # wrn28_10, pyramidnet110, mlp (hidden layers)
    alpha: int | None = number(None, 1, 5000)  # pyramidnet110
    dropout: float | None = number(None, 0, 1, open_high=True)  # vgg16_bn, wrn28_10
    drop_path: float | None = number(None, 0, 1, open_high=True)  # library=timm

    def __post_init__(self) -> None:
        check_fields("model.", self)
        if self.pretrained and self.library != "timm":
            raise ConfigError(
                "model.pretrained", True, "only timm models come with weights; use model=timm model.name=..."
            )

    def check_name(self) -> None:
        """Refuse the name of a model that this package does not have. Names of timm models are checked by timm.

        Raises:
            ConfigError: lists the names.
        """
        if self.library == "own" and self.import_path is None and self.name not in OWN_MODELS:
            raise ConfigError(
                "model.name",
                self.name,
                f"must be one of {', '.join(OWN_MODELS)}{did_you_mean(self.name, list(OWN_MODELS))}, "
                "a timm model (model=timm model.name=...), or a model by model.import_path",
            )
