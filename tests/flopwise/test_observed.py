"""What an operator that only observes reports."""

from __future__ import annotations

from typing import Any

from flopwise.observed import as_text, rows


def queue(name: str, observed: dict[str, Any] | None) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"observed": observed}}


def side(**known: float) -> dict[str, float]:
    return {"jobs": 1, "gpus": 8, "usdPerHour": 16.0, "usd": 32.0, "ended": 2} | known


SEEN = {
    "since": "2026-12-01T00:00:00Z",
    "until": "2026-12-01T02:00:00Z",
    "runs": side(),
    "would": side(gpus=4, usdPerHour=8.0, usd=20.0),
    "compared": 2,
    "savedUsd": 12.0,
    "soonerHours": 3.0,
}


def test_a_queue_that_nobody_observes_has_no_row() -> None:
    (row,) = rows([queue("b", None), queue("a", SEEN)])
    assert (row["queue"], row["usd"], row["wouldUsd"], row["savedUsd"]) == ("a", 32.0, 20.0, 12.0)
    assert (row["gpus"], row["wouldGpus"]) == (8, 4)


def test_the_table_shows_both_worlds_their_sum_and_says_what_would_have_been_saved() -> None:
    # Two queues alike: 4 jobs, $24 in all, 6 hours sooner: 1.5 in the mean.
    said = as_text(rows([queue("a", SEEN), queue("b", SEEN)])).splitlines()
    assert said[0].split()[:2] == ["QUEUE", "JOBS"]
    assert [line.split()[0] for line in said[1:4]] == ["a", "b", "all"]
    assert said[3].split() == [
        *("all", "2", "2", "16", "8", "$32.00", "$16.00", "$64.00", "$40.00", "4", "$24.00", "6.0")
    ]
    assert said[-1] == (
        "Since Tue 01 Dec 2026 00:00 (UTC), 4 jobs began and ended well: planned, they would have "
        "cost $24.00 less, and started 1.5 h sooner in the mean."
    )


def test_without_a_job_that_ended_in_both_nothing_is_said_to_be_saved() -> None:
    said = as_text(rows([queue("a", SEEN | {"compared": 0, "savedUsd": 0.0})]))
    assert "nothing can be said of what is saved yet" in said


def test_what_would_cost_more_is_said_as_it_is() -> None:
    said = as_text(rows([queue("a", SEEN | {"savedUsd": -5.0, "soonerHours": -1.0})]))
    assert "would have cost $5.00 more, and started 0.5 h later" in said
