"""Models: `build_model` makes an initialised module from the `model` section of a config."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from torch import nn

from fsamlab.config import ModelConfig
from fsamlab.config.import_path import call_imported, import_function
from fsamlab.config.model import no_effect
from fsamlab.models.checkpointing import make_checkpointable
from fsamlab.models.mlp import mlp
from fsamlab.models.pretrained import load_weights
from fsamlab.models.pyramidnet import pyramidnet110
from fsamlab.models.resnet import resnet18, resnet34, small_cnn
from fsamlab.models.timm_model import timm_model, weights_file
from fsamlab.models.vgg import vgg16, vgg16_bn, vgg19, vgg19_bn
from fsamlab.models.wide_resnet import wrn16_8_official, wrn28_10, wrn28_10_official

__all__ = ["MODELS", "build_model", "make_checkpointable"]

MODELS: dict[
    str, Callable[..., nn.Module]
] = {  # name -> builder(num_classes, in_channels, fields of the config that this model uses)
    "small_cnn": small_cnn,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "vgg16_bn": vgg16_bn,
    "vgg16": vgg16,
    "vgg19_bn": vgg19_bn,
    "vgg19": vgg19,
    "wrn28_10": wrn28_10,
    "wrn28_10_official": wrn28_10_official,
    "wrn16_8_official": wrn16_8_official,
    "pyramidnet110": pyramidnet110,
    "mlp": mlp,
}


def build_model(
    cfg: ModelConfig,
    num_classes: int,
    in_channels: int,
    *,
    image_size: tuple[int, int] | None = None,
    start_weights: bool = True,
) -> nn.Module:
    """Build a model, initialised from torch's global generator, and load its start weights.

    The signature of a builder tells which of the optional fields the model uses; the other fields must be null.

    Args:
        cfg: the `model` section of the config.
        num_classes: width of the last layer: classes, or values of a regression.
        in_channels: channels of the images, or columns of a table.
        image_size: height and width of the images, for models that are built for one size; None means the model's own
            size.
        start_weights: whether `cfg.checkpoint` and `cfg.pretrained` are read. A resumed run overwrites the weights with
            its own and needs no start weights.

    Raises:
        ConfigError: the name is unknown, a field has no effect in this model, or weights do not fit.
    """
    options = cfg.options()
    builder = _builder(cfg)
    used = inspect.signature(builder).parameters
    for name, value in options.items():
        if name not in used:
            raise no_effect(name, value, cfg.name if cfg.import_path is None else cfg.import_path)
    if cfg.library == "timm" and cfg.import_path is None:
        options |= {"name": cfg.name, "pretrained": cfg.pretrained and start_weights, "image_size": image_size}
    model: nn.Module
    if cfg.import_path is not None:
        sizes = {"num_classes": num_classes, "in_channels": in_channels}
        model = call_imported("model.import_path", cfg.import_path, nn.Module, **sizes, **options)
    else:
        model = builder(num_classes=num_classes, in_channels=in_channels, **options)
    if cfg.checkpoint is not None and start_weights:
        load_weights(model, cfg.checkpoint)
    return model


def pretrained_file(cfg: ModelConfig) -> Path | None:
    """Return the file that `cfg.pretrained` reads; None where no file is read, or the file is not on this disk."""
    return weights_file(cfg.name) if cfg.pretrained and cfg.import_path is None else None


def _builder(cfg: ModelConfig) -> Callable[..., nn.Module]:
    if cfg.import_path is not None:
        return import_function("model.import_path", cfg.import_path)
    if cfg.library == "timm":
        return timm_model
    cfg.check_name()
    return MODELS[cfg.name]
