"""The perturbation's free scalars against their formulas in float64, from recorded gradients."""

import pytest
import torch

from fsamlab.optim import ASAM, FASAM, FSAM, SAM, SAMComponent, SAMFullEMA, SAMNoise

SHAPES = {"a_weight": (40, 30), "a_bias": (40,), "b_weight": (20, 40), "b_bias": (20,)}
IS_WEIGHT = torch.cat([torch.full(shape, "weight" in name).flatten() for name, shape in SHAPES.items()])
ETA, LMBDA, STEPS = 0.01, 0.8, 6
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
MAKE = {
    "fsam": lambda p, **k: FSAM(p, lmbda=LMBDA, sigma=0.7, **k),
    "fsam_debiased": lambda p, **k: FSAM(p, lmbda=LMBDA, sigma=0.7, ema_init="zero_debiased", **k),
    "fsam_paper": lambda p, **k: FSAM(p, lmbda=LMBDA, order="paper", ema_init="zero", **k),
    "fasam": lambda p, **k: FASAM(p, lmbda=LMBDA, eta=ETA, **k),
    "sam_full_ema": lambda p, **k: SAMFullEMA(p, lmbda=LMBDA, **k),
    "sam": SAM,
    "asam": lambda p, **k: ASAM(p, eta=ETA, **k),
    "sam_noise": SAMNoise,
    "sam_component": SAMComponent,
}
EMA = {"fsam", "fsam_debiased", "fsam_paper", "fasam", "sam_full_ema"}
FULL = {"sam_noise", "sam_component"}


class Weights(torch.nn.Module):
    def __init__(self, dtype):
        super().__init__()
        g = torch.Generator().manual_seed(1)
        for name, shape in SHAPES.items():
            self.register_parameter(name, torch.nn.Parameter(torch.randn(shape, generator=g).to(dtype)))


def drawn(seed, dtype):
    """A gradient as it was recorded: a mean that all of them share, and noise."""
    g = torch.Generator().manual_seed(seed)
    return [(0.3 + torch.randn(shape, generator=g)).to(dtype) for shape in SHAPES.values()]


def flat(tensors):
    return torch.cat([t.detach().double().flatten() for t in tensors])


def cos(a, b):
    return float(a @ b / (a.norm() * b.norm()))


class Reference:
    """The variants in float64, written from their definitions; one flat vector for everything."""

    def __init__(self, variant):
        self.variant, self.m, self.updates = variant, None, 0

    def step(self, a, w, full):
        """Return the scalars of a step with ascent gradient a at weights w."""
        m, d = self.m, self.direction(a, full)
        eps = d * torch.where(IS_WEIGHT, w.abs() + ETA, 1.0) ** 2 if self.variant in ("asam", "fasam") else d
        found = {"grad_norm": float(a.norm()), "d_ratio": float(d.norm() / a.norm()), "cos_eps": cos(eps, a)}
        name, r = ("full", full) if self.variant in FULL else ("ema", m)
        if r is not None:
            found.update({f"{name}_norm": float(r.norm()), f"cos_{name}": cos(a, r)})
            found[f"{name}_coefficient"] = float(a @ r / (r @ r))
        self.take_in(a)
        return {f"perturbation/{k}": v for k, v in found.items()}

    def updated(self, a):
        if self.m is None:
            return a.clone() if self.variant in ("fsam", "fasam", "sam_full_ema") else (1 - LMBDA) * a
        return LMBDA * self.m + (1 - LMBDA) * a

    def take_in(self, a):
        if self.variant in EMA:
            self.m, self.updates = self.updated(a), self.updates + 1

    def direction(self, a, full):
        v, m = self.variant, self.m
        if v in FULL:
            projection = (a @ full / (full @ full)) * full
            return a - projection if v == "sam_noise" else projection
        if v == "fsam_paper":
            return a - self.updated(a)
        if v == "sam_full_ema":
            return self.updated(a)
        if v not in EMA or m is None:
            return a
        if v == "fsam_debiased":
            m = m / (1 - LMBDA**self.updates)
        return a - (1.0 if v == "fasam" else 0.7) * m


def run(variant, dtype, foreach=True, record=True, num_steps=STEPS, **keywords):
    """Return (the optimizer's scalars, the reference's) of each step."""
    model, reference = Weights(dtype), Reference(variant)
    params = list(model.parameters())
    more = {"model": model} if "asam" in variant else {}
    optimizer = MAKE[variant](params, rho=0.05, lr=0.1, foreach=foreach, **more, **keywords)
    found, expected = [], []
    for k in range(num_steps):

        def closure(k=k):
            for p, g in zip(params, drawn(k, dtype)):
                p.grad = g
            return params[0].detach().sum()

        def full_closure():
            for p, g in zip(params, drawn(999, dtype)):
                p.grad = g / 2
            return params[0].detach().sum()

        optimizer.record_scalars = record
        w, full = flat(params), flat(drawn(999, dtype)) / 2
        optimizer.step(closure, None, full_closure)
        found.append({n: v for n, v in optimizer.scalars.items() if "/" in n})
        expected.append(reference.step(flat(drawn(k, dtype)), w, full))
    return found, expected


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", MAKE)
def test_values(variant, dtype, foreach):
    for found, expected in zip(*run(variant, dtype, foreach)):
        tolerance = {"rel": TOLERANCE[dtype], "abs": TOLERANCE[dtype] / 100}
        assert {k: float(v) for k, v in found.items()} == pytest.approx(expected, **tolerance)
        assert all(isinstance(v, torch.Tensor) and v.dim() == 0 for v in found.values())


def test_known_wrong_variants_are_far_outside_the_tolerance():
    m_after, unstretched, norms = [], [], []
    _, right = run("fasam", torch.float64)
    reference = Reference("fasam")
    for k in range(STEPS):
        a = flat(drawn(k, torch.float64))
        d = reference.direction(a, None)
        reference.take_in(a)
        m_after.append(cos(a, reference.m))
        unstretched.append(cos(d, a))
        norms.append(float(d.norm()) * float(a.norm()))
    for k in range(1, STEPS):
        assert m_after[k] > right[k]["perturbation/cos_ema"] + 0.05  # m_t has the batch in it
        assert abs(unstretched[k] - right[k]["perturbation/cos_eps"]) > 0.01  # eps is along T^2 d, not along d
        assert abs(norms[k] - right[k]["perturbation/d_ratio"]) > 1


def test_the_first_step_has_no_average_to_compare_with():
    for variant in EMA:
        found, _ = run(variant, torch.float32, num_steps=2)
        assert not [k for k in found[0] if "ema" in k], variant
        assert {"perturbation/ema_norm", "perturbation/cos_ema", "perturbation/ema_coefficient"} <= found[1].keys()


def test_only_recorded_steps_and_only_perturbing_ones_have_scalars():
    found, _ = run("fsam", torch.float32, record=False)
    assert found == [{}] * STEPS
    found, _ = run("fsam", torch.float32, every=2)
    assert [bool(f) for f in found] == [True, False] * 3


@pytest.mark.parametrize("foreach", [True, False])
def test_groups_that_are_not_perturbed_take_no_part(foreach):
    dtype = torch.float64
    model = Weights(dtype)
    params = list(model.parameters())
    groups = [{"params": params[:2]}, {"params": params[2:], "rho": 0.0}]
    optimizer = FSAM(groups, lr=0.1, rho=0.05, lmbda=LMBDA, foreach=foreach)
    optimizer.record_scalars = True
    for k in range(2):

        def closure(k=k):
            for p, g in zip(params, drawn(k, dtype)):
                p.grad = g
            return params[0].detach().sum()

        optimizer.step(closure)
    a, m = flat(drawn(1, dtype)[:2]), flat(drawn(0, dtype)[:2])
    expected = {"grad_norm": float(a.norm()), "d_ratio": float((a - m).norm() / a.norm()), "cos_eps": cos(a - m, a)}
    expected.update({"ema_norm": float(m.norm()), "cos_ema": cos(a, m), "ema_coefficient": float(a @ m / (m @ m))})
    found = {k.removeprefix("perturbation/"): float(v) for k, v in optimizer.scalars.items() if "/" in k}
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("foreach", [True, False])
def test_a_large_tensor_in_float32(foreach):
    """Sums over millions of float32 entries lose digits: 2e-4 here, where float32 is summed in float32."""
    w = torch.nn.Parameter(torch.zeros(4_000_000))
    optimizer = FSAM([w], lr=0.1, lmbda=LMBDA, foreach=foreach)
    optimizer.record_scalars = True
    gradients = [0.3 + torch.randn(w.shape, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    for g in gradients:

        def closure(g=g):
            w.grad = g.clone()
            return w.detach()[0]

        optimizer.step(closure)
    m, a = (g.double() for g in gradients)
    found = {k.removeprefix("perturbation/"): float(v) for k, v in optimizer.scalars.items() if "/" in k}
    expected = {"grad_norm": float(a.norm()), "d_ratio": float((a - m).norm() / a.norm()), "cos_eps": cos(a - m, a)}
    expected.update({"ema_norm": float(m.norm()), "cos_ema": cos(a, m), "ema_coefficient": float(a @ m / (m @ m))})
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_direction_much_shorter_than_the_gradient():
    """Large batches: a is near m, and what <d, a> is made of nearly cancels."""
    w = torch.nn.Parameter(torch.zeros(4_000_000))
    optimizer = FSAM([w], lr=0.1, lmbda=LMBDA)
    optimizer.record_scalars = True
    m = 0.3 + torch.randn(w.shape, generator=torch.Generator().manual_seed(0))
    a = m + 0.1 * torch.randn(w.shape, generator=torch.Generator().manual_seed(1))
    for g in (m, a):

        def closure(g=g):
            w.grad = g.clone()
            return w.detach()[0]

        optimizer.step(closure)
    expected = cos((a - m).double(), a.double())
    assert float(optimizer.scalars["perturbation/d_ratio"]) == pytest.approx(0.1, abs=0.01)
    assert float(optimizer.scalars["perturbation/cos_eps"]) == pytest.approx(expected, abs=3e-4)
