"""The schema of an optimizer variant: its base, and one choice on each axis of the family."""

from __future__ import annotations

from dataclasses import dataclass, field

from fsamlab.config.checks import MISSING, ConfigError, in_range, one_of

PAPER_SIGMA_LIMIT = "order=paper needs sigma < 1/(1-lmbda): beyond it g - sigma*m changes sign"


@dataclass
class OptimizerConfig:
    """An optimizer variant: the base, and one choice on each axis of the SAM family."""

    name: str = MISSING
    base: str = "sgd"  # sgd | adamw
    lr: float = 0.05
    weight_decay: float = 5e-4
    momentum: float = 0.9  # base=sgd
    nesterov: bool = False  # base=sgd
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # base=adamw
    eps: float = 1e-8  # base=adamw
    epoch_multiplier: int = 1  # trains train.epochs times this; 2 gives SGD the compute of a two-pass method
    # the axes
    ascent: str = "none"  # none | batch | other_batch | full | gaussian
    component: str = "all"  # all | subtract | project_out | project_on | reference
    reference: str | None = None  # ema | full
    metric: str = "l2"  # l2 | adaptive
    every: int = 1  # perturb in every k-th step, plain base steps between
    rho: float = 0.0
    # parameters of single choices; null where the choice does not use them
    sigma: float | None = None  # component=subtract
    lmbda: float | None = None  # reference=ema
    order: str | None = None  # reference=ema: official | paper
    ema_init: str | None = None  # reference=ema: first_gradient | zero | zero_debiased
    eta: float | None = None  # metric=adaptive
    adaptive_form: str | None = None  # metric=adaptive: official | all
    ascent_batch_size: int | None = None  # ascent=other_batch; null: the descent batch's size
    ascent_nested: bool | None = None  # ascent=other_batch: shares samples with the descent batch
    full_every_steps: int | None = None  # ascent=full or reference=full: recompute every n steps
    floor: float = 1e-5  # |d| <= floor*|a| leaves the weights unperturbed
    same_rng: bool = False  # the perturbed pass replays the clean pass's dropout masks

    def __post_init__(self) -> None:
        k = "optimizer."
        one_of(k + "base", self.base, ("sgd", "adamw"))
        one_of(k + "ascent", self.ascent, ("none", "batch", "other_batch", "full", "gaussian"))
        components = ("all", "subtract", "project_out", "project_on", "reference")
        one_of(k + "component", self.component, components)
        one_of(k + "metric", self.metric, ("l2", "adaptive"))
        for name in ("lr", "weight_decay", "rho"):
            in_range(k + name, getattr(self, name), 0)
        in_range(k + "momentum", self.momentum, 0, 1, open_high=True)
        in_range(k + "eps", self.eps, 0, open_low=True)
        in_range(k + "floor", self.floor, 0, 1, open_high=True)
        in_range(k + "every", self.every, 1)
        in_range(k + "epoch_multiplier", self.epoch_multiplier, 1)
        if len(self.betas) != 2:
            raise ConfigError(k + "betas", self.betas, "must be two numbers in [0, 1)")
        for beta in self.betas:
            in_range(k + "betas", beta, 0, 1, open_high=True)
        if self.nesterov and self.momentum == 0:
            raise ConfigError(k + "nesterov", True, "needs optimizer.momentum > 0")
        self._check_axes(k)
        self._check_parameters(k)

    def _check_axes(self, k: str) -> None:
        if self.ascent == "none" and self.rho > 0:
            raise ConfigError(
                k + "rho",
                self.rho,
                f"optimizer={self.name} has no perturbation (ascent=none); leave rho at 0",
            )
        if self.ascent == "none" and self.component != "all":
            raise ConfigError(
                k + "component", self.component, "ascent=none perturbs nothing; choose an ascent gradient"
            )
        if (self.component == "all") != (self.reference is None):
            raise ConfigError(
                k + "reference",
                self.reference,
                f"component={self.component} {'takes none' if self.reference else 'needs ema or full'}",
            )
        if self.reference is not None:
            one_of(k + "reference", self.reference, ("ema", "full"))
            if self.ascent == "gaussian":
                raise ConfigError(
                    k + "reference",
                    self.reference,
                    "a Gaussian ascent direction has no mean to remove; use component=all",
                )
        if self.ascent == "full" and self.reference == "full":
            raise ConfigError(
                k + "reference", "full", "the ascent gradient is the full gradient already; use component=all"
            )

    def _check_parameters(self, k: str) -> None:
        ema, adaptive, full = (
            self.reference == "ema",
            self.metric == "adaptive",
            "full" in (self.ascent, self.reference),
        )
        other = self.ascent == "other_batch"
        users = {  # field: (used by this variant, may be null then, who uses it)
            "sigma": (self.component == "subtract", False, "component=subtract"),
            "lmbda": (ema, False, "reference=ema"),
            "order": (ema, False, "reference=ema"),
            "ema_init": (ema, False, "reference=ema"),
            "eta": (adaptive, False, "metric=adaptive"),
            "adaptive_form": (adaptive, False, "metric=adaptive"),
            "ascent_batch_size": (other, True, "ascent=other_batch"),
            "ascent_nested": (other, False, "ascent=other_batch"),
            "full_every_steps": (full, False, "ascent=full or reference=full"),
        }
        for name, (used, optional, by) in users.items():
            value = getattr(self, name)
            if value is not None and not used:
                raise ConfigError(
                    k + name,
                    value,
                    f"has no effect in optimizer={self.name}; only {by} uses it: leave it null",
                )
            if value is None and used and not optional:
                raise ConfigError(k + name, "null", f"has to be set with {by}")
        in_range(k + "sigma", self.sigma)
        in_range(k + "lmbda", self.lmbda, 0, 1, open_high=True)
        in_range(k + "eta", self.eta, 0)
        in_range(k + "ascent_batch_size", self.ascent_batch_size, 1)
        in_range(k + "full_every_steps", self.full_every_steps, 1)
        if adaptive:
            one_of(k + "adaptive_form", str(self.adaptive_form), ("official", "all"))
        if self.order is not None and self.ema_init is not None and self.lmbda is not None:
            one_of(k + "order", self.order, ("official", "paper"))
            one_of(k + "ema_init", self.ema_init, ("first_gradient", "zero", "zero_debiased"))
            if self.order == "paper" and self.sigma is not None:
                if self.sigma * (1 - self.lmbda) > 1 - 1e-9:  # 1/(1-.9) is 10 but for the last bit
                    raise ConfigError(
                        k + "sigma",
                        self.sigma,
                        f"{PAPER_SIGMA_LIMIT} (= {1 / (1 - self.lmbda):g} for lmbda={self.lmbda:g})",
                    )
                if self.sigma >= 1 and self.ema_init != "zero":
                    raise ConfigError(
                        k + "ema_init",
                        self.ema_init,
                        "with order=paper and sigma=1 the first direction is zero; use ema_init=zero",
                    )
