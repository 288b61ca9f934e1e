"""The report's figures, as plain Plotly specifications.

Colour means team, everywhere; grey is what nobody used. What depends on the page being light or dark
(text, rules, gaps between bars) is left to the style sheet, which overrides it on the drawn SVG.
"""

from __future__ import annotations

import html
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cost_models.ledger import Key, Ledger, Line, LineKind, total
from cost_models.report import words
from cost_models.report.values import Capacity, Measured, Outcome, Report

# Dark enough for white paper, light enough for black, and told apart by the colour-blind.
PALETTE = ("#0072b2", "#d55e00", "#8a63b8", "#009e73", "#a37a00", "#c25b8f", "#4f7f8c")
OTHER = "#7d828a"  # teams beyond the palette
IDLE = "#a9aeb6"
STARTUP = "#8d8168"
ACCENT = "#0f7c80"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

BAR_LIMIT = 4000  # a Gantt of more is neither read nor drawn in reasonable time
ROW_LIMIT = 12  # bars of a break-down; its table has all
BIN_LIMIT = 336  # points along the time axis

Spec = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A Plotly specification, and what it shows in words for who cannot see it."""

    name: str  # the element's id: fixed, so that the same report is the same bytes
    data: list[Spec]
    layout: Spec
    text: str
    legend: tuple[tuple[str, str], ...] = ()  # (label, colour)
    note: str = ""
    height: int = field(default=0)


def text_of(value: str) -> str:
    """``value`` for Plotly, which reads a little HTML in every label."""
    return html.escape(value, quote=False)


def team_colours(ledgers: Iterable[Ledger]) -> dict[str, str]:
    """A colour for each team, the dearest first; those beyond the palette share one."""
    teams: dict[str, None] = {}
    for ledger in ledgers:
        teams |= dict.fromkeys(words.work_by(ledger, Key.TEAM))
    return {team: PALETTE[i] if i < len(PALETTE) else OTHER for i, team in enumerate(teams)}


def breakdown(name: str, key: Key, ledger: Ledger, colours: dict[str, str]) -> Figure:
    """Money by ``key``: one thin bar each, split by team, with its name and amount above it."""
    groups = ledger.by(key)
    shown = [n for n, t in groups.items() if t.usd_micros][:ROW_LIMIT]
    rows = {group: i for i, group in enumerate(shown)}
    parts = _parts(ledger, key, rows)
    data = [
        _bars(label, colour, [(parts[label].get(g, 0.0), i) for g, i in rows.items()])
        for label, colour in _part_colours(colours)
        if label in parts
    ]
    whole = ledger.total.usd
    labels = [
        mark
        for group, i in rows.items()
        for mark in _row_labels(_group(key, group), _amount(groups[group].usd, whole), i)
    ]
    height = 44 * max(1, len(rows)) + 8
    layout = _layout(height, annotations=labels, barmode="stack", bargap=0.74)
    layout["margin"] = {"l": 0, "r": 0, "t": 8, "b": 0}
    layout["xaxis"] = _hidden_axis()
    layout["yaxis"] = _hidden_axis() | {"range": [len(rows) - 0.55, -0.75]}
    more = len([t for t in groups.values() if t.usd_micros]) - len(shown)
    return Figure(
        name=name,
        data=data,
        layout=layout,
        text=f"Bars of money by {key.value}: "
        + "; ".join(f"{_group(key, g)} {words.usd(groups[g].usd)}" for g in shown),
        note=f"The {len(shown)} dearest; {words.number(more)} more in the table."
        if more > 0
        else "",
        height=height,
    )


def _group(key: Key, name: str) -> str:
    return name or (words.POOLS_OWN if key in (Key.TEAM, Key.PROJECT, Key.JOB) else "–")


def _amount(usd: float, whole: float) -> str:
    return f"{words.usd(usd)} · {words.percent(usd / whole)}" if whole else words.usd(usd)


def _parts(ledger: Ledger, key: Key, rows: dict[str, int]) -> dict[str, dict[str, float]]:
    """USD by (team, or what nobody used) and group."""
    lines: defaultdict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in ledger.lines:
        if (group := getattr(line, key)) in rows:
            lines[_part(line), group].append(line)
    parts: dict[str, dict[str, float]] = {}
    for (part, group), some in lines.items():
        parts.setdefault(part, {})[group] = total(some).usd
    return parts


def _part(line: Line) -> str:
    return f"team {line.team}" if line.kind is LineKind.WORK else line.kind.value


def _part_colours(colours: dict[str, str]) -> list[tuple[str, str]]:
    teams = [(f"team {team}", colour) for team, colour in colours.items()]
    return [*teams, (LineKind.STARTUP.value, STARTUP), (LineKind.IDLE.value, IDLE)]


def _part_name(label: str) -> str:
    team = label.removeprefix("team ")
    if team != label:
        return words.named(Key.TEAM, team)
    return "Start-up" if label == LineKind.STARTUP.value else "Idle"


def team_legend(ledger: Ledger, colours: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """The meaning of each colour in use, teams beyond the palette as one."""
    used = {_part(line) for line in ledger.lines}
    marks = [(lb, c) for lb, c in _part_colours(colours) if lb in used]
    named = [(_part_name(lb), c) for lb, c in marks if c != OTHER]
    return (*named, *[("Other teams", OTHER)][: any(c == OTHER for _, c in marks)])


def _bars(label: str, colour: str, points: Sequence[tuple[float, int]]) -> Spec:
    shown = [(usd, row) for usd, row in points if usd]
    name = text_of(_part_name(label))
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": [round(usd, 6) for usd, _ in shown],
        "y": [row for _, row in shown],
        "hovertext": [f"{name}: {words.usd(usd, 2)}" for usd, _ in shown],
        "hoverinfo": "text",
        "marker": {"color": colour, "line": {"width": 0}},
        "showlegend": False,
    }


def _row_labels(name: str, amount: str, row: int) -> tuple[Spec, Spec]:
    base = {"xref": "paper", "y": row, "yshift": 16, "showarrow": False}
    return (
        base | {"x": 0, "xanchor": "left", "text": text_of(_short(name, 34))},
        base | {"x": 1, "xanchor": "right", "text": f"<b>{amount}</b>"},
    )


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def gantt(ledger: Ledger, colours: dict[str, str]) -> Figure:
    """The plan over time: for each pool as many rows as jobs run at once, coloured by team."""
    work = [line for line in ledger.lines if line.kind is LineKind.WORK]
    kept = sorted(work, key=lambda line: -line.gpu_hours)[:BAR_LIMIT]
    lanes, headers, rows = _lanes(kept)
    data = [
        _gantt_bars(
            team, colour, [(kept[i], row) for i, row in lanes.items() if kept[i].team == team]
        )
        for team, colour in colours.items()
    ]
    lane = 24 if rows < 60 else 12
    height = int(rows * lane + 50)
    names = [
        {
            "xref": "paper",
            "x": 0,
            "xanchor": "left",
            "y": row,
            "showarrow": False,
            "text": f"<b>{text_of(pool)}</b>",
        }
        for pool, row in headers.items()
    ]
    layout = _layout(height, annotations=names, barmode="overlay", bargap=0.16)
    layout["uniformtext"] = {"minsize": 9, "mode": "hide"}
    layout["xaxis"] = _time_axis(ledger)
    layout["yaxis"] = _hidden_axis() | {"range": [rows - 0.4, -0.6]}
    layout["shapes"] = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": r - 0.5, "y1": r - 0.5}
        | {"line": {"width": 1, "color": "rgba(128,134,142,.4)"}, "layer": "below"}
        for r in headers.values()
    ]
    jobs = len({line.job for line in kept})
    return Figure(
        name="gantt",
        data=[trace for trace in data if trace["y"]],
        layout=layout,
        text=f"{jobs} jobs over time on {len(headers)} pools; the table of jobs has their cost",
        note=f"The {BAR_LIMIT:,} longest of {len(work):,} stretches."
        if len(work) > BAR_LIMIT
        else "",
        height=height,
    )


def _lanes(lines: Sequence[Line]) -> tuple[dict[int, int], dict[str, int], int]:
    """Rows for lines (by index) and for the pools' headings; a job keeps its row where it can."""
    by_pool: defaultdict[str, list[int]] = defaultdict(list)
    for i in sorted(range(len(lines)), key=lambda i: (lines[i].pool, lines[i].start, lines[i].job)):
        by_pool[lines[i].pool].append(i)
    rows: dict[int, int] = {}
    headers: dict[str, int] = {}
    top = 0
    for pool, members in by_pool.items():
        headers[pool] = top
        free: list[tuple[datetime, str]] = []  # by lane: until when taken, and by which job
        for i in members:
            line = lines[i]
            open_ = [n for n, (until, _) in enumerate(free) if until <= line.start]
            mine = [n for n in open_ if free[n][1] == line.job]
            lane = (mine or open_ or [len(free)])[0]
            free[lane : lane + 1] = [(line.end, line.job)]
            rows[i] = top + 1 + lane
        top += 1 + len(free)
    return rows, headers, top


def _gantt_bars(team: str, colour: str, placed: Sequence[tuple[Line, int]]) -> Spec:
    return {
        "type": "bar",
        "orientation": "h",
        "name": text_of(words.named(Key.TEAM, team)),
        "base": [_time(line.start) for line, _ in placed],
        "x": [(line.end - line.start).total_seconds() * 1000 for line, _ in placed],
        "y": [row for _, row in placed],
        "text": [text_of(_short(line.job, 40)) for line, _ in placed],
        "textposition": "inside",
        "insidetextanchor": "start",
        "textangle": 0,
        "constraintext": "inside",
        "insidetextfont": {"color": ink_on(colour), "size": 11},
        "hovertext": [_gantt_hover(line) for line, _ in placed],
        "hoverinfo": "text",
        "marker": {"color": colour, "line": {"width": 1}},
        "showlegend": False,
    }


def _gantt_hover(line: Line) -> str:
    nodes = ", ".join(line.nodes[:4])
    if more := len(line.nodes) - 4:
        nodes += f" and {more} more" if more > 0 else ""
    rows = (
        f"<b>{text_of(line.job)}</b>",
        text_of(" · ".join(part for part in (line.team, line.project) if part)),
        f"{words.significant(line.gpus)} GPUs on {text_of(line.pool)}",
        text_of(nodes),
        f"{words.moment(line.start)} – {words.moment(line.end)}",
        f"{words.usd(line.usd_micros / 1e6, 2)} · {words.number(line.gpu_hours, 1)} GPU-hours",
    )
    return "<br>".join(row for row in rows if row)


def use(ledger: Ledger, capacity: Sequence[Capacity], colours: dict[str, str]) -> Figure:
    """GPUs in use over time: one panel a pool, stacked by team, idle on top, against capacity."""
    pools = sorted({line.pool for line in ledger.lines} | {c.pool for c in capacity})
    panel, title, gap = 84, 24, 10
    height = len(pools) * (panel + title + gap) + 40
    data: list[Spec] = []
    layout = _layout(height, annotations=[])
    layout["margin"] = {"l": 44, "r": 4, "t": 0, "b": 40}
    layout["xaxis"] = _time_axis(ledger) | {"anchor": f"y{len(pools)}" if len(pools) > 1 else "y"}
    inner = height - 40
    for n, pool in enumerate(pools):
        axis = "" if not n else str(n + 1)
        lines = [line for line in ledger.lines if line.pool == pool]
        ours = [c for c in capacity if c.pool == pool]
        traces, peak = _panel(ledger, lines, f"y{axis}", colours)
        most = max((c.gpus for c in ours), default=0)
        top = max(most if most <= 2 * peak or not peak else 1.25 * peak, 1.0)
        data += [*traces, _capacity_line(ours, f"y{axis}")]
        upper = 1 - (n * (panel + title + gap) + title) / inner
        layout[f"yaxis{axis}"] = _count_axis(upper - panel / inner, upper, 1.06 * top)
        layout["annotations"].append(_panel_title(pool, lines, ours, upper))
    return Figure(
        name="use",
        data=data,
        layout=layout,
        text="GPUs in use over time by pool, against the GPUs there are; the table of pools has the sums",
        height=height,
    )


def _panel(
    ledger: Ledger, lines: Sequence[Line], axis: str, colours: dict[str, str]
) -> tuple[list[Spec], float]:
    parts: defaultdict[str, list[Line]] = defaultdict(list)
    for line in lines:
        parts[_part(line)].append(line)
    traces, sums = [], [0.0]
    for label, colour in _part_colours(colours):
        if label in parts:
            times, gpus = mean_gpus(ledger, parts[label])
            sums = (
                [a + b for a, b in zip(sums or gpus, gpus, strict=True)] if len(sums) > 1 else gpus
            )
            traces.append(_area(label, colour, times, gpus, axis))
    return traces, max(sums, default=0.0)


def mean_gpus(ledger: Ledger, lines: Iterable[Line]) -> tuple[list[datetime], list[float]]:
    """Mean GPUs that ``lines`` hold in each of at most `BIN_LIMIT` stretches of the period."""
    hours = (ledger.end - ledger.start) / timedelta(hours=1)
    bins = max(1, min(BIN_LIMIT, math.ceil(hours)))
    width = (ledger.end - ledger.start) / bins
    held = [0.0] * bins
    for line in lines:
        first = max(0, math.floor((line.start - ledger.start) / width))
        last = min(bins, math.ceil((line.end - ledger.start) / width))
        for i in range(first, last):
            begin, end = ledger.start + i * width, ledger.start + (i + 1) * width
            held[i] += line.gpus * max(0.0, (min(end, line.end) - max(begin, line.start)) / width)
    return [ledger.start + i * width for i in range(bins)], held


def _area(label: str, colour: str, times: list[datetime], gpus: list[float], axis: str) -> Spec:
    name = text_of(_part_name(label))
    quiet = label in (LineKind.IDLE.value, LineKind.STARTUP.value)
    trace: Spec = {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [_time(when) for when in times],
        "y": [round(value, 3) for value in gpus],
        "yaxis": axis,
        "stackgroup": axis,
        "line": {"shape": "hv", "width": 0, "color": colour},
        "fillcolor": colour,
        "hoveron": "points",
        "hovertext": [f"{name}: {words.significant(v)} GPUs" if v else "" for v in gpus],
        "hoverinfo": "text",
        "showlegend": False,
    }
    if quiet:
        trace["fillpattern"] = {"shape": "/", "size": 5, "solidity": 0.35, "fgcolor": colour}
        trace["fillpattern"] |= {"bgcolor": "rgba(0,0,0,0)"}
    return trace


def _capacity_line(capacity: Sequence[Capacity], axis: str) -> Spec:
    edges = [(at, c.gpus) for c in capacity for at in (c.start, c.end)]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [_time(at) for at, _ in edges],
        "y": [gpus for _, gpus in edges],
        "yaxis": axis,
        "line": {"width": 1.5, "color": OTHER, "dash": "dot"},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _panel_title(pool: str, lines: Sequence[Line], capacity: Sequence[Capacity], y: float) -> Spec:
    sums = total(lines)
    most = max((c.gpus for c in capacity), default=0)
    facts = [f"{words.number(most)} GPUs"] if most else []
    if sums.gpu_hours:
        facts.append(f"{words.percent(sums.utilisation_fraction)} of the paid time at work")
    else:
        facts.append("not used")
    return {
        "xref": "paper",
        "yref": "paper",
        "x": 0,
        "xanchor": "left",
        "xshift": -44,
        "y": y,
        "yanchor": "bottom",
        "showarrow": False,
        "text": f"<b>{text_of(pool)}</b> · " + " · ".join(facts),
    }


def idle(ledger: Ledger) -> Figure | None:
    """What GPUs that stood idle or started up cost, by pool: full cost, owned hardware included."""
    unused = ledger.only(lambda line: line.kind is not LineKind.WORK)
    pools = {p: t for p, t in unused.by(Key.POOL).items() if t.full_usd_micros}
    if not pools:
        return None
    order = sorted(pools, key=lambda p: (-pools[p].full_usd_micros, p))
    data = []
    for kind, colour in ((LineKind.STARTUP, STARTUP), (LineKind.IDLE, IDLE)):
        sums = unused.only(lambda line, kind=kind: line.kind is kind).by(Key.POOL)  # type: ignore[misc]
        points = [(sums[p].full_usd, i) for i, p in enumerate(order) if p in sums]
        data.append(_bars(kind.value, colour, points))
    labels = [
        mark
        for i, pool in enumerate(order)
        for mark in _row_labels(
            pool,
            f"{words.usd(pools[pool].full_usd)} · {words.number(pools[pool].gpu_hours)} GPU-h",
            i,
        )
    ]
    height = 44 * len(order) + 8
    layout = _layout(height, annotations=labels, barmode="stack", bargap=0.74)
    layout["margin"] = {"l": 0, "r": 0, "t": 8, "b": 0}
    layout["xaxis"] = _hidden_axis()
    layout["yaxis"] = _hidden_axis() | {"range": [len(order) - 0.55, -0.75]}
    return Figure(
        name="idle",
        data=[trace for trace in data if trace["y"]],
        layout=layout,
        text="Cost of idle and starting GPUs by pool: "
        + "; ".join(f"{p} {words.usd(pools[p].full_usd)}" for p in order),
        height=height,
    )


def compared(plan: Outcome, baseline: Outcome) -> Figure:
    """Money by pool, ours above first-come-first-served."""
    ours, theirs = plan.ledger.by(Key.POOL), baseline.ledger.by(Key.POOL)
    most = {p: max(t.usd for t in (ours.get(p), theirs.get(p)) if t) for p in {*ours, *theirs}}
    pools = sorted(most, key=lambda p: (-most[p], p))
    data = []
    for name, colour, sums, shift in (
        ("This plan", ACCENT, ours, 0.0),
        ("First-come-first-served", OTHER, theirs, 0.3),
    ):
        points = [(sums[p].usd if p in sums else 0.0, i) for i, p in enumerate(pools)]
        data.append(_compared_bars(name, colour, points, shift))
    labels: list[Spec] = [
        {"xref": "paper", "x": 0, "xanchor": "left", "y": i, "yshift": 20, "showarrow": False}
        | {"text": text_of(pool)}
        for i, pool in enumerate(pools)
    ]
    height = 62 * len(pools) + 8
    layout = _layout(height, annotations=labels, barmode="overlay")
    layout["margin"] = {"l": 0, "r": 0, "t": 10, "b": 0}
    layout["xaxis"] = _hidden_axis() | {"range": [0, max([*most.values(), 1e-9]) * 1.28]}
    layout["yaxis"] = _hidden_axis() | {"range": [len(pools) - 0.5, -0.6]}
    return Figure(
        name="compared",
        data=data,
        layout=layout,
        text="Money by pool, this plan against first-come-first-served; the table beside it has both",
        legend=(("This plan", ACCENT), ("First-come-first-served", OTHER)),
        height=height,
    )


def _compared_bars(
    name: str, colour: str, points: Sequence[tuple[float, int]], shift: float
) -> Spec:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": [round(usd, 6) for usd, _ in points],
        "y": [row + shift for _, row in points],
        "width": 0.24,
        "text": [words.usd(usd) for usd, _ in points],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": [f"{name}: {words.usd(usd, 2)}" for usd, _ in points],
        "hoverinfo": "text",
        "marker": {"color": colour, "line": {"width": 0}},
        "showlegend": False,
    }


def measured(runs: Sequence[Measured], ledger: Ledger) -> Figure:
    """Each run as planned (pale) and as it happened (narrow, in the accent)."""
    kept = sorted(runs, key=lambda r: (r.planned_start, r.job))[:BAR_LIMIT]
    rows = range(len(kept))
    pairs = (
        ("Planned", IDLE, 0.7, [(r.planned_start, r.planned_end) for r in kept]),
        ("Measured", ACCENT, 0.32, [(r.start, r.end) for r in kept]),
    )
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "base": [_time(a) for a, _ in spans],
            "x": [(b - a).total_seconds() * 1000 for a, b in spans],
            "y": list(rows),
            "width": width,
            "hovertext": [
                f"<b>{text_of(r.job)}</b><br>{name}: {words.moment(a)} – {words.moment(b)}"
                f"<br>{text_of(r.status)}"
                for r, (a, b) in zip(kept, spans, strict=True)
            ],
            "hoverinfo": "text",
            "marker": {"color": colour, "line": {"width": 0}},
            "showlegend": False,
        }
        for name, colour, width, spans in pairs
    ]
    height = 16 * len(kept) + 50
    layout = _layout(height, annotations=[], barmode="overlay")
    layout["xaxis"] = _time_axis(ledger)
    layout["yaxis"] = _hidden_axis() | {"range": [len(kept) - 0.4, -0.6]}
    return Figure(
        name="measured",
        data=data,
        layout=layout,
        text="Each run's planned and measured time; the table below has them",
        legend=(("Planned", IDLE), ("Measured", ACCENT)),
        height=height,
    )


def all_of(report: Report) -> dict[str, Figure]:
    """The report's figures by name."""
    ledger = report.plan.ledger
    colours = team_colours([ledger])
    figures: list[Figure | None] = [
        *(
            breakdown(f"by-{key.value}", key, ledger, colours)
            for key in (Key.TEAM, Key.PROJECT, Key.POOL, Key.JOB)
        ),
        gantt(ledger, colours),
        use(ledger, report.capacity, colours),
        idle(ledger),
        compared(report.plan, report.baseline) if report.baseline else None,
        measured(report.measured, ledger) if report.measured else None,
    ]
    return {figure.name: figure for figure in figures if figure and figure.data}


def ink_on(colour: str) -> str:
    """Black or white, whichever is read better on ``colour``."""
    return "#ffffff" if contrast(colour, "#ffffff") >= contrast(colour, "#10151a") else "#10151a"


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2): 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _layout(height: int, **more: Any) -> Spec:
    return {
        "height": height,
        "margin": {"l": 0, "r": 4, "t": 4, "b": 40},
        "font": {"family": FONT, "size": 13, "color": "#5b636d"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {
            "bgcolor": "#1f252b",
            "bordercolor": "#1f252b",
            "font": {"family": FONT, "size": 12, "color": "#ffffff"},
            "align": "left",
        },
        "hovermode": "closest",
        "showlegend": False,
        "dragmode": False,
    } | more


def _hidden_axis() -> Spec:
    return {"visible": False, "fixedrange": True}


def _time_axis(ledger: Ledger) -> Spec:
    return {
        "type": "date",
        "range": [_time(ledger.start), _time(ledger.end)],
        "showgrid": True,
        "gridcolor": "rgba(128,134,142,.22)",
        "zeroline": False,
        "tickfont": {"size": 12},
        "nticks": 8,
    }


def _count_axis(low: float, high: float, top: float) -> Spec:
    return {
        "domain": [max(0.0, low), min(1.0, high)],
        "range": [0, top],
        "fixedrange": True,
        "nticks": 3,
        "rangemode": "tozero",
        "showgrid": True,
        "gridcolor": "rgba(128,134,142,.22)",
        "zeroline": False,
        "tickfont": {"size": 11},
        "tickformat": ",d" if top >= 3 else "",
    }


def _time(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
