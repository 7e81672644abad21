"""Notes below the results of the page: how values were measured, and which values may not be compared."""

from __future__ import annotations

from fsamlab.metrics import AT_CHECKPOINT, FAMILIES, family
from fsamlab.report.gather import Gathered
from fsamlab.report.page_tables import shown
from fsamlab.results.settings import MAX_NAMED, more
from fsamlab.results.study import Study

OF_FAMILY = (
    ("num_samples", "sample_hash", "batch_size", "batchnorm", "augment", "rho", "rho_adaptive", "dtype"),
    (*(f"perturbation_{key}" for key in ("num_samples", "batch_size", "batchnorm", "augment")), "num_batches"),
)
OF_RISES = ("perturbation_rho",)


def convention_notes(gathered: Gathered) -> list[str]:
    """Return a line for each kind of measured value: how all runs measured it, or in what the runs differ."""
    lines = []
    for source, when in (("", "while training"), (AT_CHECKPOINT, "at checkpoints")):
        for name, keys in zip(FAMILIES, OF_FAMILY):
            lines += _line(gathered.study.finished, name.capitalize(), keys, source, when, "")
        lines += _line(gathered.study.finished, "Rises of the loss", OF_RISES, source, when, "perturbation/rise_")
    return lines


def _line(study: Study, what: str, keys: tuple[str, ...], source: str, when: str, start: str) -> list[str]:
    """Return the line for the values of a family whose names begin with `start`; no line if no run has values."""
    kind = family(f"{source}diagnostics/{keys[0]}")
    values = [c for c in study.families.get(str(kind), []) if c.startswith((source or "final/") + start)]
    runs = study.runs[study.runs[values].notna().any(axis=1)]
    columns = {key: runs[c].dropna() for key in keys if (c := f"{source}diagnostics/{key}") in runs}
    found = {key: list(dict.fromkeys(map(shown, column))) for key, column in columns.items() if len(column)}
    if "sample_hash" in found and "seed" in runs:  # each seed has its own samples
        by_seed = [list(map(shown, here.unique())) for _, here in columns["sample_hash"].groupby(runs["seed"])]
        found["sample_hash"] = max(by_seed, key=len, default=[])
    differing = [
        f"{key} ({', '.join(texts[:MAX_NAMED])}{more(texts)})" for key, texts in found.items() if len(texts) > 1
    ]
    if differing:
        return [f"{what} {when} may not be compared: runs differ in {', '.join(differing)}."]
    words = ", ".join(f"{key} {texts[0]}" for key, texts in found.items() if key != "sample_hash" and texts)
    whose = "" if len(runs) == len(study.runs) else " that have them"
    return [f"{what} {when}: the same {words} in all runs{whose}."] if words else []
