"""The W&B workspace: made without a server, of keys that exist, and saved as it was made."""

import json
import os
import re
import subprocess
import sys

import pytest
from support.runs import ROOT, VARIANTS
from support.wandb_standin import StandIn

from fsamlab.results.methods import METHODS
from fsamlab.tracking import workspace
from fsamlab.tracking.workspace import SECTIONS, as_json, build

NO_NETWORK = """
import socket, sys
def refuse(*args, **keywords):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from fsamlab.command.main import main
sys.exit(main(sys.argv[1:]))
"""


def fsamlab(
    *words, env=None, cwd=None, code="from fsamlab.command.main import main; import sys; sys.exit(main(sys.argv[1:]))"
):
    command = [sys.executable, "-c", code, *words]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=cwd)


@pytest.fixture(scope="module")
def built():
    return build("proj", "team", "view")


def section_of(spec):
    return spec["spec"]["section"]


def test_json_needs_no_network_and_is_the_same_each_time(tmp_path):
    first, second = (fsamlab("wandb-workspace", "proj", "--json", cwd=tmp_path, code=NO_NETWORK) for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    spec = json.loads(first.stdout)
    assert [s["name"] for s in section_of(spec)["panelBankConfig"]["sections"]] == list(SECTIONS)
    assert first.stdout == second.stdout
    assert list(tmp_path.iterdir()) == []


def test_json_can_be_read_back(built):
    from wandb_workspaces.workspaces import Workspace, internal

    text = as_json(built)
    again = Workspace._from_model(internal.View.model_validate_json(text))
    assert json.loads(as_json(again)) == json.loads(text)
    charts = [[p for p in section.panels if type(p).__name__ != "MarkdownPanel"] for section in again.sections]
    assert [len(panels) for panels in charts] == [len(charts) for charts in SECTIONS.values()]
    (note,) = [p for section in again.sections for p in section.panels if type(p).__name__ == "MarkdownPanel"]
    assert note in again.sections[0].panels
    assert "mean over **all** runs of a method" in note.markdown


def test_sections_are_those_of_the_questions():
    wanted = ["accuracy", "loss", "sharpness", "curvature", "perturbation", "noise", "cost"]
    assert list(SECTIONS) == wanted


def documented():
    text = (ROOT / "docs" / "metrics.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    keys = {key for line in lines for key in re.findall(r"`([a-z_0-9/]+)`", line)}
    return keys | set(re.findall(r"`(final/[a-z_0-9/]+)`", text))


def test_all_keys_are_documented():
    keys = {key for charts in SECTIONS.values() for keys in charts.values() for key in keys}
    axes = {axis for charts in SECTIONS.values() for chart in charts for axis in (chart.x, chart.points)}
    axes -= {None, "", "global_step"}
    assert len(keys) > 50
    assert keys | axes <= documented()
    assert "sharpness/one_stap" not in documented()


def test_the_panels_have_the_charts_keys_axes_and_scales(built):
    sections = section_of(json.loads(as_json(built)))["panelBankConfig"]["sections"]
    panels = {
        p["config"]["chartTitle" if "chartTitle" in p["config"] else "title"]: p
        for s in sections
        for p in s["panels"]
        if p["viewType"] != "Markdown Panel"
    }
    charts = {chart: keys for charts in SECTIONS.values() for chart, keys in charts.items()}
    assert len({chart.title for chart in charts}) == len(charts) == len(panels)
    for chart, keys in charts.items():
        panel, config = panels[chart.title], panels[chart.title]["config"]
        if chart.points:
            assert (config["xAxis"], config["yAxis"]) == (f"summary:{keys[0]}", f"summary:{chart.points}")
            continue
        assert config["metrics"] == keys
        assert (config["groupAgg"], config["groupArea"]) == ("mean", "stddev")
        if chart.x is not None:
            assert panel["viewType"] == "Run History Line Plot"
            assert config["xAxis"] == chart.x
            assert config.get("yLogScale", False) == chart.log
    ema = panels["EMA as an estimate of the full gradient: measured, predicted, independent batches"]["config"]
    assert {"perturbation/cos_ema_full", "perturbation/cos_ema_full_predicted"} < set(ema["metrics"])


def test_runs_are_grouped_by_method_in_the_colours_of_the_style(built):
    section = section_of(json.loads(as_json(built)))
    (runs,) = section["runSets"]
    assert runs["grouping"] == [{"section": "config", "name": "optimizer.value.name"}]
    assert section["settings"]["xAxis"] == "global_step"
    assert section["settings"]["maxRuns"] >= len(VARIANTS)
    colours = dict(built.runset_settings.group_colors)
    assert colours == {method: style.colour for method, style in METHODS.items()}
    assert sorted(section["customRunColors"].values()) == sorted(colours.values())
    assert all(json.dumps(runs["id"]).strip('"') in key for key in section["customRunColors"])


@pytest.mark.parametrize("words", [[], ["--entity", "team", "--name", "other"]])
def test_it_is_saved_to_the_server(tmp_path, words):
    with StandIn() as server:
        done = fsamlab("wandb-workspace", "proj", *words, env={**server.env(), "WANDB_ENTITY": ""}, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        (view,) = server.views
        entity, name = ("team", "other") if words else ("standin", "fsamlab")
        assert (view["entityName"], view["projectName"], view["displayName"]) == (entity, "proj", name)
        assert view["spec"] == json.loads(as_json(build("proj", entity, name)))["spec"]
        assert re.fullmatch(rf"{server.url}/{entity}/proj\?nw=\w+\n", done.stdout)
        assert not server.unknown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"WANDB_API_KEY": ""}, "error: no API key for"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:9"}, "error: W&B server http://127.0.0.1:9 does not answer"),
    ],
)
def test_without_key_or_server_it_is_one_line(change, said):
    with StandIn() as server:
        done = fsamlab("wandb-workspace", "proj", env={**server.env(), **change})
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(said)
        assert server.num_requests == 0


def test_a_server_that_refuses_is_one_line(monkeypatch):
    class Refusing:
        def save(self):
            raise RuntimeError("project not found\n(404)")

    with StandIn() as server:
        for key, value in server.env().items():
            monkeypatch.setenv(key, value)
        monkeypatch.setattr(workspace, "build", lambda *place: Refusing())
        with pytest.raises(workspace.CannotUpload, match=rf"W&B server {server.url}: project not found \(404\)$"):
            workspace.save_workspace("proj", "team", "view")


def test_a_bad_name_is_refused_before_anything_is_asked():
    with StandIn() as server:
        done = fsamlab("wandb-workspace", "proj", "--name", "", env=server.env())
        assert (done.returncode, done.stderr) == (1, "error: --name='': must not be empty\n")
        assert server.num_requests == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a/b"], "error: project='a/b': must have"),
        (["p", "--entity", "a b/"], "error: entity='a b/': must have"),
        (["p", "--name", ""], "error: --name='': must not be empty"),
        (["p", "--name", "x\N{ROCKET}"], "error: --name='x\N{ROCKET}': must have no emoji"),
    ],
)
def test_bad_names_are_one_line(words, said):
    done = fsamlab("wandb-workspace", "--json", *words)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(said)
