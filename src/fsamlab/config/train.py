"""The schemas of training and of trackers."""

from __future__ import annotations

from dataclasses import dataclass

from fsamlab.checks import (
    COUNT,
    MISSING,
    ConfigError,
    Number,
    Text,
    check_fields,
    in_range,
    is_recorded,
    listed,
    number,
    text,
    word,
)


@dataclass
class TrainConfig:
    """Length, schedule, precision and bookkeeping of training."""

    epochs: int = number(60, 1, 10**6)
    max_steps: int | None = number(None, 1, COUNT)  # stop after this number of optimizer steps (dry runs)
    precision: str = word("fp32", "fp32", "tf32", "bf16", "fp16")  # of the passes; the weights are float32
    device: str = word("auto", "auto", "cpu", "cuda")
    # intra-op threads; null: torch's choice, or the share of the launcher. Far too many exhaust the system's threads.
    num_threads: int | None = number(None, 1, 1024)
    schedule: str = word("cosine", "cosine", "step", "constant")  # per iteration
    warmup_epochs: float = number(0.0, 0, 10**6)  # the learning rate rises linearly from 0
    milestones: list[float] = listed([0.5, 0.75], Number(0, 1))  # schedule=step, shares of training, ascending
    gamma: float = number(0.1, 1e-9, 1)  # schedule=step
    label_smoothing: float = number(0.0, 0, 1, open_high=True)
    max_grad_norm: float | None = number(None, 1e-9, 1e9)  # clips the descent gradient, not the ascent gradient
    accumulate_steps: int = number(1, 1, COUNT)  # number of micro-batches in a step; at most data.batch_size
    # joint: the same as one big batch | per_micro_batch: m-SAM
    accumulate_mode: str = word("joint", "joint", "per_micro_batch")
    eval_every_epochs: int = number(1, 1, 10**6)
    log_every_steps: int | None = number(None, 1, COUNT)  # extra rows between the rows of the epochs
    checkpoint_every_minutes: float = number(5.0, 0, 366 * 24 * 60)
    checkpoint_every_steps: int | None = number(None, 1, COUNT)
    compile: bool = False  # torch.compile of the network in the passes of training
    cuda_graph: bool = False  # whole steps as CUDA graphs: the host queues a step at once
    activation_checkpointing: bool = False  # less memory: the backward pass makes activations of blocks again
    ema_decay: float | None = number(None, 0, 1, open_low=True, open_high=True)  # of the averaged weights; null: none
    channels_last: bool = False  # memory format of model and images; faster convolutions on many machines
    save_best: bool = False  # keep best.pt, the weights at the best headline metric on validation data
    keep_state: bool = (
        False  # last.pt keeps the optimizer's state after the end, for example the EMA for `fsamlab measure`
    )
    on_divergence: str = word("stop", "stop", "continue")
    # of several ranks: synchronised: the result of one process | per_rank: each perturbs by its own part of the batch
    perturbation: str = word("synchronised", "synchronised", "per_rank")
    ema_scope: str = word("rank", "rank", "global")  # F-SAM's EMA with per_rank: each rank's own, or their mean
    sync_batchnorm: bool = False  # BatchNorm's statistics over the batch of all ranks
    rank_timeout_minutes: float = number(30.0, 0.01, 24 * 60)  # a rank that waits longer for another rank fails
    progress: bool = True  # progress bar where the output is a terminal

    def __post_init__(self) -> None:
        check_fields("train.", self)
        in_range("train.warmup_epochs", self.warmup_epochs, 0, self.epochs)
        if is_recorded():
            return
        if any(later < earlier for earlier, later in zip(self.milestones, self.milestones[1:])):
            raise ConfigError("train.milestones", self.milestones, "must ascend; the values are shares of the training")
        if self.perturbation != "per_rank" and self.ema_scope != "rank":
            allowed = "has an effect with train.perturbation=per_rank alone; leave it at rank"
            raise ConfigError("train.ema_scope", self.ema_scope, allowed)
        if self.precision == "tf32" and self.device == "cpu":
            raise ConfigError("train.precision", "tf32", "needs a GPU, and train.device is cpu; use fp32")
        if self.compile and self.activation_checkpointing:
            allowed = "does not go with train.compile, which decides itself what to make again; switch one off"
            raise ConfigError("train.activation_checkpointing", True, allowed)
        if self.cuda_graph:
            self._check_graph()
        if self.perturbation == "per_rank" and self.sync_batchnorm:
            allowed = "mixes the samples of the ranks, which train.perturbation=per_rank keeps apart; leave it false"
            raise ConfigError("train.sync_batchnorm", True, allowed)
        for key in ("compile", "activation_checkpointing"):
            if self.sync_batchnorm and getattr(self, key):
                allowed = f"does not go with train.{key}: BatchNorm communicates inside the passes; switch one off"
                raise ConfigError("train.sync_batchnorm", True, allowed)
        for name, default in (("milestones", [0.5, 0.75]), ("gamma", 0.1)):
            if self.schedule != "step" and getattr(self, name) != default:
                allowed = (
                    f"has no effect with train.schedule={self.schedule}: only schedule=step uses this key; leave it at"
                )
                raise ConfigError(f"train.{name}", getattr(self, name), f"{allowed} {default}")

    def _check_graph(self) -> None:
        if self.device == "cpu":
            raise ConfigError("train.cuda_graph", True, "needs a GPU, and train.device is cpu; use false")
        for key in ("compile", "activation_checkpointing"):
            if getattr(self, key):
                allowed = f"does not go with train.{key}, whose code cannot be captured as a whole; switch one off"
                raise ConfigError("train.cuda_graph", True, allowed)
        if self.perturbation == "per_rank":
            raise ConfigError("train.cuda_graph", True, "is for one process alone; use false")


PLACE = Text(128, "/\\#?%:")  # a project or an entity of W&B
TAG = Text(64)


@dataclass
class TrackerConfig:
    """Where the rows go besides the run's own metrics.jsonl."""

    name: str = word(MISSING, "wandb", "none")
    mode: str = word("auto", "auto", "online", "offline", "disabled")
    project: str = text("fsamlab", PLACE.longest, PLACE.without)
    entity: str | None = text(None, PLACE.longest, PLACE.without)
    tags: list[str] = listed([], TAG)
    init_timeout: float = number(20.0, 0.01, 3600)  # seconds to wait for a server
    finish_timeout: float = number(120.0, 0.01, 24 * 3600)

    def __post_init__(self) -> None:
        check_fields("tracker.", self)
