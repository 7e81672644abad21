"""Any locale, any state of the standard streams: files are UTF-8, words are simplified, what is done stays done."""

import ast
import io
import json
import os
import re
import subprocess
import sys

import pytest
from support.made_runs import put
from support.runs import ROOT, TINY

from fsamlab.terminal import output

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "100"}
SMALL = (*TINY, "data.num_samples=80", "data.test_size=20", "data.val_size=0", "train.epochs=1", "model.width=2")
OPENING = {"open", "read_text", "write_text", "fdopen", "FileHandler", "to_csv", "read_csv"}
STARTING = {"run", "Popen", "check_output"}


def run(*words, env=None, closed=(), **options):
    """Run a command, without the standard streams whose numbers are in `closed`."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONIOENCODING"} | {"OMP_NUM_THREADS": "1"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    options["preexec_fn"] = lambda: [os.close(fd) for fd in closed]
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**environment, **(env or {})}, timeout=300, check=False, **options
    )


def command(*words, **options):
    return run("-m", "fsamlab.command.main", *words, **options)


@pytest.fixture
def sweep(tmp_path):
    """Two seeds of two methods, so that the table has a ± and the page more."""
    for method, seed, accuracy in (("sam", 0, 0.5), ("sam", 1, 0.6), ("sgd", 0, 0.4), ("sgd", 1, 0.45)):
        put(tmp_path / "läufe" / f"{method}-ä-s{seed}", name=method, accuracy=accuracy, seed=seed)
    return tmp_path / "läufe"


def unspecified(tree):
    """Yield the lines of calls that open a text, or read a program's, in the encoding of the locale."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        whose = getattr(getattr(node.func, "value", None), "id", "")
        given = {k.arg: k.value for k in node.keywords}
        texts = [a.value for a in [*node.args, *given.values()] if isinstance(a, ast.Constant)]
        binary = any(isinstance(text, str) and re.fullmatch(r"[rwaxU+]*b[rwax+]*", text) for text in texts)
        starts = name in STARTING and whose == "subprocess" and {"text", "universal_newlines"} & given.keys()
        opens = name in OPENING and whose not in ("os", "webbrowser", "opener", "self", "Image") and not binary
        if (starts or opens) and "encoding" not in given:
            yield node.lineno


def test_every_text_file_and_program_is_read_in_utf8_whatever_the_locale():
    files = [ROOT / "launch.py", *(ROOT / "src").rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files
        for line in unspecified(ast.parse(path.read_text(encoding="utf-8")))
        if path.name != "wandb_server.py"  # its _open opens a run
    ]
    assert found == []
    assert list(unspecified(ast.parse("open('x')\nopen('x', 'rb')\nsubprocess.run(c, text=True)"))) == [1, 3]


@pytest.mark.parametrize("encoding", [None, "latin-1"])
def test_results_are_shown_and_written_in_a_locale_without_utf8(sweep, encoding):
    env = {**C_LOCALE, **({"PYTHONIOENCODING": encoding} if encoding else {})}
    done = command("collect", str(sweep), env=env)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode(encoding or "utf-8").splitlines()
    assert any(("55.00 ± 7.07" if encoding else "55.00 +- 7.07") in line for line in lines)
    assert len({len(line) for line in lines if line.startswith(("|", "+"))}) == 1  # the stand-ins shift no column
    assert "sam-ä-s0" in (sweep / "results.csv").read_text(encoding="utf-8")
    done = command("report", str(sweep), env=env)
    assert done.returncode == 0, done.stderr
    assert "±" in (sweep / "report.html").read_text(encoding="utf-8")
    for words in (["status", str(sweep)], ["status", "--json", str(sweep)]):
        done = command(*words, env=env)
        assert done.returncode == 0, done.stderr
        assert b"rror" not in done.stderr


@pytest.mark.long
def test_a_finished_run_is_finished_in_a_locale_without_utf8_and_with_a_full_disk_behind_its_output(tmp_path):
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = run("launch.py", *SMALL, f"runs_dir={tmp_path}", env=C_LOCALE, stdout=full)
    assert done.returncode == 0, done.stderr
    assert b"standard output: No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr
    (status,) = tmp_path.glob("*/*/status.json")
    assert json.loads(status.read_text(encoding="utf-8"))["status"] == "finished"


@pytest.mark.long
def test_a_sweep_ends_well_when_neither_of_its_streams_takes_anything(tmp_path):
    words = ("launch.py", "-m", *SMALL, "seed=0,1", f"runs_dir={tmp_path}")
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = run(*words, stdout=full, stderr=full)
    assert done.returncode == 0
    assert len(list(tmp_path.glob("*/*/summary.json"))) == 2


@pytest.mark.long
@pytest.mark.parametrize("several", [False, True])
def test_runs_go_on_to_their_end_when_nobody_reads_their_words_any_longer(tmp_path, several):
    words = ["launch.py", *(["-m", "seed=0,1"] if several else []), *SMALL, f"runs_dir={tmp_path}"]
    reader, writer = os.pipe()
    os.close(reader)
    done = run(*words, stdout=writer, stderr=writer)
    os.close(writer)
    assert done.returncode == 0
    found = [json.loads(path.read_text(encoding="utf-8"))["status"] for path in tmp_path.glob("*/*/status.json")]
    assert found == ["finished"] * (1 + several)
    assert not any("Traceback" in path.read_text(encoding="utf-8") for path in tmp_path.glob("*/*/run.log"))


@pytest.mark.parametrize("number", [1, 2])
def test_no_file_takes_the_number_of_a_stream_that_is_missing(tmp_path, number):
    script = """
import os, sys
from fsamlab.terminal import errors
def main():
    with open(sys.argv[1], "w", encoding="utf-8") as f:  # the next number, as metrics.jsonl has it
        for number in (1, 2):
            os.write(number, b"words")  # as libraries in C do
        f.write("row")
sys.exit(errors.call(main))
"""
    path = tmp_path / "metrics.jsonl"
    assert run("-c", script, str(path), closed=(number,)).returncode == 0
    assert path.read_text(encoding="utf-8") == "row"


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["check", *SMALL]], ids=len)
def test_what_was_asked_for_and_cannot_be_printed_is_an_error_of_one_line(sweep, words):
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = command(*words, *([str(sweep)] if words[0] == "status" else []), stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [b"error: standard output: No space left on device; the output there is lost"]


def test_results_that_are_written_are_no_error_where_they_cannot_be_printed(sweep):
    with open("/dev/full", "w", encoding="utf-8") as full:
        for name in ("collect", "report"):
            assert command(name, str(sweep), stdout=full).returncode == 0
    assert (sweep / "report.html").stat().st_size > 1000
    assert (sweep / "results.csv").stat().st_size > 100


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("84.1 ± 2.0 – é", "ascii", "84.1 +- 2.0 - e"),
        ("84.1 ± 2.0 – é", "latin-1", "84.1 ± 2.0 - é"),
        ("語", "ascii", "?"),
        ("1 × 2 − 3…", "ascii", "1 x 2 - 3..."),
    ],
)
def test_an_encoding_gets_what_it_can_show(text, encoding, shown):
    assert output.as_shown(text, encoding) == shown


def test_bytes_of_file_names_come_out_as_they_were():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=output.SIMPLER)
    stream.write("ü".encode().decode("ascii", "surrogateescape"))  # as Python reads a name in the C locale
    stream.flush()
    assert stream.buffer.getvalue() == "ü".encode()
