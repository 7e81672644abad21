"""One measurement of the chosen quantities at the present weights of a training: what `diagnostics=...` asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fsamlab.axes.axis import Part
from fsamlab.axes.component import subtract
from fsamlab.config import ConfigError, DiagnosticsConfig
from fsamlab.data import Batch
from fsamlab.data.sampling import generator
from fsamlab.diagnostics.context import measuring
from fsamlab.diagnostics.decomposition import Decomposition, EmaState, chunks
from fsamlab.diagnostics.noise import Sampling
from fsamlab.diagnostics.objective import Loss, Objective
from fsamlab.diagnostics.quantities import OF_DECOMPOSITION, OF_OBJECTIVE, Memo, Values, grouped
from fsamlab.diagnostics.samples import Source, source_of
from fsamlab.diagnostics.snapshot import Snapshot
from fsamlab.diagnostics.vectors import flatten, views
from fsamlab.optim import SharpnessAware
from fsamlab.seeding import Stream, derive_seed
from fsamlab.task import Classification, Task, cast

EFFORT = ("num_ascent_steps", "num_restarts", "num_pairs", "num_probes", "tolerance", "num_batches")
MAX_PROBE_BYTES = 8 * 2**30
NOISE_BATCHES = 8  # at least, beside the batches taken apart, where the training set has so many
OF_A_LOOP = ("m_sharpness", "eigenvalues", "trace", "decomposition", "friendliness", "noise")


class Diagnostics:
    """Measures a model on a fixed set of training samples, the same one for every run with this seed.

    Args:
        cfg: what is measured, and on how many samples.
        train: the training set.
        batch_size: of training.
        seed: of the samples and of the random directions.
        loss: of training: its task, or a function (outputs, targets) -> the losses of the samples. Label smoothing is
            part of the loss that is measured, weight decay is not.

    Raises:
        ConfigError: samples or batches that the training set cannot give.
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
        num = min(cfg.num_samples or train.num_samples, train.num_samples)  # of a small set a preset takes all
        self.indices = order[:num]
        self.probe = order[: max(num, (cfg.num_batches + NOISE_BATCHES) * batch_size)]  # for the decomposition
        self.chosen = set(cfg.quantities)
        self.decomposes = bool(self.chosen & set(OF_DECOMPOSITION))
        self._has_dropout: bool | None = None  # known once a model was seen
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
        """Return the measurements for a training loop of one's own, without a config.

        Args:
            data: the training set: a pair of tensors, a Dataset, a DataLoader, or batches; see
                :func:`~fsamlab.diagnostics.samples.source_of`.
            batch_size: of training; None takes that of the DataLoader, or the size of the first batch.
            quantities: names from `diagnostics.quantities`, see docs/metrics.md.
            loss: of training: (outputs, targets) -> the losses of the samples (b,), as a torch loss with
                `reduction="none"` returns them, or a :class:`~fsamlab.task.Task`; None is the cross-entropy.
            label_smoothing: of the cross-entropy.
            seed: of the samples and of the random directions.
            **settings: other settings of :class:`~fsamlab.config.DiagnosticsConfig`: rho, num_samples, batchnorm, ...

        Raises:
            ConfigError: a setting out of range, or more batches than the training set can give.
            TypeError, ValueError: data that cannot be measured on, or a setting that there is not.
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
                f"they would take {bytes_needed / 2**30:.0f} GiB of memory; choose fewer",
            )
        need = (self.cfg.num_batches + 2) * self.batch_size
        if self.decomposes and need > self.train.num_samples:
            raise ConfigError(
                "diagnostics.num_batches",
                self.cfg.num_batches,
                f"taking so many batches of {self.batch_size} apart needs {need} training samples, and there are "
                f"{self.train.num_samples}; lower it, or data.batch_size, or choose other diagnostics.quantities",
            )

    @property
    def sample_hash(self) -> str:
        """16 hex digits that two measurements on the same samples share."""
        return hashlib.sha256(str(self.indices.tolist()).encode()).hexdigest()[:16]

    def due(self, step: int, steps_per_epoch: int, last_step: int) -> bool:
        """Return whether the quantities are measured after this step."""
        if self.cfg.every_epochs is None or not self.cfg.quantities:
            return False
        return step == last_step or step % (self.cfg.every_epochs * steps_per_epoch) == 0

    # ---------------------------------------------------------------------------------- conventions

    def conventions(self, now: Snapshot) -> dict[str, str | int | float]:
        """Return what a measured value depends on besides the model: written wherever values are."""
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
        """Return the radius of the friendliness measurements: the optimizer's own where that is an l2 radius."""
        if self.cfg.perturbation_rho is not None:
            return self.cfg.perturbation_rho
        if not isinstance(optimizer, SharpnessAware) or not optimizer.choices.metric.is_identity:
            return self.cfg.rho
        return max((group["rho"] for group in optimizer.param_groups if group["rho"] > 0), default=self.cfg.rho)

    def has_dropout(self, now: Snapshot) -> bool:
        """Return whether a forward pass in training mode draws random numbers: dropout, stochastic depth, noise."""
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
        """Return the quantities at the present weights; the training is left bitwise as it was.

        Args:
            now: the training, between two steps.
            poll: called before each batch; it may raise to leave.
            memo: knows quantities that are measured already; see :func:`~fsamlab.diagnostics.quantities.grouped`.
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
        """Open the loss over the fixed samples, as sharpness and curvature need it."""
        samples = shaped(self.train.at(self.indices, self.cfg.augment), now)
        batches = chunks(samples, torch.arange(len(samples)), self.cfg.batch_size)
        with measuring(now.model, batchnorm=self.cfg.batchnorm, images=(x for x, _ in batches)):
            objective = Objective(now.model, batches, self.loss, poll)
            objective.check_forward()
            yield objective

    @contextmanager
    def _decomposition(self, now: Snapshot, poll: Callable[[], None] | None) -> Iterator[Decomposition]:
        """Open the decomposition of the coming batches' gradients, made as training makes them."""
        probe = shaped(self.train.at(self.probe, augmented=True), now)
        coming = self._coming(now)
        batches = [shaped(batch, now) for _, batch in coming]
        again = [shaped(self.train.at(b.indices, augmented=True), now) for b in batches]
        twins = [] if all(torch.equal(a.inputs, b.inputs) for a, b in zip(batches, again)) else again
        masks = None
        if self.has_dropout(now):  # those that training is about to draw
            twins, masks = again, [derive_seed(now.seed, Stream.STEP, step) for step, _ in coming]
        sampling = now.sampling or Sampling(self.train.num_samples, self.batch_size)
        with measuring(now.model, batchnorm="batch", dropout=True):
            objective = Objective(now.model, [(probe.inputs, probe.targets)], self.loss, poll, masks and masks[:1])
            optimizer = now.sharpness_aware
            ema = None if optimizer is None else ema_state(optimizer, objective, sampling.parts)
            yield Decomposition(objective, probe, batches, ema, sampling, twins, masks)

    def _coming(self, now: Snapshot) -> list[tuple[int, Batch]]:
        """Return (step, batch) of the coming batches of full size, or of as many that are drawn at random."""
        num, size = self.cfg.num_batches, self.batch_size
        if now.coming is None:
            drawn = self.train.other(now.step, num * size)  # in one draw, so that no two batches share a sample
            pieces = zip(*(column.split(size) for column in (drawn.inputs, drawn.targets, drawn.indices)))
            return [(now.step + k, Batch(*piece)) for k, piece in enumerate(pieces)]
        full = ((step, batch) for step, batch in enumerate(now.coming(), now.step) if len(batch) == size)
        found = list(islice(full, num))
        if len(found) < num:
            raise ValueError(
                f"Snapshot.coming gave {len(found)} batches of {size} samples, and num_batches={num} are taken apart"
            )
        return found


def shaped(batch: Batch, now: Snapshot) -> Batch:
    """Return the batch as the model takes it: on its device, in its type (floating-point inputs), in the layout."""
    weight = next(now.model.parameters())
    inputs = cast(batch.inputs.to(weight.device), weight.dtype)  # a float64 model takes no others
    if inputs.dim() == 4:  # `channels_last` is defined for images alone
        inputs = inputs.contiguous(memory_format=now.memory_format)
    return Batch(inputs, batch.targets.to(weight.device), batch.indices.to(weight.device))


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def ema_state(optimizer: SharpnessAware, objective: Objective, parts: int = 1) -> EmaState | None:
    """Return the optimizer's EMA as the coming step will see it; None where it has none yet.

    Args:
        parts: updates of the EMA in a step, one for each micro-batch that perturbs by itself.
    """
    reference = optimizer.choices.reference
    if reference is None or not reference.is_average:
        return None
    states = [optimizer.state.get(p, {}) for p in objective.params]
    kept = [reference.average(s) for s in states]
    updates = max((num_updates for _, num_updates in kept), default=0)
    if not updates:
        return None
    weights = reference.average_weights(updates)
    steps = optimizer.choices.when.past(optimizer.num_steps, -(-len(weights) // parts))
    if steps is None:  # which steps fed the average is not known
        return None
    averages = [torch.zeros_like(p) if m is None else m for (m, _), p in zip(kept, objective.params)]
    own = optimizer.choices.component.subtracted
    sigma = 1.0 if own is None else own

    def direction(gradient: Tensor) -> Tensor:
        pieces = []
        for a, m, state in zip(views(gradient, averages), averages, states):
            stored, on_a, on_m = reference.form(state)
            part = Part(0.0, on_a, on_m, a=[a.clone()], m=[m] if stored is not None else [])
            subtract(part, sigma, optimizer.ops)
            pieces += part.d
        return flatten(pieces)

    each = torch.tensor(steps).repeat_interleave(parts)[-len(weights) :]
    return EmaState(flatten([m.detach() for m in averages]), direction, weights, each)
