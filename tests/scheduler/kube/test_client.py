"""The client, against a small HTTP server that answers as an API server would."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from planner.manifests.write import plain_yaml
from scheduler.kube import client, errors, names
from scheduler.kube.api import Listed
from scheduler.kube.client import Kube, connect


class Server:
    """Answers by ``answer(method, path, query, body)``; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[str, str, dict[str, str], Any], tuple[int, Any]] = lambda *_: (
            200,
            {},
        )
        self.extra: dict[str, str] = {}
        self.hold = threading.Event()  # a watch stays open until it is set
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_all(self) -> None:
                outer._handle(self)

            def log_message(self, *args: object) -> None:
                pass

        for verb in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{verb}", Handler.handle_all)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.block_on_close = False
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        data = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        body = json.loads(data) if data else None
        self.asked.append((handler.command, parts.path, query, body))
        self.headers.append(dict(handler.headers.items()))
        status, said = self.answer(handler.command, parts.path, query, body)
        if isinstance(said, list):  # a watch: a line each, then open until released
            self._stream(handler, said)
            return
        text = said if isinstance(said, bytes) else json.dumps(said).encode()
        handler.send_response(status)
        for key, value in {"Content-Length": str(len(text)), **self.extra}.items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(text)

    def _stream(self, handler: BaseHTTPRequestHandler, lines: list[Any]) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for line in lines:
            piece = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
            handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            handler.wfile.flush()
        self.hold.wait(10)
        handler.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.hold.set()
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def kubeconfig(server: Server, tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text(plain_yaml(_config(server.url)))
    return path


def _config(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {"token": "secret"}}],
        "contexts": [
            {"name": "one", "context": {"cluster": "here", "user": "me", "namespace": "ml"}},
            {"name": "two", "context": {"cluster": "here", "user": "me"}},
        ],
    }


@pytest.fixture
def kube(kubeconfig: Path) -> Kube:
    made = connect(kubeconfig=str(kubeconfig))
    made._sleep = lambda seconds: None
    return made


def named(name: str, version: str = "1", **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": version, **more}}


def status(code: int, reason: str, message: str = "no", **details: Any) -> tuple[int, Any]:
    said = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return code, {**said, "details": details}


def test_the_context_says_who_where_and_in_which_namespace(server: Server, kube: Kube) -> None:
    assert kube.namespace == "ml"
    kube.get(names.PODS, "a", "ml")
    assert server.asked == [("GET", "/api/v1/namespaces/ml/pods/a", {}, None)]
    assert server.headers[0]["authorization"] == "Bearer secret"


def test_another_context_can_be_chosen_and_an_unknown_one_is_named(kubeconfig: Path) -> None:
    assert connect(kubeconfig=str(kubeconfig), context="two").namespace == "default"
    with pytest.raises(errors.Unconfigured, match=r"no context 'three', allowed: one, two"):
        connect(kubeconfig=str(kubeconfig), context="three")


def test_without_any_configuration_it_says_what_it_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(errors.Unconfigured, match="no KUBECONFIG"):
        connect()
    (tmp_path / "broken").write_text("clusters: 3\n")
    with pytest.raises(errors.Unconfigured, match="broken"):
        connect(kubeconfig=str(tmp_path / "broken"))


def test_in_a_pod_the_service_account_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, text in (("token", "of-the-pod"), ("ca.crt", "-"), ("namespace", "ops\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    loader = "kubernetes.config.incluster_config"
    monkeypatch.setattr(f"{loader}.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(f"{loader}.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(client, "_IN_POD", tmp_path)
    kube = connect()
    assert (kube.url, kube.namespace) == ("https://10.0.0.1:443", "ops")
    assert "of-the-pod" in kube._headers("x")["authorization"]


def test_a_list_is_all_its_pages_without_managed_fields(server: Server, kube: Kube) -> None:
    def pages(method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if "continue" not in query:
            items = [named("a", managedFields=[{"manager": "x"}])]
            return 200, {"items": items, "metadata": {"continue": "two", "resourceVersion": "7"}}
        return 200, {"items": [named("b")], "metadata": {"resourceVersion": "7"}}

    server.answer = pages
    listed = kube.list(names.PODS, labels="app=x")
    assert listed == Listed(items=(named("a"), named("b")), resource_version="7")
    assert [asked[2] for asked in server.asked] == [
        {"labelSelector": "app=x", "limit": "500"},
        {"labelSelector": "app=x", "limit": "500", "continue": "two"},
    ]


def test_pages_that_took_too_long_are_asked_for_again_at_once(server: Server, kube: Kube) -> None:
    def expired(method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if "continue" in query:
            return status(410, "Expired")
        more = {"continue": "two"} if "limit" in query else {}
        return 200, {"items": [named("a")], "metadata": {"resourceVersion": "7", **more}}

    server.answer = expired
    assert kube.list(names.PODS).items == (named("a"),)


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (400, "BadRequest", errors.Invalid),
        (401, "Unauthorized", errors.Refused),
        (403, "Forbidden", errors.Refused),
        (404, "NotFound", errors.NotFound),
        (409, "Conflict", errors.Conflict),
        (409, "AlreadyExists", errors.AlreadyExists),
        (410, "Expired", errors.Gone),
        (422, "Invalid", errors.Invalid),
        (500, "InternalError", errors.ServerFailed),
        (504, "Timeout", errors.ServerFailed),
    ],
)
def test_each_refusal_has_its_type_and_the_server_s_words(
    server: Server, kube: Kube, code: int, reason: str, error: type[errors.KubeError]
) -> None:
    server.answer = lambda *_: status(code, reason, "spec.x: bad", causes=[{"field": "spec.x"}])
    with pytest.raises(error, match=r"spec\.x: bad") as caught:
        kube.get(names.PODS, "a", "ml")
    assert (caught.value.status, caught.value.reason) == (code, reason)
    assert caught.value.details["causes"] == [{"field": "spec.x"}]
    assert len(server.asked) == 1  # nothing is tried again


def test_a_field_that_apply_does_not_know_is_the_caller_s_fault(server: Server, kube: Kube) -> None:
    message = "failed to create typed patch object (a/b; /v1, Kind=X): .y: field not declared"
    server.answer = lambda *_: status(500, "", message)
    with pytest.raises(errors.Invalid, match=r"\.y: field not declared"):
        kube.apply(names.JOBS, named("b", namespace="a"))


def test_what_is_no_json_is_an_error_and_not_a_crash(server: Server, kube: Kube) -> None:
    server.answer = lambda *_: (503, b"<html>upstream</html>")
    with pytest.raises(errors.ServerFailed, match="503"):
        kube.get(names.PODS, "a", "ml")
    server.answer = lambda *_: (200, b"<html>fine</html>")
    with pytest.raises(errors.ServerFailed, match="something else than JSON"):
        kube.get(names.PODS, "a", "ml")


def test_a_429_is_waited_out_as_long_as_it_asks_and_only_so_often(
    server: Server, kube: Kube
) -> None:
    waited: list[float] = []
    kube._sleep = waited.append
    server.extra = {"Retry-After": "2"}
    server.answer = lambda *_: (
        status(429, "TooManyRequests") if len(server.asked) < 3 else (200, named("a"))
    )
    assert kube.create(names.PODS, named("a", namespace="ml")) == named("a")
    assert waited == [2.0, 2.0]
    server.answer = lambda *_: status(429, "TooManyRequests")
    with pytest.raises(errors.TooMany) as caught:
        kube.get(names.PODS, "a", "ml")
    assert caught.value.retry_after_seconds == 2.0
    assert len(server.asked) == 3 + client.PATIENCE


def test_a_server_that_is_not_there_or_silent_is_unreachable(server: Server, kube: Kube) -> None:
    silent = threading.Event()
    server.answer = lambda *_: (200, {"answered": silent.wait(10)})
    kube._read_seconds = 0.1
    with pytest.raises(errors.Unreachable, match="does not answer"):
        kube.get(names.PODS, "a", "ml")
    silent.set()
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(errors.Unreachable, match="does not answer"):
        kube.get(names.NODES, "a")


def test_writes_ask_for_strict_validation_in_our_name(server: Server, kube: Kube) -> None:
    mine = {"fieldManager": "flopwise", "fieldValidation": "Strict"}
    job = named("train", namespace="ml")
    kube.create(names.JOBS, job)
    kube.apply(names.JOBS, job)
    kube.apply(names.GPU_JOBS, job, subresource="status", dry_run=True)
    kube.patch(names.JOBS, "train", {"spec": {"suspend": False}}, "ml")
    kube.patch(names.JOBS, "train", [{"op": "remove", "path": "/spec/x"}], "ml")
    kube.patch_status(names.JOBS, "train", {"startTime": None}, "ml")
    kube.replace(names.JOBS, job)
    kube.delete(names.JOBS, "train", "ml", uid="u1")
    jobs = "/apis/batch/v1/namespaces/ml/jobs"
    ours = "/apis/flopwise.dev/v1alpha1/namespaces/ml/gpujobs/train/status"
    status_query = {"fieldManager": "flopwise-status", "force": "true", "dryRun": "All"}
    assert [asked[:3] for asked in server.asked] == [
        ("POST", jobs, mine),
        ("PATCH", f"{jobs}/train", {**mine, "force": "true"}),
        ("PATCH", ours, {**mine, **status_query}),
        ("PATCH", f"{jobs}/train", mine),
        ("PATCH", f"{jobs}/train", mine),
        ("PATCH", f"{jobs}/train/status", mine),
        ("PUT", f"{jobs}/train", mine),
        ("DELETE", f"{jobs}/train", {}),
    ]
    assert [headers["Content-Type"] for headers in server.headers[1:5]] == [
        "application/apply-patch+yaml",
        "application/apply-patch+yaml",
        "application/merge-patch+json",
        "application/json-patch+json",
    ]
    assert server.asked[5][3] == {"status": {"startTime": None}}
    assert server.asked[7][3]["preconditions"] == {"uid": "u1"}
    assert server.asked[7][3]["propagationPolicy"] == "Background"


def test_deleting_what_is_gone_is_no_error(server: Server, kube: Kube) -> None:
    server.answer = lambda *_: status(404, "NotFound")
    kube.delete(names.JOBS, "train", "ml")


def test_a_watch_gives_changes_as_they_come_and_can_be_stopped_from_outside(
    server: Server, kube: Kube
) -> None:
    text = json.dumps({"type": "MODIFIED", "object": named("a", "9")}).encode() + b"\n"
    server.answer = lambda *_: (
        200,
        [{"type": "ADDED", "object": named("a", "8")}, text[:20], text[20:]],
    )
    seen = []
    with kube.watch(names.PODS, "7", labels="x=y") as changes:
        for change in changes:
            seen.append((change.type, change.resource_version))
            if len(seen) == 2:  # the server holds the line; another thread ends it
                threading.Timer(0.05, changes.stop).start()
    assert seen == [("ADDED", "8"), ("MODIFIED", "9")]
    query = server.asked[0][2]
    assert query.pop("timeoutSeconds").isdecimal()
    assert query == {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": "7",
        "labelSelector": "x=y",
    }


def test_a_watch_from_a_version_too_old_is_gone_before_or_within(
    server: Server, kube: Kube
) -> None:
    said = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
    server.answer = lambda *_: (200, [{"type": "ERROR", "object": said}])
    with pytest.raises(errors.Gone, match="too old"), kube.watch(names.PODS, "7") as changes:
        list(changes)
    server.answer = lambda *_: (410, said)
    with pytest.raises(errors.Gone), kube.watch(names.PODS, "7") as changes:
        list(changes)


def test_the_server_s_clock_is_read_from_its_answer(server: Server, kube: Kube) -> None:
    assert abs(kube.server_time() - datetime.now(UTC)) < timedelta(minutes=1)


def test_what_may_be_done_is_asked_of_the_server(server: Server, kube: Kube) -> None:
    server.answer = lambda *_: (201, {"status": {"allowed": True}})
    assert kube.allowed("patch", names.JOBS, "ml", "status")
    assert server.asked[0][3]["spec"]["resourceAttributes"] == {
        "verb": "patch",
        "group": "batch",
        "resource": "jobs",
        "subresource": "status",
        "namespace": "ml",
    }


def test_a_kind_is_served_where_its_group_lists_it(server: Server, kube: Kube) -> None:
    server.answer = lambda *_: (200, {"resources": [{"name": "rayjobs"}]})
    assert kube.serves(names.RAY_JOBS)
    assert not kube.serves(names.RAY_SERVICES)
    server.answer = lambda *_: status(404, "NotFound")
    assert not kube.serves(names.JOB_SETS)


def test_logs_come_in_pieces_and_a_service_is_reached_by_the_api_server(
    server: Server, kube: Kube
) -> None:
    server.answer = lambda *_: (200, b"step 1\nstep 2\n")
    assert "".join(kube.log("p", "ml", container="main", tail_lines=2)) == "step 1\nstep 2\n"
    assert server.asked[0][1:3] == (
        "/api/v1/namespaces/ml/pods/p/log",
        {"container": "main", "tailLines": "2"},
    )
    assert kube.proxied("ml", "head-svc", "dashboard", "/api/jobs/a", {"X-A": "b"}) == (
        b"step 1\nstep 2\n"
    )
    assert server.asked[1][1] == (
        "/api/v1/namespaces/ml/services/head-svc%3Adashboard/proxy/api/jobs/a"
    )
    assert server.headers[1]["X-A"] == "b"
