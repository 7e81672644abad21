"""How long the report of many long runs takes to build, how large it is, and whether a browser can still use it.

    python benchmarks/report.py                       # 2,000 runs of 1,000 rows; 1 GB in a temporary directory
    python benchmarks/report.py --runs 30 --rows 600

The runs are made up: 4 methods, radii and seeds, each with the files, the configuration and the keys of a real one.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir

from fsamlab.config import to_plain, typed
from fsamlab.config.compose import register

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("sgd", "sam", "fsam", "sam_db")
SEEDS = 5
FREE = ("grad_norm", "d_ratio", "cos_eps", "ema_norm", "cos_ema", "ema_coefficient", "loss_clean", "loss_perturbed")


def configuration(method: str) -> dict[str, Any]:
    """Return the composed configuration of a run."""
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return to_plain(typed(compose("config", overrides=[f"optimizer={method}", "name=made"])))


def rows(generator: random.Random, num_rows: int) -> list[dict[str, Any]]:
    """Return rows as a run of 200 epochs logs them: four in five with the free scalars, one in five an evaluation."""
    made = []
    for i in range(1, num_rows + 1):
        done = i / num_rows
        noise = generator.gauss(0, 0.01)
        row = {"step": 20 * i, "epoch": 200 * done, "train/loss": 2.3 * math.exp(-3 * done) + abs(noise)}
        row |= {"train/acc1": min(1.0, 0.2 + 0.8 * done + noise), "train/lr": 0.05 * (1 + math.cos(math.pi * done))}
        if i % 5:
            row |= {f"perturbation/{key}": generator.gauss(0.5, 0.1) for key in FREE}
        else:
            row |= {f"{part}/acc1": 0.5 + 0.4 * done + noise for part in ("val", "test")}
            row |= {f"{part}/loss": 1.5 - done + noise for part in ("val", "test")}
        made.append(row | {"time": 10.0 * i + noise, "time/step_ms": 30 + noise})
    return made


def make(root: Path, num_runs: int, num_rows: int) -> None:
    """Write the run directories."""
    register()
    plain = {method: configuration(method) for method in METHODS}
    num_radii = math.ceil(num_runs / (len(METHODS) * SEEDS))
    for i in range(num_runs):
        method, radius, seed = METHODS[i % 4], i // 4 % num_radii, i // 4 // num_radii
        directory = root / f"{method}-{radius:03}-s{seed}"
        directory.mkdir(parents=True)
        config = {
            **plain[method],
            "seed": seed,
            "optimizer": {**plain[method]["optimizer"], "rho": 0.01 * (1 + radius)},
        }
        (directory / "config.yaml").write_text(yaml.dump(config, Dumper=yaml.CSafeDumper, sort_keys=False))
        (directory / "status.json").write_text(json.dumps({"status": "finished", "step": 20 * num_rows}))
        logged = rows(random.Random(i), num_rows)
        (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
        summary = {f"final/{k}": v for k, v in logged[-1].items() if "/" in k}
        summary |= {
            "best/test/acc1": summary.get("final/test/acc1", 0.9),
            "cost/step_ms": 30.0,
            "cost/train_seconds": 1e4,
        }
        (directory / "summary.json").write_text(json.dumps(summary))


def browse(page_path: Path, chromium: str) -> dict[str, float]:
    """Return seconds until the page has loaded, until the first chart is drawn, and of grouping anew; memory in MB."""
    from playwright.sync_api import sync_playwright

    drawn = "() => document.querySelector('.plot')?.uplot != null"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        start = time.perf_counter()
        page.goto(page_path.resolve().as_uri())
        loaded = time.perf_counter() - start
        page.locator(".plot").first.scroll_into_view_if_needed()
        page.wait_for_function(drawn)
        first = time.perf_counter() - start
        start = time.perf_counter()
        page.get_by_label("Group by", exact=True).first.select_option("optimizer.rho")
        page.wait_for_function(drawn)
        regrouped = time.perf_counter() - start
        memory = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
        browser.close()
    return {"loaded": loaded, "first chart": first, "grouped anew": regrouped, "script memory, MB": memory}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "made"
        make(sweep, arguments.runs, arguments.rows)
        logged = sum(p.stat().st_size for p in sweep.glob("*/metrics.jsonl"))
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "fsamlab.command.main", "report", str(sweep)], check=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
        size = (sweep / "report.html").stat().st_size / 1e6
        print(f"{arguments.runs} runs x {arguments.rows} rows, {logged / 1e6:.0f} MB of metrics.jsonl")
        print(
            f"built in {seconds:.1f} s (the process, imports included), peak memory {peak:.0f} MB, page {size:.2f} MB"
        )
        for name, value in browse(sweep / "report.html", arguments.chromium).items():
            print(f"in Chromium: {name} {value:.2f}")
