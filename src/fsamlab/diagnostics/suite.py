"""One measurement of the chosen quantities at the present weights of a training: what `diagnostics=...` asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from fsamlab.axes.axis import Part
from fsamlab.axes.component import Ema, Subtract
from fsamlab.config import ConfigError, DiagnosticsConfig
from fsamlab.data import Batch, TrainSource
from fsamlab.data.sampling import generator
from fsamlab.diagnostics.context import measuring
from fsamlab.diagnostics.decomposition import Decomposition, EmaState, chunks
from fsamlab.diagnostics.noise import ema_weights
from fsamlab.diagnostics.objective import Objective, cross_entropy
from fsamlab.diagnostics.quantities import OF_DECOMPOSITION, OF_OBJECTIVE, Memo, Values, grouped
from fsamlab.diagnostics.snapshot import Snapshot
from fsamlab.diagnostics.vectors import flatten, views
from fsamlab.optim import SharpnessAware
from fsamlab.seeding import Stream, derive_seed

EFFORT = ("num_ascent_steps", "num_restarts", "num_pairs", "num_probes", "tolerance", "num_batches")
MAX_PROBE_BYTES = 8 * 2**30
NOISE_BATCHES = 8  # at least, beside the batches taken apart, where the training set has so many


class Diagnostics:
    """Measures a model on a fixed set of training samples, the same one for every run with this seed.

    Args:
        train: the training set.
        batch_size: of training.
        label_smoothing: of training; it is part of the loss that is measured, weight decay is not.

    Raises:
        ConfigError: samples or batches that the training set cannot give.
    """

    def __init__(
        self, cfg: DiagnosticsConfig, train: TrainSource, batch_size: int, seed: int, label_smoothing: float = 0.0
    ) -> None:
        self.cfg, self.train, self.batch_size, self.label_smoothing = cfg, train, batch_size, label_smoothing
        self.seed = derive_seed(seed, Stream.DIAGNOSTICS)
        order = torch.randperm(train.num_samples, generator=generator(seed, Stream.PROBE))
        num = min(cfg.num_samples or train.num_samples, train.num_samples)  # of a small set a preset takes all
        self.indices = order[:num]
        self.probe = order[: max(num, (cfg.num_batches + NOISE_BATCHES) * batch_size)]  # for the decomposition
        self._has_dropout: bool | None = None  # known once a model was seen
        if cfg.quantities:
            self._check()

    def _check(self) -> None:
        decomposed = set(self.cfg.quantities) & set(OF_DECOMPOSITION)
        largest = max(len(self.indices), len(self.probe) if decomposed else 0)
        bytes_needed = largest * self.train.at(self.indices[:1]).images.nbytes
        if bytes_needed > MAX_PROBE_BYTES:
            raise ConfigError(
                "diagnostics.num_samples",
                largest,
                f"they would take {bytes_needed / 2**30:.0f} GiB of memory; choose fewer",
            )
        need = (self.cfg.num_batches + 2) * self.batch_size
        if decomposed and need > self.train.num_samples:
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

    def perturbation_rho(self, optimizer: SharpnessAware) -> float:
        """Return the radius of the friendliness measurements."""
        if self.cfg.perturbation_rho is not None:
            return self.cfg.perturbation_rho
        radii = [group["rho"] for group in optimizer.param_groups if group["rho"] > 0]
        return max(radii) if radii and optimizer.choices.metric.is_identity else self.cfg.rho

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
            "label_smoothing": self.label_smoothing,
            "weight_decay": "not in the loss",
            "dropout": "off",
            **{name: getattr(cfg, name) for name in EFFORT},
            "perturbation_num_samples": len(self.probe),
            "perturbation_batchnorm": "batch",
            "perturbation_batch_size": self.batch_size,
            "perturbation_augment": True,
            **self._dropout(now),
            "perturbation_rho": self.perturbation_rho(now.optimizer),
        }

    def _dropout(self, now: Snapshot) -> dict[str, str]:
        """Return the convention on dropout of the decomposition, where there is dropout."""
        decomposed = set(self.cfg.quantities) & set(OF_DECOMPOSITION)
        return {"perturbation_dropout": "on"} if decomposed and self.has_dropout(now) else {}

    def measure(self, now: Snapshot, poll: Callable[[], None] | None = None, memo: Memo | None = None) -> Values:
        """Return the quantities at the present weights; the training is left bitwise as it was.

        Args:
            poll: called before each batch; it may raise to leave.
            memo: knows quantities that are measured already; see :func:`~fsamlab.diagnostics.quantities.grouped`.
        """
        values: Values = {}
        loss = partial(cross_entropy, label_smoothing=self.label_smoothing)
        chosen = set(self.cfg.quantities)
        if chosen & set(OF_OBJECTIVE):
            samples = self._shaped(self.train.at(self.indices, self.cfg.augment), now)
            batches = chunks(samples, torch.arange(len(samples)), self.cfg.batch_size)
            with measuring(now.model, batchnorm=self.cfg.batchnorm, images=(x for x, _ in batches)):
                objective = Objective(now.model, batches, loss, poll)
                objective.check_forward()
                values.update(grouped(OF_OBJECTIVE, chosen, objective, self.cfg, self.seed, memo=memo))
        if chosen & set(OF_DECOMPOSITION):
            rho = self.perturbation_rho(now.optimizer)
            probe = self._shaped(self.train.at(self.probe, augmented=True), now)
            ahead = list(self._coming(now))
            coming = [self._shaped(batch, now) for _, batch in ahead]
            again = [self._shaped(self.train.at(b.indices, augmented=True), now) for b in coming]
            twins = [] if all(torch.equal(a.images, b.images) for a, b in zip(coming, again)) else again
            masks = None
            if self.has_dropout(now):  # those that training is about to draw
                twins, masks = again, [derive_seed(now.seed, Stream.STEP, step) for step, _ in ahead]
            with measuring(now.model, batchnorm="batch", dropout=True):
                seeds = masks and masks[:1]
                objective = Objective(now.model, [(probe.images, probe.labels)], loss, poll, seeds)
                ema = ema_state(now.optimizer, objective, now.sampling.parts)
                parts = Decomposition(objective, probe, coming, ema, now.sampling, twins, masks)
                values.update(grouped(OF_DECOMPOSITION, chosen, parts, rho, self.seed, memo=memo))
        return values

    def has_dropout(self, now: Snapshot) -> bool:
        """Return whether a forward pass in training mode draws random numbers: dropout, stochastic depth, noise."""
        if self._has_dropout is None:
            images = self._shaped(self.train.at(self.indices[:2]), now).images
            with measuring(now.model, batchnorm="batch", dropout=True), torch.no_grad():
                torch.manual_seed(self.seed)
                before = _random_state(images.device)
                now.model(images)
                self._has_dropout = not torch.equal(before, _random_state(images.device))
        return self._has_dropout

    def _coming(self, now: Snapshot) -> Iterator[tuple[int, Batch]]:
        """Yield (step, batch) of the full-sized batches that training is about to make, over an epoch's end too."""
        step, found = now.step, 0
        while found < self.cfg.num_batches:
            epoch, start = divmod(step, now.sampling.steps_per_epoch)
            for batch in self.train.batches(epoch, start):
                step += 1
                if len(batch) == self.batch_size:
                    found += 1
                    yield step - 1, batch
                if found == self.cfg.num_batches:
                    break

    @staticmethod
    def _shaped(batch: Batch, now: Snapshot) -> Batch:
        images = batch.images.to(next(now.model.parameters()).dtype)  # a float64 model takes no others
        images = images.contiguous(memory_format=now.memory_format)
        return Batch(images, batch.labels, batch.indices)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def ema_state(optimizer: SharpnessAware, objective: Objective, parts: int = 1) -> EmaState | None:
    """Return the optimizer's EMA as the coming step will see it; None where it has none yet.

    Args:
        parts: updates of the EMA in a step, one for each micro-batch that perturbs by itself.
    """
    reference = optimizer.choices.reference
    if not isinstance(reference, Ema):
        return None
    states = [optimizer.state.get(p, {}) for p in objective.params]
    updates = max((s.get("ema_steps", 0) for s in states), default=0)
    if not updates:
        return None
    averages = [s["ema"] if "ema" in s else torch.zeros_like(p) for s, p in zip(states, objective.params)]
    sigma = optimizer.choices.component.sigma if isinstance(optimizer.choices.component, Subtract) else 1.0

    def direction(gradient: Tensor) -> Tensor:
        pieces = []
        for a, m, state in zip(views(gradient, averages), averages, states):
            stored, on_a, on_m = reference.form(state)
            part = Part(0.0, on_a, on_m, a=[a.clone()], m=[m] if stored is not None else [])
            Subtract(sigma).set_direction([part], optimizer.ops)
            pieces += part.d
        return flatten(pieces)

    weights = ema_weights(updates, reference.lmbda, reference.ema_init)
    last = (optimizer.num_steps - 1) // optimizer.every * optimizer.every
    steps = last - optimizer.every * (torch.arange(len(weights) - 1, -1, -1) // parts)
    return EmaState(flatten([m.detach() for m in averages]), direction, weights, steps)
