import logging

import pytest
import torch

from fsamlab.config import ConfigError, ModelConfig
from fsamlab.models import build_model
from fsamlab.models.pretrained import classifier_names


def small(num_classes=10, checkpoint=None, width=4):
    return build_model(ModelConfig(name="small_cnn", width=width, checkpoint=checkpoint), num_classes, 1)


@pytest.fixture
def saved(tmp_path):
    model = small()
    with torch.no_grad():
        model(torch.randn(4, 1, 8, 8))  # moves the running statistics off their start
    return model.state_dict(), str(tmp_path / "last.pt")


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state, "step": 3}])
def test_loads_a_run_or_a_plain_state_dict(saved, wrap, caplog):
    state, path = saved
    torch.save(wrap(state), path)
    loaded = small(checkpoint=path).state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert caplog.text == ""


def test_another_classifier_starts_fresh_with_a_warning(saved, caplog):
    state, path = saved
    torch.save(state, path)
    torch.manual_seed(5)
    fresh = small(num_classes=3).state_dict()
    torch.manual_seed(5)
    with caplog.at_level(logging.WARNING):
        loaded = small(num_classes=3, checkpoint=path).state_dict()
    for name in state:
        assert torch.equal(loaded[name], fresh[name] if name.startswith("8.") else state[name]), name
    assert "classifier (8.weight, 8.bias)" in caplog.text


def test_classifier_is_kept_or_replaced_as_a_whole(saved, caplog):
    state, path = saved
    # as wide as here but with other inputs: the biases alone would fit
    torch.save({**state, "8.weight": torch.zeros(10, 3), "8.bias": torch.full((10,), 7.0)}, path)
    with caplog.at_level(logging.WARNING):
        loaded = small(checkpoint=path).state_dict()
    assert not bool((loaded["8.bias"] == 7).any())
    assert "keeps its initial weights" in caplog.text


def test_timm_names_its_classifier(tmp_path):
    def vit(num_classes, checkpoint=None):
        cfg = ModelConfig(name="test_vit", library="timm", checkpoint=checkpoint)
        return build_model(cfg, num_classes, 3)

    first = vit(10)
    assert classifier_names(first) == ("head",)
    torch.save(first.state_dict(), tmp_path / "vit.pt")
    second = vit(4, str(tmp_path / "vit.pt"))
    assert torch.equal(second.state_dict()["cls_token"], first.state_dict()["cls_token"])
    assert second.get_classifier().out_features == 4


def change(state, **changes):
    return {
        **{k: v for k, v in state.items() if k not in changes},
        **{k: v for k, v in changes.items() if v is not None},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda s: change(s, **{"0.weight": None}), r"1 missing, 0 unexpected \(the file lacks 0.weight"),
        (lambda s: change(s, extra=torch.zeros(1)), r"0 missing, 1 unexpected \(the file has extra"),
        (lambda s: change(s, **{"0.weight": torch.zeros(8, 1, 3, 3)}), r"0.weight has another shape \(\[8, 1, 3, 3\]"),
        (lambda s: {"optimizer": {}}, "must hold a state_dict"),
        (lambda s: [1, 2], "must hold a state_dict"),
        (lambda s: {"model": {"0.weight": "text"}}, "must hold a state_dict"),
    ],
)
def test_anything_else_that_differs_is_refused(saved, content, message):
    state, path = saved
    torch.save(content(state), path)
    with pytest.raises(ConfigError, match=message) as raised:
        small(checkpoint=path)
    assert "\n" not in str(raised.value)


def test_missing_file_and_file_of_another_kind(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no file .*none.pt"):
        small(checkpoint=str(tmp_path / "none.pt"))
    for content in (b"", b"no weights at all"):
        (tmp_path / "text.pt").write_bytes(content)
        with pytest.raises(ConfigError, match="is not a file of weights") as raised:
            small(checkpoint=str(tmp_path / "text.pt"))
        assert "\n" not in str(raised.value)


class Evil:
    def __reduce__(self):
        return print, ("code from a checkpoint",)


def test_code_in_a_checkpoint_does_not_run(tmp_path, capsys):
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ConfigError, match="is not a file of weights"):
        small(checkpoint=str(tmp_path / "evil.pt"))
    assert "code from a checkpoint" not in capsys.readouterr().out
