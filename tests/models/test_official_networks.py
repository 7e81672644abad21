"""The networks of the code of the F-SAM authors (nblt/F-SAM at 2e2f989): counts, start weights, cost.

Counts and norms were read from models of that code: torch.manual_seed(0), then the network for 10 or 100 classes.
"""

import pytest
import torch
from support.marks import long_but
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fsamlab.config import ModelConfig
from fsamlab.models import build_model

BOTTLENECK = {"name": "pyramidnet110", "block": "bottleneck"}
RESNET18 = {"name": "resnet18", "init": "official"}


def meta(num_classes, **fields):
    with torch.device("meta"):
        return build_model(ModelConfig(**fields), num_classes, 3)


@pytest.mark.parametrize(
    ("fields", "of_10", "of_100"),
    [
        (RESNET18, 11_173_962, 11_220_132),
        ({"name": "resnet34"}, 21_282_122, 21_328_292),  # "resnet50" there
        ({"name": "vgg16_bn"}, 15_253_578, 15_299_748),
        ({"name": "vgg16"}, 15_245_130, 15_291_300),
        ({"name": "vgg19_bn"}, 20_565_834, 20_612_004),
        ({"name": "vgg19"}, 20_554_826, 20_600_996),
        ({"name": "wrn28_10_official"}, 46_160_474, 46_218_164),
        ({"name": "wrn16_8_official"}, 17_158_106, 17_204_276),
        (BOTTLENECK, 18_323_787, 18_426_837),
        # not of that code
        ({"name": "wrn28_10"}, 36_479_194, 36_536_884),
        ({"name": "pyramidnet110"}, 28_485_477, 28_511_307),
    ],
    ids=str,
)
def test_parameter_counts(fields, of_10, of_100):
    counts = [sum(p.numel() for p in meta(classes, **fields).parameters()) for classes in (10, 100)]
    assert counts == [of_10, of_100]


def test_parameter_count_of_the_small_network():
    with torch.device("meta"):
        model = build_model(ModelConfig(name="small_cnn"), 10, 1)
    assert sum(p.numel() for p in model.parameters()) == 308_074


def multiply_adds(**fields):
    model = meta(100, **fields).eval()
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        model(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("fields", "times"),
    long_but(
        [({"name": "wrn28_10_official"}, 11.99)],
        [
            ({"name": "resnet34"}, 2.09),
            ({"name": "vgg16_bn"}, 0.56),
            ({"name": "vgg19_bn"}, 0.72),
            ({"name": "wrn28_10"}, 9.44),
            ({"name": "wrn28_10_official"}, 11.99),
            ({"name": "wrn16_8_official"}, 4.42),
            ({"name": "pyramidnet110"}, 8.49),
            (BOTTLENECK, 5.61),
        ],
    ),
    ids=str,
)
def test_multiply_adds_of_a_small_image_over_those_of_resnet18(fields, times):
    assert multiply_adds(**fields) / 555_468_800 == pytest.approx(times, abs=0.005)


def test_multiply_adds_of_resnet18():
    assert multiply_adds(**RESNET18) == 555_468_800


def fan(module, out):
    kernel = module.weight[0, 0].numel()
    return kernel * (module.out_channels if out else module.in_channels)


def of_uniform(size, bound):  # sum of squares: mean and variance
    return size * bound**2 / 3, size * bound**4 * (1 / 5 - 1 / 9)


def of_normal(size, variance):
    return size * variance, 2 * size * variance**2


def expected_norm(model, convolutions, classifier="default"):
    """Return mean and standard deviation of the norm of all parameters, to first order in the draw."""
    mean = variance = 0.0
    for module in model.modules():
        parts = []
        if isinstance(module, nn.Conv2d):
            size = module.weight.numel()
            if convolutions == "uniform":
                parts.append(of_uniform(size, fan(module, out=False) ** -0.5))
            else:
                parts.append(of_normal(size, 2 / fan(module, out=convolutions == "fan_out")))
        elif isinstance(module, nn.BatchNorm2d):
            parts.append((module.num_features, 0.0))
        elif isinstance(module, nn.Linear) and classifier != "zero":
            bound = module.in_features**-0.5
            parts += [of_uniform(module.weight.numel(), bound), of_uniform(module.out_features, bound)]
        mean += sum(m for m, _ in parts)
        variance += sum(v for _, v in parts)
    return mean**0.5, (variance / mean) ** 0.5 / 2


def within(norm, expected, deviation):
    return abs(norm - expected) <= 3 * deviation


@pytest.mark.parametrize(
    ("fields", "convolutions", "classifier", "there"),
    long_but(
        [(RESNET18, "uniform", "default", 80.2094)],
        [
            (RESNET18, "uniform", "default", 80.2094),
            ({"name": "resnet34"}, "uniform", "default", 106.6989),
            ({"name": "vgg16_bn"}, "fan_out", "default", 109.6895),
            ({"name": "vgg16"}, "fan_out", "default", 88.3617),
            ({"name": "vgg19_bn"}, "fan_out", "default", 125.9769),
            ({"name": "vgg19"}, "fan_out", "default", 101.8144),
            ({"name": "wrn28_10_official"}, "fan_in", "zero", 189.4642),
            ({"name": "wrn16_8_official"}, "fan_in", "zero", 134.0225),
            (BOTTLENECK, "fan_out", "default", 346.9420),
        ],
    ),
    ids=str,
)
def test_start_weights_have_the_norm_of_the_official_draw(fields, convolutions, classifier, there):
    torch.manual_seed(0)
    model = build_model(ModelConfig(**fields), 100, 3)
    expected = expected_norm(model, convolutions, classifier)
    norm = sum(p.detach().double().square().sum() for p in model.parameters()).sqrt().item()
    assert within(there, *expected)  # the figure of the official code is a draw from this distribution
    assert within(norm, *expected)


def test_norm_of_the_convolutions_of_resnet18_in_both_starts():
    norms = {}
    for init in (None, "he", "official"):
        torch.manual_seed(0)
        model = build_model(ModelConfig(name="resnet18", init=init), 10, 3)
        squares = [m.weight.detach().double().square().sum() for m in model.modules() if isinstance(m, nn.Conv2d)]
        norms[init] = sum(squares).sqrt().item()
    assert norms[None] == norms["he"] == pytest.approx(87.7, abs=0.05)
    assert norms["official"] == pytest.approx(40.0, abs=0.05)


def test_a_start_that_is_not_named_is_that_of_earlier_versions():
    for name in ("resnet18", "wrn28_10"):
        small = {"depth": 10, "width": 1} if name == "wrn28_10" else {}
        states = []
        for init in (None, "he"):
            torch.manual_seed(0)
            states.append(build_model(ModelConfig(name=name, init=init, **small), 10, 3).state_dict())
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    torch.manual_seed(0)
    plain = build_model(ModelConfig(name="pyramidnet110", depth=14, alpha=9), 10, 3).state_dict()
    torch.manual_seed(0)
    basic = build_model(ModelConfig(name="pyramidnet110", depth=14, alpha=9, block="basic"), 10, 3).state_dict()
    assert all(torch.equal(plain[key], basic[key]) for key in plain)
