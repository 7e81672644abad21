"""What a whole training costs by setting, beside what a step costs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fsamlab.sweep.results import ACCURACIES, by_setting, conditions_of

STEPS = "cost/steps"


def with_totals(frame: pd.DataFrame, metrics: Sequence[str] = ACCURACIES) -> pd.DataFrame:
    """Return :func:`by_setting` with `total_vs_sgd`: steps × time of a step, SGD's in the same setting being 1.

    NaN where there is no SGD to compare with, or the runs have no number of steps.
    """
    table = by_setting(frame, [*metrics, STEPS])
    if table.empty:
        return table
    steps = table[f"{STEPS} mean"] if f"{STEPS} mean" in table else pd.Series(float("nan"), table.index)
    total = steps * table["step_ms"]
    scopes = conditions_of(list(table.columns[: table.columns.get_loc("n")]))
    groups = table.groupby(scopes, dropna=False).ngroup() if scopes else pd.Series(0, table.index)
    of_sgd = total[table["optimizer.name"] == "sgd"].groupby(groups).first()
    return table.assign(total_vs_sgd=total / groups.map(of_sgd))
