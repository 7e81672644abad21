import torch

from fsamlab.task import Classification, Regression
from fsamlab.train.meters import Best, Sums


def test_means_are_weighted_by_samples_and_survive_a_state_dict():
    sums = Sums(torch.device("cpu"))
    sums.add("train/loss", torch.tensor(1.0), 3)
    sums.add("train/loss", torch.tensor(4.0), 1)
    other = Sums(torch.device("cpu"))
    other.load_state_dict(sums.state_dict())
    for s in (sums, other):
        assert s.means() == {"train/loss": 7 / 4}
        s.add("train/loss", torch.tensor(0.1), 1)
    assert sums.means() == other.means()
    sums.reset()
    assert sums.means() == {}


def test_sums_have_the_bits_of_float64_tensors():
    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    sums, expected = Sums(torch.device("cpu")), torch.zeros((), dtype=torch.float64)
    for n, value in enumerate(values, start=1):
        sums.add("train/loss", value, n)
        expected += value.double() * n
    assert sums.means()["train/loss"] == (expected / 1275).item()


def test_best_is_the_first_of_equals_by_validation_not_test():
    best = Best(Classification())
    for row in (
        {"step": 1, "val/acc1": 0.5, "test/acc1": 0.9},
        {"step": 2, "val/acc1": 0.7, "test/acc1": 0.6},
        {"step": 3, "val/acc1": 0.7, "test/acc1": 0.8},
    ):
        best.update(row)
    assert best.summary() == {"best/step": 2, "best/val/acc1": 0.7, "best/test/acc1": 0.6}
    assert not best.improved


def test_no_validation_no_best():
    best = Best(Classification())
    best.update({"step": 1, "test/acc1": 0.9})
    assert best.summary() == {}


def test_the_best_epoch_of_a_regression_has_the_lowest_error_and_nan_is_never_best():
    best = Best(Regression())
    for step, error in enumerate((float("nan"), 0.9, 0.5, 0.5, 0.7, float("nan"))):
        best.update({"step": step, "epoch": step, "val/mse": error, "test/mse": 1.0, "val/acc1": float(step)})
        assert best.improved is (step < 3)
    assert best.summary() == {"best/step": 2, "best/epoch": 2, "best/val/mse": 0.5, "best/test/mse": 1.0}
    again = Best(Regression())
    again.load_state_dict(best.state_dict())
    again.update({"step": 9, "epoch": 9, "val/mse": 0.6})
    assert again.summary() == best.summary()
