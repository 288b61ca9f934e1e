"""Numbers and findings in words: how the report writes money, time and shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median

from cost_models.ledger import FLOPS_PER_PFLOP, Key, Ledger, Line, LineKind, Totals
from cost_models.report.values import GpuWork, Measured, Outcome, Report

NBSP = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
JOULES_PER_KWH = 3.6e6
FCFS = "First-come-first-served"
NOBODY = "Idle and start-up"  # what no job carries
KINDS = {
    LineKind.WORK: "Work",
    LineKind.IDLE: "Idle",
    LineKind.STARTUP: "Start-up",
    LineKind.EGRESS: "Data brought",
}


def number(value: float, decimals: int = 0) -> str:
    """``value`` with thousands separators and a true minus sign."""
    text = f"{value:,.{decimals}f}"
    return text.replace("-", MINUS) if text.strip("-0.,") else text.lstrip("-")


def amount(value: float) -> str:
    """A number of things that can be shares: two decimals at most, none for whole ones."""
    return number(value, 2).rstrip("0").rstrip(".") if value % 1 else number(value)


def usd(value: float, decimals: int | None = None) -> str:
    """Dollars: whole from $1,000 on, cents below."""
    places = (0 if abs(value) >= 999.995 else 2) if decimals is None else decimals
    text = number(value, places)
    return f"{MINUS}${text[1:]}" if text.startswith(MINUS) else f"${text}"


def significant(value: float, digits: int = 3) -> str:
    """``value`` to a few significant digits, never in exponent form above a billionth."""
    if not value or not 1e-9 < abs(value) < 1e15:
        return f"{value:.{digits}g}"
    magnitude = int(f"{value:e}".split("e")[1])
    return number(round(value, digits - 1 - magnitude), max(0, digits - 1 - magnitude))


def percent(fraction: float, decimals: int | None = None) -> str:
    """A fraction as a percentage; one decimal where it is below ten."""
    points = fraction * 100
    places = (0 if abs(points) >= 9.95 or not points else 1) if decimals is None else decimals
    return f"{number(points, places)}{NBSP}%"


def count(n: int, noun: str) -> str:
    """``1 job``, ``12 jobs``."""
    return f"{number(n)}{NBSP}{noun}{'' if n == 1 else 's'}"


def energy(joules: float) -> str:
    """Joules in kWh, or MWh from a thousand on."""
    kwh = joules / JOULES_PER_KWH
    return f"{significant(kwh / 1000)}{NBSP}MWh" if kwh >= 1000 else f"{significant(kwh)}{NBSP}kWh"


def carbon(grams: float) -> str:
    """Grams in kilograms, or tonnes from a thousand on."""
    kg = grams / 1000
    return f"{significant(kg / 1000)}{NBSP}t" if kg >= 1000 else f"{significant(kg)}{NBSP}kg"


def day(when: datetime) -> str:
    """``1 December 2026``."""
    at = when.astimezone(UTC)
    return f"{at.day}{NBSP}{at:%B} {at.year}"


def moment(when: datetime) -> str:
    """``Tue 1 Dec, 14:00`` (UTC)."""
    at = when.astimezone(UTC)
    return f"{at:%a} {at.day} {at:%b}, {at:%H:%M}"


def period(start: datetime, end: datetime) -> str:
    """The days from ``start`` up to ``end``: ``1 – 7 December 2026``, as short as can be."""
    a, b = start.astimezone(UTC), max(start, end - timedelta(seconds=1)).astimezone(UTC)
    if a.date() == b.date():
        return day(a)
    if (a.year, a.month) == (b.year, b.month):
        return f"{a.day} – {day(b)}"
    return f"{a.day}{NBSP}{a:%B} – {day(b)}" if a.year == b.year else f"{day(a)} – {day(b)}"


def named(key: Key, name: str) -> str:
    """The name of a group of work as it is shown."""
    return name or f"No {key.value}"


def group_of(key: Key) -> Callable[[Line], str]:
    """What a line stands under in a break-down by ``key``: its name, or that no job carries it."""

    def group(line: Line) -> str:
        name: str = getattr(line, key.value)
        return NOBODY if line.unused and not name else named(key, name)

    return group


def usd_per_pflop(total: Totals) -> str:
    """Money per useful PFLOP, or a dash."""
    value = total.usd_per_pflop
    return "–" if value is None else f"${significant(value)}"


def full_per_pflop(total: Totals) -> str:
    """Full cost per useful PFLOP, or a dash."""
    pflops = total.useful_flops / FLOPS_PER_PFLOP
    return f"${significant(total.full_usd / pflops)}" if pflops else "–"


def pflop(total: Totals) -> str:
    """Useful PFLOPs (1e15 operations)."""
    return significant(total.useful_flops / FLOPS_PER_PFLOP, 4) if total.useful_flops else "–"


def work_by(ledger: Ledger, key: Key) -> dict[str, Totals]:
    """Totals of the work alone, and of its data, by ``key``."""
    return ledger.only(lambda line: not line.unused).by(key)


def meaning(report: Report) -> str:
    """The report in one sentence."""
    plan, ledger = report.plan, report.plan.ledger
    whole = plan.jobs + len(plan.left_out)
    jobs = count(whole, "job")
    ran = (
        f"{number(plan.jobs)} of {jobs}" if plan.left_out else f"all {jobs}" if whole > 1 else jobs
    )
    if report.proof is None:
        had = f"{count(plan.jobs, 'job')} held GPUs in {period(ledger.start, ledger.end)}"
        return f"{had}, for {usd(ledger.total.usd)}."
    fraction = report.proof.gap_fraction
    parts = [
        f"This plan runs {ran} of {period(ledger.start, ledger.end)} for {usd(ledger.total.usd)}"
    ]
    if report.baseline:
        parts.append(against(plan, report.baseline))
    if fraction <= 0:
        parts.append("and it is proven that no plan can do it for less")
    else:
        parts.append(
            f"and it is proven that no plan can be more than {percent(fraction, 2)} better"
        )
    return ", ".join(parts) + "."


def same_jobs(plan: Outcome, baseline: Outcome) -> bool:
    """Whether both leave out the same jobs, so that their money can be compared as it stands."""
    return {j.job for j in plan.left_out} == {j.job for j in baseline.left_out}


def per_flop(plan: Outcome, baseline: Outcome) -> bool:
    """Whether the two are compared by money per useful FLOP: see `saving`."""
    counted = plan.ledger.total.useful_flops and baseline.ledger.total.useful_flops
    return bool(counted) and not same_jobs(plan, baseline)


def saving(plan: Outcome, baseline: Outcome) -> tuple[float, float]:
    """USD saved against the baseline, lateness and moving included, and as a fraction of its sum.

    Where the two do not run the same jobs, the baseline is charged for the plan's useful FLOPs at
    its own price for one: money alone would flatter whoever runs less.
    """
    ours, theirs = plan.ledger.total, baseline.ledger.total
    share = ours.useful_flops / theirs.useful_flops if per_flop(plan, baseline) else 1.0
    spent = (theirs.usd + _beside(baseline)) * share
    saved = spent - ours.usd - _beside(plan)
    return saved, saved / spent if spent else 0.0


def _beside(outcome: Outcome) -> float:
    """What running the jobs costs beside their money."""
    return outcome.moving_usd + outcome.lateness_usd


def against(plan: Outcome, baseline: Outcome) -> str:
    """How the money, with lateness and moving where there are any, compares with the baseline's."""
    saved, fraction = saving(plan, baseline)
    less = "less" if saved >= 0 else "more"
    per = " per useful FLOP" if per_flop(plan, baseline) else ""
    late = " and lateness" if plan.lateness_usd or baseline.lateness_usd else ""
    return f"{percent(abs(fraction))} {less} money{late}{per} than {FCFS.lower()}"


def share_title(key: Key, ledger: Ledger) -> str:
    """The finding of a break-down: who took most."""
    whole = ledger.total.usd
    groups = ledger.by(key) if key is Key.POOL else work_by(ledger, key)
    named_groups = [(name, sums) for name, sums in groups.items() if name]
    if not named_groups or not whole:
        return f"Cost by {key.value}"
    name, most = named_groups[0]
    who = f"{name[:1].upper()}{name[1:]}" if key is Key.TEAM else f"The {key.value} {name}"
    return f"{who} used {percent(most.usd / whole)} of the spend"


def jobs_title(ledger: Ledger) -> str:
    """How concentrated the spend is."""
    jobs = [t.usd for t in work_by(ledger, Key.JOB).values()]
    whole = ledger.total.usd
    if len(jobs) < 3 or not whole:
        return "Cost by job"
    few = min(5, len(jobs) // 2)
    share = percent(sum(jobs[:few]) / whole)
    return f"The {few} dearest of {count(len(jobs), 'job')} make up {share} of the spend"


def plan_title(plan: Outcome) -> str:
    """How much runs where."""
    pools = len(work_by(plan.ledger, Key.POOL))
    return f"{count(plan.jobs, 'job')} on {count(pools, 'pool')}, over time"


def use_title(ledger: Ledger) -> str:
    """How busy the paid GPUs are."""
    busy = ledger.total.utilisation_fraction
    return f"GPUs that are paid for work {percent(busy)} of their time"


def idle_title(ledger: Ledger) -> str:
    """What idleness costs, and where most."""
    idle = ledger.only(lambda line: line.unused)
    if not idle.lines:
        return "No GPU that is paid for stands idle"
    dearest = max(idle.by(Key.POOL).items(), key=lambda item: item[1].full_usd)
    whole = idle.total.full_usd
    most = f", {percent(dearest[1].full_usd / whole)} of it on {dearest[0]}" if whole else ""
    return f"Idle GPUs and start-up cost {usd(whole)}{most}"


def baseline_title(plan: Outcome, baseline: Outcome) -> str:
    """What first-come-first-served would have done."""
    more = baseline.ledger.total.usd - plan.ledger.total.usd
    word = "more" if more >= 0 else "less"
    text = f"{FCFS} would have spent {usd(abs(more))} {word}"
    fewer = plan.jobs - baseline.jobs
    if fewer:
        text += f" and run {count(abs(fewer), 'job')} {'fewer' if fewer > 0 else 'more'}"
    return text


def energy_title(total: Totals) -> str:
    """What the work draws and emits."""
    text = f"The work draws {energy(total.joules)}"
    return f"{text} and emits {carbon(total.grams_co2)} of CO₂" if total.grams_co2 else text


def gpu_work_title(rows: Sequence[GpuWork]) -> str:
    """How many GPU-hours were watched, and how far they were used."""
    watched = math.fsum(row.gpu_hours for row in rows)
    used = math.fsum(row.utilised_gpu_hours for row in rows)
    share = f", utilised to {used / watched:.0%}" if watched else ""
    return f"GPUs were watched for {number(watched, 2)} GPU-hours{share}"


def measured_title(runs: Sequence[Measured]) -> str:
    """How long runs took against their plan."""
    ratios = [
        (r.end - r.start) / (r.planned_end - r.planned_start)
        for r in runs
        if r.planned_end > r.planned_start
    ]
    if not ratios:
        return f"{count(len(runs), 'run')} measured"
    return (
        f"{count(len(runs), 'run')} took {median(ratios):.2f} times the planned hours at the median"
    )
