"""What a Prometheus has kept, as a store of samples with their owners."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from flopwise.errors import BAD_INPUT, Fail

FOR_GOOD = timedelta(days=36_500)
USUAL = timedelta(hours=1)  # how far back, unless it is said


def fetch(
    url: str,
    out: Path,
    *,
    since: datetime | None,
    until: datetime | None,
    step: timedelta,
    token_file: Path | None,
) -> int:
    """Keep a row for each GPU, owner and step in the store ``out``; how many. Raises ``Fail``."""
    from telemetry.scrape import Prometheus, ScrapeError
    from telemetry.store import Ring, StoreError

    end = until or datetime.now(UTC)
    start = since or end - USUAL
    if start > end or step <= timedelta():
        raise Fail(f"found {start} to {end} each {step}, allowed: some time", BAD_INPUT)
    rows = 0
    try:
        token = token_file.read_text(encoding="ascii").strip() if token_file is not None else ""
        source = Prometheus(url=url, token=token)
        with Ring(out, keep=FOR_GOOD, keep_bytes=2**50) as ring:
            for uses in source.between(start, end, step):
                ring.append(uses)
                rows += len(uses)
    except (ScrapeError, StoreError) as error:
        raise Fail(str(error)) from None
    except OSError as error:
        raise Fail(f"{error.filename}: {error.strerror}", BAD_INPUT) from None
    if not rows:
        raise Fail(f"{url}: found no GPU from {start} to {end}, allowed: dcgm-exporter's or ours")
    return rows
