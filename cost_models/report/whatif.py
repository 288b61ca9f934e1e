"""The page of a what-if: what each scenario costs, and between what its least cost lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cost_models.report import tables, words
from cost_models.report.look import ACCENT, GRID, OTHER, Figure, Spec, layout_of, short, text_of
from cost_models.report.page import assembled, headlines, place_of, section, write

ROW_PIXELS = 52
TOP_PIXELS = 24
AXIS_PIXELS = 40
MARGIN = 0.12  # of the span of the figures, on either side
HOW = (
    "Each row is a scenario. The line runs from the proven lower bound to the objective of the plan"
    " that was found: the least cost lies on it. The ring is the first-order answer, which the"
    " shadow prices of the plan as it is give without solving again."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A scenario, or the plan without any; USD."""

    name: str
    money_usd: float
    objective_usd: float
    bound_usd: float
    left_out: int
    first_order_usd: float | None = None  # of the objective, by the prices; None: not known


def write_whatif(title: str, rows: Sequence[Row], path: str | Path) -> None:
    """Write the page of scenarios to ``path``; the first row is the plan without any."""
    write(whatif_page(title, rows), path)


def whatif_page(title: str, rows: Sequence[Row]) -> str:
    """The scenarios as one HTML document that asks nothing of any network."""
    drawn = objectives(rows)
    table = tables.markup(_table(rows))
    return assembled(
        title=title,
        above=words.count(len(rows) - 1, "scenario"),
        meaning=_meaning(rows),
        headline=headlines(_headline(rows)),
        sections=[section("Objective by scenario", HOW, place_of(drawn) + table)],
        drawn=[drawn],
    )


def _change(row: Row, base: Row) -> str:
    usd = row.objective_usd - base.objective_usd
    return f"{'+' if usd >= 0.005 else ''}{words.usd(usd)}"


def _meaning(rows: Sequence[Row]) -> str:
    base, *others = rows
    if not others:
        return f"The plan as it is: {words.usd(base.objective_usd)}."
    best = min(others, key=lambda r: r.objective_usd)
    if best.objective_usd >= base.objective_usd - 0.005:
        return f"No scenario costs less than the plan as it is, {words.usd(base.objective_usd)}."
    saved = words.usd(base.objective_usd - best.objective_usd)
    return f"{best.name} costs the least: {saved} less than the plan as it is."


def _headline(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    base, *others = rows
    least = f"proven least {words.usd(base.bound_usd)}"
    best = sorted(others, key=lambda r: r.objective_usd)[:3]
    return [
        ("As it is", words.usd(base.objective_usd), least),
        *((short(r.name, 32), _change(r, base), words.usd(r.objective_usd)) for r in best),
    ]


def objectives(rows: Sequence[Row]) -> Figure:
    """A line from bound to objective for each scenario, on one axis of dollars."""
    known = [x for r in rows for x in (r.bound_usd, r.objective_usd, r.first_order_usd) if x]
    low, high = min(known, default=0.0), max(known, default=1.0)
    pad = MARGIN * (high - low) or max(1.0, 0.01 * high)
    height = ROW_PIXELS * len(rows) + TOP_PIXELS + AXIS_PIXELS
    layout = layout_of(
        height,
        margin={"l": 0, "r": 0, "t": TOP_PIXELS, "b": AXIS_PIXELS},
        annotations=[_label(i, row, rows[0]) for i, row in enumerate(rows)],
        shapes=[_line_of(rows[0])],
        xaxis={
            "range": [low - pad, high + pad],
            "gridcolor": GRID,
            "zeroline": False,
            "tickprefix": "$",
            "tickformat": ",.6~r" if high - low >= 10 else ",.2f",
            "nticks": 6,
            "fixedrange": True,
        },
        yaxis={"visible": False, "fixedrange": True, "range": [len(rows) - 0.5, -0.7]},
    )
    return Figure(
        name="whatif",
        data=_traces(rows),
        layout=layout,
        height=height,
        text="Objective by scenario: "
        + "; ".join(f"{r.name} {words.usd(r.objective_usd)}" for r in rows),
        legend=(("Plan found", ACCENT), ("Down to the proven bound", OTHER)),
    )


def _traces(rows: Sequence[Row]) -> list[Spec]:
    spans = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [row.bound_usd, row.objective_usd],
            "y": [i, i],
            "line": {"color": OTHER, "width": 3},
            "hoverinfo": "skip",
        }
        for i, row in enumerate(rows)
        if math.isfinite(row.bound_usd)
    ]
    expected = [(i, r) for i, r in enumerate(rows) if r.first_order_usd is not None]
    rings = _points(
        [(i, r.first_order_usd or 0.0, f"{r.name}: first order") for i, r in expected],
        {"color": "rgba(0,0,0,0)", "size": 13, "line": {"color": ACCENT, "width": 2}},
    )
    found = [(i, r.objective_usd, f"{r.name}: plan found") for i, r in enumerate(rows)]
    return [*spans, *([rings] if expected else []), _points(found, {"color": ACCENT, "size": 9})]


def _points(points: Sequence[tuple[int, float, str]], marker: Spec) -> Spec:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [usd for _, usd, _ in points],
        "y": [row for row, _, _ in points],
        "marker": marker,
        "hovertext": [f"{text_of(what)} {words.usd(usd, 2)}" for _, usd, what in points],
        "hoverinfo": "text",
    }


def _label(row: int, at: Row, base: Row) -> Spec:
    change = "" if at is base else f" · {_change(at, base)}"
    return {
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "y": row,
        "yshift": 17,
        "showarrow": False,
        "borderpad": 0,
        "text": f"{text_of(short(at.name, 60))} <b>{words.usd(at.objective_usd)}</b>{change}",
    }


def _line_of(base: Row) -> Spec:
    """What the plan as it is costs, down all rows."""
    return {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": base.objective_usd,
        "x1": base.objective_usd,
        "y0": 0,
        "y1": 1,
        "line": {"color": ACCENT, "width": 1, "dash": "dot"},
    }


def _table(rows: Sequence[Row]) -> tables.Table:
    heads = ("Scenario", "Money", "Objective", "Change", "First order", "Proven least", "Left out")
    return tables.Table(
        name="whatif",
        caption="Scenarios",
        heads=heads,
        numeric=(False, True, True, True, True, True, True),
        rows=tuple(_cells(row, rows[0]) for row in rows),
    )


def _cells(row: Row, base: Row) -> tuple[tables.Cell, ...]:
    change = row.objective_usd - base.objective_usd
    order = row.first_order_usd
    return (
        tables.word(row.name),
        tables.figure(row.money_usd, words.number(row.money_usd, 2)),
        tables.figure(row.objective_usd, words.number(row.objective_usd, 2)),
        tables.figure(change, words.number(change, 2)),
        tables.figure(order or 0.0, "" if order is None else words.number(order, 2)),
        tables.figure(row.bound_usd, words.number(row.bound_usd, 2)),
        tables.figure(row.left_out, words.number(row.left_out)),
    )
