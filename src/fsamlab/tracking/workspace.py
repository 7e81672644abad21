"""`fsamlab wandb-workspace`: the project's dashboard in W&B, as code.

Runs are grouped by method: a line is the mean over the runs of a method, and the band their standard deviation.
Importing this module imports neither wandb nor wandb_workspaces.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import Any

from fsamlab.config import ConfigError
from fsamlab.metrics import CLASSIFICATION, ROWS, Chart
from fsamlab.results.methods import METHODS
from fsamlab.tracking.wandb_server import CannotUpload, WandbServer, one_line

NAME = "fsamlab"
MAX_METHODS = 60  # lines of a panel, all variants and some of the user's; W&B's own default is 10


def _by_section() -> dict[str, dict[Chart, list[str]]]:
    """Return {section: {chart: keys}} from the metric table."""
    found: dict[str, dict[Chart, list[str]]] = {}
    for row in ROWS:
        for chart in row.charts:
            found.setdefault(chart.section, {}).setdefault(chart, []).append(row.key)
    return found


SECTIONS = _by_section()
NOTE = (
    "Each line is the mean over **all** runs of a method that are shown, and the band is their standard deviation, "
    "whatever else differs between the runs: radius, learning rate, model, data, number of epochs. For a mean over "
    "seeds alone, filter the runs (by group or config key), or add the keys that vary to the grouping of the runs."
)
OPEN = ("accuracy", "loss")  # sections that are open at first; W&B loads the other sections when they are opened
# Columns of the table of runs: a dashboard belongs to a project, which may not have a run yet that tells its headline.
COLUMNS = tuple(f"summary:{key}" for key in (CLASSIFICATION.at_best, CLASSIFICATION.at_end))


def build(project: str, entity: str, name: str) -> Any:
    """Return the workspace, a `wandb_workspaces.workspaces.Workspace`. This needs neither a server nor a key.

    Raises:
        ConfigError: a name that W&B cannot store.
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
            for title, panels in _panels(reports).items()
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
    except ValueError as e:  # from pydantic
        raise ConfigError("--name", repr(name), "must have no emoji") from e
    if not name:
        raise ConfigError("--name", repr(name), "must not be empty")
    return workspace


def as_json(workspace: Any) -> str:
    """Return the workspace in the form that W&B stores, the same text in each call."""
    spec = workspace._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
    return json.dumps(spec, indent=1)


def save_workspace(project: str, entity: str | None, name: str) -> str:
    """Save the workspace to the server as a new view, and return its URL.

    Raises:
        ConfigError: a name that W&B cannot store.
        CannotUpload: there is no key or no server, or the server refuses.
    """
    build(project, "", name)  # checks the name before the server is asked
    server = WandbServer()
    workspace = build(project, entity or server.default_entity(), name)
    try:
        return str(workspace.save().url)
    except Exception as e:
        raise CannotUpload(f"W&B server {server.environment.base_url}: {one_line(e)}") from e


def _panels(reports: Any) -> dict[str, list[Any]]:
    """Return {section: panels}. The last panel of the first section is a note about the means."""
    sections = {title: [_panel(reports, *chart) for chart in charts.items()] for title, charts in SECTIONS.items()}
    note = reports.MarkdownPanel(markdown=NOTE)
    note._id = _id("note")
    sections[next(iter(sections))].append(note)
    return sections


def _panel(reports: Any, chart: Chart, keys: list[str]) -> Any:
    """Return a chart as a panel: lines with bands, bars, or points, one for each method."""
    group = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    panel: Any
    if chart.points:
        x, y = reports.SummaryMetric(keys[0]), reports.SummaryMetric(chart.points)
        panel = reports.ScatterPlot(title=chart.title, x=x, y=y)
    elif chart.x is None:
        panel = reports.BarPlot(title=chart.title, metrics=keys, **group)
    else:
        panel = reports.LinePlot(
            title=chart.title,
            x=chart.x,
            y=keys,
            log_y=chart.log or None,
            title_x=chart.x,
            max_runs_to_show=MAX_METHODS,
            **group,
        )
    panel._id = _id(chart.section, chart.title)
    return panel


def _id(*parts: str) -> str:
    """Return an id that is the same in each call; the library's own ids are random."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:11]


def _library() -> tuple[Any, Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from pydantic, about older code in the library
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
        from wandb_workspaces import expr
    return workspaces, reports, expr
