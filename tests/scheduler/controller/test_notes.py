"""Events: what is said again counts up what is there."""

from __future__ import annotations

from functools import partial
from typing import Any

from scheduler.controller.notes import Note, Notes, name_of
from scheduler.kube import names
from scheduler.kube.bucket import Bucket
from scheduler.kube.errors import AlreadyExists
from tests.cluster.api import eventually

FULL = Note(
    resource=names.GPU_JOBS,
    namespace="ml",
    name="train",
    uid="u1",
    reason="Capacity",
    text="h100 is full",
)


class Events:
    """An API server's Events: the part of `scheduler.kube.api.Api` that is used."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def create(self, resource: Any, manifest: Any, *, dry_run: bool = False) -> Any:
        name = manifest["metadata"]["name"]
        if name in self.kept:
            raise AlreadyExists(name)
        self.kept[name] = manifest
        return manifest

    def patch(self, resource: Any, name: str, patch: Any, namespace: str = "") -> Any:
        self.kept[name] |= patch
        return self.kept[name]


def was_said(teller: Notes, note: Note) -> bool:
    return teller._counts.get(name_of(note), 0) >= 1


def said(api: Events, *notes: Note) -> None:
    """By an operator that has just started."""
    teller = Notes(api, "me", Bucket(1000, 1000))  # type: ignore[arg-type]  # the part of it that is used
    for count, note in enumerate(notes, start=1):
        teller.say(note)
        eventually(partial(was_said, teller, note), f"note {count} is said")
    teller.end()


def test_what_is_said_once_is_an_event_at_its_object() -> None:
    api = Events()
    said(api, FULL)
    (made,) = api.kept.values()
    assert made["regarding"]["kind"] == "GpuJob"
    assert (made["reason"], made["note"], made["type"]) == ("Capacity", "h100 is full", "Normal")
    assert "series" not in made


def test_the_same_said_by_the_next_operator_counts_up() -> None:
    api = Events()
    said(api, FULL)
    said(api, FULL)
    (made,) = api.kept.values()
    assert made["series"]["count"] == 2
