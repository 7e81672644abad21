"""The two phases of a step: move the weights to w + eps; put the weights back and let the base optimizer step.

Between the phases the caller takes the gradient at w + eps. sharpness_aware.py takes the gradient with closures.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from fsamlab.axes import rules
from fsamlab.axes._ops import Foreach, Loop, Number, Ops, Tensors, global_norm, number
from fsamlab.axes.axis import Part, Step, step_seed
from fsamlab.axes.choices import Choices
from fsamlab.axes.descent import Descent
from fsamlab.axes.sharded import is_sharded, refuse_flat
from fsamlab.checks import in_range
from fsamlab.optim.accumulation import mark_used
from fsamlab.optim.counting import Counting
from fsamlab.optim.displacement import Displacement
from fsamlab.optim.entries import check_names, check_needs
from fsamlab.optim.fed import Fed
from fsamlab.optim.gather import active, follow, kept_gradients, named_weights, sorted_parts
from fsamlab.optim.guards import forget_weight_copies
from fsamlab.optim.kept import Kept
from fsamlab.optim.length import planned
from fsamlab.optim.passes import Passes, refuse_two_phases
from fsamlab.optim.scalars import Recorder
from fsamlab.optim.scaling import Scaling
from fsamlab.optim.state import Shared
from fsamlab.optim.verdict import Mask, Verdict, both, is_left_out
from fsamlab.optim.wrapper import hooked


class TwoPhase(Counting):
    """A wrapper with :meth:`ascend` and :meth:`descend`; arguments and attributes as in SharpnessAware."""

    scalars = Shared[dict[str, Tensor]]()
    record_scalars = Shared[bool]()
    _perturbing = Shared[bool]()  # what was decided of the step that was begun
    _clean = Shared[dict[Tensor, Tensor]]()  # gradients at the unperturbed weights, where the descent needs them
    _path = Shared["list[dict[Tensor, Tensor]]"]()  # gradients between the ascent steps, where the descent needs them
    _finite = Shared[Verdict]()
    fed: Fed | None = None  # where steps are captured: what the host makes for a step, in tensors

    def __init__(
        self,
        base: Optimizer,
        choices: Choices,
        *,
        rho: float,
        floor: float,
        model: nn.Module | None,
        seed: int,
        max_grad_norm: float | None,
        skip_nonfinite: bool,
        foreach: bool,
        same_rng: bool,
        process_group: Any,
        grad_scaler: torch.amp.GradScaler | None,
    ) -> None:
        rules.RHO.check("rho", rho)
        rules.FLOOR.check("floor", floor)
        in_range("max_grad_norm", max_grad_norm, 0, open_low=True)
        self.model, self.max_grad_norm, self.same_rng = model, max_grad_norm, same_rng
        self.scaling, self.foreach = Scaling(grad_scaler, skip_nonfinite), foreach
        self.displacement, self.passes = Displacement(), Passes(choices, model)
        super().__init__(
            base, choices, rho=rho, floor=floor, seed=seed, group=process_group, skip_nonfinite=skip_nonfinite
        )
        self.scalars, self.record_scalars = {}, False
        self._finite, self._perturbing, self._clean, self._path = True, False, {}, []
        self._look_at_parameters()
        self._weights = named_weights(model, choices)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; it may bring its own `rho`."""
        super().add_param_group(param_group)
        if hasattr(self, "_weights"):  # not while torch's constructor runs
            self._look_at_parameters()
            self._weights = named_weights(self.model, self.choices)

    def _begin(self) -> None:
        """Start a step; the parameters may have been moved to another device since the last step."""
        self._forget_blank_state()
        self._look_at_parameters()
        self._follow_device()
        self.displacement.last = []
        self.scalars, self.passes.sample_losses = {}, []
        if self.num_steps <= 1:
            check_names(self.choices, self._own, self.base)
        if self.base.state or getattr(self, "_opt_called", False):  # SGD without momentum keeps nothing
            check_needs(self.choices, self.base)

    def _look_at_parameters(self) -> None:
        params = list(self.parameters())
        refuse_flat(params)
        self.devices = tuple(dict.fromkeys(p.device for p in params))
        self.ranks.device = self.devices[0]
        sharded = any(is_sharded(p) for p in params)
        self._sharded_model = self.model if sharded else None
        self.ops: Ops = Foreach if self.foreach and not sharded and len(self.devices) == 1 else Loop

    @property
    def perturbs(self) -> bool:
        """Whether the coming step perturbs the weights."""
        raise NotImplementedError

    def ascend(self) -> None:
        """First phase: the ascent batch's gradients are in p.grad; move the weights to w + eps.

        The gradient tensors are taken over (p.grad is None afterwards), since the EMA is fed with them only when the
        second phase has ended well. In a step that does not perturb (ascent=none, `every`, rho 0) the weights stay
        where they are and :meth:`descend` is the base's step; :attr:`perturbs` tells beforehand. Run the second
        forward under :func:`frozen_batchnorm`, which only step() can do by itself.

        Raises:
            RuntimeError: the variant needs a pass over data, or a random state, that step() alone can see to; or
                ascend() twice.
        """
        refuse_two_phases(self.choices, self.same_rng)
        self._begin()
        self._perturbing = self.perturbs and self._decide()
        self._ascend()

    @torch.no_grad()
    def _ascend(self) -> None:
        """Move the weights along the gradients in p.grad."""
        if self._parts is not None:
            raise RuntimeError(
                "ascend() twice without descend(), which a GradScaler's step() leaves out after an overflow: call "
                "descend() yourself; restore() gives up the step that was begun"
            )
        try:
            self._perturb()
        except BaseException:
            self.restore()
            raise

    @torch.no_grad()
    def _ascend_further(self) -> bool:
        """Move the weights on from w + eps, along the gradients there; return whether the step goes on."""
        self._perturb(further=True)
        return not is_left_out(self._finite)

    def _perturb(self, further: bool = False) -> None:
        self.scaling.undo(self._gradients(), self.ops)
        parts = self._gather(further) if self._perturbing else self._drop_gradients()
        if not further:  # states and scalars are about the gradients at w
            self._parts, self._finite = parts, True
        a = [x for part in parts for x in part.a]
        norm_a = number(global_norm(a, self.ops))
        self._finite = both(self._finite, self._ascent_verdict(norm_a))
        if not parts or is_left_out(self._finite):
            return
        self.choices.metric.prepare(a, [p for part in parts for p in part.params])
        recorded = self.record_scalars and not further
        recorder = Recorder(parts, norm_a, self.choices, self.ops) if recorded else None
        self.choices.component.set_direction(parts, self.ops)
        move = planned(parts, norm_a, self.num_steps, self.choices, self._weights, self._own, self.ops, self.floor)
        if not further:
            floored = move.floored if isinstance(self._finite, bool) else Mask(self._finite).number(move.floored, 0)
            self.num_floored = self.num_floored + floored
        self.displacement.move(parts, move.direction, move.scale, self._finite, self.ops, self._sharded_model)
        if recorder is not None:
            self.scalars.update(recorder.scalars(parts, move))

    @hooked
    @torch.no_grad()
    def descend(self) -> None:
        """Second phase: the gradients at w + eps are in p.grad; restore the weights, step the base.

        This method sees no loss: a loss that is not finite does not stop a step whose gradients are finite.
        """
        self._descend([])

    def first_step(self, zero_grad: bool = False) -> None:
        """Call :meth:`ascend`, under the name of the popular PyTorch port; the gradients are taken over in any case."""
        self.ascend()

    def second_step(self, zero_grad: bool = False) -> None:
        """Call :meth:`descend`, under the name of the popular PyTorch port."""
        self.descend()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Give up a step between :meth:`ascend` and :meth:`descend`: put the weights back, forget the direction.

        For a loop that ends between the phases (an exception in the second pass, Ctrl-C). Does nothing at other times.
        """
        self.displacement.put_back(self.ops, self._sharded_model)
        self._parts, self._clean, self._path = None, {}, []

    # Ctrl-C may come at any line. Each try block here leaves the weights as they have to be by its own last line; its
    # except block does the same work again, for an interrupt that came before. What EMA and base have taken in until
    # then stays: a step that is cut short there may count in one of them and not in the other.

    def _descend(self, losses: Tensors) -> None:
        """Run the second phase; leave the step out if one of `losses` is not finite on some rank."""
        if self._parts is None:
            raise RuntimeError("descend() without ascend()")
        try:
            self.displacement.put_back(self.ops, self._sharded_model)
            perturbed = self._perturbing
            finite = self._finite if perturbed else True
            if not is_left_out(finite):
                finite = both(finite, self._verdict(losses, perturbed))
            parts, self._parts = self._parts, None
            self._finish(finite, parts if perturbed else None, plain=not perturbed)
        except BaseException:
            self.restore()
            raise

    def _finish(self, finite: Verdict, parts: list[Part] | None, plain: bool) -> None:
        """Take the step with the base and update the choices, or leave the step out; count the step.

        Args:
            finite: whether the step is taken.
            parts: of a perturbed step; None if the choices are updated already, and in a plain step.
            plain: whether the step does not perturb.
        """
        finite = self._needed(finite)
        self.scaling.before_the_base(self, finite)
        take = partial(self._take, parts, plain)
        if isinstance(finite, Tensor):
            acts = parts is not None or (plain and self.choices.acts_between(self.num_steps))
            writes = parts is not None and type(self.choices.descent).after is not Descent.after
            saved, called = self.displacement.saved(), getattr(self, "_opt_called", False)
            kept = Kept(self.choices, self._own if acts else None, list(self.parameters()), self.base, saved, writes)
            if not kept.run(take, finite):
                self._opt_called = called  # the base has no state yet that a choice could miss
            self._num_nonfinite = self._num_nonfinite + (~finite).long()
        elif finite:
            take()
        else:
            self._num_nonfinite += 1
        self._clean, self._path = {}, []
        self.num_steps += 1
        mark_used(self.parameters())

    @torch.no_grad()
    def _take(self, parts: list[Part] | None, plain: bool) -> None:
        step = None
        if parts is not None:
            step = self._look([p for part in parts for p in part.params], parts)
            self.choices.descent.set_gradients(step)
            self._commit(parts)
        elif plain and self.choices.acts_between(self.num_steps):
            between = self._look([p for _, p in self._active()])
            for choice in self.choices.made():
                choice.between(between)
        with self.fed.rates(self.param_groups) if self.fed is not None else nullcontext():
            self._base_step()
            if step is not None:
                while self.choices.descent.more(step):
                    self._base_step()
                self.choices.descent.after(step)

    @torch.no_grad()
    def _decide(self) -> bool:
        """Return whether a step that may perturb does so; the clean gradients are in p.grad, and stay there."""
        if not self.choices.when.needs_clean:
            return True
        gradients = self._gradients()
        self.scaling.undo(gradients, self.ops)
        decided = self.choices.when.decide(self._look([p for _, p in self._active()]))
        self.scaling.redo(gradients, self.ops)
        return self.ranks.all_agree(decided)

    def _look(self, params: Tensors, parts: list[Part] | None = None) -> Step:
        """Return the view of this step that the choices get."""
        return Step(
            number=self.num_steps,
            seed=step_seed(self.seed, self.num_steps),
            params=params,
            state=self._own,
            base=self.base.state,
            groups=self.param_groups,
            ops=self.ops,
            weights=self._weights,
            parts=parts or [],
            clean=self._clean,
            path=self._path,
            sample_losses=self.passes.sample_losses,
        )

    def _verdict(self, losses: Tensors, perturbed: bool) -> Verdict:
        """Return whether losses and gradients are finite: the same answer on all ranks.

        A step that did not perturb is the base's own business, unless its gradients are scaled.
        """
        looks = perturbed or self.scaling.scaler is not None or self.choices.acts_between(self.num_steps)
        if not self.skip_nonfinite or not looks:
            return True
        # A descent reads gradients of all parameters; the ascent's verdict saw those of its parts, unless it was noise.
        kept: Tensors = []
        if self._clean or self._path:
            seen = {p for part in self._parts or () for p in part.params} if self.choices.ascent.has_mean else set()
            kept = [x for gradients in (self._clean, *self._path) for p, x in gradients.items() if p not in seen]
        norms = [global_norm(tensors, self.ops) for tensors in (self._gradients(), kept) if tensors]
        return self._unread(self.ranks.all_finite([*losses, *norms]))

    def step_radii(self) -> list[float]:
        """Return rho of each group in the coming step, as far as rho is known before the passes."""
        factor, number = self.choices.radius.factor, self.num_steps
        return [rho and rho * factor(number, group) for rho, group in zip(self.radii(), self.param_groups)]

    def _active(self) -> list[tuple[Number, Tensor]]:
        radii = self.signed_radii()
        numbers: list[Number] = list(radii)
        if self.fed is not None and not self.choices.radius.is_constant:
            numbers = [self.fed.number(("rho", i), partial(self._radius, i)) for i in range(len(radii))]
        return active(self.param_groups, radii, numbers)

    def _radius(self, i: int) -> float:
        return self.signed_radii()[i]

    def signed_radii(self) -> list[float]:
        """Return :meth:`step_radii`, negative for a group that maximizes: its worst case is a small objective."""
        signs = [-1 if group.get("maximize") else 1 for group in self.param_groups]
        return [sign * rho for sign, rho in zip(signs, self.step_radii())]

    def coming_step(self) -> Step:
        """Return the view of the coming step before its passes."""
        return self._look([p for _, p in self._active()])

    def _gather(self, further: bool) -> list[Part]:
        """Take the ascent gradients over, sorted into parts of equal rho and form of the reference."""
        params = self._active()
        follow((p for _, p in params), self._own)
        if further and self.choices.descent.needs_path:
            self._path = [*self._path, kept_gradients(self.parameters(), self.choices)]
        elif not further and self.choices.descent.needs_clean:
            self._clean = kept_gradients(self.parameters(), self.choices)
        step = self._look([p for _, p in params])
        step.drawn = self.fed.noise(step.params) if self.fed is not None else []
        gradients = self.choices.ascent.gradients(step)
        parts = sorted_parts(params, gradients, self.choices, self._own)
        self._drop_gradients()
        return parts

    def _gradients(self) -> Tensors:
        return [g for p in self.parameters() if (g := p.grad) is not None]

    def _drop_gradients(self) -> list[Part]:
        """Set every p.grad to None, as an ascent does; return no parts."""
        for p in self.parameters():
            p.grad = None
        return []

    def _commit(self, parts: list[Part]) -> None:
        # The reference comes last: it may write to the tensors that the others still have gradients back from.
        for choice in sorted(self.choices.made(), key=lambda choice: choice is self.choices.reference):
            choice.commit(parts, self._own, self.ops)

    def _base_step(self) -> None:
        if self.max_grad_norm is not None:
            clip_grad_norm_(list(self.parameters()), self.max_grad_norm)
        try:
            self._step_base()
            forget_weight_copies(self._sharded_model)
        except BaseException:
            forget_weight_copies(self._sharded_model)
            raise
