"""The schemas of training and of trackers."""

from __future__ import annotations

from dataclasses import dataclass, field

from fsamlab.config.checks import MISSING, in_range, one_of


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
