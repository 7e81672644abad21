"""The wrapper: perturb the weights, take the gradient there, let the base optimizer step from here.

    a   = ascent gradient                      axes/ascent.py
    d   = component of a                       axes/component.py
    eps = rho T^2 d / |T d|                    axes/metric.py
    w  <- base step at w with grad L_B(w + eps), or with the gradient that axes/descent.py makes of that one

This module orders the passes over data (passes.py); two_phase.py says what happens between the passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fsamlab.axes import rules
from fsamlab.axes._ops import Tensors
from fsamlab.axes.ascent import Ascent
from fsamlab.axes.axis import FULL, FULL_GRADIENT, OTHER_BATCH, Part
from fsamlab.axes.choices import Choices
from fsamlab.axes.component import Component
from fsamlab.axes.descent import Descent
from fsamlab.axes.metric import Metric
from fsamlab.axes.radius import Radius
from fsamlab.axes.reference import Reference
from fsamlab.axes.when import When
from fsamlab.optim.accumulation import BACKWARD_BEFORE, Accumulated, keeping
from fsamlab.optim.guards import rng_state
from fsamlab.optim.kept import Kept
from fsamlab.optim.passes import Checked, Closure
from fsamlab.optim.scaling import refuse_a_scalers_step
from fsamlab.optim.state import Shared
from fsamlab.optim.two_phase import TwoPhase
from fsamlab.optim.verdict import Verdict, both, is_left_out
from fsamlab.optim.wrapper import hooked


class SharpnessAware(TwoPhase):
    """One optimizer for the whole family; a variant is a choice on each axis.

    Args:
        base: any torch optimizer over the parameters; its param_groups are this one's, with `rho` added.
        ascent, component, reference, metric, descent, when, radius: names in the tables of fsamlab.axes, or classes.
        rho: radius, for groups that do not bring their own; a group with rho 0 is not perturbed, leaves
            the joint norm and keeps no EMA.
        floor: |d| <= floor * |a| leaves the weights unperturbed: d is rounding noise there.
        model: whose batch norms are kept from counting a batch twice, and whose parameter names tell ASAM
            which of them are weights. Without it both are the caller's business.
        same_rng: the perturbed pass replays the random state of the clean one (same dropout masks).
        seed: of the random direction.
        max_grad_norm: clips the descent gradient, never the ascent gradient.
        skip_nonfinite: a perturbing step with a non-finite ascent gradient, perturbed loss or descent gradient leaves
            weights, EMA and base state untouched and is counted in `num_nonfinite`. On CUDA the host waits for no such
            decision, but in few cases (docs/devices.md): such a step runs to its end and is taken back on the device.
            With torch.distributed the step is left out on all ranks if it is not finite on one of them: two small
            reductions a step, on each rank.
        foreach: multi-tensor calls; False, and sharded parameters or several devices, give a loop over tensors.
        process_group: the ranks that train these weights together; None is torch.distributed's default group. Ranks
            that train on their own need a group of one each.
        grad_scaler: the scaler whose scale() the closures' losses go through before backward(). Gradients are unscaled
            here, in both passes, and a step in which either overflows is left out whole; call its update() after each
            step, never its step() or unscale_(). Without this argument gradients must not be scaled: the EMA would mix
            scales.
        total_steps: of the whole training, for choices that go by the share of training: `start`, `stop`.
        **parameters: of the choices: sigma, lmbda, eta, ...; `every` perturbs in every k-th step, with plain base steps
            between, `start` and `stop` (shares of training) in a part of the training alone.

    Attributes:
        scalars: of the last step, 0-dim tensors on the device: `loss_perturbed`, and `perturbation/...` when
            `record_scalars` was set before the step.
        num_floored: steps left unperturbed by the floor; a 0-dim tensor unless the device is the CPU.
    """

    _full_step = Shared["int | None"]()  # in which the stored full gradient was computed

    def __init__(
        self,
        base: Optimizer,
        *,
        ascent: str | type[Ascent] = "batch",
        component: str | type[Component] = "all",
        reference: str | type[Reference] | None = None,
        metric: str | type[Metric] = "l2",
        descent: str | type[Descent] = "perturbed",
        when: str | type[When] = "every",
        radius: str | type[Radius] = "constant",
        rho: float = 0.05,
        floor: float = 1e-5,
        model: nn.Module | None = None,
        same_rng: bool = False,
        seed: int = 0,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = True,
        foreach: bool = True,
        process_group: Any = None,
        grad_scaler: torch.amp.GradScaler | None = None,
        total_steps: int | None = None,
        **parameters: Any,
    ) -> None:
        names = dict(ascent=ascent, component=component, reference=reference, metric=metric, descent=descent, when=when)
        choices = Choices({**names, "radius": radius}, parameters)
        rules.check_same_rng(same_rng, choices.ascent)
        choices.train_for(total_steps)
        super().__init__(
            base,
            choices,
            rho=rho,
            floor=floor,
            model=model,
            seed=seed,
            max_grad_norm=max_grad_norm,
            skip_nonfinite=skip_nonfinite,
            foreach=foreach,
            same_rng=same_rng,
            process_group=process_group,
            grad_scaler=grad_scaler,
        )
        self._full_step = None

    @property
    def has_clean_loss(self) -> bool:
        """Whether the descent batch is evaluated at the unperturbed weights; step() then returns that loss."""
        return self.choices.ascent.has_clean_loss

    @property
    def needs_ascent(self) -> str | None:
        """`other_batch` or `full` where step() takes an ascent_closure on such data."""
        return self.choices.ascent.needs

    @property
    def needs_reference(self) -> bool:
        """Whether step() takes a reference_closure over the full training set."""
        return self.choices.reference is not None and self.choices.reference.needs == FULL

    @property
    def full_is_due(self) -> bool:
        """Whether the coming step, if it perturbs, makes a pass over the full training set where a choice needs one."""
        return self._full_step is None or self.num_steps - self._full_step >= self.choices.full_every_steps

    @property
    def needs_sample_losses(self) -> bool:
        """Whether closures have to return a Pass with the losses of the samples."""
        return self.choices.needs_sample_losses

    @property
    def perturbs(self) -> bool:
        """Whether the coming step perturbs the weights: it is the turn of the step, and a group has rho > 0.

        Where `when` waits for the clean gradient, True means that the step may perturb.
        """
        turn = self.choices.ascent.perturbs and self.choices.when.turn(self.num_steps)
        return turn and any(rho > 0 for rho in self.step_radii())

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Closure | None = None,
        ascent_closure: Closure | None = None,
        reference_closure: Closure | None = None,
    ) -> Tensor:
        """Make one step; return the clean loss where the variant has one, else the perturbed loss.

        After :meth:`ascend` this method is the second phase, for loops that call step() in any case: it runs the
        closure, if there is one, at w + eps, and goes on as :meth:`descend`.

        Args:
            closure: zeroes the gradients, runs forward and backward on the descent batch, returns the loss, or a
                :class:`Pass` with the losses of the samples.
            ascent_closure: the same on the ascent batch, for ascent=other_batch and full.
            reference_closure: the same over the full training set, for reference=full.

        Raises:
            ValueError: a closure that the variant needs is missing.
            RuntimeError: the closure adds to the gradients of batches that ran before step(): the pass at w + eps would
                not see these batches; or a GradScaler makes this call.
        """
        if self._parts is not None:
            return self._second_phase(closure)
        refuse_a_scalers_step()
        if closure is None:
            if self._asked_for_state():
                self._make_blank_state(self.choices.blank if self.choices.ascent.perturbs else lambda p: {})
                return torch.zeros((), device=self.device)
            raise ValueError(
                f"step() needs a closure: zero_grad, forward, backward, return the loss; {BACKWARD_BEFORE}"
            )
        self._begin()
        descent = self.passes.checked(closure, self.device)
        self._perturbing = self.perturbs
        if not self._perturbing:
            loss = descent()
            self._finish(self._verdict([], perturbed=False), None, plain=True)
            return loss
        random = rng_state(self.devices) if self.same_rng else None
        descent = Accumulated(self.parameters()).guarded(descent)
        try:
            clean = self._ascent_pass(descent, ascent_closure, reference_closure)
            self._perturbing = self._decide()
            if not self._perturbing:
                assert clean is not None  # what a late decision is made on
                self._finish(self._verdict([], perturbed=False), None, plain=True)
                return clean
            self._ascend()
            if is_left_out(self._finite):
                self._descend([])
                return torch.full((), math.nan, device=self.device) if clean is None else clean
            perturbed = self.passes.climb(descent, clean is not None, random, self._ascend_further)
            self._descend(perturbed)
        except BaseException:
            self.restore()
            raise
        self.scalars["loss_perturbed"] = perturbed[-1]
        return perturbed[-1] if clean is None else clean

    def _second_phase(self, closure: Closure | None) -> Tensor:
        """End the step that ascend() has begun; return the loss at w + eps, nan where no closure tells a loss."""
        made: list[Any] = []

        def run() -> Any:
            assert closure is not None
            made.append(closure())
            return 0.0 if made[0] is None else made[0]  # Lightning's step() without a closure gives one without a loss

        losses: Tensors = []
        try:
            refuse_a_scalers_step()
            if closure is not None:
                last = keeping(self.parameters(), self.passes.checked(run, self.device))
                loss = self.passes.perturbed(last, self.has_clean_loss, None)
                losses = [] if made[0] is None else [loss]
            self._descend(losses)
        except BaseException:
            self.restore()
            raise
        if not losses:
            return torch.full((), math.nan, device=self.device)
        self.scalars["loss_perturbed"] = losses[0]
        return losses[0]

    def _asked_for_state(self) -> bool:
        """Return whether torch.distributed.checkpoint asks for a state to load into.

        It calls step() without a closure, with lr 0 and gradients of 0, on an optimizer that has no state.
        """
        rates = [float(group["lr"]) for group in self.param_groups if "lr" in group]
        return not self.state and bool(rates) and not any(rates)

    @hooked
    @torch.no_grad()
    def step_micro(self, closures: Sequence[Closure]) -> Tensor:
        """m-SAM: one perturbation for each micro-batch, one base step with the mean of their gradients.

        Each micro-batch updates the EMA in turn, and micro-batches count equally. One that is not finite has the whole
        step left out: the EMA is then what it was before the first micro-batch.

        Raises:
            ValueError: the ascent gradient does not come from the micro-batch itself.
        """
        if not closures:
            raise ValueError("step_micro() needs one closure for each micro-batch, and there is none")
        if not self.choices.per_micro_batch:
            raise ValueError(f"{self.choices.words()}: one perturbation per micro-batch needs ascent=batch")
        self._begin()
        perturbs, share = self.perturbs, 1 / len(closures)
        self._perturbing = perturbs
        before = Kept(self.choices, self._own, list(self.parameters())) if perturbs and self.skip_nonfinite else None
        finite: Verdict = True
        clean: Tensors = []
        perturbed: Tensors = []
        mean: dict[Tensor, Tensor] = {}
        try:
            accumulated = Accumulated(self.parameters())
            for closure in closures:
                descent = accumulated.guarded(self.passes.checked(closure, self.device))
                random = rng_state(self.devices) if self.same_rng else None
                clean.append(descent())
                if perturbs:
                    self._ascend()
                    perturbed.append(self.passes.perturbed(descent, True, random))
                    self.displacement.put_back(self.ops, self._sharded_model)
                    parts, self._parts = self._parts or [], None
                    finite = both(finite, self._finite)
                    if not is_left_out(self._finite):
                        self._commit(parts)
                for p in self.parameters():
                    if p.grad is not None:
                        mean[p] = mean[p].add_(p.grad, alpha=share) if p in mean else p.grad * share
                self._drop_gradients()  # the next closure need not zero them
            for p in self.parameters():
                p.grad = mean.get(p)
            if not is_left_out(finite):
                finite = both(finite, self._verdict([*clean, *perturbed], perturbs))
            finite = self._needed(finite)
            if before is not None:
                before.choose(finite)
            self._finish(finite, None, plain=not perturbs)
        except BaseException:
            self.restore()
            raise
        if perturbed:
            self.scalars["loss_perturbed"] = torch.stack(perturbed).mean()
        return torch.stack(clean).mean()

    # ------------------------------------------------------------------------------------ its parts

    def _ascent_pass(self, descent: Checked, ascent: Closure | None, reference: Closure | None) -> Tensor | None:
        """Leave the ascent gradient in p.grad; return the clean loss if the descent batch gave it.

        Passes over the full training set come first: a signal may end them early, and then nothing has happened yet.
        """
        choice = self.choices.ascent
        own = choice.needs == FULL
        if choice.needs or self.needs_reference:
            self._drop_gradients()  # a closure on other data that does not zero them would add to them
        if self.needs_reference or own:
            closure, name = (ascent, "ascent_closure") if own else (reference, "reference_closure")
            if self.full_is_due:
                self.passes.elsewhere(closure, name, "the full training set")
                self.scaling.undo(self._gradients(), self.ops)
                for p in self.parameters():
                    self._own[p].pop(FULL_GRADIENT, None)  # the one of a parameter that has none any more
                    if p.grad is not None:
                        self._own[p][FULL_GRADIENT] = p.grad.clone()
                self._drop_gradients()  # a closure that does not zero them would add to them
                self._full_step = self.num_steps  # last: an interrupted pass is made again
        if choice.needs == OTHER_BATCH:
            self.passes.elsewhere(ascent, "ascent_closure", choice.data)
        return descent() if choice.has_clean_loss else None

    def _finish(self, finite: Verdict, parts: list[Part] | None, plain: bool) -> None:
        if self._full_step == self.num_steps and self.choices.full_every_steps > 1:
            finite = bool(finite)  # once in each pass over the full training set
            if not finite:
                self._full_step = None  # the stored full gradient may be what was not finite: compute it again
        super()._finish(finite, parts, plain)

    def own_state(self) -> dict[str, Any]:
        """Return counters, settings and choices.

        Raises:
            RuntimeError: the weights are perturbed.
        """
        return {**super().own_state(), "full_step": self._full_step}

    def load_own_state(self, own: dict[str, Any]) -> None:
        """Restore counters and hyper-parameters."""
        if "every" in own:  # a state from before `every` was a parameter of a choice
            own = {**own, "parameters": {**own["parameters"], "every": own["every"]}}
        super().load_own_state(own)
        self._full_step = own["full_step"]
