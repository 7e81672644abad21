"""The measuring context: fixed conventions inside, and bitwise no trace of them afterwards."""

import itertools
import random
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fsamlab.config import ConfigError
from fsamlab.diagnostics import Objective, measuring

MODES = ("eval", "reestimated", "batch")
F64 = torch.float64


class Left(Exception):
    """Raised inside the context."""


def leaving(how):
    return pytest.raises(Left) if how == "exception" else nullcontext()


def net():
    """Every kind of norm, dropout, a frozen parameter, gradients on some, and training flags in no order."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4, momentum=None),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(4, 3, 3),
        nn.BatchNorm2d(3, momentum=0.3),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.Flatten(),
        nn.Linear(12, 3),
    )
    for k in range(3):
        model(images(6, seed=k) + k).square().sum().backward()
    model[0].bias.requires_grad_(False)
    model[4].weight.grad = None
    for k in (1, 3, 6, 8):
        model[k].eval()
    return model


def images(n, seed=0):
    return torch.randn(n, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


BATCHES = [images(5, 1), images(7, 2) + 1, images(2, 3) * 3]


NORMS = {
    "batch": partial(nn.BatchNorm2d, 3),
    "cumulative": partial(nn.BatchNorm2d, 3, momentum=None),
    "instance": partial(nn.InstanceNorm2d, 3, affine=True, track_running_stats=True),
}


class Same:
    """Equal to the same object only, and keeps it alive."""

    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return self.x is other.x


def bits(tensor):
    return None if tensor is None else (str(tensor.dtype), tuple(tensor.stride()), tensor.detach().numpy().tobytes())


def random_state():
    name, key, *rest = np.random.get_state()
    return bits(torch.get_rng_state()), random.getstate(), (name, key.tobytes(), *rest)


def kernels():
    return (
        torch.backends.mha.get_fastpath_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.is_autocast_enabled("cpu"),
        torch.is_grad_enabled(),
    )


def snapshot(model):
    found = {"random": random_state(), "kernels": kernels()}
    for name, p in model.named_parameters():
        found[name] = (Same(p), bits(p), p.requires_grad, Same(p.grad), bits(p.grad))
    for name, m in model.named_modules():
        found["module " + name] = (m.training, *(getattr(m, k, None) for k in ("momentum", "track_running_stats")))
        found["buffers " + name] = {k: (Same(b), bits(b)) for k, b in m._buffers.items()}
    return found


def meddle(model):
    """Do what a careless measurement does."""
    torch.rand(3), random.random(), np.random.rand()
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    model.train()
    for k in range(2):
        model(images(6, seed=9 + k)).square().sum().backward()
    model[0].weight.grad.mul_(2)
    model[4].bias.grad = None
    torch.manual_seed(77), random.seed(77), np.random.seed(77)
    model[1].momentum, model[5].momentum = 0.7, None
    model[5].track_running_stats = False
    model[5].running_var.fill_(float("nan"))
    model[1].running_mean = torch.zeros(4)  # another tensor, not another value
    model[3].train(), model[9].eval()
    with torch.no_grad():
        model[9].weight[0] = float("nan")


@pytest.mark.parametrize("how", ["normal", "exception"])
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_left(mode, how):
    model = net()
    before = snapshot(model)
    with leaving(how), measuring(model, batchnorm=mode, images=BATCHES):
        assert snapshot(model) != before
        meddle(model)
        if how == "exception":
            raise Left
    assert snapshot(model) == before


def test_a_measurement_itself_leaves_nothing():
    model = net()
    samples = [(x, torch.arange(len(x)) % 3) for x in BATCHES]
    for mode in MODES:
        before = snapshot(model)
        with measuring(model, batchnorm=mode, images=BATCHES):
            objective = Objective(model, samples)
            gradient, losses = objective.gradient()
            objective.rise(gradient, losses)
            with objective.hessian(keep_graph=True) as hessian:
                hessian(gradient)
        assert snapshot(model) == before


def test_the_snapshot_sees_each_of_these():
    """The comparison above tells a restored state from nearly restored ones."""
    model = net()
    before = snapshot(model)
    for change, undo in [
        (lambda: model[5].num_batches_tracked.add_(1), lambda: model[5].num_batches_tracked.sub_(1)),
        (lambda: model[3].train(), lambda: model[3].eval()),
        (lambda: setattr(model[1], "momentum", 0.1), lambda: setattr(model[1], "momentum", None)),
        (lambda: model[9].bias.data[0].nextafter_(torch.tensor(9.0)), lambda: None),
    ]:
        assert snapshot(model) == before
        change()
        assert snapshot(model) != before
        undo()
    again = net()
    again[0].weight.grad = again[0].weight.grad.clone()
    model = net()
    before = snapshot(model)
    model[0].weight.grad = model[0].weight.grad.clone()  # the same values in another object
    assert snapshot(model) != before


@pytest.mark.parametrize("how", ["normal", "exception"])
@pytest.mark.parametrize(("outer", "inner"), list(itertools.product(MODES, MODES)))
def test_nested_contexts_restore_what_was_around_them(outer, inner, how):
    model = net()
    before = snapshot(model)
    with measuring(model, batchnorm=outer, images=BATCHES):
        model[0].bias.grad = torch.ones(4)  # of the outer measurement
        output = model(BATCHES[1])
        middle = snapshot(model)
        with leaving(how), measuring(model, batchnorm=inner, images=BATCHES[:2]):
            meddle(model)
            if how == "exception":
                raise Left
        assert snapshot(model) == middle
        assert torch.equal(model(BATCHES[1]), output)
    assert snapshot(model) == before


@pytest.mark.parametrize("name", ["batch", "instance"])
@pytest.mark.parametrize(("outer", "inner"), [("batch", "eval"), ("batch", "reestimated"), ("eval", "reestimated")])
def test_an_inner_mode_means_the_same_as_alone(outer, inner, name):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), NORMS[name]()).train()
    model(BATCHES[2] + 2)
    with measuring(model, batchnorm=inner, images=BATCHES):
        alone = model(BATCHES[0])
    with measuring(model, batchnorm=outer), measuring(model, batchnorm=inner, images=BATCHES):
        assert torch.equal(model(BATCHES[0]), alone)


@pytest.mark.parametrize("outer", ["batch", "reestimated"])
def test_batch_statistics_inside_another_mode(outer):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    with measuring(model, batchnorm="batch"):
        alone = model(BATCHES[0])
    with measuring(model, batchnorm=outer, images=BATCHES[1:]), measuring(model, batchnorm="batch"):
        assert torch.equal(model(BATCHES[0]), alone)


# --------------------------------------------------------------------------------- reestimated


def first_layer(batches, equal=False):
    """Return the mean and variance that a first norm should have, by hand."""
    n = sum(map(len, batches))
    shares = [1 / len(batches) if equal else len(x) / n for x in batches]
    mean = sum(s * x.mean((0, 2, 3)) for s, x in zip(shares, batches))
    return mean, sum(s * x.var((0, 2, 3)) for s, x in zip(shares, batches))


def test_reestimated_statistics_are_the_means_weighted_by_size():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(2, momentum=0.2)).to(F64).train()
    batches = [x.to(F64) for x in BATCHES]
    model(batches[0] * 40)
    before = snapshot(model)
    mean, var = first_layer(batches)
    with measuring(model, batchnorm="reestimated", images=iter(batches)):
        assert torch.allclose(model[1].running_mean, mean, rtol=0, atol=1e-14)
        assert torch.allclose(model[1].running_var, var, rtol=1e-14, atol=0)
        expected = (batches[0] - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
        assert torch.allclose(model(batches[0]), expected, rtol=0, atol=1e-13)
        for wrong in (first_layer(batches, equal=True), first_layer(batches[-1:]), first_layer([torch.cat(batches)])):
            assert (model[1].running_var - wrong[1]).abs().max() > 1e-2  # each of them is a common mistake
    assert snapshot(model) == before


def test_a_second_norm_sees_what_the_first_gives_in_training():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Tanh(), nn.BatchNorm2d(2)).to(F64)
    batches = [x.to(F64) for x in BATCHES]
    with measuring(model, batchnorm="reestimated", images=batches):
        mean, var = first_layer([torch.tanh(F.batch_norm(x, None, None, training=True)) for x in batches])
        assert torch.allclose(model[2].running_mean, mean, rtol=0, atol=1e-14)
        assert torch.allclose(model[2].running_var, var, rtol=1e-13, atol=0)


def test_old_statistics_leave_no_trace_in_new_ones():
    found = []
    for old in (0.0, 1e30):
        model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, momentum=None))
        for k in (0, 1):
            model[k].running_mean.fill_(-old)
            model[k].running_var.fill_(old)
        with measuring(model, batchnorm="reestimated", images=BATCHES):
            found.append([bits(b) for m in model for b in (m.running_mean, m.running_var)])
    assert found[0] == found[1]


def broken():
    yield BATCHES[0]
    raise Left


def test_reestimated_needs_images_where_there_are_norms():
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError, match="needs images"), measuring(model, batchnorm="reestimated"):
        pass
    assert snapshot(model) == before
    with pytest.raises(Left), measuring(model, batchnorm="reestimated", images=broken()):
        pass
    assert snapshot(model) == before
    with measuring(nn.Linear(2, 2), batchnorm="reestimated"):
        pass


# --------------------------------------------------------------------------------------- batch


def statistics(model):
    return [bits(b) for b in model.buffers()]


@pytest.mark.parametrize("name", NORMS)
def test_batch_statistics_and_no_running_ones(name):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), NORMS[name](), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)).eval()
    nn.init.normal_(model[1].weight)
    objective = Objective(model, [(x, torch.arange(len(x)) % 3) for x in BATCHES[:2]])

    def products():
        objective.losses()
        for keep_graph in (True, False):
            with objective.hessian(keep_graph) as hessian:
                for _ in range(3):
                    hessian(objective.weights)

    with measuring(model, batchnorm="batch"):
        x = model[0](BATCHES[0])
        if name == "instance":
            assert torch.equal(model[1](x), F.instance_norm(x, None, None, model[1].weight, model[1].bias))
        else:
            assert torch.equal(model[1](x), F.batch_norm(x, None, None, model[1].weight, model[1].bias, training=True))
    with measuring(model, batchnorm="batch"):
        before = statistics(model)
        products()
        assert statistics(model) == before
    model.train()  # the trap: plain double backward in training mode moves them at every product
    before = statistics(model)
    products()
    assert all(a != b for a, b in zip(statistics(model)[:2], before[:2]))
    if name != "instance":
        assert int(model[1].num_batches_tracked) == 2 + 2 + 3 * 2  # losses, one graph kept, three products without


def test_eval_uses_the_running_statistics():
    model = nn.Sequential(nn.BatchNorm2d(2)).train()
    model(BATCHES[2])
    with measuring(model):
        expected = F.batch_norm(BATCHES[0], model[0].running_mean, model[0].running_var)
        assert torch.equal(model(BATCHES[0]), expected)
        assert int(model[0].num_batches_tracked) == 1


# ----------------------------------------------------------------------------- other conventions


def test_dropout_and_stochastic_depth_are_off():
    model = nn.Sequential(nn.Dropout(0.5), DropPath(0.5), nn.Dropout2d(0.5)).train()
    model.append(nn.Conv2d(2, 2, 1))
    for mode in MODES:
        with measuring(model, batchnorm=mode, images=BATCHES):
            assert torch.equal(model(BATCHES[0]), model[3](BATCHES[0]))
    assert not torch.equal(model(BATCHES[0]), model[3](BATCHES[0]))


def test_autocast_is_off_inside_an_outer_one():
    model, x = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 6)
    plain = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        with measuring(model):
            assert torch.equal(model(x), plain)  # float32 in dtype and bits
        assert model(x).dtype == torch.bfloat16


def test_gradients_and_exact_kernels_inside(monkeypatch):
    model = nn.Linear(2, 2)
    torch.set_float32_matmul_precision("medium")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    try:
        with torch.no_grad():
            before = kernels()
            with measuring(model):
                assert kernels() == (False, "highest", False, False, True, False, True, False, True)
            assert kernels() == before
            assert before[:6] == (True, "medium", True, True, True, True)
            assert not torch.is_grad_enabled()
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("mode", ["evaluation", "train", "", None])
def test_an_unknown_mode_is_refused_in_one_line(mode):
    model = net()
    before = snapshot(model)
    with pytest.raises(ConfigError) as refused, measuring(model, batchnorm=mode):
        pass
    assert "\n" not in str(refused.value)
    assert "batchnorm" in str(refused.value)
    assert all(known in str(refused.value) for known in MODES)
    assert snapshot(model) == before


# ----------------------------------------------------------------------------------- attention


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 18), nn.Linear(6, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mean(1))


class MultiHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(6, 2, dropout=0.1, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.layer(x).mean(1))


def vit():
    model = VisionTransformer(
        img_size=4, patch_size=2, in_chans=2, num_classes=3, embed_dim=8, depth=2, num_heads=2, mlp_ratio=2
    )
    nn.init.normal_(model.head.weight)
    return model


NETS = {"sdpa": Attention, "multihead": MultiHead, "encoder": Encoder, "vit": vit}


def attention_objective(name):
    model = NETS[name]()
    x = torch.randn(5, 2, 4, 4) if name == "vit" else torch.randn(5, 4, 6)
    return model, Objective(model, [(x, torch.arange(5) % 3)])


@pytest.mark.parametrize("name", NETS)
def test_attention_has_second_derivatives_inside(name):
    model, objective = attention_objective(name)
    before = snapshot(model)
    with measuring(model):
        u, v = torch.randn(2, len(objective.weights))
        with objective.hessian() as hessian:
            ahead, back = (u @ hessian(v)).item(), (v @ hessian(u)).item()
        assert ahead == pytest.approx(back, rel=1e-3)
        assert abs(ahead) > 1e-3
    assert snapshot(model) == before


@pytest.mark.parametrize("name", ["sdpa", "vit"])
def test_fused_attention_has_none_outside(name):
    """Why the context chooses the mathematical kernel."""
    _, objective = attention_objective(name)
    message = ""
    with objective.hessian() as hessian:
        try:
            hessian(objective.weights)
        except RuntimeError as error:
            message = str(error)
    if not message:
        pytest.skip("this torch differentiates its fused attention twice")
    assert "is not implemented" in message


@pytest.mark.parametrize("name", ["multihead", "encoder"])
def test_losses_without_gradients_take_the_same_kernel(name):
    """Attention in eval mode has another kernel for that: the rise of the loss would contain the difference."""
    model, objective = attention_objective(name)
    with measuring(model):
        assert torch.equal(objective.losses(), objective.gradient()[1])


SETTINGS = """
import torch
from torch import nn
from fsamlab.diagnostics import measuring
{how}
b = torch.backends
read = lambda: [s.fp32_precision for s in (b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn, b.mkldnn.matmul, b.mkldnn.conv)]
def every():
    values = [*read(), b.fp32_precision, b.cudnn.fp32_precision, b.mkldnn.fp32_precision]
    for older in (torch.get_float32_matmul_precision, lambda: b.cudnn.allow_tf32):
        try:
            values.append(older())
        except RuntimeError:
            values.append("unreadable")
    return values
before = every()
torch.manual_seed(0)
model, images = nn.Conv2d(16, 16, 3), torch.randn(4, 16, 12, 12)
with measuring(model):
    inside, outputs = read(), model(images)
    assert (torch.get_float32_matmul_precision(), b.cudnn.allow_tf32) == ("highest", False)
after = [value if was != "unreadable" else was for value, was in zip(every(), before)]
assert after == before, (before, after)
assert inside == ["ieee"] * 5, inside
assert (outputs - model.double()(images.double())).abs().max() < 1e-5  # 8e-3 in bfloat16
b.fp32_precision = "ieee"  # a setting that took the global value takes it again
assert read() == {then}, read()
"""

OLDER = "torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True"
LONG = pytest.mark.long
DEFAULT = ["ieee", "tf32", "tf32", "ieee", "ieee"]


@pytest.mark.parametrize(
    ("how", "then"),
    [
        pytest.param("", DEFAULT, marks=LONG),
        pytest.param(OLDER, ["tf32", *DEFAULT[1:]], marks=LONG),
        pytest.param(
            "torch.set_float32_matmul_precision('medium')", ["tf32", "tf32", "tf32", "bf16", "ieee"], marks=LONG
        ),
        pytest.param("torch.backends.fp32_precision = 'tf32'", ["ieee"] * 5, marks=LONG),
        ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", ["tf32", *DEFAULT[1:]]),
        pytest.param(
            "torch.backends.cudnn.conv.fp32_precision = 'ieee'", ["ieee", "ieee", "tf32", "ieee", "ieee"], marks=LONG
        ),
        pytest.param(
            "torch.backends.mkldnn.matmul.fp32_precision = 'tf32'", ["ieee", "tf32", "tf32", "tf32", "ieee"], marks=LONG
        ),
        pytest.param(
            "torch.backends.mkldnn.conv.fp32_precision = 'bf16'", ["ieee", "tf32", "tf32", "ieee", "bf16"], marks=LONG
        ),
        pytest.param(
            "torch.backends.mkldnn.fp32_precision = 'bf16'", ["ieee"] * 5, marks=LONG
        ),  # the global value replaces it
    ],
)
def test_precision_is_full_however_it_was_set(how, then):
    """In a process of its own: torch remembers which settings were used."""
    code = SETTINGS.format(how=how, then=then)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
