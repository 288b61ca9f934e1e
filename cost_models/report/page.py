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

from cost_models.ledger import Key, Ledger, Totals
from cost_models.report import figures, tables, words
from cost_models.report.look import Figure, colours_of
from cost_models.report.tables import escape
from cost_models.report.values import Report

HOW = (
    "Money is what the decision changes: the rent of rented hardware (whole nodes from launch to"
    " termination where they are billed so) and the energy of owned and reserved hardware. Full"
    " cost adds what is paid already, whether it works or not: the annuity of owned nodes and the"
    " commitment of reserved ones. Useful FLOPs are those that the models need, not those that the"
    " hardware could do; 1 PFLOP is 10¹⁵ of them. The objective is money, moving, lateness and what"
    " not running is said to cost; the proven least is a lower bound on it over all feasible plans."
)
USE = "Mean GPUs over each hour, by team. Hatched: paid for and not at work. Dotted: all there are."
IDLE = (
    "On owned and reserved pools an idle GPU costs what is paid already: that is in the full cost."
    " On rented nodes it is billed: that is in the money too."
)
GANTT = (
    "As many rows a pool as it runs jobs at a time. Drag across to look closer, double-click back."
)
BASELINE = "The same jobs and prices, in the order they arrive, each on the cheapest GPU that fits."
ENERGY = "At the meter, cooling included: GPUs at work with their share of the host."


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
    sums, plan, proof = report.plan.ledger.total, report.plan, report.proof
    least = f"objective {words.usd(plan.objective_usd)}, proven least {words.usd(proof.bound_usd)}"
    rows = [
        _rate(sums),
        ("Money", words.usd(sums.usd), "rent and energy: what the plan changes"),
        ("Full cost", words.usd(sums.full_usd), "with owned and reserved hardware"),
        ("Gap to the proven bound", words.percent(proof.gap_fraction, 2), least),
    ]
    if report.baseline:
        saved, _ = words.saving(plan, report.baseline)
        rows.append(("Saved", words.usd(saved), words.against(plan, report.baseline)))
    return "".join(
        f'<div><dt>{escape(what)}</dt><dd class="value">{escape(value)}</dd>'
        f'<dd class="beside">{escape(beside)}</dd></div>'
        for what, value, beside in rows
    )


def _rate(sums: Totals) -> tuple[str, str, str]:
    if sums.usd_per_pflop is None:
        rate = sums.usd / sums.work_gpu_hours if sums.work_gpu_hours else 0.0
        return "Money per GPU-hour of work", words.usd(rate), "no job states its FLOPs"
    beside = f"{words.pflop(sums)} useful PFLOP; {words.full_per_pflop(sums)} each at full cost"
    return "Money per useful PFLOP", words.usd_per_pflop(sums), beside


def _sections(report: Report, drawn: Mapping[str, Figure]) -> list[str]:
    ledger = report.plan.ledger
    found = [
        *(_break_down(key, ledger, drawn) for key in (Key.TEAM, Key.PROJECT, Key.POOL, Key.JOB)),
        _section(words.plan_title(report.plan), GANTT, _figure(drawn.get("gantt"))),
        _section(words.use_title(ledger), USE, _figure(drawn.get("use"))),
        _idle(ledger, drawn),
        _baseline(report, drawn) if report.baseline else "",
        _left_out(report),
        _energy(ledger),
        _measured(report, drawn),
        _section("What the numbers rest on", HOW, _assumptions(report)),
    ]
    return [section for section in found if section]


def _break_down(key: Key, ledger: Ledger, drawn: Mapping[str, Figure]) -> str:
    title = words.jobs_title(ledger) if key is Key.JOB else words.share_title(key, ledger)
    table = tables.break_down(key, ledger, colours_of(ledger))
    return _section(title, "", _pair(_figure(drawn.get(f"by-{key.value}")), tables.markup(table)))


def _idle(ledger: Ledger, drawn: Mapping[str, Figure]) -> str:
    table = tables.markup(tables.idle(ledger))
    return _section(words.idle_title(ledger), IDLE, _pair(_figure(drawn.get("idle")), table))


def _baseline(report: Report, drawn: Mapping[str, Figure]) -> str:
    plan, baseline = report.plan, report.baseline
    if baseline is None:
        return ""
    both = tables.compared(plan, baseline), tables.policies(plan, baseline)
    body = _pair(_figure(drawn.get("compared")), "".join(map(tables.markup, both)))
    return _section(words.baseline_title(plan, baseline), BASELINE, body)


def _left_out(report: Report) -> str:
    jobs = report.plan.left_out
    title = f"{words.count(len(jobs), 'job')} left out"
    return _section(title, "", tables.markup(tables.left_out(jobs))) if jobs else ""


def _energy(ledger: Ledger) -> str:
    sums = ledger.total
    table = tables.markup(tables.energy(ledger))
    return _section(words.energy_title(sums), ENERGY, table) if sums.joules else ""


def _measured(report: Report, drawn: Mapping[str, Figure]) -> str:
    if not report.measured:
        return ""
    body = _figure(drawn.get("measured")) + tables.markup(tables.measured(report.measured))
    return _section(words.measured_title(report.measured), report.stand_ins, body)


def _assumptions(report: Report) -> str:
    proof = report.proof
    relaxed = f", which lets go of {', '.join(proof.relaxes)}" if proof.relaxes else ""
    method = f" by {proof.method}" if proof.method else ""
    solved = f"The plan is {proof.status}, found{method} in {proof.solve_seconds:.1f} s"
    bound = f"{solved}; the bound is {words.usd(proof.bound_usd, 2)}{relaxed}."
    rows = tables.markup(tables.assumptions(report.assumptions)) if report.assumptions else ""
    return f"<p>{escape(bound)}</p>{rows}"


def _section(title: str, lede: str, body: str) -> str:
    text = f'<p class="lede">{escape(lede)}</p>' if lede else ""
    return f'<section><div class="head"><h2>{escape(title)}</h2>{text}</div>{body}</section>'


def _pair(left: str, right: str) -> str:
    return f'<div class="pair">{left}<div>{right}</div></div>' if left else right


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return ""
    marks = "".join(
        f'<li><i style="background:{colour}"></i>{escape(label)}</li>'
        for label, colour in figure.legend
    )
    legend = f'<ul class="legend">{marks}</ul>' if marks else ""
    note = f"<figcaption>{escape(figure.note)}</figcaption>" if figure.note else ""
    return (
        f'<figure>{legend}<div class="plot" id="figure-{figure.name}"'
        f' style="height:{figure.height}px" role="img" aria-label="{escape(figure.text)}"></div>'
        f"{note}</figure>"
    )
