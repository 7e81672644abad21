import inspect
import re
from pathlib import Path

import pytest
import torch

from fsamlab.config import ConfigError, ModelConfig, from_plain, to_plain
from fsamlab.config.identity import config_hash
from fsamlab.config.model import FOR_TABLES, OPTIONS, OWN_MODELS
from fsamlab.models import MODELS, build_model

CONF = Path(__file__).resolve().parents[2] / "conf" / "model"


def test_every_model_has_its_file():
    assert {p.stem for p in CONF.glob("*.yaml")} == {*MODELS, "timm", "deit_s16"}


@pytest.mark.parametrize("name", [*MODELS, "timm"])
def test_file_composes_and_builds_what_the_defaults_build(name, composed):
    data = ["data=diabetes"] if name in FOR_TABLES else []
    cfg = composed(f"model={name}", *data).model
    assert cfg.name == ("resnet18" if name == "timm" else name)
    with torch.device("meta"):
        model = build_model(cfg, 10, 3)
        if name != "timm":
            form = {"block": "bottleneck"} if name == "pyramidnet110" else {}  # null is what earlier versions built
            plain = MODELS[name](num_classes=10, in_channels=3, **form)
            assert {k: v.shape for k, v in model.state_dict().items()} == {
                k: v.shape for k, v in plain.state_dict().items()
            }


def test_the_schema_knows_which_fields_each_model_uses():
    for name, builder in MODELS.items():
        used = inspect.signature(builder).parameters.keys() - {"num_classes", "in_channels"}
        assert used == set(OWN_MODELS[name])
        assert used <= set(OPTIONS)


def test_a_field_without_effect_is_refused_before_anything_is_built(composed):
    with pytest.raises(ConfigError, match=r"model.init=he: has no effect in model=vgg16_bn; leave it null \(it is for"):
        composed("model=vgg16_bn", "model.init=he")
    with pytest.raises(ConfigError, match=r"model.block=basic: has no effect in model=resnet10t; leave it null"):
        composed("model=timm", "model.name=resnet10t", "model.block=basic")
    assert composed("model=resnet18", "model.init=he").model.init == "he"


@pytest.mark.parametrize(
    ("name", "depth", "form"),
    [("wrn28_10", 27, "6n+4"), ("wrn28_10_official", 28 + 3, "6n+4"), ("pyramidnet110", 104, "9n+2")],
)
def test_a_depth_of_another_form_is_refused_before_anything_is_built(name, depth, form, composed):
    with pytest.raises(ConfigError, match=rf"model.depth={depth}: must be {re.escape(form)} \("):
        composed(f"model={name}", f"model.depth={depth}")


def test_deit_for_fine_tuning(composed):
    cfg = composed("model=deit_s16").model
    assert (cfg.library, cfg.pretrained, cfg.drop_path) == ("timm", True, 0.1)
    with torch.device("meta"):
        model = build_model(cfg, 102, 3, image_size=(224, 224), start_weights=False)
    assert sum(p.numel() for p in model.parameters()) == 21_704_934
    assert max(m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath") == pytest.approx(0.1)


def test_a_recorded_config_without_the_new_fields_keeps_its_network_and_its_run_id(composed):
    plain = to_plain(composed("model=resnet18", "model.init=null"))
    del plain["model"]["init"], plain["model"]["block"]  # as an earlier version recorded it
    config = from_plain(plain)
    assert config.model == ModelConfig(name="resnet18")
    assert config_hash(config) == config_hash(composed("model=resnet18", "model.init=null"))
    official = composed("model=resnet18")
    assert official.model.init == "official"
    assert config_hash(config) != config_hash(official)
