"""Every figure of a report, by name."""

from __future__ import annotations

from cost_models.ledger import Key
from cost_models.report import bars, timelines
from cost_models.report.look import Figure, colours_of
from cost_models.report.values import Report


def all_of(report: Report) -> dict[str, Figure]:
    """The figures that have something to show, by name."""
    ledger = report.plan.ledger
    colours = colours_of(ledger)
    drawn = [
        bars.breakdown(key, ledger, colours) for key in (Key.TEAM, Key.PROJECT, Key.POOL, Key.JOB)
    ]
    drawn += [timelines.gantt(ledger, colours), timelines.use(ledger, report.capacity, colours)]
    if unused := bars.idle(ledger):
        drawn.append(unused)
    if report.baseline:
        drawn.append(bars.compared(report.plan, report.baseline))
    if report.measured:
        drawn.append(timelines.measured(report.measured, ledger))
    return {figure.name: figure for figure in drawn if figure.data}
