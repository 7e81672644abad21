"""What the page says below its results: conventions, settings that change together."""

import yaml
from support.made_runs import make_run, row
from support.pages import written

from fsamlab.report.gather import gather
from fsamlab.report.page import sensitivities
from fsamlab.report.page_notes import convention_notes


def run(root, optimizer, seed=0, values=("sharpness/one_step",), measured=None, **diagnostics):
    """Write a run with values at its end, and the conventions they were measured under."""
    last = {key: v for key, v in row(optimizer, seed, 5).items() if not key.startswith(("perturbation/", "noise/"))}
    summary = {f"diagnostics/{key}": value for key, value in diagnostics.items()}
    make_run(root, optimizer, seed, rows=[last | dict.fromkeys(values, 0.5)], summary=summary, measured=measured)


def test_samples_go_with_the_seed(tmp_path):
    for optimizer in ("sgd", "sam"):
        for seed in (0, 1):
            run(tmp_path / f"{optimizer}{seed}", optimizer, seed, rho=0.05, sample_hash=f"hash{seed}")
    assert convention_notes(gather([tmp_path])) == [
        "Sharpness and curvature while training: the same rho 0.05 in all runs."
    ]
    run(tmp_path / "z", "fsam", 1, rho=0.05, sample_hash="other")
    assert "runs differ in sample_hash (hash1, other)" in convention_notes(gather([tmp_path]))[0]


def test_runs_without_a_seed(tmp_path):
    run(tmp_path / "a", "sam", rho=0.05, sample_hash="x")
    config = tmp_path / "a" / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: null"))
    assert convention_notes(gather([tmp_path])) == [
        "Sharpness and curvature while training: the same rho 0.05 in all runs."
    ]


def test_conventions_are_said_and_so_is_where_they_differ(tmp_path):
    for seed, batchnorm in enumerate(("eval", "eval", "batch")):
        measured = {"sharpness/one_step": 0.25, "diagnostics/batchnorm": batchnorm}
        run(tmp_path / "made" / f"{seed}", "sam", seed, rho=0.05, measured=measured)
    assert convention_notes(gather([tmp_path / "made"])) == [
        "Sharpness and curvature while training: the same rho 0.05 in all runs.",
        "Sharpness and curvature at checkpoints may not be compared: runs differ in batchnorm (eval, batch).",
    ]
    _, page = written(tmp_path / "made")
    assert "runs differ in batchnorm (eval, batch)" in page.text
    assert "one-step sharpness, measured" in page.text


def test_runs_without_the_values_are_no_difference(tmp_path):
    run(tmp_path / "a", "sam", num_samples=256, perturbation_batch_size=64)
    free = ("perturbation/cos_ema", "noise/trace_sigma")  # the first has no conventions
    run(tmp_path / "b", "fsam", values=free, num_samples=1000, perturbation_batch_size=32)
    run(tmp_path / "c", "sgd", values=("perturbation/cos_ema",), num_samples=7, perturbation_batch_size=8)
    assert convention_notes(gather([tmp_path])) == [
        "Sharpness and curvature while training: the same num_samples 256 in all runs that have them.",
        "Decomposition and noise while training: the same perturbation_batch_size 32 in all runs that have them.",
    ]


def test_the_decomposition_has_conventions_of_its_own(tmp_path):
    values = ("perturbation/full_share", "sharpness/one_step")
    for i, (size, radius) in enumerate(((16, 0.2), (32, 0.05))):
        options = {"num_samples": 256, "perturbation_batch_size": size, "perturbation_rho": radius}
        run(tmp_path / "shares" / f"{i}", "sam", i, values=values, **options)
        options["perturbation_batch_size"] = 16
        run(tmp_path / "rises" / f"{i}", "sam", i, values=("perturbation/rise_other_sam",), **options)
    assert convention_notes(gather([tmp_path / "shares"])) == [
        "Sharpness and curvature while training: the same num_samples 256 in all runs.",
        "Decomposition and noise while training may not be compared: runs differ in perturbation_batch_size (16, 32).",
    ]
    assert convention_notes(gather([tmp_path / "rises"])) == [
        "Decomposition and noise while training: the same perturbation_batch_size 16 in all runs.",
        "Rises of the loss while training may not be compared: runs differ in perturbation_rho (0.2, 0.05).",
    ]


def test_settings_that_change_together_are_said(tmp_path):
    for width, epochs in ((8, 10), (16, 20)):
        for seed in (0, 1):
            path = make_run(tmp_path / "made" / f"{width}-{seed}", seed=seed) / "config.yaml"
            config = yaml.safe_load(path.read_text())
            config["model"]["width"], config["train"] = width, {"epochs": epochs}
            path.write_text(yaml.safe_dump(config))
    (tmp_path / "made" / "damaged").mkdir()
    (tmp_path / "made" / "damaged" / "status.json").write_text('{"status": "finished"}')
    (tmp_path / "made" / "damaged" / "config.yaml").write_text("a: [1")
    gathered = gather([tmp_path / "made"])
    words = "train.epochs changes together with model.width"
    assert gathered.study.tie_notes() == [f"{words}: a difference between its values may be due to either."]
    assert [(found["key"], found["tied"]) for found in sensitivities(gathered)] == [("model.width", ["train.epochs"])]
    _, page = written(tmp_path / "made")
    assert words in page.text
