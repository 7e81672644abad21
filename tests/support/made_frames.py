"""The frames of a study, runs and rows, with round numbers."""

import pandas as pd


def one_run(method, seed, end, best=None, directory=None, **columns):
    """One run; the dots and slashes of column names are written as __ and ___."""
    values = {
        "directory": directory or f"{method}-{seed}-{sorted(columns.items())}",
        "name": "study",
        "seed": seed,
        "optimizer.name": method,
        "optimizer.ascent": "none" if method in ("sgd", "adamw") else "batch",
        "optimizer.base": "sgd",
        "optimizer.rho": 0.0 if method in ("sgd", "adamw") else 0.2,
        "optimizer.lmbda": 0.9 if method == "fsam" else None,
        "data.batch_size": 64,
        "status": "finished",
        "final/test/acc1": end,
        "cost/step_ms": 10.0 if method == "sgd" else 25.0,
    }
    if best is not None:
        values["best/test/acc1"] = best
    return {**values, **{k.replace("___", "/").replace("__", "."): v for k, v in columns.items()}}


def frame(*runs):
    return pd.DataFrame(list(runs))


def rows_of(runs, **series):
    """Rows of metrics.jsonl: for each run, `key=[value at epoch 1, at epoch 2, ...]` plus 0.1 for each seed."""
    rows = []
    for run in runs.to_dict("records"):
        epochs = max(len(values) for values in series.values())
        for epoch in range(epochs):
            values = {k.replace("___", "/"): v[epoch] + 0.1 * run["seed"] for k, v in series.items() if epoch < len(v)}
            rows.append({"directory": run["directory"], "step": 10 * (epoch + 1), "epoch": epoch + 1.0, **values})
    return pd.DataFrame(rows)
