"""What the README, the pages below docs/ and the help page show must work."""

import re
import shlex

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from support.runs import ROOT

from fsamlab.command.help import page
from fsamlab.config.space import Dimension, spelled

README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text(encoding="utf-8") for path in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])}
OWN_TEST = (
    "adding_a_variant.md"  # the reader makes the choices of that page; tests/optim/test_adding_a_variant.py tests it
)
SHOWN = "\n".join([*(text for path, text in PAGES.items() if path.name != OWN_TEST), page()])
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
LOOPS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "loops.md").read_text(), re.S)
MEASURE = sorted(set(re.findall(r"fsamlab measure (runs/\S+[^\n`#]*)", SHOWN)))
COMMANDS = sorted(
    {
        line.split("#")[0].split("  ")[0].strip()
        for line in re.findall(r"python launch\.py[^\n`]*", SHOWN)
        # the plugin for Optuna is not among the requirements: tests/sweep/test_optuna.py
        if "..." not in line and "--" not in line and "hydra/sweeper=optuna" not in line
    }
)


def small_loop():
    """Return the names that the examples use: a net with BatchNorm and one batch."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    names = {"torch": torch, "model": model, "criterion": torch.nn.CrossEntropyLoss()}
    return {**names, "x": torch.randn(8, 3), "y": torch.randint(0, 2, (8,))}


def test_the_optimizer_in_five_lines():
    names = small_loop()
    exec(PYTHON[0], names)
    assert names["loss"].item() > 0
    assert int(names["model"][1].num_batches_tracked) == 1


def test_diagnostics_without_the_framework():
    names = small_loop()
    exec(PYTHON[1], names)
    assert names["rise"].total == names["rise"].first_order + names["rise"].curvature > 0
    assert names["top"].converged
    assert len(names["top"].top) == 5


def with_data(names):
    """Add a training set of ten batches, a loader of them, and the closure of the first example."""
    g = torch.Generator().manual_seed(1)
    names |= {"inputs": torch.randn(80, 3, generator=g), "targets": torch.randint(2, (80,), generator=g)}
    data = torch.utils.data.TensorDataset(names["inputs"], names["targets"])
    names["loader"] = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True, generator=g)
    exec(PYTHON[0], names)
    return names


def test_a_measurement_in_a_plain_loop():
    names = with_data(small_loop())
    exec(PYTHON[2], names)
    row = names["row"]
    assert names["step"] == 10
    assert -1 <= row["perturbation/cos_ema_full"] <= 1
    assert row.keys() >= {"sharpness/m_sharpness", "curvature/lambda_max", "curvature/trace", "noise/trace_sigma"}
    assert "perturbation/cos_ema_full_predicted" not in row
    assert len(PYTHON) == 3


def test_a_measurement_that_knows_the_draws():
    names = with_data(small_loop())
    exec(LOOPS[-1], names)
    row = names["row"]
    assert -1 <= row["perturbation/cos_ema_full_predicted"] <= 1
    assert row["diagnostics/perturbation_batches"] == "drawn at random"
    assert row["diagnostics/num_samples"] == 64


def test_every_example_of_an_own_loop_trains_and_counts_each_batch_once():
    assert len(LOOPS) == 5
    names, counted = small_loop(), 0
    for example in LOOPS[:4]:
        before = names["model"][2].weight.detach().clone()
        exec(example, names)
        counted += 2 if ".chunk(2)" in example else 1
        assert int(names["model"][1].num_batches_tracked) == counted
        assert (names["model"][2].weight != before).all()


def first_job(word):
    """Return the word of the first job of a sweep: of a list or a range the first value; a mapping is one value."""
    if "(" not in word:
        return word if "{" in word else word.split(",")[0]
    (override,) = OverridesParser.create().parse_overrides([spelled(word)])
    dimension = Dimension.of(override)
    return dimension.word(dimension.ends[0])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(composed, command):
    words = [w for w in shlex.split(command.replace("&& ", "")) if w not in ("python", "launch.py", "-m")]
    composed(*map(first_job, words))


def test_commands_were_found():
    assert len(COMMANDS) >= 8


def test_every_fsamlab_command_parses():
    from fsamlab.command.options import parser

    blocks = [(path, block) for path, text in PAGES.items() for block in re.findall(r"```bash\n(.*?)```", text, re.S)]
    commands = [
        (path, command)
        for path, block in blocks
        for line in block.replace("\\\n", " ").splitlines()
        for command in re.findall(r"\bfsamlab ((?!/)[^#|&]+)", line.partition("#")[0])
    ]
    assert len(commands) > 15
    for path, command in commands:
        words = shlex.split(re.sub(r"\[[^]]*\]", "", command))
        try:
            parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"{path.name}: fsamlab {command}")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[page]):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("script", sorted(set(re.findall(r"python (benchmarks/\w+\.py)", SHOWN))))
def test_every_benchmark_that_is_named_exists(script):
    assert (ROOT / script).is_file()


@pytest.mark.parametrize("command", MEASURE)
def test_every_measurement_composes(command):
    from hydra import compose, initialize_config_dir

    from fsamlab.config import typed_measure
    from fsamlab.config.compose import register

    register()
    words = [w for w in shlex.split(command.split("  ")[0])[1:]]
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        typed_measure(compose("measure", overrides=["root=/runs", "run=r", *words]))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_blank_line_cuts_a_table_in_two(page):
    """What comes after one is text with bars in it."""
    lines = PAGES[page].splitlines()
    for number, line in enumerate(lines[1:], start=2):
        if line.startswith("|") and not lines[number - 2].startswith("|"):
            assert set(lines[number]) <= set("|-: "), f"{page.name}:{number} is a table's row without its head"
