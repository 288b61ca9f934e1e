"""What lies between two samples of a GPU: a gap or not, and what energy it took. One rule for all.

A gap is an interval of more than three minutes that is also longer than three of the GPU's usual
intervals, the median of those that end on the same day (UTC); or one of more than an hour. A source
that tells every five minutes has no gaps between them, and one that tells each second has none
while it starts anew. What is further back than a week is no gap: the GPU was away, and nothing is
told of that.

A counter of energy that fell has restarted and counts from zero. A difference that no GPU can draw
is none: a clock was set back and told a time twice, or the counter is of something else. Then the
power before and after tells the energy, where it is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

LONGEST_GAP = timedelta(minutes=3)  # what most sources' intervals are well below
USUAL_INTERVALS = 3
LONGEST_INTERVAL = timedelta(hours=1)  # however seldom a source tells
LOOK_BACK = timedelta(days=7)
MOST_WATTS = 5000.0  # above what any GPU draws
_MICROSECOND = timedelta(microseconds=1)


def longest(usual: timedelta) -> timedelta:
    """The longest interval that is no gap, of a GPU with that usual interval on that day."""
    return min(max(LONGEST_GAP, USUAL_INTERVALS * usual), LONGEST_INTERVAL)


def usual(lengths: Iterable[timedelta]) -> timedelta:
    """The median of a day's intervals, of two in the middle the shorter."""
    ordered = sorted(lengths)
    return ordered[(len(ordered) - 1) // 2] if ordered else timedelta()


def day_of(time: datetime) -> date:
    """The day (UTC) that an instant ends an interval of: midnight is yesterday's last."""
    return (time.astimezone(UTC) - _MICROSECOND).date()


def is_away(before: datetime, after: datetime) -> bool:
    """Whether so long lies between two samples that it is no interval."""
    return day_of(after) - day_of(before) > LOOK_BACK


def joules(
    counted: tuple[float | None, float | None],
    watts: tuple[float | None, float | None],
    seconds: float,
) -> float | None:
    """The energy between two samples, by its counter at both, else by the power at both.

    >>> joules((500.0, 900.0), (None, None), 60)
    400.0
    >>> joules((900.0, 50.0), (None, None), 60)
    50.0
    """
    began, ended = counted
    if began is not None and ended is not None:
        risen = ended - began if ended >= began else ended
        if risen <= MOST_WATTS * seconds:
            return risen
    if watts[0] is not None and watts[1] is not None:
        return (watts[0] + watts[1]) / 2 * seconds
    return None
