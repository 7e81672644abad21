"""The page of `launch.py --help`; printed without composing anything, so that it appears at once."""

from __future__ import annotations

import textwrap

from fsamlab.config.project import CONF
from fsamlab.config.search import OWN, options_in

PAGE = """\
fsamlab: train, compare and diagnose sharpness-aware optimizers.

USAGE
  python launch.py [group=option ...] [key=value ...]      one run
  python launch.py -m +sweeps=NAME [key=a,b,c ...]         a sweep of many runs

FIRST STEPS
  python launch.py                          one F-SAM run on digits, a minute
  python launch.py -m +sweeps=quickstart    F-SAM, SAM, SGD, controls; a table
  python launch.py optimizer=sam optimizer.rho=0.1 seed=3
  python launch.py -m optimizer=sgd,sam,fsam seed=0,1,2    a comparison, 9 runs
  python launch.py experiment=cifar100_resnet18 data.download=true
  fsamlab collect runs/quickstart           all its runs as CSV and table
  fsamlab report runs/quickstart --open     tables and curves as an HTML page
  fsamlab measure runs/quickstart diagnostics=full
                                            sharpness, curvature, decomposition

ON A CLUSTER (docs/cluster.md)
  fsamlab check +sweeps=quickstart          validate every job, submit nothing
  python launch.py -m +sweeps=quickstart hydra/launcher=slurm
                                            an array job; it outlives Ctrl-C
  fsamlab status runs/quickstart [--watch]  finished, running, queued, failed
  fsamlab resubmit runs/quickstart          start failed, lost, cancelled again
  fsamlab sync runs/quickstart              upload offline runs to W&B

GROUPS (group=option)
{groups}

OFTEN CHANGED (key=value)
  name=my_study              groups runs: runs/<name>/..., the W&B group
  seed=0                     split, label noise, initialisation, order, augment
  optimizer.rho=0.2          radius of the perturbation
  optimizer.sigma=1          F-SAM: share of the EMA that is removed
  optimizer.lmbda=0.9        F-SAM: decay of the EMA
  optimizer.base=sgd|adamw|timm.optim:Lamb       any torch optimizer
  optimizer.lr=0.05          optimizer.weight_decay=5e-4
  model.init=official|he     model.block=bottleneck|basic   (docs/models.md)
  data.batch_size=64         data.root=data
  data.label_noise=0.4       share of redrawn training labels (docs/data.md)
  data.imbalance=100         a long tail         data.augment.mixup=0.2
  train.epochs=60            train.precision=bf16|fp16   train.num_threads=1
  task.loss=my_tasks:focal   a loss of your own (docs/adding_a_task.md)
  tracker=none               local files only
  tracker.mode=auto|online|offline|disabled
  diagnostics=full           every quantity of docs/metrics.md
  diagnostics.every_epochs=10                    diagnostics.num_samples=1024

The files of a run: runs/<name>/<optimizer>-<model>-<data>-s<seed>-<hash>/
  config.yaml  status.json  metrics.jsonl  summary.json  run.log  checkpoints/

The same command again resumes an unfinished run and skips a finished run;
force=true starts over. Powered by Hydra: --cfg job prints the composed config,
--hydra-help all of Hydra's flags.
"""
WIDTH = 79


def option_groups() -> str:
    """Return the groups that a user chooses from and their options, one line for each group."""
    places = dict.fromkeys((CONF, OWN))
    names = {d.name for place in places if place.is_dir() for d in place.iterdir() if d.is_dir()}
    groups = [(name, name) for name in sorted(names - {"hydra", "local", "sweeps"})]
    groups += [("hydra/launcher", "hydra/launcher"), ("+sweeps", "sweeps")]
    lines = []
    for name, group in groups:
        found = sorted({str(option.with_suffix("")) for place in places for option in options_in(place / group)})
        if not found:
            continue
        wrapped = textwrap.wrap(", ".join(found), WIDTH - 20)
        lines += [f"    {name:<16}{wrapped[0]}", *(f"{'':<20}{line}" for line in wrapped[1:])]
    return "\n".join(lines)


def page() -> str:
    """Return the whole help page."""
    return PAGE.replace("{groups}", option_groups())
