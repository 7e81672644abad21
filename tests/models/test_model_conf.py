from pathlib import Path

import pytest
import torch

from fsamlab.config.model import FOR_TABLES
from fsamlab.models import MODELS, build_model

CONF = Path(__file__).resolve().parents[2] / "conf" / "model"


def test_every_model_has_its_file():
    assert {p.stem for p in CONF.glob("*.yaml")} == {*MODELS, "timm"}


@pytest.mark.parametrize("name", [*MODELS, "timm"])
def test_file_composes_and_builds_what_the_defaults_build(name, composed):
    data = ["data=diabetes"] if name in FOR_TABLES else []
    cfg = composed(f"model={name}", *data).model
    assert cfg.name == ("resnet18" if name == "timm" else name)
    with torch.device("meta"):
        model = build_model(cfg, 10, 3)
        if name != "timm":
            plain = MODELS[name](num_classes=10, in_channels=3)
            assert {k: v.shape for k, v in model.state_dict().items()} == {
                k: v.shape for k, v in plain.state_dict().items()
            }
