"""CPU and GPU compute the same training in float64, for every variant."""

import torch
from support.devices import on_each_device
from support.runs import VARIANTS, compose_tiny
from support.steps import sample_closure_of
from torch import nn

from fsamlab.optim import build_optimizer

STEPS, SEED = 5, 3
# Rounding of float64 is 1e-16. Norms and products of a few hundred numbers lose a factor of 100, and a direction that
# is the difference of two near vectors at most 1e5 more: a shorter direction is left unperturbed (the floor).
CLOSE = 1e-9
FARTHER = 1e-6  # of another radius, so that the bound above tells something; float32 alone would be 1e-7 apart
# A GPU has a random generator of its own, whose draws differ from those of the CPU.
OWN_DRAWS = ("random", "rwp", "m_rwp")
COMPARED = [name for name in VARIANTS if name not in OWN_DRAWS]


def network():
    torch.manual_seed(0)
    layers = (nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(48, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).double()


def trained(name, device, foreach=True, *overrides):
    """Return the weights and statistics after STEPS steps, on the CPU."""
    model = network().to(device)
    cfg = compose_tiny(f"optimizer={name}", *overrides).optimizer
    optimizer = build_optimizer(cfg, model, seed=SEED, total_steps=STEPS)
    optimizer.foreach = foreach
    for k in range(STEPS):
        other = sample_closure_of(model, 1000 + k, optimizer.zero_grad)
        optimizer.step(sample_closure_of(model, k, optimizer.zero_grad), other, other)
    state = model.state_dict()
    assert all(x.device.type == device.type for x in state.values())
    return torch.cat([x.detach().cpu().double().flatten() for x in state.values()])


def apart(a, b):
    return float((a - b).abs().max() / b.abs().max())


@on_each_device(COMPARED, plain=("sam", "fsam"))
def test_the_device_does_not_change_the_numbers(name, device):
    """The twin on the CPU compares two orders of summation: one call for all tensors, and a loop over them."""
    expected = trained(name, torch.device("cpu"))
    found = trained(name, device, device.type != "cpu")
    assert apart(found, expected) < CLOSE


@on_each_device(["fsam"], plain=["fsam"])
def test_another_radius_is_outside_of_the_bound(name, device):
    expected = trained(name, torch.device("cpu"))
    rho = compose_tiny(f"optimizer={name}").optimizer.rho
    assert apart(trained(name, device, True, f"optimizer.rho={1.001 * rho}"), expected) > FARTHER


@on_each_device(OWN_DRAWS, plain=["random"])
def test_a_random_direction_is_drawn_again_alike(name, device):
    first, again = trained(name, device), trained(name, device)
    assert torch.equal(first, again)
    assert not torch.equal(first, trained("sgd", device))
