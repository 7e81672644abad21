"""What docs/results.md shows must work."""

import json
import re

import yaml
from support.made_frames import one_run
from support.runs import ROOT

from fsamlab.report import figures
from fsamlab.results.study import Study

PAGE = (ROOT / "docs" / "results.md").read_text()
SWEEPS = {path.stem for path in (ROOT / "sweeps").glob("*.yaml")}


def write(directory, run):
    """Write a finished run's files from a row of `collect`."""
    directory.mkdir(parents=True)
    config, summary = {}, {}
    for key, value in run.items():
        if "/" in key:
            summary[key] = value
        elif "." in key:
            group, name = key.split(".")
            config.setdefault(group, {})[name] = value
        elif key in ("name", "seed"):
            config[key] = value
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    (directory / "summary.json").write_text(json.dumps(summary))
    (directory / "status.json").write_text(json.dumps({"status": "finished"}))
    (directory / "metrics.jsonl").write_text('{"step": 1, "epoch": 1.0, "test/acc1": 0.5}\n')


def test_its_python_runs(tmp_path, monkeypatch, capsys):
    for method in ("sam", "fsam"):
        for rho in (0.1, 0.2):
            for seed in (0, 1):
                run = one_run(method, seed, 0.5 + rho + seed / 10, best=0.6 + rho, optimizer__rho=rho)
                write(tmp_path / "runs" / "fig3_rho" / f"{method}-{rho}-{seed}", run)
    for base in ("sgd", "adamw"):
        for method in (base, "sam", "fsam", "sam_full_ema"):
            run = one_run(method, 0, 0.5, optimizer__base=base)
            write(tmp_path / "runs" / f"fig2a_components_{base}" / method, run)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        exec(block, names)
    assert "| SAM, rho 0.2 | 2 | 80.00 ± 0.00 | 75.00 ± 7.07 |" in capsys.readouterr().out
    assert {path.name for path in tmp_path.glob("*.*")} == {"rho.pdf", "components.pdf", "rho_at_64.svg"}
    assert isinstance(names["study"], Study)


def test_it_names_every_function_and_its_sweep():
    tables = "\n".join(line for line in PAGE.splitlines() if line.startswith("| "))
    named = set(re.findall(r"`(\w+)\(", tables))
    helpers = {"load", "save", "show", "ema_table"}
    assert named == {name for name in figures.__all__ if name.islower()} - helpers
    assert set(re.findall(r"`((?:fig|table|ablation|noise)\w+|cost|ema_quality)`", tables)) <= SWEEPS
    assert figures.__doc__ is not None
    for name in named:
        assert f"{name}(" in figures.__doc__
    drawn = set(re.findall(r"\b(?:fig\d|table_|ablation_|noise_or_mean)\w*", tables)) | {"cost", "ema_quality"}
    assert drawn == SWEEPS - {"quickstart"}


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
