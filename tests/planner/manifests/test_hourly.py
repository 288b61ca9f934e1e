"""Recorded requests as the rate of each hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.manifests.hourly import TraceError, hourly_rates


def rates(tmp_path: Path, text: str) -> tuple[float, ...]:
    path = tmp_path / "trace.csv"
    path.write_bytes(text.encode())
    return hourly_rates(path)


def test_hours_count_from_the_first_request_whatever_the_order(tmp_path: Path) -> None:
    # First at 100 s. Hour 0 ends at 3700 s: 100 and 3699 are in it, 3700 is in hour 1.
    assert rates(tmp_path, "3700\n100\n3699\n") == (2 / 3600, 1 / 3600)


def test_times_may_be_iso_with_any_digits_and_zones(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens\n"
        "2023-11-16 18:15:46.6805900,374\n"
        "2023-11-16T20:15:47+01:00,396\n"  # 19:15:47 UTC: an hour and 0.32 s later
    )
    assert rates(tmp_path, text) == (1 / 3600, 1 / 3600)


def test_blank_rows_are_no_requests(tmp_path: Path) -> None:
    assert rates(tmp_path, "t\n\n1\n\n2\n") == (2 / 3600,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no request in it"),
        ("time,tokens\n", "no request in it"),
        ("0\n1\nsoon\n", 'row 3: found "soon", allowed: an ISO time or seconds'),
        ("0\nnan\n", 'row 2: found "nan", allowed: an ISO time or seconds'),
        ("0\n1e12\n", "it spans 277777778 hours, allowed: 87840"),  # milliseconds, by mistake
    ],
)
def test_a_trace_is_refused_for(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError) as raised:
        rates(tmp_path, text)
    assert str(raised.value) == message


def test_a_trace_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"1\n\xff\xfe\n")
    with pytest.raises(TraceError, match="not UTF-8 text"):
        hourly_rates(path)


def test_a_trace_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        hourly_rates(tmp_path / "lost.csv")


def test_a_path_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no path of a file"):
        hourly_rates(tmp_path / "a\0b")
