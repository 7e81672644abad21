"""Classification: losses against the formulas, soft targets, label smoothing, top-1 and top-5."""

import math

import pytest
import torch
import torch.nn.functional as F

from fsamlab.task import Classification, Samples, cast, detached


def drawn(classes=7, n=6):
    gen = torch.Generator().manual_seed(0)
    logits = torch.randn(n, classes, generator=gen, dtype=torch.float64)
    return logits, torch.randint(classes, (n,), generator=gen)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_and_gradients_are_those_of_cross_entropy(smoothing):
    logits, labels = drawn()
    logits.requires_grad_()
    task, samples = Classification(smoothing), Samples(torch.zeros(6, 1), labels)
    log_p = F.log_softmax(logits, 1)
    direct = -(1 - smoothing) * log_p[torch.arange(6), labels] - smoothing * log_p.mean(1)
    torch.testing.assert_close(task.losses(logits, samples), direct)
    torch.testing.assert_close(task.loss(logits, samples), direct.mean())
    (gradient,) = torch.autograd.grad(task.loss(logits, samples), logits)
    targets = (1 - smoothing) * F.one_hot(labels, 7) + smoothing / 7
    torch.testing.assert_close(gradient, (logits.detach().softmax(1) - targets) / 6)
    assert torch.equal(task.loss(logits, samples), F.cross_entropy(logits, labels, label_smoothing=smoothing))


def test_soft_targets_of_two_mixed_labels():
    logits = torch.tensor([[0.0, math.log(3.0), math.log(4.0)]], dtype=torch.float64)  # probabilities 1/8, 3/8, 4/8
    targets = torch.tensor([[0.75, 0.25, 0.0]])  # float32, as data have them; losses have the precision of the logits
    samples = Samples(torch.zeros(1, 1), targets)
    expected = 0.75 * math.log(8) + 0.25 * math.log(8 / 3)
    assert Classification().losses(logits, samples).tolist() == [pytest.approx(expected, rel=1e-12)]
    smooth = Classification(0.3).losses(logits, samples).item()
    uniform = -sum(math.log(p) for p in (1 / 8, 3 / 8, 4 / 8)) / 3
    assert smooth == pytest.approx(0.7 * expected + 0.3 * uniform, rel=1e-12)
    assert Classification().metrics(logits, samples)["acc1"].item() == 0  # the target's highest class is the first
    assert Classification().metrics(-logits, samples)["acc1"].item() == 1


def test_soft_targets_of_one_class_are_labels():
    logits, labels = drawn()
    one_hot = F.one_hot(labels, 7).double()
    for task in (Classification(), Classification(0.2, top5=True)):
        hard, soft = Samples(logits, labels), Samples(logits, one_hot)
        torch.testing.assert_close(task.losses(logits, hard), task.losses(logits, soft))
        assert task.metrics(logits, hard) == task.metrics(logits, soft)


def test_top_1_and_top_5_count_right_answers():
    logits = torch.arange(8.0).flip(0).repeat(4, 1)  # class 0 is the highest, class 7 the lowest
    samples = Samples(logits, torch.tensor([0, 4, 5, 7]))
    found = Classification(top5=True).metrics(logits, samples)
    assert {key: value.item() for key, value in found.items()} == {"acc1": 1, "acc5": 2}
    assert Classification(top5=True).metric_names.keys() == found.keys()
    assert Classification().metric_names.keys() == Classification().metrics(logits, samples).keys() == {"acc1"}
    few = Classification(top5=True).metrics(logits[:, :3], Samples(logits, torch.tensor([0, 1, 2, 2])))
    assert few["acc5"].item() == 4  # of three classes all are among the first five


def test_evaluation_has_no_label_smoothing_and_counts_the_calibration_error_and_higher_accuracy_is_better():
    task = Classification(0.1, top5=True)
    assert task.evaluating() == Classification(0.0, top5=True, calibration=True)
    assert task.conventions() == {"label_smoothing": 0.1}
    assert task.is_better(0.9, than=0.8)
    assert not task.is_better(0.8, than=0.8)


def test_outputs_of_several_tensors_are_cast_and_detached():
    x = torch.ones(2, requires_grad=True)
    outputs = {"a": x * 2, "b": (x * 3, torch.tensor([1, 2]))}
    found = cast(outputs, torch.float64)
    assert (found["a"].dtype, found["b"][0].dtype, found["b"][1].dtype) == (torch.float64, torch.float64, torch.int64)
    assert not detached(outputs)["b"][0].requires_grad
    assert outputs["a"].requires_grad
