"""Weights as other tools save them: taken off what they wrap, said in the log; what could be meant twice is refused."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fsamlab.config import ConfigError, ModelConfig
from fsamlab.models import build_model


def small(checkpoint=None, num_classes=10):
    return build_model(ModelConfig(name="small_cnn", width=4, checkpoint=checkpoint), num_classes, 1)


@pytest.fixture
def model():
    model = small()
    with torch.no_grad():
        model(torch.randn(4, 1, 8, 8))  # moves the running statistics off their start
    return model


def under(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


class Lightning(nn.Module):
    def __init__(self, model, name):
        super().__init__()
        setattr(self, name, copy.deepcopy(model))
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(10))


SAVED = {  # how it is saved, and what the log says was taken off
    "DDP": (lambda m: under("module.", m.state_dict()), ["module. before"]),
    "compiled": (lambda m: torch.compile(m).state_dict(), ["_orig_mod. in the names"]),
    "compiled DDP": (lambda m: under("module._orig_mod.", m.state_dict()), ["_orig_mod.", "module. before"]),
    "SWA": (lambda m: AveragedModel(m).state_dict(), ["module. before", "n_averaged"]),
    "Lightning": (lambda m: {"state_dict": Lightning(m, "model").state_dict(), "hyper": {"a": {"b": 1}}},
                  ["the key state_dict", "model. before", "loss.weight"]),
    "Lightning, net": (lambda m: {"state_dict": Lightning(m, "net").state_dict()}, ["net. before"]),
    "timm": (lambda m: {"arch": "x", "state_dict": m.state_dict(), "optimizer": {"state": {}}}, ["the key state_dict"]),
    "timm's EMA": (lambda m: {"state_dict_ema": m.state_dict()}, ["the key state_dict_ema"]),
    "timm, old EMA": (lambda m: {"model_ema": under("module.", m.state_dict())}, ["model_ema", "module. before"]),
    "nested": (lambda m: {"state_dict": {"model": m.state_dict()}}, ["the key state_dict", "the key model"]),
    "HF": (lambda m: under("timm_model.", m.state_dict()), ["timm_model. before"]),
    "two levels": (lambda m: under("model.backbone.", m.state_dict()), ["model.backbone. before"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAVED)
def test_what_others_wrap_is_taken_off(model, tmp_path, caplog, kind):
    save, said = SAVED[kind]
    torch.save(save(model), tmp_path / "w.pt")
    loaded = small(str(tmp_path / "w.pt")).state_dict()
    expected = model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    for words in said:
        assert words in caplog.text


def test_safetensors(model, tmp_path):
    from safetensors.torch import save_file

    save_file(under("model.", model.state_dict()), tmp_path / "w.safetensors")
    loaded = small(str(tmp_path / "w.safetensors")).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_a_file_without_batch_counters(model, tmp_path, caplog):
    """As torch saved BatchNorm before 0.4.1."""
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(under("module.", state), tmp_path / "w.pt")
    loaded = small(str(tmp_path / "w.pt")).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert {int(v) for name, v in loaded.items() if name.endswith("num_batches_tracked")} == {0}
    assert "has no num_batches_tracked" in caplog.text


def test_another_classifier_under_a_prefix(model, tmp_path, caplog):
    torch.save(under("module.", model.state_dict()), tmp_path / "w.pt")
    loaded = small(str(tmp_path / "w.pt"), num_classes=3).state_dict()
    assert torch.equal(loaded["0.weight"], model.state_dict()["0.weight"])
    assert "keeps its initial weights" in caplog.text


AMBIGUOUS = {
    "weights and their EMA": lambda s: {"state_dict": s, "state_dict_ema": s},
    "two models": lambda s: {"model": s, "model_ema": s},
    "student and teacher": lambda s: {**under("student.", s), **under("teacher.", s)},
    "wrapped and not": lambda s: {**s, **under("_orig_mod.", s)},
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_what_could_be_meant_twice_is_refused(model, tmp_path, kind):
    torch.save(AMBIGUOUS[kind](model.state_dict()), tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"model.checkpoint=.* holds .* save one set of weights alone") as raised:
        small(str(tmp_path / "w.pt"))
    assert "\n" not in str(raised.value)


def test_other_weights_under_a_prefix_are_refused(model, tmp_path):
    state = model.state_dict()
    torch.save(under("module.", {**state, "extra": torch.zeros(1)}), tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"0 missing, 1 unexpected \(the file has extra"):
        small(str(tmp_path / "w.pt"))


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64, torch.bool])
def test_weights_of_a_type_that_would_be_converted_into_something_else_are_refused(model, tmp_path, kind):
    torch.save({name: v.to(kind) for name, v in model.state_dict().items()}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=rf"0\.weight is of type {str(kind)[6:]}, which weights do not have"):
        small(str(tmp_path / "w.pt"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(model, tmp_path, value):
    state = {name: v.clone() for name, v in model.state_dict().items()}
    state["0.weight"].view(-1)[3] = value
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"0\.weight holds NaN or infinite values"):
        small(str(tmp_path / "w.pt"))


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_another_precision_are_loaded(model, tmp_path, kind):
    saved = {n: v.to(kind) if v.is_floating_point() else v for n, v in model.state_dict().items()}
    torch.save(saved, tmp_path / "w.pt")
    loaded = small(str(tmp_path / "w.pt")).state_dict()
    assert all(torch.equal(loaded[name], value.to(loaded[name].dtype)) for name, value in saved.items())


def test_a_pickled_model_is_refused_without_advice_to_run_its_code(model, tmp_path):
    torch.save(model, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"is not a file of weights .* save `model.state_dict\(\)` alone") as raised:
        small(str(tmp_path / "w.pt"))
    assert "weights_only" not in str(raised.value)
