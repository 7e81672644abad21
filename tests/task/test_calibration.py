"""Expected calibration error: against a reference in numpy, analytic cases, and in the evaluation of a run."""

import numpy as np
import pytest
import torch

from fsamlab.task import Classification, Samples
from fsamlab.task.calibration import BINS, calibration_error, calibration_gaps
from fsamlab.train.evaluation import evaluate
from tests.support.runs import build_trainer, compose_tiny


def reference(probabilities, labels, bins=BINS):
    """Return the definition of 1706.04599, equation 3, bin by bin: sum n_i / n |accuracy_i - confidence_i|."""
    confidence, answers = probabilities.max(1), probabilities.argmax(1)
    total = 0.0
    for i in range(1, bins + 1):
        inside = (confidence > (i - 1) / bins) & (confidence <= i / bins)
        if inside.any():
            accuracy = (answers[inside] == labels[inside]).mean()
            total += inside.mean() * abs(accuracy - confidence[inside].mean())
    return total


def error(logits, labels):
    found = Classification().evaluating()
    sums = found.metrics(logits, Samples(logits, labels))
    means = {"acc1": float(sums["acc1"]) / len(labels)}
    means |= {f"ece/gaps/{i}": gap / len(labels) for i, gap in enumerate(sums["ece/gaps"].tolist())}
    return found.values(means)["ece"]


def of_two(p, n):
    """Return the logits of n samples in which class 0 has the probability p."""
    return torch.tensor([[p, 1 - p]], dtype=torch.float64).log().repeat(n, 1)


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (10, 3.0), (100, 10.0)])
def test_the_error_is_the_definition_computed_bin_by_bin(classes, scale):
    gen = torch.Generator().manual_seed(classes)
    logits = scale * torch.randn(500, classes, generator=gen, dtype=torch.float64)
    labels = torch.where(torch.rand(500, generator=gen) < 0.6, logits.argmax(1), torch.arange(500) % classes)
    expected = reference(logits.softmax(1).numpy(), labels.numpy())
    assert expected > 0.01
    assert error(logits, labels) == pytest.approx(expected, abs=1e-12)


def test_analytic_cases():
    right = torch.arange(10) >= 8  # class 0 is right in 8 of 10 samples
    assert error(of_two(0.8, 10), right.long()) == pytest.approx(0, abs=1e-12)  # perfectly calibrated
    assert error(of_two(0.7, 10), right.long()) == pytest.approx(0.1)  # one bin alone has samples
    certain = torch.tensor([[1000.0, 0.0]]).repeat(4, 1)
    assert error(certain, torch.ones(4, dtype=torch.long)) == 1  # always wrong with confidence 1
    assert error(certain, torch.zeros(4, dtype=torch.long)) == 0
    # Gaps of different bins do not cancel; gaps within a bin do.
    both = torch.cat([of_two(0.9, 5), of_two(0.6, 5)])
    labels = torch.tensor([0, 0, 0, 0, 1, 0, 0, 0, 1, 1])  # accuracy .8 at confidence .9, .6 at .6
    assert error(both, labels) == pytest.approx(0.5 * 0.1)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    on_edge = torch.tensor([[0.6, 0.4], [0.61, 0.39]], dtype=torch.float64).log()
    gaps = calibration_gaps(on_edge, torch.tensor([True, False]))
    edge = int(np.ceil(float(on_edge[0].softmax(0)[0]) * BINS)) - 1
    assert gaps[edge].item() == pytest.approx(0.4)
    assert gaps[9].item() == pytest.approx(-0.61)
    assert calibration_gaps(torch.zeros(3, 100), torch.zeros(3, dtype=torch.bool))[0].item() == pytest.approx(-0.03)


def test_outputs_that_are_not_numbers_give_no_number():
    assert np.isnan(error(torch.tensor([[float("nan"), 0.0], [2.0, 1.0]]), torch.tensor([0, 0])))


def test_batches_add_up():
    gen = torch.Generator().manual_seed(1)
    logits, right = torch.randn(60, 5, generator=gen), torch.arange(60) % 3 == 0
    whole = calibration_gaps(logits, right)
    parts = sum(calibration_gaps(logits[i : i + 7], right[i : i + 7]) for i in range(0, 60, 7))
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-12)
    assert calibration_error((parts / 60).tolist()) == pytest.approx(
        reference(logits.double().softmax(1).numpy(), np.where(right, logits.argmax(1), -1))
    )


def test_training_does_not_count_it_and_an_evaluation_does():
    assert Classification().metrics(torch.eye(3), Samples(torch.eye(3), torch.arange(3))).keys() == {"acc1"}
    made = build_trainer(compose_tiny())
    found = evaluate(made.passes, made.data.test, lambda: None)
    with torch.no_grad():
        batches = [(made.model(b.inputs), b.targets) for b in made.data.test.batches()]
    logits, labels = (torch.cat(parts) for parts in zip(*batches))
    assert found["ece"] == pytest.approx(reference(logits.double().softmax(1).numpy(), labels.numpy()), abs=1e-12)
    assert sorted(found) == ["acc1", "ece", "loss"]
