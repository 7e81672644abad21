import pytest
import torch
from support.marks import long_but
from torch import nn

from fsamlab.config import ConfigError, ModelConfig
from fsamlab.config.model import FOR_TABLES
from fsamlab.models import MODELS, build_model
from fsamlab.models.pyramidnet import PyramidBlock, PyramidBottleneck


def build(num_classes=10, in_channels=3, image_size=None, **fields):
    return build_model(ModelConfig(**fields), num_classes, in_channels, image_size=image_size)


SMALL = {
    "small_cnn": {"width": 4},
    "resnet18": {},
    "resnet34": {"init": "he"},
    "vgg16_bn": {"dropout": 0.2},
    "vgg16": {"dropout": 0.2},
    "vgg19_bn": {"dropout": 0.2},
    "vgg19": {"dropout": 0.2},
    "wrn28_10": {"depth": 10, "width": 1, "dropout": 0.1},
    "wrn28_10_official": {"depth": 10, "width": 1, "init": "he"},
    "wrn16_8_official": {"depth": 10, "width": 1},
    "pyramidnet110": {"depth": 14, "alpha": 9},
    "mlp": {"width": 8, "depth": 3},
}


LARGE = ("resnet34", "vgg16", "vgg19_bn", "vgg19")  # in_channels goes the same way as in their smaller kin
FORMS = [(name, in_channels) for name in MODELS for in_channels in (1, 3)]


@pytest.mark.parametrize(
    ("name", "in_channels"), long_but([form for form in FORMS if form[0] not in LARGE or form[1] == 3], FORMS)
)
def test_forward_and_backward(name, in_channels):
    model = build(7, in_channels, name=name, **SMALL[name])
    shape = (2, in_channels) if name in FOR_TABLES else (2, in_channels, 32, 32)
    logits = model(torch.randn(shape))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_bottlenecks_forward_and_backward():
    model = build(7, 3, name="pyramidnet110", block="bottleneck", depth=20, alpha=11)
    widths = [m.conv2.out_channels for m in model if isinstance(m, PyramidBottleneck)]
    assert widths == [18, 20, 22, 23, 25, 27]  # 16 + 11 k / 6, rounded
    logits = model(torch.randn(2, 3, 13, 13))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("name", ["small_cnn", "wrn28_10", "pyramidnet110", "resnet18"])
def test_image_sizes_that_are_not_32(name):
    for side in (8, 13, 28):
        assert build(name=name, **SMALL[name])(torch.randn(2, 3, side, side)).shape == (2, 10)


def test_every_model_here_is_exercised():
    assert set(SMALL) == set(MODELS)


def test_mlp_has_the_width_the_depth_and_the_start_that_its_docstring_tells():
    torch.manual_seed(0)
    model = build(1, 10, name="mlp", width=200, depth=3)
    linear = [m for m in model if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(10, 200), (200, 200), (200, 200), (200, 1)]
    for m in linear[:-1]:
        assert m.weight.std().item() == pytest.approx((2 / m.in_features) ** 0.5, rel=0.05)
        assert not m.bias.any()


def test_initialisation_follows_the_global_seed():
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build(name="small_cnn", width=4).state_dict()["0.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "vgg16_bn", "wrn28_10", "pyramidnet110"])
def test_convolutions_start_from_he(name):
    model = build(name=name)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 800:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_wide_resnet_classifier_starts_at_zero():
    logits = build(name="wrn28_10", depth=10, width=1)(torch.randn(2, 3, 32, 32))
    assert torch.equal(logits, torch.zeros(2, 10))


def test_dropout_and_shape_fields_arrive():
    def dropouts(model):
        return [m.p for m in model.modules() if isinstance(m, nn.Dropout)]

    assert dropouts(build(name="vgg16_bn")) == [0.5, 0.5]
    assert dropouts(build(name="vgg16_bn", dropout=0.2)) == [0.2, 0.2]
    assert dropouts(build(name="wrn28_10", depth=10, width=1, dropout=0.3)) == [0.3] * 3
    assert build(name="small_cnn", width=6)[0].out_channels == 6


def test_pyramid_shortcut_fills_new_channels_with_zeros():
    block = PyramidBlock(3, 5, stride=2).eval()
    nn.init.zeros_(block.bn3.weight)  # leaves the shortcut alone
    x = torch.randn(2, 3, 6, 6)
    out = block(x)
    torch.testing.assert_close(out[:, :3], nn.functional.avg_pool2d(x, 2))
    assert torch.equal(out[:, 3:], torch.zeros(2, 2, 3, 3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "resnet18", "width": 3}, "model.width=3: has no effect in model=resnet18"),
        ({"name": "small_cnn", "dropout": 0.1}, "model.dropout=0.1: has no effect"),
        ({"name": "wrn28_10", "alpha": 3}, "model.alpha=3: has no effect"),
        ({"name": "pyramidnet110", "drop_path": 0.1}, "model.drop_path=0.1: has no effect"),
        ({"name": "resnet18", "library": "timm", "depth": 4}, "model.depth=4: has no effect"),
        ({"name": "wrn28_10", "depth": 27}, "model.depth=27: must be 6n\\+4"),
        ({"name": "pyramidnet110", "depth": 100}, "model.depth=100: must be 6n\\+2"),
        ({"name": "pyramidnet110", "block": "bottleneck", "depth": 26}, "model.depth=26: must be 9n\\+2"),
        (
            {"name": "vgg16", "init": "he"},
            r"model.init=he: has no effect in model=vgg16; .* for resnet18, resnet34, wrn28",
        ),
        ({"name": "wrn28_10", "block": "basic"}, r"model.block=basic: has no effect .* \(it is for pyramidnet110\)"),
        ({"name": "resnet10t", "library": "timm", "init": "he"}, "model.init=he: has no effect in model=resnet10t"),
        ({"name": "resnet18", "init": "torch"}, "model.init=torch: must be one of official, he"),
        ({"name": "resnet19"}, "did you mean resnet18"),
        ({"name": "resnet19", "library": "timm"}, "is not a model of timm .*nearest: .*resnet1"),
        ({"name": "vgg11", "library": "timm", "drop_path": 0.1}, "vgg11 has no stochastic depth"),
    ],
)
def test_refusals_are_one_line(fields, message):
    with pytest.raises(ConfigError, match=message) as raised, torch.device("meta"):
        build(**fields)
    assert "\n" not in str(raised.value)


def test_timm():
    model = build(5, 1, name="resnet10t", library="timm", drop_path=0.1)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 5)
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.1)


def test_pretrained_weights_that_cannot_be_got(monkeypatch):
    import timm

    def no_network(*args, **kwargs):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(ConfigError, match=r"no route to host.*node with network") as raised:
        build(name="resnet10t", library="timm", pretrained=True)
    assert "\n" not in str(raised.value)
    with pytest.raises(OSError, match="no route"):  # without weights to fetch it is no matter of fetching
        build(name="resnet10t", library="timm")


def build_linear(num_classes, in_channels, width=1):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 4, num_classes * width))


def test_import_path(monkeypatch, request):
    monkeypatch.syspath_prepend(request.path.parent)
    path = "test_models:build_linear"
    assert build(3, 2, name="mine", import_path=path)(torch.zeros(1, 2, 2, 2)).shape == (1, 3)
    assert build(3, 2, name="mine", import_path=path, width=2)(torch.zeros(1, 2, 2, 2)).shape == (1, 6)
    with pytest.raises(ConfigError, match=r"model.depth=2: has no effect"):
        build(3, 2, name="mine", import_path=path, depth=2)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_efficientnet"])
def test_timm_models_are_built_for_the_size_of_the_images(name):
    model = build(5, 3, image_size=(32, 32), name=name, library="timm")
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.long
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "deit_tiny_patch16_224"])
def test_vision_transformers_on_small_images(name):
    model = build(10, 3, image_size=(32, 32), name=name, library="timm")
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_a_model_of_the_right_size_is_built_as_before():
    torch.manual_seed(3)
    first = build(5, 3, name="test_vit", library="timm").state_dict()
    torch.manual_seed(3)
    second = build(5, 3, image_size=(160, 160), name="test_vit", library="timm").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("test_vit", 10, r"model.name=test_vit: does not take images of 10x10 \(.*\); the model is made for 160x160"),
        ("vgg11", 8, r"model.name=vgg11: does not take images of 8x8 \(.*\); the model is made for 224x224"),
    ],
)
def test_sizes_that_a_timm_model_does_not_take(name, size, message):
    with pytest.raises(ConfigError, match=message) as raised:
        build(5, 3, image_size=(size, size), name=name, library="timm")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_pretrained_tag_that_does_not_exist(pretrained):
    message = r"model.name=resnet18.nope: the weights .* \(Invalid pretrained tag nope\); resnet18 has .*a1_in1k"
    with pytest.raises(ConfigError, match=message):
        build(name="resnet18.nope", library="timm", pretrained=pretrained)
