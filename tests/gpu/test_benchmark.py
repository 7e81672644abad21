"""benchmarks/gpu.py measures what it says: every method on every network, and methods that train alike."""

import importlib.util
import json
import sys

import pytest
from support.devices import on_each_device
from support.runs import ROOT


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_of_gpus", ROOT / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@on_each_device(["small"])
def test_every_method_is_measured(name, device, benchmark, tmp_path, capsys):
    few = ("--small", "--networks", "CNN", "--repetitions", "2", "--steps", "1", "--json", str(tmp_path / "found.json"))
    benchmark.main(["--device", device.type, *few])
    found = json.loads((tmp_path / "found.json").read_text())
    modes = ["fp32", "bf16", "bf16, compiled"] if device.type == "cpu" else list(benchmark.MODES)
    assert [(one["network"], one["mode"]) for one in found["results"]] == [("small CNN, 8x8", mode) for mode in modes]
    for one in found["results"]:
        assert len(one["milliseconds"]) == 1 + 2 * len(benchmark.implementations())
        assert all(value > 0 for value in one["milliseconds"].values())
        for name in benchmark.implementations():
            assert one["ratios"][name]["SAM / SGD"] > 1
    out = capsys.readouterr().out
    assert out.count("F-SAM / SAM |") == len(modes)
    assert ("The targets are for a GPU" in out.replace("the targets", "The targets")) == (device.type == "cpu")


@pytest.mark.long
def test_methods_that_train_otherwise_are_refused(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "LMBDA", 0.5)  # of the loops over tensors alone
    with pytest.raises(SystemExit, match="error: F-SAM of tensor by tensor and of fsamlab differ by"):
        benchmark.check_agreement()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "cpu", "--small", "--networks", "LeNet"), "--networks LeNet: names none of small CNN"),
        (("--device", "cpu", "--modes", "tf32"), "--modes tf32: on cpu there are fp32; bf16"),
        (("--device", "cpu", "--steps", "0"), "--steps: must be 1 or more"),
    ],
)
def test_mistyped_options_are_one_line(benchmark, capsys, words, said):
    with pytest.raises(SystemExit):
        benchmark.parsed(words)
    assert f"error: {said}" in capsys.readouterr().err


def test_without_a_gpu_one_line_says_what_to_do(benchmark, capsys, monkeypatch):
    monkeypatch.setattr(benchmark.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as refused:
        benchmark.main([])
    assert refused.value.code != 0
    assert "`--device cpu --small`" in capsys.readouterr().err
