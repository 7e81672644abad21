"""Several ranks train one model: the weights of one process, in every variant; each rank's own perturbation; resume."""

import copy
import dataclasses
import math

import pytest
import torch
from support.made_data import pictures
from support.ranked import SMALL, far, in_float64, on_ranks, trained
from support.runs import ADAMW, VARIANTS, compose_bare, compose_tiny

from fsamlab import run
from fsamlab.config import ConfigError
from fsamlab.data.cut import Cut
from fsamlab.optim import FSAM
from fsamlab.ranks import Place, Ranks
from fsamlab.train.parallel import check_cut, check_ranks

PARTS = "train.accumulate_steps=2"
MICRO = (PARTS, "train.accumulate_mode=per_micro_batch")
MIXED = ("data.augment.mixup=0.8", "train.label_smoothing=0.1")
MEASURED = ("diagnostics=light", "diagnostics.num_samples=16", "diagnostics.every_steps=2")
CELLS = {
    **{v: (f"optimizer={v}",) for v in VARIANTS},
    **{f"{v} adamw": (f"optimizer={v}", *ADAMW) for v in ("sam", "fsam")},
    **{f"{v} in parts": (f"optimizer={v}", PARTS) for v in ("sam", "fsam", "sam_db", "esam", "fsam_quarter")},
    **{f"{v} in micro-batches": (f"optimizer={v}", *MICRO) for v in ("sam", "fsam")},
    **{f"{v} mixed": (f"optimizer={v}", *MIXED) for v in ("fsam", "sam_db", "fsam_quarter")},
    "fsam clipped": ("optimizer=fsam", "train.max_grad_norm=0.1"),
    "fsam measured": ("optimizer=fsam", *MEASURED),
    # Autocast leaves float64 as it is: these cells hold the scaling and the passes, not the rounding.
    **{f"fsam {kind}": ("optimizer=fsam", f"train.precision={kind}") for kind in ("fp16", "bf16")},
    "fsam averaged": ("optimizer=fsam", "train.ema_decay=0.9"),
    "pictures": ("optimizer=sam_full",),
}
ON_FOUR = ("fsam", "esam", "sam_db in parts", "sam_full", "pictures")
OWN = ("sgd", "sam", "adamw", "asam", "sam_on", "usam", "esam_swp", "unified_sam", "le_sam")
OTHERWISE = {  # what goes with a perturbation for each rank, and with BatchNorm that is not synchronised
    **{f"sam {kind}": ("optimizer=sam", f"train.precision={kind}") for kind in ("fp16", "bf16")},
    "sam compiled": ("optimizer=sam", "train.compile=true"),
    "sam clipped": ("optimizer=sam", "train.max_grad_norm=0.1"),
    "sam averaged": ("optimizer=sam", "train.ema_decay=0.9"),
}
SCOPES = ("rank", "global")
RESUMED = ("fsam", "rank per rank", "global per rank")


def synchronised(folder):
    """Return {cell: config}; with several ranks BatchNorm's statistics are those of all ranks."""
    sizes = ("data.image_size=8", "data.resize=8", "data.batch_size=8", "data.eval_batch_size=4", "model.width=2")
    of_files = (f"data.root={folder}", "data.num_workers=0", "data.val_size=4", "train.epochs=2", "diagnostics=off")
    found = {}
    for cell, words in CELLS.items():
        if cell == "pictures":  # 12 of 16 to train with: 8 and 4
            config = compose_bare("data=image_folder", *sizes, *of_files, *words)
        else:
            config = compose_tiny(*SMALL, *words)
        found[cell] = dataclasses.replace(config, train=dataclasses.replace(config.train, sync_batchnorm=True))
    return found


def per_rank():
    """Return {cell: config} of trainings in which each rank perturbs by its own samples."""
    words = {v: (f"optimizer={v}",) for v in OWN} | OTHERWISE
    words |= {scope: ("optimizer=fsam", f"train.ema_scope={scope}") for scope in SCOPES}
    return {f"{k} per rank": compose_tiny(*SMALL, *own, "train.perturbation=per_rank") for k, own in words.items()}


def scene(ranks, work):
    """Train all cells on the ranks; go on once more from the state that was kept on the way."""
    found = {}
    for cell, config in work.items():
        weights, seen = trained(config, ranks)
        state = ranks.broadcast(seen.state)  # copied below: torch steps on in the tensors of a state that it has loaded
        again = trained(config, ranks, copy.deepcopy(state))[0] if cell in RESUMED else None
        found[cell] = weights, seen.rows, again, state
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return synchronised(pictures(tmp_path_factory.mktemp("images"), 8, 2)), per_rank()


@pytest.fixture(scope="module")
def two(work, tmp_path_factory):
    return on_ranks(2, __file__, "scene", work[0] | work[1], tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(work, tmp_path_factory):
    cells = {cell: work[0][cell] for cell in ON_FOUR}
    cells |= {cell: work[1][cell] for cell in ("sam per rank", "rank per rank", "global per rank")}
    return on_ranks(4, __file__, "scene", cells, tmp_path_factory.mktemp("four"))


def one_process(config):
    """Return the config of the same training by one process."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, sync_batchnorm=False))


def in_parts(config, number):
    """Return the config of one process that perturbs once for each of the parts that the ranks have."""
    train = dataclasses.replace(
        config.train,
        perturbation="synchronised",
        ema_scope="rank",
        accumulate_steps=number,
        accumulate_mode="per_micro_batch",
    )
    return dataclasses.replace(config, train=train)


def assert_same_rows(rows, others):
    assert [row.keys() for row in rows] == [row.keys() for row in others]
    for row, other in zip(rows, others):
        for key in row.keys() - {"time", "time/step_ms"}:
            assert row[key] == pytest.approx(other[key], rel=1e-6, abs=1e-9, nan_ok=True), key


def compare(results, cell, config, skip="nothing"):
    """Compare the weights of every rank, and the rows of rank 0, with a training by one process."""
    weights, seen = trained(config)
    assert max(far(result[cell][0], weights, skip) for result in results) < 1e-12
    assert_same_rows(results[0][cell][1], seen.rows) if skip == "nothing" else None


@pytest.mark.long
@pytest.mark.parametrize("cell", CELLS)
def test_two_ranks_train_the_weights_of_one_process(two, work, cell):
    compare(two, cell, one_process(work[0][cell]))


@pytest.mark.long
@pytest.mark.parametrize("cell", ON_FOUR)
def test_four_ranks_train_the_weights_of_one_process(four, work, cell):
    compare(four, cell, one_process(work[0][cell]))


@pytest.mark.long
@pytest.mark.parametrize("cell", [f"{v} per rank" for v in (*OWN, *OTHERWISE)])
def test_own_perturbations_are_those_of_micro_batches(two, work, cell):
    compare(two, cell, in_parts(work[1][cell], 2), "running")


@pytest.mark.long
def test_own_perturbations_of_four_ranks(four, work):
    compare(four, "sam per rank", in_parts(work[1]["sam per rank"], 4), "running")


def by_hand(config, size, scope):
    """Return the weights of F-SAM with an optimizer for each part of the batch, whose average is its own or common."""
    with in_float64():
        trainer = run.build(in_parts(config, 1), torch.device("cpu"))[0]
        model, base, cfg = trainer.model, trainer.optimizer.base, config.optimizer
        choices = {"rho": cfg.rho, "sigma": cfg.sigma, "lmbda": cfg.lmbda, "model": model}
        parts = [FSAM(torch.optim.SGD(model.parameters(), lr=0.0), **choices) for _ in range(size)]
        for step, batch in enumerate(trainer.data.train.batches(0)):
            for group in base.param_groups:
                group["lr"] = cfg.lr * 0.5 * (1 + math.cos(math.pi * step / 4))
            model.train()
            found = []
            for rank, optimizer in enumerate(parts):
                optimizer.step(trainer.passes.closure(Cut(rank, size, 1, True).of(batch), None))
                found.append([p.grad.clone() for p in model.parameters()])
            for p, grads in zip(model.parameters(), zip(*found)):
                p.grad = sum(grads) / size
            base.step()
            if scope == "global":
                for p in model.parameters():
                    mean = sum(optimizer.state[p]["ema"] for optimizer in parts) / size
                    for optimizer in parts:
                        optimizer.state[p]["ema"] = mean.clone()
    return model.state_dict()


@pytest.mark.long
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("scope", SCOPES)
def test_averages_of_each_rank_and_of_all(request, work, size, scope):
    results = request.getfixturevalue({2: "two", 4: "four"}[size])
    cell = f"{scope} per rank"
    weights = by_hand(work[1][cell], size, scope)
    assert max(far(result[cell][0], weights, "running") for result in results) < 1e-12


@pytest.mark.long
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("cell", RESUMED)
def test_a_resumed_training_has_the_same_bits(request, size, cell):
    for result in request.getfixturevalue({2: "two", 4: "four"}[size]):
        weights, _, again, _ = result[cell]
        assert all(torch.equal(weights[k], again[k]) for k in weights if "running" not in k and "num_batches" not in k)


@pytest.mark.long
def test_one_process_goes_on_where_two_ranks_stopped(two, work):
    config = one_process(work[0]["fsam"])
    weights = trained(config, state=two[0]["fsam"][3])[0]
    assert far(weights, trained(config)[0]) < 1e-12


@pytest.mark.long
def test_a_checkpoint_holds_the_averages_of_all_ranks(two):
    state = two[0]["rank per rank"][3]
    emas = [of["state"][0]["ema"] for of in state["of_ranks"]]
    assert not torch.equal(*emas)
    assert torch.equal(emas[0], state["optimizer"]["state"][0]["ema"])
    assert "of_ranks" not in two[0]["global per rank"][3]
    assert "num_ranks" not in two[0]["fsam"][3]


def alone():
    return Ranks.alone(torch.device("cpu"))


def other(size, rank=0):
    return Ranks(Place(rank, size), torch.device("cpu"))


def test_settings_that_do_not_fit_the_ranks():
    cfg = compose_tiny("train.perturbation=per_rank").train
    with pytest.raises(ConfigError, match=r"per_rank.*needs several ranks"):
        check_ranks(cfg, alone(), None)
    with pytest.raises(ConfigError, match=r"WORLD_SIZE.*2.*started with 4 ranks"):
        check_ranks(cfg, other(2), {"num_ranks": 4})
    check_ranks(cfg, other(2), {"num_ranks": 2})
    check_ranks(compose_tiny().train, other(2), {})


def test_batches_that_cannot_be_cut():
    cfg = compose_tiny().train
    with pytest.raises(ConfigError, match=r"data.batch_size.*no sample: 3 ranks cut a batch of 2 samples"):
        check_cut(cfg, other(3), 40, 2, False)
    with pytest.raises(ConfigError, match=r"no sample: 4 ranks cut a last batch of 3 samples.*drop_last"):
        check_cut(cfg, other(4), 43, 8, False)
    with pytest.raises(ConfigError, match="one sample, from which BatchNorm"):
        check_cut(cfg, other(2), 43, 8, False)
    check_cut(cfg, other(4), 43, 8, True)
    check_cut(cfg, alone(), 43, 8, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("optimizer=sam_db", "train.perturbation=per_rank"), "train.perturbation.*rank's own samples.*sam_db"),
        (("optimizer=sam", "train.ema_scope=global"), "train.ema_scope.*per_rank alone"),
        (("optimizer=sam", "train.perturbation=per_rank", "train.sync_batchnorm=true"), "sync_batchnorm.*apart"),
        (("optimizer=sam", "train.perturbation=per_rank", *MICRO), "accumulate_mode.*one perturbation for each rank"),
    ],
)
def test_combinations_that_mean_nothing(words, message):
    with pytest.raises(ConfigError, match=message):
        compose_tiny(*words)
