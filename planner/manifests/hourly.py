"""A service's recorded requests, as the rate of each hour."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from planner.manifests.errors import found

MOST_HOURS = 10 * 366 * 24


class TraceError(ValueError):
    """A trace that cannot be used; the message says where and why."""


def hourly_rates(path: Path) -> tuple[float, ...]:
    """Mean requests per second in each hour from the first request on.

    ``path`` is a CSV of a row a request; its first column is the time, in ISO 8601 (UTC where it
    does not say) or in seconds; the first row may be a heading.

    Raises:
        TraceError: unreadable, without a request, or longer than ten years.
    """
    if "\0" in str(path):
        raise TraceError("no path of a file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            seconds = sorted(_seconds(csv.reader(file)))
    except OSError as error:
        raise TraceError(error.strerror or "unreadable") from error
    except UnicodeDecodeError as error:
        raise TraceError("not UTF-8 text") from error
    except csv.Error as error:
        raise TraceError(f"not CSV: {error}") from error
    if not seconds:
        raise TraceError("no request in it")
    return _rates(seconds)


def _rates(seconds: list[float]) -> tuple[float, ...]:
    hours = int((seconds[-1] - seconds[0]) // 3600) + 1
    if hours > MOST_HOURS:
        raise TraceError(f"it spans {found(hours)} hours, allowed: {MOST_HOURS}")
    counts = Counter(int((at - seconds[0]) // 3600) for at in seconds)
    return tuple(counts[hour] / 3600 for hour in range(hours))


def _seconds(rows: Iterable[list[str]]) -> Iterator[float]:
    for number, row in enumerate(rows, start=1):
        if not row:
            continue
        at = _instant(row[0])
        if at is not None:
            yield at
        elif number > 1:
            raise TraceError(
                f"row {number}: found {found(row[0])}, allowed: an ISO time or seconds"
            )


def _instant(text: str) -> float | None:
    """Seconds from an epoch, or None for what is no time."""
    try:
        seconds = float(text)
        return seconds if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
