"""The rows of a metrics.jsonl that is larger than the memory for it."""

import json
import os
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsamlab.rundir import row_file
from fsamlab.rundir.row_file import Rows
from fsamlab.rundir.rows import Mended
from fsamlab.storage.reading import Damaged


def write(path, number, step=1):
    keys = [f"train/a_long_name_{i}" for i in range(12)]
    with path.open("w") as f:
        for i in range(number):
            row = {"step": step * (i + 1), **dict.fromkeys(keys, i + 0.1), **({"val/acc1": 0.5} if i % 5 == 0 else {})}
            f.write(json.dumps(row) + "\n")
    return path


def peak(work):
    """Return the largest memory in bytes that `work` has taken at one time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(row_file, "SMALL", 100)
    monkeypatch.setattr(row_file, "BLOCK", 2000)


def test_the_rows_of_a_large_file_are_those_of_a_small_one(tmp_path, monkeypatch):
    path = write(tmp_path / "metrics.jsonl", 50)
    with path.open("a") as f:
        f.write('{"step": 51, "unfini')
    kept = Rows.of_file(path)
    monkeypatch.setattr(row_file, "SMALL", 100)
    for block in (10, 2000, 10**6):  # smaller than a row, a few rows, all rows
        monkeypatch.setattr(row_file, "BLOCK", block)
        rows = Rows.of_file(path)
        assert list(rows) == list(kept)
        assert rows._added == []  # they are in the file
        assert (rows.kinds, rows.kind_of) == (kept.kinds, kept.kind_of)
        assert (rows.steps, rows.last_step) == (kept.steps, 50)
        assert (rows[0], rows[-1], rows[7:9], len(rows)) == (kept[0], kept[49], kept[7:9], 50)
        assert list(rows.since(48)) == kept[48:]
        with pytest.raises(IndexError):
            rows[50]
        rows.add({"step": 60, "measured/x": 1})
        assert (rows[50], list(rows)[49:], list(rows.since(50))) == (rows[-1], [*kept[49:], rows[-1]], [rows[-1]])
    assert len(Rows.of_file(tmp_path / "missing")) == 0


@pytest.mark.usefixtures("small_blocks")
def test_a_file_that_is_replaced_keeps_its_rows_and_a_file_that_is_overwritten_is_named(tmp_path):
    path = write(tmp_path / "metrics.jsonl", 20)
    rows, before = Rows.of_file(path), list(Rows.of_file(path))
    os.replace(write(tmp_path / "new", 3, step=7), path)
    assert list(rows) == before
    rows = Rows.of_file(path)
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(Damaged, match=r"metrics.jsonl has changed while it was read: .*give the command again"):
        list(rows)
    rows = Rows.of_file(write(path, 5))
    os.truncate(path, 10)
    with pytest.raises(Damaged, match="has changed while it was read"):
        rows[4]


@pytest.mark.usefixtures("small_blocks")
def test_a_damaged_line_of_a_large_file_is_named(tmp_path):
    path = write(tmp_path / "metrics.jsonl", 20)
    with path.open("a") as f:
        f.write('{"epoch": 1}\n')
    with pytest.raises(Damaged, match=r"metrics.jsonl, line 21: step is missing$"):
        Rows.of_file(path)


@pytest.mark.usefixtures("small_blocks")
def test_the_memory_does_not_grow_with_the_rows(tmp_path):
    found = []
    for number in (600, 1800):
        path = write(tmp_path / "metrics.jsonl", number)
        found.append(peak(lambda path=path: [row for row in Rows.of_file(path) if row["step"] < 0]))
    assert found[1] - found[0] < 1200 * 40  # bytes; a row has 450 bytes in the file and 1,500 as a dictionary


ROWS = [b'{"step": 1}\n', b'{"step": 2}\n', b'{"step": 3, "x": NaN}\n', b"no\n", b"\n", b'{"step": true}\n', b"\0\0"]


@given(lines=st.lists(st.sampled_from(ROWS), max_size=7), cut=st.integers(0, 3))
def test_mending_keeps_the_length_and_the_rows_with_growing_steps(lines, cut, tmp_path_factory):
    content = b"".join(lines)
    path = tmp_path_factory.mktemp("rows") / "metrics.jsonl"
    path.write_bytes(content + b'{"step": 9}\n')
    length = max(0, len(content) - cut)
    with path.open("rb") as file:
        mended = Mended(file, length)
        found = b"".join(mended)
    assert len(found) == length
    good, step = [], -1
    for line in content[:length].splitlines(keepends=True):
        if line.startswith(b'{"step": ') and line.endswith(b"}\n") and line[9:10].isdigit() and int(line[9:10]) > step:
            good.append(json.loads(line.replace(b"NaN", b"0")))
            step = int(line[9:10])
    assert [json.loads(line.replace(b"NaN", b"0")) for line in found.split(b"\n") if line.strip()] == good
    assert mended.num_rows == len(good)


def test_mending_takes_the_memory_of_a_line(tmp_path):
    path = write(tmp_path / "metrics.jsonl", 3000)

    def mend():
        with path.open("rb") as file:
            assert sum(map(len, Mended(file, path.stat().st_size))) == path.stat().st_size

    assert peak(mend) < 200_000
