"""What is watched: nothing missed over cut watches and forgotten versions, and the newest only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scheduler.kube import names
from scheduler.kube.api import Change, Listed
from scheduler.kube.errors import Gone
from scheduler.kube.informer import Inbox, Informer, Wanted, slim_node, slim_pod
from tests.scheduler.kube.objects import node, pod


def thing(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ml", "resourceVersion": str(version)}}


class Script:
    """An API server that answers by a script: lists, and watches that end as they say."""

    namespace = "default"

    def __init__(self, lists: list[Listed], watches: list[list[Change | Exception]]) -> None:
        self.lists, self.watches = iter(lists), iter(watches)
        self.asked: list[str] = []
        self.over = threading.Event()

    def list(self, resource: Any, namespace: str = "", **selectors: str) -> Listed:
        return next(self.lists)

    @contextmanager
    def watch(
        self, resource: Any, version: str, namespace: str = "", **selectors: str
    ) -> Iterator[Any]:
        self.asked.append(version)
        script = next(self.watches, None)
        if script is None:
            self.over.set()
        yield _Watch(script)


class _Watch:
    def __init__(self, script: Any) -> None:
        self.script, self.stopped = script, threading.Event()

    def __iter__(self) -> Iterator[Change]:
        if self.script is None:
            self.stopped.wait(10)
            return
        for each in self.script:
            if isinstance(each, Exception):
                raise each
            yield each

    def stop(self) -> None:
        self.stopped.set()


def test_a_watch_goes_on_where_it_ended_and_is_listed_anew_where_that_is_forgotten() -> None:
    api = Script(
        [
            Listed(items=(thing("a", 1), thing("b", 2)), resource_version="10"),
            Listed(items=(thing("c", 30),), resource_version="30"),
        ],
        [
            [Change(type="MODIFIED", object=thing("a", 11))],
            [Change(type="BOOKMARK", object=thing("", 20)), Gone("too old")],
        ],
    )
    inbox = Inbox()
    wanted = Wanted(resource=names.JOBS)
    informer = Informer(api, wanted, inbox)  # type: ignore[arg-type]  # the part that is used
    informer.start()
    assert api.over.wait(10)
    informer.stop()
    assert api.asked == ["10", "11", "30"]
    taken = inbox.take(0.0)
    assert {key: raw and raw["metadata"]["resourceVersion"] for key, raw in taken.items()} == {
        ("jobs", "ml/a"): None,  # gone by the second list
        ("jobs", "ml/b"): None,
        ("jobs", "ml/c"): "30",
    }


def test_an_inbox_keeps_the_newest_of_each_and_waits_no_longer_than_it_is_told() -> None:
    inbox = Inbox()
    inbox.put("a", 1)
    inbox.put("b", 2)
    inbox.put("a", 3)
    assert inbox.take(5.0) == {"a": 3, "b": 2}
    assert inbox.take(0.0) == {}


def test_a_heartbeat_of_a_node_is_no_change() -> None:
    first, second = node("n"), node("n")
    second["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-12-01T00:00:00Z"
    second["status"]["images"] = [{"names": ["large"]}]
    assert slim_node(first) == slim_node(second)
    assert slim_node(first) != slim_node(node("n", unschedulable=True))


def test_of_a_pod_what_it_asks_for_is_kept() -> None:
    kept = slim_pod(pod("p", "n0", gpus=3))
    assert kept["spec"]["nodeName"] == "n0"
    assert kept["spec"]["containers"][0]["resources"]["requests"]["nvidia.com/gpu"] == "3"
    assert kept["status"] == {"phase": "Running"}
