"""Cost and error of the Hessian's largest eigenvalue beside other libraries: `python benchmarks/curvature.py`.

lambda_max of the training loss to a true relative error of 1e-3, float32, one CPU thread, batch norms in eval mode
(PyHessian knows no other), over checkpoints of one short training x start vectors. Prints a Markdown table for each
model: Hessian products, time in gradients over the same samples, error against float64, peak memory.
`--overhead` prints instead what diagnostics cost during training.

The peers are optional; those that are not there are listed as such:

    pip install --no-deps --target peers pyhessian==0.1 hessian-eigenthings==1.0.0a5 curvlinops-for-pytorch==3.0.1 \\
        einops==0.8.2 einconv==0.1.0 linear_operator==0.6.1 jaxtyping==0.3.11 wadler-lindig==0.1.8
    PYTHONPATH=peers python benchmarks/curvature.py

All get equal batches (hessian-eigenthings weighs a short one like a full one). The same seed gives ours, eigsh and
hessian-eigenthings the same start vector; PyHessian draws its own after torch.manual_seed. Power iteration finds the
largest magnitude: the checkpoints are such that lambda_max is that, and the ratio is printed.
curvlinops runs without its check for determinism, which would cost it some passes more. Times are the process's own
processor time, which a busy machine disturbs less than the clock. A line for each start gives `products gradients
error` of the methods in the table's order. The whole takes an hour: 12 minutes for the CNN, 40 for ResNet-18.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from scipy.sparse.linalg import aslinearoperator, eigsh
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from fsamlab.config import DataConfig, ModelConfig, typed
from fsamlab.config.compose import register
from fsamlab.data.augment import normalise
from fsamlab.data.readers import read_digits, read_fashion_mnist
from fsamlab.diagnostics.context import measuring
from fsamlab.diagnostics.curvature import hessian_eigenvalues
from fsamlab.diagnostics.objective import Objective, Samples
from fsamlab.diagnostics.vectors import gaussian
from fsamlab.models import build_model
from fsamlab.optim import FSAM
from fsamlab.run import build

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-3
Found = tuple[float, int]  # lambda_max, Hessian products


# ------------------------------------------------------------------------------------------------ problems


@dataclass
class Setting:
    """A model with its data and the steps of its training at which lambda_max is wanted."""

    name: str
    title: str
    make: Callable[[], nn.Module]
    read: Callable[[], tuple[Tensor, Tensor]]  # images, labels to train on; the first of them are measured
    num_samples: int  # measured on
    batch_size: int  # of the measurement
    lr: float
    checkpoints: tuple[int, ...]


@dataclass
class Problem:
    """A checkpoint: the model in eval mode and equal batches to measure on."""

    model: nn.Module
    batches: list[Samples]

    def doubled(self) -> Problem:
        """Return a float64 copy."""
        return Problem(copy.deepcopy(self.model).double(), [(x.double(), y) for x, y in self.batches])


def digits() -> tuple[Tensor, Tensor]:
    raw = read_digits(DataConfig(name="digits"), 0, Path())
    order = torch.randperm(len(raw.train.labels), generator=torch.Generator().manual_seed(0))[:1024]
    return raw.train.pixels[order], raw.train.labels[order]


def fashion() -> tuple[Tensor, Tensor]:
    raw = read_fashion_mnist(DataConfig(name="fashion_mnist"), 0, ROOT / "data")
    order = torch.randperm(len(raw.train.labels), generator=torch.Generator().manual_seed(0))[:2048]
    images = normalise(raw.train.pixels[order], torch.tensor(0.286), torch.tensor(0.353))
    return F.pad(images, (2, 2, 2, 2)), raw.train.labels[order]


SETTINGS = {
    "cnn": Setting(
        "cnn",
        "small BN CNN (width 16), digits",
        lambda: build_model(ModelConfig(name="small_cnn", width=16), 10, 1),
        digits,
        512,
        128,
        0.05,
        (40, 120, 400),
    ),
    "resnet18": Setting(
        "resnet18",
        "ResNet-18 (timm, stock stem), Fashion-MNIST 32x32",
        lambda: timm.create_model("resnet18", in_chans=1, num_classes=10),
        fashion,
        64,
        32,
        0.02,
        (40, 100, 200),
    ),
}


def trained(setting: Setting, quick: bool) -> Iterator[tuple[int, Problem]]:
    """Train from seed 0 with plain SGD, batches of 64; yield (step, problem) at each checkpoint, or the last alone."""
    images, labels = setting.read()
    n, b = setting.num_samples, setting.batch_size
    batches = list(zip(images[:n].split(b), labels[:n].split(b)))
    torch.manual_seed(0)
    model = setting.make()
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.lr, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(0)
    wanted = setting.checkpoints[-1:] if quick else setting.checkpoints
    for step in range(1, wanted[-1] + 1):
        rows = torch.randint(len(labels), (64,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model.train()(images[rows]), labels[rows]).backward()
        optimizer.step()
        if step in wanted:
            optimizer.zero_grad()
            yield step, Problem(copy.deepcopy(model).eval(), batches)


# ------------------------------------------------------------------------------------------------ methods


def ours(problem: Problem, seed: int, keep_graph: bool | None) -> Found:
    with measuring(problem.model):
        objective = Objective(problem.model, problem.batches)
        found = hessian_eigenvalues(objective, tolerance=TOLERANCE, seed=seed, keep_graph=keep_graph)
    return found.top[0], found.num_products


def start_vector(model: nn.Module, seed: int) -> np.ndarray:
    like = torch.empty(sum(p.numel() for p in model.parameters()))
    vector: np.ndarray = gaussian(like, seed).numpy()
    return vector


def ours_eigsh(problem: Problem, seed: int, ncv: int | None) -> Found:
    with measuring(problem.model), Objective(problem.model, problem.batches).hessian() as hessian:
        v0 = start_vector(problem.model, seed)
        found = eigsh(
            aslinearoperator(hessian), k=1, which="LA", ncv=ncv, tol=TOLERANCE, v0=v0, return_eigenvectors=False
        )
        return float(found[0]), hessian.num_products


def pyhessian(problem: Problem, seed: int, tolerance: float) -> Found:
    from pyhessian import hessian

    torch.manual_seed(seed)
    computer = hessian(problem.model, nn.CrossEntropyLoss(), dataloader=problem.batches, cuda=False)
    product, count = computer.dataloader_hv_product, 0

    def counted(v: list[Tensor]) -> Any:
        nonlocal count
        count += 1
        return product(v)

    computer.dataloader_hv_product = counted
    values, _ = computer.eigenvalues(tol=tolerance, top_n=1)
    return float(values[0]), count


def eigenthings_operator(problem: Problem) -> Any:
    from hessian_eigenthings import HessianOperator, supervised_loss

    return HessianOperator(problem.model, problem.batches, supervised_loss(nn.CrossEntropyLoss()))


def eigenthings_lanczos(problem: Problem, seed: int, max_iter: int | None) -> Found:
    from hessian_eigenthings import lanczos

    found = lanczos(eigenthings_operator(problem), k=1, max_iter=max_iter, which="LA", seed=seed)
    return float(found.eigenvalues[0]), found.iterations


def eigenthings_power(problem: Problem, seed: int) -> Found:
    from hessian_eigenthings import power_iteration_one

    value, _, _, products, _ = power_iteration_one(eigenthings_operator(problem), tol=TOLERANCE, seed=seed)
    return value, products


def curvlinops_eigsh(problem: Problem, seed: int) -> Found:
    from curvlinops import HessianLinearOperator

    parameters = list(problem.model.parameters())
    loss = nn.CrossEntropyLoss()
    hessian = HessianLinearOperator(problem.model, loss, parameters, problem.batches, check_deterministic=False)
    product, count = hessian._matmat, 0

    def counted(vectors: list[Tensor]) -> list[Tensor]:
        nonlocal count
        count += vectors[0].shape[-1]
        products: list[Tensor] = product(vectors)
        return products

    hessian._matmat = counted
    v0 = start_vector(problem.model, seed)
    found = eigsh(hessian.to_scipy(), k=1, which="LA", tol=TOLERANCE, v0=v0, return_eigenvectors=False)
    return float(found[0]), count


@dataclass
class Method:
    """A way to lambda_max, and the module it needs."""

    run: Callable[[Problem, int], Found]
    needs: str | None = None

    @property
    def installed(self) -> bool:
        """Return whether the module is there."""
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


METHODS = {
    "fsamlab": Method(lambda p, s: ours(p, s, None)),
    "fsamlab, keep_graph=True": Method(lambda p, s: ours(p, s, True)),
    "fsamlab's operator, eigsh ncv=8": Method(lambda p, s: ours_eigsh(p, s, 8)),
    "fsamlab's operator, eigsh": Method(lambda p, s: ours_eigsh(p, s, None)),
    "PyHessian, tol 1e-3 (default)": Method(lambda p, s: pyhessian(p, s, 1e-3), "pyhessian"),
    "PyHessian, tol 1e-4": Method(lambda p, s: pyhessian(p, s, 1e-4), "pyhessian"),
    "hessian-eigenthings, lanczos(k=1)": Method(lambda p, s: eigenthings_lanczos(p, s, None), "hessian_eigenthings"),
    "hessian-eigenthings, lanczos(k=1, max_iter=20)": Method(
        lambda p, s: eigenthings_lanczos(p, s, 20), "hessian_eigenthings"
    ),
    "hessian-eigenthings, power iteration 1e-3": Method(eigenthings_power, "hessian_eigenthings"),
    "curvlinops, eigsh": Method(curvlinops_eigsh, "curvlinops"),
}


# ------------------------------------------------------------------------------------------------ measuring


def reference(problem: Problem) -> float:
    """Return lambda_max in float64 to 1e-9, and print how far it leads lambda_min."""
    double = problem.doubled()
    with measuring(double.model):
        found = hessian_eigenvalues(Objective(double.model, double.batches), tolerance=1e-9, seed=99)
    assert found.converged
    with measuring(problem.model):
        ends = hessian_eigenvalues(
            Objective(problem.model, problem.batches), num_bottom=1, tolerance=0.05, max_steps=40, seed=99
        )
    note = "" if -ends.bottom[0] < found.top[0] else " (lambda_min dominates: power iteration finds that)"
    print(f"lambda_max {found.top[0]:.8g} ({found.num_products} steps), lambda_min about {ends.bottom[0]:.2g}{note}")
    return found.top[0]


def second_reference(problem: Problem) -> float:
    """Return lambda_max in float64 by ARPACK, on hessian-eigenthings' products where it is installed."""
    double = problem.doubled()
    if importlib.util.find_spec("hessian_eigenthings"):
        operator = eigenthings_operator(double)

        class Other:
            shape, dtype = (operator.size, operator.size), np.dtype(np.float64)

            def matvec(self, v: np.ndarray) -> np.ndarray:
                product: np.ndarray = operator.matvec(torch.from_numpy(v.reshape(-1).copy())).numpy()
                return product

        return float(eigsh(aslinearoperator(Other()), k=1, which="LA", tol=1e-8, return_eigenvectors=False)[0])
    with measuring(double.model), Objective(double.model, double.batches).hessian() as hessian:
        return float(eigsh(aslinearoperator(hessian), k=1, which="LA", tol=1e-8, return_eigenvectors=False)[0])


def gradient_seconds(problem: Problem) -> float:
    with measuring(problem.model):
        objective = Objective(problem.model, problem.batches)
        start = time.process_time()
        objective.gradient()
        return time.process_time() - start


@dataclass
class Records:
    """What one method did, one entry for each (checkpoint, start)."""

    products: list[int] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)  # time in gradients
    errors: list[float] = field(default_factory=list)


def compare(problem: Problem, seed: int, truth: float, records: dict[str, Records]) -> float:
    """Run every method once from one start, a gradient before each; return the median gradient's seconds."""
    times, results = [gradient_seconds(problem)], {}
    for name in records:
        times.append(gradient_seconds(problem))
        own = Problem(copy.deepcopy(problem.model), problem.batches)
        gc.collect()
        start = time.process_time()
        value, products = METHODS[name].run(own, seed)
        results[name] = (time.process_time() - start, value, products)
    unit = statistics.median(times)
    for name, (seconds, value, products) in results.items():
        records[name].products.append(products)
        records[name].gradients.append(seconds / unit)
        records[name].errors.append(abs(value - truth) / truth)
    return unit


# ------------------------------------------------------------------------------------------------ memory


def status(key: str) -> float:
    """Return a field of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024


def peak_rise(run: Callable[[], object]) -> float:
    """Return by how many MB the process grew at most while `run` ran."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def memory_child(model_name: str, method: str, path: str) -> None:
    """Print the peak rise of one method on a saved checkpoint; a gradient before it loads what is loaded once."""
    saved = torch.load(path)
    model = SETTINGS[model_name].make().eval()
    model.load_state_dict(saved["model"])
    problem = Problem(model, saved["batches"])
    gradient_seconds(problem)
    if method == "gradient":
        print(peak_rise(lambda: gradient_seconds(problem)))
    else:
        print(peak_rise(lambda: METHODS[method].run(problem, 0)))


def memory(setting: Setting, problem: Problem, methods: list[str]) -> dict[str, float]:
    """Return each method's peak rise in MB, each from a fresh process."""
    rises = {}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/problem.pt"
        torch.save({"model": problem.model.state_dict(), "batches": problem.batches}, path)
        for method in methods:
            child = [sys.executable, __file__, "--memory-of", setting.name, method, path]
            out = subprocess.run(child, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            rises[method] = float(out.stdout.split()[-1])
    return rises


# ------------------------------------------------------------------------------------------------ tables


def spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({max(values):{form}})"


def table_curvature(setting: Setting, starts: int, methods: list[str], quick: bool) -> None:
    """Print the table of one model."""
    records = {name: Records() for name in methods if METHODS[name].installed}
    begin = time.perf_counter()
    size = sum(p.numel() for p in setting.make().parameters())
    print(f"\n{setting.title}: {size} parameters, {setting.num_samples} samples in batches of {setting.batch_size}")
    units = []
    for step, problem in trained(setting, quick):
        print(f"- after {step} steps: ", end="", flush=True)
        truth = reference(problem)
        if step == setting.checkpoints[-1]:
            second = second_reference(problem)
            print(f"  - by eigsh, tol 1e-8: {second:.10g}, relative difference {abs(second - truth) / truth:.0e}")
        compare(problem, 0, truth, {"fsamlab": Records()})  # warm-up
        for seed in range(starts):
            units.append(compare(problem, seed, truth, records))
            last = [f"{r.products[-1]} {r.gradients[-1]:.1f} {r.errors[-1]:.0e}" for r in records.values()]
            print(f"  - start {seed}: gradient {1000 * units[-1]:.0f} ms; {'; '.join(last)}", flush=True)
    rises = memory(setting, problem, ["gradient", *records])
    print(f"\n| {setting.title} | products | time in gradients | error | meets 1e-3 | peak memory over base, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in methods:
        if name not in records:
            print(f"| {name} | not installed | | | | |")
            continue
        record = records[name]
        met = f"{sum(e <= TOLERANCE for e in record.errors)} of {len(record.errors)}"
        cells = [spread(record.products, ".0f"), spread(record.gradients, ".1f"), spread(record.errors, ".1e"), met]
        print(f"| {name} | {' | '.join(cells)} | {rises[name]:.0f} |")
    print(f"\nMedian (worst). One gradient: {1000 * statistics.median(units):.0f} ms, {rises['gradient']:.0f} MB.")
    print(f"All of it took {(time.perf_counter() - begin) / 60:.0f} minutes.", flush=True)


# ------------------------------------------------------------------------------------------------ overhead


def recorded_steps(model: nn.Module, images: Tensor, labels: Tensor, repetitions: int) -> tuple[float, float]:
    """Return the median seconds of a step of F-SAM without and with the free scalars, on alternate steps."""
    model.train()
    base = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    optimizer = FSAM(base, rho=0.1, model=model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    times: dict[bool, list[float]] = {False: [], True: []}
    for repetition in range(repetitions + 3):
        for on in (False, True) if repetition % 2 else (True, False):
            optimizer.record_scalars = on
            start = time.process_time()
            optimizer.step(closure)
            times[on].append(time.process_time() - start)
    return statistics.median(times[False][3:]), statistics.median(times[True][3:])


def table_scalars(quick: bool) -> None:
    """Print the cost of the optimizer's free scalars."""
    rows: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
        "small CNN (width 32), batch 64, 8x8": (
            build_model(ModelConfig(name="small_cnn", width=32), 10, 1),
            (64, 1, 8, 8),
            50 if quick else 600,
        ),
        "ResNet-18 (CIFAR stem), batch 16, 32x32": (
            build_model(ModelConfig(name="resnet18"), 10, 3),
            (16, 3, 32, 32),
            5 if quick else 40,
        ),
    }
    print("| F-SAM's free scalars | step | recorded on every step | on every 20th (a 20th of it) |")
    print("| --- | --- | --- | --- |")
    for name, (model, shape, repetitions) in rows.items():
        off, on = recorded_steps(model, torch.randn(shape), torch.randint(0, 10, shape[:1]), repetitions)
        more = 100 * (on / off - 1)
        print(f"| {name} | {1000 * off:.1f} ms | {more:+.2f} % | {more / 20:+.3f} % |", flush=True)


class Silent:
    """An observer that keeps nothing."""

    def poll(self) -> None:
        """Look at nothing."""

    def stopping(self) -> bool:
        """Never leave."""
        return False

    def row(self, row: dict[str, float]) -> None:
        """Drop the row."""

    def boundary(self) -> None:
        """Write nothing."""


def whole_run(optimizer: str, diagnostics: str, epochs: int) -> tuple[float, float]:
    """Train on digits; return the seconds of fit() and the trainer's own share of diagnostics."""
    overrides = ["data=digits", "model=small_cnn", "model.width=16", f"train.epochs={epochs}", "tracker=none"]
    overrides += ["train.num_threads=1", "train.progress=false", f"optimizer={optimizer}", f"diagnostics={diagnostics}"]
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        config = typed(compose("config", overrides=overrides))
    trainer, _ = build(config, torch.device("cpu"))
    start = time.process_time()
    trainer.fit(Silent())
    return time.process_time() - start, trainer.clock.diagnostics / trainer.clock.train


def table_runs(quick: bool) -> None:
    """Print what diagnostics=light costs a whole run."""
    register()
    epochs, repetitions = (4, 1) if quick else (24, 7)
    print(f"\n| whole run, small CNN (width 16), digits, {epochs} epochs | off | light / off | measuring / training |")
    print("| --- | --- | --- | --- |")
    for optimizer in ("sgd", "fsam"):
        times: dict[str, list[float]] = {"off": [], "light": []}
        shares = []
        for repetition in range(repetitions + 1):
            for diagnostics in ("off", "light") if repetition % 2 else ("light", "off"):
                seconds, share = whole_run(optimizer, diagnostics, epochs)
                if repetition:  # the first pair warms up
                    times[diagnostics].append(seconds)
                    shares += [share] if diagnostics == "light" else []
        off, light = (statistics.median(times[name]) for name in ("off", "light"))
        print(f"| {optimizer} | {off:.2f} s | {light / off:.3f} | {statistics.median(shares):.3f} |", flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning)  # PyHessian's backward(create_graph=True)
    warnings.filterwarnings("ignore", category=FutureWarning)  # torch.jit.script, of curvlinops' dependencies
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--starts", type=int, default=5, help="start vectors for each checkpoint")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="those whose names contain one of these")
    parser.add_argument("--quick", action="store_true", help="the last checkpoint and one start only")
    parser.add_argument("--overhead", action="store_true", help="what diagnostics cost during training")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # numpy's and scipy's BLAS
    torch.manual_seed(0)
    if arguments.memory_of:
        memory_child(*arguments.memory_of)
        sys.exit()
    print(f"torch {torch.__version__}, one thread\n")
    if arguments.overhead:
        table_scalars(arguments.quick)
        table_runs(arguments.quick)
        sys.exit()
    names = [n for n in METHODS if not arguments.methods or any(m in n for m in arguments.methods)]
    for model_name in arguments.models:
        table_curvature(SETTINGS[model_name], 1 if arguments.quick else arguments.starts, names, arguments.quick)
