"""A stand-in for CUDA graphs on the CPU: the kernels of a step are recorded and repeated on the same tensors.

As with a CUDA graph, the kernels do not count as run while they are recorded, the Python code of the step does not run
again, and every number that Python has given to a kernel stays what it was. What a graph cannot have raises an error.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
BY_VALUE = {aten.nonzero.default, aten.masked_select.default, aten.repeat_interleave.Tensor}  # shapes on the device


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


class Tape(TorchDispatchMode):
    """Records all kernels inside its context."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._own: set[int] = set()  # memory that was made inside
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a kernel and keep it, with the tensors that it makes."""
        kwargs = kwargs or {}
        if func.namespace == "profiler":
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            raise RuntimeError("the host reads a number in a captured step")
        indices = args[1] if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default) else ()
        if func in BY_VALUE or any(i is not None and i.dtype == torch.bool for i in indices):
            raise RuntimeError(f"{func}: the values on the device decide a shape")
        if any(isinstance(x, torch.Generator) for x in tree_leaves((args, kwargs))):
            raise RuntimeError(f"{func}: a generator that is not the default one")
        inside = {_memory(x) for x in _tensors((args, kwargs))}
        for x in _tensors((args, kwargs)):
            if _memory(x) not in self._own and _memory(x) not in self._before:
                self._before[_memory(x)] = x.untyped_storage(), x.untyped_storage().clone()
        result = func(*args, **kwargs)
        if any(not isinstance(x, Tensor | None) for x in tree_leaves(result)):
            raise RuntimeError(f"{func}: the host reads {result}")
        made = [x for x in _tensors(result) if _memory(x) not in inside]
        self._own |= {_memory(x) for x in made}
        self.calls.append((func, args, kwargs, list(_tensors(result))))
        return result

    def rewind(self) -> None:
        """Undo what the kernels have written to memory from outside."""
        for storage, before in self._before.values():
            storage.copy_(before)

    def replay(self) -> None:
        """Run the kernels again, on the same tensors."""
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, results in self.calls:
                for old, new in zip(results, _tensors(func(*args, **kwargs))):
                    if _memory(old) != _memory(new):
                        old.copy_(new)


class Tapes:
    """The recorder of a training whose kernels run on the CPU (fsamlab.train.graphed.Recorder)."""

    def __init__(self, device: Any) -> None:
        self.tapes: list[Tape] = []

    def warming_up(self) -> AbstractContextManager[Any]:
        """Return an empty context."""
        return nullcontext()

    def capture(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Record `work` as if it had not run."""
        tape, random = Tape(), torch.get_rng_state()
        with tape:
            result = work()
        tape.rewind()
        torch.set_rng_state(random)
        self.tapes.append(tape)
        return tape.replay, result
