"""What the programs of this folder train: a small network on scikit-learn's digits. Each program shows a loop."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset


def digits():
    """Return training set and test set: inputs (n, 64) in [0, 1] and labels (n,)."""
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.get_default_dtype()), torch.tensor(y)
    return TensorDataset(x[:1024], y[:1024]), TensorDataset(x[1024:], y[1024:])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


@torch.no_grad()
def accuracy(model):
    device = next(model.parameters()).device
    x, y = (tensor.to(device) for tensor in digits()[1].tensors)
    return (model.eval()(x).argmax(1) == y).double().mean().item()
