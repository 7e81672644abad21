"""Run one program of examples/ in a process of its own, in float64, and save what it trained.

    python tests/support/example_run.py NAME FOLDER

A process of its own: the frameworks warn, set up logging and keep global state. FOLDER/result.pt gets the constants of
the program, the order of the samples, and the trained weights: of an uninterrupted training for two numbers of
micro-batches, of one that was stopped after the first epoch and resumed, and of the variants below; and the messages of
what is refused.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL: dict[str, Any] = {"EPOCHS": 2, "CLIP": 0.3}  # two epochs; a clipping that acts in most steps
MICRO = (1, 4)


def loaded(name: str) -> ModuleType:
    """Import a program by its path; what it shares with the others lies beside it."""
    sys.path.insert(0, str(EXAMPLES))
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def refusal(run: Callable[[], Any]) -> str:
    """Return the message of the error that ends a training."""
    try:
        run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "trained"


def recorded(example: ModuleType, order: list[int]) -> None:
    """Have the data set of the Trainer, which shuffles, write down the order in which samples are read."""
    read = example.Digits.__getitem__

    def getitem(self: Any, i: int) -> Any:
        order.append(i)
        return read(self, i)

    example.Digits.__getitem__ = getitem


def variants(example: ModuleType, train: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return weights of changed programs, and the messages of what is refused."""
    name = example.__name__
    if name == "lightning_automatic":
        low = train("low", precision="bf16-mixed")
        plugin = example.lightning.pytorch.plugins.MixedPrecision("16-mixed", "cpu")
        half = refusal(lambda: train("half", plugins=[plugin]))
        example.Digits.optimizer_step = example.lightning.LightningModule.optimizer_step
        naive = refusal(lambda: train("naive"))
        example.ACCUMULATE, example.CLIP = 1, None
        return {"low": low, "one micro-batch without the method": train("without")}, {"naive": naive, "half": half}
    if name == "lightning_manual":

        class Toggled(example.Digits):
            def training_step(self, batch: Any, batch_idx: int) -> None:
                with self.optimizers().toggle_model():
                    super().training_step(batch, batch_idx)

        example.Digits = Toggled
        return {"toggled": train("toggled")}, {}
    if name == "hf_trainer":
        del example.FSAMTrainer.training_step
        return {}, {"naive": refusal(lambda: train("naive"))}
    if name == "amp":
        torch.set_default_dtype(torch.float32)
        scaled, scaler = train("scaled"), torch.amp.GradScaler
        torch.amp.GradScaler = lambda *_, **__: scaler("cpu", enabled=False)
        return {"scaled": scaled, "unscaled": train("unscaled")}, {}
    return {}, {}


def main(name: str, folder: Path) -> None:
    """Train and save."""
    warnings.filterwarnings("error", message=".*lr_scheduler.step")  # no step was seen before the schedule's
    warnings.filterwarnings("error", message=".*counts each batch twice")
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    example = loaded(name)
    for key, value in SMALL.items():
        setattr(example, key, value)
    constants = {key: value for key, value in vars(example).items() if key.isupper() and isinstance(value, int | float)}
    order: list[int] = []
    if name == "hf_trainer":
        recorded(example, order)

    def train(where: str, epochs: int = SMALL["EPOCHS"], **keywords: Any) -> dict[str, torch.Tensor]:
        (folder / where).mkdir(exist_ok=True)
        trained = example.train(folder / where, epochs=epochs, **keywords).state_dict()
        return {key.removeprefix("layers."): value for key, value in trained.items()}

    weights, orders = {}, {}
    for example.ACCUMULATE in MICRO:
        order.clear()
        weights[example.ACCUMULATE] = train(f"whole_{example.ACCUMULATE}")
        orders[example.ACCUMULATE] = list(order) or [*range(1024)] * SMALL["EPOCHS"]
    train("resumed", epochs=1)
    resumed = train("resumed")
    others, refused = variants(example, train)
    result = {"constants": constants, "weights": weights, "orders": orders, "resumed": resumed}
    torch.save({**result, "variants": others, "refused": refused}, folder / "result.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
