"""train.compile: the variants with a compiler that changes no bits, and the real compiler where it can go wrong."""

import copy

import pytest
import torch
from support.marks import long_but
from support.runs import VARIANTS, compose_tiny
from support.trainers import after, same_state, step, trainer_of, weights

from fsamlab.config import ConfigError
from fsamlab.train import compiled as module

DROPOUT = ("model.import_path=support.trainers:network_with_dropout", "model.width=null", "optimizer.lr=0.01")
# In parts: each kind of pass, over the batch, another batch, the full set and some of the samples.
IN_PARTS = [(variant, 2) for variant in ("fsam", "sam_db", "sam_full", "esam", "looksam")]
UNEQUAL = ("data.num_samples=122", "data.batch_size=24")  # the last batch of an epoch has 18 samples


@pytest.fixture
def exact(monkeypatch):
    """Capture graphs, and run them by torch's own kernels; return the function that counts the graphs."""
    monkeypatch.setattr(module, "BACKEND", "eager")
    torch._dynamo.utils.counters.clear()
    yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.mark.parametrize(("variant", "parts"), long_but([("fsam", 1)], [(v, 1) for v in VARIANTS] + IN_PARTS))
def test_a_compiled_network_takes_the_same_steps(exact, variant, parts):
    """The smaller last batch of an epoch needs no graph of its own; the compiler keeps eight."""
    number = 5 if variant in ("fsam", "sam_full", "esam") else 4
    plain = after(number, trainer_of(variant, *UNEQUAL, accumulate_steps=parts))
    trainer = after(number, trainer_of(variant, *UNEQUAL, accumulate_steps=parts, compile=True))
    assert same_state(trainer, plain)
    if variant == "fsam":
        assert exact() == 2
    assert 1 <= exact() <= 6  # parts of a batch with fewer than 16 samples take other convolutions on the CPU


def test_evaluation_and_measurement_see_the_plain_network(exact):
    trainer = trainer_of("fsam", *UNEQUAL, compile=True)
    trainer.evaluate(trainer.data.val)
    assert trainer.snapshot().model is trainer.model
    assert exact() == 0
    step(trainer, 0)
    assert exact() == 2
    assert not any("_orig_mod" in key for key in trainer.state_dict()["model"])


@pytest.mark.long
def test_a_second_run_in_the_process_is_compiled_too(exact):
    """The compiler keeps eight versions of the code of one class of module, and runs further ones uncompiled."""
    for _ in range(5):
        step(trainer_of("fsam", *UNEQUAL, compile=True), 0)
    assert exact() == 10


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own code
@pytest.mark.parametrize(("variant", "dropout"), [("fsam", True), ("sgd", False)])
def test_the_real_compiler(variant, dropout):
    """Same gradients up to rounding; the same masks in both passes; a resumed run goes on with the same bits."""
    network = DROPOUT if dropout else (*DROPOUT, "model.import_path=support.trainers:network_without_dropout")
    network = (*network, *(("optimizer.same_rng=true", "optimizer.rho=1e-7") if dropout else ()))
    trainer = trainer_of(variant, *network, compile=True)
    losses = [step(trainer, k) for k in range(4)]
    if dropout:
        near = abs(float(trainer.optimizer.scalars["loss_perturbed"] - losses[-1]))
        assert near < 1e-5  # other masks would change the loss by about 0.01
    else:
        plain = after(4, trainer_of(variant, *network))
        assert float((weights(trainer) - weights(plain)).abs().max()) < 1e-5
    state = copy.deepcopy(trainer.state_dict())
    step(trainer, 4)
    resumed = trainer_of(variant, *network, compile=True)  # the compiler starts anew, as in another process
    resumed.load_state_dict(state)
    step(resumed, 4)
    assert same_state(trainer, resumed)


def test_without_a_compiler_the_run_is_refused(monkeypatch):
    from torch._inductor import cpp_builder, exc

    def missing():
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(ConfigError, match=r"train\.compile=True: needs a C\+\+ compiler on the CPU"):
        trainer_of("sgd", compile=True)


def test_activation_checkpointing_is_refused():
    with pytest.raises(ConfigError, match=r"train\.activation_checkpointing=True: does not go with train\.compile"):
        compose_tiny("train.compile=true", "train.activation_checkpointing=true")
