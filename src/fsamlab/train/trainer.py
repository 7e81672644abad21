"""The training loop: steps, evaluation, rows, and a state from which training continues bit for bit.

The loop knows no Hydra, no W&B and no SLURM. It leaves rows, checkpoints and signals to an
:class:`~fsamlab.train.observer.Observer`. The random numbers of a step are a function of (seed, step), and the order of
the samples is a function of (seed, epoch). Therefore no state of a random generator has to be saved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fsamlab import metrics
from fsamlab.config import TrainConfig
from fsamlab.data import Batch, Data, EvalSource, Mixing
from fsamlab.diagnostics import Diagnostics, Snapshot
from fsamlab.optim import SharpnessAware
from fsamlab.ranks import Ranks
from fsamlab.task import Classification, Task
from fsamlab.train.averaged import AveragedWeights
from fsamlab.train.clock import Clock
from fsamlab.train.closures import AscentBatch, Passes
from fsamlab.train.divergence import Divergence
from fsamlab.train.evaluation import evaluate, evaluated, means_of
from fsamlab.train.graphed import MetricSums
from fsamlab.train.meters import Best, Sums
from fsamlab.train.observer import Observer
from fsamlab.train.parallel import Parallel
from fsamlab.train.scalars import StepScalars
from fsamlab.train.step import Stepper
from fsamlab.train.unread import Unread, read_together
from fsamlab.train.work import Account


class _Interrupted(Exception):
    """Ends a measurement early because the run has to stop. On its way out, the weights of the run are restored."""


class Trainer:
    """Trains `model` on `data` with `optimizer`; its attributes are the state of the training.

    Args:
        model: the network, on `device`, with the weights to start from.
        optimizer: any variant. The learning rates of its param_groups are the peak of the schedule.
        data: training, validation and test data.
        cfg: the settings under `train`.
        epochs: number of passes over the training set.
        seed: decides dropout and all other random numbers of the steps.
        device: the device of the model.
        task: gives the forward pass, the loss and the metrics; None means classification with `cfg.label_smoothing`.
        diagnostics: makes the measurements, at its own intervals; None means no measurements.
        ascent_batch: which samples the ascent batch has, for variants with an ascent batch of its own.
        mixing: mixes the batches that the steps see (mixup, CutMix); None means unmixed batches.
        ranks: the processes that train the model together; None means this process alone.
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
        ascent_batch: AscentBatch | None = None,
        mixing: Mixing | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks.alone(device)
        self.model, self.optimizer, self.data, self.cfg = model, optimizer, data, cfg
        self.seed, self.device, self.diagnostics = seed, device, diagnostics
        self.task = task if task is not None else Classification(cfg.label_smoothing)
        self.passes = Passes(
            model,
            self.task,
            optimizer,
            data.train,
            cfg,
            device,
            ascent_batch=ascent_batch or AscentBatch(),
            mixing=mixing,
            poll=lambda: self._observer.poll(),
            parallel=Parallel(cfg, self.ranks),
        )
        self.averaged = None if cfg.ema_decay is None else AveragedWeights(model, cfg.ema_decay)
        self.steps_per_epoch = data.train.num_batches()
        self.epochs = epochs
        self.total_steps = epochs * self.steps_per_epoch
        self.last_step = min(self.total_steps, cfg.max_steps or self.total_steps)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        warmup_steps = round(cfg.warmup_epochs * self.steps_per_epoch)
        self.stepper = Stepper(self.passes, optimizer, cfg, seed, self.total_steps, warmup_steps)
        self.step = 0  # finished optimizer steps
        self.boundary_done = True  # whether the evaluation and the row of the current step are done
        self.sums = Sums(device)
        self.best = Best(self.task)
        self.divergence = Divergence(device)
        self.scalars = StepScalars(diagnostics.cfg.every_steps if diagnostics else None, device)
        self.clock, self.account = Clock(), Account()
        self.last_row: dict[str, float] = {}

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.step // self.steps_per_epoch

    @property
    def headline(self) -> metrics.Headline:
        """The headline metric of the task."""
        return self.task.declaration

    def fit(self, observer: Observer, until: int | None = None) -> dict[str, float]:
        """Train from the current state to the end; return the last row.

        Args:
            observer: takes rows, checkpoints and signals.
            until: the epoch after which the loop stops before the end. The state is then that of a training that was
                interrupted there: schedule and rows are those of the whole training, and a later call continues it.
        """
        self._observer = observer
        last_step = self.last_step if until is None else min(self.last_step, until * self.steps_per_epoch)
        if not self.boundary_done:  # the run was stopped inside the evaluation of this step
            self._boundary()
        while self.step < last_step:
            for batch in self.passes.batches(self.epoch, self.step % self.steps_per_epoch):
                start = time.perf_counter()
                self._step(batch)
                ends_epoch = self.step % self.steps_per_epoch == 0
                if self.device.type == "cuda" and ends_epoch:
                    torch.cuda.synchronize()  # else the time of an epoch would be the time to queue its work
                self.clock.add_step(time.perf_counter() - start, ends_epoch=ends_epoch)
                self._boundary()
                if self.step >= last_step:
                    break
        return self.last_row

    def _step(self, batch: Batch) -> None:
        """Make one optimizer step. The state of the trainer changes only after the optimizer has finished the step."""
        self.scalars.request(self.optimizer, self.step + 1)
        loss, sums = self.stepper.make(batch, self.step)
        self.step += 1
        self.boundary_done = False
        self.account.add(self.passes.work)
        if self.averaged is not None:
            self.averaged.update(self.model, self.step)
        self.scalars.take(self.optimizer, loss)
        self._count(loss, sums, batch.size)

    def _count(self, loss: Tensor, sums: MetricSums, n: int) -> None:
        if self.optimizer.has_clean_loss:
            self.sums.add("train/loss", loss, n)
        if "loss_perturbed" in self.optimizer.scalars:
            self.sums.add("train/loss_perturbed", self.optimizer.scalars["loss_perturbed"], n)
        for key, parts in sums.items():  # empty if no pass over the batch followed a non-finite ascent gradient
            total = parts[0] if len(parts) == 1 and parts[0].dim() == 0 else torch.stack(parts).sum()
            self.sums.add(f"train/{key}", total / n, n)
        if sums or self.passes.precision.scaler is None:  # in fp16 an overflow may come before the batch's first loss
            self.divergence.look(loss, self.step)
        if self.device.type == "cpu":  # a GPU would have to be waited for in each step; there each row looks
            self._stop_if_diverged()

    def _stop_if_diverged(self) -> None:
        if self.cfg.on_divergence == "stop":
            self.divergence.stop()

    def _boundary(self) -> None:
        """Evaluate, write the row, let the observer write a checkpoint.

        The order matters: a checkpoint tells by `boundary_done` whether the row of its step is written. A signal inside
        the evaluation writes a checkpoint before the row, and the resumed run then makes the row. So no row is missing,
        and none is there twice.
        """
        if not self.boundary_done:
            end = self.step == self.last_step
            epoch_done = self.step % self.steps_per_epoch == 0
            every = self.cfg.log_every_steps
            evaluates = end or (epoch_done and self.epoch % self.cfg.eval_every_epochs == 0)
            measures = self.diagnostics is not None and self.diagnostics.due(
                self.step, self.steps_per_epoch, self.last_step
            )
            logs = every is not None and self.step % every == 0
            if evaluates or measures or epoch_done or logs or self.scalars.values:
                if self.device.type == "cpu":
                    self._stop_if_diverged()
                self._row(evaluates, measures)
            self.boundary_done = True
        self._observer.boundary()

    def _row(self, evaluates: bool, measures: bool) -> None:
        with self.clock.evaluating() if evaluates else nullcontext():  # the read waits for the evaluation
            evaluations = self._evaluate_all() if evaluates else {}
            counts = {**self.optimizer.counters(), "diverged_at": self.divergence.at}
            of_choices = self.optimizer.choices.logged(self.step)
            scaled = self.passes.precision.logged(self.optimizer)
            groups: list[Unread] = [self.sums.means(), self.scalars.values, counts, of_choices, scaled]
            means, scalars, counted, logged, of_precision, *found = read_together(*groups, *evaluations.values())
        if counted["diverged_at"] >= 0:
            self._stop_if_diverged()
        row: dict[str, float] = {"step": self.step, "epoch": self.step / self.steps_per_epoch}
        row.update(self._train_means(means))
        row["train/lr"] = max(group["lr"] for group in self.optimizer.param_groups)  # optimizer.layer_decay: the head's
        row.update(self.scalars.defined(scalars))
        if self.optimizer.choices.ascent.perturbs:
            row["perturbation/floored_share"] = counted["num_floored"] / self.step
            row["perturbation/skipped_share"] = counted["num_nonfinite"] / self.step
            row.update(logged)
        row.update(of_precision)
        for part, values in zip(evaluations, found):
            row.update({f"{part}{key}": value for key, value in means_of(values, self.task).items()})
        if measures:
            try:
                row.update(self._measure())
            except _Interrupted:
                self._observer.poll()  # the weights are those of the step, so the state may be saved now
                raise
        row["time"] = round(self.clock.total, 3)
        row["time/step_ms"] = self.clock.step_ms(self.step, self.steps_per_epoch)
        self._observer.row(row)
        self.last_row = row
        if evaluates:
            self.best.update(row)
            self.sums.reset()

    def _train_means(self, means: dict[str, float]) -> dict[str, float]:
        """Return the means since the last evaluation: the losses, and the metrics of the first pass of each step."""
        row = {key: value for key, value in means.items() if key.startswith("train/loss")}
        of_task = {key.removeprefix("train/"): value for key, value in means.items() if key not in row}
        if of_task:
            row.update({f"train/{key}": value for key, value in self.task.values(of_task).items()})
        return row

    def _evaluate_all(self) -> dict[str, Unread]:
        """Return what the keys of the evaluations begin with -> the means, unread."""
        models = {"": self.model} if self.averaged is None else {"": self.model, "ema_": self.averaged.model}
        self.passes.parallel.share_buffers(list(models.values()))
        sources = {
            part: source for part, source in (("val", self.data.val), ("test", self.data.test)) if source is not None
        }
        return {
            f"{part}/{of}": evaluated(self.passes, source, self._observer.poll, model)
            for part, source in sources.items()
            for of, model in models.items()
        }

    def evaluate(self, source: EvalSource) -> dict[str, float]:
        """Return loss and metrics of the present weights on data of any kind, as rows have them for `test/`."""
        return evaluate(self.passes, source, lambda: None)

    def _measure(self) -> dict[str, float]:
        """Return the measured quantities on rank 0, which measures alone, as one process does; elsewhere nothing."""
        with self.clock.measuring():
            found = self.ranks.on_main(self._measure_here, self._observer.stopping)
            if self.ranks.broadcast(found is None):
                raise _Interrupted
        return found or {}

    def _measure_here(self, stopping: Callable[[], bool]) -> dict[str, float] | None:
        """Measure at the present weights; None if the run has to stop."""
        assert self.diagnostics is not None

        def leave() -> None:
            if stopping():
                raise _Interrupted

        try:
            return self.diagnostics.measure(self.snapshot(), leave)
        except _Interrupted:
            return None  # the measurement has restored the weights

    def snapshot(self) -> Snapshot:
        """Return the state of the training for the measurements."""
        assert self.diagnostics is not None
        sampling = self.passes.sampling(self.diagnostics.batch_size, self.steps_per_epoch)
        layout = self.passes.memory_format
        return Snapshot(self.model, self.optimizer, self.step, self.seed, sampling, self._coming_batches, layout)

    def _coming_batches(self) -> Iterator[Batch]:
        """Yield the batches of the next steps, without end: after the last step come further epochs."""
        step = self.step
        while True:
            for batch in self.data.train.batches(*divmod(step, self.steps_per_epoch)):
                yield batch
                step += 1

    def summary(self) -> dict[str, float]:
        """Return the numbers of the run: at the end, at the best validation epoch, cost, and counts."""
        final = {f"final/{k}": v for k, v in self.last_row.items() if metrics.of(k).final}
        cost = {
            "cost/steps": self.step,
            "cost/epochs": self.step / self.steps_per_epoch,
            **self.account.cost(self.step / self.steps_per_epoch),
            **self.clock.cost(),
            "cost/step_ms": self.clock.step_ms(self.step, self.steps_per_epoch),
        }
        counts: dict[str, float] = {}
        if self.optimizer.choices.ascent.perturbs:
            counts["perturbation/num_floored"] = int(self.optimizer.num_floored)
            counts["perturbation/num_skipped"] = self.optimizer.num_nonfinite
        if int(self.divergence.at) >= 0:
            counts["train/diverged_at"] = int(self.divergence.at)
        return {**final, **self.best.summary(), **cost, **counts}

    def conventions(self) -> dict[str, str | int | float]:
        """Return what the measured values depend on besides the model; empty if nothing is measured."""
        if self.diagnostics is None or not self.diagnostics.cfg.quantities:
            return {}
        return self.diagnostics.conventions(self.snapshot())

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which :meth:`fit` continues; checkpoints of earlier versions have the same keys."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "boundary_done": self.boundary_done,
            "sums": self.sums.state_dict(),
            "best": self.best.state_dict(),
            "diverged_at": int(self.divergence.at),
            **self.clock.state_dict(),
            **self.account.state_dict(),
            **self.scalars.state_dict(),
            **self.passes.precision.state_dict(),
            **({} if self.averaged is None else {"averaged": self.averaged.state_dict()}),
            "last_row": dict(self.last_row),
            **self.passes.parallel.state_dict(self.optimizer),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state_dict` of the same configuration."""
        self.stepper.graphed = None  # graphs write to the addresses of the former state
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(self.passes.parallel.optimizer_state(state))
        self.step, self.boundary_done = state["step"], state["boundary_done"]
        self.sums.load_state_dict(state["sums"])
        self.best.load_state_dict(state["best"])
        self.divergence.at.fill_(state["diverged_at"])
        self.clock.load_state_dict(state)
        self.account.load_state_dict(state)
        self.scalars.load_state_dict(state)
        self.passes.precision.load_state_dict(state)
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.last_row = dict(state["last_row"])
