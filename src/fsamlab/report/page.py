"""Writes the report of run directories: one HTML file that needs no server, no network and no account.

uPlot draws the curves (assets/uPlot.iife.min.js, version 1.6.32, MIT, 51 kB): it draws interactive lines on a canvas
and is much smaller than the large plotting libraries. Everything else is the page's own script. A content security
policy in the page allows no other script and no other address, so the name of a run cannot inject anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from fsamlab import metrics
from fsamlab.metrics import AT_CHECKPOINT, EVALUATED, is_measured
from fsamlab.report import page_claims, page_notes, page_references, page_tables, page_tuning
from fsamlab.report.curves import number
from fsamlab.report.gather import Gathered, gather
from fsamlab.results import methods as style
from fsamlab.results.comparison import Beside
from fsamlab.results.passes import passes_per_step
from fsamlab.results.settings import METHOD, values_of
from fsamlab.results.tuned import own_radii, tuned_tables
from fsamlab.rundir.record import now
from fsamlab.storage.writing import write_atomic

ASSETS = resources.files("fsamlab.report") / "assets"
SCRIPTS = (
    "uPlot.iife.min.js",
    *("data.js", "chart.js", "bars.js", "controls.js", "notes.js", "sensitivity.js", "print.js", "sections.js"),
)
EXACT = 17  # significant digits that keep a float exactly
SUMMARY_DIGITS = 6  # of the runs' values, from which the page's script takes means; enough to agree with the table
SUMMARIES = ("final/", "best/", "cost/step_ms")


def write_report(paths: Sequence[Path], out: Path, claims: Path | None = None) -> Gathered:
    """Write the report of the runs at or below `paths` to `out`, and return its contents.

    Args:
        paths: run directories, or directories of runs.
        out: the file.
        claims: a file of claims whose verdicts the page shows, as `fsamlab verdict` finds them.

    Raises:
        ConfigError: there are no runs, or the claims cannot be judged.
        Damaged: the file of claims is not of the form.
        OSError: `out` cannot be written. An older report in `out` is unchanged.
    """
    verdicts = None if claims is None else page_claims.judged(claims)
    gathered = gather(paths)
    page = render(gathered, page_tables.page_title(gathered, paths), verdicts)
    try:
        write_atomic(out, page)
    except OSError as e:  # the error names the temporary file; the user knows `out`
        raise OSError(e.errno, e.strerror, str(out)) from e
    return gathered


def render(gathered: Gathered, title: str, claims: page_claims.Judged | None = None) -> str:
    """Return the page."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    varied = varying_keys(gathered)
    references = page_references.same_setting(gathered)
    data = payload(gathered, varied, references)
    script = "\n".join(_asset(name) for name in SCRIPTS[1:])
    scripts = [_asset(SCRIPTS[0]), f'(() => {{\n"use strict";\n{script}\n}})();']
    return environment.from_string(_asset("page.html")).render(
        title=title,
        made=page_tables.read_time(now()),
        policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src "
        + " ".join(f"'sha256-{_sha256(s)}'" for s in scripts),
        styles=[_asset("uPlot.min.css"), _asset("report.css")],
        scripts=scripts,
        data=_json(data),
        sensitive=bool(data["sensitivities"]),
        counts=gathered.counts(),
        facts=page_tables.facts(gathered),
        results=page_tables.results(gathered),
        claims=claims,
        references=page_references.reference_table(references),
        sources=page_references.sources(references),
        tied=[*(f"{line[0].upper()}{line[1:]}." for line in own_radii(gathered.study)), *gathered.study.tie_notes()],
        # of a study only its own table: it may judge at another epoch, or by another metric
        tuned=page_tuning.study_tables(gathered) or tuned_tables(gathered.study),
        conventions=page_notes.convention_notes(gathered),
        unfinished=page_tables.unfinished(gathered),
        common=page_tables.common_settings(gathered, varied),
        num_runs=len(gathered.frame),
        notes=gathered.notes,
        curves=gathered.curves,
    )


def payload(gathered: Gathered, varied: Sequence[str], references: Sequence[Beside] = ()) -> dict[str, Any]:
    """Return the data of the page's script, ready for JSON."""
    frame, declared = gathered.frame, gathered.study.headlines
    methods = dict.fromkeys([*frame["optimizer.name"].astype(str), *metrics.DIRECTIONS])
    numbers = {str(c): [number(v, SUMMARY_DIGITS) for v in frame[c]] for c in frame.columns if _is_shown(str(c))}
    return {
        "runs": [
            {"name": d.name, "status": str(run["status"]), "diverged": page_tables.diverged_at(run)}
            for d, (_, run) in zip(gathered.directories, frame.iterrows())
        ],
        "keys": {key: [_value(v) for v in frame[key]] for key in varied},
        "settings": gathered.study.keys,
        "styles": {
            m: {"label": s.label, "colour": s.colour, "dash": s.dash} for m in methods for s in [style.style(m)]
        },
        "palette": style.PALETTE,
        "metrics": [
            {
                "key": key,
                "group": metrics.of(key, declared).section,
                "title": metrics.title(key, declared),
                "headline": metrics.of(key, declared).headline > 0,
                "percent": metrics.is_accuracy(key, declared),
                "notFinite": gathered.curves.not_finite.get(key, 0),
            }
            for key in metrics.ordered(gathered.curves.by_metric, declared)
        ],
        "groups": metrics.SECTIONS,
        "ratios": metrics.RATIOS,
        "percent": [key for key in {**gathered.curves.by_metric, **numbers} if metrics.of(key, declared).percent],
        "results": [key for headline in declared for key in (headline.at_best, headline.at_end)],
        "summary": {key: values for key, values in numbers.items() if any(v is not None for v in values)},
        "passes": [number(v, SUMMARY_DIGITS) for v in passes_per_step(frame)],
        "sensitivities": sensitivities(gathered),
        "directions": metrics.DIRECTIONS,
        "references": page_references.reference_curves(references, list(frame["directory"])),
        "radii": {prefix: _numbers(frame, f"{prefix}diagnostics/perturbation_rho") for prefix in ("", "measured/")},
        **gathered.curves.as_dict(),
    }


def varying_keys(gathered: Gathered) -> list[str]:
    """Return the config keys with more than one value, and the key of the method, which decides the colours."""
    study = gathered.study
    return [key for key in study.config_keys if key == METHOD or key in study.varied]


def sensitivities(gathered: Gathered) -> list[dict[str, Any]]:
    """Return the numeric config keys that vary while the rest of a setting stays, which a curve can be drawn against.

    `values` has the number of each run, None for a run that has none; `tied` are the keys that change with the key.
    """
    texts, finished = gathered.study.finished.texts, gathered.study.finished.runs
    if finished.empty:
        return []
    found = []
    keys = gathered.study.keys
    tied = gathered.study.ties()
    for key in keys:
        others = [k for k in keys if k != key]
        numeric = pd.to_numeric(finished[key], errors="coerce")
        if numeric.notna().sum() < 2 or finished[key].map(lambda v: isinstance(v, bool)).any():
            continue
        alike = [texts[k] for k in others if k in texts] or [pd.Series("", index=finished.index)]
        if numeric.groupby(alike).nunique().max() > 1:
            values = [number(v, EXACT) for v in values_of(gathered.frame, key)]
            found.append({"key": key, "others": others, "values": values, "tied": tied.get(key, [])})
    return found


def _is_shown(column: str) -> bool:
    """Return whether a column of the summary may be an axis of the page."""
    other_data = column.startswith(EVALUATED) and column.count("/") == 2  # means, no single corruption
    return column.startswith(SUMMARIES) or (column.startswith(AT_CHECKPOINT) and is_measured(column)) or other_data


def _numbers(frame: pd.DataFrame, column: str) -> list[float | None]:
    """Return the numbers of a column, None for each run without a number."""
    return [number(v, SUMMARY_DIGITS) for v in frame[column]] if column in frame else [None] * len(frame)


def _value(value: Any) -> Any:
    if isinstance(value, tuple):
        return str(list(value))
    if isinstance(value, float) and value != value:
        return None
    # exact, because rounding could make two settings equal
    return value if isinstance(value, bool | str) else number(value, EXACT)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(value: Any) -> str:
    """Return JSON that can stand inside a script element: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
