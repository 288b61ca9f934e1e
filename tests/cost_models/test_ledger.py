"""The ledger conserves every micro-dollar."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.ledger import Key, Ledger, Line, LineKind, Totals, apportion, micros, total

START = datetime(2026, 12, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def line(
    *,
    usd: float = 0.0,
    team: str = "",
    kind: LineKind = LineKind.WORK,
    gpu_hours: float = 1.0,
    useful_flops: float = 0.0,
) -> Line:
    return Line(
        start=START,
        end=START + HOUR,
        kind=kind,
        team=team,
        pool="h100",
        accelerator="h100-sxm5-80gb",
        purchase="on_demand",
        gpus=gpu_hours,
        gpu_hours=gpu_hours,
        usd_micros=micros(usd),
        full_usd_micros=micros(usd),
        useful_flops=useful_flops,
    )


def ledger(*lines: Line) -> Ledger:
    return Ledger(start=START, end=START + HOUR, lines=lines)


names = st.sampled_from(("", "a", "b", "c"))
lines = st.builds(
    lambda kind, team, project, job, pool, usd, sunk: replace(
        line(kind=kind, team=team),
        project=project,
        job=job,
        pool=pool,
        usd_micros=usd,
        full_usd_micros=usd + sunk,
    ),
    st.sampled_from(LineKind),
    names,
    names,
    names,
    names,
    st.integers(0, 10**13),
    st.integers(0, 10**13),
)


@given(st.lists(lines, max_size=40), st.sampled_from(Key))
def test_groups_by_any_key_sum_to_the_total_to_the_last_millionth(
    rows: list[Line], key: Key
) -> None:
    whole = ledger(*rows)
    groups = whole.by(key).values()
    assert sum(g.usd_micros for g in groups) == whole.total.usd_micros
    assert sum(g.full_usd_micros for g in groups) == whole.total.full_usd_micros
    assert sum(r.usd_micros for r in rows) == whole.total.usd_micros


@given(st.integers(0, 10**15), st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=50))
def test_apportioned_parts_sum_to_the_whole_and_none_is_off_by_a_unit(
    whole: int, shares: list[float]
) -> None:
    parts = apportion(whole, shares)
    assert sum(parts) == whole
    weight = sum(map(_exact, shares))
    for part, share in zip(parts, shares, strict=True):
        assert abs(part * weight - whole * _exact(share)) < weight


def _exact(share: float) -> int:
    """``share`` as a whole number of 2^-100: exact for what the test draws."""
    above, below = share.as_integer_ratio()
    return above * (2**100 // below)


def test_what_is_left_over_goes_to_the_largest_remainders() -> None:
    # 10 split as 2 : 3 : 3 is 2.5, 3.75, 3.75: rounded down 2, 3, 3; the two left go to the 0.75s.
    assert apportion(10, [2, 3, 3]) == (2, 4, 4)


def test_a_share_of_nothing_carries_nothing() -> None:
    assert apportion(7, [0.0, 1.0, 0.0]) == (0, 7, 0)
    assert apportion(0, [0.0, 0.0]) == (0, 0)
    assert apportion(0, []) == ()


@pytest.mark.parametrize("shares", [[], [0.0], [-1.0, 2.0], [float("nan")], [float("inf")]])
def test_a_whole_that_no_share_can_carry_is_refused(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="share"):
        apportion(1, shares)


def test_groups_come_dearest_first() -> None:
    rows = ledger(line(usd=1, team="a"), line(usd=5, team="b"), line(usd=2, team="a"))
    assert {name: t.usd for name, t in rows.by(Key.TEAM).items()} == {"b": 5.0, "a": 3.0}
    assert list(rows.by(Key.TEAM)) == ["b", "a"]


def test_lines_can_be_grouped_by_what_is_computed_from_them() -> None:
    rows = ledger(line(usd=1, team="a"), line(usd=5, team="b"))
    assert rows.by(lambda x: x.team.upper())["A"].usd == 1.0


def test_totals_tell_work_from_what_stood_idle() -> None:
    # $4 over 2e15 useful FLOPs is $2 per PFLOP; 3 of 4 GPU-hours worked.
    sums = total(
        [
            line(usd=3, gpu_hours=3, useful_flops=2e15),
            line(usd=1, gpu_hours=1, kind=LineKind.IDLE),
        ]
    )
    assert sums == Totals(
        usd_micros=4_000_000,
        full_usd_micros=4_000_000,
        gpu_hours=4.0,
        work_gpu_hours=3.0,
        useful_flops=2e15,
    )
    assert sums.usd_per_pflop == 2.0
    assert sums.utilisation_fraction == 0.75


def test_nothing_costs_nothing_and_has_no_price_per_pflop() -> None:
    assert ledger().total == Totals()
    assert ledger().total.usd_per_pflop is None
    assert ledger().total.utilisation_fraction == 0.0


def test_a_part_of_a_ledger_keeps_the_period() -> None:
    idle = ledger(line(), line(kind=LineKind.IDLE)).only(lambda x: x.kind is LineKind.IDLE)
    assert idle == ledger(line(kind=LineKind.IDLE))


def test_a_line_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        replace(line(), start=datetime(2026, 12, 1))  # noqa: DTZ001  # that is the point


def test_a_line_that_ends_before_it_starts_is_refused_in_any_zone() -> None:
    tokyo = timezone(timedelta(hours=9))
    early = datetime(2026, 12, 1, 8, tzinfo=tokyo)  # 23:00 UTC the day before
    with pytest.raises(ValueError, match="before it starts"):
        replace(line(), end=early)


def test_a_negative_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        replace(line(), gpu_hours=-1.0)
