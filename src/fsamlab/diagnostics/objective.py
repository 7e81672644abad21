"""L(w) = (1/N) sum_i l_i(w) over fixed samples: its values, gradient, and Hessian products.

The other modules of this package use these functions only. Each sample counts once, so the mean does not depend on the
sizes of the batches. Losses are summed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsamlab.diagnostics.vectors import flatten, views
from fsamlab.task import Samples as TaskSamples
from fsamlab.task import Task, cast

Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> losses of the samples (b,)
Samples = tuple[Tensor, Tensor]  # inputs (b, ...), targets (b, ...)


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return each sample's cross-entropy in nats, float64 (b,): a small loss would vanish in float32."""
    return F.cross_entropy(logits.double(), labels, reduction="none", label_smoothing=label_smoothing)


def _check_parameters(params: Sequence[Tensor]) -> None:
    if not params:
        raise ValueError("the model has no trainable parameter (all are frozen): there is nothing to measure")
    types = {p.dtype for p in params}
    if len(types) > 1 or not types <= {torch.float32, torch.float64}:
        names = ", ".join(sorted(str(t).removeprefix("torch.") for t in types))
        raise ValueError(
            f"trainable parameters of type {names} cannot be measured: all must be float32, or all float64; "
            "measure a copy, copy.deepcopy(model).float()"
        )


class Objective:
    """The mean loss of a model over fixed batches, as a function of its trainable parameters.

    Use it inside :func:`~fsamlab.diagnostics.context.measuring`. A vector (P,) holds the entries of all trainable
    parameters in the order of `model.parameters()`.

    Args:
        model: the network.
        batches: pairs (inputs, targets). If BatchNorm uses batch statistics, L depends on which samples share a batch.
        loss: a function (outputs, targets) -> losses of the samples (b,), or a task, whose losses are computed from
            outputs in float64. The mean over the samples is taken here.
        poll: called before each batch; it may raise to end the measurement.
        seeds: one seed for each batch, set before its forward pass. With dropout, L is then the loss under these masks,
            and therefore a function of w. None leaves the random state alone.

    Raises:
        ValueError: there are no samples; no parameter is trainable; or the trainable parameters are not all float32 or
            all float64.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Samples],
        loss: Loss | Task = cross_entropy,
        poll: Callable[[], None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> None:
        self.model, self.batches, self.loss_of, self.poll = model, list(batches), loss, poll
        self.seeds = None if seeds is None else list(seeds)
        self.params = [p for p in model.parameters() if p.requires_grad]
        _check_parameters(self.params)
        if self.seeds is not None and len(self.seeds) != len(self.batches):
            raise ValueError(f"{len(self.seeds)} seeds for {len(self.batches)} batches: each batch needs one")
        self.num_samples = sum(len(targets) for _, targets in self.batches)
        if not self.num_samples:
            raise ValueError("an objective needs samples")

    def of(self, batches: Sequence[Samples], seeds: Sequence[int] | None = None) -> Objective:
        """Return the objective of the same model over other batches, with new seeds."""
        return Objective(self.model, batches, self.loss_of, self.poll, seeds)

    def parts(self) -> Iterator[Objective]:
        """Yield the objective of each batch by itself."""
        for i, samples in enumerate(self.batches):
            yield self.of([samples], None if self.seeds is None else [self.seeds[i]])

    @property
    def weights(self) -> Tensor:
        """Return a copy of the parameters (P,)."""
        return flatten([p.detach() for p in self.params])

    def zeros(self) -> Tensor:
        """Return a zero vector (P,)."""
        return torch.zeros(
            sum(p.numel() for p in self.params), dtype=self.params[0].dtype, device=self.params[0].device
        )

    def _losses(self, i: int) -> Tensor:
        """Return the losses of the i-th batch's samples (b,)."""
        if self.poll is not None:
            self.poll()
        if self.seeds is not None:
            torch.manual_seed(self.seeds[i])
        inputs, targets = self.batches[i]
        if isinstance(self.loss_of, Task):  # in float64: a small loss would vanish in float32
            samples = TaskSamples(inputs, cast(targets, torch.float64))
            losses = self.loss_of.losses(cast(self.loss_of.forward(self.model, samples), torch.float64), samples)
        else:
            losses = self.loss_of(self.model(inputs), targets)
        if losses.shape != (len(targets),):
            raise ValueError(
                f"the loss has shape {tuple(losses.shape)} for {len(targets)} samples; it must give one value for each "
                'sample, shape (b,): use reduction="none", the mean is taken by the objective'
            )
        return losses

    def _differentiable(self, i: int) -> Tensor:
        """Return the losses of the i-th batch's samples (b,) with their graph."""
        losses = self._losses(i)
        if not losses.requires_grad:
            raise ValueError(
                "the losses have no gradient: "
                + (
                    "the model or the loss detaches them from the parameters"
                    if torch.is_grad_enabled()
                    else "gradients are off here (torch.no_grad); measure inside measuring(model), which turns them on"
                )
            )
        return losses

    @torch.no_grad()
    def check_forward(self) -> None:
        """Compare two forward passes over the first batch.

        Raises:
            ValueError: the losses differ. Then L is not a function of w, and each difference of losses is noise.
        """
        first, second = (self._losses(0).double() for _ in range(2))
        if not torch.allclose(first, second, rtol=1e-4, atol=1e-6, equal_nan=True):
            raise ValueError(
                "two forward passes over the same samples give different losses (the model draws random numbers in "
                "eval mode), so sharpness and curvature have no meaning; make the model deterministic in eval mode, or "
                "leave these quantities out (diagnostics=off)"
            )

    @torch.no_grad()
    def losses(self) -> Tensor:
        """Return every sample's loss, float64 (N,). Costs one forward pass F."""
        return torch.cat([self._losses(i).double() for i in range(len(self.batches))])

    def loss(self) -> float:
        """Return L(w)."""
        return float(self.losses().mean())

    def batch_gradients(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each batch the gradient of its own mean loss (P,) and its samples' losses, float64 (b,)."""
        for i in range(len(self.batches)):
            losses = self._differentiable(i)
            gradients = torch.autograd.grad(losses.mean(), self.params, allow_unused=True, materialize_grads=True)
            yield flatten(gradients), losses.detach().double()

    def gradient(self) -> tuple[Tensor, Tensor]:
        """Return grad L (P,) and the samples' losses, float64 (N,). Costs one forward and backward pass G."""
        total, losses = self.zeros(), []
        for gradient, batch_losses in self.batch_gradients():
            total.add_(gradient, alpha=len(batch_losses) / self.num_samples)
            losses.append(batch_losses)
        return total, torch.cat(losses)

    @contextmanager
    def moved(self, offset: Tensor) -> Iterator[None]:
        """Set the weights to w + offset (P,) inside.

        Afterwards they are copied back, because in floating point w + offset - offset is not always w.
        """
        saved = [p.detach().clone() for p in self.params]
        with torch.no_grad():
            for p, x in zip(self.params, views(offset, self.params)):
                p.add_(x)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, w in zip(self.params, saved):
                    p.copy_(w)

    def rise(self, offset: Tensor, losses: Tensor) -> float:
        """Return L(w + offset) - L(w).

        The differences are taken sample by sample and then averaged: the difference of two means would lose digits.

        Args:
            losses: the samples' losses at w, from :meth:`losses` or :meth:`gradient`.
        """
        with self.moved(offset):
            return float((self.losses() - losses).mean())

    @contextmanager
    def hessian(self, keep_graph: bool | None = None) -> Iterator[Hessian]:
        """Open the Hessian of L at w; the weights must not be changed inside.

        Args:
            keep_graph: whether to keep the graph of the gradient. Then a product is one backward pass through this
                graph (1.7 to 2.2 G) instead of one forward and two backward passes (3 G), but the activations of all
                batches stay in memory. None keeps the graph if there is only one batch.
        """
        hessian = Hessian(self, len(self.batches) == 1 if keep_graph is None else keep_graph)
        try:
            yield hessian
        finally:
            hessian.close()


class Hessian:
    """Exact products with the Hessian of an :class:`Objective`, by differentiating its gradient once more.

    It has `shape`, `dtype` and `matvec`, so that `scipy.sparse.linalg.aslinearoperator` accepts it.

    Attributes:
        num_products: products made so far.
    """

    def __init__(self, objective: Objective, keep_graph: bool) -> None:
        self.objective, self.num_products = objective, 0
        self.like = objective.zeros()
        self.shape = (len(self.like), len(self.like))
        self.dtype = self.like.cpu().numpy().dtype
        self._kept = [self._graph(i) for i in range(len(objective.batches))] if keep_graph else None

    def _graph(self, i: int) -> tuple[list[Tensor], float]:
        """Return a batch's gradient with its graph, and the batch's weight in the mean."""
        losses = self.objective._differentiable(i)
        params = self.objective.params
        gradients = torch.autograd.grad(
            losses.mean(), params, create_graph=True, allow_unused=True, materialize_grads=True
        )
        return list(gradients), len(losses) / self.objective.num_samples

    def __call__(self, vector: Tensor) -> Tensor:
        """Return H v for v (P,)."""
        params, total = self.objective.params, self.objective.zeros()
        along = views(vector, params)
        for i in range(len(self.objective.batches)):
            gradients, weight = self._graph(i) if self._kept is None else self._kept[i]
            curved = [(g, v) for g, v in zip(gradients, along) if g.requires_grad]
            if not curved:
                continue  # the loss is linear in w
            if self._kept is not None and self.objective.poll is not None:
                self.objective.poll()
            products = torch.autograd.grad(
                [g for g, _ in curved],
                params,
                [v for _, v in curved],
                retain_graph=self._kept is not None,
                allow_unused=True,
                materialize_grads=True,
            )
            total.add_(flatten(products), alpha=weight)
        self.num_products += 1
        return total

    def matvec(self, vector: np.ndarray) -> np.ndarray:
        """Return H v as a numpy vector."""
        v = torch.from_numpy(np.ascontiguousarray(vector, dtype=self.dtype)).reshape(-1).to(self.like.device)
        product: np.ndarray = self(v).cpu().numpy()
        return product

    def close(self) -> None:
        """Release the graphs."""
        self._kept = None
