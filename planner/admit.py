"""Admission: what arrives is booked; where it finds no room, what has not started is booked anew.

A job that waits holds a place in the future only because somebody has to be told when it will
start. When an arrival fits nowhere, such jobs of no higher tier give back what they hold, and all
are placed again, one by one, with the arrival and those left out before that could still start: by
tier, then the one that must start first. That stands where less is left out of the upper tiers, or
as much, and all of it costs less at shadow prices; else nothing has happened. What runs is never
touched: that is for the plan of the whole queue, which prices it.

An overload would have everything booked anew at every arrival: at most `MOST_ANEW` jobs are, those
with the most time left, and once that has changed nothing it is not tried again in the same slot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import nlargest

from planner.fast import Case, Placed, case_of, decide_case
from planner.live import Live
from planner.plan import Reason, Segment, Unplaced
from planner.problem import Job, Work

MOST_ANEW = 256

NO_ROOM = (Reason.CAPACITY, Reason.QUEUE_LIMIT, Reason.KEPT_BACK, Reason.BUDGET)

Answer = Placed | Unplaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What became of an arrival, and of those that were placed anew for it."""

    answer: Answer
    moved: tuple[tuple[str, Answer], ...] = ()  # other jobs whose answer is another now


class Desk:
    """Admits jobs to a live index; knows which have not started, and which found no room."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.decisions = 0
        self._waiting: dict[str, tuple[Case, int]] = {}  # with the slot each is to start in
        self._out: dict[str, Case] = {}
        self._in_vain = -1  # the last slot in which booking anew has changed nothing
        self._awaited: set[str] = set()  # jobs that others wait for: these keep their times
        for job, segments in live.booked.values():
            case = case_of(live, job)
            if isinstance(case, Case):
                self._enter(case, segments)

    def admit(self, job: Job, now: int) -> Admitted:
        """Book ``job`` where it costs least, or say why not; slot ``now`` has not begun yet."""
        case = case_of(self.live, job)
        if isinstance(case, Unplaced):
            return Admitted(answer=case)
        answer = self._place(case, now)
        if isinstance(answer, Placed) or answer.reason not in NO_ROOM:
            return Admitted(answer=answer)
        self._out[job.name] = case
        moved = self._book_anew(case, now) if self._in_vain < now else {}
        if not moved:
            self._in_vain = now
        return Admitted(
            answer=moved.pop(job.name, answer),
            moved=tuple(sorted(moved.items(), key=lambda each: each[0])),
        )

    def _place(self, case: Case, now: int) -> Answer:
        self.decisions += 1
        answer = decide_case(self.live, case, now)
        if isinstance(answer, Placed):
            self.live.book(case.job, answer.segments)
            self._enter(case, answer.segments)
        return answer

    def _enter(self, case: Case, segments: tuple[Segment, ...]) -> None:
        if isinstance(case.job.need, Work):
            self._waiting[case.job.name] = (case, segments[0].start)
        self._awaited.update(case.job.after)
        self._out.pop(case.job.name, None)

    def _leave(self, cases: Iterable[Case]) -> None:
        for case in cases:
            if case.job.name in self.live.booked:
                self.live.release(case.job.name)
            self._waiting.pop(case.job.name, None)

    def _book_anew(self, arrival: Case, now: int) -> dict[str, Answer]:
        """Place all again that may be; the answers that are other ones now, if that pays."""
        cases = self._movable(arrival, now)
        held = {name: self.live.booked[name][1] for name in cases if name in self.live.booked}
        was = {n: reduced_usd(self.live, cases[n], segments) for n, segments in held.items()}
        self._leave(cases.values())
        ranked = sorted(cases.values(), key=lambda c: (-c.job.rank, c.latest, c.job.name))
        answers = {case.job.name: self._place(case, now) for case in ranked}
        usd = {n: a.reduced_usd for n, a in answers.items() if isinstance(a, Placed)}
        if _worth(cases, usd) < _worth(cases, was) and not _loses_required(cases, was, usd):
            self._out.update({name: cases[name] for name in cases if name not in usd})
            return {n: a for n, a in answers.items() if _other(a, held.get(n))}
        self._leave(cases.values())
        for name, segments in held.items():
            self.live.book(cases[name].job, segments)
            self._enter(cases[name], segments)
        self._out.update({name: cases[name] for name in cases if name not in held})
        return {}

    def _movable(self, arrival: Case, now: int) -> dict[str, Case]:
        """Jobs of no higher tier than the arrival that wait, or are out and could still run."""
        for name in [name for name, (_, start) in self._waiting.items() if start < now]:
            del self._waiting[name]
        self._out = {name: case for name, case in self._out.items() if case.latest >= now}
        found = {name: case for name, (case, _) in self._waiting.items()} | self._out
        others = (
            case
            for name, case in found.items()
            if case.job.rank <= arrival.job.rank
            and name not in self._awaited
            and case is not arrival
        )
        most = nlargest(MOST_ANEW, others, key=lambda case: (case.latest, case.job.name))
        return {case.job.name: case for case in (arrival, *most)}


def _other(answer: Answer, segments: tuple[Segment, ...] | None) -> bool:
    """Whether an answer is another than the one that was given before."""
    now = answer.segments if isinstance(answer, Placed) else None
    return now != segments


def _loses_required(
    cases: Mapping[str, Case], was: Mapping[str, float], now: Mapping[str, float]
) -> bool:
    return any(cases[name].job.required for name in was if name not in now)


def _worth(cases: Mapping[str, Case], usd: Mapping[str, float]) -> tuple[float, ...]:
    """What is left out of each tier but the lowest, highest first, and the cost of it all (USD)."""
    left = dict.fromkeys(sorted({c.job.rank for c in cases.values()}, reverse=True), 0.0)
    for name, case in cases.items():
        if name not in usd:
            left[case.job.rank] += case.job.unplaced_usd
    upper = [round(usd_left, 6) for usd_left in left.values()][:-1]
    return (*upper, math.fsum([*usd.values(), *left.values()]))


def reduced_usd(live: Live, case: Case, segments: tuple[Segment, ...]) -> float:
    """What a booked job costs where it is: money, start-up, lateness, and what it takes."""
    w = next(w for w, way in enumerate(case.ways) if way.number == segments[0].mode)
    way, start, end = case.ways[w], segments[0].start, segments[-1].end
    late = max(0, end - case.job.due) if case.job.due is not None else 0
    late_usd = late * live.grid.slot_hours * case.job.lateness_usd_per_hour
    dear = live.dear[way.left.index]
    taken = float(case.columns.gpus[w] * (dear[end] - dear[start]) + case.columns.toll_usd[w])
    return way.usd + way.startup_usd + late_usd + taken
