"""Sweeps on the throw-away cluster: the words of a small sweep, its runs, and whether they ended in the same bits."""

import re

import torch

from fsamlab.rundir.reading import read_status
from fsamlab.rundir.rows import read_rows
from support.runs import TINY

SLURM = (
    "hydra/launcher=slurm_cpu",
    "hydra.launcher.poll_seconds=0.5",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=1",
)
_UNDISTURBED = {}  # words of a sweep and of its launcher -> where its runs are
TIMES = re.compile(r"time|cost/|seconds")


def arguments(tmp_path, *more):
    return ("launch.py", "-m", *TINY, "name=sweep", *SLURM, f"runs_dir={tmp_path / 'runs'}", *more)


def runs(tmp_path):
    return sorted((tmp_path / "runs" / "sweep").glob("*-s*"))


def fsamlab(cluster, *words):
    return cluster.python("-m", "fsamlab.command.main", *map(str, words))


def under_way(tmp_path, number=1, step=20):
    states = [(d, read_status(d)) for d in runs(tmp_path)]
    found = [(d, s) for d, s in states if s["status"] == "running" and s.get("step", 0) >= step]
    return found if len(found) >= number else None


def preempt(cluster, directory, status):
    """An urgent job takes the node: USR2, checkpoint, requeue."""
    node = cluster("squeue", "-h", "-j", status["slurm_job_id"], "-o", "%N").strip()
    cluster("sbatch", "-p", "urgent", "-w", node, "-c", "8", "-t", "1", "--wrap", "sleep 2", "-o", "/dev/null")


def weights(directory):
    return torch.load(directory / "checkpoints" / "last.pt", weights_only=True)["model"]


def assert_as_undisturbed(cluster, tmp_path, words, launcher=("hydra/launcher=local", "hydra.launcher.num_jobs=2")):
    """Train the same runs on this machine, compare weights and rows bit by bit, and return the undisturbed sweep.

    Tests of the same runs, disturbed in other ways, share the undisturbed ones.
    """
    if (words, launcher) not in _UNDISTURBED:
        place = tmp_path.parent / f"reference{len(_UNDISTURBED)}"  # beside the folders of the tests
        done = cluster.python("launch.py", "-m", *TINY, "name=sweep", *words, *launcher, f"runs_dir={place}")
        assert done.returncode == 0, done.stderr
        _UNDISTURBED[words, launcher] = place / "sweep"
    undisturbed = _UNDISTURBED[words, launcher]
    assert runs(tmp_path)
    for directory in runs(tmp_path):
        reference = undisturbed / directory.name
        ours, theirs = weights(directory), weights(reference)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), directory.name
        rows = [{k: v for k, v in row.items() if not TIMES.search(k)} for row in read_rows(directory)]
        others = [{k: v for k, v in row.items() if not TIMES.search(k)} for row in read_rows(reference)]
        assert rows == others
        assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    return undisturbed
