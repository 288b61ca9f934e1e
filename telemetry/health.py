"""What a GPU's errors mean for planning: cordon, watch or fine, with the reason.

Three things speak, the driver's own word first: the recovery action that it asks for, rows of
memory that were replaced or could not be, and the errors (Xids) that it has reported since its
start. What each Xid means stands in ``data/xids.csv``, with its source; one that is not there is
watched. A GPU that nobody watches is not known to be fine.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from importlib import resources

from telemetry.samples import Health, RemappedRows

WATCH_TIME = timedelta(hours=1)  # how long an error that only calls for watching is remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What planning should do with a GPU; of a fine one the reason is empty."""

    health: Health
    reason: str = ""


FINE = Verdict(health=Health.FINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Xid:
    """One kind of error of the driver's."""

    number: int
    name: str
    action: str  # NVIDIA's immediate one: restart_app, reset_gpu, restart_node, ...
    health: Health


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of one GPU at ``now`` (aware)."""

    now: datetime
    xids: Mapping[int, datetime] = field(default_factory=dict)  # since its last reset: when last
    recovery_action: str | None = None
    remapped_rows: RemappedRows | None = None
    ecc_uncorrected: int | None = None
    lost: str | None = None  # why it can't be read
    unavailable: bool = False  # the driver said so, and it has not been reset since
    deaf: str | None = None  # why its errors would not be heard


def judge(evidence: Evidence) -> Verdict:
    """The verdict; of several reasons the gravest, and among equals the first found."""
    found = [*_gravest(evidence), *_lesser(evidence)]
    return max(found, key=lambda verdict: _GRAVITY[verdict.health], default=FINE)


@cache
def xids() -> Mapping[int, Xid]:
    """The table, by number."""
    text = (resources.files("telemetry") / "data" / "xids.csv").read_text(encoding="utf-8")
    return {
        int(row["xid"]): Xid(
            number=int(row["xid"]),
            name=row["name"],
            action=row["action"],
            health=Health(row["health"]),
        )
        for row in csv.DictReader(text.splitlines())
    }


_GRAVITY = {Health.FINE: 0, Health.WATCH: 1, Health.CORDON: 2}


def _gravest(evidence: Evidence) -> Iterator[Verdict]:
    if evidence.lost is not None:
        yield _cordon(f"it can't be read: {evidence.lost}")
    if evidence.recovery_action not in (None, "none"):
        yield _cordon(f"the driver asks for {evidence.recovery_action}")
    if evidence.unavailable:
        yield _cordon("the driver says that it is unavailable")
    if evidence.remapped_rows is not None and evidence.remapped_rows.failed:
        yield _cordon("a bad row of its memory could not be replaced")


def _lesser(evidence: Evidence) -> Iterator[Verdict]:
    for number, last in evidence.xids.items():
        verdict = _of_xid(number)
        if verdict.health is Health.CORDON or evidence.now - last <= WATCH_TIME:
            yield verdict
    if evidence.remapped_rows is not None and evidence.remapped_rows.pending:
        yield _watch("a row of its memory is replaced at the next reset")
    if evidence.ecc_uncorrected:
        yield _watch(f"{evidence.ecc_uncorrected} uncorrectable memory errors")
    if evidence.deaf is not None:
        yield _watch(f"its errors are not heard: {evidence.deaf}")


def _of_xid(number: int) -> Verdict:
    known = xids().get(number)
    if known is None:
        return _watch(f"Xid {number}")
    if known.health is Health.FINE:
        return FINE
    return Verdict(health=known.health, reason=f"Xid {number}: {known.name} ({known.action})")


def _cordon(reason: str) -> Verdict:
    return Verdict(health=Health.CORDON, reason=reason)


def _watch(reason: str) -> Verdict:
    return Verdict(health=Health.WATCH, reason=reason)
