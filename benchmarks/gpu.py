"""Images per second, SAM / SGD and F-SAM / SAM on a GPU: `python benchmarks/gpu.py --json gpu.json`.

Whole steps on batches that lie on the device: all forward and backward passes and the optimizer, no data loading.
Three implementations of SAM and F-SAM on SGD stand side by side: fsamlab; loops over tensors, in the structure that the
popular code has; and pytorch_optimizer, where it is installed. Each implementation has its own copy of one network. The
repetitions of all are interleaved, each is timed by CUDA events over several steps, and the table has the medians.

`--device cpu --small` runs the same code on one thread of a CPU in less than a minute, and counts CPU seconds. Then the
ratios are those of a CPU, with batches of 4 and 32, and "compiled" is torch.compile with the backend `eager`.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsamlab.config import ModelConfig
from fsamlab.diagnostics.context import products_in
from fsamlab.models import build_model
from fsamlab.optim import FSAM, SAM

SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
RHO, SIGMA, LMBDA = 0.2, 1.0, 0.9
TARGETS = {"SAM / SGD": 2.05, "F-SAM / SAM": 1.02}  # of fsamlab on a GPU; the authors' logs have 1.106 for the second
AGREE = 1e-3  # relative difference of weights after three steps in float64; pytorch_optimizer's norms are float32
NUM_BATCHES = 4  # F-SAM's direction would vanish on a batch that comes again and again


@dataclass(frozen=True)
class Network:
    """A network and its batch: `samples` images of `size` x `size` pixels."""

    model: ModelConfig
    samples: int
    size: int
    channels: int = 3
    classes: int = 100


NETWORKS = {
    "ResNet-18, 32x32": Network(ModelConfig(name="resnet18"), 128, 32),
    "WRN-28-10, 32x32": Network(ModelConfig(name="wrn28_10"), 128, 32),
    "ViT-S/16, 224x224": Network(ModelConfig(name="vit_small_patch16_224", library="timm"), 128, 224),
}
SMALL = {
    "small CNN, 8x8": Network(ModelConfig(name="small_cnn", width=16), 32, 8, 1, 10),
    "ResNet-18, 8x8": Network(ModelConfig(name="resnet18"), 4, 8, 3, 10),
}


@dataclass(frozen=True)
class Mode:
    """How the passes compute: products of float32 in TF32 or not, autocast, torch.compile."""

    tf32: bool = False
    bf16: bool = False
    compiled: bool = False


MODES = {
    "fp32": Mode(),
    "tf32": Mode(tf32=True),
    "bf16": Mode(bf16=True),
    "tf32, compiled": Mode(tf32=True, compiled=True),
    "bf16, compiled": Mode(bf16=True, compiled=True),
}


Batch = tuple[Tensor, Tensor]  # images, labels


class Passes:
    """One network with its batches: the forward and backward pass that every implementation calls."""

    def __init__(self, model: nn.Module, batches: list[Batch], mode: Mode, backend: str) -> None:
        self.model, self.batches, self.mode, self.num_steps = model, batches, mode, 0
        self.forward = torch.compile(model, backend=backend) if mode.compiled else model

    def backward(self) -> Tensor:
        """Add the gradient of the mean loss of the step's batch to .grad; return the loss."""
        images, labels = self.batches[self.num_steps % len(self.batches)]
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mode.bf16):
            loss = F.cross_entropy(self.forward(images), labels)
        loss.backward()
        return loss.detach()

    def sgd(self) -> torch.optim.SGD:
        """Return the base optimizer of all implementations that can take one: fused on every device."""
        return torch.optim.SGD(self.model.parameters(), **SGD, fused=True)


Step = Callable[[], object]


def plain_sgd(passes: Passes) -> Step:
    """SGD: one pass and the base step."""
    base = passes.sgd()

    def step() -> None:
        base.zero_grad()
        passes.backward()
        base.step()

    return step


def ours(make: Callable[..., Any], **keywords: float) -> Callable[[Passes], Step]:
    """SAM or F-SAM of fsamlab, built as launch.py builds it."""

    def of(passes: Passes) -> Step:
        optimizer = make(passes.sgd(), rho=RHO, model=passes.model, **keywords)

        def closure() -> Tensor:
            optimizer.zero_grad()
            return passes.backward()

        return lambda: optimizer.step(closure)

    return of


class TensorByTensor:
    """SAM and F-SAM as loops over tensors, in the structure of the popular PyTorch code.

    The norm of each gradient is a tensor of its own, and the norm of these norms the global one. Each step clones each
    weight, and puts the clone in the place of the perturbed weight. F-SAM's EMA is a new tensor in each step. BatchNorm
    has momentum 0 in the second pass. The training loop reads the loss in each step, as its meters do.
    """

    def __init__(self, passes: Passes, friendly: bool) -> None:
        self.passes, self.friendly = passes, friendly
        self.base = passes.sgd()
        self.state: dict[Tensor, dict[str, Tensor]] = {p: {} for p in passes.model.parameters()}
        self.norms = [m for m in passes.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.momenta = [m.momentum for m in self.norms]

    def __call__(self) -> float:
        """Make one step; return the clean loss."""
        loss = self.passes.backward()
        self.first_step()
        for module in self.norms:
            module.momentum = 0.0
        self.base.zero_grad()
        self.passes.backward()
        for module, momentum in zip(self.norms, self.momenta):
            module.momentum = momentum
        self.second_step()
        self.base.zero_grad()
        return loss.item()

    @torch.no_grad()
    def first_step(self) -> None:
        """Move each weight along its direction."""
        if self.friendly:
            for p, state in self.state.items():
                gradient = p.grad.clone()
                if "ema" not in state:
                    state["ema"] = gradient
                else:
                    p.grad = gradient - SIGMA * state["ema"]
                    state["ema"] = LMBDA * state["ema"] + (1 - LMBDA) * gradient
        norm = torch.stack([p.grad.norm(p=2) for p in self.state]).norm(p=2)
        scale = RHO / (norm + 1e-12)
        for p, state in self.state.items():
            state["weight"] = p.data.clone()
            p.add_(p.grad * scale)

    @torch.no_grad()
    def second_step(self) -> None:
        """Put the weights back, and let the base optimizer step."""
        for p, state in self.state.items():
            p.data = state["weight"]
        self.base.step()


def theirs(name: str, **keywords: float) -> Callable[[Passes], Step]:
    """SAM or FriendlySAM of pytorch_optimizer, whose step() takes the closure of the second pass."""

    def of(passes: Passes) -> Step:
        import pytorch_optimizer  # it may be missing

        make = getattr(pytorch_optimizer, name)
        optimizer = make(passes.model.parameters(), torch.optim.SGD, rho=RHO, fused=True, **SGD, **keywords)

        def closure() -> Tensor:
            return passes.backward()

        def step() -> None:
            passes.backward()
            optimizer.step(closure)
            optimizer.zero_grad()

        return step

    return of


IMPLEMENTATIONS: dict[str, tuple[Callable[[Passes], Step], Callable[[Passes], Step]]] = {  # SAM, F-SAM
    "fsamlab": (ours(SAM), ours(FSAM, sigma=SIGMA, lmbda=LMBDA)),
    "tensor by tensor": (
        lambda passes: TensorByTensor(passes, friendly=False),
        lambda passes: TensorByTensor(passes, friendly=True),
    ),
    "pytorch_optimizer": (theirs("SAM"), theirs("FriendlySAM", sigma=SIGMA, lmbda=LMBDA)),
}


def implementations() -> list[str]:
    """Return the implementations that this machine has."""
    there = importlib.util.find_spec("pytorch_optimizer") is not None
    return [name for name in IMPLEMENTATIONS if there or name != "pytorch_optimizer"]


@contextmanager
def computing(mode: Mode) -> Iterator[None]:
    """Multiply float32 as the mode says; torch's own settings use TF32 in convolutions."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = True
    try:
        with products_in("tf32" if mode.tf32 else "ieee"):
            yield
    finally:
        cudnn.benchmark = before


def batches_of(network: Network, device: torch.device, dtype: torch.dtype = torch.float32) -> list[Batch]:
    """Return the batches on the device."""
    generator = torch.Generator().manual_seed(0)
    shape = (network.samples, network.channels, network.size, network.size)
    found = []
    for _ in range(NUM_BATCHES):
        labels = torch.randint(0, network.classes, (network.samples,), generator=generator)
        found.append((torch.randn(shape, generator=generator).to(device, dtype), labels.to(device)))
    return found


def built(network: Network) -> nn.Module:
    """Return the network with the same start weights in each call."""
    torch.manual_seed(0)
    size = (network.size, network.size)
    return build_model(network.model, network.classes, network.channels, image_size=size).train()


def check_agreement() -> None:
    """Check, on the CPU in float64, that all implementations train alike: a benchmark of unlike methods says nothing.

    Raises:
        SystemExit: two implementations have other weights after three steps.
    """
    network = SMALL["small CNN, 8x8"]
    batches, start = batches_of(network, torch.device("cpu"), torch.float64), built(network).double()
    for which, method in enumerate(("SAM", "F-SAM")):
        finals = {}
        for name in implementations():
            passes = Passes(copy.deepcopy(start), batches, Mode(), "eager")
            timed(passes, IMPLEMENTATIONS[name][which](passes), 3, torch.device("cpu"))
            finals[name] = torch.cat([p.detach().flatten() for p in passes.model.parameters()])
        for name, final in finals.items():
            far = float((final - finals["fsamlab"]).abs().max() / final.abs().max())
            if not far < AGREE:
                raise SystemExit(f"error: {method} of {name} and of fsamlab differ by {far:.1e} after three steps")


def timed(passes: Passes, step: Step, steps: int, device: torch.device) -> float:
    """Return the milliseconds of one step, a mean over `steps`; on a CPU the milliseconds of the process alone."""

    def make() -> None:
        for _ in range(steps):
            step()
            passes.num_steps += 1

    if device.type == "cpu":
        begin = time.process_time()
        make()
        return 1000 * (time.process_time() - begin) / steps
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    make()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / steps


@contextmanager
def every_version_kept() -> Iterator[None]:
    """Let the compiler keep a version of its code for each method, and fail where it would go on uncompiled.

    By default the compiler keeps eight versions, and the networks of all methods count together.
    """
    import torch._dynamo.config as dynamo  # not at the top: importing takes a second

    limit = "recompile_limit" if hasattr(dynamo, "recompile_limit") else "cache_size_limit"  # torch 2.7 renamed it
    settings = {limit: 256, "accumulated_" + limit: 4096, "fail_on_recompile_limit_hit": True}
    with dynamo.patch(**{name: value for name, value in settings.items() if hasattr(dynamo, name)}):  # type: ignore[attr-defined]
        yield
    torch._dynamo.reset()


@dataclass(frozen=True)
class Result:
    """Median milliseconds of a step for each method, as `fsamlab F-SAM`, and what follows from them."""

    network: str
    mode: str
    samples: int
    milliseconds: dict[str, float]
    spread: dict[str, float]  # interquartile range / median

    def images(self, method: str) -> float:
        """Return the images of the descent batch per second."""
        return 1000 * self.samples / self.milliseconds[method]

    def ratios(self, name: str) -> dict[str, float]:
        """Return SAM / SGD and F-SAM / SAM of an implementation."""
        ms = self.milliseconds
        return {
            "SAM / SGD": ms[f"{name} SAM"] / ms["SGD"],
            "F-SAM / SAM": ms[f"{name} F-SAM"] / ms[f"{name} SAM"],
        }


def measure(name: str, network: Network, mode_name: str, device: torch.device, options: argparse.Namespace) -> Result:
    """Time all methods on a network, interleaved."""
    mode = MODES[mode_name]
    batches, start = batches_of(network, device), built(network)
    methods: dict[str, Callable[[Passes], Step]] = {"SGD": plain_sgd}
    for one in implementations():
        methods[f"{one} SAM"], methods[f"{one} F-SAM"] = IMPLEMENTATIONS[one]
    backend = "eager" if options.small else "inductor"
    times: dict[str, list[float]] = {method: [] for method in methods}
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(computing(mode))
        if mode.compiled:
            stack.enter_context(every_version_kept())
        made = {method: Passes(copy.deepcopy(start).to(device), batches, mode, backend) for method in methods}
        steps = {method: make(made[method]) for method, make in methods.items()}
        for method, step in steps.items():
            timed(made[method], step, options.warm_up, device)
        for _ in range(options.repetitions):
            for method, step in steps.items():
                times[method].append(timed(made[method], step, options.steps, device))
    medians = {method: statistics.median(values) for method, values in times.items()}
    quartiles = {m: statistics.quantiles(v, n=4) if len(v) > 1 else [v[0]] * 3 for m, v in times.items()}
    spread = {method: (quartiles[method][2] - quartiles[method][0]) / medians[method] for method in times}
    return Result(name, mode_name, network.samples, medians, spread)


def markdown(results: list[Result]) -> str:
    """Return the tables of images per second and of ratios."""
    methods = list(results[0].milliseconds)
    lines = [f"| images/s | | {' | '.join(methods)} | spread |", "| --- | --- |" + " --- |" * (len(methods) + 1)]
    for result in results:
        cells = [f"{result.images(method):.0f}" for method in methods]
        cells.append(f"{100 * max(result.spread.values()):.1f} %")
        lines.append(f"| {result.network} | {result.mode} | {' | '.join(cells)} |")
    names = implementations()
    lines += ["", f"| ratio | | | {' | '.join(names)} |", "| --- | --- | --- |" + " --- |" * len(names)]
    for result in results:
        for ratio in TARGETS:
            cells = [f"{result.ratios(name)[ratio]:.3f}" for name in names]
            lines.append(f"| {result.network} | {result.mode} | {ratio} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(results: list[Result], device: torch.device) -> list[str]:
    """Return a line for each target: met or missed by fsamlab on a GPU."""
    if device.type == "cpu":
        return ["These are ratios of a CPU; the targets are for a GPU."]
    lines = []
    for ratio, target in TARGETS.items():
        worst = max(results, key=lambda result: result.ratios("fsamlab")[ratio])
        value = worst.ratios("fsamlab")[ratio]
        word = "met" if value <= target else "MISSED"
        lines.append(f"{ratio} <= {target}: {word}; at most {value:.3f} ({worst.network}, {worst.mode})")
    return lines


def machine(device: torch.device) -> dict[str, Any]:
    """Return where the numbers come from."""
    facts: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version(), "device": str(device)}
    if device.type == "cuda":
        facts |= {"name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        facts["cudnn"] = torch.backends.cudnn.version()
    else:
        facts |= {"name": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    return facts


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """Return the options; defaults follow `--small`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="small networks, few repetitions: less than a minute")
    parser.add_argument("--networks", help="parts of names, as `ResNet,ViT` (default: all)")
    parser.add_argument("--modes", help=f"separated by semicolons, of {'; '.join(MODES)} (default: all that there are)")
    parser.add_argument("--repetitions", type=int, help="interleaved; the table has their medians (15; small: 5)")
    parser.add_argument("--steps", type=int, help="in one measurement (10; small: 2)")
    parser.add_argument("--warm-up", type=int, help="steps before the first measurement (10; small: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args(argv)
    for name, usual, small in (("repetitions", 15, 5), ("steps", 10, 2), ("warm_up", 10, 2)):
        if getattr(options, name) is None:
            setattr(options, name, small if options.small else usual)
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: must be 1 or more")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU that torch can use; `--device cpu --small` measures the ratios of this CPU")
    networks = SMALL if options.small else NETWORKS
    wanted = (options.networks or "").split(",")
    options.chosen = {name: one for name, one in networks.items() if any(word.strip() in name for word in wanted)}
    if not options.chosen:
        parser.error(f"--networks {options.networks}: names none of {'; '.join(networks)}")
    # A CPU has no TF32, and the compiler's code for a CPU is no subject here; eager code runs the same lines.
    there = [m for m, mode in MODES.items() if options.device == "cuda" or not mode.tf32]
    options.modes = [m.strip() for m in options.modes.split(";")] if options.modes else there
    for mode in options.modes:
        if mode not in there:
            parser.error(f"--modes {mode}: on {options.device} there are {'; '.join(there)}")
    return options


def main(argv: list[str] | None = None) -> None:
    """Measure, print the tables, and write the numbers where `--json` says."""
    options = parsed(argv)
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    check_agreement()
    facts = machine(device)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(f"medians of {options.repetitions} interleaved repetitions of {options.steps} steps\n", flush=True)
    results = []
    for name, network in options.chosen.items():
        for mode in options.modes:
            print(f"{name}, {mode} ...", file=sys.stderr, flush=True)
            try:
                results.append(measure(name, network, mode, device, options))
            except torch.OutOfMemoryError as e:
                print(f"{name}, {mode}: left out, {str(e).splitlines()[0]}", file=sys.stderr, flush=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if not results:
        raise SystemExit("error: the device has no memory for any of the networks; --networks chooses fewer")
    print(markdown(results))
    print("", *verdicts(results, device), sep="\n")
    if options.json is not None:
        found = [{**asdict(one), "ratios": {name: one.ratios(name) for name in implementations()}} for one in results]
        options.json.write_text(json.dumps({"machine": facts, "results": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
