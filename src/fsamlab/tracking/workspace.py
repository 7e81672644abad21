"""`fsamlab wandb-workspace`: the project's dashboard in W&B, as code.

Runs are grouped by method: a line is the mean over the runs of a method, the band around it their standard deviation.
Importing this module imports neither wandb nor wandb_workspaces.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from typing import Any

from fsamlab.config import ConfigError
from fsamlab.results.methods import METHODS
from fsamlab.tracking.wandb_server import CannotUpload, WandbServer, one_line

NAME = "fsamlab"
MAX_METHODS = 20  # lines of a panel; W&B's own default is 10


@dataclass(frozen=True)
class Chart:
    """One panel.

    Attributes:
        keys: of rows, or of the summary for bars and points.
        x: the key of the horizontal axis; None for bars, one for each method.
        log: whether the values span decades, and are positive.
        points: one point for each run, its summary's `keys[0]` over `x`.
    """

    title: str
    keys: tuple[str, ...]
    x: str | None = "epoch"
    log: bool = False
    points: bool = False


def _each(prefix: str, *ends: str) -> tuple[str, ...]:
    return tuple(prefix + end for end in ends)


SECTIONS: dict[str, tuple[Chart, ...]] = {
    "accuracy": (
        Chart("validation accuracy", ("val/acc1",)),
        Chart("test accuracy", ("test/acc1",)),
        Chart("training accuracy", ("train/acc1",)),
        Chart("test accuracy at the best validation accuracy", ("best/test/acc1",), x=None),
        Chart("test accuracy at the end", ("final/test/acc1",), x=None),
    ),
    "loss": (
        Chart("training loss (nats)", ("train/loss",), log=True),
        Chart("training loss at w + eps (nats)", ("train/loss_perturbed",), log=True),
        Chart("validation loss (nats)", ("val/loss",)),
        Chart("test loss (nats)", ("test/loss",)),
        Chart("learning rate", ("train/lr",), x="global_step"),
    ),
    "sharpness": (
        Chart("one ascent step (nats)", ("sharpness/one_step",), log=True),
        Chart(
            "one ascent step: first order and curvature (nats)",
            ("sharpness/one_step_first_order", "sharpness/one_step_curvature"),
        ),
        Chart("one ascent step, adaptive ball (nats)", ("sharpness/one_step_adaptive",), log=True),
        Chart("m-sharpness (nats)", ("sharpness/m_sharpness",), log=True),
        Chart("worst case (nats)", ("sharpness/worst_case",), log=True),
        Chart("worst case, mean over batches of m (nats)", ("sharpness/m_worst_case",), log=True),
        Chart("average case (nats)", ("sharpness/average_case",), log=True),
    ),
    "curvature": (
        Chart("largest eigenvalue", ("curvature/lambda_max",), log=True),
        Chart("next eigenvalues", _each("curvature/lambda_", "2", "3", "4", "5"), log=True),
        Chart("smallest eigenvalue", ("curvature/lambda_min",)),
        Chart("lambda_max / lambda_5", ("curvature/lambda_ratio",)),
        Chart("trace", ("curvature/trace",), log=True),
        Chart("along directions", _each("curvature/along_", "sam", "sam_full", "sam_noise", "random", "fsam")),
    ),
    "perturbation": (
        Chart(
            "EMA as an estimate of the full gradient: measured, predicted, independent batches",
            _each("perturbation/cos_ema_full", "", "_predicted", "_independent"),
        ),
        Chart(
            "batch and full gradient: cosine measured, predicted",
            _each("perturbation/cos_batch_full", "", "_predicted"),
        ),
        Chart("full gradient left in F-SAM's direction: cos(d, g)", ("perturbation/cos_d_full",)),
        Chart(
            "decomposition: full gradient, projection, noise (norms)",
            _each("perturbation/", "full_grad_norm", "projection_norm", "noise_norm"),
            log=True,
        ),
        Chart("share of the full gradient in the batch's", ("perturbation/full_share",)),
        Chart("norm of the EMA over that of the full gradient", ("perturbation/ema_norm_ratio",)),
        Chart(
            "friendliness: rise of the batch's loss (nats)",
            _each("perturbation/rise_batch_", "sam", "sam_full", "sam_noise", "fsam"),
        ),
        Chart(
            "friendliness: rise of the other samples' loss (nats)",
            _each("perturbation/rise_other_", "sam", "sam_full", "sam_noise", "fsam"),
        ),
        Chart(
            "norms of ascent gradient and EMA, each step",
            _each("perturbation/", "grad_norm", "ema_norm"),
            "global_step",
            log=True,
        ),
        Chart("cos(a, EMA), each step", ("perturbation/cos_ema",), "global_step"),
        Chart("abs(d) / abs(a), each step", ("perturbation/d_ratio",), "global_step"),
        Chart("share of the EMA in a (sigma), each step", ("perturbation/ema_coefficient",), "global_step"),
        Chart("steps floored and skipped", _each("perturbation/", "floored_share", "skipped_share"), "global_step"),
    ),
    "noise": (
        Chart("tr Sigma, and its part from augmentation", _each("noise/trace_", "sigma", "augmentation"), log=True),
        Chart("squared norm of the mean gradient", ("noise/grad_sq",)),
        Chart("coherence measured, predicted", _each("noise/coherence", "", "_predicted")),
    ),
    "cost": (
        Chart("time of a step (ms)", ("time/step_ms",)),
        Chart("time so far (s)", ("time",)),
        Chart("test accuracy over training time (s)", ("best/test/acc1",), x="cost/train_seconds", points=True),
        Chart(
            "training, evaluation, diagnostics (s)",
            _each("cost/", "train_seconds", "eval_seconds", "diagnostics_seconds"),
            x=None,
        ),
    ),
}
NOTE = (
    "Each line is the mean over **all** runs of a method that are shown, and the band is their standard deviation, "
    "whatever else differs between the runs: radius, learning rate, model, data, number of epochs. For a mean over "
    "seeds alone, filter the runs (by group or config key), or add the keys that vary to the grouping of the runs."
)
OPEN = ("accuracy", "loss")  # the others load when they are opened
COLUMNS = ("summary:best/test/acc1", "summary:final/test/acc1")  # of the table of runs


def build(project: str, entity: str, name: str) -> Any:
    """Return the workspace, a `wandb_workspaces.workspaces.Workspace`; needs neither a server nor a key.

    Raises:
        ConfigError: a name that W&B has no place for.
    """
    workspaces, reports, expr = _library()
    workspace = workspaces.Workspace(
        entity=entity,
        project=project,
        sections=[
            workspaces.Section(
                name=title,
                is_open=title in OPEN,
                panels=panels,
                layout_settings=workspaces.SectionLayoutSettings(columns=3, rows=-(-len(panels) // 3)),
            )
            for title, panels in _sections(reports).items()
        ],
        settings=workspaces.WorkspaceSettings(x_axis="global_step", max_runs=MAX_METHODS),
        runset_settings=workspaces.RunsetSettings(
            groupby=[expr.Config("optimizer.name")],
            group_colors={method: style.colour for method, style in METHODS.items()},
            pinned_columns=list(COLUMNS),
        ),
    )
    workspace._internal_runset_id = _id("runs")
    try:
        workspace.name = name
    except ValueError as e:  # pydantic's
        raise ConfigError("--name", repr(name), "must have no emoji") from e
    if not name:
        raise ConfigError("--name", repr(name), "must not be empty")
    return workspace


def as_json(workspace: Any) -> str:
    """Return the workspace as W&B stores it: the same text each time."""
    spec = workspace._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
    return json.dumps(spec, indent=1)


def save(project: str, entity: str | None, name: str) -> str:
    """Save the workspace to the server as a new view; return its URL.

    Raises:
        ConfigError: a name that W&B has no place for.
        CannotUpload: no key, no server, or one that refuses.
    """
    build(project, "", name)  # refuses a name before anything is asked
    server = WandbServer()
    workspace = build(project, entity or server.default_entity(), name)
    try:
        return str(workspace.save().url)
    except Exception as e:
        raise CannotUpload(f"W&B server {server.environment.base_url}: {one_line(e)}") from e


def _sections(reports: Any) -> dict[str, list[Any]]:
    """Return the panels of each section; the first section has the note on what is averaged at its end."""
    sections = {title: [_panel(reports, title, chart) for chart in charts] for title, charts in SECTIONS.items()}
    note = reports.MarkdownPanel(markdown=NOTE)
    note._id = _id("note")
    sections[next(iter(sections))].append(note)
    return sections


def _panel(reports: Any, section: str, chart: Chart) -> Any:
    """Return a chart as a panel: a mean line and band for each method, bars, or points."""
    group = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    panel: Any
    if chart.points:
        x, y = reports.SummaryMetric(chart.x), reports.SummaryMetric(chart.keys[0])
        panel = reports.ScatterPlot(title=chart.title, x=x, y=y)
    elif chart.x is None:
        panel = reports.BarPlot(title=chart.title, metrics=list(chart.keys), **group)
    else:
        panel = reports.LinePlot(
            title=chart.title,
            x=chart.x,
            y=list(chart.keys),
            log_y=chart.log or None,
            title_x=chart.x,
            max_runs_to_show=MAX_METHODS,
            **group,
        )
    panel._id = _id(section, chart.title)
    return panel


def _id(*parts: str) -> str:
    """Return an id that stays the same, in place of the library's random ones."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:11]


def _library() -> tuple[Any, Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pydantic, for the library's own older half
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
        from wandb_workspaces import expr
    return workspaces, reports, expr
