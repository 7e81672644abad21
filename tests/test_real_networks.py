"""Each method of the sweeps takes two steps with the real network of its sweep, on CIFAR's files made small."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.made_data import write_cifar
from support.runs import ROOT, Rows, build_trainer
from support.sweeps import composed_job, jobs
from torchvision import datasets

from fsamlab.config import DiagnosticsConfig

pytestmark = pytest.mark.long  # WRN-28-10 and PyramidNet-110 with two images

STEPS, BATCH = 2, 2  # the second step is the first one in which an EMA is in use
GROUPS = ("experiment", "model", "optimizer")
SWEEPS = sorted(p.stem for p in (ROOT / "sweeps").glob("*.yaml"))


def kinds():
    """Return {kind: (sweep, config)}: one config for each method with each network, base and sort of labels.

    tests/test_sweeps.py takes the steps of all settings, also those that differ in numbers, with a small network. Of
    the jobs that differ in numbers alone only one is composed, because composing takes longer than most steps.
    """
    found = {}
    for sweep in SWEEPS:
        alike = {tuple(word for word in job if word.partition("=")[0] in GROUPS): job for job in jobs(sweep)}
        for config in (composed_job(sweep, job) for job in alike.values()):
            if config.data.name in ("cifar10", "cifar100"):
                optimizer = config.optimizer
                kind = (config.model.name, optimizer.name, optimizer.base, bool(config.data.label_noise))
                found.setdefault(kind, (sweep, config))
    return found


def test_each_method_takes_steps_with_the_network_of_its_sweep(tmp_path, monkeypatch):
    for cls, key in ((datasets.CIFAR10, "labels"), (datasets.CIFAR100, "fine_labels")):
        write_cifar(tmp_path, cls, key, monkeypatch)
    networks = set()
    for kind, (sweep, config) in kinds().items():
        ascent = config.optimizer.ascent_batch_size
        data = replace(
            config.data,
            root=str(tmp_path),
            batch_size=BATCH,
            eval_batch_size=6,
            val_size=2 if config.data.val_size else 0,
        )
        trainer = build_trainer(
            replace(
                config,
                data=data,
                optimizer=replace(
                    config.optimizer,
                    epoch_multiplier=1,
                    ascent_batch_size=ascent and max(1, ascent * BATCH // config.data.batch_size),
                ),
                train=replace(config.train, max_steps=STEPS, num_threads=1, device="cpu", progress=False),
                diagnostics=DiagnosticsConfig(name="off", every_steps=None),
            )
        )
        before = [p.detach().clone() for p in trainer.model.parameters() if p.ndim > 1]
        trainer.fit(Rows())
        after = [p.detach() for p in trainer.model.parameters() if p.ndim > 1]
        where = f"{sweep}: {kind}"
        assert trainer.step == STEPS, where
        assert all(torch.isfinite(p).all() for p in after), where
        assert all(not torch.equal(a, b) for a, b in zip(before, after)), where
        networks.add(config.model.name)
    assert networks == {"resnet18", "vgg16_bn", "wrn28_10_official", "pyramidnet110"}
