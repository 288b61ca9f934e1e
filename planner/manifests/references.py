"""What manifests say of each other: names taken twice, names that do not exist, circles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cost_models.names import nearest
from planner.manifests.errors import Fault, found
from planner.manifests.schema import GpuJob, GpuPool, GpuQueue, Manifest

MOST_LEVELS = 100  # of a tree of queues: deeper ones are a mistake, and every decision walks them
MOST_HINTS = 20  # looking for what was meant is slow among thousands of names

Key = tuple[str, str, str]  # kind, namespace (empty: cluster-scoped), name


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a manifest was read."""

    file: str
    document: int  # from 1; each object of a list counts

    def __str__(self) -> str:
        return f"{self.file}: document {self.document}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A document whose name could be read; without a manifest where it is in error."""

    key: Key
    origin: Origin
    manifest: Manifest | None

    @property
    def place(self) -> str:
        return f"{self.origin} ({self.key[0]} {self.key[2]})"

    def fault(self, path: str, message: str) -> Fault:
        return Fault(place=self.place, path=path, message=message)


def twice(entries: Iterable[Entry]) -> Iterator[Fault]:
    """Names that an earlier document has."""
    first: dict[Key, Origin] = {}
    for entry in entries:
        before = first.setdefault(entry.key, entry.origin)
        if before is not entry.origin:
            message = f"found {found(entry.key[2])}, which is taken by {before}"
            yield entry.fault("metadata.name", message)


def circles(entries: Sequence[Entry]) -> Iterator[Fault]:
    """Queues above themselves, and jobs that wait for themselves."""
    above: dict[Key, list[Key]] = {}
    before: dict[Key, list[Key]] = {}
    for entry in entries:
        kind, namespace, _ = entry.key
        if isinstance(entry.manifest, GpuQueue):
            above[entry.key] = [(kind, namespace, entry.manifest.spec.parent)]
        elif isinstance(entry.manifest, GpuJob):
            before[entry.key] = [(kind, namespace, job) for job in entry.manifest.spec.depends_on]
    at = {entry.key: entry for entry in reversed(entries)}
    for path, edges in (("spec.parent", above), ("spec.dependsOn", before)):
        for circle in cycles(edges):
            names = " -> ".join(_shortened([key[2] for key in (*circle, circle[0])]))
            yield at[circle[0]].fault(path, f"found the circle {names}, allowed: none")


def too_deep(entries: Sequence[Entry]) -> Iterator[Fault]:
    """The queue at which each branch of a tree of queues has more levels than it may."""
    parents = {
        entry.key[2]: entry.manifest.spec.parent
        for entry in entries
        if isinstance(entry.manifest, GpuQueue)
    }
    for entry in entries:
        name, levels = entry.key[2], 0
        if not isinstance(entry.manifest, GpuQueue):
            continue
        while name and levels <= MOST_LEVELS + 1:  # as far, too, as a circle is walked
            name, levels = parents.get(name, ""), levels + 1
        if levels == MOST_LEVELS + 1:
            message = f"found a queue {levels} levels deep, allowed: {MOST_LEVELS} at most"
            yield entry.fault("spec.parent", message)


def _shortened(names: list[str]) -> list[str]:
    return names if len(names) <= 20 else [*names[:10], f"{len(names) - 20} more", *names[-10:]]


def cycles(edges: Mapping[Key, Sequence[Key]]) -> Iterator[list[Key]]:
    """A circle for each edge that closes one, in the order of a depth-first walk.

    Walked without recursion: a chain of dependencies may be as long as the file.
    """
    done: set[Key] = set()
    for root in edges:
        trail: dict[Key, Iterator[Key]] = {} if root in done else {root: iter(edges[root])}
        while trail:
            here = next(reversed(trail))
            onward = next(trail[here], None)
            if onward is None:
                done.add(here)
                del trail[here]
            elif onward in trail:
                walked = list(trail)
                yield walked[walked.index(onward) :]
            elif onward in edges and onward not in done:
                trail[onward] = iter(edges[onward])


def missing(entries: Sequence[Entry]) -> Iterator[Fault]:
    """Queues, pools and jobs that are named and do not exist, and what only a cluster can count."""
    known: dict[tuple[str, str], dict[str, None]] = {}
    for kind, namespace, name in (entry.key for entry in entries):
        known.setdefault((kind, namespace), {})[name] = None
    hints: dict[Key, str] = {}
    for entry in entries:
        if isinstance(entry.manifest, GpuPool) and entry.manifest.spec.nodes is None:
            yield entry.fault("spec.nodes", "found nothing, and it is required in files")
        for path, kind, namespace, name in _references(entry):
            names = known.get((kind, namespace), {})
            if name in names:
                continue
            key = (kind, namespace, name)
            if key not in hints:
                hints[key] = _hint(name, names) if len(hints) < MOST_HINTS else ""
            yield entry.fault(path, f"found {found(name)}, which is no {kind}{hints[key]}")


def _references(entry: Entry) -> Iterator[tuple[str, str, str, str]]:
    """(field path, kind, namespace, name) of what a manifest refers to."""
    if isinstance(entry.manifest, GpuQueue) and entry.manifest.spec.parent:
        yield "spec.parent", "GpuQueue", "", entry.manifest.spec.parent
    if isinstance(entry.manifest, GpuJob):
        spec, namespace = entry.manifest.spec, entry.key[1]
        if spec.queue:
            yield "spec.queue", "GpuQueue", "", spec.queue
        for index, pool in enumerate(spec.placement.pools):
            yield f"spec.placement.pools[{index}]", "GpuPool", "", pool
        for index, job in enumerate(spec.depends_on):
            yield f"spec.dependsOn[{index}]", "GpuJob", namespace, job


def _hint(name: str, names: Iterable[str]) -> str:
    near = nearest(name, names)
    return f", nearest: {', '.join(near)}" if near else ""
