"""The training loop: steps, evaluation, rows, and a state from which it continues bit for bit.

It knows no Hydra, no W&B and no SLURM. What a run does at a boundary (writing rows and checkpoints,
looking at signals) is an :class:`Observer`. All randomness of a step is a function of (seed, step), all
order of (seed, epoch), so there is no generator state to save.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fsamlab import metrics
from fsamlab.config import TrainConfig
from fsamlab.data import Batch, Data, EvalSource
from fsamlab.diagnostics import Diagnostics, Sampling, Snapshot
from fsamlab.optim import SharpnessAware
from fsamlab.seeding import Stream, derive_seed
from fsamlab.task import Classification, Task
from fsamlab.train.closures import Passes
from fsamlab.train.meters import Best, Sums
from fsamlab.train.schedule import lr_factor


class Diverged(RuntimeError):
    """The training loss became NaN or infinite."""

    def __init__(self, step: int) -> None:
        super().__init__(f"diverged at step {step}: the training loss is not finite")
        self.step = step


class _Interrupted(Exception):
    """Ends a measurement when the run has to stop, so that the weights of the run are restored first."""


class Observer(Protocol):
    """What a run does around the loop; every method may raise to leave it."""

    def poll(self) -> None:
        """Look at signals; called between the batches of evaluation and of full-gradient passes."""

    def stopping(self) -> bool:
        """Return whether poll() would leave; asked inside measurements, where the state must not be saved."""

    def row(self, row: dict[str, float]) -> None:
        """Take one finished row of metrics."""

    def boundary(self) -> None:
        """Write a checkpoint if one is due; called after each step, the weights unperturbed."""


class Trainer:
    """Trains `model` on `data` with `optimizer`; the state of training is its attributes.

    Args:
        model: on `device`, in its initial state.
        optimizer: any variant; its param_groups' learning rates are the schedule's peak.
        epochs: passes over the training set.
        seed: of order, augmentation and dropout.
        task: what the model is trained for; None is classification with `cfg.label_smoothing`.
        diagnostics: what is measured, and how often; None is nothing.
        ascent_batch_size, ascent_nested: see :class:`~fsamlab.train.closures.Passes`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: SharpnessAware,
        data: Data,
        cfg: TrainConfig,
        *,
        epochs: int,
        seed: int,
        device: torch.device,
        task: Task | None = None,
        diagnostics: Diagnostics | None = None,
        ascent_batch_size: int | None = None,
        ascent_nested: bool = False,
    ) -> None:
        self.model, self.optimizer, self.data, self.cfg = model, optimizer, data, cfg
        self.seed, self.device, self.diagnostics = seed, device, diagnostics
        self.every_steps = diagnostics.cfg.every_steps if diagnostics else None
        self.task = task if task is not None else Classification(cfg.label_smoothing)
        self.passes = Passes(
            model,
            self.task,
            optimizer,
            data.train,
            cfg,
            device,
            ascent_batch_size=ascent_batch_size,
            ascent_nested=ascent_nested,
            poll=lambda: self._observer.poll(),
        )
        self.steps_per_epoch = data.train.num_batches()
        self.epochs = epochs
        self.total_steps = epochs * self.steps_per_epoch
        self.last_step = min(self.total_steps, cfg.max_steps or self.total_steps)
        self.warmup_steps = round(cfg.warmup_epochs * self.steps_per_epoch)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.step = 0  # finished optimizer steps
        self.boundary_done = True  # evaluation and row of the current step are behind us
        self.sums = Sums(device)
        self.best = Best(self.task)
        self.diverged_at = torch.full((), -1, dtype=torch.int64, device=device)
        self.record_due = False
        self.scalars: dict[str, Tensor] = {}  # the perturbation's, of the step just made; on the device
        self.train_seconds = 0.0
        self.eval_seconds = 0.0
        self.diagnostics_seconds = 0.0
        self.epoch_seconds = [0.0]  # of training, for each epoch; the last is the present one's
        self.last_row: dict[str, float] = {}

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.step // self.steps_per_epoch

    @property
    def headline(self) -> metrics.Headline:
        """What the task declares of its headline metric."""
        return self.task.declaration

    def fit(self, observer: Observer) -> dict[str, float]:
        """Train from the current state to the end; return the last row."""
        self._observer = observer
        if not self.boundary_done:  # a stop inside the evaluation of this very step
            self._boundary()
        while self.step < self.last_step:
            for batch in self.data.train.batches(self.epoch, start=self.step % self.steps_per_epoch):
                start = time.perf_counter()
                self._step(batch)
                if self.device.type == "cuda" and self.step % self.steps_per_epoch == 0:
                    torch.cuda.synchronize()  # else the time of an epoch would be the time to queue its work
                seconds = time.perf_counter() - start
                self.train_seconds += seconds
                self.epoch_seconds[-1] += seconds
                if self.step % self.steps_per_epoch == 0:
                    self.epoch_seconds.append(0.0)
                self._boundary()
                if self.step >= self.last_step:
                    break
        return self.last_row

    def _step(self, batch: Batch) -> None:
        """One optimizer step. Nothing of the state changes before the optimizer has finished it."""
        torch.manual_seed(derive_seed(self.seed, Stream.STEP, self.step))
        factor = lr_factor(self.cfg, self.step, self.total_steps, self.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.model.train()
        if self.every_steps is not None and (self.step + 1) % self.every_steps == 0:
            self.record_due = True  # by the next step that perturbs: optimizer.every may leave this one out
        self.optimizer.record_scalars = self.record_due
        passes = self.passes
        sums: dict[str, list[Tensor]] = {}  # of the task's metrics, from the first pass over the descent batch
        if self.cfg.accumulate_mode == "per_micro_batch" and self.cfg.accumulate_steps > 1:
            closures = [passes.closure([part], sums) for part in passes.micro_batches(batch)]
            loss = self.optimizer.step_micro(closures)
        else:
            descent = passes.closure(passes.micro_batches(batch), sums)
            ascent, reference = passes.ascent_closure(batch, self.step), passes.reference_closure(self.step)
            loss = self.optimizer.step(descent, ascent, reference)
        self.step += 1
        self.boundary_done = False
        self.scalars = {k: v for k, v in self.optimizer.scalars.items() if "/" in k}
        if self.scalars:
            self._add_losses(loss)
        self.record_due = self.record_due and not self.scalars
        self._count(loss, sums, len(batch))

    def _add_losses(self, loss: Tensor) -> None:
        """Add the batch's losses at w and at w + eps; the difference is its one-step sharpness at rho."""
        if self.optimizer.has_clean_loss:
            self.scalars["perturbation/loss_clean"] = loss.detach()
        if "loss_perturbed" in self.optimizer.scalars:
            self.scalars["perturbation/loss_perturbed"] = self.optimizer.scalars["loss_perturbed"]

    def _count(self, loss: Tensor, sums: dict[str, list[Tensor]], n: int) -> None:
        if self.optimizer.has_clean_loss:
            self.sums.add("train/loss", loss, n)
        if "loss_perturbed" in self.optimizer.scalars:
            self.sums.add("train/loss_perturbed", self.optimizer.scalars["loss_perturbed"], n)
        for key, parts in sums.items():  # none where a non-finite ascent gradient kept the batch from being run
            self.sums.add(f"train/{key}", torch.stack(parts).sum() / n, n)
        first = (self.diverged_at < 0) & ~torch.isfinite(loss)
        self.diverged_at = torch.where(first, self.step, self.diverged_at)
        if self.device.type == "cpu":  # elsewhere it would be a synchronisation: looked at with each row
            self._stop_if_diverged()

    def _stop_if_diverged(self) -> None:
        if self.cfg.on_divergence == "stop" and int(self.diverged_at) >= 0:
            raise Diverged(int(self.diverged_at))

    def _boundary(self) -> None:
        """Evaluation, row, checkpoint, in this order, so that a row is there exactly once after a resume."""
        if not self.boundary_done:
            end = self.step == self.last_step
            epoch_done = self.step % self.steps_per_epoch == 0
            every = self.cfg.log_every_steps
            evaluate = end or (epoch_done and self.epoch % self.cfg.eval_every_epochs == 0)
            measure = self.diagnostics is not None and self.diagnostics.due(
                self.step, self.steps_per_epoch, self.last_step
            )
            if evaluate or measure or epoch_done or self.scalars or (every is not None and self.step % every == 0):
                self._stop_if_diverged()
                self._row(evaluate, measure)
            self.boundary_done = True
        self._observer.boundary()

    def _row(self, evaluate: bool, measure: bool) -> None:
        row: dict[str, float] = {"step": self.step, "epoch": self.step / self.steps_per_epoch}
        row.update(self._train_means())
        row["train/lr"] = self.optimizer.param_groups[0]["lr"]
        row.update(self._fetched_scalars())
        if self.optimizer.choices.ascent.perturbs:
            row["perturbation/floored_share"] = float(self.optimizer.num_floored) / self.step
            row["perturbation/skipped_share"] = self.optimizer.num_nonfinite / self.step
        if evaluate:
            row.update(self._evaluate_all())
        if measure:
            row.update(self._measure())
        row["time"] = round(self.train_seconds + self.eval_seconds + self.diagnostics_seconds, 3)
        row["time/step_ms"] = self.step_ms
        self._observer.row(row)
        self.last_row = row
        if evaluate:
            self.best.update(row)
            self.sums.reset()

    def _train_means(self) -> dict[str, float]:
        """Return the means since the last evaluation: losses, and the metrics of the task in the first passes."""
        means = self.sums.means()
        row = {key: value for key, value in means.items() if key.startswith("train/loss")}
        of_task = {key.removeprefix("train/"): value for key, value in means.items() if key not in row}
        if of_task:
            row.update({f"train/{key}": value for key, value in self.task.values(of_task).items()})
        return row

    def _evaluate_all(self) -> dict[str, float]:
        start = time.perf_counter()
        found: dict[str, float] = {}
        for part, source in (("val", self.data.val), ("test", self.data.test)):
            if source is not None:
                found.update({f"{part}/{key}": value for key, value in self.evaluate(source).items()})
        self.eval_seconds += time.perf_counter() - start
        return found

    def _measure(self) -> dict[str, float]:
        assert self.diagnostics is not None
        start = time.perf_counter()
        try:
            found = self.diagnostics.measure(self.snapshot(), self._leave_measurement)
        except _Interrupted:
            self._observer.poll()  # the state is the run's again
            raise
        self.diagnostics_seconds += time.perf_counter() - start
        return found

    def snapshot(self) -> Snapshot:
        """Return the training as the measurements see it."""
        assert self.diagnostics is not None
        other = self.optimizer.needs_ascent == "other_batch"
        passes, cfg = self.passes, self.cfg
        sampling = Sampling(
            self.data.train.num_samples,
            self.diagnostics.batch_size,
            self.steps_per_epoch,
            ascent_size=passes.ascent_batch_size if other else None,
            parts=cfg.accumulate_steps if cfg.accumulate_mode == "per_micro_batch" else 1,
            independent=other and not passes.ascent_nested,
        )
        return Snapshot(
            self.model, self.optimizer, self.step, self.seed, sampling, self._coming_batches, passes.memory_format
        )

    def _coming_batches(self) -> Iterator[Batch]:
        """Yield the batches of the coming steps, over the ends of epochs and of the training."""
        step = self.step
        while True:
            for batch in self.data.train.batches(*divmod(step, self.steps_per_epoch)):
                yield batch
                step += 1

    def _leave_measurement(self) -> None:
        if self._observer.stopping():
            raise _Interrupted

    def _fetched_scalars(self) -> dict[str, float]:
        """Read the step's scalars from the device, all at once."""
        if not self.scalars:
            return {}
        values = torch.stack([v.to(self.device, torch.float64) for v in self.scalars.values()])
        found = dict(zip(self.scalars, values.tolist()))
        of_zero = ("perturbation/cos_", "perturbation/d_ratio")  # 0 / 0 and x / 0: undefined is absent
        return {
            key: value
            for key, value in found.items()
            if math.isfinite(value) or not (key.startswith(of_zero) or key.endswith("_coefficient"))
        }

    @torch.no_grad()
    def evaluate(self, source: EvalSource) -> dict[str, float]:
        """Return the mean loss (for classification cross-entropy in nats, without label smoothing) and the metrics."""
        self.model.eval()
        task = self.task.evaluating()
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        sums: dict[str, Tensor] = {}
        for batch in source.batches():
            self._observer.poll()
            outputs, mean = self.passes.forward(batch, task)
            loss += mean.double() * len(batch)
            for key, value in task.metrics(outputs, batch).items():
                sums[key] = sums.get(key, 0) + value.double()
        means = {key: float(total) / source.num_samples for key, total in sums.items()}
        return {"loss": float(loss) / source.num_samples, **task.values(means)}

    @property
    def step_ms(self) -> float:
        """Milliseconds of an optimizer step: the median over whole epochs of their means, robust to a busy machine."""
        whole = self.epoch_seconds[:-1]
        if not whole:
            return 1000 * self.train_seconds / max(1, self.step)
        return 1000 * statistics.median(whole) / self.steps_per_epoch

    def summary(self) -> dict[str, float]:
        """Return the run's numbers: final, at the best validation epoch, and cost."""
        final = {f"final/{k}": v for k, v in self.last_row.items() if metrics.of(k).final}
        cost = {
            "cost/steps": self.step,
            "cost/epochs": self.step / self.steps_per_epoch,
            "cost/train_seconds": round(self.train_seconds, 3),
            "cost/eval_seconds": round(self.eval_seconds, 3),
            "cost/diagnostics_seconds": round(self.diagnostics_seconds, 3),
            "cost/step_ms": self.step_ms,
        }
        counts: dict[str, float] = {}
        if self.optimizer.choices.ascent.perturbs:
            counts["perturbation/num_floored"] = int(self.optimizer.num_floored)
            counts["perturbation/num_skipped"] = self.optimizer.num_nonfinite
        if int(self.diverged_at) >= 0:
            counts["train/diverged_at"] = int(self.diverged_at)
        return {**final, **self.best.summary(), **cost, **counts}

    def conventions(self) -> dict[str, str | int | float]:
        """Return the conventions of the measured values; empty if nothing is measured."""
        if self.diagnostics is None or not self.diagnostics.cfg.quantities:
            return {}
        return self.diagnostics.conventions(self.snapshot())

    def state_dict(self) -> dict[str, Any]:
        """Return everything that fit() needs to go on from here."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "boundary_done": self.boundary_done,
            "sums": self.sums.state_dict(),
            "best": self.best.state_dict(),
            "diverged_at": int(self.diverged_at),
            "train_seconds": self.train_seconds,
            "eval_seconds": self.eval_seconds,
            "diagnostics_seconds": self.diagnostics_seconds,
            "epoch_seconds": list(self.epoch_seconds),
            "record_due": self.record_due,
            "scalars": self._fetched_scalars(),
            "last_row": dict(self.last_row),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state_dict` of the same configuration."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.boundary_done = state["step"], state["boundary_done"]
        self.sums.load_state_dict(state["sums"])
        self.best.load_state_dict(state["best"])
        self.diverged_at.fill_(state["diverged_at"])
        self.train_seconds, self.eval_seconds = state["train_seconds"], state["eval_seconds"]
        self.diagnostics_seconds = state["diagnostics_seconds"]
        self.epoch_seconds = list(state["epoch_seconds"])
        self.record_due = state["record_due"]
        self.scalars = {
            k: torch.tensor(v, dtype=torch.float64, device=self.device) for k, v in state["scalars"].items()
        }
        self.last_row = dict(state["last_row"])
