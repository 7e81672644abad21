"""The schema of a model."""

from __future__ import annotations

from dataclasses import dataclass

from fsamlab.config.checks import MISSING, ConfigError, in_range, one_of


@dataclass
class ModelConfig:
    """A model by name; `library=timm` takes any timm model."""

    name: str = MISSING
    library: str = "own"  # own | timm
    import_path: str | None = None  # package.module:function(num_classes=, in_channels=) -> nn.Module
    pretrained: bool = False  # library=timm
    checkpoint: str | None = None  # weights to start from: a run's last.pt or a plain state_dict
    width: int | None = None  # small_cnn, wrn28_10 (widening factor)
    depth: int | None = None  # wrn28_10, pyramidnet110
    alpha: int | None = None  # pyramidnet110
    dropout: float | None = None  # vgg16_bn, wrn28_10
    drop_path: float | None = None  # library=timm

    def __post_init__(self) -> None:
        one_of("model.library", self.library, ("own", "timm"))
        for name in ("width", "depth", "alpha"):
            in_range("model." + name, getattr(self, name), 1)
        in_range("model.dropout", self.dropout, 0, 1, open_high=True)
        in_range("model.drop_path", self.drop_path, 0, 1, open_high=True)
        if self.pretrained and self.library != "timm":
            raise ConfigError(
                "model.pretrained", True, "only timm models come with weights; use model=timm model.name=..."
            )
