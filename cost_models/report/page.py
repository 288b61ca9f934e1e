"""The page: one HTML file with everything in it, that asks nothing of any network.

DOOR plotly: its JavaScript is inlined once. The page's content security policy allows no request at
all, so that what stands in a manifest cannot make one either.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import cast

from cost_models.ledger import Key, Ledger, Totals
from cost_models.report import figures, tables, words
from cost_models.report.look import Figure, colours_of
from cost_models.report.tables import escape
from cost_models.report.values import Proof, Report

HOW = (
    "Money is what the decision changes: the rent of rented hardware (whole nodes from launch to"
    " termination where they are billed so), the energy of owned and reserved hardware, and what"
    " bringing data to a pool costs. Full cost adds what is paid already, whether it works or not:"
    " the annuity of owned nodes and the commitment of reserved ones. Useful FLOPs are those that"
    " the models need, not those that the hardware could do; 1 PFLOP is 10¹⁵ of them. The objective"
    " is money, moving, lateness and what not running is said to cost; the proven least is a lower"
    " bound on it over all feasible plans."
)
GPU_WORK = (
    "Planned energy is that at the meter, with the host's share; the driver measures that of the"
    " boards. Measured FLOPs are what the tensor units could have done at most while they were"
    " busy, planned ones what the models need."
)
HELD = (
    "Each job is billed for the GPUs that it held, from when it was given them until it let go, at"
    " the price that its pool then had. What is still held is billed until now. Workloads that are"
    " not GpuJobs, and GPUs that did nothing, are not in this bill. Full cost adds what is paid"
    " already: the annuity of owned nodes and the commitment of reserved ones."
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
    write(page(report), path)


def write(document: str, path: str | Path) -> None:
    """Write a page to ``path``, whole or not at all."""
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as out:
            out.write(document)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except BaseException:  # whatever ended it, Ctrl-C too: nothing half written stays
        Path(temporary).unlink()
        raise


def page(report: Report) -> str:
    """The report as one HTML document."""
    drawn = figures.all_of(report)
    ledger = report.plan.ledger
    return assembled(
        title=report.title,
        above=f"{words.period(ledger.start, ledger.end)} · times in UTC",
        meaning=words.meaning(report),
        headline=_headline(report),
        sections=_sections(report, drawn),
        drawn=drawn.values(),
    )


def assembled(
    *,
    title: str,
    above: str,
    meaning: str,
    headline: str,
    sections: Iterable[str],
    drawn: Iterable[Figure],
) -> str:
    """A page of ``sections`` (markup) and the figures that they have places for."""
    return _filled(
        _part("page.html"),
        {
            "title": escape(title),
            "period": escape(above),
            "meaning": escape(meaning),
            "headline": headline,
            "sections": "\n".join(sections),
            "figures": script_json(
                [{"name": f.name, "data": f.data, "layout": f.layout} for f in drawn]
            ),
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
    of = "what the plan changes" if proof else "of what was held"
    rows = [
        _rate(sums),
        ("Money", words.usd(sums.usd), f"rent and energy: {of}"),
        ("Full cost", words.usd(sums.full_usd), "with owned and reserved hardware"),
    ]
    if proof:
        least = words.usd(proof.bound_usd)
        said = f"objective {words.usd(plan.objective_usd)}, proven least {least}"
        rows.append(("Gap to the proven bound", words.percent(proof.gap_fraction, 2), said))
    if report.baseline:
        saved, _ = words.saving(plan, report.baseline)
        rows.append(("Saved", words.usd(saved), words.against(plan, report.baseline)))
    return headlines(rows)


def headlines(rows: Iterable[tuple[str, str, str]]) -> str:
    """The figures at the top: what, value, and what is said beside it."""
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
        section(words.plan_title(report.plan), GANTT, place_of(drawn.get("gantt"))),
        section(words.use_title(ledger), USE, place_of(drawn.get("use"))),
        _idle(ledger, drawn),
        _baseline(report, drawn) if report.baseline else "",
        _left_out(report),
        _energy(ledger),
        _measured(report, drawn),
        _gpu_work(report),
        section("What the numbers rest on", HOW if report.proof else HELD, _assumptions(report)),
    ]
    return [part for part in found if part]


def _break_down(key: Key, ledger: Ledger, drawn: Mapping[str, Figure]) -> str:
    title = words.jobs_title(ledger) if key is Key.JOB else words.share_title(key, ledger)
    table = tables.break_down(key, ledger, colours_of(ledger))
    return section(title, "", _pair(place_of(drawn.get(f"by-{key.value}")), tables.markup(table)))


def _idle(ledger: Ledger, drawn: Mapping[str, Figure]) -> str:
    table = tables.markup(tables.idle(ledger))
    return section(words.idle_title(ledger), IDLE, _pair(place_of(drawn.get("idle")), table))


def _baseline(report: Report, drawn: Mapping[str, Figure]) -> str:
    plan, baseline = report.plan, report.baseline
    if baseline is None:
        return ""
    both = tables.compared(plan, baseline), tables.policies(plan, baseline)
    body = _pair(place_of(drawn.get("compared")), "".join(map(tables.markup, both)))
    return section(words.baseline_title(plan, baseline), BASELINE, body)


def _left_out(report: Report) -> str:
    jobs = report.plan.left_out
    title = f"{words.count(len(jobs), 'job')} left out"
    return section(title, "", tables.markup(tables.left_out(jobs))) if jobs else ""


def _energy(ledger: Ledger) -> str:
    sums = ledger.total
    table = tables.markup(tables.energy(ledger))
    return section(words.energy_title(sums), ENERGY, table) if sums.joules else ""


def _measured(report: Report, drawn: Mapping[str, Figure]) -> str:
    if not report.measured:
        return ""
    body = place_of(drawn.get("measured")) + tables.markup(tables.measured(report.measured))
    return section(words.measured_title(report.measured), report.stand_ins, body)


def _gpu_work(report: Report) -> str:
    if not report.gpu_work:
        return ""
    lede = " ".join(filter(None, (report.gpu_source, GPU_WORK)))
    table = tables.markup(tables.gpu_work(report.gpu_work))
    return section(words.gpu_work_title(report.gpu_work), lede, table)


def _assumptions(report: Report) -> str:
    rows = tables.markup(tables.assumptions(report.assumptions)) if report.assumptions else ""
    return f"<p>{escape(_proven(report.proof))}</p>{rows}" if report.proof else rows


def _proven(proof: Proof) -> str:
    relaxed = f", which lets go of {', '.join(proof.relaxes)}" if proof.relaxes else ""
    method = f" by {proof.method}" if proof.method else ""
    solved = f"The plan is {proof.status}, found{method} in {proof.solve_seconds:.1f} s"
    return f"{solved}; the bound is {words.usd(proof.bound_usd, 2)}{relaxed}."


def section(title: str, lede: str, body: str) -> str:
    """A titled part of the page; ``body`` is markup."""
    text = f'<p class="lede">{escape(lede)}</p>' if lede else ""
    return f'<section><div class="head"><h2>{escape(title)}</h2>{text}</div>{body}</section>'


def _pair(left: str, right: str) -> str:
    return f'<div class="pair">{left}<div>{right}</div></div>' if left else right


def place_of(figure: Figure | None) -> str:
    """The place of a figure, with its legend and note."""
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
