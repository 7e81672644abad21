"""Every sweep file composes, passes the checks that a launch makes, and every setting in it can take steps."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from support.marks import long_but
from support.runs import ROOT, Rows, build_trainer
from support.sweeps import composed_job, grid, jobs, settings, text

from fsamlab.command.main import main
from fsamlab.config import Config, ModelConfig, SyntheticConfig, typed
from fsamlab.config.compose import register
from fsamlab.config.identity import run_id
from fsamlab.models import build_model

SWEEPS = sorted(str(p.relative_to(ROOT / "sweeps").with_suffix("")) for p in (ROOT / "sweeps").rglob("*.yaml"))
OWN = ("pilot", "friendliness", "cost", "fashion")  # the other sweeps of mini/ share runs/mini
SHRINK = 8  # of batch sizes, so that an ascent batch keeps its ratio to the descent batch
NUM_TRAIN, NUM_VAL, NUM_TEST = 144, 16, 16
STEPS = 2  # the second is the first one in which an EMA is in use


def shrunk(size: int | None) -> int | None:
    if size is None:
        return None
    assert size % SHRINK == 0, f"{size} does not keep its ratio to the batch when both are divided by {SHRINK}"
    return size // SHRINK


def tiny(config: Config) -> Config:
    """Return the config on small synthetic images with a small network, for two steps."""
    data = config.data
    batch_size = shrunk(data.batch_size)
    assert batch_size is not None
    images = SyntheticConfig(
        name="synthetic",
        num_samples=NUM_TRAIN + NUM_VAL + NUM_TEST,
        num_classes=4,
        channels=len(data.mean),  # 1 for grey images, 3 for coloured ones
        batch_size=batch_size,
        eval_batch_size=max(batch_size, NUM_TRAIN // 2),
        drop_last=data.drop_last,
        val_size=NUM_VAL if data.val_size else 0,
        test_size=NUM_TEST + (0 if data.val_size else NUM_VAL),
        label_noise=0.2 if data.label_noise else 0.0,
        noise_type=data.noise_type,
        mean=data.mean,
        std=data.std,
        augment=replace(data.augment, cutout=min(data.augment.cutout, 2)),
    )
    wide = config.model.name == "wrn28_10"  # the others have no width, or stay slow at any
    model = ModelConfig(name="wrn28_10", depth=10, width=1) if wide else ModelConfig(name="small_cnn", width=4)
    return replace(
        config,
        name="tiny",
        seed=0,
        data=images,
        model=model,
        optimizer=replace(
            config.optimizer, epoch_multiplier=1, ascent_batch_size=shrunk(config.optimizer.ascent_batch_size)
        ),
        train=replace(config.train, epochs=60, max_steps=STEPS, num_threads=1, device="cpu", progress=False),
        diagnostics=replace(config.diagnostics, num_batches=2, every_steps=1, num_samples=None),
    )


@pytest.mark.parametrize("sweep", long_but(("quickstart", "table_label_noise"), SWEEPS))
def test_every_job_of_a_sweep_is_valid(sweep):
    configs = settings(sweep)
    assert len(configs) > 1
    name = sweep.replace("/", "_") if sweep.rpartition("/")[2] in OWN else sweep.partition("/")[0]
    assert {config.name for config in configs} == {name}
    assert len({run_id(config) for config in configs}) == len(configs)  # else two jobs were one run


@pytest.mark.parametrize("sweep", long_but(("quickstart", "table_cifar"), SWEEPS))
def test_every_network_of_a_sweep_can_be_built(sweep):
    for model in {str(config.model): config.model for config in settings(sweep)}.values():
        with torch.device("meta"):  # shapes only: refuses unknown names and fields without effect
            build_model(model, num_classes=10, in_channels=3)


@pytest.mark.parametrize("sweeps", [("quickstart", "table_label_noise"), pytest.param(SWEEPS, marks=pytest.mark.long)])
def test_every_setting_of_every_sweep_takes_steps(sweeps):
    distinct = {}
    for sweep in sweeps:
        for config in map(tiny, settings(sweep)):
            alike = repr(replace(config, optimizer=replace(config.optimizer, rho=float(config.optimizer.rho > 0))))
            _, other = distinct.setdefault(alike, (sweep, config))
            if config.optimizer.rho > other.optimizer.rho:  # of settings that differ in the radius, the largest
                distinct[alike] = sweep, config
    for sweep, config in distinct.values():
        where = f"{sweep}: {config.optimizer}"
        trainer = build_trainer(config)
        before = [p.detach().clone() for p in trainer.model.parameters()]
        observer = Rows()
        last = trainer.fit(observer)
        assert trainer.step == STEPS, where
        losses = [value for row in observer.rows for key, value in row.items() if "loss" in key]
        assert losses, where
        assert all(map(math.isfinite, losses)), where
        after = list(trainer.model.parameters())
        assert all(torch.isfinite(p).all() for p in after), where
        assert all(not torch.equal(a, b) for a, b in zip(before, after) if a.ndim > 1), where
        if config.optimizer.ascent != "none" and config.optimizer.rho > 0:
            assert last["perturbation/floored_share"] == 0, where


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_says_what_it_reproduces_and_costs(sweep):
    header = re.match(r"(#[^\n]*\n)+", text(sweep))
    assert header
    assert "minutes" in header[0] or "hours" in header[0]
    stated = re.search(r"(\d+) jobs", header[0])
    assert stated is None or int(stated[1]) == len(jobs(sweep))


def test_commands_in_a_header_compose():
    commands = [line.split()[3:] for s in SWEEPS for line in re.findall(r"python launch\.py -m [^\n`]+", text(s))]
    assert len(commands) >= 3
    for sweep, *given in commands:
        name = sweep.removeprefix("+sweeps=")
        keys = {word.partition("=")[0] for word in given}
        file = [o for o in jobs(name)[0] if o.partition("=")[0] not in keys]  # the command line wins
        for job in grid(given):
            assert composed_job(name, [*file, *job]).name == name


def test_each_sweep_stands_in_the_table_of_claims():
    lines = (ROOT / "docs" / "fidelity.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]
    named = [name for row in table for name in re.findall(r"`([\w/]+)`", row[0])]
    assert sorted(named) == SWEEPS
    for _, claim, status, source in table:
        assert claim
        assert re.match(r"paper|official|third party|unknown|ours|default of train.py", status), status
        assert source != "" if re.match("ours|unknown", status) else source not in ("", "-"), claim


def test_the_grid_is_hydras():
    assert len(jobs("table_cifar")) == 2 * 4 * 4 * 3
    assert len(jobs("fig2c_perturbation_batch")) == 7 * 3


def test_digits_noise_is_the_quickstarts_setting_run_by_run():
    register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        for words in (job for job in jobs("quickstart") if "seed=1" in job):
            one = typed(compose("config", overrides=["experiment=digits_noise", *words]))
            of_sweep = typed(compose("config", overrides=["+sweeps=quickstart", *words]))
            assert run_id(one) == run_id(of_sweep)
            assert one == replace(of_sweep, name=one.name)


def test_the_radii_of_the_quickstart_are_those_that_validation_chose():
    runs = pd.read_csv(ROOT / "docs" / "verdicts" / "mini.csv")
    runs = runs[(runs["data.label_noise"] == 0.4) & (runs["optimizer.lmbda"].isna() | (runs["optimizer.lmbda"] == 0.9))]
    means = runs.groupby(["optimizer.name", "optimizer.rho"])["final/val/acc1"].mean()
    along = yaml.safe_load(text("quickstart"))["hydra"]["sweeper"]["along"]["optimizer"]
    for method in ("sam", "fsam", "sam_full_ema", "sam_db"):  # a random direction has no best radius
        assert means[method].idxmax() == along[method]["optimizer.rho"]


@pytest.mark.long
def test_the_committed_runs_are_those_of_the_sweeps():
    def setting(run):
        return re.sub(r"-s\d+-", "-", run)

    ours = {setting(run_id(config)) for sweep in SWEEPS if sweep.startswith("mini/") for config in settings(sweep)}
    trained = set()
    for path in (ROOT / "docs" / "verdicts").glob("*.csv"):
        found = {setting(run) for run in pd.read_csv(path)["run_id"]}
        assert found <= ours, path
        trained |= found
    assert ours == trained  # no sweep is left untrained


@pytest.mark.parametrize(
    "recipe", long_but(["cifar100_fsam"], ["cifar10_fsam", "cifar100_fsam", "cifar100_sam_full_ema"])
)
def test_the_lambda_of_a_recipe_follows_the_network_until_it_is_set(recipe):
    register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):

        def lmbda(*words):
            return typed(compose("config", overrides=[f"experiment=recipe/{recipe}", *words])).optimizer.lmbda

        networks = ["resnet18", "wrn28_10_official", "pyramidnet110", "small_cnn"]
        assert [lmbda(f"model={name}") for name in networks] == [0.6, 0.9, 0.9, 0.6]
        assert lmbda("model=pyramidnet110", "optimizer.lmbda=0.95") == 0.95


def test_check_shows_the_values_that_the_words_of_a_job_do_not_say(capsys):
    words = [
        "+sweeps=table_cifar",
        "seed=0",
        "experiment=recipe/cifar100_fsam,recipe/cifar100_sgd",
        "runs_dir=/tmp/none",
    ]
    assert main(["check", *words, "model=resnet18,pyramidnet110"]) == 0
    of_sgd, of_fsam = [], []
    for line in capsys.readouterr().out.splitlines()[:-1]:
        (of_fsam if "fsam-" in line else of_sgd).append(line)
    assert [("resnet18" in line, line[line.index("(") :]) for line in of_fsam] == [
        (True, "(optimizer.lmbda=0.6)"),
        (False, "(optimizer.lmbda=0.9)"),
    ]
    assert not any("(" in line for line in of_sgd)
    assert main(["check", *words, "optimizer.lmbda=0.6,0.9", "experiment=recipe/cifar100_fsam"]) == 0
    assert "(" not in capsys.readouterr().out  # the words say it
