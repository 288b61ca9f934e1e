"""What ``flopwise telemetry`` keeps for months: import, compact, and usage out of a history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flopwise.errors import BAD_INPUT, Fail
from telemetry import samples, store
from telemetry.usage import Usage

NEEDS = "the history needs what is missing here ({name}): pip install 'flopwise[telemetry]'"


def import_files(files: Sequence[Path], url: str) -> str:
    """Bring files of samples into a history; what to say of it."""
    with _explained():
        from telemetry.history import hourly, importing, raw
        from telemetry.history.place import place

        history, rows = place(url), 0
        with history.alone():
            for file in files:
                for table in importing.tables(file):
                    raw.add(history, table)
                    rows += len(table)
            days = hourly.roll_up(history)
    return f"{url}: {rows:,} rows read, {_days(len(days))} summed up"


def compact_store(
    ring: Path | None,
    url: str,
    *,
    keep_raw: timedelta | None,
    keep_hourly: timedelta | None,
    keep_bytes: int | None,
) -> str:
    """Bring a store into a history, sum up, and let go of what is old; what to say of it."""
    with _explained():
        from telemetry.history.compact import Kept, compact
        from telemetry.history.place import place

        kept = Kept(raw=keep_raw, hourly=keep_hourly, raw_bytes=keep_bytes)
        done = compact(place(url), ring, datetime.now(UTC), kept)
    dropped = "".join(f", {folder} dropped" for folder in done.dropped)
    return f"{url}: {done.rows:,} rows read, {_days(len(done.rolled_up))} summed up{dropped}"


def usage_of(
    url: str, by: Sequence[str], since: datetime | None, until: datetime | None
) -> tuple[Usage, ...]:
    """Usage of a history; times are full hours."""
    with _explained():
        from telemetry.history import hourly
        from telemetry.history.place import place

        return hourly.usage(place(url), by=by, since=since, until=until)


def moment(text: str | None) -> datetime | None:
    """A day or an hour of UTC, or an ISO time with its zone. Raises ValueError."""
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _days(number: int) -> str:
    return f"{number} day" if number == 1 else f"{number} days"


@contextmanager
def _explained() -> Iterator[None]:
    """Errors of a history as lines for the user; the libraries load only in here."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise Fail(NEEDS.format(name=error.name)) from None
    except (samples.SamplesError, store.StoreError) as error:
        raise Fail(str(error), BAD_INPUT) from None
    except ValueError as error:  # HistoryError is one, whose class needs the libraries
        if type(error).__name__ != "HistoryError":
            raise
        raise Fail(str(error), BAD_INPUT) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Fail(f"{where}{error.strerror or error}") from None
