"""How well the EMA estimates the full gradient where nothing moves (lr 0): measured against its prediction."""

from statistics import fmean

import pytest
import torch
import torch.nn.functional as F
from support.runs import build_trainer, compose_tiny

from fsamlab.axes.reference import ema_weights
from fsamlab.data.in_memory import Images, Raw, build_in_memory
from fsamlab.data.readers import read_digits
from fsamlab.diagnostics.noise import GradientNoise, Sampling, ema_cosine
from fsamlab.optim import FSAM

# ---------------------------------------------------- a plain loop with independently drawn batches


class Logistic:
    """Multinomial logistic regression at fixed weights, float64, with every sample's gradient at hand."""

    def __init__(self, num=200, features=20, classes=5):
        g = torch.Generator().manual_seed(11)
        self.x = torch.randn(num, features, generator=g, dtype=torch.float64)
        self.y = torch.randint(classes, (num,), generator=g)
        self.w = torch.nn.Parameter(0.3 * torch.randn(classes, features, generator=g, dtype=torch.float64))
        residual = (self.x @ self.w.detach().T).softmax(1) - F.one_hot(self.y, classes)
        self.of_samples = torch.einsum("nc,nf->ncf", residual, self.x).flatten(1)
        self.g = self.of_samples.mean(0)
        self.trace = float(((self.of_samples - self.g) ** 2).sum(1).mean())

    def closure(self, batch):
        def closure():
            loss = F.cross_entropy(self.x[batch] @ self.w.T, self.y[batch])
            (self.w.grad,) = torch.autograd.grad(loss, [self.w])
            return loss.detach()

        return closure


@pytest.mark.parametrize("lmbda", [0.6, 0.9, 0.95])
def test_independent_batches_obey_the_plain_formula(lmbda):
    problem, size, num_steps, burn_in = Logistic(), 24, 2500, 100
    start = problem.w.detach().clone()
    optimizer = FSAM([problem.w], lr=0.0, lmbda=lmbda, rho=0.1)
    draws = torch.randint(200, (num_steps, size), generator=torch.Generator().manual_seed(7))
    averages = []
    for batch in draws:
        optimizer.step(problem.closure(batch))
        averages.append(optimizer.state[problem.w]["ema"].flatten().clone())
    assert torch.equal(problem.w.detach(), start)
    measured = float(torch.cosine_similarity(torch.stack(averages[burn_in:]), problem.g[None], dim=1).mean())
    ratio = problem.trace / size / float(problem.g @ problem.g)
    plain = 1 / (1 + (1 - lmbda) / (1 + lmbda) * ratio) ** 0.5
    assert measured == pytest.approx(plain, abs=0.01)
    assert measured < 0.975  # or else nothing would be shown
    for wrong in (1 - lmbda, (1 - lmbda) ** 2, 1 / (1 + lmbda)):  # other powers of the EMA's averaging
        assert abs(1 / (1 + wrong * ratio) ** 0.5 - measured) > 0.03 or lmbda == 0.6
    assert abs(1 / (1 + ratio) ** 0.5 - measured) > 0.1  # the batch's own cosine
    endless = 10**12  # draws with replacement come from a distribution
    noise = GradientNoise(float(problem.g @ problem.g), problem.trace, 0.0, size, 2)
    weights = ema_weights(num_steps, lmbda, "first_gradient")
    steps = num_steps - 1 - torch.arange(len(weights)).flip(0)
    predicted = ema_cosine(noise, weights, steps, Sampling(endless, size, 1, independent=True), endless)
    assert predicted == pytest.approx(plain, abs=1e-9)


# ------------------------------------------------------------------------------- the real loader


def digits(cfg, seed, device, root):
    """1000 training images of the digits: pictures, whose augmentations resemble each other."""
    raw = read_digits(cfg, seed, root)
    parts = [Images(raw.train.pixels[a:b], raw.train.labels[a:b]) for a, b in ((0, 1000), (1000, 1797))]
    return build_in_memory(lambda *_: Raw(*parts, 10), cfg, seed, device, root)


STILL = (
    "optimizer=fsam",
    "optimizer.lr=0",
    "model.import_path=support.foreign:NoNorm",
    "model.width=null",
    "model.name=mlp",
    "data.augment.flip=false",
    "data.augment.crop_padding=0",
    "data.eval_batch_size=4096",
    "diagnostics=paper",
    "diagnostics.quantities=[decomposition]",
    "diagnostics.every_epochs=null",
    "diagnostics.every_steps=null",
    "train.epochs=9",
    "train.eval_every_epochs=9",
)
SYNTHETIC = ("data.num_samples=1192", "data.batch_size=64", "data.label_noise=0.8")  # 1000 train
DIGITS = (
    f"data.import_path={__name__}:digits",
    "data.test_size=null",
    "data.val_size=0",
    "data.batch_size=64",
    "data.label_noise=0.3",
)


class Measuring:
    """Measures after chosen steps: an observer of the loop."""

    def __init__(self, trainer, steps):
        self.trainer, self.steps, self.found = trainer, steps, []

    def poll(self):
        pass

    def stopping(self):
        return False

    def row(self, row):
        pass

    def boundary(self):
        if self.trainer.step in self.steps:
            self.found.append(self.trainer.diagnostics.measure(self.trainer.snapshot()))


def measured(*overrides, seeds=range(4), steps=range(17, 48, 5)):
    """Return {key: mean over seeds and steps} of what lies below perturbation/."""
    found = []
    for seed in seeds:
        trainer = build_trainer(compose_tiny(*STILL, *overrides, f"seed={seed}", f"train.max_steps={max(steps)}"))
        observer = Measuring(trainer, steps)
        trainer.fit(observer)
        found += observer.found
    return {key.removeprefix("perturbation/"): fmean(f[key] for f in found) for key in found[0]}


@pytest.mark.parametrize(
    ("overrides", "tolerance"),
    [
        (("optimizer.lmbda=0.9",), 0.003),
        pytest.param(("optimizer.lmbda=0.95",), 0.006, marks=pytest.mark.long),
        pytest.param(
            ("optimizer.lmbda=0.9", "optimizer.ema_init=zero_debiased", "data.drop_last=true"),
            0.003,
            marks=pytest.mark.long,
        ),
    ],
)
def test_shuffled_epochs_obey_the_exact_formula(overrides, tolerance):
    found = measured(*SYNTHETIC, *overrides)
    assert found["cos_ema_full"] == pytest.approx(found["cos_ema_full_predicted"], abs=tolerance)
    assert found["cos_ema_full"] > found["cos_ema_full_independent"] + 5 * tolerance
    assert found["cos_ema_full"] < 0.97  # or else nothing would be shown
    assert found["cos_batch_full"] == pytest.approx(found["cos_batch_full_predicted"], abs=0.03)


@pytest.mark.long
def test_every_second_step_feeds_the_ema():
    found = measured(*SYNTHETIC, "optimizer.every=2")
    assert found["cos_ema_full"] == pytest.approx(found["cos_ema_full_predicted"], abs=0.008)
    assert found["cos_ema_full"] > found["cos_ema_full_independent"] + 0.016


def test_digits():
    found = measured(*DIGITS)
    assert found["cos_ema_full"] == pytest.approx(found["cos_ema_full_predicted"], abs=0.003)
    assert found["cos_ema_full"] > found["cos_ema_full_independent"] + 0.02


@pytest.mark.long
def test_a_probe_smaller_than_the_training_set():
    few = ("data.num_samples=1192", "data.batch_size=16", "data.label_noise=0.5")
    found = measured(*few, "diagnostics.num_samples=250", seeds=range(12), steps=(40, 60))
    assert found["cos_ema_full"] == pytest.approx(found["cos_ema_full_predicted"], abs=0.02)
    whole = measured(*few, seeds=range(3), steps=(40, 60))  # the prediction without the probe's factor
    assert whole["cos_ema_full_predicted"] > found["cos_ema_full"] + 0.06


@pytest.mark.long
def test_augmented_pictures():
    """The probe is augmented once, the EMA's batches anew: the noise of the augmentation is in both, independently."""
    found = measured(*DIGITS, "data.augment.crop_padding=1", "diagnostics.quantities=[decomposition,noise]")
    assert found["cos_ema_full"] == pytest.approx(found["cos_ema_full_predicted"], abs=0.015)
    assert found["cos_ema_full_predicted"] < measured(*DIGITS)["cos_ema_full_predicted"] - 0.03


EVEN = ("data.num_samples=1152", "data.batch_size=64", "data.label_noise=0.8")  # 15 batches of 64


def test_an_independent_ascent_batch():
    """Drawn without replacement, half the training set at a time: its variance is S^2 (1/b - 1/N)."""
    other = ("optimizer.ascent=other_batch", "optimizer.ascent_nested=false", "optimizer.ascent_batch_size=480")
    found = measured(*EVEN, *other)
    assert found["cos_ema_full"] == pytest.approx(found["cos_ema_full_predicted"], abs=0.003)


@pytest.mark.long
def test_a_nested_ascent_batch():
    """The first samples of each descent batch: in an epoch they do not meet, just as the descent batches do not."""
    other = ("optimizer.ascent=other_batch", "optimizer.ascent_nested=true", "optimizer.ascent_batch_size=56")
    found = measured(*EVEN, *other)
    assert found["cos_ema_full"] == pytest.approx(found["cos_ema_full_predicted"], abs=0.006)


@pytest.mark.long
def test_a_nested_ascent_batch_larger_than_the_descent_batch():
    """All of the descent batch, and others at random: three quarters of it are drawn independently."""
    other = ("optimizer.ascent=other_batch", "optimizer.ascent_nested=true", "optimizer.ascent_batch_size=256")
    found = measured(*EVEN, *other)
    assert found["cos_ema_full"] == pytest.approx(found["cos_ema_full_predicted"], abs=0.006)


@pytest.mark.long
def test_one_update_per_micro_batch():
    found = measured(*EVEN, "train.accumulate_steps=4", "train.accumulate_mode=per_micro_batch")
    assert found["cos_ema_full"] == pytest.approx(found["cos_ema_full_predicted"], abs=0.02)
    assert found["cos_ema_full"] > found["cos_ema_full_independent"] + 0.02  # shuffled epochs do better, as ever


class Dropped(torch.nn.Sequential):
    """Softmax regression behind dropout: the training gradient has the masks' noise in it."""

    def __init__(self, num_classes, in_channels):
        super().__init__(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.LazyLinear(num_classes))
        self(torch.zeros(1, in_channels, 8, 8))


DROPPED = (f"model.import_path={__name__}:Dropped", "model.width=null", "model.name=dropped")


def test_dropout_is_noise_of_the_gradient():
    """At rest the EMA is as good as its prediction says: masks are part of both."""
    noise = "diagnostics.quantities=[decomposition,noise]"
    found = measured(*DIGITS, *DROPPED, noise, seeds=range(3), steps=range(27, 48, 10))
    assert found["cos_ema_full"] == pytest.approx(found["cos_ema_full_predicted"], abs=0.015)
    assert found["cos_batch_full"] == pytest.approx(found["cos_batch_full_predicted"], abs=0.03)
    assert 0.1 < found["noise/trace_augmentation"] / found["noise/trace_sigma"] < 0.95
    assert found["cos_ema_full"] < 0.97


class Residual(torch.nn.Module):
    """A residual net with dropout and stochastic depth: the masks of a batch are of two kinds."""

    def __init__(self, num_classes, in_channels):
        from timm.layers import DropPath

        super().__init__()
        self.stem, self.head = torch.nn.Linear(64 * in_channels, 16), torch.nn.Linear(16, num_classes)
        self.block = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Tanh(), torch.nn.Dropout(0.2), DropPath(0.2))

    def forward(self, x):
        h = torch.tanh(self.stem(x.flatten(1)))
        return self.head(h + self.block(h))


@pytest.mark.long
def test_stochastic_depth_is_noise_of_the_gradient():
    net = (f"model.import_path={__name__}:Residual", "model.width=null", "model.name=residual")
    noise = "diagnostics.quantities=[decomposition,noise]"
    found = measured(*DIGITS, *net, noise, seeds=range(3), steps=range(27, 48, 10))
    assert found["cos_ema_full"] == pytest.approx(found["cos_ema_full_predicted"], abs=0.015)
    assert found["cos_batch_full"] == pytest.approx(found["cos_batch_full_predicted"], abs=0.03)
    assert 0.01 < found["noise/trace_augmentation"] / found["noise/trace_sigma"] < 0.95
