"""Any model of timm, by its name in timm."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fsamlab.config import ConfigError


def timm_model(
    num_classes: int,
    in_channels: int,
    name: str,
    pretrained: bool,
    drop_path: float | None = None,
    image_size: tuple[int, int] | None = None,
) -> nn.Module:
    """Return an initialised timm model with a classifier for `num_classes`.

    Args:
        num_classes: width of the classifier.
        in_channels: channels of the images.
        name: with or without a pretrained tag, for example `deit_small_patch16_224.fb_in1k`.
        pretrained: whether to start from timm's weights, read from the cache or downloaded where there is a network.
        drop_path: rate of stochastic depth; None leaves the model's own value.
        image_size: height and width of the images; None means the model's own size. A model of fixed input size (ViT,
            Swin) is built for this size, and timm resamples the position embedding of pretrained weights.

    Raises:
        ConfigError: the name or the tag is unknown, the weights cannot be loaded, or the model has no stochastic depth
            or does not work on images of this size.
    """
    import timm  # slow to import, and most runs use no model of timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ConfigError("model.name", name, f"is not a model of timm {timm.__version__}{hint}")
    options: dict[str, Any] = {} if drop_path is None else {"drop_path_rate": drop_path}
    try:
        source = timm.get_pretrained_cfg(name)
    except RuntimeError:  # timm has the model, but not the tag
        base, _, tag = name.partition(".")
        tags = [n.partition(".")[2] for n in timm.list_pretrained(base)]
        allowed = (
            f"the weights of {name} could not be loaded (Invalid pretrained tag {tag}); {base} has {', '.join(tags)}"
        )
        raise ConfigError("model.name", name, allowed) from None
    other_size = source is not None and image_size is not None and tuple(source.input_size[1:]) != image_size
    if other_size and source is not None and source.fixed_input_size:
        options["img_size"] = image_size
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels, **options)
    except TypeError as error:
        if drop_path is not None and "drop_path_rate" in str(error):
            raise ConfigError("model.drop_path", drop_path, f"{name} has no stochastic depth; leave it null") from None
        if "img_size" in options and "img_size" in str(error):
            raise _wrong_size(name, image_size, source, "its input size is fixed") from None
        raise
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if not pretrained:
            if "img_size" not in options:
                raise
            raise _wrong_size(name, image_size, source, reason) from error
        raise ConfigError(
            "model.pretrained",
            True,
            f"the weights of {name} could not be loaded ({reason}); fetch them once on a node with network, "
            "or choose a name of timm.list_pretrained()",
        ) from error
    if other_size and image_size is not None:
        _try(model, name, in_channels, image_size, source)
    return model


def _try(model: nn.Module, name: str, in_channels: int, image_size: tuple[int, int], source: Any) -> None:
    """Pass two images of zeros through a model that was made for another size; the model does not change."""
    training = model.training
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model.eval()(torch.zeros(2, in_channels, *image_size))
    except (RuntimeError, AssertionError, ValueError, IndexError, ZeroDivisionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise _wrong_size(name, image_size, source, reason) from error
    finally:
        model.train(training)


def _wrong_size(name: str, image_size: tuple[int, int] | None, source: Any, reason: str) -> ConfigError:
    size = "x".join(map(str, image_size or ()))
    wanted = "x".join(map(str, source.input_size[1:]))
    return ConfigError("model.name", name, f"does not take images of {size} ({reason}); the model is made for {wanted}")


def weights_file(name: str) -> Path | None:
    """Return the cached file that `pretrained` reads; None where the file is not in a cache. Uses no network."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    try:
        source = timm.get_pretrained_cfg(name)
    except RuntimeError:
        return None
    if source is None:
        return None
    if source.hf_hub_id:
        repository, _, revision = source.hf_hub_id.partition("@")
        for file in (source.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):  # in the order of timm
            found = try_to_load_from_cache(repository, file, revision=revision or None) if file else None
            if isinstance(found, str):
                return Path(found)
    url = source.url if isinstance(source.url, str) else source.url[1] if source.url else ""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    return path if url and path.is_file() else None
