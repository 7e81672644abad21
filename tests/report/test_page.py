"""The page's content, read back from the file."""

import json
import re
from html.parser import HTMLParser

import pytest
from made import make_run, make_sweep

from fsamlab.cli import main
from fsamlab.config import ConfigError
from fsamlab.report import metric_names
from fsamlab.report.gather import gather
from fsamlab.report.page import payload, sensitivities, varying_keys, write_report
from fsamlab.report.page_tables import conventions, duration, mean_std, results, unfinished


class Text(HTMLParser):
    """The text of a page without its scripts and styles, and the tags that are in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.inside: str | None = None
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside is None:
            self.words.append(data)


def written(root):
    write_report([root], root / "report.html")
    page = (root / "report.html").read_text()
    return page, Text(page)


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_the_header_says_what_was_run(tmp_path):
    _, page = written(make_sweep(tmp_path / "made"))
    for words in (
        "made",
        "9 runs",
        "9 finished",
        "0123456789ab, with uncommitted changes",
        "torch 2.14.1",
        "cpu on node1 (a CPU, 1 thread)",
        "9 min 36 s over 9 finished runs: training 9 min 0 s, evaluation 27 s, diagnostics 9 s",
        "2026-01-01 10:00:00 UTC – 2026-01-01 10:05:00 UTC",
        "Curves have all their points.",
    ):
        assert words in page.text, words


def test_the_results_are_means_over_seeds_and_the_clear_best_is_bold(tmp_path):
    table = results(gather([make_sweep(tmp_path / "made")]))
    assert [h[0] for h in table.headings][:4] == [
        "optimizer",
        "n",
        "test, best epoch,\u00a0%",
        "test, at the end,\u00a0%",
    ]
    shown = [[cell.text for cell in row][:4] for row in table.rows]
    assert shown == [  # accuracies level + .01 seed + .01
        ["F-SAM", "3", "62.00 ± 1.00", "72.00 ± 1.00"],
        ["SAM", "3", "52.00 ± 1.00", "62.00 ± 1.00"],
        ["SGD", "3", "42.00 ± 1.00", "52.00 ± 1.00"],
    ]
    assert [[cell.bold for cell in row][3] for row in table.rows] == [True, False, False]
    assert [row[-1].text for row in table.rows] == ["2.00x", "2.00x", "1.00x"]


def test_nothing_is_loaded_from_anywhere(tmp_path):
    page, parsed = written(make_sweep(tmp_path / "made"))
    for tag, attributes in parsed.tags:
        for key in ("src", "href", "action", "data"):
            assert attributes.get(key, "#").startswith(("#", "data:")), (tag, attributes)
    assert "@import" not in page
    policy = next(a["content"] for tag, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")


def test_thirty_runs_are_a_few_hundred_kilobytes(tmp_path):
    write_report([make_sweep(tmp_path / "made", ("sgd", "sam", "fsam"), seeds=10)], tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size < 300_000


def test_samples_go_with_the_seed(tmp_path):
    for optimizer in ("sgd", "sam"):
        for seed in (0, 1):
            summary = {"diagnostics/rho": 0.05, "diagnostics/sample_hash": f"hash{seed}"}
            make_run(tmp_path / "made" / f"{optimizer}{seed}", optimizer, seed, summary=summary)
    assert conventions(gather([tmp_path / "made"])) == [
        "Sharpness and curvature while training: the same rho 0.05 in all runs."
    ]
    make_run(tmp_path / "made" / "z", "fsam", 0, summary={**summary, "diagnostics/sample_hash": "other"})
    assert "runs differ in sample_hash (hash0, " in conventions(gather([tmp_path / "made"]))[0]


def test_conventions_are_said_and_so_is_where_they_differ(tmp_path):
    for seed, batchnorm in enumerate(("eval", "eval", "batch")):
        measured = {"sharpness/one_step": 0.25, "diagnostics/batchnorm": batchnorm}
        make_run(tmp_path / "made" / f"{seed}", seed=seed, summary={"diagnostics/rho": 0.05}, measured=measured)
    assert conventions(gather([tmp_path / "made"])) == [
        "Sharpness and curvature while training: the same rho 0.05 in all runs.",
        "Sharpness and curvature at checkpoints may not be compared: runs differ in batchnorm (eval, batch).",
    ]
    _, page = written(tmp_path / "made")
    assert "runs differ in batchnorm (eval, batch)" in page.text
    assert "one-step sharpness, measured" in page.text


EVIL = "<script>window.hacked = 1</script>"


def test_names_and_values_cannot_break_out(tmp_path):
    root = tmp_path / "made"
    make_run(root / "<script>alert(1)<x>", name=EVIL, model='"><img src=x onerror=alert(1)>')
    make_run(root / "b</script>".replace("/", "-"), "<b>mine", 1, status="failed", exception=f"boom {EVIL}", name=EVIL)
    page, parsed = written(root)
    assert "<script>window" not in page
    assert "<img" not in page
    assert EVIL in parsed.text  # as text
    assert f"boom {EVIL}" in parsed.text
    assert [tag for tag, _ in parsed.tags].count("script") == 3
    assert data_of(page)["keys"]["optimizer.name"] == ["sam", "<b>mine"]


def test_what_did_not_finish_is_listed_with_its_reason(tmp_path):
    root = make_sweep(tmp_path / "made", ("sam",), seeds=1)
    make_run(root / "failed", "sam", 1, epochs=2, status="failed", exception="Diverged: loss is nan")
    make_run(root / "lost", "sam", 2, epochs=3, status="running")  # nobody owns it
    jobs = [{"overrides": ["seed=3"], "directory": str(root / "queued"), "run_id": "q", "slurm_job_id": None}]
    jobs[0]["config_hash"] = "q"
    (root / "launches").mkdir()
    config = {"name": "made", "seed": 3, "optimizer": {"name": "fsam"}}
    (root / "launches" / "1.configs.jsonl").write_text(json.dumps(config) + "\n")
    entry = {"time": "2026-01-01", "command": ["launch.py", "-m", "seed=3"], "launcher": "local", "jobs": jobs}
    (root / "launches" / "1.json").write_text(json.dumps(entry))
    gathered = gather([root])
    assert gathered.counts() == {"queued": 1, "failed": 1, "lost": 1, "finished": 1}
    rows = {row["run"]: row for row in unfinished(gathered)}
    assert set(rows) == {"failed", "lost", "queued"}
    assert rows["failed"]["reason"] == "Diverged: loss is nan"
    assert rows["failed"]["progress"] == "step 20 of 50"
    assert rows["lost"]["status"] == "lost"
    assert rows["queued"] == {
        "run": "queued",
        "status": "queued",
        "progress": "–",
        "reason": "did not run",
        "log": "",
    }
    assert results(gathered).rows[0][1].text == "1"
    page, parsed = written(root)
    assert "launch.py -m seed=3" in parsed.text
    assert {r["status"] for r in data_of(page)["runs"]} == {"queued", "failed", "lost", "finished"}
    assert data_of(page)["keys"]["optimizer.name"].count("fsam") == 1  # known from the record


def test_a_damaged_file_is_a_reason_and_the_rest_is_shown(tmp_path):
    root = make_sweep(tmp_path / "made", ("sam",), seeds=2)
    (root / "sam-s0" / "metrics.jsonl").write_text('{"step": 1}\n{broken\n{"step": 2}\n')
    (root / "sam-s1" / "config.yaml").write_text("a: [1")
    gathered = gather([root])
    torn, wrong = gathered.frame["reason"]
    assert torn == f"cannot be read in full: {root}/sam-s0/metrics.jsonl, line 2: no JSON object: '{{broken'"
    path = root / "sam-s1" / "config.yaml"
    assert wrong.startswith(f"cannot be read in full: {path} is no run's configuration: ParserError: ")
    _, page = written(root)
    assert torn in page.text
    assert wrong in page.text


def test_no_run_is_one_line(tmp_path, capsys):
    with pytest.raises(ConfigError, match="no run directory"):
        gather([tmp_path])
    assert main(["report", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: RUNS={tmp_path}: no run directory")
    assert not (tmp_path / "report.html").exists()


def test_before_any_run_has_finished_there_is_a_page(tmp_path):
    make_run(tmp_path / "made" / "a", status="failed", exception="x", rows=[])
    _, page = written(tmp_path / "made")
    assert "No run has finished yet." in page.text


def test_the_command_says_where_and_how_large(tmp_path, capsys):
    root = make_sweep(tmp_path / "made", ("sam",), seeds=2)
    assert main(["report", str(root), "--out", str(tmp_path / "x.html")]) == 0
    assert re.fullmatch(
        rf"2 runs \(2 finished\) in {tmp_path}/x.html: \d+ kB, made in [\d.]+ s\n", capsys.readouterr().out
    )


def test_the_browser_is_opened_when_asked(tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda uri: opened.append(uri) or True)
    root = make_sweep(tmp_path / "made", ("sam",), seeds=1)
    assert main(["report", str(root), "--open"]) == 0
    assert opened == [(root / "report.html").resolve().as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda uri: False)
    assert main(["report", str(root), "--open"]) == 1
    assert "no browser found" in capsys.readouterr().err


def rho_sweep(root):
    for optimizer in ("sam", "fsam"):
        for i, rho in enumerate((0.1, 0.2)):
            make_run(root / f"{optimizer}{i}", optimizer, rho=rho)
    return root


def test_a_key_that_varies_within_a_method_has_a_sensitivity_curve(tmp_path):
    assert sensitivities(gather([rho_sweep(tmp_path / "rho")])) == [
        {"key": "optimizer.rho", "others": ["optimizer.name"]}
    ]
    for optimizer, rho in (("sam", 0.1), ("fsam", 0.2)):  # each method has its own
        make_run(tmp_path / "own" / optimizer, optimizer, rho=rho)
    assert sensitivities(gather([tmp_path / "own"])) == []


def test_what_varies_can_be_grouped_by(tmp_path):
    gathered = gather([rho_sweep(tmp_path / "rho")])
    assert varying_keys(gathered) == ["optimizer.name", "optimizer.rho"]
    data = payload(gathered, varying_keys(gathered))
    assert data["keys"]["optimizer.rho"] == [0.1, 0.2, 0.1, 0.2]
    assert data["settings"] == ["optimizer.name", "optimizer.rho"]
    assert data["summary"]["final/test/acc1"][0] == pytest.approx(0.71)


@pytest.mark.parametrize(
    ("key", "group"),
    [
        ("test/acc1", "accuracy"),
        ("train/loss_perturbed", "loss"),
        ("perturbation/loss_clean", "perturbation"),
        ("measured/curvature/trace", "curvature"),
        ("time/step_ms", "schedule and cost"),
        ("mine/value", "schedule and cost"),
    ],
)
def test_sections(key, group):
    assert metric_names.group(key) == group


def test_every_title_is_a_documented_metric():
    from helpers import ROOT

    documented = set(re.findall(r"`([a-z]+/[a-z0-9_]+)`", (ROOT / "docs" / "metrics.md").read_text()))
    assert set(metric_names.TITLES) <= documented


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (180000, "2 d 2 h")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("mean", "std", "unit", "text"),
    [
        (0.8598, 0.01337, "percent", "85.98 ± 1.34"),
        (0.85984, float("nan"), "percent", "85.98"),
        (0.42391, 0.02903, "plain", "0.424 ± 0.029"),
        (1234.5, 321.0, "plain", "1234 ± 321"),
        (0.003967, 4.725e-05, "plain", "0.003967 ± 0.000047"),
        (2.5, 0.0, "plain", "2.5 ± 0"),
        (float("nan"), float("nan"), "plain", "–"),
    ],
)
def test_a_mean_has_the_decimals_of_its_deviation(mean, std, unit, text):
    assert mean_std(mean, std, unit, bold=False).text == text


def test_a_run_of_two_sweeps_is_one_run(tmp_path):
    for sweep in ("a", "b"):
        for seed in (0, 1):
            make_run(tmp_path / sweep / f"s{seed}", seed=seed, name=sweep, run_id=f"sam-s{seed}-0123")
    make_run(tmp_path / "b" / "s2", seed=2, name="b", run_id="sam-s2-0123")
    gathered = gather([tmp_path / "a", tmp_path / "b"])
    assert len(gathered.frame) == 3
    assert gathered.notes == ["2 runs were found twice (same configuration and seed): shown once"]
    assert results(gathered).rows[0][1].text == "3"
