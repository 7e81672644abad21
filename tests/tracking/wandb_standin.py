"""A stand-in W&B server on 127.0.0.1 that records what the client sends.

It knows enough of /graphql, file_stream and file upload for wandb 0.31 to init, log, finish and resume:

    with StandIn() as server:
        os.environ.update(server.env())
        ...
        assert server.run("my-id").history[-1]["acc"] == 0.9

Faults: server.fail(status=500, times=3, path="file_stream"), server.delay = 2.0, server.hang = True.
`server.unknown` lists operations it had no answer for; a test asserts that it is empty.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

API_KEY = "0" * 40
ENTITY = "standin"


@dataclass
class Run:
    entity: str
    project: str
    run_id: str
    config: dict = field(default_factory=dict)  # as sent: {"lr": {"value": 0.1}, "_wandb": ...}
    meta: dict = field(default_factory=dict)  # groupName, jobType, tags, displayName, notes, ...
    lines: dict = field(default_factory=dict)  # file name -> {offset: text}
    uploads: dict = field(default_factory=dict)  # file name -> bytes
    requests: int = 0
    complete: bool = False
    exit_code: int | None = None

    @property
    def history(self):  # rows in order of their offset
        f = self.lines.get("wandb-history.jsonl", {})
        return [json.loads(f[k]) for k in sorted(f)]

    @property
    def summary(self):
        f = self.lines.get("wandb-summary.json", {})
        return json.loads(f[max(f)]) if f else {}

    @property
    def plain_config(self):
        return {k: v.get("value") for k, v in self.config.items() if k != "_wandb"}

    @property
    def console(self):
        return "\n".join(t for _, t in sorted(self.lines.get("output.log", {}).items()))

    def state(self):
        return dict(
            entity=self.entity,
            project=self.project,
            run_id=self.run_id,
            config=self.plain_config,
            meta=self.meta,
            history=self.history,
            summary=self.summary,
            console=self.console,
            uploads={k: len(v) for k, v in self.uploads.items()},
            complete=self.complete,
            exit_code=self.exit_code,
            filestream_requests=self.requests,
        )


class StandIn:
    def __init__(self, port: int = 0):
        self.lock = threading.RLock()
        self.runs: dict[tuple, Run] = {}
        self.artifacts: dict[str, dict] = {}
        self.views: list[dict] = []  # saved workspaces and reports
        self.blobs: dict[str, bytes] = {}
        self.ops: list[str] = []  # every GraphQL operation name and other request, in order
        self.unknown: list[dict] = []  # GraphQL operations we had no answer for
        self.faults: list[list] = []  # [status, times, path substring]
        self.delay, self.hang = 0.0, False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *a):
                pass

            def _go(self):
                n = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(n) if n else b""
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                try:
                    status, out, ctype = outer.handle(self.command, self.path, body, dict(self.headers))
                except (
                    Exception
                ) as e:  # a gap in this stand-in: say so loudly, and do not let the client retry for minutes
                    outer.unknown.append(
                        {"path": self.path, "error": repr(e), "body": body[:3000].decode(errors="replace")}
                    )
                    status, out, ctype = (
                        400,
                        json.dumps({"errors": [{"message": f"stand-in: {e!r}"}]}).encode(),
                        "application/json",
                    )
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", ctype)
                    self.send_header("Content-Length", str(len(out)))
                    self.end_headers()
                    self.wfile.write(out)
                except (BrokenPipeError, ConnectionResetError):
                    pass

            do_GET = do_POST = do_PUT = do_HEAD = _go

        self.httpd = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.httpd.daemon_threads = True
        self.port = self.httpd.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *a):
        self.hang = False
        self.httpd.shutdown()
        self.httpd.server_close()

    def env(self):
        return dict(
            WANDB_BASE_URL=self.url,
            WANDB_API_KEY=API_KEY,
            WANDB_MODE="online",
            WANDB_ERROR_REPORTING="false",
            WANDB_ENTITY=ENTITY,
        )

    def fail(self, status=500, times=10**9, path=""):
        self.faults.append([status, times, path])

    def run(self, run_id) -> Run:
        return next(r for (e, p, i), r in self.runs.items() if i == run_id)

    def state(self):
        with self.lock:
            return dict(
                runs=[r.state() for r in self.runs.values()],
                artifacts=self.artifacts,
                views=self.views,
                ops=self.ops,
                unknown=self.unknown,
            )

    # ---- HTTP
    def handle(self, method, path, body, headers):
        if path == "/__state__":
            return 200, json.dumps(self.state()).encode(), "application/json"
        while self.hang:
            time.sleep(0.05)
        if self.delay:
            time.sleep(self.delay)
        op = None
        if path == "/graphql":
            req = json.loads(body)
            op = (
                req.get("operationName")
                or (re.search(r"\b(?:query|mutation)\s+(\w+)", req.get("query", "")) or [None, "?"])[1]
            )
        with self.lock:
            self.ops.append(f"graphql:{op}" if op else f"{method} {re.sub('[?].*', '', path)}")
            for f in self.faults:
                if f[1] > 0 and f[2] in (op or path):
                    f[1] -= 1
                    return f[0], b'{"error":"injected","errors":[{"message":"injected"}]}', "application/json"
            if op:
                return (
                    200,
                    json.dumps({"data": self.graphql(op, req.get("variables") or {}, req)}).encode(),
                    "application/json",
                )
            m = re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path)
            if m:
                return (
                    200,
                    json.dumps(self.file_stream(self._run(*m.groups()), json.loads(body))).encode(),
                    "application/json",
                )
            m = re.match(r"/__upload__/(run|blob)/(.+)", path)
            if m and method == "PUT":
                if m[1] == "run":
                    e, p, i, name = m[2].split("/", 3)
                    self._run(e, p, i).uploads[name] = body
                else:
                    self.blobs[m[2]] = body
                return 200, b"", "text/plain"
        return 404, b"{}", "application/json"

    def _run(self, entity, project, run_id) -> Run:
        return self.runs.setdefault((entity, project, run_id), Run(entity, project, run_id))

    def file_stream(self, run, req):
        run.requests += 1
        for name, chunk in (req.get("files") or {}).items():
            store = run.lines.setdefault(name, {})
            for k, text in enumerate(chunk["content"]):
                store[chunk["offset"] + k] = text
        if req.get("complete") is not None:
            run.complete = bool(req["complete"])
            run.exit_code = req.get("exitcode")
        return {"limits": {}}

    # ---- GraphQL, by operation name
    def graphql(self, op, v, req):
        if op == "UpsertBucket":
            name = v.get("name") or (base64.b64decode(v["id"]).decode().split("/")[-1] if v.get("id") else "noname")
            entity, project = v.get("entity") or ENTITY, v.get("project") or "uncategorized"
            if v.get("id") and not v.get("name"):
                entity, project, name = base64.b64decode(v["id"]).decode().split("/")
            new = (entity, project, name) not in self.runs
            r = self._run(entity, project, name)
            if v.get("config"):
                r.config.update(json.loads(v["config"]))
            if v.get("summaryMetrics"):
                r.lines.setdefault("wandb-summary.json", {})[0] = v["summaryMetrics"]
            r.meta.update({k: x for k, x in v.items() if x is not None and k not in ("config", "summaryMetrics", "id")})
            bucket = dict(
                id=base64.b64encode(f"{entity}/{project}/{name}".encode()).decode(),
                name=name,
                displayName=r.meta.get("displayName") or name,
                description=None,
                config=json.dumps(r.config),
                sweepName=None,
                historyLineCount=len(r.history),
                project=dict(id="P", name=project, entity=dict(id="E", name=entity)),
            )
            return {"upsertBucket": {"bucket": bucket, "inserted": new}}
        if op == "RunResumeStatus":
            key = (v.get("entity") or ENTITY, v.get("project") or "uncategorized", v["name"])
            r, bucket = self.runs.get(key), None
            if r:
                n = {
                    k: len(r.lines.get(f, {}))
                    for k, f in (
                        ("history", "wandb-history.jsonl"),
                        ("events", "wandb-events.jsonl"),
                        ("log", "output.log"),
                    )
                }

                def tail(f):
                    return json.dumps([r.lines[f][k] for k in sorted(r.lines[f])][-1:]) if r.lines.get(f) else "[]"

                bucket = dict(
                    id=base64.b64encode("/".join(key).encode()).decode(),
                    name=r.run_id,
                    summaryMetrics=json.dumps(r.summary),
                    displayName=r.meta.get("displayName"),
                    logLineCount=n["log"],
                    historyLineCount=n["history"],
                    eventsLineCount=n["events"],
                    historyTail=tail("wandb-history.jsonl"),
                    eventsTail=tail("wandb-events.jsonl"),
                    config=json.dumps(r.config),
                    tags=r.meta.get("tags") or [],
                    notes=r.meta.get("notes"),
                    wandbConfig=json.dumps({"t": 1}),
                )
            return {"model": {"id": "P", "name": key[1], "entity": {"id": "E", "name": key[0]}, "bucket": bucket}}
        if op == "CreateRunFiles":
            base = f"{self.url}/__upload__/run/{v['entity']}/{v['project']}/{v['run']}/"
            return {
                "createRunFiles": {
                    "runID": v["run"],
                    "uploadHeaders": [],
                    "files": [{"name": f, "uploadUrl": base + f} for f in v["files"]],
                }
            }
        if op == "Viewer":
            return {
                "viewer": dict(
                    id="U",
                    entity=ENTITY,
                    username=ENTITY,
                    email="a@b.c",
                    flags="{}",
                    admin=False,
                    name=ENTITY,
                    teams={"edges": [{"node": {"name": ENTITY}}]},
                )
            }
        if op in ("ServerInfo", "ServerInfoQuery", "ServerFeaturesQuery"):
            return {
                "serverInfo": {
                    "cliVersionInfo": {"max_cli_version": "9.9.9", "min_cli_version": "0.10.0"},
                    "features": [],
                    "latestLocalVersionInfo": {
                        "outOfDate": False,
                        "latestVersionString": "0.99.0",
                        "versionOnThisInstanceString": "0.99.0",
                    },
                }
            }
        if op == "OrganizationCoreWeaveOrganizationID":
            return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}
        if op == "RunStoppedStatus":
            return {"project": {"run": {"stopped": False}}}
        if op == "ProjectInternalId":
            return {"project": {"id": "P", "internalId": "UHJvamVjdDE="}}
        if op == "GetProjects":
            p = {
                "__typename": "Project",
                "id": "P",
                "name": "",
                "entityName": ENTITY,
                "createdAt": "2026-01-01T00:00:00Z",
                "isBenchmark": False,
                "user": None,
            }
            return {
                "models": {
                    "pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False},
                    "edges": [{"node": {**p, "name": n}} for n in sorted({k[1] for k in self.runs})],
                }
            }
        if op.lower().startswith("upsertview"):  # wandb-workspaces: Workspace.save(), Report.save()
            self.views.append({**v, "spec": json.loads(v["spec"])})
            return {
                "upsertView": {
                    "view": {
                        "id": f"V{len(self.views)}",
                        "name": v.get("name"),
                        "displayName": v.get("displayName"),
                        "type": v.get("type"),
                        "description": v.get("description"),
                        "project": {"id": "P", "name": v.get("projectName"), "entityName": v.get("entityName")},
                        "user": {"id": "U", "username": ENTITY},
                        "spec": v["spec"],
                        "updatedAt": None,
                    },
                    "inserted": True,
                }
            }
        if op in ("NotifyScriptableRunAlert", "MarkRunFilesUploaded"):
            return {op[0].lower() + op[1:]: {"success": True}}
        # ---- artifacts
        if op == "ArtifactType":  # asked, synchronously, by run.log({"t": wandb.Table(...)}) in online mode
            return {"project": {"artifact": None}}
        if op == "CreateArtifact":
            i = v["input"]
            aid = base64.b64encode(f"A{len(self.artifacts)}".encode()).decode()
            self.artifacts[aid] = dict(
                name=(i.get("artifactCollectionName") or (i.get("artifactCollectionNames") or ["?"])[0]),
                type=i.get("artifactTypeName"),
                aliases=[a.get("alias") for a in i.get("aliases") or []],
                run=i.get("runName"),
                files=[],
                committed=False,
                metadata=i.get("metadata"),
            )
            return {
                "createArtifact": {
                    "artifact": {"id": aid, "state": "PENDING", "artifactSequence": {"id": "S", "latestArtifact": None}}
                }
            }
        if op in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            k = "createArtifactManifest" if op[0] == "C" else "updateArtifactManifest"
            aid = v.get("artifactID") or v.get("artifactManifestID")
            return {
                k: {
                    "artifactManifest": {
                        "id": aid,
                        "file": {
                            "id": "F",
                            "uploadUrl": f"{self.url}/__upload__/blob/manifest-{aid}",
                            "uploadHeaders": [],
                        },
                    }
                }
            }
        if op == "CreateArtifactFiles":
            edges = []
            for f in v.get("artifactFiles") or v["input"]["artifactFiles"]:  # older | 0.31 spelling
                self.artifacts[f["artifactID"]]["files"].append(f["name"])
                edges.append(
                    {
                        "node": {
                            "id": "F",
                            "name": f["name"],
                            "displayName": f["name"],
                            "storagePath": f["name"],
                            "uploadUrl": f"{self.url}/__upload__/blob/{f['artifactID']}/{f['name']}",
                            "uploadHeaders": [],
                            "uploadMultipartUrls": None,
                            "artifact": {"id": f["artifactID"]},
                        }
                    }
                )
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if op == "CommitArtifact":
            self.artifacts[v["artifactID"]]["committed"] = True
            return {"commitArtifact": {"artifact": {"id": v["artifactID"], "digest": "d"}}}
        self.unknown.append({"op": op, "variables": v, "query": req.get("query", "")[:2000]})
        return {}
