"""Loss, gradient and Hessian products against closed forms and dense Hessians, in float64 to 1e-12."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import aslinearoperator, eigsh
from torch import nn
from torch.func import functional_call

from fsamlab.diagnostics import Objective, cross_entropy, measuring
from fsamlab.diagnostics.vectors import cosine, dot, dots, flatten, gaussian, norm, rademacher, views

F64 = torch.float64
CLASSES = 3


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, CLASSES)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mean(1))


def conv(norm_layer):
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm_layer, nn.Tanh(), nn.Flatten(), nn.Linear(16, CLASSES))


def mlp():
    layers = [nn.Linear(6, 7), nn.LayerNorm(7), nn.GELU(), nn.Linear(7, 5), nn.LayerNorm(5), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(5, CLASSES))


IMAGE = (2, 4, 4)
NETS = {
    "conv_bn_eval": (lambda: conv(nn.BatchNorm2d(4)), IMAGE, "eval"),
    "conv_bn_batch": (lambda: conv(nn.BatchNorm2d(4)), IMAGE, "batch"),
    "conv_bn_reestimated": (lambda: conv(nn.BatchNorm2d(4)), IMAGE, "reestimated"),
    "groupnorm": (lambda: conv(nn.GroupNorm(2, 4)), IMAGE, "eval"),
    "layernorm_mlp": (mlp, (6,), "eval"),
    "attention": (Attention, (4, 6), "eval"),
}
SIZES = (9, 9, 4)


def problem(name, sizes=SIZES):
    """Return a net in float64 with general weights and statistics, batches, and the mode of its batch norm."""
    make, shape, mode = NETS[name]
    g = torch.Generator().manual_seed(1)
    model = make().to(F64)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=F64) * 0.5 + 0.1)
    x = torch.randn(sum(sizes), *shape, generator=g, dtype=F64) + 0.3
    y = torch.randint(0, CLASSES, (sum(sizes),), generator=g)
    model.train()(x[::2])  # statistics that are nobody's mean
    y[-4:] = model.eval()(x[-4:]).argmin(1)  # a short last batch unlike the others
    return model, list(zip(x.split(sizes), y.split(sizes))), mode


def mean_loss(model, batches):
    """Return w (P,) -> L(w) written without this package."""
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    params = [p for p in model.parameters() if p.requires_grad]
    num = sum(len(y) for _, y in batches)

    def value(w):
        parts = dict(zip(names, (x.view(p.shape) for x, p in zip(w.split([p.numel() for p in params]), params))))
        total = 0.0
        for x, y in batches:
            log_p = functional_call(model, parts, (x,)).log_softmax(1)
            total = total - log_p[torch.arange(len(y)), y].sum()
        return total / num

    return value


def dense(model, batches):
    """Return L, its gradient, and its Hessian (P, P) by torch's own reverse mode; torch.func.hessian errs on norms."""
    w = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    value = mean_loss(model, batches)
    hessian = torch.autograd.functional.hessian(value, w)
    return value(w).item(), torch.autograd.functional.jacobian(value, w), hessian


def off(a, b):
    """Return the largest difference relative to the largest entry."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("name", NETS)
def test_against_the_dense_hessian(name):
    model, batches, mode = problem(name)
    with measuring(model, batchnorm=mode, images=[x for x, _ in batches]):
        loss, gradient, hessian = dense(model, batches)
        objective = Objective(model, batches)
        assert objective.loss() == pytest.approx(loss, rel=1e-14)
        found, losses = objective.gradient()
        assert off(found, gradient) < 1e-12
        assert losses.mean().item() == pytest.approx(loss, rel=1e-14)
        vectors = [*torch.eye(len(found), dtype=F64)[::7], *torch.randn(4, len(found), dtype=F64), gradient]
        for keep_graph in (True, False, None):
            with objective.hessian(keep_graph) as product:
                for v in vectors:
                    assert (product(v) - hessian @ v).abs().max() < 1e-12 * hessian.abs().max() * v.norm()
                u, v = vectors[-3:-1]
                assert (u @ product(v)).item() == pytest.approx((v @ product(u)).item(), rel=1e-11)
                assert product.num_products == len(vectors) + 2
                assert product.shape == hessian.shape
                assert product.dtype == np.float64


def test_the_modes_of_batch_norm_have_different_hessians():
    """So that the agreement above says which one it is."""
    found = {}
    for name in ("conv_bn_eval", "conv_bn_batch", "conv_bn_reestimated"):
        model, batches, mode = problem(name)
        with measuring(model, batchnorm=mode, images=[x for x, _ in batches]):
            objective = Objective(model, batches)
            with objective.hessian() as product:
                found[mode] = product(torch.ones_like(objective.weights))
    assert off(found["eval"], found["batch"]) > 0.1
    assert off(found["eval"], found["reestimated"]) > 0.1
    assert off(found["reestimated"], found["batch"]) > 0.1


@pytest.mark.parametrize("name", [n for n in NETS if not n.endswith("batch")])
def test_ragged_batches_are_one_big_batch(name):
    model, batches, mode = problem(name, sizes=(30, 30, 4))
    whole = [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]
    with measuring(model, batchnorm=mode, images=[whole[0][0]]):
        ragged, one = Objective(model, batches), Objective(model, whole)
        assert ragged.num_samples == one.num_samples == 64
        v = torch.randn_like(one.weights)
        assert ragged.loss() == pytest.approx(one.loss(), rel=1e-12)
        assert off(ragged.losses(), one.losses()) < 1e-12
        assert off(ragged.gradient()[0], one.gradient()[0]) < 1e-12
        assert off(ragged.gradient()[1], one.losses()) < 1e-12
        with one.hessian() as product:
            expected = product(v)
        for keep_graph in (True, False):
            with ragged.hessian(keep_graph) as product:
                assert off(product(v), expected) < 1e-12
        # the known wrong mean: every batch counts the same
        parts = [ragged.of([b]) for b in batches]
        assert abs(np.mean([p.loss() for p in parts]) / one.loss() - 1) > 1e-2
        assert off(sum(p.gradient()[0] for p in parts) / 3, one.gradient()[0]) > 1e-2
        products = []
        for part in parts:
            with part.hessian() as product:
                products.append(product(v))
        assert off(sum(products) / 3, expected) > 1e-2


def test_batch_gradients_are_those_of_each_batch():
    model, batches, mode = problem("conv_bn_batch")
    with measuring(model, batchnorm=mode):
        objective = Objective(model, batches)
        for batch, (gradient, losses) in zip(batches, objective.batch_gradients()):
            loss, expected, _ = dense(model, [batch])
            assert off(gradient, expected) < 1e-12
            assert losses.shape == batch[1].shape
            assert losses.mean().item() == pytest.approx(loss, rel=1e-13)


# -------------------------------------------------------------------------------- closed forms


def squares(outputs, targets):
    return (outputs.squeeze(1) - targets) ** 2 / 2


def test_least_squares():
    x, y = torch.randn(50, 6, dtype=F64), torch.randn(50, dtype=F64)
    model = nn.Linear(6, 1, bias=False).to(F64)
    w = model.weight.detach()[0].clone()
    objective = Objective(model, list(zip(x.split(16), y.split(16))), squares)
    with measuring(model):
        gradient, losses = objective.gradient()
        assert off(losses, (x @ w - y) ** 2 / 2) < 1e-14
        assert off(gradient, x.T @ (x @ w - y) / 50) < 1e-13
        for keep_graph in (True, False):
            with objective.hessian(keep_graph) as product:
                assert off(torch.stack([product(e) for e in torch.eye(6, dtype=F64)]), x.T @ x / 50) < 1e-13


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_softmax_regression(smoothing):
    n, d = 40, 5
    x, y = torch.randn(n, d, dtype=F64), torch.randint(0, CLASSES, (n,))
    model = nn.Linear(d, CLASSES).to(F64)

    def loss(logits, labels):
        return cross_entropy(logits, labels, smoothing)

    with torch.no_grad():
        p = model(x).softmax(1)
        targets = F.one_hot(y, CLASSES).double() * (1 - smoothing) + smoothing / CLASSES
        jacobian = torch.stack([torch.cat([torch.kron(torch.eye(CLASSES), r), torch.eye(CLASSES)], 1) for r in x])
        inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        hessian = torch.einsum("ncp,ncd,ndq->pq", jacobian, inner, jacobian) / n
        expected = torch.einsum("ncp,nc->p", jacobian, p - targets) / n
    objective = Objective(model, list(zip(x.split(17), y.split(17))), loss)
    with measuring(model):
        gradient, losses = objective.gradient()
        assert off(losses, -(targets * p.log()).sum(1)) < 1e-13
        assert off(gradient, expected) < 1e-12
        with objective.hessian() as product:
            found = torch.stack([product(e) for e in torch.eye(len(gradient), dtype=F64)])
        assert off(found, hessian) < 1e-12


def test_losses_are_float64_of_float32_logits():
    logits = torch.tensor([[25.0, 0.0], [0.0, 25.0]])
    losses = cross_entropy(logits, torch.tensor([0, 0]))
    assert losses.dtype == F64
    assert losses.tolist() == pytest.approx([np.log1p(np.exp(-25)), 25 + np.log1p(np.exp(-25))], rel=1e-5)
    assert F.cross_entropy(logits, torch.tensor([0, 0]), reduction="none")[0] == 0  # float32 has lost it


# --------------------------------------------------------------------------------- moving weights


def float32_net(seed):
    g = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, CLASSES))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.5)
    x, y = torch.randn(1000, 8, generator=g), torch.randint(0, CLASSES, (1000,), generator=g)
    return model, list(zip(x.split(300), y.split(300))), g


def test_a_tiny_rise_on_a_float32_model():
    """Differences of each sample, summed in float64, against float64 throughout and against float32 means."""
    ours, naive = [], []
    for seed in range(12):
        model, batches, g = float32_net(seed)
        twin = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, CLASSES)).to(F64)
        exact, objective = Objective(twin, [(x.double(), y) for x, y in batches]), Objective(model, batches)

        def plain_mean(model=model, batches=batches):
            with torch.no_grad():
                losses = [F.cross_entropy(model(x), y, reduction="sum") for x, y in batches]
                return (torch.stack(losses).sum() / 1000).item()

        with measuring(model):
            offset = torch.randn(len(objective.weights), generator=g)
            offset *= 1e-5 / offset.norm()
            twin.load_state_dict(model.state_dict())
            truth, at_w, float32_at_w = exact.loss(), objective.losses(), plain_mean()
            with objective.moved(offset):  # the rounded weights w + offset are what both are asked about
                twin.load_state_dict(model.state_dict())
                truth = exact.loss() - truth
                naive.append(abs(plain_mean() - float32_at_w - truth))
            ours.append(abs(objective.rise(offset, at_w) - truth))
        assert 1e-8 < abs(truth) < 1e-4
    assert np.median(ours) < 0.1 * np.median(naive)
    assert max(ours) < 3e-8


def test_rise_is_the_difference():
    model, batches, mode = problem("conv_bn_batch")
    with measuring(model, batchnorm=mode):
        objective = Objective(model, batches)
        w, offset = objective.weights, torch.randn_like(objective.weights)
        value = mean_loss(model, batches)
        rise = objective.rise(offset, objective.losses())
        assert rise == pytest.approx((value(w + offset) - value(w)).item(), rel=1e-12)
        assert torch.equal(objective.weights, w)


class Left(Exception):
    pass


def test_moved_restores_bitwise():
    model, batches, g = float32_net(0)
    objective = Objective(model, batches)
    w = objective.weights
    offset = torch.randn(w.shape, generator=g)
    assert not torch.equal(w + offset - offset, w)  # adding and subtracting again would not
    with objective.moved(offset):
        assert torch.equal(objective.weights, w + offset)
        with objective.moved(-offset):
            assert torch.equal(objective.weights, w + offset - offset)
        assert torch.equal(objective.weights, w + offset)
    assert torch.equal(objective.weights, w)
    with pytest.raises(Left), objective.moved(offset), objective.moved(offset):
        raise Left
    assert torch.equal(objective.weights, w)
    with pytest.raises(RuntimeError), objective.moved(offset[:-1]):
        pass
    assert torch.equal(objective.weights, w)


def test_weights_are_a_copy():
    model, batches, _ = float32_net(0)
    objective = Objective(model, batches)
    before = objective.weights
    objective.weights.zero_()
    assert torch.equal(objective.weights, before)
    assert not before.requires_grad


def test_changing_the_weights_while_a_graph_is_kept_is_an_error():
    model, batches, mode = problem("layernorm_mlp")
    with measuring(model, batchnorm=mode):
        objective = Objective(model, batches)
        v = torch.randn_like(objective.weights)
        with objective.hessian(keep_graph=True) as product:
            product(v)
            with objective.moved(v), pytest.raises(RuntimeError, match="modified by an inplace operation"):
                product(v)
        with objective.hessian(keep_graph=False) as product, objective.moved(v):
            assert off(product(v), dense(model, batches)[2] @ v) < 1e-12


# ---------------------------------------------------------------------------- unusual parameters


class Unused(nn.Module):
    """A parameter that no loss depends on, one it depends on linearly, and a frozen one."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(2, dtype=F64))
        self.curved = nn.Parameter(torch.tensor([0.3, -0.2, 0.5], dtype=F64))
        self.frozen = nn.Parameter(torch.ones(4, dtype=F64), requires_grad=False)
        self.linear = nn.Parameter(torch.ones(3, dtype=F64))

    def forward(self, x):
        return (x * self.frozen[0] * self.curved).sum(1) ** 3 + x @ self.linear


def outputs_themselves(outputs, targets):
    return outputs


@pytest.mark.parametrize("keep_graph", [True, False])
def test_unused_linear_and_frozen_parameters(keep_graph):
    model, x = Unused(), torch.randn(10, 3, dtype=F64)
    objective = Objective(model, [(x[:7], x[:7]), (x[7:], x[7:])], outputs_themselves)
    assert len(objective.weights) == 8
    s = x @ model.curved.detach()
    with measuring(model):
        gradient, _ = objective.gradient()
        expected = torch.cat([torch.zeros(2, dtype=F64), (3 * s[:, None] ** 2 * x).mean(0), x.mean(0)])
        assert off(gradient, expected) < 1e-13
        with objective.hessian(keep_graph) as product:
            found = torch.stack([product(e) for e in torch.eye(8, dtype=F64)])
    hessian = torch.zeros(8, 8, dtype=F64)
    hessian[2:5, 2:5] = (6 * s[:, None, None] * x[:, :, None] * x[:, None, :]).mean(0)
    assert off(found, hessian) < 1e-12


@pytest.mark.parametrize("keep_graph", [True, False])
def test_a_linear_loss_has_no_curvature(keep_graph):
    model, x = nn.Linear(4, 1).to(F64), torch.randn(10, 4, dtype=F64)
    objective = Objective(model, [(x, x)], lambda outputs, targets: outputs.squeeze(1))
    with measuring(model), objective.hessian(keep_graph) as product:
        assert torch.equal(product(torch.randn(5, dtype=F64)), torch.zeros(5, dtype=F64))
        assert product.num_products == 1


def test_channels_last_weights_give_the_same_vector():
    model, batches, _ = problem("groupnorm")
    with measuring(model):
        objective = Objective(model, batches)
        v = torch.randn_like(objective.weights)
        gradient = objective.gradient()[0]
        with objective.hessian() as product, objective.moved(v):
            moved = objective.weights
        with objective.hessian() as product:
            expected = product(v)
    twin, _, _ = problem("groupnorm")
    twin = twin.to(memory_format=torch.channels_last)
    assert not twin[0].weight.is_contiguous()
    with measuring(twin):
        objective = Objective(twin, [(x.contiguous(memory_format=torch.channels_last), y) for x, y in batches])
        assert off(objective.gradient()[0], gradient) < 1e-12
        with objective.hessian() as product:
            assert off(product(v), expected) < 1e-12
        with objective.moved(v):
            assert torch.equal(objective.weights, moved)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="needs samples"):
        Objective(nn.Linear(2, 2), [])


# ------------------------------------------------------------------------------------- scipy, poll


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("keep_graph", [True, False])
def test_scipy_takes_the_hessian_as_a_linear_operator(dtype, keep_graph):
    model, batches, mode = problem("conv_bn_eval")
    with measuring(model, batchnorm=mode):
        expected = torch.linalg.eigvalsh(dense(model, batches)[2]).numpy()
    model = model.to(dtype)
    with measuring(model, batchnorm=mode):
        objective = Objective(model, [(x.to(dtype), y) for x, y in batches])
        with objective.hessian(keep_graph) as product:
            operator = aslinearoperator(product)
            assert operator.dtype == np.dtype("float32" if dtype == torch.float32 else "float64")
            assert operator.shape == (len(expected), len(expected))
            start = np.ones(len(expected))
            top = eigsh(operator, k=3, which="LA", v0=start, return_eigenvectors=False)
            bottom = eigsh(operator, k=1, which="SA", v0=start, return_eigenvectors=False)
            column = np.ones((len(expected), 1))
            assert np.array_equal(operator.matvec(column)[:, 0], operator.matvec(column[:, 0]))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-11
    assert sorted(top) == pytest.approx(expected[-3:], rel=tolerance)
    assert bottom[0] == pytest.approx(expected[0], rel=tolerance)


def test_poll_is_called_before_each_batch():
    model, batches, _ = problem("layernorm_mlp")
    calls = []
    objective = Objective(model, batches, poll=lambda: calls.append(1))

    def counted(work):
        calls.clear()
        work()
        return len(calls)

    with measuring(model):
        v = objective.weights
        assert counted(objective.losses) == 3
        assert counted(objective.gradient) == 3
        assert counted(lambda: objective.rise(v, torch.zeros(22, dtype=F64))) == 3
        assert counted(objective.of(batches[:2]).losses) == 2
        with objective.hessian(keep_graph=False) as product:
            assert counted(lambda: product(v)) == 3
        with objective.hessian(keep_graph=True) as product:
            assert counted(lambda: product(v)) == 3


@pytest.mark.parametrize("keep_graph", [True, False])
@pytest.mark.parametrize("after", [1, 2, 4, 5, 8, 11])
def test_a_poll_that_raises_leaves_cleanly(after, keep_graph):
    model, batches, _ = problem("layernorm_mlp")
    left = [after]

    def poll():
        left[0] -= 1
        if left[0] == 0:
            raise Left

    objective = Objective(model, batches, poll=poll)
    before = objective.weights

    def work():
        with measuring(model):
            objective.rise(before, objective.losses())
            with objective.hessian(keep_graph) as product:
                for _ in range(3):
                    product(before)

    with pytest.raises(Left):
        work()
    assert torch.equal(objective.weights, before)
    assert all(p.grad is None for p in model.parameters())
    objective.poll = None
    with measuring(model):
        gradient, losses = objective.gradient()
        assert losses.mean().item() == pytest.approx(mean_loss(model, batches)(before).item(), rel=1e-13)
        with objective.hessian(keep_graph) as product:
            product(gradient)


# ---------------------------------------------------------------------------------------- vectors


def test_inner_products_over_eleven_million_entries():
    n = 11_000_000
    same = torch.full((n,), 0.1)
    exact = float(torch.tensor(0.1).double() ** 2) * n
    x = torch.rand(n, generator=torch.Generator().manual_seed(0))
    sums = {"same": (same, exact), "random": (x, float(x.double() @ x.double()))}
    for v, truth in sums.values():
        assert dot(v, v) == pytest.approx(truth, rel=1e-12)
        assert norm(v) == pytest.approx(truth**0.5, rel=1e-12)
        assert dots(torch.stack([v, -v]), v).tolist() == pytest.approx([truth, -truth], rel=4e-12)
        assert cosine(v, -v) == pytest.approx(-1, rel=1e-12)
    # what they are for: float32 kernels sum a long vector in lanes, and each lane loses what it adds
    off_by = [abs(torch.dot(same, same).item() / exact - 1), abs(same.norm().item() / exact**0.5 - 1)]
    assert max(off_by) > 1e-6


def test_inner_products_of_any_length():
    g = torch.Generator().manual_seed(0)
    for n in (1, 2, 1000, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 700_001):
        x, y = torch.randn(2, n, generator=g, dtype=F64)
        assert dot(x, y) == pytest.approx((x * y).sum().item(), rel=1e-10, abs=1e-10)
        rows = torch.randn(3, n, generator=g, dtype=F64)
        assert torch.allclose(dots(rows, y), rows @ y, rtol=1e-10, atol=1e-9)
    assert dots(torch.empty(0, 5), torch.ones(5)).shape == (0,)
    assert dots(torch.ones(2, 3), torch.ones(3)).dtype == F64
    assert np.isnan(cosine(torch.zeros(3), torch.ones(3)))


def test_flatten_and_views_are_inverse():
    tensors = [torch.randn(2, 3), torch.randn(()), torch.randn(2, 1, 4), torch.randn(3, 5).T]
    vector = flatten(tensors)
    assert vector.shape == (6 + 1 + 8 + 15,)
    assert all(torch.equal(a, b) for a, b in zip(views(vector, tensors), tensors))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_random_vectors_follow_their_seed_only(dtype):
    like = torch.zeros(10_000, dtype=dtype)
    before = torch.get_rng_state()
    for draw in (gaussian, rademacher):
        assert torch.equal(draw(like, 3), draw(like, 3))
        assert draw(like, 3).dtype == dtype
        assert abs(cosine(draw(like, 3), draw(like, 4))) < 0.05
        assert abs(draw(like, 3).mean().item()) < 0.05
        assert draw(like, 3).std().item() == pytest.approx(1, abs=0.05)
    assert set(rademacher(like, 0).tolist()) == {-1.0, 1.0}
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------------ refusals


def small():
    return nn.Linear(3, 2), [(torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1]))]


def test_a_reduced_loss_is_refused():
    model, batches = small()
    for loss in (F.cross_entropy, lambda out, y: F.cross_entropy(out, y, reduction="none")[:, None]):
        with measuring(model), pytest.raises(ValueError, match="one value for each sample"):
            Objective(model, batches, loss).gradient()


def test_without_gradients_the_way_out_is_named():
    model, batches = small()
    with torch.no_grad():
        with pytest.raises(ValueError, match=r"measuring\(model\)"):
            Objective(model, batches).gradient()
        with pytest.raises(ValueError, match=r"measuring\(model\)"), Objective(model, batches).hessian():
            pass
    with measuring(model), pytest.raises(ValueError, match="detaches"):
        Objective(model, batches, lambda out, y: F.cross_entropy(out.detach(), y, reduction="none")).gradient()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_types_that_cannot_be_measured_are_refused(dtype):
    model, batches = small()
    with pytest.raises(ValueError, match=str(dtype).removeprefix("torch.")):
        Objective(model.to(dtype), batches)
    mixed = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2).double())
    with pytest.raises(ValueError, match="float32, float64"):
        Objective(mixed, batches)


def test_a_model_without_trainable_parameters_is_refused():
    model, batches = small()
    with pytest.raises(ValueError, match="frozen"):
        Objective(model.requires_grad_(False), batches)


class Noisy(nn.Linear):
    """Random in eval mode too."""

    def forward(self, x):
        return super().forward(x) + 0.1 * torch.randn(len(x), 2)


def test_a_forward_pass_that_is_random_in_eval_mode_is_refused():
    model, batches = small()
    with measuring(model):
        Objective(model, batches).check_forward()
    noisy = Noisy(3, 2)
    with measuring(noisy), pytest.raises(ValueError, match="two forward passes"):
        Objective(noisy, batches).check_forward()
