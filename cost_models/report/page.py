"""The page: one HTML file with everything in it, that asks nothing of any network.

DOOR plotly: its JavaScript is inlined once. The page's content security policy allows no request at
all, so that what stands in a manifest cannot make one either.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import cast

from cost_models.ledger import Key, Ledger
from cost_models.report import figures, tables, words
from cost_models.report.figures import Figure
from cost_models.report.tables import escape
from cost_models.report.values import Report

HOW = (
    "Money is what the decision changes: the rent of rented hardware, whole nodes from launch to"
    " termination where they are billed so, and the energy of owned and reserved hardware. Full cost"
    " adds what is paid already: the annuity of owned nodes and the commitment of reserved ones, whether"
    " they work or not. Useful FLOPs are those that the models need, not those that the hardware could do;"
    " 1 PFLOP is 10¹⁵ of them. The bound is the proven least that any feasible plan can cost, penalties"
    " included."
)


def write_report(report: Report, path: str | Path) -> None:
    """Write the report to ``path``, whole or not at all. The same report gives the same bytes."""
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as out:
            out.write(page(report))
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink()
        raise


def page(report: Report) -> str:
    """The report as one HTML document."""
    drawn = figures.all_of(report)
    specs = [{"name": f.name, "data": f.data, "layout": f.layout} for f in drawn.values()]
    ledger = report.plan.ledger
    return _filled(
        _part("page.html"),
        {
            "title": escape(report.title),
            "period": f"{escape(words.period(ledger.start, ledger.end))} · times in UTC",
            "meaning": escape(words.meaning(report)),
            "headline": _headline(report),
            "sections": "\n".join(_sections(report, drawn)),
            "figures": script_json(specs),
            "plotly": _plotly(),
            "style": _part("page.css"),
            "script": _part("page.js"),
        },
    )


def script_json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _filled(template: str, parts: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _part(name: str) -> str:
    return files("cost_models.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return cast(str, get_plotlyjs())


def _headline(report: Report) -> str:
    sums, proof = report.plan.ledger.total, report.proof
    if sums.usd_per_pflop is None:
        rate = sums.usd / sums.work_gpu_hours if sums.work_gpu_hours else 0.0
        first = ("Money per GPU-hour of work", words.usd(rate), "No job states its FLOPs")
    else:
        beside = f"{words.pflop(sums)} useful PFLOP"
        first = ("Money per useful PFLOP", words.usd_per_pflop(sums), beside)
    unused = sums.gpu_hours - sums.work_gpu_hours
    rows = [
        first,
        ("Money", words.usd(sums.usd), f"{words.number(sums.work_gpu_hours)} GPU-hours of work"),
        ("Full cost", words.usd(sums.full_usd), f"with {words.number(unused)} GPU-hours unused"),
        ("Proven bound", words.usd(proof.bound_usd), f"gap {words.percent(proof.gap_fraction, 2)}"),
    ]
    if report.baseline:
        saved, fraction = words.saving(report.plan, report.baseline)
        per = "per useful FLOP, " if words.per_flop(report.plan, report.baseline) else ""
        rows.append(("Saved", words.usd(saved), f"{per}{words.percent(fraction)} of first come"))
    return "".join(
        f'<div><dt>{escape(what)}</dt><dd class="value">{escape(value)}</dd>'
        f'<dd class="beside">{escape(beside)}</dd></div>'
        for what, value, beside in rows
    )


def _sections(report: Report, drawn: Mapping[str, Figure]) -> list[str]:
    ledger, plan = report.plan.ledger, report.plan
    colours = figures.team_colours([ledger])
    legend = figures.team_legend(ledger, colours)
    found = [_break_down(key, ledger, colours, drawn, legend) for key in (Key.TEAM, Key.PROJECT)]
    found.append(_break_down(Key.POOL, ledger, colours, drawn, legend))
    found.append(_break_down(Key.JOB, ledger, colours, drawn, legend))
    found.append(_gantt(report, drawn, legend))
    found.append(_use(ledger, drawn, legend))
    if report.baseline:
        title = words.baseline_title(plan, report.baseline)
        both = tables.markup(tables.compared(plan, report.baseline))
        both += tables.markup(tables.policies(plan, report.baseline))
        lede = (
            "The same jobs in the order they arrive, each on the cheapest GPU that fits and is free,"
            " priced in the same way."
        )
        found.append(_section(title, lede, _pair(_figure(drawn.get("compared")), both)))
    if plan.left_out:
        title = f"{words.count(len(plan.left_out), 'job')} left out"
        found.append(_section(title, "", tables.markup(tables.left_out(plan.left_out))))
    if ledger.total.joules:
        title = words.energy_title(ledger.total)
        lede = "Energy at the meter, cooling included, of the GPUs at work and their share of the host."
        found.append(_section(title, lede, tables.markup(tables.energy(ledger))))
    if report.measured:
        found.append(_measured(report, drawn))
    found.append(_section("What the numbers rest on", HOW, _assumptions(report)))
    return found


def _break_down(
    key: Key,
    ledger: Ledger,
    colours: Mapping[str, str],
    drawn: Mapping[str, Figure],
    legend: tuple[tuple[str, str], ...],
) -> str:
    title = words.jobs_title(ledger) if key is Key.JOB else words.share_title(key, ledger)
    table = tables.markup(tables.break_down(key, ledger, colours))
    return _section(title, "", _pair(_figure(drawn.get(f"by-{key.value}"), legend), table))


def _gantt(report: Report, drawn: Mapping[str, Figure], legend: tuple[tuple[str, str], ...]) -> str:
    ledger = report.plan.ledger
    pools = len(words.work_by(ledger, Key.POOL))
    title = f"{words.count(report.plan.jobs, 'job')} on {words.count(pools, 'pool')}, over time"
    lede = "One row for each job that a pool runs at a time; drag across the chart to look closer."
    return _section(title, lede, _figure(drawn.get("gantt"), legend))


def _use(ledger: Ledger, drawn: Mapping[str, Figure], legend: tuple[tuple[str, str], ...]) -> str:
    lede = "Mean GPUs an hour, by team; hatched: paid for and not at work; dotted: all there are."
    use = _figure(drawn.get("use"), legend)
    idle = _pair(_figure(drawn.get("idle")), tables.markup(tables.idle(ledger)))
    first = _section(words.use_title(ledger), lede, use)
    lede = (
        "On owned and reserved pools an idle GPU costs what was paid for it already: it stands in the"
        " full cost. On rented nodes it is billed: it stands in the money too."
    )
    return first + _section(words.idle_title(ledger), lede, idle)


def _measured(report: Report, drawn: Mapping[str, Figure]) -> str:
    title = words.measured_title(report.measured)
    body = _figure(drawn.get("measured")) + tables.markup(tables.measured(report.measured))
    return _section(title, report.stand_ins, body)


def _assumptions(report: Report) -> str:
    proof = report.proof
    relaxed = f" It lets go of {', '.join(proof.relaxes)}." if proof.relaxes else ""
    method = f" by {proof.method}" if proof.method else ""
    solved = f"The plan is {proof.status}, found{method} in {proof.solve_seconds:.1f} s.{relaxed}"
    rows = tables.markup(tables.assumptions(report.assumptions)) if report.assumptions else ""
    return f"<p>{escape(solved)}</p>{rows}"


def _section(title: str, lede: str, body: str) -> str:
    text = f'<p class="lede">{escape(lede)}</p>' if lede else ""
    return f"<section><h2>{escape(title)}</h2>{text}{body}</section>"


def _pair(left: str, right: str) -> str:
    return f'<div class="pair">{left}<div>{right}</div></div>' if left else right


def _figure(figure: Figure | None, legend: tuple[tuple[str, str], ...] = ()) -> str:
    if figure is None:
        return ""
    marks = "".join(
        f'<li><i style="background:{colour}"></i>{escape(label)}</li>'
        for label, colour in figure.legend or legend
    )
    note = f"<figcaption>{escape(figure.note)}</figcaption>" if figure.note else ""
    return (
        f"<figure>{f'<ul class=legend>{marks}</ul>' if marks else ''}"
        f'<div class="plot" id="figure-{figure.name}" role="img" aria-label="{escape(figure.text)}"'
        f' style="height:{figure.height}px"></div>{note}</figure>'
    )
