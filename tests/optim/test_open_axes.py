"""The axes descent and when, what a choice may ask for, and choices from outside the package."""

import copy
import inspect
import io
from dataclasses import dataclass, field
from typing import Optional
from unittest import mock

import pytest
import torch
from support import axis_toys as toys
from support.runs import build_trainer, compose_tiny

from fsamlab.axes import Ascent, Descent, Metric, number, rules
from fsamlab.config import ConfigError, from_plain, to_plain
from fsamlab.config.identity import run_id
from fsamlab.optim import FSAM, Pass, SharpnessAware, build_optimizer

LR, RHO = 0.01, 0.3


class Problem:
    """L_k(w) = mean over samples of (x_k w)^4 / 4, in float64; its gradient in closed form."""

    def __init__(self, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.model = torch.nn.Linear(4, 1, bias=False).double()
        with torch.no_grad():
            self.model.weight.copy_(torch.randn(1, 4, generator=g, dtype=torch.float64))
        self.data = torch.randn(9, 6, 4, generator=g, dtype=torch.float64)

    @property
    def w(self):
        return self.model.weight.detach().flatten().clone()

    def losses(self, k):
        return self.model(self.data[k]).flatten() ** 4 / 4

    def gradient(self, k, w):
        x = self.data[k]
        return x.T @ (x @ w) ** 3 / len(x)

    def closure(self, optimizer, k, with_losses=False):
        def closure():
            optimizer.zero_grad()
            losses = self.losses(k)
            losses.mean().backward()
            return Pass(losses.mean(), losses) if with_losses else losses.mean()

        return closure

    def optimizer(self, momentum=0.0, **choices):
        base = torch.optim.SGD(self.model.parameters(), lr=LR, momentum=momentum)
        return SharpnessAware(base, rho=RHO, model=self.model, **choices)

    def train(self, optimizer, steps, **keywords):
        for k in steps:
            optimizer.step(self.closure(optimizer, k, **keywords))
        return self.w


def sam_gradients(problem, k, w):
    g = problem.gradient(k, w)
    return g, problem.gradient(k, w + RHO * g / g.norm())


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


# descent


def test_a_descent_sees_the_clean_and_the_perturbed_gradient():
    problem = Problem()
    optimizer = problem.optimizer(descent=toys.Orthogonal, alpha=0.7)
    for k in range(4):
        w = problem.w
        g, q = sam_gradients(problem, k, w)
        orthogonal = g - (g @ q) / (q @ q) * q
        close(problem.train(optimizer, [k]), w - LR * (q - 0.7 * orthogonal))


def test_a_descent_may_act_after_the_step_of_the_base():
    problem = Problem()
    optimizer = problem.optimizer(descent=toys.Decoupled, kappa=0.4)
    w = problem.w
    g, q = sam_gradients(problem, 0, w)
    close(problem.train(optimizer, [0]), w - LR * g - LR * 0.4 * (q - g))


def test_the_clean_gradient_is_unharmed_by_a_component_that_reuses_its_memory():
    problem = Problem()
    choices = {"component": "subtract", "reference": "ema", "sigma": 0.8, "lmbda": 0.6}
    optimizer = problem.optimizer(descent=toys.Orthogonal, alpha=0.7, **choices)
    m = None
    for k in range(4):
        w = problem.w
        g = problem.gradient(k, w)
        d = g if m is None else g - 0.8 * m
        m = g if m is None else 0.6 * m + 0.4 * g
        q = problem.gradient(k, w + RHO * d / d.norm())
        orthogonal = g - (g @ q) / (q @ q) * q
        close(problem.train(optimizer, [k]), w - LR * (q - 0.7 * orthogonal))


def test_the_clean_gradient_is_kept_only_where_a_descent_needs_it():
    for descent, kept in (("perturbed", 0), (toys.Orthogonal, 1)):
        problem = Problem()
        optimizer = problem.optimizer(descent=descent)
        problem.closure(optimizer, 0)()
        optimizer.ascend()
        assert len(optimizer._clean) == kept
        problem.closure(optimizer, 0)()
        optimizer.descend()
        assert not optimizer._clean


def test_gradients_that_a_grad_scaler_scales_are_compared_unscaled():
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=64.0)):
        problem = Problem()
        optimizer = problem.optimizer(descent=toys.Orthogonal, when=toys.Steep, grad_scaler=scaler)

        for k in range(6):

            def closure(k=k, problem=problem, optimizer=optimizer, scaler=scaler):
                optimizer.zero_grad()
                loss = problem.losses(k).mean()
                (loss if scaler is None else scaler.scale(loss)).backward()
                return loss

            optimizer.step(closure)
            if scaler is not None:
                scaler.update()
        found.append(problem.w)
    close(*found)


def test_a_descent_acts_in_the_steps_between():
    problem = Problem()
    optimizer = problem.optimizer(descent=toys.Reuse, every=2, share=0.5)
    w = problem.w
    g, q = sam_gradients(problem, 0, w)
    w = w - LR * q
    close(problem.train(optimizer, [0]), w)
    close(problem.train(optimizer, [1]), w - LR * (problem.gradient(1, w) + 0.5 * (q - g)))


def test_a_step_between_that_is_not_finite_is_left_out():
    problem = Problem()
    optimizer = problem.optimizer(descent=toys.Reuse, every=2)
    w = problem.train(optimizer, [0])

    def closure():
        problem.model.weight.grad = torch.full_like(problem.model.weight, torch.nan)
        return torch.zeros(())

    optimizer.step(closure)
    assert torch.equal(problem.w, w)
    assert optimizer.num_nonfinite == 1


# when


def test_a_late_decision_costs_no_second_pass_where_the_step_does_not_perturb():
    problem = Problem()
    optimizer = problem.optimizer(when=toys.Steep)
    average, decided = 0.0, []
    for k in [*range(9)]:
        w, calls = problem.w, []
        g, q = sam_gradients(problem, k, w)
        perturbs = bool(g @ g > average)
        average = 0.5 * average + 0.5 * float(g @ g)
        closure = problem.closure(optimizer, k)
        optimizer.step(lambda closure=closure, calls=calls: (calls.append(1), closure())[1])
        close(problem.w, w - LR * (q if perturbs else g))
        assert len(calls) == 1 + perturbs
        decided.append(perturbs)
    assert {True, False} == set(decided)
    assert optimizer.choices.when.average == pytest.approx(average, rel=1e-9)


# what a choice may ask for


def test_an_ascent_reads_the_momentum_of_the_base():
    problem = Problem()
    optimizer = problem.optimizer(ascent=toys.Against, momentum=0.9)
    v = problem.gradient(0, problem.w)  # the first step has no momentum yet, and is the base's
    w = problem.w - LR * v
    close(problem.train(optimizer, [0]), w)
    v = 0.9 * v + problem.gradient(1, w - RHO * v / v.norm())
    close(problem.train(optimizer, [1]), w - LR * v)


def test_a_base_without_the_state_that_a_choice_reads_is_named():
    problem = Problem()
    base = torch.optim.AdamW(problem.model.parameters())
    optimizer = SharpnessAware(base, ascent=toys.Against)
    problem.train(optimizer, [0])
    with pytest.raises(ConfigError, match="ascent=against: reads momentum_buffer of the base, and AdamW"):
        problem.train(optimizer, [1])


def test_a_base_that_keeps_no_state_at_all_is_named():
    problem = Problem()
    optimizer = problem.optimizer(ascent=toys.Against)
    problem.train(optimizer, [0])
    with pytest.raises(
        ConfigError, match="ascent=against: reads momentum_buffer of the base, and SGD as set keeps noth"
    ):
        problem.train(optimizer, [1])


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("sgd", "reads momentum_buffer or exp_avg of the base, which base=sgd, momentum=0 does not keep"),
        ("adamw", None),
    ],
)
def test_a_built_in_base_without_momentum_is_refused_before_anything_runs(base, said):
    overrides = ("optimizer=msam", f"optimizer.base={base}", *(["optimizer.momentum=0"] if said else []))
    if said is None:
        assert compose_tiny(*overrides).optimizer.ascent == "momentum"
        return
    with pytest.raises(ConfigError, match=f"^optimizer.ascent=momentum: {said}$"):
        compose_tiny(*overrides)


def test_a_metric_is_shown_the_ascent_gradients_before_their_memory_is_reused():
    problem = Problem()
    choices = {"component": "subtract", "reference": "ema", "sigma": 0.8, "lmbda": 0.6}
    optimizer = problem.optimizer(metric=toys.Fisher, eta_f=2.0, **choices)
    m = None
    for k in range(3):
        w = problem.w
        g = problem.gradient(k, w)
        d = g if m is None else g - 0.8 * m
        m = g if m is None else 0.6 * m + 0.4 * g
        p = 1 / (1 + 2.0 * g * g)
        close(problem.train(optimizer, [k]), w - LR * problem.gradient(k, w + RHO * p * d / (d @ (p * d)).sqrt()))


def test_a_choice_that_needs_the_losses_of_the_samples_gets_them_or_says_so():
    problem = Problem()
    optimizer = problem.optimizer(descent=toys.Hard)
    w = problem.w
    g, q = sam_gradients(problem, 0, w)
    before, after = ((problem.data[0] @ x) ** 4 for x in (w, w + RHO * g / g.norm()))
    close(problem.train(optimizer, [0], with_losses=True), w - LR * float((after > before).float().mean()) * q)
    w = problem.w
    with pytest.raises(TypeError, match=r"^descent=Hard needs the losses of the samples: return .*Pass"):
        problem.train(optimizer, [1])
    assert torch.equal(problem.w, w)


def test_a_pass_is_as_good_as_its_loss():
    one, two = Problem(), Problem()
    assert torch.equal(
        one.train(FSAM(one.model.parameters(), lr=LR), range(3), with_losses=True),
        two.train(FSAM(two.model.parameters(), lr=LR), range(3)),
    )


@pytest.mark.parametrize("axis", ["descent", "when"])
def test_a_choice_that_needs_the_clean_gradient_is_refused_where_there_is_none(axis):
    choice = {"descent": toys.Orthogonal, "when": toys.Steep}[axis]
    with pytest.raises(ConfigError, match=rf"^{axis}=\w+: needs the gradient of the descent batch .* ascent=gaussian"):
        Problem().optimizer(ascent="gaussian", **{axis: choice})


def test_micro_batches_are_refused_where_a_choice_does_not_take_them_one_by_one():
    problem = Problem()
    optimizer = problem.optimizer(descent=toys.Orthogonal)
    with pytest.raises(ValueError, match="one perturbation per micro-batch"):
        optimizer.step_micro([problem.closure(optimizer, 0)])


@pytest.mark.parametrize(
    "choices",
    [{"descent": toys.Reuse, "every": 2}, {"when": toys.Steep}, {"descent": toys.Orthogonal, "when": toys.Steep}],
    ids=["between", "late", "both"],
)
def test_state_dict_continues_bit_for_bit(choices):
    problem = Problem()
    optimizer = problem.optimizer(**choices)
    problem.train(optimizer, range(3))
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    other = copy.deepcopy(problem)
    buffer.seek(0)
    resumed = other.optimizer(**choices)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(problem.train(optimizer, range(3, 9)), other.train(resumed, range(3, 9)))


def test_a_state_from_before_the_axes_were_there_is_loaded():
    problem = Problem()
    optimizer = problem.optimizer(every=2)
    problem.train(optimizer, range(3))
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        own = group["sharpness_aware"]
        own["every"] = own["parameters"].pop("every")
        own["choices"] = {k: v for k, v in own["choices"].items() if k not in ("descent", "when")}
    resumed = problem.optimizer()
    resumed.load_state_dict(state)
    assert resumed.choices.when.every == 2
    with pytest.raises(ValueError, match="descent=perturbed there, orthogonal here"):
        problem.optimizer(descent=toys.Orthogonal).load_state_dict(state)


# choices from outside the package, in a configuration

FOREIGN = ("optimizer=fsam", "optimizer.name=mine", "optimizer.descent=support.axis_toys:Orthogonal")


def test_an_import_path_trains_is_recorded_and_is_part_of_the_run_id():
    config = compose_tiny(*FOREIGN, "optimizer.parameters={alpha: 0.7}")
    assert from_plain(to_plain(config)) == config
    assert to_plain(config)["optimizer"]["parameters"] == {"alpha": 0.7}
    assert run_id(config) != run_id(compose_tiny(*FOREIGN, "optimizer.parameters={alpha: 0.6}"))
    optimizer = build_optimizer(config.optimizer, torch.nn.Linear(2, 2), seed=0)
    assert isinstance(optimizer.choices.descent, toys.Orthogonal)
    assert optimizer.choices.descent.alpha == 0.7
    assert optimizer.state_dict()["param_groups"][0]["sharpness_aware"]["parameters"]["alpha"] == 0.7


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("optimizer.parameters={alpha: 11}",), "optimizer.parameters.alpha=11: must be finite and >= 0 and <= 10"),
        ((), "optimizer.parameters.alpha=null: has to be set with descent=support.axis_toys:Orthogonal"),
        (("optimizer.parameters={alpha: 1, zeta: 1}",), "optimizer.parameters.zeta=1: has no effect in optimizer=mine"),
        (
            ("optimizer.parameters={sigma: 1}",),
            "optimizer.parameters.sigma=1: is a key of its own: set optimizer.sigma",
        ),
        (("optimizer.descent=support.axis_toys:Nothing",), "optimizer.descent=support.axis_toys:Nothing: "),
        (
            ("optimizer.descent=support.axis_toys:a_function",),
            "optimizer.descent=support.axis_toys:a_function: is a fu",
        ),
        (("optimizer.descent=support.axis_toys:Steep",), "optimizer.descent=support.axis_toys:Steep: must be a subc"),
        (
            ("optimizer.descent=support.axis_toys:Undecorated",),
            "optimizer.descent=support.axis_toys:Undecorated: Undec",
        ),
        (("optimizer.descent=orthogonal",), "optimizer.descent=orthogonal: must be one of perturbed"),
    ],
    ids=lambda value: value[-1].split(".")[-1] if value and isinstance(value, tuple) else "",
)
def test_a_wrong_choice_from_outside_is_one_line(overrides, said):
    with pytest.raises(ConfigError) as e:
        compose_tiny(*FOREIGN, *overrides)
    assert str(e.value).startswith(said)
    assert "\n" not in str(e.value)


@dataclass
class KeyOfTheConfig(Descent):
    eps: float = number(0.5, 0, 1)


@dataclass
class FreeForm(Descent):
    a: float = 0.5
    b: str = "free"
    c: dict[str, float] = field(default_factory=dict)
    d: Optional[int] = number(None, 0, 9)  # noqa: UP045  (what many people write)


FREE = ("optimizer=sam", f"optimizer.descent={__name__}:FreeForm")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            (f"optimizer.descent={__name__}:KeyOfTheConfig",),
            r"\.descent=.*: KeyOfTheConfig has a parameter eps, which is a",
        ),
        ((*FREE, "optimizer.parameters={a: 1, b: '???', c: {}}"), r"\.parameters\.b=\?\?\?: has to be set"),
        (
            (*FREE, "optimizer.parameters={a: 1, b: x, c: {}, d: 10}"),
            r"\.parameters\.d=10: must be finite and >= 0 and <= 9",
        ),
        ((*FREE, "optimizer.parameters={a: 1, b: x, c: {}, d: x}"), r"\.parameters\.d=x: must be an integer"),
        ((*FREE, "optimizer.parameters={a: 1, b: x, c: 3}"), r"\.parameters\.c=3: must be a mapping"),
    ],
)
def test_a_wrong_parameter_of_a_choice_from_outside_is_one_line(overrides, said):
    with pytest.raises(ConfigError, match=f"^optimizer{said}"):
        compose_tiny("optimizer=sam", *overrides)


def test_one_number_in_two_spellings_is_one_run():
    ids = {
        run_id(compose_tiny(*FREE, f"optimizer.parameters={{{parameters}}}"))
        for parameters in ("a: 1, b: x, c: {}", "c: {}, b: x, a: 1.0")
    }
    assert len(ids) == 1
    assert run_id(compose_tiny("optimizer=sam", "optimizer.parameters={}")) == run_id(compose_tiny("optimizer=sam"))


def test_keywords_of_the_optimizer_are_all_listed():
    listed = rules.KEYWORDS | {"self", "parameters"}
    assert set(inspect.signature(SharpnessAware.__init__).parameters) == listed


class Untyped(Descent):
    share = number(0.5, 0, 1)


@dataclass
class Keyword(Descent):
    rho: float = number(0.5, 0, 1)


@dataclass
class Attribute(Descent):
    values: float = number(0.5, 0, 1)


@dataclass
class OddType(Descent):
    share: tuple[float, float] = (0.1, 0.2)


@dataclass
class UnknownType(Descent):
    share: "Flaot" = 0.5  # noqa: F821


@dataclass
class KeyInAText(Descent):
    state_keys = "vertical"


@dataclass
class NeedsData(Descent):
    needs = "full"


@dataclass
class NameOfAnother(Descent):
    name = "perturbed"


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (NameOfAnother, r"NameOfAnother has the name perturbed, which a choice of fsamlab has"),
        (Untyped, r"Untyped declares share without a type: write share: float"),
        (Keyword, r"Keyword has a parameter rho, which is an argument of every optimizer"),
        (Attribute, r"Attribute has a parameter values, which Descent uses already"),
        (OddType, r"OddType\.share has the type tuple\[float, float\], and has to have one of bool, int, float"),
        (UnknownType, r"UnknownType has a type that is not known: name 'Flaot' is not defined"),
        (KeyInAText, r"KeyInAText\.state_keys has to be a tuple of texts"),
        (NeedsData, r"NeedsData\.needs is 'full', and has to be None on the axis descent"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_class_that_cannot_work_is_refused(cls, said):
    with pytest.raises(TypeError, match=f"^{said}"):
        Problem().optimizer(descent=cls)


@dataclass
class NoStretch(Metric):
    """The arithmetic is missing."""


@dataclass
class NoPass(Ascent):
    """It takes the gradients of a pass, and says no pass."""


def test_a_class_without_its_arithmetic_is_refused():
    with pytest.raises(TypeError, match=r"^NoStretch has no method stretch, which the axis metric needs"):
        Problem().optimizer(metric=NoStretch)
    with pytest.raises(
        TypeError, match=r"^NoPass takes the gradients in p.grad, and no pass puts them there: write has"
    ):
        Problem().optimizer(ascent=NoPass)


@dataclass
class NoSuper(Descent):
    share: float = number(0.5, 0, 1)

    def __post_init__(self):
        self.own = 1


def test_ranges_hold_where_a_class_forgets_the_checks_of_its_base():
    with pytest.raises(ConfigError, match=r"^share=2: must be finite and >= 0 and <= 1"):
        Problem().optimizer(descent=NoSuper, share=2)


def test_a_state_that_would_be_lost_on_resuming_is_refused():
    @dataclass
    class Own(Descent):
        def update(self, part, state, ops):
            for p in part.params:
                state[p]["kept"] = p.detach().clone()

    problem = Problem()
    optimizer = problem.optimizer(descent=Own)
    problem.train(optimizer, [0])
    with pytest.raises(
        RuntimeError, match=r"a choice keeps kept in a parameter's state: .* `state_keys` does not list"
    ):
        optimizer.state_dict()
    with pytest.raises(ConfigError, match=r"^state_keys=kept: a state that `state_keys` does not list is lost"):
        problem.train(optimizer, [1])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda params: [], "ascent=Own returned 0 gradients for 1 parameters"),
        (
            lambda params: [p.grad[:, :1] for p in params],
            r"ascent=Own returned a gradient of shape \(1, 1\) for a param",
        ),
    ],
)
def test_gradients_that_do_not_fit_the_parameters_are_refused(made, said):
    @dataclass
    class Own(Ascent):
        has_clean_loss = True

        def gradients(self, step):
            return made(step.params)

    problem = Problem()
    optimizer = problem.optimizer(ascent=Own)
    with pytest.raises(ValueError, match=said):
        problem.train(optimizer, [0])


@dataclass
class Forgetful(Descent):
    values = ("mean",)


def test_a_value_that_a_choice_does_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"^descent=Forgetful: lists mean in `values`, and has no attribute mean"):
        Problem().optimizer(descent=Forgetful)


def test_a_run_whose_package_is_gone_is_still_read():
    plain = to_plain(compose_tiny(*FOREIGN, "optimizer.parameters={alpha: 0.7}"))
    plain["optimizer"]["descent"] = "no_such_package.sam:Orthogonal"
    assert from_plain(plain).optimizer.descent == "no_such_package.sam:Orthogonal"
    with pytest.raises(ConfigError, match=r"^optimizer\.descent=no_such_package.sam:Orthogonal: there is no module"):
        build_optimizer(from_plain(plain).optimizer, torch.nn.Linear(2, 2), seed=0)


def test_a_record_from_before_a_parameter_says_which_one():
    plain = to_plain(compose_tiny(*FREE, "optimizer.parameters={a: 1, b: x, c: {}}"))
    del plain["optimizer"]["parameters"]["a"]
    with pytest.raises(ConfigError, match=r"^optimizer\.parameters\.a=null: has to be set with descent="):
        build_optimizer(from_plain(plain).optimizer, torch.nn.Linear(2, 2), seed=0)


def test_run_ids_of_configurations_without_the_new_keys_are_the_same():
    plain = to_plain(compose_tiny("optimizer=fsam"))
    known = run_id(from_plain(plain))
    for key in ("descent", "when", "parameters", "perturb"):
        del plain["optimizer"][key]
    assert run_id(from_plain(plain)) == known


def test_the_trainer_gives_the_losses_of_the_samples():
    config = compose_tiny(
        "optimizer=sam", "optimizer.descent=support.axis_toys:Hard", "train.max_steps=2", "train.accumulate_steps=2"
    )
    trainer = build_trainer(config)
    trainer.fit(mock.Mock(**{"stopping.return_value": False}))
    before, after = trainer.optimizer.passes.sample_losses
    assert before.shape == after.shape == (config.data.batch_size,)


# which parameters


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Linear(3, 4)
        self.bn = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 2)


def radii(*overrides):
    model = Net()
    optimizer = build_optimizer(compose_tiny("optimizer=sam", "optimizer.rho=0.2", *overrides).optimizer, model, seed=0)
    of = {p: group["rho"] for group in optimizer.param_groups for p in group["params"]}
    return {name: of[p] for name, p in model.named_parameters()}


def test_which_parameters_are_perturbed():
    assert set(radii().values()) == {0.2}
    norm = {name: 0.2 if name.startswith("bn") else 0.0 for name, _ in Net().named_parameters()}
    assert radii("optimizer.perturb=norm") == norm
    assert radii("optimizer.perturb=no_norm") == {name: 0.2 - rho for name, rho in norm.items()}
    assert radii("optimizer.perturb=weights") == {name: 0.2 if "weight" in name else 0.0 for name in norm}
    found = radii("optimizer.perturb=[{name: 'bn.*', rho: 0.5}, {name: '*.bias', rho: 0}]")
    expected = {
        "bn.weight": 0.5,
        "bn.bias": 0.5,
        "stem.bias": 0,
        "head.bias": 0,
        "stem.weight": 0.2,
        "head.weight": 0.2,
    }
    assert found == expected


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("some", r"^optimizer\.perturb=some: must be one of all, norm, weights, no_norm"),
        ("[]", r"^optimizer\.perturb=\[\]: must be one of .* or a list"),
        ("3", r"^optimizer\.perturb=3: must be one of"),
        ("[{name: 'x.*'}]", r"^optimizer\.perturb\[0\]=.*: must be \{name: PATTERN, rho: RADIUS\}"),
        ("[{name: 'x.*', rho: -1}]", r"^optimizer\.perturb\[0\]\.rho=-1: must be finite and >= 0"),
        (
            "[{name: 'x.*', rho: 1}]",
            r"^optimizer\.perturb=x\.\*: matches no further parameter of this model: there are",
        ),
        ("[{name: '*', rho: 1}, {name: 'bn*', rho: 1}]", r"^optimizer\.perturb=bn\*: .* patterns above it match all"),
    ],
)
def test_a_wrong_choice_of_parameters_is_one_line(value, said):
    with pytest.raises(ConfigError, match=said):
        radii(f"optimizer.perturb={value}")


def test_a_model_without_norms_and_a_variant_without_perturbation():
    config = compose_tiny("optimizer=sam", "optimizer.perturb=norm").optimizer
    with pytest.raises(ConfigError, match=r"^optimizer\.perturb=norm: this model has no such parameter"):
        build_optimizer(config, torch.nn.Linear(2, 2), seed=0)
    with pytest.raises(ConfigError, match=r"^optimizer\.perturb=norm: optimizer=sgd has no perturbation"):
        compose_tiny("optimizer=sgd", "optimizer.perturb=norm")


def test_each_axis_has_one_table_and_a_default_that_is_in_it():
    for axis, default in rules.DEFAULTS.items():
        assert default is None or default in rules.AXES[axis]
