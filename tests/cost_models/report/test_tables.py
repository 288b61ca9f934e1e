"""Tables whose cents add up, and that show what they are given as text."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cost_models.ledger import Key
from cost_models.report import Report, tables
from cost_models.report.look import colours_of
from cost_models.report.tables import Cell, Table


@given(st.lists(st.integers(0, 10**12), max_size=30))
def test_cents_sum_to_the_rounded_total_and_none_is_off_by_one(amounts: list[int]) -> None:
    shown = tables.cents(amounts)
    assert sum(shown) == round(sum(amounts) / 10_000)
    assert all(abs(c * 10_000 - a) < 20_000 for c, a in zip(shown, amounts, strict=True))


def test_three_thirds_of_a_cent_are_one_cent() -> None:
    assert tables.cents([3_334, 3_333, 3_333]) == (1, 0, 0)


def column(table: Table, head: str) -> list[str]:
    place = table.heads.index(head)
    return [row[place].text for row in (*table.rows, table.totals)]


def dollars(text: str) -> int:
    """Shown dollars in cents."""
    return round(float(text.replace(",", "").replace("\N{MINUS SIGN}", "-")) * 100)


def test_every_break_down_adds_up_as_it_is_shown(sample: Report) -> None:
    ledger = sample.plan.ledger
    for key in (Key.TEAM, Key.PROJECT, Key.POOL, Key.JOB):
        table = tables.break_down(key, ledger, colours_of(ledger))
        for head, micros in (
            ("Money (USD)", ledger.total.usd_micros),
            ("Full cost (USD)", ledger.total.full_usd_micros),
        ):
            *parts, whole = map(dollars, column(table, head))
            assert sum(parts) == whole == round(micros / 10_000)


def test_the_comparison_adds_up_across_and_down(sample: Report) -> None:
    assert sample.baseline is not None
    table = tables.compared(sample.plan, sample.baseline)
    for row in (*table.rows, table.totals):
        _, ours, theirs, saved = (cell.text for cell in row)
        assert dollars(theirs) - dollars(ours) == dollars(saved)
    *parts, whole = map(dollars, column(table, "Saved (USD)"))
    assert sum(parts) == whole


def test_a_pool_has_its_hours_by_what_its_gpus_did(sample: Report) -> None:
    # 64 GPUs owned for 168 h are 10,752 GPU-hours, whatever they do.
    row = next(r for r in tables.idle(sample.plan.ledger).rows if r[0].text == "h100-owned")
    hours = [float(str(cell.order)) for cell in row[1:4]]
    assert sum(hours) == 64 * 168
    assert row[4].text == "70.7\u00a0%"  # 7,600 of them


def test_rows_beyond_the_limit_stand_in_one_and_the_total_holds(sample: Report) -> None:
    first = next(line for line in sample.plan.ledger.lines if line.job)
    many = tuple(replace(first, job=f"job-{i:04d}") for i in range(tables.ROW_LIMIT + 500))
    ledger = replace(sample.plan.ledger, lines=many)
    table = tables.break_down(Key.JOB, ledger, colours_of(ledger))
    assert len(table.rows) == tables.ROW_LIMIT
    assert table.rows[-1][0].text == "501 others"
    *parts, whole = map(dollars, column(table, "Money (USD)"))
    assert sum(parts) == whole


def test_a_job_without_a_project_is_not_taken_for_idleness(sample: Report) -> None:
    lines = tuple(replace(line, project="") for line in sample.plan.ledger.lines)
    ledger = replace(sample.plan.ledger, lines=lines)
    table = tables.break_down(Key.PROJECT, ledger, colours_of(ledger))
    assert [row[0].text for row in table.rows] == ["No project", "Idle and start-up"]


def test_carbon_that_no_pool_states_is_not_shown_as_none(sample: Report) -> None:
    lines = tuple(replace(line, grams_co2=0.0) for line in sample.plan.ledger.lines)
    table = tables.energy(replace(sample.plan.ledger, lines=lines))
    assert set(column(table, "CO₂ (kg)")) == {"not stated"}
    assert set(column(table, "kg CO₂ per EFLOP")) == {"–"}
    assert "0.0" not in column(tables.energy(sample.plan.ledger), "CO₂ (kg)")


def test_markup_escapes_text_and_sorts_numbers_by_value() -> None:
    table = Table(
        name="x",
        caption="a < b",
        heads=("Job", "Money (USD)"),
        numeric=(False, True),
        rows=((Cell(text="<script>", order=""), Cell(text="1,000.00", order=100_000)),),
    )
    text = tables.markup(table)
    assert "<caption>a &lt; b</caption>" in text
    assert '<th scope="row">&lt;script&gt;</th>' in text
    assert '<td class="n" data-order="100000">1,000.00</td>' in text
    assert "tfoot" not in text
