"""Questions to the W&B server: what it has of a run, before and after an upload.

An error is one line that says why the server could not be asked. Importing this module does not import wandb; opening a
server does.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fsamlab.config.train import PLACE
from fsamlab.tracking.wandb_environment import (
    PROBE_SECONDS,
    WandbEnvironment,
    import_wandb,
    probe,
    read_environment,
)

QUERY_SECONDS = 19  # for one answer; wandb repeats a failed request for this time

# These are the fields by which wandb itself decides where a resumed run goes on, and the state. The public
# `wandb.Api().run` would answer too, but it does not have the last row, and it creates a directory for each run.
RECORD = """
query RunRecord($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) {
    entity { name }
    bucket(name: $name, missingOk: true) { state historyLineCount historyTail summaryMetrics }
  }
}
"""


class CannotUpload(RuntimeError):
    """W&B cannot be used now; the message is one line for the user."""


@dataclass(frozen=True)
class ServerRun:
    """What the server has of one run.

    Attributes:
        num_rows: number of rows in the history.
        last_row: the last row, {} without rows.
        summary: the values of the summary.
        state: the server's word: running, finished, failed, crashed, ...
        url: the page of the run.
    """

    num_rows: int
    last_row: dict[str, Any]
    summary: dict[str, Any]
    state: str
    url: str

    @property
    def last_step(self) -> int:
        """The step of the last row, -1 without rows."""
        return int(self.last_row.get("_step", -1))


class WandbServer:
    """The W&B server that is configured on this machine.

    Raises:
        CannotUpload: there is no key, the server does not answer, or the server refuses the key.
    """

    def __init__(self) -> None:
        self.environment = usable_environment()
        self._api: Any = None
        self._open()

    def run(self, project: str, entity: str | None, run_id: str) -> ServerRun | None:
        """Return what the server has of a run, None if the server does not know the run.

        Args:
            project: name of the project.
            entity: team or user; None means the default of the key.
            run_id: id of the W&B run.

        Raises:
            CannotUpload: the server did not answer, or the answer cannot be used.
        """
        self._open()
        variables = {"project": project, "entity": entity, "name": run_id}
        try:
            model = self._api._service_api.execute_graphql(RECORD, variables)["model"]
        except Exception as e:
            raise CannotUpload(f"W&B server {self.environment.base_url}: {one_line(e)}") from e
        bucket = model and model["bucket"]
        if not bucket:
            return None
        tail = json.loads(bucket["historyTail"] or "[]")
        owner, app = model["entity"]["name"], self._api._service_api.app_url.rstrip("/")
        return ServerRun(
            num_rows=bucket["historyLineCount"] or 0,
            last_row=json.loads(tail[-1]) if tail else {},
            summary=json.loads(bucket["summaryMetrics"] or "{}"),
            state=bucket["state"] or "",
            url=f"{app}/{'/'.join(quote(part) for part in (owner, project, 'runs', run_id))}",
        )

    def default_entity(self) -> str:
        """Return the team or user that receives runs without an entity.

        Raises:
            CannotUpload: the server did not answer, or names no default.
        """
        try:
            entity = self._api.settings["entity"] or self._api.default_entity
        except Exception as e:
            raise CannotUpload(f"W&B server {self.environment.base_url}: {one_line(e)}") from e
        if not entity:
            raise CannotUpload(f"W&B server {self.environment.base_url} names no default entity; use --entity")
        return str(entity)

    def answers(self) -> bool:
        """Return whether the server answers a request."""
        try:
            probe(self.environment)
        except OSError:
            return False
        return True

    def forget(self) -> None:
        """Drop the connection, because wandb-core, which held it, was killed; the next question opens a new one."""
        self._api = None

    def _open(self) -> None:
        if self._api is not None:
            return
        wandb = import_wandb()
        wandb.setup(wandb.Settings(silent=True))
        try:
            self._api = wandb.Api(timeout=QUERY_SECONDS)
        except Exception as e:
            raise CannotUpload(f"W&B server {self.environment.base_url}: {one_line(e)}") from e


def environment_here() -> WandbEnvironment:
    """Return which W&B server this machine uses, and whether a key is configured for it.

    Raises:
        CannotUpload: wandb refuses what it finds, for example a key that has the wrong form.
    """
    try:
        return read_environment()
    except Exception as e:  # an unusual home, settings file or key can make wandb raise almost anything
        raise CannotUpload(f"W&B cannot be used: {one_line(e)}") from e


def usable_environment() -> WandbEnvironment:
    """Return where wandb would send a run, after a request to the server.

    Raises:
        CannotUpload: there is no key, or the server does not answer.
    """
    environment = environment_here()
    if not environment.has_key:
        raise CannotUpload(environment.no_key)
    began = time.monotonic()
    try:
        probe(environment)
    except OSError as e:
        seconds = time.monotonic() - began
        waited = f" within {PROBE_SECONDS:g} s" if seconds > 0.9 * PROBE_SECONDS else ""
        raise CannotUpload(f"W&B server {environment.base_url} does not answer{waited}: {one_line(e)}") from e
    return environment


def check_place(project: str | None, entity: str | None) -> None:
    """Check the names of a project and a team or user; None is allowed.

    Raises:
        ConfigError: W&B would refuse the name.
    """
    for option, value in (("project", project), ("entity", entity)):
        if value is not None:
            PLACE.check(option, value)


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line; without a message the name of its type."""
    return " ".join(str(error).split()) or type(error).__name__
