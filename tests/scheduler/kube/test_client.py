"""The client, against a small HTTP server that answers as an API server would."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from scheduler.kube import client, errors, names
from scheduler.kube.api import Listed
from scheduler.kube.client import Kube
from tests.scheduler.kube.serving import Server


def named(name: str, version: str = "1", **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": version, **more}}


def status(code: int, reason: str, message: str = "no", **details: Any) -> tuple[int, Any]:
    said = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return code, {**said, "details": details}


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


# -- a server that means ill, or is none -----------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"null",
        b"[1, 2]",
        b'"a"',
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        b"{}",
        b'{"metadata": 3}',
        b'{"metadata": {"name": ""}}',
    ],
)
def test_an_answer_that_is_no_object_is_an_error(server: Server, kube: Kube, said: bytes) -> None:
    server.answer = lambda *_: (200, said)
    with pytest.raises(errors.ServerFailed, match="something else than"):
        kube.get(names.PODS, "a", "ml")
    with pytest.raises(errors.ServerFailed, match="something else than"):
        kube.create(names.PODS, named("a", namespace="ml"))


@pytest.mark.parametrize(
    "said",
    [
        {"items": 3},
        {"items": {"a": 1}},
        {"items": ["a"]},
        {"items": [{}]},
        {"items": [{"metadata": {"namespace": "ml"}}]},
        {"items": [], "metadata": "7"},
        [],
    ],
)
def test_an_answer_that_is_no_list_is_an_error(server: Server, kube: Kube, said: object) -> None:
    server.answer = lambda *_: (200, json.dumps(said).encode())
    with pytest.raises(errors.ServerFailed, match="no list of pods"):
        kube.list(names.PODS)


def test_a_list_of_nothing_is_one(server: Server, kube: Kube) -> None:
    server.answer = lambda *_: (200, {"items": None, "metadata": {"resourceVersion": "7"}})
    assert kube.list(names.PODS) == Listed(items=(), resource_version="7")


def test_a_list_without_end_ends(
    server: Server, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = lambda *_: (200, {"items": [], "metadata": {"continue": "same"}})
    with pytest.raises(errors.ServerFailed, match="no list of pods"):
        kube.list(names.PODS)
    assert len(server.asked) == 2  # the token that it gave for itself leads nowhere
    numbers = count()
    server.answer = lambda *_: (200, {"metadata": {"continue": str(next(numbers))}})
    monkeypatch.setattr(client, "PAGES", 5)
    with pytest.raises(errors.ServerFailed, match="no list of pods"):
        kube.list(names.PODS)
    assert len(server.asked) == 2 + 5


def test_pages_are_bounded_together(
    server: Server, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 300 characters of a name a page: the fourth page is past 1,000 bytes.
    numbers = count()
    server.answer = lambda *_: (
        200,
        {"items": [named("x" * 300)], "metadata": {"continue": str(next(numbers))}},
    )
    monkeypatch.setattr(client, "ANSWER_BYTES", 1000)
    with pytest.raises(errors.ServerFailed, match="more than"):
        kube.list(names.PODS)
    assert len(server.asked) == 3


def test_what_is_too_long_or_takes_too_long_is_not_read_to_its_end(
    server: Server, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = lambda *_: (200, {"metadata": {"name": "a", "note": "x" * 1000}})
    monkeypatch.setattr(client, "ANSWER_BYTES", 1000)
    with pytest.raises(errors.ServerFailed, match="more than 1,000 bytes"):
        kube.get(names.PODS, "a", "ml")
    server.answer = lambda *_: (500, b"x" * 1001)
    monkeypatch.setattr(client, "REFUSAL_BYTES", 1000)
    with pytest.raises(errors.ServerFailed, match="more than 1,000 bytes"):
        kube.get(names.PODS, "a", "ml")
    server.answer = lambda *_: (200, b"x" * 1001)
    monkeypatch.setattr(client, "PROXIED_BYTES", 1000)
    with pytest.raises(errors.ServerFailed, match="more than 1,000 bytes"):
        kube.proxied("ml", "head-svc", "dashboard", "/api/jobs/a", {})
    server.answer = lambda *_: (200, named("a"))
    monkeypatch.setattr(client, "ANSWER_SECONDS", -1.0)  # they are over
    with pytest.raises(errors.Unreachable, match="not answered in full"):
        kube.get(names.PODS, "a", "ml")


def test_an_answer_that_is_cut_is_none(server: Server, kube: Kube) -> None:
    server.extra = {"Content-Length": "100", "Connection": "close"}
    server.answer = lambda *_: (200, b'{"metadata": {"name": "a"}}')
    with pytest.raises(errors.Unreachable, match="does not answer"):
        kube.get(names.PODS, "a", "ml")


def test_it_goes_to_no_address_that_an_answer_names(server: Server, kube: Kube) -> None:
    server.extra = {"Location": f"{server.url}/elsewhere"}
    server.answer = lambda *_: (307, {})
    with pytest.raises(errors.KubeError, match="HTTP 307"):
        kube.get(names.PODS, "a", "ml")
    assert len(server.asked) == 1


def test_a_refusal_is_one_line_that_somebody_can_read(server: Server, kube: Kube) -> None:
    server.answer = lambda *_: status(400, "BadRequest", "one\ntwo\r\n" + "x" * 100_000)
    with pytest.raises(errors.Invalid, match=r"^one two x+…$") as caught:
        kube.get(names.PODS, "a", "ml")
    assert len(str(caught.value)) == errors.MESSAGE_CHARACTERS + 1
    server.answer = lambda *_: (429, {"message": ["?"], "details": "?", "reason": 3})
    with pytest.raises(errors.TooMany):
        kube.get(names.PODS, "a", "ml")


@pytest.mark.parametrize(
    "line",
    [
        {"type": "ADDED"},
        {"type": "ADDED", "object": "a"},
        {"type": "ADDED", "object": {}},
        {"type": "ADDED", "object": {"metadata": {"name": "a"}}},
        {"type": "ADDED", "object": {"metadata": {"resourceVersion": "8"}}},
        {"type": "BOOKMARK", "object": {"metadata": {}}},
        {"object": 3, "type": "ERROR"},
    ],
)
def test_a_watch_that_tells_of_nothing_is_an_error(
    server: Server, kube: Kube, line: object
) -> None:
    server.answer = lambda *_: (200, [line])
    with (
        pytest.raises(errors.ServerFailed, match="no object"),
        kube.watch(names.PODS, "7") as changes,
    ):
        list(changes)


def test_a_watch_that_is_cut_or_speaks_no_json_is_begun_anew(server: Server, kube: Kube) -> None:
    server.hold.set()
    server.answer = lambda *_: (200, [b'{"type": "ADDED", "obj\n'])
    with (
        pytest.raises(errors.Unreachable, match="cut in mid-line"),
        kube.watch(names.PODS, "7") as changes,
    ):
        list(changes)


def test_a_watch_whose_line_has_no_end_ends(
    server: Server, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LINE_BYTES", 1000)
    server.answer = lambda *_: (200, [b"x" * 600, b"x" * 600])
    with (
        pytest.raises(errors.ServerFailed, match="no end of an object"),
        kube.watch(names.PODS, "7") as changes,
    ):
        list(changes)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../secrets/x", "a%2fb"])
def test_a_name_that_would_be_another_address_is_not_asked_for(
    server: Server, kube: Kube, name: str
) -> None:
    with pytest.raises(errors.Invalid, match="allowed: a name"):
        kube.delete(names.JOBS, name, "ml")
    with pytest.raises(errors.Invalid, match="allowed: a name"):
        list(kube.log(name, "ml"))
    if name:
        with pytest.raises(errors.Invalid, match="allowed: a name"):
            kube.list(names.JOBS, name)
    assert server.asked == []


@pytest.mark.parametrize("path", ["/api//jobs", "/api/../secrets", "/api/%2e%2e/x"])
def test_a_service_is_not_asked_for_a_path_that_leads_out_of_it(
    server: Server, kube: Kube, path: str
) -> None:
    with pytest.raises(errors.Invalid, match="allowed: a name"):
        kube.proxied("ml", "head-svc", "dashboard", path, {})
    assert server.asked == []


def test_a_letter_that_comes_in_two_pieces_is_one(server: Server, kube: Kube) -> None:
    server.hold.set()
    server.answer = lambda *_: (200, ["ä".encode()[:1], "ä".encode()[1:], b"\xff"])
    assert "".join(kube.log("p", "ml")) == "ä\ufffd"


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 Foo 2026 25:00:00 GMT"])
def test_a_server_that_does_not_say_the_time_is_an_error(
    server: Server, kube: Kube, monkeypatch: pytest.MonkeyPatch, date: str
) -> None:
    monkeypatch.setattr("http.server.BaseHTTPRequestHandler.date_time_string", lambda *_: date)
    with pytest.raises(errors.ServerFailed, match="what time it is"):
        kube.server_time()


def test_what_is_asked_of_a_server_that_means_ill_is_no(server: Server, kube: Kube) -> None:
    for said in ({}, {"status": 3}, {"status": {"allowed": "yes"}}):
        server.answer = lambda *_, said=said: (201, said)
        assert not kube.allowed("patch", names.JOBS, "ml")
    for kinds in (3, "pods", ["pods"], [{"kind": "Pod"}]):
        server.answer = lambda *_, kinds=kinds: (200, {"resources": kinds})
        assert not kube.serves(names.PODS)
