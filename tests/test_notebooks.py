"""notebooks/ are stored without outputs, and run on a small real sweep."""

import os
import re
import subprocess
import sys

import nbformat
import pytest
from support.runs import ROOT

from fsamlab.report import figures

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SWEEP = (
    *(
        "data=digits",
        "data.label_noise=0.4",
        "data.train_size=384",
        "data.batch_size=32",
        "model=small_cnn",
        "model.width=4",
    ),
    *("optimizer=sgd,sam,fsam,sam_full,sam_noise", "seed=0,1", "train.epochs=2", "train.keep_state=true"),
    *("diagnostics=full", "diagnostics.num_samples=64", "diagnostics.every_epochs=1", "diagnostics.max_products=10"),
    *("tracker=none", "train.num_threads=1", "train.progress=false", "hydra.launcher.num_jobs=1", "name=study"),
)


def read(path):
    return nbformat.read(path, as_version=4)


def test_there_are_four():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs(path):
    notebook = read(path)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert dict(notebook.metadata.language_info) == {"name": "python"}
    assert 8 <= len(notebook.cells) <= 15
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_says_what_it_reads_and_what_makes_it(path):
    cells = read(path).cells
    assert "FSAMLAB_RUNS" in cells[1].source
    assert "FSAMLAB_RUNS=runs/my_study" in cells[0].source
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert "python launch.py -m " in text
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", NOTEBOOKS[:3], ids=lambda path: path.stem)
def test_its_command_composes(path, composed):
    (command,) = re.findall(r"python launch\.py -m (.*?)\n(?:fsamlab|```)", read(path).cells[0].source, re.S)
    words = command.replace("\\\n", " ").split()
    assert composed(*(word.split(",")[0] for word in words)).optimizer.name


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Ten small runs."""
    runs = tmp_path_factory.mktemp("notebooks") / "runs"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "launch.py", "-m", *SWEEP, f"runs_dir={runs}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return runs / "study"


def execute(path, cwd, monkeypatch, runs):
    """Run a notebook as `jupyter lab` started in `cwd` would; return it with its outputs."""
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # jupyter_core warns where it is not set
    monkeypatch.setenv("FSAMLAB_RUNS", str(runs))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    from nbclient import NotebookClient

    notebook = read(path)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(cwd)}}).execute()
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
    return notebook


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def shown(notebook, kind):
    """Return what is displayed as one MIME type, in order."""
    return [output.data[kind] for output in outputs(notebook) if kind in output.get("data", {})]


def line(table, start):
    """Return the cells of a table's line."""
    (found,) = [text for text in table.splitlines() if text.startswith(f"| {start} |")]
    return [cell.strip(" *") for cell in found.strip("|").split("|")]


def mean_std(runs, method, column, factor=100, digits=".2f"):
    values = factor * runs.loc[runs["optimizer.name"] == method, column]
    return f"{values.mean():{digits}} ± {values.std(ddof=1):{digits}}"


@pytest.mark.long
@pytest.mark.parametrize("cwd", [ROOT / "notebooks", ROOT], ids=["notebooks", "root"])
def test_results(sweep, monkeypatch, cwd):
    notebook = execute(NOTEBOOKS[0], cwd, monkeypatch, sweep)
    runs, _ = figures.load(sweep)
    assert len(shown(notebook, "image/svg+xml")) == 4
    accuracy, paired, cost = shown(notebook, "text/markdown")
    assert line(accuracy, "F-SAM")[1] == "2"
    assert line(accuracy, "F-SAM")[3] == mean_std(runs, "fsam", "final/test/acc1")
    assert line(accuracy, "SGD")[2] == mean_std(runs, "sgd", "best/test/acc1")
    assert line(paired, "F-SAM")[2].endswith("/2")  # seeds with a gain, of all seeds
    assert line(cost, "SGD")[3] == "1.00"
    assert (sweep / "test_accuracy.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.long
def test_decomposition(sweep, monkeypatch):
    notebook = execute(NOTEBOOKS[1], ROOT / "notebooks", monkeypatch, sweep)
    runs, _ = figures.load(sweep)
    assert len(shown(notebook, "image/svg+xml")) == 6
    (accuracy,) = shown(notebook, "text/markdown")
    assert line(accuracy, "SAM, noise component")[3] == mean_std(runs, "sam_noise", "final/test/acc1")


@pytest.mark.long
def test_sharpness(sweep, monkeypatch):
    notebook = execute(NOTEBOOKS[2], ROOT / "notebooks", monkeypatch, sweep)
    runs, _ = figures.load(sweep)
    assert len(shown(notebook, "image/svg+xml")) == 2
    conventions, measured, accuracy, parts, eigenvalues = shown(notebook, "text/markdown")
    assert line(conventions, "num_samples")[1] == "64"
    sam = runs[runs["optimizer.name"] == "sam"]["final/sharpness/one_step"]
    assert line(measured, "SAM")[2] == f"{sam.mean():.3g} ± {sam.std(ddof=1):.2g}"
    assert line(parts, "method")[2:] == [f"sharpness/one_step{p}" for p in ("", "_first_order", "_curvature")]
    assert len(line(eigenvalues, "F-SAM")) == 7
    assert line(accuracy, "SAM")[3] == mean_std(runs, "sam", "final/test/acc1")


@pytest.mark.long
def test_your_own_optimizer(tmp_path, monkeypatch):
    notebook = execute(NOTEBOOKS[3], ROOT / "notebooks", monkeypatch, tmp_path)
    runs, _ = figures.load(tmp_path / "own_optimizer")
    assert sorted(runs["optimizer.name"]) == ["asam_noise_ema", "asam_noise_ema", "fsam", "fsam", "sgd", "sgd"]
    (accuracy,) = shown(notebook, "text/markdown")
    assert line(accuracy, "asam_noise_ema")[3] == mean_std(runs, "asam_noise_ema", "final/test/acc1")
    assert len(shown(notebook, "image/svg+xml")) == 1
    found = next(output.data["text/plain"] for output in outputs(notebook) if "data" in output)
    plain = dict(re.findall(r"'([\w-]+)': ([\d.]+)", found))
    assert set(plain) == {"SGD", "SAM", "F-SAM"}
    assert all(0.5 < float(value) < 1 for value in plain.values())
