"""The report's tables: what each shows, and how one is written as HTML.

Money is shown in cents that add up: a column is rounded together with its total (largest
remainder), so that the cents under a column are the cents above it.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cost_models.ledger import (
    FLOPS_PER_PFLOP,
    Key,
    Ledger,
    Line,
    LineKind,
    Totals,
    apportion,
    total,
)
from cost_models.report import words
from cost_models.report.look import Part, part_of
from cost_models.report.values import Assumption, GpuWork, LeftOut, Measured, Outcome

ROW_LIMIT = 1000  # rows of a table; what is beyond stands in one row
MICROS_PER_CENT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: what is read, and what it is sorted by."""

    text: str
    order: float | str
    colour: str = ""  # a swatch before the text


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under headings; ``totals`` stays below however the rows are sorted."""

    caption: str
    heads: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]
    totals: tuple[Cell, ...] = ()
    name: str = ""


def word(text: str, colour: str = "") -> Cell:
    """A cell of text."""
    return Cell(text=text, order=text.lower(), colour=colour)


def figure(value: float, text: str) -> Cell:
    """A cell of a number, written as ``text``."""
    return Cell(text=text, order=value)


def cents(amounts_micros: Sequence[int]) -> tuple[int, ...]:
    """Micro-dollars in whole cents that sum to their rounded total."""
    return apportion(round(sum(amounts_micros) / MICROS_PER_CENT), amounts_micros)


def _money(value_cents: int) -> Cell:
    return figure(value_cents, words.number(value_cents / 100, 2))


def break_down(key: Key, ledger: Ledger, colours: Mapping[Part, str]) -> Table:
    """Totals by ``key``, with their sum."""
    group_of = words.group_of(key)
    groups = _limited(ledger.by(group_of))
    swatches = {}
    if key in (Key.TEAM, Key.JOB):
        swatches = {group_of(line): colours[part_of(line)] for line in ledger.lines}
    usd = cents([t.usd_micros for t in groups.values()])
    full = cents([t.full_usd_micros for t in groups.values()])
    whole = ledger.total
    heads = ("Money (USD)", "Share", "Full cost (USD)", "GPU-hours", "USD per PFLOP")
    return Table(
        name=f"by-{key.value}",
        caption=f"Cost by {key.value}",
        heads=(key.value.capitalize(), *heads),
        numeric=(False, *(True for _ in heads)),
        rows=tuple(
            (word(name, swatches.get(name, "")), *_sums(sums, money, all_in, whole))
            for (name, sums), money, all_in in zip(groups.items(), usd, full, strict=True)
        ),
        totals=(word("Total"), *_sums(whole, sum(usd), sum(full), whole)),
    )


def _sums(sums: Totals, usd: int, full: int, whole: Totals) -> tuple[Cell, ...]:
    share = sums.usd / whole.usd if whole.usd else 0.0
    rate = sums.usd_per_pflop
    return (
        _money(usd),
        figure(share, words.percent(share, 1)),
        _money(full),
        figure(sums.gpu_hours, words.number(sums.gpu_hours, 1)),
        figure(rate or 0.0, words.usd_per_pflop(sums).lstrip("$")),
    )


def _limited(groups: dict[str, Totals]) -> dict[str, Totals]:
    if len(groups) <= ROW_LIMIT:
        return groups
    names = list(groups)
    rest = [groups[name] for name in names[ROW_LIMIT - 1 :]]
    kept = {name: groups[name] for name in names[: ROW_LIMIT - 1]}
    return kept | {f"{len(rest):,} others": _added(rest)}


def _added(parts: Sequence[Totals]) -> Totals:
    return Totals(
        usd_micros=sum(t.usd_micros for t in parts),
        full_usd_micros=sum(t.full_usd_micros for t in parts),
        gpu_hours=sum(t.gpu_hours for t in parts),
        work_gpu_hours=sum(t.work_gpu_hours for t in parts),
        joules=sum(t.joules for t in parts),
        grams_co2=sum(t.grams_co2 for t in parts),
        useful_flops=sum(t.useful_flops for t in parts),
    )


def idle(ledger: Ledger) -> Table:
    """GPU-hours paid for by pool: at work, idle, starting; and what the last two cost."""
    pools = sorted(ledger.by(Key.POOL))
    by_pool = {p: [line for line in ledger.lines if line.pool == p] for p in pools}
    unused = {p: [x for x in by_pool[p] if x.unused] for p in pools}
    sums = {p: total(unused[p]) for p in pools}
    usd = cents([sums[p].usd_micros for p in pools])
    full = cents([sums[p].full_usd_micros for p in pools])
    rows = [
        (word(pool), *_hours(by_pool[pool]), _money(money), _money(all_in))
        for pool, money, all_in in zip(pools, usd, full, strict=True)
    ]
    return Table(
        name="idle",
        caption="GPU-hours that are paid for, and what those that do not work cost",
        heads=(
            "Pool",
            "At work",
            "Idle",
            "Start-up",
            "At work, share",
            "Unused, money (USD)",
            "Unused, full cost (USD)",
        ),
        numeric=(False, True, True, True, True, True, True),
        rows=tuple(rows),
        totals=(word("Total"), *_hours(list(ledger.lines)), _money(sum(usd)), _money(sum(full))),
    )


def _hours(lines: Sequence[Line]) -> tuple[Cell, ...]:
    kinds = (LineKind.WORK, LineKind.IDLE, LineKind.STARTUP)
    hours = [total(line for line in lines if line.kind is kind).gpu_hours for kind in kinds]
    busy = hours[0] / sum(hours) if sum(hours) else 0.0
    cells = tuple(figure(value, words.number(value, 1)) for value in hours)
    return (*cells, figure(busy, words.percent(busy, 1)))


def compared(plan: Outcome, baseline: Outcome) -> Table:
    """Money by pool under both policies."""
    ours, theirs = plan.ledger.by(Key.POOL), baseline.ledger.by(Key.POOL)
    pools = sorted({*ours, *theirs})
    left = cents([ours[p].usd_micros if p in ours else 0 for p in pools])
    right = cents([theirs[p].usd_micros if p in theirs else 0 for p in pools])
    rows = [
        (word(p), _money(a), _money(b), _money(b - a))
        for p, a, b in zip(pools, left, right, strict=True)
    ]
    sums = (sum(left), sum(right))
    return Table(
        name="compared",
        caption="Money by pool, and what first-come-first-served would have spent",
        heads=("Pool", "This plan (USD)", "First come (USD)", "Saved (USD)"),
        numeric=(False, True, True, True),
        rows=tuple(rows),
        totals=(word("Total"), _money(sums[0]), _money(sums[1]), _money(sums[1] - sums[0])),
    )


def policies(plan: Outcome, baseline: Outcome) -> Table:
    """The two policies by every part of the objective."""
    a, b = plan.ledger.total, baseline.ledger.total
    pairs = (
        ("Jobs that run", plan.jobs, baseline.jobs, words.number),
        ("Money", a.usd, b.usd, words.usd),
        ("Moving", plan.moving_usd, baseline.moving_usd, words.usd),
        ("Lateness", plan.lateness_usd, baseline.lateness_usd, words.usd),
        ("Not running", plan.not_running_usd, baseline.not_running_usd, words.usd),
        ("Objective, the sum of the four", plan.objective_usd, baseline.objective_usd, words.usd),
    )
    rows = [
        (word(what), figure(ours, show(ours)), figure(theirs, show(theirs)))
        for what, ours, theirs, show in pairs
    ]
    rate = [figure(t.usd_per_pflop or 0.0, words.usd_per_pflop(t)) for t in (a, b)]
    rows.append((word("Money per useful PFLOP"), rate[0], rate[1]))
    return Table(
        name="policies",
        caption="Both policies, part by part",
        heads=("", "This plan", "First come"),
        numeric=(False, True, True),
        rows=tuple(rows),
    )


def left_out(jobs: Sequence[LeftOut]) -> Table:
    """Jobs that do not run, and why."""
    rows = [
        (
            word(job.job),
            word(job.team or "–"),
            word(job.reason),
            word(job.message),
            figure(job.not_running_usd, words.number(job.not_running_usd, 2)),
        )
        for job in jobs
    ]
    return Table(
        name="left-out",
        caption="Jobs left out, with what stands in their way",
        heads=("Job", "Team", "Reason", "Why", "Not running (USD)"),
        numeric=(False, False, False, False, True),
        rows=tuple(rows),
    )


def energy(ledger: Ledger) -> Table:
    """Energy and carbon of the work, by pool."""
    groups = words.work_by(ledger, Key.POOL)
    rows = [(word(pool), *_energy(sums)) for pool, sums in groups.items()]
    return Table(
        name="energy",
        caption="Energy at the meter and CO₂, by pool",
        heads=("Pool", "Energy (kWh)", "CO₂ (kg)", "kWh per GPU-hour", "kg CO₂ per EFLOP"),
        numeric=(False, True, True, True, True),
        rows=tuple(rows),
        totals=(word("Total"), *_energy(_added(list(groups.values())))),
    )


def _energy(sums: Totals) -> tuple[Cell, ...]:
    kwh, kg = sums.joules / words.JOULES_PER_KWH, sums.grams_co2 / 1000
    each = kwh / sums.gpu_hours if sums.gpu_hours else 0.0
    unknown = bool(sums.joules) and not sums.grams_co2  # no grid runs without any
    rate = kg / (sums.useful_flops / 1e18) if sums.useful_flops and not unknown else None
    return (
        figure(kwh, words.number(kwh, 1)),
        figure(kg, "not stated" if unknown else words.number(kg, 1)),
        figure(each, words.number(each, 2)),
        figure(rate or 0.0, "–" if rate is None else words.significant(rate)),
    )


def measured(runs: Sequence[Measured]) -> Table:
    """Planned and measured hours of each run."""
    return Table(
        name="measured",
        caption="Measured and planned hours, in the plan's time",
        heads=("Job", "Pool", "Ended as", "Planned (h)", "Measured (h)", "Measured / planned"),
        numeric=(False, False, False, True, True, True),
        rows=tuple(_measured(run) for run in sorted(runs, key=lambda r: (r.planned_start, r.job))),
    )


def _measured(run: Measured) -> tuple[Cell, ...]:
    planned = (run.planned_end - run.planned_start).total_seconds() / 3600
    took = (run.end - run.start).total_seconds() / 3600
    ratio = took / planned if planned else 0.0
    return (
        word(run.job),
        word(run.pool),
        word(run.status),
        figure(planned, words.number(planned, 2)),
        figure(took, words.number(took, 2)),
        figure(ratio, words.number(ratio, 2) if planned else "–"),
    )


def gpu_work(rows: Sequence[GpuWork]) -> Table:
    """What the driver measured of each job, beside what was planned."""
    heads = ("GPU-hours planned", "GPU-hours watched", "Active", "Utilisation", "kWh planned")
    return Table(
        name="gpu-work",
        caption="Planned, and measured by the driver",
        heads=("Job", *heads, "kWh measured", "PFLOP useful, planned", "PFLOP at most, measured"),
        numeric=(False, *(True for _ in range(8))),
        rows=tuple(_gpu_work(row) for row in sorted(rows, key=lambda r: (not r.job, r.job))),
    )


def _gpu_work(row: GpuWork) -> tuple[Cell, ...]:
    hours = row.gpu_hours
    return (
        word(row.job or "not known whose"),
        figure(row.planned_gpu_hours, words.number(row.planned_gpu_hours, 2)),
        figure(hours, words.number(hours, 3)),
        _ratio(row.active_gpu_hours, hours),
        _ratio(row.utilised_gpu_hours, hours),
        _amount(row.planned_joules or None, words.JOULES_PER_KWH, 2),
        _amount(row.joules, words.JOULES_PER_KWH, 3),
        _amount(row.planned_flops or None, FLOPS_PER_PFLOP, 0),
        _amount(row.flops, FLOPS_PER_PFLOP, 0),
    )


def _ratio(part: float | None, whole: float) -> Cell:
    if part is None or not whole:
        return figure(0.0, "–")
    return figure(part / whole, f"{part / whole:.0%}")


def _amount(value: float | None, unit: float, digits: int) -> Cell:
    if value is None:
        return figure(0.0, "–")
    return figure(value / unit, words.number(value / unit, digits))


def assumptions(rows: Sequence[Assumption]) -> Table:
    """What the numbers rest on."""
    return Table(
        name="assumptions",
        caption="Prices and other assumptions",
        heads=("What", "Value", "Source"),
        numeric=(False, False, False),
        rows=tuple((word(a.what), word(a.value), word(a.source or "–")) for a in rows),
    )


def markup(table: Table) -> str:
    """The table as HTML: sortable heads, the first cell of a row as its head."""
    heads = "".join(
        f'<th scope="col"{_class(numeric)}><button type="button">{escape(head)}</button></th>'
        if head
        else "<td></td>"
        for head, numeric in zip(table.heads, table.numeric, strict=True)
    )
    body = "".join(f"<tr>{_row(row, table.numeric)}</tr>" for row in table.rows)
    foot = f"<tfoot><tr>{_row(table.totals, table.numeric)}</tr></tfoot>" if table.totals else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.caption)}">'
        f'<table id="table-{table.name}"><caption>{escape(table.caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>{foot}</table></div>"
    )


def _row(cells: Sequence[Cell], numeric: Sequence[bool]) -> str:
    return "".join(
        _cell(cell, right, head=not i)
        for i, (cell, right) in enumerate(zip(cells, numeric, strict=True))
    )


def _cell(cell: Cell, right: bool, *, head: bool) -> str:
    order = f' data-order="{cell.order!r}"' if right else ""
    swatch = f'<i style="background:{cell.colour}"></i>' if cell.colour else ""
    tag = 'th scope="row"' if head else "td"
    return f"<{tag}{_class(right)}{order}>{swatch}{escape(cell.text)}</{tag[:2]}>"


def _class(right: bool) -> str:
    return ' class="n"' if right else ""


def escape(text: str) -> str:
    """``text`` for HTML, in content and in attributes."""
    return html.escape(text)
