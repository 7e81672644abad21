"""Measure the quantities that `diagnostics=...` names, at the present weights of a training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fsamlab.config import ConfigError, DiagnosticsConfig
from fsamlab.data import Batch
from fsamlab.data.sampling import generator
from fsamlab.diagnostics.context import measuring
from fsamlab.diagnostics.decomposition import Decomposition, chunks
from fsamlab.diagnostics.ema import ema_state
from fsamlab.diagnostics.noise import Sampling
from fsamlab.diagnostics.objective import Loss, Objective
from fsamlab.diagnostics.quantities import OF_DECOMPOSITION, OF_OBJECTIVE, Memo, Values, grouped
from fsamlab.diagnostics.samples import Source, source_of
from fsamlab.diagnostics.snapshot import Snapshot
from fsamlab.optim import SharpnessAware
from fsamlab.seeding import Stream, derive_seed
from fsamlab.task import Classification, Task, cast

EFFORT = ("num_ascent_steps", "num_restarts", "num_pairs", "num_probes", "tolerance", "num_batches")
MAX_PROBE_BYTES = 8 * 2**30
NOISE_BATCHES = 8  # batches for the noise, besides the decomposed batches; fewer if the training set is smaller
OF_A_LOOP = ("m_sharpness", "eigenvalues", "trace", "decomposition", "friendliness", "noise")


class Diagnostics:
    """Measures a model on fixed training samples. All runs with the same seed are measured on the same samples.

    Args:
        cfg: names the quantities, the number of samples, and when to measure.
        train: the training set.
        batch_size: batch size of training.
        seed: decides the samples and the random directions.
        loss: the task of the training, or a function (outputs, targets) -> losses of the samples (b,). The measured
            loss includes label smoothing and excludes weight decay.

    Raises:
        ConfigError: the training set is too small for the batches, or the samples need too much memory.
    """

    def __init__(
        self,
        cfg: DiagnosticsConfig,
        train: Source,
        batch_size: int,
        seed: int,
        loss: Loss | Task = Classification(),  # noqa: B008 (frozen)
    ) -> None:
        self.cfg, self.train, self.batch_size, self.loss = cfg, train, batch_size, loss
        self.seed = derive_seed(seed, Stream.DIAGNOSTICS)
        order = torch.randperm(train.num_samples, generator=generator(seed, Stream.PROBE))
        # A preset may ask for more samples than a small training set has.
        num = min(cfg.num_samples or train.num_samples, train.num_samples)
        self.indices = order[:num]
        # The decomposition leaves its own batches out of the full gradient, so it needs more samples than they have.
        self.probe = order[: max(num, (cfg.num_batches + NOISE_BATCHES) * batch_size)]
        self.chosen = set(cfg.quantities)
        self.decomposes = bool(self.chosen & set(OF_DECOMPOSITION))
        self._has_dropout: bool | None = None  # known after the first forward pass of a model
        if cfg.quantities:
            self._check()

    @classmethod
    def of_loop(
        cls,
        data: Any,
        batch_size: int | None = None,
        *,
        quantities: Sequence[str] = OF_A_LOOP,
        loss: Loss | Task | None = None,
        label_smoothing: float = 0.0,
        seed: int = 0,
        **settings: Any,
    ) -> Diagnostics:
        """Return the measurements for your own training loop, without a config file.

        Args:
            data: the training set: a pair of tensors, a Dataset, a DataLoader, or batches; see
                :func:`~fsamlab.diagnostics.samples.source_of`.
            batch_size: batch size of training; None means that of the DataLoader, or the size of the first batch.
            quantities: names from `diagnostics.quantities`, see docs/metrics.md.
            loss: the training's loss as a function (outputs, targets) -> losses of the samples (b,), for example a
                torch loss with `reduction="none"`, or a :class:`~fsamlab.task.Task`; None means cross-entropy.
            label_smoothing: label smoothing of the cross-entropy.
            seed: decides the samples and the random directions.
            **settings: other settings of :class:`~fsamlab.config.DiagnosticsConfig`: rho, num_samples, batchnorm, ...

        Raises:
            ConfigError: a setting is out of range, or the training set is too small for the batches.
            TypeError: a setting does not exist.
            TypeError, ValueError: the data have another form than the forms above.
        """
        cfg = DiagnosticsConfig(name="loop", quantities=list(quantities), **settings)
        source, size = source_of(data, batch_size, seed)
        return cls(cfg, source, size, seed, Classification(label_smoothing) if loss is None else loss)

    def _check(self) -> None:
        largest = max(len(self.indices), len(self.probe) if self.decomposes else 0)
        bytes_needed = largest * self.train.at(self.indices[:1]).inputs.nbytes
        if bytes_needed > MAX_PROBE_BYTES:
            raise ConfigError(
                "diagnostics.num_samples",
                largest,
                f"so many samples need {bytes_needed / 2**30:.0f} GiB of memory; choose fewer",
            )
        self.cfg.check_num_train(self.train.num_samples, self.batch_size)

    @property
    def sample_hash(self) -> str:
        """16 hex digits; two measurements on the same samples have the same digits."""
        return hashlib.sha256(str(self.indices.tolist()).encode()).hexdigest()[:16]

    def due(self, step: int, steps_per_epoch: int, last_step: int) -> bool:
        """Return whether the quantities are measured after this step."""
        if self.cfg.every_epochs is None or not self.cfg.quantities:
            return False
        return step == last_step or step % (self.cfg.every_epochs * steps_per_epoch) == 0

    # ---------------------------------------------------------------------------------- conventions

    def conventions(self, now: Snapshot) -> dict[str, str | int | float]:
        """Return the facts besides the model that a measured value depends on; they are written with the values."""
        params = [p for p in now.model.parameters() if p.requires_grad]
        cfg = self.cfg
        return {
            "num_samples": len(self.indices),
            "sample_hash": self.sample_hash,
            "batch_size": min(cfg.batch_size, len(self.indices)),
            "batchnorm": cfg.batchnorm,
            "augment": cfg.augment,
            "rho": cfg.rho,
            "rho_adaptive": cfg.rho_adaptive,
            "eta": cfg.eta,
            "p": 2,
            "parameters": "all trainable",
            "num_parameters": sum(p.numel() for p in params),
            "dtype": str(params[0].dtype).removeprefix("torch."),
            **self._of_loss(),
            "weight_decay": "not in the loss",
            "dropout": "off",
            **{name: getattr(cfg, name) for name in EFFORT},
            "perturbation_num_samples": len(self.probe),
            "perturbation_batchnorm": "batch",
            "perturbation_batch_size": self.batch_size,
            "perturbation_augment": True,
            **({"perturbation_dropout": "on"} if self.decomposes and self.has_dropout(now) else {}),
            **({"perturbation_batches": "drawn at random"} if now.coming is None else {}),
            "perturbation_rho": self.perturbation_rho(now.optimizer),
        }

    def _of_loss(self) -> dict[str, str | int | float]:
        if isinstance(self.loss, Task):
            return self.loss.conventions()
        return {"loss": getattr(self.loss, "__name__", type(self.loss).__name__)}

    def perturbation_rho(self, optimizer: Optimizer) -> float:
        """Return the radius rho of the friendliness measurements.

        This is the setting if it is given, else the optimizer's largest rho, without a schedule of the radius.
        With a metric, or a radius that follows the gradient, rho is not an l2 radius: the result is `diagnostics.rho`.
        """
        if self.cfg.perturbation_rho is not None:
            return self.cfg.perturbation_rho
        if not isinstance(optimizer, SharpnessAware):
            return self.cfg.rho
        if not optimizer.choices.metric.is_identity or optimizer.choices.radius.follows_gradient:
            return self.cfg.rho
        return max((group["rho"] for group in optimizer.param_groups if group["rho"] > 0), default=self.cfg.rho)

    def has_dropout(self, now: Snapshot) -> bool:
        """Return whether a forward pass in training mode draws random numbers: dropout, stochastic depth, noise.

        The random state before and after a pass is compared. A search for dropout modules would miss other layers.
        """
        if self._has_dropout is None:
            samples = shaped(self.train.at(self.indices[:2]), now)
            with measuring(now.model, batchnorm="batch", dropout=True), torch.no_grad():
                torch.manual_seed(self.seed)
                before = _random_state(samples.inputs.device)
                self.loss.forward(now.model, samples) if isinstance(self.loss, Task) else now.model(samples.inputs)
                self._has_dropout = not torch.equal(before, _random_state(samples.inputs.device))
        return self._has_dropout

    # ------------------------------------------------------------------------------- one measurement

    def measure(self, now: Snapshot, poll: Callable[[], None] | None = None, memo: Memo | None = None) -> Values:
        """Return {metric key: value} at the present weights; weights, buffers and random state stay as they were.

        Args:
            now: the state of the training, between two steps.
            poll: called before each batch; it may raise to end the measurement.
            memo: holds quantities that an interrupted measurement has finished; see
                :func:`~fsamlab.diagnostics.quantities.grouped`.
        """
        values: Values = {}
        if self.chosen & set(OF_OBJECTIVE):
            with self._objective(now, poll) as objective:
                values.update(grouped(OF_OBJECTIVE, self.chosen, objective, self.cfg, self.seed, memo=memo))
        if self.decomposes:
            rho = self.perturbation_rho(now.optimizer)
            with self._decomposition(now, poll) as parts:
                values.update(grouped(OF_DECOMPOSITION, self.chosen, parts, rho, self.seed, memo=memo))
        return values

    @contextmanager
    def _objective(self, now: Snapshot, poll: Callable[[], None] | None) -> Iterator[Objective]:
        """Open the loss over the fixed samples, for sharpness and curvature."""
        samples = shaped(self.train.at(self.indices, self.cfg.augment), now)
        batches = chunks(samples, torch.arange(len(samples)), self.cfg.batch_size)
        with measuring(now.model, batchnorm=self.cfg.batchnorm, images=(x for x, _ in batches)):
            objective = Objective(now.model, batches, self.loss, poll)
            objective.check_forward()
            yield objective

    @contextmanager
    def _decomposition(self, now: Snapshot, poll: Callable[[], None] | None) -> Iterator[Decomposition]:
        """Open the decomposition of the gradients of the next batches, computed as in training."""
        probe = shaped(self.train.at(self.probe, augmented=True), now)
        coming = self._coming(now)
        batches = [shaped(batch, now) for _, batch in coming]
        # The same samples with other augmentations show the part of the gradient noise that is due to augmentation.
        again = [shaped(self.train.at(b.indices, augmented=True), now) for b in batches]
        twins = [] if all(torch.equal(a.inputs, b.inputs) for a, b in zip(batches, again)) else again
        masks = None
        if self.has_dropout(now):  # the masks that the next training steps will draw
            twins, masks = again, [derive_seed(now.seed, Stream.STEP, step) for step, _ in coming]
        sampling = now.sampling or Sampling(self.train.num_samples, self.batch_size)
        with measuring(now.model, batchnorm="batch", dropout=True):
            objective = Objective(now.model, [(probe.inputs, probe.targets)], self.loss, poll, masks and masks[:1])
            optimizer = now.sharpness_aware
            ema = None if optimizer is None else ema_state(optimizer, objective, sampling.parts)
            yield Decomposition(objective, probe, batches, ema, sampling, twins, masks)

    def _coming(self, now: Snapshot) -> list[tuple[int, Batch]]:
        """Return (step, batch) of the next batches of full size; of random batches if the loop knows no next ones."""
        num, size = self.cfg.num_batches, self.batch_size
        if now.coming is None:
            drawn = self.train.other(now.step, num * size)  # in one draw, so that no two batches share a sample
            pieces = zip(*(column.split(size) for column in (drawn.inputs, drawn.targets, drawn.indices)))
            return [(now.step + k, Batch(*piece)) for k, piece in enumerate(pieces)]
        full = ((step, batch) for step, batch in enumerate(now.coming(), now.step) if len(batch) == size)
        found = list(islice(full, num))
        if len(found) < num:
            raise ValueError(
                f"Snapshot.coming gave {len(found)} batches of {size} samples, but num_batches={num} are needed"
            )
        return found


def shaped(batch: Batch, now: Snapshot) -> Batch:
    """Return the batch on the model's device, with inputs in the model's floating-point type and memory format."""
    weight = next(now.model.parameters())
    inputs = cast(batch.inputs.to(weight.device), weight.dtype)  # a float64 model refuses float32 inputs
    if inputs.dim() == 4:  # `channels_last` is defined for images alone
        inputs = inputs.contiguous(memory_format=now.memory_format)
    return Batch(inputs, batch.targets.to(weight.device), batch.indices.to(weight.device))


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
