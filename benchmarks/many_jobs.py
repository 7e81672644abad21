"""What a sweep of many jobs costs beside Hydra's own composition: submission, files, status, collect.

Starts a throw-away SLURM cluster (Debian's packages), submits n held jobs as one array, then lays n finished runs into
their directories. `python benchmarks/many_jobs.py 250 500 1000`
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = ("data=synthetic", "data.num_samples=352", "data.batch_size=32", "model.width=4", "tracker=none")
TINY += ("train.epochs=2", "train.num_threads=1", "name=many")


def timed(*arguments: str, env: dict[str, str]) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - start, done.stderr


def measure(n: int, env: dict[str, str], work: Path) -> dict[str, float]:
    runs = work / f"runs{n}"
    grid = (*TINY, f"runs_dir={runs}", f"seed=range({n})")
    slurm = ("hydra/launcher=slurm_cpu", "hydra.launcher.wait=false", "hydra.launcher.max_array_size=2000")
    held = "+hydra.launcher.additional_parameters.hold=true"
    compose, _ = timed("-m", "fsamlab.command.main", "check", *grid, env=env)
    submit, _ = timed("launch.py", "-m", *grid, *slurm, held, env=env)
    files = sum(len(names) for _, _, names in os.walk(runs))
    size = sum(p.stat().st_size for p in runs.rglob("*") if p.is_file())
    queued, _ = timed("-m", "fsamlab.command.main", "status", str(runs / "many"), "--json", env=env)
    subprocess.run(["scancel", "--user", str(os.getuid())], env=env, check=True)
    timed("launch.py", *TINY, f"runs_dir={work / 'one'}", env=env)
    (one,) = (work / "one" / "many").glob("*-s*")
    for job in json.loads((runs / "many" / "launches" / "1.json").read_text())["jobs"]:
        shutil.copytree(one, job["directory"], ignore=shutil.ignore_patterns("checkpoints"))
    shutil.rmtree(work / "one")
    status, _ = timed("-m", "fsamlab.command.main", "status", str(runs / "many"), env=env)
    collect, _ = timed("-m", "fsamlab.command.main", "collect", str(runs / "many"), env=env)
    times = {"compose": compose, "submit": submit - compose, "status, queued": queued, "status": status}
    return {**times, "collect": collect, "files": files, "MB": size / 1e6}


def main() -> None:
    work = Path(tempfile.mkdtemp(prefix="many-", dir="/tmp"))
    tool = [sys.executable, str(ROOT / "tests" / "support" / "slurmlab.py")]
    try:
        subprocess.run([*tool, "start", "--dir", str(work / "lab")], check=True, stdout=subprocess.DEVNULL)
        env = {**os.environ, **json.loads((work / "lab" / "cluster.json").read_text())["env"]}
        print("jobs    compose  + submit  files     MB  status (queued)  status (finished)  collect    [s]")
        for n in map(int, sys.argv[1:] or ["250", "1000"]):
            r = measure(n, env, work)
            print(
                f"{n:5d}   {r['compose']:7.1f}  {r['submit']:8.1f}  {r['files']:5d}  {r['MB']:5.1f}  "
                f"{r['status, queued']:15.1f}  {r['status']:17.1f}  {r['collect']:7.1f}",
                flush=True,
            )
    finally:
        subprocess.run([*tool, "stop", "--dir", str(work / "lab")], check=True)
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
