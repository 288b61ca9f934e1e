"""Figures of amounts: one thin bar each, with its name and amount above it, at any width."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from cost_models.ledger import MICROS_PER_USD, Key, Ledger, total
from cost_models.report import words
from cost_models.report.look import (
    ACCENT,
    OTHER,
    UNUSED,
    Figure,
    Part,
    Spec,
    hidden_axis,
    layout_of,
    legend_of,
    part_name,
    part_of,
    short,
    text_of,
)
from cost_models.report.values import Outcome

ROW_LIMIT = 12  # bars of a figure; the table beside it has all
ROW_PIXELS = 44


def breakdown(key: Key, ledger: Ledger, colours: Mapping[Part, str]) -> Figure:
    """Money by ``key``, split by team."""
    groups = {
        name: sums for name, sums in ledger.by(words.group_of(key)).items() if sums.usd_micros
    }
    shown = list(groups)[:ROW_LIMIT]
    whole = ledger.total.usd
    amounts = [
        f"{words.usd(groups[g].usd)} · {words.percent(groups[g].usd / whole)}" for g in shown
    ]
    parts = _parts(ledger, key, shown)
    more = len(groups) - len(shown)
    return _rows(
        f"by-{key.value}",
        list(zip(shown, amounts, strict=True)),
        [_bars(part_name(p), colour, parts[p]) for p, colour in colours.items() if p in parts],
        text=f"Money by {key.value}",
        legend=legend_of(ledger.lines, colours) if key in (Key.PROJECT, Key.POOL, Key.JOB) else (),
        note=f"The {len(shown)} dearest; {words.number(more)} more in the table."
        if more > 0
        else "",
    )


def _parts(ledger: Ledger, key: Key, groups: Sequence[str]) -> dict[Part, list[tuple[int, float]]]:
    """(row, USD) of each group, by team or by what nobody used."""
    group_of = words.group_of(key)
    rows = {group: row for row, group in enumerate(groups)}
    sums: defaultdict[Part, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    for line in ledger.lines:
        if (group := group_of(line)) in rows:
            sums[part_of(line)][rows[group]] += line.usd_micros
    return {
        part: [(row, micros / MICROS_PER_USD) for row, micros in sorted(by_row.items())]
        for part, by_row in sums.items()
    }


def idle(ledger: Ledger) -> Figure | None:
    """What GPUs that stood idle or started up cost, by pool: full cost, owned hardware included."""
    unused = ledger.only(lambda line: line.unused)
    pools = {p: t for p, t in unused.by(Key.POOL).items() if t.full_usd_micros}
    if not pools:
        return None
    order = sorted(pools, key=lambda p: (-pools[p].full_usd_micros, p))[:ROW_LIMIT]
    amounts = [
        f"{words.usd(pools[p].full_usd)} · {words.number(pools[p].gpu_hours)} GPU-h" for p in order
    ]
    data = []
    for part, colour in UNUSED.items():
        own = [[x for x in unused.lines if x.pool == p and part_of(x) == part] for p in order]
        sums = [(i, total(lines).full_usd) for i, lines in enumerate(own)]
        data.append(_bars(part_name(part), colour, sums))
    return _rows(
        "idle",
        list(zip(order, amounts, strict=True)),
        data,
        text="Cost of unused GPUs",
        legend=legend_of(unused.lines, UNUSED),
    )


def compared(plan: Outcome, baseline: Outcome) -> Figure:
    """Money by pool, ours above first-come-first-served."""
    ours, theirs = plan.ledger.by(Key.POOL), baseline.ledger.by(Key.POOL)
    most = {p: max(t.usd for t in (ours.get(p), theirs.get(p)) if t) for p in {*ours, *theirs}}
    pools = sorted(most, key=lambda p: (-most[p], p))
    policies = (("This plan", ACCENT, ours, 0.0), (words.FCFS, OTHER, theirs, 0.3))
    layout = _rows_layout(0, [mark for i, p in enumerate(pools) for mark in _labels(i, p, "", 20)])
    layout |= {"barmode": "overlay", "height": 62 * len(pools) + 8}
    layout["xaxis"]["range"] = [0, max([*most.values(), 1e-9]) * 1.3]
    layout["yaxis"]["range"] = [len(pools) - 0.5, -0.6]
    return Figure(
        name="compared",
        data=[
            _bars(
                name, colour, [(i + shift, sums[p].usd) for i, p in enumerate(pools) if p in sums]
            )
            | {"width": 0.24, "textposition": "outside", "cliponaxis": False}
            | {"text": [words.usd(sums[p].usd) for p in pools if p in sums]}
            for name, colour, sums, shift in policies
        ],
        layout=layout,
        height=layout["height"],
        text=f"Money by pool: this plan against {words.FCFS.lower()}",
        legend=tuple((name, colour) for name, colour, _, _ in policies),
    )


def _rows(
    name: str,
    rows: Sequence[tuple[str, str]],
    data: list[Spec],
    *,
    text: str,
    legend: tuple[tuple[str, str], ...] = (),
    note: str = "",
) -> Figure:
    marks = [
        mark for i, (label, amount) in enumerate(rows) for mark in _labels(i, label, amount, 16)
    ]
    height = ROW_PIXELS * max(1, len(rows)) + 8
    layout = _rows_layout(height, marks) | {"barmode": "stack", "bargap": 0.74}
    layout["yaxis"]["range"] = [len(rows) - 0.55, -0.75]
    said = "; ".join(f"{label} {amount}" for label, amount in rows)
    return Figure(
        name=name,
        data=[trace for trace in data if trace["y"]],
        layout=layout,
        height=height,
        text=f"{text}: {said}",
        legend=legend,
        note=note,
    )


def _rows_layout(height: int, marks: list[Spec]) -> Spec:
    return layout_of(
        height,
        annotations=marks,
        margin={"l": 0, "r": 0, "t": 10, "b": 0},
        xaxis=hidden_axis(),
        yaxis=hidden_axis(),
    )


def _labels(row: int, name: str, amount: str, above: int) -> list[Spec]:
    base: Spec = {"xref": "paper", "y": row, "yshift": above, "showarrow": False, "borderpad": 0}
    left = base | {"x": 0, "xanchor": "left", "text": text_of(short(name, 32))}
    right = base | {"x": 1, "xanchor": "right", "text": f"<b>{amount}</b>"}
    return [left, right] if amount else [left]


def _bars(name: str, colour: str, points: Sequence[tuple[float, float]]) -> Spec:
    shown = [(row, usd) for row, usd in points if usd]
    return {
        "type": "bar",
        "orientation": "h",
        "name": text_of(name),
        "x": [round(usd, 6) for _, usd in shown],
        "y": [row for row, _ in shown],
        "hovertext": [f"{text_of(name)}: {words.usd(usd, 2)}" for _, usd in shown],
        "hoverinfo": "text",
        "marker": {"color": colour, "line": {"width": 0}},
    }
