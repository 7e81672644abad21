"""A stand-in W&B server on 127.0.0.1 that records what wandb 0.31 sends to init, log, finish and resume runs.

    with StandIn() as server:
        os.environ.update(server.env())
        ...
        assert server.run("my-id").history[-1]["acc"] == 0.9
        assert not server.unknown

Faults, from now on: `fail(500)`, `hang = True`, `stop()`.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

API_KEY = "0" * 40
ENTITY = "standin"
HISTORY, SUMMARY, EVENTS, CONSOLE = "wandb-history.jsonl", "wandb-summary.json", "wandb-events.jsonl", "output.log"


@dataclass
class Run:
    """What the server was told of one run."""

    entity: str
    project: str
    run_id: str
    config: dict[str, Any] = field(default_factory=dict)  # as sent: {"lr": {"value": 0.1}, "_wandb": ...}
    meta: dict[str, Any] = field(default_factory=dict)  # groupName, jobType, tags, displayName, ...
    lines: dict[str, dict[int, str]] = field(default_factory=dict)  # file name -> offset -> line
    uploads: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def global_id(self) -> str:
        return base64.b64encode(f"{self.entity}/{self.project}/{self.run_id}".encode()).decode()

    @property
    def history(self) -> list[dict[str, Any]]:
        lines = self.lines.get(HISTORY, {})
        return [json.loads(lines[offset]) for offset in sorted(lines)]

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.lines.get(SUMMARY, {})
        return json.loads(lines[max(lines)]) if lines else {}

    @property
    def plain_config(self) -> dict[str, Any]:
        return {key: entry.get("value") for key, entry in self.config.items() if key != "_wandb"}

    def tail(self, name: str) -> str:
        lines = self.lines.get(name, {})
        return json.dumps([lines[offset] for offset in sorted(lines)][-1:])


class Handler(BaseHTTPRequestHandler):
    """Hands every request to the stand-in that owns the HTTP server."""

    protocol_version = "HTTP/1.1"
    standin: StandIn

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        try:
            status, answer = self.standin.handle(self.command, self.path, body)
        except Exception as e:  # a gap of the stand-in: record it, and do not let the client retry for minutes
            self.standin.unknown.append(
                {"path": self.path, "error": repr(e), "body": body[:2000].decode(errors="replace")}
            )
            status, answer = 400, {"errors": [{"message": f"stand-in: {e!r}"}]}
        payload = json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has given up

    do_POST = do_PUT = do_HEAD = do_GET


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that was killed is part of the tests
            super().handle_error(request, client_address)


class StandIn:
    """The server: a context manager; listens on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str, str], Run] = {}
        self.views: list[dict[str, Any]] = []  # saved workspaces
        self.unknown: list[dict[str, Any]] = []  # requests it had no answer for
        self.num_requests = 0
        self.hang = False
        self._status: int | None = None
        self._failing = ""
        self._lock = threading.RLock()
        handler = type("BoundHandler", (Handler,), {"standin": self})
        self._httpd = Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._httpd.server_address[1]}"

    def __enter__(self) -> StandIn:
        threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop answering for good: connections are refused."""
        self.hang = False
        self._httpd.shutdown()
        self._httpd.server_close()

    def fail(self, status: int | None, path: str = "") -> None:
        """Answer requests whose path contains `path`, by default all, with this HTTP status; None ends it."""
        self._status, self._failing = status, path

    def env(self) -> dict[str, str]:
        """Return the environment variables that lead wandb here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": API_KEY, "WANDB_ENTITY": ENTITY}

    def run(self, run_id: str) -> Run:
        """Return the one run of this id."""
        (run,) = [run for run in self.runs.values() if run.run_id == run_id]
        return run

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Return status and JSON answer of one request."""
        while self.hang:
            time.sleep(0.02)
        path = unquote(path)
        with self._lock:
            self.num_requests += 1
            if self._status is not None and self._failing in path:
                return self._status, {"errors": [{"message": "injected"}]}
            if path == "/graphql":
                return 200, {"data": self._graphql(json.loads(body))}
            if m := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path):
                return 200, self._file_stream(self._run(*m.groups()), json.loads(body))
            if m := re.fullmatch(r"/upload/([^/]+)/([^/]+)/([^/]+)/(.+)", path):
                self._run(*m.groups()[:3]).uploads[m[4]] = body
                return 200, {}
            return 404, {}

    def _run(self, entity: str, project: str, run_id: str) -> Run:
        return self.runs.setdefault((entity, project, run_id), Run(entity, project, run_id))

    def _file_stream(self, run: Run, request: dict[str, Any]) -> dict[str, Any]:
        for name, chunk in (request.get("files") or {}).items():
            lines = run.lines.setdefault(name, {})
            lines.update({chunk["offset"] + k: text for k, text in enumerate(chunk["content"])})
        if request.get("complete"):
            run.exit_code = request.get("exitcode")
        return {"limits": {}}

    def _graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        named = re.search(r"\b(?:query|mutation)\s+(\w+)", request["query"])
        operation = request.get("operationName") or (named[1] if named else "?")
        variables = request.get("variables") or {}
        answers = {
            "UpsertBucket": self._upsert_run,
            "RunResumeStatus": self._resume_status,
            "RunRecord": self._resume_status,
            "UpsertView2": self._upsert_view,
            "CreateRunFiles": self._create_run_files,
            "Viewer": lambda v: {
                "viewer": {"id": "U", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}
            },
            "GetDefaultEntity": lambda v: {"viewer": {"id": "U", "entity": ENTITY}},
            "ServerFeaturesQuery": lambda v: {"serverInfo": {"features": []}},
            "OrganizationCoreWeaveOrganizationID": lambda v: {
                "entity": {"organization": {"coreWeaveOrganizationId": None}}
            },
            "RunStoppedStatus": lambda v: {"project": {"run": {"stopped": False}}},
            "MarkRunFilesUploaded": lambda v: {"markRunFilesUploaded": {"success": True}},
        }
        if operation not in answers:
            self.unknown.append({"operation": operation, "variables": variables})
            return {}
        return answers[operation](variables)

    def _upsert_run(self, v: dict[str, Any]) -> dict[str, Any]:
        if v.get("name"):
            key = (v.get("entity") or ENTITY, v.get("project") or "uncategorized", v["name"])
        else:
            entity, project, run_id = base64.b64decode(v["id"]).decode().split("/")
            key = (entity, project, run_id)
        inserted = key not in self.runs
        run = self._run(*key)
        run.config.update(json.loads(v.get("config") or "{}"))
        run.meta.update({k: x for k, x in v.items() if x is not None and k not in ("config", "summaryMetrics", "id")})
        bucket = {
            "id": run.global_id,
            "name": run.run_id,
            "displayName": run.meta.get("displayName") or run.run_id,
            "config": json.dumps(run.config),
            "historyLineCount": len(run.history),
            "project": {"id": "P", "name": run.project, "entity": {"id": "E", "name": run.entity}},
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _resume_status(self, v: dict[str, Any]) -> dict[str, Any]:
        entity, project = v.get("entity") or ENTITY, v.get("project") or "uncategorized"
        run = self.runs.get((entity, project, v["name"]))
        bucket = run and {
            "id": run.global_id,
            "name": run.run_id,
            "displayName": run.meta.get("displayName"),
            "config": json.dumps(run.config),
            "wandbConfig": json.dumps({"t": 1}),
            "summaryMetrics": json.dumps(run.summary),
            "tags": run.meta.get("tags") or [],
            "state": {None: "running", 0: "finished"}.get(run.exit_code, "failed"),
            "historyLineCount": len(run.history),
            "eventsLineCount": len(run.lines.get(EVENTS, {})),
            "logLineCount": len(run.lines.get(CONSOLE, {})),
            "historyTail": run.tail(HISTORY),
            "eventsTail": run.tail(EVENTS),
        }
        return {"model": {"id": "P", "name": project, "entity": {"id": "E", "name": entity}, "bucket": bucket}}

    def _upsert_view(self, v: dict[str, Any]) -> dict[str, Any]:
        self.views.append({**v, "spec": json.loads(v["spec"])})
        return {"upsertView": {"view": {"id": f"V{len(self.views)}", "name": v["name"]}, "inserted": True}}

    def _create_run_files(self, v: dict[str, Any]) -> dict[str, Any]:
        base = f"{self.url}/upload/{v['entity']}/{v['project']}/{v['run']}/"
        files = [{"name": name, "uploadUrl": base + name} for name in v["files"]]
        return {"createRunFiles": {"runID": v["run"], "uploadHeaders": [], "files": files}}
