"""Tables as people read them: columns as wide as their widest cell, money, times in UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from planner.manifests.errors import plain

NONE = "-"
NUMBERS = frozenset(  # headings of columns that end alike
    (
        *("GPUS", "BUSY", "JOBS", "MONEY", "MOVING", "DATA", "LATENESS", "NOT RUNNING"),
        *("TOTAL", "LATE", "HOURS"),
        *("COST", "CAPACITY", "PLAN COSTS", "OBJECTIVE", "CHANGE", "BOUND", "GAP"),
        *("WEIGHT", "FAIR", "PLAN", "SLOWEST FAIR", "SLOWEST PLAN"),
        *("WOULD RUN", "WOULD HOLD", "USD AN HOUR", "WOULD BE", "USD SO FAR", "WOULD COST"),
        *("ENDED IN BOTH", "SAVED ON THESE", "HOURS SOONER"),
    )
)

Line = Sequence[str]


def table(lines: Sequence[Line]) -> str:
    """Lines of cells as text; the first line is the heading. What does not print is escaped."""
    columns = (_column([*map(plain, cells)]) for cells in zip(*lines, strict=True))
    return "".join(f"{'  '.join(line).rstrip()}\n" for line in zip(*columns, strict=True))


def without_empty(lines: Sequence[Line]) -> list[Line]:
    """The table without the columns that say nothing."""
    columns = [c for c in zip(*lines, strict=True) if any(cell != NONE for cell in c[1:])]
    return list(zip(*columns, strict=True))


def _column(cells: Line) -> list[str]:
    width = max(map(len, cells))
    return [cell.rjust(width) if cells[0] in NUMBERS else cell.ljust(width) for cell in cells]


def counted(number: int, what: str) -> str:
    """``1 job``, ``1,200 jobs``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def dated(when: datetime) -> str:
    """With the year, in UTC."""
    return when.astimezone(UTC).strftime("%a %d %b %Y %H:%M")


def timed(when: datetime) -> str:
    """Without the year, in UTC."""
    return when.astimezone(UTC).strftime("%a %d %b %H:%M")


def dollars(amount: float) -> str:
    """``$1,234.50``; a sign stands before the dollar."""
    return f"{'-' if amount <= -0.005 else ''}${abs(amount):,.2f}"
