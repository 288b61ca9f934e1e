"""Figures over time: the plan, the GPUs in use, and the runs as they happened."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from cost_models.ledger import MICROS_PER_USD, Ledger, Line, LineKind, total
from cost_models.report import words
from cost_models.report.look import (
    ACCENT,
    GRID,
    IDLE,
    OTHER,
    UNUSED,
    Figure,
    Part,
    Spec,
    hidden_axis,
    ink_on,
    layout_of,
    legend_of,
    part_name,
    part_of,
    short,
    text_of,
    time,
    time_axis,
)
from cost_models.report.values import Capacity, Measured

BAR_LIMIT = 4000  # a Gantt of more is neither read nor drawn in reasonable time
RUN_LIMIT = 60
BIN_LIMIT = 336  # points along the time axis
PANEL, PANEL_TITLE, PANEL_GAP, AXIS = 84, 24, 10, 40  # pixels of the panels of `use`


def gantt(ledger: Ledger, colours: Mapping[Part, str]) -> Figure:
    """The plan over time: for each pool as many rows as jobs run at once, coloured by team."""
    work = [line for line in ledger.lines if line.kind is LineKind.WORK]
    kept = sorted(work, key=lambda line: -line.gpu_hours)[:BAR_LIMIT]
    placed, headers, rows = lanes(kept)
    data = []
    for part, colour in colours.items():
        ours = [(line, row) for line, row in placed if part_of(line) == part]
        if ours:
            data += [_pieces(part_name(part), colour, ours), _names(colour, ours)]
    height = rows * (24 if rows < 60 else 12) + 50
    layout = layout_of(height, barmode="overlay", bargap=0.16, dragmode="zoom")
    layout["annotations"] = [_pool_name(pool, row) for pool, row in headers.items()]
    layout["shapes"] = [_rule(row) for row in headers.values()]
    layout["uniformtext"] = {"minsize": 9, "mode": "hide"}
    layout["xaxis"] = time_axis(ledger)
    layout["yaxis"] = hidden_axis() | {"range": [rows - 0.4, -0.6]}
    jobs = words.count(len({line.job for line in kept}), "job")
    return Figure(
        name="gantt",
        data=data,
        layout=layout,
        height=height,
        text=f"{jobs} over time on {words.count(len(headers), 'pool')}; the tables have the cost",
        legend=legend_of(work, colours),
        note=f"The {BAR_LIMIT:,} longest of {len(work):,} stretches."
        if len(work) > BAR_LIMIT
        else "",
    )


def lanes(lines: Sequence[Line]) -> tuple[list[tuple[Line, int]], dict[str, int], int]:
    """A row for each line, a row for each pool's heading, and how many rows that makes.

    A line takes its job's last row where that is free, else the first free one of its pool.
    """
    placed: list[tuple[Line, int]] = []
    headers: dict[str, int] = {}
    free: list[tuple[datetime, str]] = []  # of the pool's rows: taken until when, by which job
    rows = 0
    for line in sorted(lines, key=lambda x: (x.pool, x.start, x.job)):
        if line.pool not in headers:
            headers[line.pool], rows, free = rows, rows + 1, []
        open_ = [n for n, (until, _) in enumerate(free) if until <= line.start]
        mine = [n for n in open_ if free[n][1] == line.job]
        lane = (mine or open_ or [len(free)])[0]
        rows += lane == len(free)
        free[lane : lane + 1] = [(line.end, line.job)]
        placed.append((line, headers[line.pool] + 1 + lane))
    return placed, headers, rows


def _spans(spans: Sequence[tuple[datetime, datetime, int]]) -> Spec:
    return {
        "type": "bar",
        "orientation": "h",
        "base": [time(start) for start, _, _ in spans],
        "x": [(end - start).total_seconds() * 1000 for start, end, _ in spans],
        "y": [row for _, _, row in spans],
    }


def _pieces(team: str, colour: str, placed: Sequence[tuple[Line, int]]) -> Spec:
    return _spans([(line.start, line.end, row) for line, row in placed]) | {
        "name": text_of(team),
        "hovertext": [_hover(line) for line, _ in placed],
        "hoverinfo": "text",
        "marker": {"color": colour, "line": {"width": 1}},
    }


def _names(colour: str, placed: Sequence[tuple[Line, int]]) -> Spec:
    """Jobs' names over their bars: one over several pieces that follow each other."""
    runs: list[tuple[str, datetime, datetime, int]] = []
    for line, row in sorted(placed, key=lambda p: (p[1], p[0].start)):
        if runs and (runs[-1][0], runs[-1][2], runs[-1][3]) == (line.job, line.start, row):
            runs[-1] = (line.job, runs[-1][1], line.end, row)
        else:
            runs.append((line.job, line.start, line.end, row))
    return _spans([(start, end, row) for _, start, end, row in runs]) | {
        "text": [text_of(short(job, 40)) for job, _, _, _ in runs],
        "textposition": "inside",
        "insidetextanchor": "start",
        "textangle": 0,
        "insidetextfont": {"color": ink_on(colour), "size": 11},
        "hoverinfo": "skip",
        "marker": {"color": "rgba(0,0,0,0)", "line": {"width": 0}},
    }


def _hover(line: Line) -> str:
    nodes = ", ".join(line.nodes[:4])
    more = len(line.nodes) - 4
    paid = words.usd(line.usd_micros / MICROS_PER_USD, 2)
    rows = (
        f"<b>{text_of(line.job)}</b>",
        text_of(" · ".join(part for part in (line.team, line.project) if part)),
        text_of(f"{words.amount(line.gpus)} GPUs on {line.pool}"),
        text_of(f"{nodes} and {more} more" if more > 0 else nodes),
        f"{words.moment(line.start)} – {words.moment(line.end)}",
        f"{paid} · {words.number(line.gpu_hours, 1)} GPU-hours",
    )
    return "<br>".join(row for row in rows if row)


def _pool_name(pool: str, row: int) -> Spec:
    place = {"xref": "paper", "x": 0, "xanchor": "left", "y": row, "borderpad": 0}
    return place | {"showarrow": False, "text": f"<b>{text_of(pool)}</b>"}


def _rule(row: int) -> Spec:
    place = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": row - 0.5, "y1": row - 0.5}
    return place | {"line": {"width": 1, "color": GRID}, "layer": "below"}


def use(ledger: Ledger, capacity: Sequence[Capacity], colours: Mapping[Part, str]) -> Figure:
    """GPUs in use over time: one panel a pool, stacked by team, idle on top, against capacity."""
    pools = sorted({line.pool for line in ledger.lines} | {c.pool for c in capacity})
    step = PANEL_TITLE + PANEL + PANEL_GAP
    inner = step * len(pools)
    layout = layout_of(inner + AXIS, annotations=[], margin={"l": 40, "r": 4, "t": 0, "b": AXIS})
    layout["xaxis"] = time_axis(ledger) | {"anchor": "free", "position": 0}
    data: list[Spec] = []
    for n, pool in enumerate(pools):
        axis = "y" if not n else f"y{n + 1}"
        lines = [line for line in ledger.lines if line.pool == pool]
        limits = [c for c in capacity if c.pool == pool]
        areas, peak = _panel(ledger, lines, axis, colours)
        data += [*areas, _capacity_line(limits, axis)]
        top = 1 - (n * step + PANEL_TITLE) / inner
        most = max((c.gpus for c in limits), default=0)
        layout[axis.replace("y", "yaxis")] = _count_axis(most, peak) | {
            "domain": [max(0.0, top - PANEL / inner), top]
        }
        layout["annotations"].append(_panel_title(pool, lines, most, top))
    return Figure(
        name="use",
        data=[trace for trace in data if trace["y"]],
        layout=layout,
        height=inner + AXIS,
        text="GPUs in use over time by pool, against those there are; the tables have the sums",
        legend=legend_of(ledger.lines, colours),
    )


def _panel(
    ledger: Ledger, lines: Sequence[Line], axis: str, colours: Mapping[Part, str]
) -> tuple[list[Spec], float]:
    parts: defaultdict[Part, list[Line]] = defaultdict(list)
    for line in lines:
        parts[part_of(line)].append(line)
    means = {part: mean_gpus(ledger, some) for part, some in parts.items()}
    areas = [
        _area(part, colour, ledger, means[part], axis)
        for part, colour in colours.items()
        if part in means
    ]
    return areas, max(map(sum, zip(*means.values(), strict=True)), default=0.0)


def mean_gpus(ledger: Ledger, lines: Iterable[Line]) -> list[float]:
    """Mean GPUs that ``lines`` hold in each of at most `BIN_LIMIT` equal parts of the period.

    Each part is an hour, or longer where the period is; the GPU-hours inside the period are kept.
    """
    bins = max(1, min(BIN_LIMIT, math.ceil((ledger.end - ledger.start) / timedelta(hours=1))))
    width = (ledger.end - ledger.start) / bins
    held = [0.0] * bins
    for line in lines:
        start, end = (line.start - ledger.start) / width, (line.end - ledger.start) / width
        for i in range(max(0, math.floor(start)), min(bins, math.ceil(end))):
            held[i] += line.gpus * (min(i + 1, end) - max(i, start))
    return held


def _area(part: Part, colour: str, ledger: Ledger, gpus: Sequence[float], axis: str) -> Spec:
    width = (ledger.end - ledger.start) / len(gpus)
    area: Spec = {
        "type": "scatter",
        "mode": "lines",
        "name": text_of(part_name(part)),
        "x0": time(ledger.start),
        "dx": width.total_seconds() * 1000,
        "y": [round(value, 3) for value in (*gpus, gpus[-1])],  # the last holds to the end
        "yaxis": axis,
        "stackgroup": axis,
        "line": {"shape": "hv", "width": 0, "color": colour},
        "fillcolor": colour,
        "hovertemplate": "%{fullData.name}: %{y:,.4~r} GPUs<extra></extra>",
    }
    if part in UNUSED:
        hatch = {"shape": "/", "size": 5, "solidity": 0.35, "fgcolor": colour}
        area["fillpattern"] = hatch | {"bgcolor": "rgba(0,0,0,0)"}
    return area


def _capacity_line(capacity: Sequence[Capacity], axis: str) -> Spec:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [time(at) for c in capacity for at in (c.start, c.end)],
        "y": [c.gpus for c in capacity for _ in range(2)],
        "yaxis": axis,
        "line": {"width": 1.5, "color": OTHER, "dash": "dot"},
        "hoverinfo": "skip",
    }


def _panel_title(pool: str, lines: Sequence[Line], most: int, top: float) -> Spec:
    sums = total(lines)
    facts = [f"<b>{text_of(pool)}</b>"]
    if most:
        facts.append(words.count(most, "GPU"))
    facts.append(f"{words.percent(sums.utilisation_fraction)} busy" if lines else "not used")
    place = {"xref": "paper", "x": 0, "xanchor": "left", "xshift": -40, "borderpad": 0}
    place |= {"yref": "paper", "y": top, "yanchor": "bottom", "showarrow": False}
    return place | {"text": " · ".join(facts)}


def _count_axis(most: int, peak: float) -> Spec:
    """From nothing to what there is, or to what is used where that is far less."""
    top = most if (most and most <= 2.5 * peak) or not peak else math.ceil(1.2 * peak)
    top = max(top, 1)
    return {
        "range": [0, 1.06 * top],
        "tickvals": [0, top / 2, top],
        "ticktext": ["0", words.amount(top / 2), words.number(top)],
        "fixedrange": True,
        "showgrid": True,
        "gridcolor": GRID,
        "zeroline": False,
        "tickfont": {"size": 11},
    }


def measured(runs: Sequence[Measured], ledger: Ledger) -> Figure:
    """Each run as planned (pale) and as it happened (narrow, in the accent)."""
    kept = sorted(runs, key=lambda r: (r.planned_start, r.job))[:RUN_LIMIT]
    planned = [(r.planned_start, r.planned_end) for r in kept]
    happened = [(r.start, r.end) for r in kept]
    height = 18 * len(kept) + 50
    layout = layout_of(height, barmode="overlay")
    layout["xaxis"] = time_axis(ledger) | {
        "range": [  # what ran late, or for longer than planned, is seen to its end
            time(min([ledger.start, *(r.start for r in kept)])),
            time(max([ledger.end, *(r.end for r in kept)])),
        ]
    }
    layout["yaxis"] = {
        "range": [len(kept) - 0.4, -0.6],
        "tickvals": list(range(len(kept))),
        "ticktext": [text_of(short(r.job, 22)) for r in kept],
        "tickfont": {"size": 11},
        "automargin": True,
        "fixedrange": True,
        "showgrid": False,
        "zeroline": False,
    }
    more = len(runs) - len(kept)
    return Figure(
        name="measured",
        data=[
            _runs("Planned", IDLE, 0.72, kept, planned),
            _runs("Measured", ACCENT, 0.34, kept, happened),
        ],
        layout=layout,
        height=height,
        text="Each run's planned and measured time; the hours are in the table",
        legend=(("Planned", IDLE), ("Measured", ACCENT)),
        note=f"The first {len(kept)}; {words.number(more)} more in the table." if more > 0 else "",
    )


def _runs(
    name: str,
    colour: str,
    width: float,
    runs: Sequence[Measured],
    spans: Sequence[tuple[datetime, datetime]],
) -> Spec:
    return _spans([(start, end, row) for row, (start, end) in enumerate(spans)]) | {
        "name": name,
        "width": width,
        "hovertext": [
            f"<b>{text_of(run.job)}</b><br>{name}: {words.moment(start)} – {words.moment(end)}"
            for run, (start, end) in zip(runs, spans, strict=True)
        ],
        "hoverinfo": "text",
        "marker": {"color": colour, "line": {"width": 0}},
    }
