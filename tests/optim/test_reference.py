"""The fast optimizer equals the rules in paper notation, in float64 to 1e-12 over 50 steps."""

import itertools

import pytest
import torch
from support.marks import long_but

from fsamlab.axes.axis import step_seed
from fsamlab.optim import SharpnessAware, reference

STEPS = 50
RHO, ETA = 0.3, 0.01
SHAPES = [(4, 3), (4,), (2, 4), (2,)]


class Problem(torch.nn.Module):
    """A small nonlinear regression; batch k is a function of k, so both codes see the same ones."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(1)
        for name, shape in zip(("a_weight", "a_bias", "b_weight", "b_bias"), SHAPES):
            self.register_parameter(name, torch.nn.Parameter(torch.randn(shape, generator=g, dtype=torch.float64)))

    def loss(self, k, w=None, n=8):
        a, a0, b, b0 = w if w is not None else list(self.parameters())
        g = torch.Generator().manual_seed(k)
        x = torch.randn(n, 3, generator=g, dtype=torch.float64)
        y = torch.randn(n, 2, generator=g, dtype=torch.float64)
        return ((torch.tanh(x @ a.T + a0) @ b.T + b0 - y) ** 2).mean()

    def gradient(self, k, n=8):
        def at(w):
            w = [x.detach().clone().requires_grad_() for x in w]
            return list(torch.autograd.grad(self.loss(k, w, n), w))

        return at


FULL = {"k": 999, "n": 200}  # stands for the full training set


def recorded(k):
    """Gradients that do not depend on the weights: recorded ones."""
    g = torch.Generator().manual_seed(7 + k)
    mean = [torch.full(s, 0.5, dtype=torch.float64) for s in SHAPES]
    return lambda w: [m + torch.randn(m.shape, generator=g.manual_seed(7 + k), dtype=torch.float64) for m in mean]


def perturbations(choices):
    """Return the reference's rule for a set of choices: (gradient, full gradient, w) -> eps."""
    p = choices
    fsam = reference.FSAM(
        p.get("sigma", 0), p.get("lmbda", 0), p.get("order", "official"), p.get("ema_init", "first_gradient")
    )

    def eps(g, full, w):
        component = p.get("component", "all")
        if component == "subtract":
            d = fsam.direction(g)
        elif component == "reference":
            d = fsam.reference(g)
        elif component == "all":
            d = g
        else:
            d = getattr(reference, component)(g, full)
        if p.get("metric", "l2") == "l2":
            return reference.sam(d, RHO)
        weights = [True, False, True, False] if p["adaptive_form"] == "official" else [True] * 4
        return reference.asam(d, w, RHO, p["eta"], weights)

    return eps


def bases(kind, params=None):
    if kind == "sgd":
        fast = params and torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-2)
        return fast, reference.SGD(0.1, 0.9, 1e-2)
    fast = params and torch.optim.AdamW(params, lr=0.01, weight_decay=0.1)
    return fast, reference.AdamW(0.01, 0.1)


def compare(choices, base="sgd", source="moving", foreach=True, feed=lambda g: g):
    """Return the largest difference of the weights over all steps; `feed` may tamper with the fast code."""
    problem = Problem()
    fast_base, slow_base = bases(base, list(problem.parameters()))
    fast = SharpnessAware(fast_base, rho=RHO, foreach=foreach, model=problem, **choices)
    eps = perturbations(choices)
    w = [p.detach().clone() for p in problem.parameters()]
    worst = 0.0
    for k in range(STEPS):
        gradient = problem.gradient(k) if source == "moving" else recorded(k)
        full = problem.gradient(**FULL)

        def closure(gradient=gradient, k=k):
            params = list(problem.parameters())
            for p, g in zip(params, gradient(params)):
                p.grad = g
            return problem.loss(k).detach()

        def full_closure(full=full):
            params = list(problem.parameters())
            for p, g in zip(params, full(params)):
                p.grad = g
            return torch.zeros(())

        fast.step(closure, full_closure, full_closure)
        ascent = full if choices.get("ascent") == "full" else gradient
        w = reference.step(w, eps(ascent(w), full(w), w), gradient, slow_base)
        worst = max(worst, *(float((p.detach() - x).abs().max()) for p, x in zip(problem.parameters(), w)))
    return worst


EMA = {"component": "subtract", "reference": "ema"}
METRICS = [
    {},
    {"metric": "adaptive", "adaptive_form": "official", "eta": ETA},
    {"metric": "adaptive", "adaptive_form": "all", "eta": 0.0},
]


def starts(sigma):
    for start in ("first_gradient", "zero", "zero_debiased"):
        yield {"order": "official", "ema_init": start}
        if start == "zero" or sigma < 1:
            yield {"order": "paper", "ema_init": start}


GRID = [
    {**EMA, "sigma": sigma, "lmbda": lmbda, **start, **metric}
    for sigma, lmbda, metric in itertools.product((0.0, 0.5, 1.0), (0.6, 0.9, 0.95), METRICS)
    for start in starts(sigma)
]


def label(choices):
    return "-".join(str(v) for k, v in choices.items() if k not in EMA)


@pytest.mark.parametrize("choices", long_but(GRID[::5], GRID), ids=label)
def test_fsam(choices):
    assert compare(choices) < 1e-12


@pytest.mark.parametrize("choices", GRID[::5], ids=label)
def test_fsam_on_adamw_with_recorded_gradients(choices):
    assert compare(choices, base="adamw", source="recorded") < 1e-12


@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize(
    "choices",
    [
        {},
        *METRICS[1:],
        {"ascent": "full", "full_every_steps": 1},
        {"component": "project_on", "reference": "full", "full_every_steps": 1},
        {"component": "project_out", "reference": "full", "full_every_steps": 1},
        {"component": "reference", "reference": "ema", "lmbda": 0.9, "order": "paper", "ema_init": "first_gradient"},
        {"component": "reference", "reference": "ema", "lmbda": 0.6, "order": "paper", "ema_init": "zero_debiased"},
        {**EMA, "sigma": 1.0, "lmbda": 0.9},
    ],
    ids=str,
)
def test_the_other_variants(choices, base, foreach):
    assert compare(choices, base=base, foreach=foreach) < 1e-12


def test_foreach_and_loop_are_the_same_bits():
    """Like with like: the same arithmetic on lists and one by one."""
    finals = []
    for foreach in (True, False):
        problem = Problem()
        optimizer = SharpnessAware(
            bases("sgd", list(problem.parameters()))[0], rho=RHO, foreach=foreach, **EMA, sigma=0.7
        )
        for k in range(STEPS):

            def closure(k=k, problem=problem, optimizer=optimizer):
                optimizer.zero_grad()
                loss = problem.loss(k)
                loss.backward()
                return loss

            optimizer.step(closure)
        finals.append([p.detach().clone() for p in problem.parameters()])
    for a, b in zip(*finals):
        assert torch.equal(a, b)


def test_an_ema_fed_with_the_reduced_gradient_is_caught(monkeypatch):
    """The known wrong variant: it removes half of the mean gradient only."""
    from fsamlab.axes.reference import Ema

    def wrong(self, part, state, ops):
        reduced = [x.clone() for x in part.d]
        part.a, part.alpha, part.beta = reduced, 1.0, 0.0
        right(self, part, state, ops)

    right = Ema.update
    choices = {**EMA, "sigma": 1.0, "lmbda": 0.9}
    assert compare(choices) < 1e-12
    monkeypatch.setattr(Ema, "update", wrong)
    assert compare(choices) > 1e-3


def test_debiasing_and_order_matter_at_this_tolerance():
    """The comparison tells neighbouring rules apart."""
    base = {**EMA, "sigma": 0.5, "lmbda": 0.9}
    finals = {}
    for name, choices in {
        "official": {**base, "order": "official", "ema_init": "zero"},
        "paper": {**base, "order": "paper", "ema_init": "zero"},
        "debiased": {**base, "order": "official", "ema_init": "zero_debiased"},
    }.items():
        eps = perturbations(choices)
        g = [recorded(k)(None) for k in range(5)]
        finals[name] = [torch.cat([x.flatten() for x in eps(x, None, None)]) for x in g][-1]
    for a, b in itertools.combinations(finals.values(), 2):
        assert float((a - b).abs().max()) > 1e-4


@pytest.mark.parametrize("sigma", [0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("lmbda", [0.6, 0.9, 0.95])
def test_the_papers_sigma_maps_to_the_codes(sigma, lmbda):
    """With the same m_{t-1}: sigma' = sigma lmbda / (1 - sigma (1 - lmbda)) gives the same direction."""
    codes = sigma * lmbda / (1 - sigma * (1 - lmbda))
    paper = reference.FSAM(sigma, lmbda, "paper", "zero")
    official = reference.FSAM(codes, lmbda, "official", "zero")
    for k in range(10):
        g = recorded(k)(None)
        a, b = paper.direction(g), official.direction(g)
        assert reference.dot(a, b) / (reference.norm(a) * reference.norm(b)) == pytest.approx(1, abs=1e-14)
    if sigma == 0.5 and lmbda == 0.6:
        assert codes == pytest.approx(0.375)
    if sigma == 1:
        assert codes == pytest.approx(1)


@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_the_references_bases_are_torchs(base):
    problem = Problem()
    fast, slow = bases(base, list(problem.parameters()))
    w = [p.detach().clone() for p in problem.parameters()]
    for k in range(STEPS):
        g = recorded(k)(None)
        for p, x in zip(problem.parameters(), g):
            p.grad = x.clone()
        fast.step()
        w = slow.step(w, g)
    assert max(float((p.detach() - x).abs().max()) for p, x in zip(problem.parameters(), w)) < 1e-13


def compare_descents(choices, slow_step, base, foreach, every=1):
    """Return the largest difference over all steps; slow_step(w, g, gradient, base, perturbs) is the rule's step.

    g is the ascent gradient, of two other samples for ascent=other_batch; `gradient` that of the descent batch.
    """
    problem = Problem()
    fast_base, slow_base = bases(base, list(problem.parameters()))
    fast = SharpnessAware(fast_base, rho=RHO, foreach=foreach, model=problem, every=every, **choices)
    w = [p.detach().clone() for p in problem.parameters()]
    worst = 0.0
    for k in range(STEPS):
        gradient, other = problem.gradient(k), problem.gradient(k + 1000, n=2)

        def closure(gradient=gradient, k=k):
            params = list(problem.parameters())
            for p, g in zip(params, gradient(params)):
                p.grad = g
            return problem.loss(k).detach()

        fast.step(closure, lambda other=other: closure(other))
        g = (other if choices.get("ascent") == "other_batch" else gradient)(w)
        w = slow_step(w, g, gradient, slow_base, k % every == 0)
        worst = max(worst, *(float((p.detach() - x).abs().max()) for p, x in zip(problem.parameters(), w)))
    return worst


def perturbed(w, eps, gradient):
    return gradient([a + b for a, b in zip(w, eps)])


def rule_of(combine, eps=lambda g: reference.sam(g, RHO)):
    """The base's step with combine(g, h)."""
    return lambda w, g, gradient, base, perturbs: base.step(w, combine(g, perturbed(w, eps(g), gradient)))


def decoupled(gamma):
    def step(w, g, gradient, base, perturbs):
        return reference.wsam_step(w, g, perturbed(w, reference.sam(g, RHO), gradient), gamma, base)

    return step


def looking(alpha):
    rule = reference.LookSAM(alpha)

    def step(w, g, gradient, base, perturbs):
        h = perturbed(w, reference.sam(g, RHO), gradient) if perturbs else None
        return base.step(w, rule.between(g) if h is None else rule.perturbed(g, h))

    return step


def friendly_fisher():
    fsam = reference.FSAM(0.7, 0.9)
    return rule_of(lambda g, h: h, lambda g: reference.fisher_sam(fsam.direction(g), g, RHO, 2.0))


def friendly(fed_by=lambda a, g: a):
    """F-SAM; the EMA takes in and the direction starts from fed_by(a, g), a of the ascent batch and g of B."""
    fsam = reference.FSAM(0.7, 0.9)

    def step(w, a, gradient, base, perturbs):
        eps = reference.sam(fsam.direction(fed_by(a, gradient(w))), RHO)
        return base.step(w, perturbed(w, eps, gradient))

    return step


def along_momentum(eps):
    """The base's step with the gradient at w + eps(v), v the momentum before the step; at w before the first one."""

    def step(w, g, gradient, base, perturbs):
        v = base.v if isinstance(base, reference.SGD) else base.m
        return base.step(w, g if v is None else perturbed(w, eps(v), gradient))

    return step


def annealing(start, end, cosine):
    steps = itertools.count()

    def step(w, g, gradient, base, perturbs):
        rho = reference.annealed(next(steps), STEPS, start * RHO, end * RHO, cosine)
        return base.step(w, perturbed(w, reference.sam(g, rho), gradient))

    return step


def unified(schedule):
    steps = itertools.count(1)

    def step(w, g, gradient, base, perturbs):
        return base.step(w, perturbed(w, reference.unified_sam(g, RHO, schedule(next(steps))), gradient))

    return step


def equating(*schedule):
    steps = itertools.count()

    def step(w, g, gradient, base, perturbs):
        sigma = reference.le_sam_sigma(next(steps), STEPS, *schedule)
        return base.step(w, perturbed(w, reference.le_sam(g, sigma, RHO), gradient))

    return step


def deciding(*parameters):
    rule = reference.AESAM(STEPS, *parameters)

    def step(w, g, gradient, base, perturbs):
        return base.step(w, perturbed(w, reference.sam(g, RHO), gradient) if rule.perturbs(g) else g)

    return step


class Before(reference.AESAM):
    """AE-SAM with the mean and the variance of the steps before, this step not in them."""

    def perturbs(self, g):
        mu, variance, c = self.mu, self.variance, 1 - 2 * self.t / self.total
        super().perturbs(g)
        return reference.norm(g) ** 2 >= mu + c * variance**0.5


def deciding_before():
    rule = Before(STEPS, 0.9, -1.0, 1.0)
    return lambda w, g, gradient, base, _: base.step(
        w, perturbed(w, reference.sam(g, RHO), gradient) if rule.perturbs(g) else g
    )


ADAPTIVE = {"when": "adaptive", "total_steps": STEPS}
BUDGET = {"radius": "loss_budget", "total_steps": STEPS}


def climbing(r, k):
    """The base's step with the gradient at the end of k ascent steps of length r."""

    def step(w, g, gradient, base, perturbs):
        return base.step(w, perturbed(w, reference.ascents(w, gradient, r, k)[-1], gradient))

    return step


def behind(r, k, alpha):
    def step(w, g, gradient, base, perturbs):
        if not perturbs:
            return base.step(w, g)
        return reference.lookbehind(w, gradient, reference.ascents(w, gradient, r, k), alpha, base)

    return step


def behind_in_turn(w, g, gradient, base, perturbs):
    """Lookbehind whose ascent starts from the weights that the base has reached."""
    phi = w
    for _ in range(3):
        phi = base.step(phi, perturbed(phi, reference.sam(gradient(phi), 0.1), gradient))
    return [a + 0.5 * (b - a) for a, b in zip(w, phi)]


def drawing(eps, combine=lambda g, h: h):
    """The base's step with combine(g, h), h at w + eps(w, g, the generator of the step)."""
    steps = itertools.count()

    def step(w, g, gradient, base, perturbs):
        generator = torch.Generator().manual_seed(step_seed(0, next(steps)))
        return base.step(w, combine(g, perturbed(w, eps(w, g, generator), gradient)))

    return step


def swp(norm_of_all, beta=0.6):
    def eps(w, g, generator):
        drawn = [bool(torch.rand((), generator=generator) < beta) for _ in g]
        return reference.esam_swp(g, drawn, RHO, 0.6, norm_of_all)

    return drawing(eps)


def noise(w, g, generator):
    return reference.rwp(w, [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in w], RHO)


def per_tensor(w, g, generator):
    """RWP with the norm of each tensor instead of each filter."""
    z = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in w]
    return [RHO * x.norm() * y for x, y in zip(w, z)]


NOISE = {"ascent": "filter_gaussian", "metric": "unnormalised"}
CLIMB = {"ascent": "multi_step", "ascent_steps": 3}
BEHIND = {**CLIMB, "ascent_length": "divided", "descent": "lookbehind"}


def adaptive(form):
    """Two base steps with momentum on one batch, and nearly all of the way: the weights are chaotic in every step."""
    return {**BEHIND, "ascent_steps": 2, "alpha": None, "alpha_form": form}


FAMILY = {  # name: (choices, the rule, every)
    "GSAM": ({"descent": "surrogate_gap", "alpha": 0.4}, lambda: rule_of(lambda g, h: reference.gsam(g, h, 0.4)), 1),
    "rescaled": ({"descent": "rescaled"}, lambda: rule_of(reference.rescaled), 1),
    "WSAM, coupled": (
        {"descent": "weighted", "gamma": 0.8, "wsam_form": "coupled"},
        lambda: rule_of(lambda g, h: reference.wsam(g, h, 0.8)),
        1,
    ),
    "WSAM, decoupled": ({"descent": "weighted", "gamma": 0.6}, lambda: decoupled(0.6), 1),
    "LookSAM": ({"descent": "look", "alpha": 0.7}, lambda: looking(0.7), 3),
    "FisherSAM": (
        {"metric": "fisher", "eta": 2.0},
        lambda: rule_of(lambda g, h: h, lambda g: reference.fisher_sam(g, g, RHO, 2.0)),
        1,
    ),
    "Friendly FisherSAM": ({**EMA, "sigma": 0.7, "lmbda": 0.9, "metric": "fisher", "eta": 2.0}, friendly_fisher, 1),
    "F-SAM on other samples": ({**EMA, "ascent": "other_batch", "sigma": 0.7, "lmbda": 0.9}, lambda: friendly(), 1),
    "ESAM's SWP": ({"ascent": "some_tensors"}, lambda: swp(False), 1),
    "ESAM's SWP, norm of all": ({"ascent": "some_tensors", "swp_norm": "all"}, lambda: swp(True), 1),
    "RWP": (NOISE, lambda: drawing(noise), 1),
    "m-RWP": (
        {**NOISE, "ascent": "filter_gaussian_beside", "descent": "mixed", "perturbed_share": 0.3},
        lambda: drawing(noise, lambda g, h: reference.m_rwp(g, h, 0.3)),
        1,
    ),
    "Multistep-SAM": (CLIMB, lambda: climbing(RHO, 3), 1),
    "Multistep-SAM, divided": ({**CLIMB, "ascent_length": "divided"}, lambda: climbing(RHO / 3, 3), 1),
    "Lookbehind": ({**BEHIND, "alpha": 0.3}, lambda: behind(0.1, 3, 0.3), 1),
    "Lookbehind, adaptive": (adaptive("adaptive"), lambda: behind(RHO / 2, 2, "adaptive"), 5),
    "Lookbehind, adaptive_joint": (adaptive("adaptive_joint"), lambda: behind(RHO / 2, 2, "adaptive_joint"), 5),
    "MSAM": ({"ascent": "momentum"}, lambda: along_momentum(lambda v: reference.msam(v, RHO)), 1),
    "linear radius": (
        {"radius": "linear", "radius_start": 1.5, "radius_end": 0.2, "total_steps": STEPS},
        lambda: annealing(1.5, 0.2, cosine=False),
        1,
    ),
    "cosine radius": ({"radius": "cosine", "total_steps": STEPS}, lambda: annealing(1.0, 0.0, cosine=True), 1),
    "AE-SAM": ({**ADAPTIVE}, lambda: deciding(0.9, -1.0, 1.0), 1),
    "AE-SAM, c_t rising": (
        {**ADAPTIVE, "delta": 0.6, "lambda_1": 0.8, "lambda_2": -0.5},
        lambda: deciding(0.6, 0.8, -0.5),
        1,
    ),
    "Unified SAM": ({"radius": "unified", "mix": 0.3}, lambda: unified(lambda t: 0.3), 1),
    "Unified SAM, 1/t": ({"radius": "unified", "mix_schedule": "1/t"}, lambda: unified(lambda t: 1 / t), 1),
    "Unified SAM, 1-1/t": ({"radius": "unified", "mix_schedule": "1-1/t"}, lambda: unified(lambda t: 1 - 1 / t), 1),
    "LE-SAM": ({**BUDGET, "budget": 0.2}, lambda: equating(0.2, 0.05, 0.8), 1),
    "LE-SAM, one budget": (
        {"radius": "loss_budget", "budget": 0.1, "budget_warmup": 0.0, "budget_decay": 1.0},
        lambda: equating(0.1, 0.0, 1.0),
        1,
    ),
    "USAM": ({"metric": "unnormalised"}, lambda: rule_of(lambda g, h: h, lambda g: reference.usam(g, RHO)), 1),
}


CASES = list(itertools.product(FAMILY, (True, False), ("sgd", "adamw")))
SCHEDULED = ("AE-SAM", "Unified SAM", "LE-SAM", "linear radius", "cosine radius")  # their steps are SAM's
SHOWN = [case for case in CASES if not case[0].startswith(SCHEDULED) or case[1:] == (True, "sgd")]


@pytest.mark.parametrize(("name", "foreach", "base"), long_but(SHOWN, CASES))
def test_the_family(name, foreach, base):
    choices, rule, every = FAMILY[name]
    assert compare_descents(choices, rule(), base, foreach, every) < 1e-12


WRONG = {
    "GSAM": lambda: rule_of(
        lambda g, h: [y - 0.4 * x for x, y in zip(reference.project_out(h, g), h)]
    ),  # g and h swapped
    "rescaled": lambda: rule_of(  # a length for each tensor
        lambda g, h: [y * x.norm() / y.norm() for x, y in zip(g, h)]
    ),
    "WSAM, decoupled": lambda: rule_of(lambda g, h: reference.wsam(g, h, 0.6)),  # momentum takes the sharpness in
    "LookSAM": lambda: looking_per_tensor(0.7),
    "FisherSAM": lambda: rule_of(  # the Fisher metric without its square root in the length
        lambda g, h: h,
        lambda g: [
            RHO * x / reference.norm(reference.fisher_sam(g, g, 1.0, 2.0)) for x in reference.fisher_sam(g, g, 1.0, 2.0)
        ],
    ),
    "F-SAM on other samples": lambda: friendly(lambda a, g: g),  # the ascent on the descent batch
    "ESAM's SWP": lambda: swp(True),
    "ESAM's SWP, norm of all": lambda: swp(True, beta=1.0),  # all tensors, and still divided by beta
    "RWP": lambda: drawing(per_tensor),
    "m-RWP": lambda: drawing(noise, lambda g, h: reference.m_rwp(h, g, 0.3)),  # g and h swapped
    "Multistep-SAM": lambda: climbing(RHO / 3, 3),
    "Multistep-SAM, divided": lambda: climbing(RHO, 1),  # SAM
    "Lookbehind": lambda: behind_in_turn,
    "Lookbehind, adaptive": lambda: behind(RHO / 2, 2, "adaptive_joint"),
    "Lookbehind, adaptive_joint": lambda: behind(RHO / 2, 2, "adaptive"),
    "MSAM": lambda: along_momentum(lambda v: reference.sam(v, RHO)),  # along +v
    "USAM": lambda: rule_of(lambda g, h: h),
    "cosine radius": lambda: annealing(1.0, 0.0, cosine=False),
    "AE-SAM": deciding_before,
    "AE-SAM, c_t rising": lambda: deciding(0.6, -0.5, 0.8),  # lambda_1 and lambda_2 swapped
    "Unified SAM": lambda: unified(lambda t: 0.7),  # lambda and 1 - lambda swapped
    "LE-SAM": lambda: equating(0.2, 0.0, 1.0),  # without the schedule of the code
}


def looking_per_tensor(alpha):
    """LookSAM with a length for each tensor, as some ports have it."""
    rule = reference.LookSAM(alpha)

    def step(w, g, gradient, base, perturbs):
        if perturbs:
            return base.step(w, rule.perturbed(g, perturbed(w, reference.sam(g, RHO), gradient)))
        return base.step(w, [x + alpha * x.norm() / v.norm() * v for x, v in zip(g, rule.v)])

    return step


@pytest.mark.parametrize("name", WRONG)
def test_known_wrong_forms_of_the_family_are_caught(name):
    choices, _, every = FAMILY[name]
    assert compare_descents(choices, WRONG[name](), "sgd", True, every) > 1e-4
