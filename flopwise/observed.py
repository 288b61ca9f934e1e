"""``flopwise operator report``: what an operator that only observes has seen, and would have saved.

It stands in the ``status.observed`` of each GpuQueue, so that it needs no more than to read those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from flopwise.columns import counted, dated, dollars, table

Raw = Mapping[str, Any]
_SUMS = ("jobs", "gpus", "usdPerHour", "usd", "ended")
_HEADING = (
    *("QUEUE", "JOBS", "WOULD RUN", "GPUS", "WOULD HOLD", "USD AN HOUR", "WOULD BE"),
    *("USD SO FAR", "WOULD COST", "ENDED IN BOTH", "SAVED ON THESE", "HOURS SOONER"),
)


def rows(queues: Iterable[Raw]) -> list[dict[str, Any]]:
    """One of each queue that is observed, by name, with all that is known of it."""
    found = []
    for raw in sorted(queues, key=lambda each: str(each["metadata"]["name"])):
        seen = (raw.get("status") or {}).get("observed")
        if not seen:
            continue
        row = {"queue": raw["metadata"]["name"], "since": seen["since"], "until": seen["until"]}
        for name in _SUMS:
            row[name] = seen["runs"].get(name, 0)
            row[f"would{name[:1].upper()}{name[1:]}"] = seen["would"].get(name, 0)
        for name in ("compared", "savedUsd", "soonerHours"):
            row[name] = seen.get(name, 0)
        found.append(row)
    return found


def as_text(found: Sequence[Mapping[str, Any]]) -> str:
    """The table, its sum, and what it says in a sentence."""
    lines = [_HEADING, *map(_line, found)]
    if len(found) > 1:
        lines.append(_line(_total(found)))
    total = _total(found)
    since = dated(min(datetime.fromisoformat(row["since"]) for row in found))
    says = f"Since {since} (UTC), {counted(total['compared'], 'job')} began and ended well"
    if not total["compared"]:
        return f"{table(lines)}\n{says} in both worlds: nothing can be said of what is saved yet.\n"
    saved, sooner = total["savedUsd"], total["soonerHours"] / total["compared"]
    cost = f"{dollars(abs(saved))} {'less' if saved >= 0 else 'more'}"
    when = f"{abs(sooner):.1f} h {'sooner' if sooner >= 0 else 'later'}"
    return (
        f"{table(lines)}\n{says}: planned, they would have cost {cost}, and started {when} "
        "in the mean.\n"
    )


def _total(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    summed = {
        name: sum(row[name] for row in found)
        for name, value in found[0].items()
        if isinstance(value, int | float)
    }
    return {"queue": "all", **summed}


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["queue"],
        f"{row['jobs']:,}",
        f"{row['wouldJobs']:,}",
        f"{row['gpus']:,g}",
        f"{row['wouldGpus']:,g}",
        dollars(row["usdPerHour"]),
        dollars(row["wouldUsdPerHour"]),
        dollars(row["usd"]),
        dollars(row["wouldUsd"]),
        f"{row['compared']:,}",
        dollars(row["savedUsd"]),
        f"{row['soonerHours']:,.1f}",
    )
