"""What a run trains with: data, model, optimizer and trainer, made from the configuration of the run."""

from __future__ import annotations

from typing import Any

import torch

from fsamlab.config import Config, ConfigError, TrainConfig, did_you_mean
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.data import Data, build_data, mixing_of
from fsamlab.diagnostics import Diagnostics
from fsamlab.models import build_model, make_checkpointable
from fsamlab.optim import build_optimizer
from fsamlab.ranks import Ranks
from fsamlab.seeding import Stream, derive_seed
from fsamlab.task import build_task
from fsamlab.train.closures import AscentBatch
from fsamlab.train.parallel import check_cut
from fsamlab.train.precision import scaler_for
from fsamlab.train.trainer import Trainer


def build(
    config: Config, device: torch.device, *, start_weights: bool = True, ranks: Ranks | None = None
) -> tuple[Trainer, dict[str, Any]]:
    """Build data, model, optimizer and trainer; return the trainer and the facts of the data.

    Args:
        config: the configuration of the run.
        device: the device of model and batches.
        start_weights: whether to read the weights to start from; False if a checkpoint is loaded afterwards.
        ranks: the processes that train the run together; None means this process alone.

    Raises:
        ConfigError: a setting does not fit the data, the model or another setting.
    """
    ranks = ranks or Ranks.alone(device)
    with ranks.main_first(config.data.download or config.model.pretrained):  # the others find what rank 0 has fetched
        data = build_data(config.data, config.seed, device, PROJECT_ROOT)
        if not isinstance(data, Data):
            found = f"returned a {type(data).__name__}, not a Data"
            raise ConfigError("data.import_path", config.data.import_path, found)
        torch.manual_seed(derive_seed(config.seed, Stream.INIT))
        model = build_model(
            config.model, data.num_classes, data.in_channels, image_size=data.image_size, start_weights=start_weights
        ).to(device)
    check_cut(config.train, ranks, data.train.num_samples, config.data.batch_size, config.data.drop_last)
    if config.train.activation_checkpointing:
        make_checkpointable(model, config.model.name)
    epochs = config.train.epochs * config.optimizer.epoch_multiplier
    # The length of lr's schedule: train.max_steps ends a training early, and makes no shorter one of it.
    total_steps = epochs * data.train.num_batches()
    scaler = scaler_for(config.train.precision, device)
    optimizer = build_optimizer(config.optimizer, model, config.seed, config.train.max_grad_norm, total_steps, scaler)
    task = build_task(config.task, data.task, config.train.label_smoothing)
    diagnostics = Diagnostics(config.diagnostics, data.train, config.data.batch_size, config.seed, task)
    ascent = config.optimizer
    trainer = Trainer(
        model,
        optimizer,
        data,
        config.train,
        epochs=epochs,
        seed=config.seed,
        device=device,
        task=task,
        diagnostics=diagnostics,
        ascent_batch=AscentBatch(ascent.ascent_batch_size, ascent.ascent_share, bool(ascent.ascent_nested)),
        mixing=mixing_of(config.data, data, config.seed),
        ranks=ranks,
    )
    if config.objective is not None:
        _check_objective(config.objective, trainer)
    return trainer, data.facts


def _check_objective(metric: str, trainer: Trainer) -> None:
    """Refuse an objective that no evaluation of the run has, before the first step."""
    names = dict.fromkeys(("loss", *trainer.task.evaluating().metric_names))
    kinds = ("",) if trainer.averaged is None else ("", "ema_")
    known, asked = [f"val/{of}{name}" for of in kinds for name in names], metric[metric.index("val/") :]
    if asked not in known:
        allowed = f"is no metric of this run, which has {', '.join(known)}{did_you_mean(asked, known)}"
        raise ConfigError("objective", metric, allowed)


def choose_device(cfg: TrainConfig) -> torch.device:
    """Return the device to train on.

    Raises:
        ConfigError: `train.device=cuda` without a usable GPU.
    """
    available = torch.cuda.is_available()
    if cfg.device == "cuda" and not available:
        raise ConfigError("train.device", "cuda", "no usable GPU on this machine; use train.device=cpu or auto")
    return torch.device("cuda" if available and cfg.device != "cpu" else "cpu")
