"""The page's content, read back from the file."""

import errno
import re

import pytest
from support.made_runs import make_run, make_sweep, row
from support.pages import data_of, written

from fsamlab.command.main import main
from fsamlab.report.gather import gather
from fsamlab.report.page import payload, sensitivities, varying_keys, write_report


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


def test_runs_without_summary_or_environment_have_a_page(tmp_path):
    directory = make_run(tmp_path / "made" / "s0")
    for name in ("summary.json", "env.json"):
        (directory / name).unlink()
    _, page = written(tmp_path / "made")
    assert "1 finished" in page.text


def test_a_metric_without_a_finite_value_is_named(tmp_path):
    rows = [{**row("sam", 0, e), "val/loss": float("nan")} for e in (1, 2)]
    make_run(tmp_path / "made" / "s0", rows=rows)
    _, page = written(tmp_path / "made")
    assert "Without one finite value: val/loss." in page.text


def test_a_page_that_cannot_be_written_is_one_line_and_leaves_nothing_behind(tmp_path, capsys, monkeypatch):
    root = make_sweep(tmp_path / "made", ("sam",), seeds=1)
    out = tmp_path / "missing" / "page.html"
    assert main(["report", str(root), "--out", str(out)]) == 1
    assert capsys.readouterr().err == f"error: {out}: No such file or directory\n"
    before = sorted(tmp_path.iterdir())
    assert main(["report", str(root), "--out", str(root)]) == 1  # a directory
    assert capsys.readouterr().err == f"error: {root}: Is a directory\n"
    assert sorted(tmp_path.iterdir()) == before
    (root / "report.html").write_text("the earlier page")

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    monkeypatch.setattr("os.replace", full)
    assert main(["report", str(root)]) == 1
    assert capsys.readouterr().err == f"error: {root}/report.html: No space left on device\n"
    assert (root / "report.html").read_text() == "the earlier page"
    assert sorted(p.name for p in root.iterdir()) == ["report.html", "sam-s0"]


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


def test_a_damaged_file_is_a_reason_and_the_rest_is_shown(tmp_path):
    root = make_sweep(tmp_path / "made", ("sam",), seeds=2)
    (root / "sam-s0" / "metrics.jsonl").write_text('{"step": 1}\n{broken\n{"step": 2}\n')
    (root / "sam-s1" / "config.yaml").write_text("a: [1")
    gathered = gather([root])
    torn, wrong = gathered.frame["reason"]
    assert torn == f"cannot be read in full: {root}/sam-s0/metrics.jsonl, line 2: not a JSON object: '{{broken'"
    path = root / "sam-s1" / "config.yaml"
    assert wrong.startswith(
        f"cannot be read in full: {path} is not the configuration of a run: is not YAML: ParserError: "
    )
    _, page = written(root)
    assert torn in page.text
    assert wrong in page.text


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
        {"key": "optimizer.rho", "others": ["optimizer.name"], "values": [0.1, 0.2, 0.1, 0.2], "tied": []}
    ]
    for optimizer, rho in (("sam", 0.1), ("fsam", 0.2)):  # each method has its own
        make_run(tmp_path / "own" / optimizer, optimizer, rho=rho)
    assert sensitivities(gather([tmp_path / "own"])) == []


def test_what_is_true_or_false_has_no_curve(tmp_path):
    for i, (nesterov, beta) in enumerate(((True, 0), (False, 0), (True, 1))):
        path = make_run(tmp_path / "made" / f"{i}") / "config.yaml"
        more = f"rho: 0.2\n  nesterov: {nesterov}\n  betas: [0.9, 0.{beta}]"
        path.write_text(path.read_text().replace("rho: 0.2", more))
    gathered = gather([tmp_path / "made"])
    assert {"optimizer.nesterov", "optimizer.betas"} <= set(gathered.study.keys)
    keys = payload(gathered, varying_keys(gathered))["keys"]
    assert keys["optimizer.nesterov"] == [True, False, True]
    assert keys["optimizer.betas"] == ["[0.9, 0.0]", "[0.9, 0.0]", "[0.9, 0.1]"]
    assert sensitivities(gathered) == []


def test_a_key_that_never_varies_alone_has_no_curve(tmp_path):
    for batch_size, rho in ((16, 0.1), (32, 0.2), (32, 0.3)):
        path = make_run(tmp_path / "made" / f"{rho}", rho=rho) / "config.yaml"
        path.write_text(path.read_text().replace("batch_size: 32", f"batch_size: {batch_size}"))
    gathered = gather([tmp_path / "made"])
    assert "data.batch_size" in gathered.study.keys
    assert [found["key"] for found in sensitivities(gathered)] == ["optimizer.rho"]


def test_runs_of_several_machines_are_counted(tmp_path):
    make_sweep(tmp_path / "made", ("sam",), seeds=3)
    path = tmp_path / "made" / "sam-s1" / "env.json"
    path.write_text(path.read_text().replace("node1", "node2"))
    _, page = written(tmp_path / "made")
    assert "cpu on node1 (a CPU, 1 thread) (2 runs) cpu on node2 (a CPU, 1 thread) (1 run)" in page.text


def test_what_varies_can_be_grouped_by(tmp_path):
    gathered = gather([rho_sweep(tmp_path / "rho")])
    assert varying_keys(gathered) == ["optimizer.name", "optimizer.rho"]
    data = payload(gathered, varying_keys(gathered))
    assert data["keys"]["optimizer.rho"] == [0.1, 0.2, 0.1, 0.2]
    assert data["settings"] == ["optimizer.name", "optimizer.rho"]
    assert data["summary"]["final/test/acc1"][0] == pytest.approx(0.71)


def test_values_that_group_runs_are_exact(tmp_path):
    for i, rho in enumerate((0.123456, 0.123457)):
        make_run(tmp_path / "made" / f"{i}", rho=rho)
    gathered = gather([tmp_path / "made"])
    data = payload(gathered, varying_keys(gathered))
    assert data["keys"]["optimizer.rho"] == [0.123456, 0.123457]
    assert {key.split("/")[-1] for key in data["percent"]} == {"acc1", "full_share"}
    assert data["ratios"]["measured/noise/scale"] == ("measured/noise/trace_sigma", "measured/noise/grad_sq")
