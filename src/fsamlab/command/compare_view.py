"""`fsamlab compare`: runs beside reference numbers, and whether the runs lie inside a band."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from fsamlab.config import ConfigError, did_you_mean
from fsamlab.report.gather import gather_study
from fsamlab.results.comparison import STANDS_BESIDE, Beside, beside, comparison_table, without_reference
from fsamlab.results.reference_files import known_references, read_references
from fsamlab.results.references import BEST, KINDS, LAST, UNSTATED, Reference
from fsamlab.results.settings import MAX_NAMED, more
from fsamlab.terminal import output
from fsamlab.terminal.tables import Column, table, wrapped
from fsamlab.terminal.text import console

# Exit codes. 1 is an error and 2 a mistyped option, so that a script can tell both from an answer.
INSIDE, OUTSIDE, NOTHING, UNFINISHED, LACKING = 0, 3, 4, 5, 6
FILES = (".yaml", ".yml")
EPOCHS = {LAST: "last", UNSTATED: "unstated", BEST: "best on test"}
NARROW = 90  # characters of a screen on which the first word of these has to do; the lines below explain the words


def chosen_references(words: Sequence[str]) -> list[Reference]:
    """Return the references that the words name: by name, or all of a file. Without words, all that are known.

    Raises:
        ConfigError: an unknown name, or a file that does not exist.
        Damaged: a file is not of the form.
    """
    files = [Path(word) for word in words if word.endswith(FILES)]
    known = known_references(files)
    if not words:
        return known
    names = [word for word in words if not word.endswith(FILES)]
    all_names = [one.name for one in known]
    for name in names:
        if name not in all_names:
            hint = did_you_mean(name, all_names)
            raise ConfigError("--reference", name, f"no such reference{hint}; `fsamlab compare --list` shows the names")
    names += [one.name for file in files for one in read_references(file)]
    return [one for one in known if one.name in names]


def show_list(references: Sequence[Reference], as_json: bool) -> int:
    """Print the references with values, seeds and sources."""
    if as_json:
        output.show(json.dumps([asdict(one) for one in references], indent=1))
        return INSIDE
    screen = console()
    columns = [
        Column("reference"),
        Column("value", right=True),
        Column("which epoch counts"),
        Column("seeds", rank=1),
        Column("band", right=True, rank=2),
    ]
    rows: list[list[str | Text]] = []
    for one in references:
        for kind, value in one.values.items():
            said = f"{value.mean:g}" + ("" if value.std is None else f" ± {value.std:g}")
            seeds = one.whose_seeds.removeprefix("seeds ")
            rows.append([one.name, said, KINDS[kind], seeds, "" if one.band is None else f"{one.band:g}"])
    screen.print(table(columns, rows, screen.width, "Reference numbers; accuracies in %"))
    for one in references:
        screen.print(wrapped(screen, f"{one.name}: {one.remarks}", hang=4), soft_wrap=True)
    return INSIDE


def show_comparison(paths: Sequence[Path], words: Sequence[str], band: float | None, as_json: bool) -> int:
    """Print the runs at or below `paths` beside references, and return the exit code.

    Args:
        paths: sweep or run directories.
        words: names of references, or files of references; empty for all that are known.
        band: the largest difference to a reference; None: the reference's own band, if it has one.
        as_json: print one JSON object instead of a table and lines.

    Raises:
        ConfigError: there are no runs, or a reference does not exist.
    """
    references = chosen_references(words)
    study = gather_study(paths)
    found = beside(study, references, asked=bool(words))
    met = {one.group for one in found if not one.differences}
    found = [one for one in found if words or not one.differences or one.group not in met]
    verdict = judged(found, band)
    if as_json:
        rows = comparison_table(found).to_dict("records")
        groups = [row | {"runs": [asdict(run) for run in one.runs]} for row, one in zip(rows, found)]
        lines = [*study.notes, *verdict.lines]
        output.show(json.dumps(_finite({"exit": verdict.code, "lines": lines, "groups": groups}), indent=1))
        return verdict.code
    screen = console()
    alone = without_reference(study, found)
    shown = [one for one in found if (one.near or words) and one.finished]
    if shown:
        screen.print(_table(shown, screen.width))
    for line in [*study.notes, *_notes(found, shown, alone), *verdict.lines]:
        screen.print(wrapped(screen, line, hang=4), soft_wrap=True)
    return verdict.code


@dataclass(frozen=True)
class Verdict:
    """What the comparison found: the exit code, and a line for each reason."""

    code: int
    lines: list[str]


def judged(found: Sequence[Beside], band: float | None) -> Verdict:
    """Judge the groups that have the setting of a reference; other groups cannot be inside or outside.

    Each kind of value is judged against ours of the same kind; a value whose epoch is not stated, against our last.

    Args:
        found: groups beside references.
        band: the largest difference; None: the reference's own band, if it has one.
    """
    same = [one for one in found if not one.differences]
    if not same:
        return Verdict(NOTHING, ["nothing checked: no run has the setting of a reference"])
    bands = [one.reference.band if band is None else band for one in same]
    checks = [(one, limit) for one, limit in zip(same, bands) if limit is not None]
    outside = [line for one, limit in checks for line in one.outside(limit)]
    waiting = {run.name: run for one in same for run in one.unfinished}
    lacking = {(run.name, missing): None for one in same for run, missing in one.lacking}
    lines = [f"outside the band: {line}" for line in dict.fromkeys(outside)]
    lines += [f"not finished: run {run.name} is {run.status}" for run in waiting.values()]
    lines += [f"no value: run {name} has no {missing}" for name, missing in lacking]
    compared = any(not math.isnan(one.gap(kind)) for one in same for kind in one.reference.values)
    incomplete = bool(checks) or not compared
    if outside:
        return Verdict(OUTSIDE, lines)
    if waiting and incomplete:
        return Verdict(UNFINISHED, lines)
    if lacking and incomplete:
        return Verdict(LACKING, lines)
    if checks:
        limits = sorted({limit for _, limit in checks})
        said = " and ".join(f"{limit:g}" for limit in limits)
        names = dict.fromkeys(one.reference.name for one, _ in checks)
        lines.append(f"inside the band of {said}: all runs and means beside {', '.join(names)}")
    return Verdict(INSIDE, lines)


def _table(found: Sequence[Beside], width: int | None) -> Any:
    """Return a table with a row for each group, reference and kind of value: long rather than wide."""
    columns = [
        Column("runs"),
        Column("n", right=True, rank=1),
        Column("epoch"),
        Column("ours", right=True),
        Column("theirs", right=True),
        Column("gap", right=True),
        Column("reference"),
        Column("setting", rank=2),
    ]
    rows: list[list[str | Text]] = []
    for one in found:
        for kind in one.reference.values:
            ours = one.mean_said(STANDS_BESIDE[kind])
            epoch = EPOCHS[kind].split()[0] if width and width < NARROW else EPOCHS[kind]
            row: list[str | Text] = [one.group, str(len(one.finished)), epoch, ours]
            row += [one.reference_said(kind), one.gap_said(kind), one.reference.name]
            rows.append([*row, "differs" if one.differences else "same"])
    title = "Test accuracy in %" if all(one.percent for one in found) else "Test metric; accuracies in %"
    return table(columns, rows, width, f"{title} beside reference numbers, mean ± standard deviation over seeds")


def _notes(found: Sequence[Beside], shown: Sequence[Beside], alone: Sequence[str]) -> list[str]:
    """Return the lines below the table: sources, in what the settings differ, and the groups without a reference."""
    named = {one.reference.name: one.reference for one in shown}
    lines = [f"{name}: {reference.remarks}" for name, reference in named.items()]
    if named:
        lines.append("best on test: the best epoch on test data, as published values often are; it selects nothing")
    if any(UNSTATED in one.reference.values for one in shown):
        lines.append("unstated: the source does not say which epoch counts; ours is the last")
    for one in found:
        if one.differences:
            said = "; ".join(one.differences[:MAX_NAMED]) + more(one.differences)
            lines.append(f"{one.group} does not have the setting of {one.reference.name}: {said}")
    if alone:
        lines.append(f"no reference has the method and data set of {'; '.join(alone[:MAX_NAMED])}{more(alone)}")
    return list(dict.fromkeys(lines))


def _finite(value: Any) -> Any:
    """Return a value of JSON with null for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
