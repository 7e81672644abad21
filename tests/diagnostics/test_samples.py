"""Measurements in any loop: what data may be, what is read of it, and what a loop need not tell."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from fsamlab.config import ConfigError
from fsamlab.data import Batch
from fsamlab.diagnostics import Diagnostics, Sampling, Snapshot
from fsamlab.diagnostics.samples import source_of
from fsamlab.optim import FSAM, SAM

N, SIZE = 60, 6
G = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, 3, generator=G), torch.randint(2, (N,), generator=G)
SETTINGS = {"num_samples": 24, "num_batches": 2, "num_probes": 2, "max_products": 10}
FIRST = torch.tensor([7, 3, 11])


def of_loop(data=(X, Y), size=SIZE, **settings):
    return Diagnostics.of_loop(data, size, **{**SETTINGS, **settings})


class Noisy(Dataset):
    """Samples with an augmentation that draws from all three random states; counts what is read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return N

    def __getitem__(self, i):
        self.read.append(i)
        return X[i] + torch.rand(3) + random.random() + float(np.random.rand()), int(Y[i])


class Shuffled(IterableDataset):
    """Samples in an order that draws from torch's random state."""

    def __iter__(self):
        return iter([(X[i], Y[i]) for i in torch.randperm(N)])


def trained(variant=FSAM, steps=3):
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2))
    optimizer = variant(list(model.parameters()), lr=0.1, rho=0.2, model=model)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(X[:SIZE]), Y[:SIZE])
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return Snapshot(model, optimizer, steps)


# --------------------------------------------------------------------------------- what data may be


@pytest.mark.parametrize("name", ["pair", "dataset", "loader", "batches", "generator"])
def test_all_kinds_of_data_are_the_same_samples(name):
    batches = list(zip(X.split(SIZE), Y.split(SIZE)))
    data = {
        "pair": (X, Y),
        "dataset": TensorDataset(X, Y),
        "loader": DataLoader(TensorDataset(X, Y), batch_size=SIZE, shuffle=True),
        "batches": batches,
        "generator": (batch for batch in batches),
    }[name]
    source, size = source_of(data, SIZE if name in ("pair", "dataset") else None)
    assert (source.num_samples, size) == (N, SIZE)
    found = source.at(FIRST)
    assert torch.equal(found.inputs, X[FIRST])
    assert torch.equal(found.targets, Y[FIRST])
    assert torch.equal(found.indices, FIRST)
    drawn, again, later = source.other(4, 9), source.other(4, 9), source.other(5, 9)
    assert torch.equal(drawn.inputs, X[drawn.indices])
    assert torch.equal(drawn.indices, again.indices)
    assert not torch.equal(drawn.indices, later.indices)
    assert len(drawn.indices.unique()) == 9


def test_two_batches_are_not_taken_for_a_pair_of_tensors():
    source, size = source_of([(X[:40], Y[:40]), (X[40:], Y[40:])])
    assert (source.num_samples, size) == (N, 40)


@pytest.mark.parametrize(
    ("data", "size", "kind", "message"),
    [
        ((X, Y), None, ValueError, "batch_size is missing"),
        ((X, Y[:-1]), 4, ValueError, "60 inputs and 59 targets"),
        ([], 4, ValueError, "no samples"),
        (TensorDataset(X[:0], Y[:0]), 4, ValueError, "no samples"),
        ([X, Y, X], 4, TypeError, "a batch of type Tensor is no pair"),
        (X, 4, TypeError, "data of type Tensor cannot be measured on"),
        (3, 4, TypeError, "data of type int"),
        (Shuffled(), 4, TypeError, "data of type Shuffled"),
    ],
)
def test_other_data_is_refused_in_one_line(data, size, kind, message):
    with pytest.raises(kind, match=message) as raised:
        source_of(data, size)
    assert "\n" not in str(raised.value)


def test_of_a_data_set_only_the_measured_samples_are_read_and_no_random_state_moves():
    data = Noisy()
    source, _ = source_of(DataLoader(data, batch_size=SIZE, shuffle=True))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first, again, drawn = source.at(FIRST), source.at(FIRST), source.other(0, N)
    assert sorted(data.read[:6]) == sorted([*FIRST.tolist()] * 2)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(source.at(FIRST[1:]).inputs, first.inputs[1:])
    anew = drawn.inputs[[drawn.indices.tolist().index(i) for i in FIRST.tolist()]]
    assert not torch.isclose(anew, first.inputs).any()  # as training does, in each epoch
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


def test_batches_of_a_shuffling_loader_leave_the_order_of_training():
    state = torch.get_rng_state()
    source, size = source_of(DataLoader(Shuffled(), batch_size=SIZE))
    assert torch.equal(torch.get_rng_state(), state)
    assert (source.num_samples, size) == (N, SIZE)


# ------------------------------------------------------------------------ what a loop need not tell


def test_a_plain_optimizer_has_all_but_the_ema():
    now = trained()
    plain = Snapshot(now.model, torch.optim.SGD(now.model.parameters(), lr=0.1), now.step)
    diagnostics = of_loop(rho=0.3)
    of_fsam, row = diagnostics.measure(now), diagnostics.measure(plain)
    missing = of_fsam.keys() - row.keys()
    assert missing
    assert all(any(name in key for name in ("ema", "fsam", "cos_d_")) for key in missing)
    assert row.keys() <= of_fsam.keys()
    assert row["perturbation/cos_batch_full"] == of_fsam["perturbation/cos_batch_full"]
    assert diagnostics.conventions(plain)["perturbation_rho"] == 0.3
    assert diagnostics.conventions(now)["perturbation_rho"] == 0.2


def test_the_keys_are_those_of_an_optimizer_of_the_family_and_repeat():
    now = trained(SAM)
    before = [p.clone() for p in now.model.parameters()]
    row = of_loop().measure(now)
    assert row == of_loop().measure(now)
    assert {key.split("/")[0] for key in row} == {"sharpness", "curvature", "perturbation", "noise"}
    assert all(torch.equal(a, b) for a, b in zip(before, now.model.parameters()))


def test_without_the_sampling_the_prediction_alone_is_absent():
    untold = trained()
    told = Snapshot(untold.model, untold.optimizer, 3, sampling=Sampling(N, SIZE, N // SIZE))
    apart = Snapshot(untold.model, untold.optimizer, 3, sampling=Sampling(N, SIZE, independent=True))
    diagnostics = of_loop(quantities=["decomposition"])
    rows = [diagnostics.measure(now) for now in (untold, told, apart)]
    key = "perturbation/cos_ema_full_predicted"
    assert rows[1].keys() - rows[0].keys() == {key}
    assert rows[0] == {k: v for k, v in rows[1].items() if k != key}
    assert rows[2][key] == rows[2]["perturbation/cos_ema_full_independent"] != rows[1][key]


def test_coming_batches_are_taken_apart_and_may_not_be_too_few():
    now = trained()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    batches = [Batch(X[i], Y[i], i) for i in (order[:2], *order[2:].split(SIZE))]  # the first is not of full size
    told = Snapshot(now.model, now.optimizer, 3, coming=lambda: batches)
    diagnostics = of_loop(quantities=["decomposition"])
    with diagnostics._decomposition(told, None) as parts:
        for found, batch in zip(parts.batches, batches[1:]):
            assert torch.equal(found.batches[0][0], batch.inputs)
    assert "perturbation_batches" not in diagnostics.conventions(told)
    assert diagnostics.conventions(now)["perturbation_batches"] == "drawn at random"
    few = Snapshot(now.model, now.optimizer, 3, coming=lambda: batches[:2])
    with pytest.raises(ValueError, match="gave 1 batches of 6 samples, but num_batches=2"):
        diagnostics.measure(few)


def test_an_augmentation_of_the_data_set_is_part_of_the_noise():
    now = trained()
    row = of_loop(DataLoader(Noisy(), batch_size=SIZE), None, quantities=["noise"]).measure(now)
    assert row["noise/trace_augmentation"] > 0
    assert of_loop(quantities=["noise"]).measure(now)["noise/trace_augmentation"] == 0


def test_a_loss_and_inputs_of_another_kind():
    torch.manual_seed(2)
    model = torch.nn.Sequential(
        torch.nn.Embedding(5, 4), torch.nn.Flatten(), torch.nn.Linear(8, 1), torch.nn.Flatten(0)
    )
    tokens, values = torch.randint(5, (N, 2), generator=G), torch.randn(N, generator=G)
    now = Snapshot(model, torch.optim.SGD(model.parameters(), lr=0.1), 0)
    diagnostics = of_loop((tokens, values), loss=torch.nn.MSELoss(reduction="none"))
    row = diagnostics.measure(now)
    assert row["sharpness/m_sharpness"] > 0
    conventions = diagnostics.conventions(now)
    assert conventions["loss"] == "MSELoss"
    assert "label_smoothing" not in conventions
    with pytest.raises(ValueError, match='reduction="none"'):
        of_loop((tokens, values), loss=torch.nn.MSELoss()).measure(now)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"diagnostics\.rho=-1"):
        of_loop(rho=-1)
    with pytest.raises(ConfigError, match="needs 66 training samples, but there are 60"):
        of_loop(num_batches=9)
    with pytest.raises(TypeError, match="rhoo"):
        of_loop(rhoo=1)
