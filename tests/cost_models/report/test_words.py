"""Numbers and findings as the report writes them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cost_models.ledger import Key, Ledger, LineKind
from cost_models.report import LeftOut, Outcome, Report, words

DAY = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "$0.00"),
        (12.345, "$12.35"),
        (999.99, "$999.99"),
        (999.996, "$1,000"),
        (-41234.4, "−$41,234"),
    ],
)
def test_dollars_have_cents_until_they_are_many(value: float, text: str) -> None:
    assert words.usd(value) == text


def test_a_value_that_rounds_to_nothing_has_no_sign() -> None:
    assert words.number(-0.001, 2) == "0.00"
    assert words.usd(-0.001) == "$0.00"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00171234, "0.00171"),
        (26_481_234, "26,500,000"),
        (9.996, "10.00"),
        (0, "0"),
        (3e-12, "3e-12"),
    ],
)
def test_small_rates_keep_their_significant_digits(value: float, text: str) -> None:
    assert words.significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.612, "61\u00a0%"), (0.0123, "1.2\u00a0%"), (0, "0\u00a0%"), (1, "100\u00a0%")],
)
def test_shares_are_percentages(value: float, text: str) -> None:
    assert words.percent(value) == text


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (6, "1\u00a0December 2026"),
        (24, "1\u00a0December 2026"),  # the end is not in it
        (168, "1 – 7\u00a0December 2026"),
        (24 * 33, "1\u00a0December 2026 – 2\u00a0January 2027"),
    ],
)
def test_a_period_names_its_days_as_shortly_as_it_can(hours: int, text: str) -> None:
    assert words.period(DAY, DAY + timedelta(hours=hours)) == text


def test_energy_and_carbon_change_unit_at_a_thousand() -> None:
    # 3.6e6 J is 1 kWh
    assert words.energy(3.6e6 * 999) == "999\u00a0kWh"
    assert words.energy(3.6e6 * 16_280) == "16.3\u00a0MWh"
    assert words.carbon(5_440_000) == "5.44\u00a0t"


def test_the_title_of_a_break_down_states_who_used_most(sample: Report) -> None:
    assert words.share_title(Key.TEAM, sample.plan.ledger) == "Product used 48\u00a0% of the spend"


def test_an_empty_ledger_has_titles_without_findings(sample: Report) -> None:
    empty = Ledger(start=DAY, end=DAY, lines=())
    assert words.share_title(Key.TEAM, empty) == "Cost by team"
    assert words.jobs_title(empty) == "Cost by job"
    assert words.idle_title(empty) == "No GPU that is paid for stands idle"


def test_the_sentence_says_jobs_money_saving_and_proof(sample: Report) -> None:
    text = words.meaning(sample).replace("\u00a0", " ")
    assert text == (
        "This plan runs 40 of 41 jobs of 1 – 7 December 2026 for $44,765, 40 % less money and"
        " lateness than first-come-first-served, and it is proven that no plan can be more than"
        " 0.65 % better."
    )


def test_a_proved_plan_says_so(sample: Report) -> None:
    assert sample.proof is not None
    proved = replace(sample, baseline=None, proof=replace(sample.proof, gap_fraction=0.0))
    assert words.meaning(proved).endswith("it is proven that no plan can do it for less.")


def punctual(outcome: Outcome) -> Outcome:
    return replace(outcome, lateness_usd=0.0, moving_usd=0.0)


def test_the_same_jobs_are_compared_by_money(sample: Report) -> None:
    assert sample.baseline is not None
    one, other = punctual(sample.plan), punctual(sample.baseline)
    saved, fraction = words.saving(one, other)
    ours, theirs = one.ledger.total.usd, other.ledger.total.usd
    assert saved == pytest.approx(theirs - ours)
    assert fraction == pytest.approx(1 - ours / theirs)


def test_whoever_runs_less_is_compared_per_useful_flop(sample: Report) -> None:
    # Half the lines at half the money and half the FLOPs save nothing.
    ours = punctual(sample.plan)
    half = tuple(
        replace(x, usd_micros=x.usd_micros // 2, useful_flops=x.useful_flops / 2)
        for x in ours.ledger.lines
    )
    missed = LeftOut(job="x", team="", reason="capacity", message="", not_running_usd=1.0)
    theirs = Outcome(ledger=replace(ours.ledger, lines=half), jobs=20, left_out=(missed,))
    saved, fraction = words.saving(ours, theirs)
    assert saved == pytest.approx(0, abs=0.01)
    assert fraction == pytest.approx(0, abs=1e-6)
    assert "per useful FLOP" in words.against(ours, theirs)


def test_lateness_counts_in_what_is_saved(sample: Report) -> None:
    # The baseline is late for $707, the plan for $7: $700 more is saved than by money alone.
    assert sample.baseline is not None
    ours, theirs = punctual(sample.plan), punctual(sample.baseline)
    money, _ = words.saving(ours, theirs)
    ours, theirs = replace(ours, lateness_usd=7.0), replace(theirs, lateness_usd=707.0)
    saved, fraction = words.saving(ours, theirs)
    assert saved == pytest.approx(money + 700.0)
    assert fraction == pytest.approx(saved / (sample.baseline.ledger.total.usd + 707.0))
    assert "less money and lateness than" in words.against(ours, theirs)


def test_a_jobs_data_count_as_its_own_and_not_as_idle_gpus(sample: Report) -> None:
    ledger = sample.plan.ledger
    line = next(x for x in ledger.lines if x.team == "nlp")
    brought = replace(
        line,
        kind=LineKind.EGRESS,
        end=line.start,
        gpus=0.0,
        gpu_hours=0.0,
        useful_flops=0.0,
        usd_micros=7_000_000,
        full_usd_micros=7_000_000,
        joules=0.0,
        grams_co2=0.0,
        nodes=(),
    )
    more = replace(ledger, lines=(*ledger.lines, brought))
    before, after = (words.work_by(x, Key.TEAM)["nlp"] for x in (ledger, more))
    assert after.usd_micros - before.usd_micros == 7_000_000
    assert after.gpu_hours == before.gpu_hours
    assert words.idle_title(more) == words.idle_title(ledger)
    assert words.group_of(Key.JOB)(brought) == line.job
