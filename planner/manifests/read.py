"""Files, folders and standard input to checked manifests, or to all that is wrong with them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError

from planner.collector import paused
from planner.manifests import wording
from planner.manifests.errors import Fault, ManifestErrors, found
from planner.manifests.hourly import TraceError, hourly_rates
from planner.manifests.references import Entry, Key, Origin, circles, missing, too_deep, twice
from planner.manifests.schema import API_VERSION, KINDS, GpuJob, GpuPool, GpuQueue, Manifest, Part
from planner.manifests.text import MOST_BYTES, Unreadable, documents, oversized

LONGEST_NAME = 253
MOST_DOCUMENTS = 200_000  # of one file
MOST_FAULTS = 1000  # of one file
SUFFIXES = (".yaml", ".yml", ".json", ".jsonl")
STDIN = "-"
SET_BY_CLUSTER = (
    *("creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers"),
    *("generateName", "generation", "managedFields", "ownerReferences"),
    *("resourceVersion", "selfLink", "uid"),
)
_STATED: dict[frozenset[str], set[str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """What was read, in the order of the files and their documents."""

    pools: tuple[GpuPool, ...] = ()
    queues: tuple[GpuQueue, ...] = ()
    jobs: tuple[GpuJob, ...] = ()
    entries: Mapping[Key, Entry]

    def origin(self, manifest: Manifest) -> Origin:
        """Where ``manifest`` was read."""
        return self.entries[key_of(manifest)].origin


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """One text to read."""

    name: str
    suffix: str
    data: bytes
    folder: Path  # paths in its manifests are relative to it


@paused()
def read(
    paths: Sequence[str | Path], stdin: TextIO | None = None, *, references: bool = True
) -> Manifests:
    """Read manifests: YAML, JSON, JSON Lines; files, folders (all below, sorted), ``-`` for stdin.

    ``references``: also refuse queues, pools and jobs that are named but not among what is read,
    and pools without a count of nodes. Switch it off where the rest lives elsewhere.

    Raises:
        ManifestErrors: something is wrong; it names all that is.
    """
    findings = [each for source in _sources(paths, stdin) for each in _capped(_findings(source))]
    entries = [each for each in findings if isinstance(each, Entry)]
    faults = [each for each in findings if isinstance(each, Fault)]
    whole = all(fault.path for fault in faults)  # else what is missing may stand in the broken part
    faults += (
        *twice(entries),
        *circles(entries),
        *too_deep(entries),
        *(missing(entries) if references and whole else ()),
    )
    if faults:
        raise ManifestErrors(faults)
    return _manifests(entries)


def of_object(raw: Mapping[str, object]) -> Manifest | tuple[Fault, ...]:
    """An object as a cluster holds it, checked as a document of a file is; or all its faults."""
    kind, namespace, name = _key(raw)
    place = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
    if faults := tuple(_header(raw, place)):
        return faults
    if too_much := oversized(raw):
        return (Fault(place=place, message=too_much),)
    try:
        manifest = KINDS[kind].model_validate(_as_written(raw), by_alias=True, by_name=False)
    except ValidationError as error:
        return tuple(wording.faults(KINDS[kind], error, place))
    work = manifest.spec.inference if isinstance(manifest, GpuJob) else None
    if work is not None and work.request_trace:
        path = "spec.inference.requestTrace"
        message = f"found {found(work.request_trace)}, allowed: none (it is for files only)"
        return (Fault(place=place, path=path, message=message),)
    _slim(manifest)
    return manifest


def key_of(manifest: Manifest) -> Key:
    """What tells manifests apart: kind, namespace (empty for cluster-scoped ones), name."""
    namespace = manifest.metadata.namespace if isinstance(manifest, GpuJob) else ""
    return manifest.kind, namespace, manifest.metadata.name


def _manifests(entries: Sequence[Entry]) -> Manifests:
    read_in = [entry.manifest for entry in entries]
    return Manifests(
        pools=tuple(m for m in read_in if isinstance(m, GpuPool)),
        queues=tuple(m for m in read_in if isinstance(m, GpuQueue)),
        jobs=tuple(m for m in read_in if isinstance(m, GpuJob)),
        entries={entry.key: entry for entry in entries},
    )


def _sources(paths: Iterable[str | Path], stdin: TextIO | None) -> Iterator[_Source | Fault]:
    for file in dict.fromkeys(file for path in paths for file in _files(path)):
        if isinstance(file, Fault):
            yield file
            continue
        try:
            yield _stdin(stdin or sys.stdin) if str(file) == STDIN else _file(file)
        except OSError as error:
            yield Fault(place=str(file), message=error.strerror or "cannot be read")


def _files(path: str | Path) -> Iterator[Path | Fault]:
    folder = Path(path)
    if not folder.is_dir():
        yield folder
        return
    inside = sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    if not inside:
        yield Fault(place=str(path), message=f"no manifest in it, allowed: {', '.join(SUFFIXES)}")
    yield from inside


def _file(path: Path) -> _Source:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    return _Source(name=str(path), suffix=path.suffix, data=data, folder=path.parent)


def _stdin(stdin: TextIO) -> _Source:
    buffer = getattr(stdin, "buffer", None)
    data = buffer.read(MOST_BYTES + 1) if buffer else stdin.read(MOST_BYTES + 1).encode()
    return _Source(name="standard input", suffix="", data=data, folder=Path())


def _findings(source: _Source | Fault) -> Iterator[Entry | Fault]:
    """The documents of a source, each as an entry, and all that is wrong with them."""
    if isinstance(source, Fault):
        yield source
        return
    if len(source.data) > MOST_BYTES:
        yield Fault(place=source.name, message=f"larger than {MOST_BYTES >> 20} MiB")
        return
    anything = False
    for number, raw in _ours(documents(source.data, source.suffix)):
        anything = True
        if number > MOST_DOCUMENTS:
            yield Fault(place=source.name, message=f"more than {MOST_DOCUMENTS} documents")
            return
        if isinstance(raw, Unreadable):
            yield _unreadable(source, raw)
        else:
            yield from _document(raw, Origin(source.name, number), source.folder)
    if not anything:
        yield Fault(place=source.name, message="empty: no manifest in it")


def _ours(raws: Iterable[object]) -> Iterator[tuple[int, object]]:
    """The documents with their numbers, one more than allowed at most.

    Of a text without any manifest, one: the first, or the one too many.
    """
    some = enumerate(islice(_flat(raws), MOST_DOCUMENTS + 1), start=1)
    numbered = ((number, raw) for number, raw in some if raw is not None)
    before = []
    for each in numbered:
        before.append(each)
        if isinstance(each[1], dict):
            yield from before
            yield from numbered
            return
    yield from before[-1:] if before and before[-1][0] > MOST_DOCUMENTS else before[:1]


def _capped(findings: Iterable[Entry | Fault]) -> Iterator[Entry | Fault]:
    """The findings of one source; of very many faults, how many more there are."""
    faults = 0
    last = None
    for finding in findings:
        faults += isinstance(finding, Fault)
        if isinstance(finding, Entry) or faults <= MOST_FAULTS:
            yield finding
        last = finding if isinstance(finding, Fault) else last
    if last and faults > MOST_FAULTS:
        yield replace(last, message=f"and {faults - MOST_FAULTS} more errors up to here", path="")


def _flat(raws: Iterable[object]) -> Iterator[object]:
    """Lists of manifests taken apart: those of JSON, and Kubernetes' ``kind: List``."""
    for raw in raws:
        items = raw.get("items") if isinstance(raw, dict) and raw.get("kind") == "List" else raw
        if isinstance(items, list):
            yield from items
        else:
            yield raw


def _unreadable(source: _Source, raw: Unreadable) -> Fault:
    at = f"line {raw.line}, column {raw.column}" if raw.line else ""
    return Fault(place=": ".join(filter(None, (source.name, at))), message=raw.message)


def _document(raw: object, origin: Origin, folder: Path) -> Iterator[Entry | Fault]:
    if not isinstance(raw, dict):
        what = "text" if isinstance(raw, str) else found(raw)
        allowed = "a mapping of apiVersion, kind, metadata, spec"
        yield Fault(place=str(origin), message=f"found {what}, allowed: {allowed}")
        return
    if too_much := oversized(raw):
        yield Fault(place=str(origin), message=too_much)
        return
    key = _key(raw)
    place = f"{origin} ({' '.join(filter(None, (key[0], key[2])))})" if any(key) else str(origin)
    faults = list(_header(raw, place))
    manifest = None
    if not faults:
        manifest, faults = _validated(raw, place, folder)
    yield from faults
    if key[0] and key[2]:
        yield Entry(key=key_of(manifest) if manifest else key, origin=origin, manifest=manifest)


def _key(raw: Mapping[str, object]) -> Key:
    """The key as far as a document has one; what it lacks is empty."""
    kind, metadata = raw.get("kind"), raw.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    namespace = metadata.get("namespace", "default") if isinstance(metadata, dict) else None
    return (
        kind if isinstance(kind, str) and kind in KINDS else "",
        namespace if isinstance(namespace, str) and kind == "GpuJob" else "",
        name if isinstance(name, str) and len(name) <= LONGEST_NAME else "",
    )


def _header(raw: Mapping[str, object], place: str) -> Iterator[Fault]:
    """What keeps a document from being one of ours."""
    for field, allowed in (("apiVersion", (API_VERSION,)), ("kind", tuple(KINDS))):
        value = raw.get(field)
        if value not in allowed:
            message = f"found {found(value)}, allowed: {', '.join(allowed)}"
            yield Fault(place=place, path=field, message=message)


def _validated(
    raw: Mapping[str, object], place: str, folder: Path
) -> tuple[Manifest | None, list[Fault]]:
    model = KINDS[str(raw["kind"])]
    try:
        manifest = model.model_validate(_as_written(raw), by_alias=True, by_name=False)
    except ValidationError as error:
        return None, wording.faults(model, error, place)
    try:
        manifest = _with_trace(manifest, folder)
    except TraceError as error:
        return None, [Fault(place=place, path="spec.inference.requestTrace", message=str(error))]
    _slim(manifest)
    return manifest, []


def _slim(part: Part) -> None:
    """One set of stated names for all parts that state the same: a third of a job's memory."""
    stated = part.model_fields_set
    shared = _STATED.setdefault(frozenset(stated), stated)
    object.__setattr__(part, "__pydantic_fields_set__", shared)
    for name in stated:
        if isinstance(inner := getattr(part, name), Part):
            _slim(inner)


def _as_written(raw: Mapping[str, object]) -> dict[str, object]:
    """A document without what only a cluster adds to it."""
    written = {field: value for field, value in raw.items() if field != "status"}
    metadata = written.get("metadata")
    if isinstance(metadata, dict) and not metadata.keys().isdisjoint(SET_BY_CLUSTER):
        written["metadata"] = {k: v for k, v in metadata.items() if k not in SET_BY_CLUSTER}
    return written


def _with_trace(manifest: Manifest, folder: Path) -> Manifest:
    if not isinstance(manifest, GpuJob) or not manifest.spec.inference:
        return manifest
    inference = manifest.spec.inference
    if not inference.request_trace:
        return manifest
    path = folder / inference.request_trace
    try:
        rates = hourly_rates(path)
    except TraceError as error:
        raise TraceError(f"found {found(str(path))}: {error}") from error
    spec = manifest.spec.model_copy(update={"inference": inference.with_trace(rates)})
    return manifest.model_copy(update={"spec": spec})
