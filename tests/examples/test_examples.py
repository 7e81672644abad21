"""The programs in examples/: each trains the weights of a bare loop with the same micro-batches, and resumes."""

import importlib.util
import math
import os
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from support import bare_loop
from support.example_run import EXAMPLES, MICRO
from support.runs import ROOT
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import nn

PACKAGES = {  # beside the dependencies of the package itself
    "plain": (),
    "amp": (),
    "timm_loop": (),
    "lightning_automatic": ("lightning",),
    "lightning_manual": ("lightning",),
    "accelerate_loop": ("accelerate",),
    "hf_trainer": ("transformers", "accelerate"),
}


def required(name):
    """Skip where a package is not installed; fail if FSAMLAB_REQUIRE_EXAMPLES asks for the package."""
    missing = [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]
    if missing and os.environ.get("FSAMLAB_REQUIRE_EXAMPLES"):
        pytest.fail(f"FSAMLAB_REQUIRE_EXAMPLES is set, and {', '.join(missing)} is not installed")
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: pip install -e '.[examples]'")


def run(name, folder):
    """Run a program in a process of its own; return its result and what it printed."""
    command = [sys.executable, "tests/support/example_run.py", name, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return torch.load(folder / "result.pt"), done.stdout


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def steps(order, size, micro, epochs):
    """Yield the micro-batches of each step, from the order in which the samples were read."""
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16), torch.tensor(y)
    batches = [(x[part], y[part]) for part in torch.tensor(order).split(size)]
    assert len(order) == epochs * 1024
    for start in range(0, len(batches), micro):
        yield batches[start : start + micro]


def mixed(made, per_epoch, constants):
    """Mix the samples of a micro-batch as timm does; the random numbers start anew with each epoch."""
    mixup = Mixup(mixup_alpha=constants["MIXUP"], label_smoothing=constants["SMOOTHING"], num_classes=10)
    for t, batches in enumerate(made):
        if t % per_epoch == 0:
            np.random.seed(t // per_epoch)
        yield [mixup(x.clone(), y) for x, y in batches]


def of_timm(made, model, rate, constants, per_epoch):
    """Train as the other programs do, with the warm-up, the mixtures and the average of the program for timm."""
    average = network()

    def warm(t):
        warmup = constants["WARMUP"]
        return 1e-3 + t * (constants["LR"] - 1e-3) / warmup if t < warmup else rate(t)

    @torch.no_grad()
    def follow(step):
        keep = constants["EMA_DECAY"] if step > 1 else 0.0
        for key, value in average.state_dict().items():
            now = model.state_dict()[key]
            value.copy_(keep * value + (1 - keep) * now if value.is_floating_point() else now)

    loss = SoftTargetCrossEntropy()
    made = mixed(made, per_epoch, constants)
    bare_loop.train(model, made, warm, constants["RHO"], constants["CLIP"], loss=loss, after=follow)
    return average.state_dict()


def expected(name, micro, order, constants):
    size, epochs = constants["MICRO_BATCH"], constants["EPOCHS"]
    per_epoch = 1024 // (size * micro)
    model, made = network(), steps(order, size, micro, epochs)
    rate = partial(bare_loop.cosine, constants["LR"], steps=epochs * per_epoch)
    if name == "timm_loop":
        return of_timm(made, model, rate, constants, per_epoch)
    return bare_loop.train(model, made, rate, constants["RHO"], constants["CLIP"]).state_dict()


def assert_close(a, b, atol):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=atol, msg=lambda text, key=key: f"{key}: {text}")


def of_lightning(found):
    """The method of the program is needed, in each precision, and for more than one micro-batch alone."""
    others, constants = found["variants"], found["constants"]
    naive = found["refused"]["naive"]
    assert re.match(r"RuntimeError: the closure adds to gradients .*docs/loops.md", naive)
    assert re.match(r"RuntimeError: GradScaler.step\(\) knows of one", found["refused"]["half"])
    without = others["one micro-batch without the method"]
    unclipped = {**constants, "CLIP": math.inf}  # Lightning clips the gradients of both passes there
    assert_close(without, expected("lightning_automatic", 1, found["orders"][1], unclipped), atol=1e-10)
    assert_close(others["low"], found["weights"][MICRO[-1]], atol=0)  # autocast leaves float64 alone


def of_lightning_manual(found):
    """Parameters may be toggled, as for several optimizers."""
    assert_close(found["variants"]["toggled"], found["weights"][MICRO[-1]], atol=0)


def of_trainer(found):
    """Without a second pass the Trainer's step() is refused."""
    assert re.match(r"ValueError: step\(\) needs a closure.*docs/loops.md", found["refused"]["naive"])


def of_amp(found):
    """In float32 with bfloat16 passes the scale changes nothing: scales are powers of two."""
    assert_close(found["variants"]["scaled"], found["variants"]["unscaled"], atol=0)


MORE = {
    "lightning_automatic": of_lightning,
    "lightning_manual": of_lightning_manual,
    "hf_trainer": of_trainer,
    "amp": of_amp,
}


@pytest.mark.long
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", PACKAGES)
def test_a_program_trains_the_weights_of_a_bare_loop(name, tmp_path):
    """For one micro-batch in a step and for several; a run that stopped and resumed ends in the same bits."""
    required(name)
    found, printed = run(name, tmp_path)
    for micro in MICRO:
        right = expected(name, micro, found["orders"][micro], found["constants"])
        assert_close(found["weights"][micro], right, atol=1e-10)
    assert_close(found["resumed"], found["weights"][MICRO[-1]], atol=0)
    if name.startswith(("lightning", "hf")):  # the framework counts each step once
        per_epoch = [1024 // (found["constants"]["MICRO_BATCH"] * micro) for micro in MICRO]
        counted = [int(number) for number in re.findall(r"^(\d+) steps", printed, re.M)]
        assert counted[:4] == [2 * per_epoch[0], 2 * per_epoch[1], per_epoch[1], 2 * per_epoch[1]]
    if name in MORE:
        MORE[name](found)


def test_every_program_is_tested_and_described():
    shared = {"digits"}  # the data and the network of all programs
    assert {path.stem for path in EXAMPLES.glob("*.py")} == PACKAGES.keys() | shared
    page = (ROOT / "docs" / "loops.md").read_text(encoding="utf-8")
    for name in PACKAGES:
        assert f"../examples/{name}.py" in page, name
        assert f"python examples/{name}.py" in (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
