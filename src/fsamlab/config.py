"""Every schema of a run, and the one place where a composed config becomes plain dataclasses.

Torch-free, so that composing, checking and submitting stay fast. The classes below serve twice: as
Hydra schemas (names and types are checked while composing) and as the plain objects the rest of the
package works with. Below :func:`typed` nothing imports omegaconf or hydra.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from typing import Any

MISSING: Any = "???"  # OmegaConf's marker for a value that has to be given

PAPER_SIGMA_LIMIT = "order=paper needs sigma < 1/(1-lmbda): beyond it g - sigma*m changes sign"


class ConfigError(ValueError):
    """A value of the user's that cannot be used. One line: key, value, what is allowed, what to do."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key}={value}: {allowed}")
        self.key = key


class StrayKey(ConfigError):
    """A key that no schema has."""

    def __init__(self, line: str) -> None:
        ValueError.__init__(self, line)
        self.key = line.split(":")[0]


def did_you_mean(word: str, known: list[str]) -> str:
    """Return `" (did you mean X?)"` for the nearest of `known`, or an empty string."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def unknown_key(key: str, name: str, known: list[str], where: str) -> str:
    """Return the line for a key that does not exist: the nearest that does, or all of them."""
    near = did_you_mean(name, known)
    return f"{key}: unknown key{near or f'; {where} has ' + ', '.join(known)}"


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among `allowed`."""
    if value not in allowed:
        raise ConfigError(key, value, f"must be one of {', '.join(allowed)}{did_you_mean(str(value), list(allowed))}")


def in_range(
    key: str,
    value: float | None,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Refuse a number outside [low, high]; NaN and infinity are always refused; None passes."""
    if value is None:
        return
    below = value <= low if open_low else value < low
    above = value >= high if open_high else value > high
    if not math.isfinite(value) or below or above:
        left = "" if low == -math.inf else f"{'>' if open_low else '>='} {low:g}"
        right = "" if high == math.inf else f"{'<' if open_high else '<='} {high:g}"
        raise ConfigError(
            key, value, f"must be finite and {' and '.join(p for p in (left, right) if p)}".rstrip(" and")
        )


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


@dataclass
class AugmentConfig:
    """Whole-batch augmentation of in-memory image sets; every image draws its own values."""

    crop_padding: int = 0  # zero padding in pixels before a random crop of the original size
    flip: bool = False  # horizontal, probability 1/2
    cutout: int = 0  # side of the square in pixels; 0 is off
    cutout_prob: float = 0.5

    def __post_init__(self) -> None:
        in_range("data.augment.crop_padding", self.crop_padding, 0)
        in_range("data.augment.cutout", self.cutout, 0)
        in_range("data.augment.cutout_prob", self.cutout_prob, 0, 1)


@dataclass
class DataConfig:
    """A data set with its split, label noise and augmentation."""

    name: str = MISSING
    import_path: str | None = None  # package.module:function for a data set of one's own
    root: str = "data"  # relative to the project's directory
    download: bool = False
    batch_size: int = 64
    eval_batch_size: int = 1024
    drop_last: bool = False
    num_workers: int = 0  # streamed data only; in-memory sets need none
    train_size: int | None = None  # keep so many training images; null: all that the split leaves
    val_size: int = 0  # held out from the training part, by seed; labels stay clean
    test_size: int | None = None  # only for sets without a test part of their own
    label_noise: float = 0.0  # share of training labels that are redrawn
    noise_type: str = "symmetric"  # symmetric | asymmetric
    noise_includes_true: bool = True  # symmetric: the draw may return the true class
    mean: list[float] = field(default_factory=lambda: [0.0])  # per channel, for pixels in 0..1
    std: list[float] = field(default_factory=lambda: [1.0])
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        k = "data."
        in_range(k + "batch_size", self.batch_size, 1)
        in_range(k + "eval_batch_size", self.eval_batch_size, 1)
        in_range(k + "num_workers", self.num_workers, 0)
        in_range(k + "train_size", self.train_size, 1)
        in_range(k + "val_size", self.val_size, 0)
        in_range(k + "test_size", self.test_size, 1)
        in_range(k + "label_noise", self.label_noise, 0, 1)
        one_of(k + "noise_type", self.noise_type, ("symmetric", "asymmetric"))
        if len(self.mean) != len(self.std):
            raise ConfigError(k + "mean", self.mean, f"must have as many channels as data.std={self.std}")
        for value in self.std:
            in_range(k + "std", value, 0, open_low=True)


@dataclass
class SyntheticConfig(DataConfig):
    """Gaussian images with class means: for tests and dry runs."""

    num_samples: int = 512
    num_classes: int = 10
    image_size: int = 8
    channels: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("num_samples", 1), ("num_classes", 2), ("image_size", 1), ("channels", 1)):
            in_range("data." + name, getattr(self, name), low)


@dataclass
class ImageFolderConfig(DataConfig):
    """Images in train/<class>/ and val/<class>/ folders, streamed by workers."""

    image_size: int = 224
    resize: int = 256  # shorter side before the centre crop of evaluation
    min_scale: float = 0.08  # least area of the random resized crop

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("data.image_size", self.image_size, 1)
        in_range("data.resize", self.resize, self.image_size)
        in_range("data.min_scale", self.min_scale, 0, 1, open_low=True)


@dataclass
class ModelConfig:
    """A model by name; `library=timm` takes any timm model."""

    name: str = MISSING
    library: str = "own"  # own | timm
    import_path: str | None = None  # package.module:function(num_classes=, in_channels=) -> nn.Module
    pretrained: bool = False  # library=timm
    checkpoint: str | None = None  # weights to start from: a run's last.pt or a plain state_dict
    width: int | None = None  # small_cnn, wrn28_10 (widening factor)
    depth: int | None = None  # wrn28_10, pyramidnet110
    alpha: int | None = None  # pyramidnet110
    dropout: float | None = None  # vgg16_bn, wrn28_10
    drop_path: float | None = None  # library=timm

    def __post_init__(self) -> None:
        one_of("model.library", self.library, ("own", "timm"))
        for name in ("width", "depth", "alpha"):
            in_range("model." + name, getattr(self, name), 1)
        in_range("model.dropout", self.dropout, 0, 1, open_high=True)
        in_range("model.drop_path", self.drop_path, 0, 1, open_high=True)
        if self.pretrained and self.library != "timm":
            raise ConfigError(
                "model.pretrained", True, "only timm models come with weights; use model=timm model.name=..."
            )


@dataclass
class TrainConfig:
    """Length, schedule, precision and bookkeeping of training."""

    epochs: int = 60
    max_steps: int | None = None  # stop after so many optimizer steps (dry runs)
    precision: str = "fp32"  # fp32 | bf16
    device: str = "auto"  # auto | cpu | cuda
    num_threads: int | None = None  # intra-op threads; null: torch's choice, or the launcher's share
    schedule: str = "cosine"  # cosine | step | constant, per iteration
    warmup_epochs: float = 0.0  # linear from 0
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75])  # schedule=step, shares of training
    gamma: float = 0.1  # schedule=step
    label_smoothing: float = 0.0
    max_grad_norm: float | None = None  # clips the descent gradient only
    accumulate_steps: int = 1  # micro-batches in a step
    accumulate_mode: str = "joint"  # joint: same as one big batch | per_micro_batch: m-SAM
    eval_every_epochs: int = 1
    log_every_steps: int | None = None  # rows between the epochs' rows
    checkpoint_every_minutes: float = 5.0
    checkpoint_every_steps: int | None = None
    channels_last: bool = False  # memory format of model and images; faster convolutions on many machines
    save_best: bool = False  # keep best.pt, the weights at the best validation accuracy
    keep_state: bool = False  # last.pt keeps the optimizer's state after the end, the EMA for `fsamlab measure`
    on_divergence: str = "stop"  # stop | continue
    progress: bool = True  # progress bar where the output is a terminal

    def __post_init__(self) -> None:
        k = "train."
        one_of(k + "precision", self.precision, ("fp32", "bf16"))
        one_of(k + "device", self.device, ("auto", "cpu", "cuda"))
        one_of(k + "schedule", self.schedule, ("cosine", "step", "constant"))
        one_of(k + "accumulate_mode", self.accumulate_mode, ("joint", "per_micro_batch"))
        one_of(k + "on_divergence", self.on_divergence, ("stop", "continue"))
        for name in ("epochs", "accumulate_steps", "eval_every_epochs"):
            in_range(k + name, getattr(self, name), 1)
        for name in ("max_steps", "num_threads", "log_every_steps", "checkpoint_every_steps"):
            in_range(k + name, getattr(self, name), 1)
        in_range(k + "warmup_epochs", self.warmup_epochs, 0, self.epochs)
        in_range(k + "gamma", self.gamma, 0, 1, open_low=True)
        in_range(k + "label_smoothing", self.label_smoothing, 0, 1, open_high=True)
        in_range(k + "max_grad_norm", self.max_grad_norm, 0, open_low=True)
        in_range(k + "checkpoint_every_minutes", self.checkpoint_every_minutes, 0)
        for share in self.milestones:
            in_range(k + "milestones", share, 0, 1)


BATCHNORM_MODES = ("eval", "reestimated", "batch")
QUANTITIES = (  # names of what diagnostics.quantities may list; fsamlab/diagnostics/suite.py has a function for each
    "one_step",
    "m_sharpness",
    "worst_case",
    "average_case",
    "eigenvalues",
    "trace",
    "decomposition",
    "friendliness",
    "direction_curvature",
    "noise",
)


@dataclass
class DiagnosticsConfig:
    """Which quantities are measured, how often, on which samples, under which conventions."""

    name: str = MISSING
    every_steps: int | None = None  # the perturbation's free scalars while training; null is off
    every_epochs: int | None = None  # the quantities below while training, and at its end; null is off
    quantities: list[str] = field(default_factory=list)
    num_samples: int | None = 1024  # of the training set, drawn by seed; null: all of it
    # sharpness and curvature
    batch_size: int = 128  # m of m-sharpness; of every pass over the samples
    batchnorm: str = "eval"  # eval | reestimated | batch
    augment: bool = False  # true: each sample with one fixed augmentation
    rho: float = 0.05  # one radius for all methods, so that they can be compared
    adaptive: bool = True  # also in ASAM's metric
    rho_adaptive: float = 0.5
    eta: float = 0.01  # ASAM's, official form
    num_ascent_steps: int = 10  # worst_case
    num_restarts: int = 1  # worst_case
    num_pairs: int = 5  # average_case: draws, each with both signs
    num_eigenvalues: int = 5
    tolerance: float = 1e-3  # eigenvalues: relative error
    max_products: int = 60  # eigenvalues: Hessian products, each with a vector of memory
    num_probes: int = 10  # trace
    # decomposition, friendliness, direction_curvature, noise: batches as training makes them
    num_batches: int = 8  # coming batches that are taken apart; cosines scatter much from one to the next
    perturbation_rho: float | None = None  # null: optimizer.rho where that is an l2 radius, else diagnostics.rho

    def __post_init__(self) -> None:
        k = "diagnostics."
        for name in self.quantities:
            one_of(k + "quantities", name, QUANTITIES)
        one_of(k + "batchnorm", self.batchnorm, BATCHNORM_MODES)
        for name in ("every_steps", "every_epochs", "num_samples", "batch_size", "num_ascent_steps", "num_restarts"):
            in_range(k + name, getattr(self, name), 1)
        for name in ("num_pairs", "num_eigenvalues", "num_probes"):
            in_range(k + name, getattr(self, name), 1)
        in_range(k + "max_products", self.max_products, 4)
        in_range(k + "num_batches", self.num_batches, 2)
        for name in ("rho", "rho_adaptive", "perturbation_rho", "tolerance"):
            in_range(k + name, getattr(self, name), 0, open_low=True)
        in_range(k + "eta", self.eta, 0)
        if self.every_epochs is not None and not self.quantities:
            raise ConfigError(
                k + "every_epochs", self.every_epochs, f"has nothing to measure; list some of {', '.join(QUANTITIES)}"
            )


@dataclass
class TrackerConfig:
    """Where rows go besides the run's own metrics.jsonl."""

    name: str = MISSING  # wandb | none
    mode: str = "auto"  # auto | online | offline | disabled
    project: str = "fsamlab"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)
    init_timeout: float = 20.0  # seconds until an unreachable server is given up
    finish_timeout: float = 120.0

    def __post_init__(self) -> None:
        one_of("tracker.name", self.name, ("wandb", "none"))
        one_of("tracker.mode", self.mode, ("auto", "online", "offline", "disabled"))
        in_range("tracker.init_timeout", self.init_timeout, 0, open_low=True)
        in_range("tracker.finish_timeout", self.finish_timeout, 0, open_low=True)


@dataclass
class Config:
    """One run."""

    name: str = "default"  # groups runs: their parent directory, their W&B group
    seed: int = 0  # split, label noise, initialisation, order, augmentation
    force: bool = False  # start again although the run is finished
    runs_dir: str = "runs"  # relative to the project's directory
    optimizer: Any = MISSING
    model: Any = MISSING
    data: Any = MISSING
    train: Any = MISSING
    diagnostics: Any = MISSING
    tracker: Any = MISSING

    def __post_init__(self) -> None:
        in_range("seed", self.seed, 0, 2**31 - 1)
        if not self.name or self.name in (".", "..") or any(c in self.name for c in "/\\\0"):
            raise ConfigError("name", repr(self.name), "must be usable as one directory name, without slashes")
        if self.train.accumulate_mode == "per_micro_batch" and (
            self.optimizer.ascent not in ("batch", "none") or self.optimizer.reference == "full"
        ):
            allowed = f"needs a perturbation from the micro-batch itself; optimizer={self.optimizer.name} has none"
            raise ConfigError("train.accumulate_mode", "per_micro_batch", allowed)
        if self.train.save_best and self.data.val_size == 0:
            raise ConfigError("train.save_best", True, "needs a validation split; set data.val_size")


@dataclass
class MeasureConfig:
    """One measurement of one run's checkpoint (`fsamlab measure`)."""

    root: str = MISSING  # absolute directory that holds all runs of the command
    run: str = MISSING  # run directory below it
    checkpoint: str = "last"  # last | best
    force: bool = False  # measure again what has been measured
    device: str = "auto"  # auto | cpu | cuda
    num_threads: int | None = None
    diagnostics: Any = MISSING

    def __post_init__(self) -> None:
        one_of("checkpoint", self.checkpoint, ("last", "best"))
        one_of("device", self.device, ("auto", "cpu", "cuda"))
        in_range("num_threads", self.num_threads, 1)
        if not self.diagnostics.quantities:
            allowed = "measures nothing of a checkpoint; choose diagnostics=full or list diagnostics.quantities"
            raise ConfigError("diagnostics", self.diagnostics.name, allowed)


SCHEMAS: dict[str, dict[str, type]] = {  # group -> schema name -> class; the option YAMLs name theirs
    "optimizer": {"variant": OptimizerConfig},
    "model": {"model": ModelConfig},
    "data": {"images": DataConfig, "synthetic": SyntheticConfig, "image_folder": ImageFolderConfig},
    "train": {"train": TrainConfig},
    "diagnostics": {"diagnostics": DiagnosticsConfig},
    "tracker": {"tracker": TrackerConfig},
}


def register_schemas() -> None:
    """Store every schema with Hydra, as `schema/<group>/<name>`, `config_schema` and `measure_schema`."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="config_schema", node=Config)
    store.store(name="measure_schema", node=MeasureConfig)
    for group, schemas in SCHEMAS.items():
        for name, cls in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=cls)


def schema_of(node: Any) -> type | None:
    """Return the schema class a composed config node carries, or None."""
    from omegaconf import OmegaConf

    cls = OmegaConf.get_type(node)
    return cls if dataclasses.is_dataclass(cls) else None


def _build(cls: type, node: Any, prefix: str) -> Any:
    known = [f.name for f in dataclasses.fields(cls)]
    values: dict[str, Any] = {}
    for key in node:
        if key == "hydra" and not prefix:
            continue  # there while Hydra resolves its own directories; jobs are handed the config without it
        if key not in known:
            raise StrayKey(unknown_key(prefix + str(key), str(key), known, prefix.rstrip(".") or "the config"))
        if node._get_node(key)._is_missing():
            raise ConfigError(
                prefix + str(key),
                "???",
                f"has to be given, for example {prefix}{key}=VALUE on the command line",
            )
        child = node[key]
        nested = schema_of(child) if hasattr(child, "_metadata") else None
        if nested is not None:
            values[key] = _build(nested, child, f"{prefix}{key}.")
        else:
            from omegaconf import OmegaConf

            values[key] = OmegaConf.to_container(child, resolve=True) if OmegaConf.is_config(child) else child
    return cls(**values)


def typed(cfg: Any) -> Config:
    """Turn a composed OmegaConf config into a plain, range-checked :class:`Config`.

    Raises:
        ConfigError: a stray or missing key, or a value outside its range, named in one line.
    """
    _check_schemas(cfg, tuple(SCHEMAS))
    return _build(Config, cfg, "")


def typed_measure(cfg: Any) -> MeasureConfig:
    """Turn a composed config of `fsamlab measure` into a plain one, as :func:`typed` does."""
    _check_schemas(cfg, ("diagnostics",))
    return _build(MeasureConfig, cfg, "")


def _check_schemas(cfg: Any, groups: tuple[str, ...]) -> None:
    for group in groups:
        if schema_of(cfg[group]) is None:
            raise ConfigError(
                group,
                cfg[group],
                f"the option's YAML names no schema; start its defaults list with /schema/{group}/...@_here_",
            )


def to_plain(config: Config) -> dict[str, Any]:
    """Return nested plain dictionaries of a config, as written to config.yaml and sent to trackers."""
    return dataclasses.asdict(config)


def from_plain(plain: dict[str, Any]) -> Config:
    """Rebuild a config from :func:`to_plain`'s dictionaries, as a run's config.yaml holds them.

    Raises:
        ConfigError: a key that this version does not know, or a value that it refuses.
    """
    values = dict(plain)
    for group, schemas in SCHEMAS.items():
        section = values[group]
        fitting = [cls for cls in schemas.values() if set(section) <= {f.name for f in dataclasses.fields(cls)}]
        if not fitting:
            known = {f.name for cls in schemas.values() for f in dataclasses.fields(cls)}
            stray = sorted(set(section) - known)
            raise ConfigError(f"{group}.{stray[0]}", section[stray[0]], "is no key of this version of fsamlab")
        cls = min(fitting, key=lambda c: len(dataclasses.fields(c)))
        if isinstance(section.get("augment"), dict):
            section = {**section, "augment": AugmentConfig(**section["augment"])}
        values[group] = cls(**section)
    return Config(**values)
