"""Reference numbers on the page: a table beside ours, and curves under ours. Only the same setting is shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fsamlab.report.gather import Gathered
from fsamlab.report.page_tables import Cell, Table, shown_setting
from fsamlab.results.comparison import STANDS_BESIDE, Beside, beside
from fsamlab.results.reference_files import known_references
from fsamlab.results.references import BEST, LAST, UNSTATED

EPOCHS = {LAST: "last", UNSTATED: "unstated", BEST: "best\u00a0on\u00a0test"}
NO_BREAK = "\u2011"  # a hyphen at which no line ends


def same_setting(gathered: Gathered) -> list[Beside]:
    """Return the groups of runs beside the references that have the same setting.

    Raises:
        Damaged: the project's own file of references is damaged.
    """
    return beside(gathered.study, known_references(), only_same=True)


def reference_table(found: Sequence[Beside]) -> Table | None:
    """Return our values and those of references of the same setting; None if no finished run has one."""
    shown = [one for one in found if one.finished]
    if not shown:
        return None
    keys = [key for key in shown[0].keys if any(_is_set(one.keys[key]) for one in shown)]
    percent = ",\u00a0%" if all(one.percent for one in shown) else ""
    epochs = "last: after the last epoch; best on test: of the best epoch on test data, which selects nothing here; "
    headings = [
        *((key.removesuffix(".name"), f"the configuration's {key}", False) for key in keys),
        ("epoch", epochs + "unstated: the source does not say which epoch counts, ours is the last", False),
        ("n", "our finished runs", True),
        (f"ours{percent}", "mean ± standard deviation over our finished runs", True),
        (f"reference{percent}", "the reference's value", True),
        ("difference", "ours minus the reference's", True),
        ("name of the reference", "in `fsamlab compare`; the sources are below", False),
    ]
    return Table(headings, [_row(one, keys, kind) for one in shown for kind in one.reference.values])


def _row(one: Beside, keys: Sequence[str], kind: str) -> list[Cell]:
    ours, theirs, gap = one.ours(STANDS_BESIDE[kind]), one.reference.values[kind], one.gap(kind)
    return [
        *(Cell(shown_setting(key, one.keys[key]), str(one.keys[key]), key=True) for key in keys),
        Cell(EPOCHS[kind], kind, key=True),
        Cell(str(len(one.finished)), len(one.finished)),
        Cell(_dash(one.mean_said(STANDS_BESIDE[kind])), "" if ours is None else ours.mean),
        Cell(one.reference_said(kind), theirs.mean),
        Cell(_dash(one.gap_said(kind)), "" if math.isnan(gap) else gap),
        Cell(one.reference.name.replace("-", NO_BREAK), one.reference.name, key=True),
    ]


def _is_set(value: Any) -> bool:
    return value is not None and value == value


def _dash(text: str) -> str:
    return "–" if text == "-" else text


def sources(found: Sequence[Beside]) -> list[tuple[str, str]]:
    """Return `(name, source and remarks)` for each reference that is shown."""
    return list({one.reference.name: one.reference.remarks for one in found}.items())


def reference_curves(found: Sequence[Beside], directories: Sequence[str]) -> list[dict[str, Any]]:
    """Return the references' curves for the page's script: label, metric, epochs, values, and the runs they belong to.

    Args:
        found: the groups beside references.
        directories: of the page's runs, in their order.
    """
    number = {directory: i for i, directory in enumerate(directories)}
    curves: dict[str, dict[str, Any]] = {}
    for one in found:
        reference = one.reference
        if not reference.curve:
            continue
        seeds = ", " + reference.whose_seeds.replace(" ", "\u00a0") if reference.seeds or reference.num_seeds else ""
        curve = {
            "label": f"{reference.title} ({reference.source['repository']}{seeds})",
            "metric": f"test/{reference.metric}",
            "x": list(range(1, len(reference.curve) + 1)),
            "y": list(reference.curve),
            "runs": [],
        }
        curves.setdefault(reference.name, curve)["runs"] += [number[run.directory] for run in one.runs]
    return list(curves.values())
