"""The operator: looks, decides, acts; again and again, on what has changed.

    watches ─> Inbox ─> Sight ─events─> Decider ─state─> diff ─actions─> Hands ─> API server
                 ▲                                                         │
                 └────────── what the writes answered, plans, time ────────┘

One thread decides. Writers (`scheduler.controller.hands`) carry actions out beside it, one at a
time for each job; what the API server answers is taken in as a watch would tell it. Nothing is kept
that the API server does not know: whoever starts anew finds all of it in the objects, and an action
that was cut off is asked for again. Who does not hold the lease only looks.

Only observing, workloads are never touched: what is decided is played through as if it had been
done (`scheduler.controller.shadow`), and told in conditions and metrics beside what really is.
"""

from __future__ import annotations

import secrets
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cost_models.calibration import drifts
from planner.manifests.status import JobCondition
from planner.problem import Grid
from scheduler.controller import state as states
from scheduler.controller.actions import (
    ORDER,
    Action,
    Delete,
    Observed,
    Report,
    Status,
    diff,
    learned,
    status_of,
)
from scheduler.controller.carry import Hand, Order
from scheduler.controller.decide import Decider
from scheduler.controller.hands import Hands
from scheduler.controller.keeper import Keeper
from scheduler.controller.log import Log
from scheduler.controller.metrics import Metrics
from scheduler.controller.notes import Note, Notes
from scheduler.controller.notices import Notices
from scheduler.controller.readings import Measured, Reading, Readings, Source, windows_of
from scheduler.controller.sight import WORKLOADS, Known, Sight
from scheduler.controller.sight import Settings as SightSettings
from scheduler.controller.slow import Answer, Slow
from scheduler.controller.state import (
    Cause,
    Event,
    JobFailed,
    JobIdle,
    JobUnheard,
    Phase,
    PlanArrived,
    State,
    Tick,
    Tracked,
    gpus_of,
)
from scheduler.controller.summary import (
    Stock,
    Sums,
    pool_status,
    queue_status,
    stocks,
    sums,
)
from scheduler.controller.told import (
    EVICTED,
    idle_in_words,
    read_status,
    scaled_in_words,
    status_patch,
    word,
)
from scheduler.controller.warm import warm
from scheduler.kube import errors, names
from scheduler.kube import launch as starting
from scheduler.kube.client import Kube
from scheduler.kube.informer import Inbox, Informer, Wanted, back_off_seconds, watched
from scheduler.kube.launch import Capabilities, Unsupported
from scheduler.kube.names import GPU_JOBS, RESOURCES
from scheduler.kube.ray_status import Heard, heard

TICK_SECONDS = 1.0
GATHER_SECONDS = 0.05
RECHECK_SECONDS = 60.0  # all jobs are compared with what is there this often, changed or not
SUMMARY_SECONDS = 10.0
SUMMARIES_A_SECOND = 1.0  # at most, on average: of many queues each is told of more seldom
ASK_RANK = 50
REPORT_RANK = 100  # what is told comes after what is done


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the operator works."""

    slot: timedelta = timedelta(minutes=5)
    horizon: timedelta = timedelta(hours=48)
    namespaces: tuple[str, ...] = ()
    observe_only: bool = False
    workers: int = 16
    plan_every_seconds: float = 10.0  # 0: no plan of the whole queue
    plan_seconds: float = 5.0
    decisions: states.Settings = field(default_factory=states.Settings)
    sight: SightSettings = field(default_factory=SightSettings)
    # That the tokens of Rays are made from: new ones from the first, those before may be of any
    # other. None: one of this process alone.
    ray_keys: tuple[bytes, ...] = ()
    launch: starting.Settings = field(default_factory=starting.Settings)
    source: Source | None = None  # of what the GPUs do; None: nobody tells
    calibration: Path | None = None  # a file of what was measured, read when it changes
    ask_seconds: float = 2.0  # between two questions to the Ray of a job


class Leads(Protocol):
    """Whether we act."""

    identity: str

    def is_leader(self) -> bool: ...


class Alone:
    """Nobody else is there."""

    identity = "alone"

    def is_leader(self) -> bool:
        """Always."""
        return True


class NotLeading(Exception):
    """The lease went while a write waited: it is not written."""


class Operator:
    """One operator. `run` returns when `stop` was called, or the lease was lost."""

    def __init__(
        self,
        api: Kube,
        settings: Settings,
        *,
        can: Capabilities,
        leader: Leads | None = None,
        log: Log | None = None,
        metrics: Metrics | None = None,
        watches: Iterable[Wanted] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``watches``: what is looked at; None: all that it needs."""
        self.settings, self.log, self._clock = settings, log or Log(), clock
        self.metrics = metrics or Metrics()
        self.leader: Leads = leader or Alone()
        self.inbox = Inbox()
        self.sight = Sight(replace(settings.sight, looks_on=settings.observe_only))
        self.state = _nothing(settings, self._clock())
        self.led = False  # we have acted since we started
        self._api = api
        self._keys = settings.ray_keys or (secrets.token_bytes(32),)
        self._hand = Hand(api=api, settings=settings.launch, can=can, key=self._keys[0], now=clock)
        self._asks_ray = can.ray and not can.auth_options
        self._asked_at = time.monotonic()
        self._decider = Decider()
        self._informers = [
            Informer(api, wanted, self.inbox, self._trouble)
            for wanted in (watched(settings.namespaces) if watches is None else watches)
        ]
        self._hands = Hands(self._is_done, settings.workers)
        self._notes = Notes(api, self.leader.identity)
        self._notices = Notices()
        self._slow: Slow | None = None
        self._keeper = Keeper(self.metrics)  # only observing
        self._readings: Readings | None = None
        self._measured = Measured(settings.calibration)
        self._told: dict[str, Status] = {}  # what owners know, or are about to
        self._dirty: set[str] = set()
        self._failures: dict[str, int] = {}
        self._again: dict[str, float] = {}  # when what failed is tried again
        self._said: dict[tuple[str, str], str] = {}  # faults that were told already
        self._summaries: dict[str, Any] = {}
        self._checked_at = self._summed_at = time.monotonic()
        self._stopped = threading.Event()
        self._is_warm = threading.Event()
        self._beat = time.monotonic()
        self._run_id = f"{int(time.time()):x}"

    # -- life --------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Work until `stop`; False where the lease was lost, after which nothing is written."""
        for informer in self._informers:
            informer.start()
        try:
            warm()
            self._is_warm.set()
            while not self._stopped.is_set():
                self.step(TICK_SECONDS)
                if self.led and not self.leader.is_leader():
                    self.log.error("the lease is lost: nothing more is written")
                    return False
        except Exception:  # it is in the log, whoever reads standard error; and raised again
            self.log.error("it ends by a fault of its own", trace=traceback.format_exc())
            raise
        finally:
            self.end()
        return True

    def stop(self) -> None:
        """End it soon; any thread, or a signal, may call this."""
        self._stopped.set()
        self.inbox.put(("stop", ""), None)

    def end(self) -> None:
        """Look and write no more; `run` ends so by itself."""
        for informer in self._informers:
            informer.stop()
        if self._slow is not None:
            self._slow.end()
        if self._readings is not None:
            self._readings.end()
        self._notes.end()
        self._hands.end(2.0 / max(1, self.settings.workers))

    @property
    def is_writing(self) -> bool:
        """Whether something is asked of the API server, or waits to be."""
        return len(self._hands) > 0

    def not_ready(self) -> str:
        """What is still waited for; empty: it is ready."""
        waits = [i.wanted.resource.plural for i in self._informers if not i.synced.is_set()]
        if not self._is_warm.is_set():
            return "compiling what decides"
        if waits:
            return f"not listed yet: {', '.join(sorted(set(waits)))}"
        if self.leader.is_leader() and not self.led:
            return "deciding on what is there for the first time"
        return ""

    def not_alive(self) -> str:
        """What has stopped; empty: all is well."""
        silent = time.monotonic() - self._beat
        return f"no step for {silent:.0f} s" if silent > 120 else ""

    # -- one step ----------------------------------------------------------------------------------

    def step(self, within_seconds: float) -> None:
        """Take in what came, decide, and hand out what is to be done."""
        self._beat = time.monotonic()
        came = self.inbox.take(within_seconds, GATHER_SECONDS)
        plans = self._take_in(came)
        if not self.leader.is_leader() or self.not_listed():
            return
        if not self.led:
            self._begin()
        self._calibrate()
        self._decide(plans)
        if (onlook := self.sight.onlook) is not None:
            looked_at = (name for name, one in self.sight.known.items() if one.adopted)
            real = onlook.real(looked_at, self.state.jobs)
            if self._keeper.keep(real, self.state, self.state.now):
                self._summed_at = -1e9  # it is told at once
        self._act()
        self._ask_ray()
        self._sum_up()
        self.led = True

    def not_listed(self) -> bool:
        """Whether something was not listed yet, so that what is missing may only be unknown."""
        return not self.led and not all(i.synced.is_set() for i in self._informers)

    def _take_in(self, came: Mapping[Any, Any]) -> list[Event]:
        plans: list[Event] = []
        for key, value in came.items():
            match key:
                case ("done", ("ask", name)):
                    plans += self._of_ray(name, value[0] or Heard())
                case ("done", lane):
                    self._finish(lane, *value)
                case ("plan", _):
                    plans += self._planned(value)
                case ("reading", _):
                    plans += self._heard(value)
                case (plural, name) if plural != "stop":
                    self.sight.take(plural, name, value)
        return plans

    def _begin(self) -> None:
        """We act from now on: what owners were told is what their jobs say."""
        for key, raw in self.sight.raw[GPU_JOBS.plural].items():
            if (status := read_status(raw)) is not None:
                self._told[key] = status
        self.state = _nothing(self.settings, self._clock())
        if self.settings.observe_only:
            self._keeper.open(self.sight.raw[names.GPU_QUEUES.plural].values(), self.state.now)
        if self.settings.plan_every_seconds > 0:
            self._slow = Slow(
                lambda answer: self.inbox.put(("plan", ""), answer),
                every_seconds=self.settings.plan_every_seconds,
                solve_seconds=self.settings.plan_seconds,
                died=self._planner_died,
            )
        if self.settings.source is not None:
            self._readings = Readings(
                self.settings.source,
                lambda: windows_of(self.state.queues),
                lambda reading: self.inbox.put(("reading", ""), reading),
            )
        self.log.say("acting", jobs=len(self.sight.raw[GPU_JOBS.plural]))
        self.metrics.leading.set(1)

    # -- deciding ----------------------------------------------------------------------------------

    def _decide(self, plans: list[Event]) -> None:
        now = self._clock()
        events = [*self._settled(now), *plans] or [Tick(at=now)]
        for _ in range(4):  # what is decided may be known to have happened already
            self._run(events)
            events = list(self._news())
            if not events:
                return

    def _settled(self, now: datetime) -> Iterable[Event]:
        events = list(self.sight.events(self.state, now))
        self._dirty |= self.sight.changed | self._due()
        self.sight.changed = set()
        events += self._learned(self._dirty, replace(self.state, now=now))
        return events

    def _due(self) -> set[str]:
        """Jobs to look at though nothing was told of them: what failed is tried again, and all now
        and then. What was told of one while it was written to may have gone unheard."""
        now = time.monotonic()
        due = {key for key, at in self._again.items() if at <= now}
        for key in due:
            del self._again[key]
        if now - self._checked_at > RECHECK_SECONDS:
            self._checked_at = now
            due |= self.state.jobs.keys() | self.sight.workloads.keys()
        return due

    def _news(self) -> Iterable[Event]:
        if self.settings.observe_only:
            yield from self._keeper.played(self.state)
            return
        yield from self._learned(self._dirty, self.state)

    def _learned(self, keys: Iterable[str], state: State) -> tuple[Event, ...]:
        if self.settings.observe_only:
            return ()
        known = {key: state.jobs[key] for key in keys if key in state.jobs}
        busy = {key for key in known if self._hands.is_busy(("work", key))}
        part = replace(state, jobs={k: v for k, v in known.items() if k not in busy})
        return learned(self._observed(known), part)

    def _run(self, events: list[Event]) -> None:
        before, began = self.state, time.perf_counter()
        self.state = self._decider.run_all(events, before)
        self.metrics.decision.observe(time.perf_counter() - began)
        if self.state.jobs is before.jobs:
            return
        self.log.decision = self._decision()
        changed = {
            key for key, one in self.state.jobs.items() if before.jobs.get(key) is not one
        } | (before.jobs.keys() - self.state.jobs.keys())
        self._dirty |= changed
        for key in changed:
            old, new = before.jobs.get(key), self.state.jobs.get(key)
            if old is not None and (new is None or new.uid != old.uid):
                self._told.pop(key, None)
                self._failures.pop(key, None)
            self._tell_of(old, new)
        if changed and self._slow is not None:
            self._slow.ask(self.state)

    def _decision(self) -> str:
        return f"{self._run_id}-{self.state.decision}"

    def _tell_of(self, old: Tracked | None, new: Tracked | None) -> None:
        """The log, the metrics and the Events of one job that has changed."""
        self._tell_of_idle(old, new)
        self._tell_of_unheard(old, new)
        self._tell_of_scaling(old, new)
        if new is None or (old is not None and old.phase is new.phase and old.why == new.why):
            return
        if new.phase is Phase.LAUNCHING and (old is None or old.attempt < new.attempt):
            self.metrics.wait.observe(max(0.0, (self.state.now - new.arrived).total_seconds()))
            if self.settings.observe_only:
                self.metrics.would_launch.inc()
        self.log.say(
            str(new.phase),
            job=new.name,
            reason=new.why.reason,
            why=new.why.message,
            binds=",".join(new.why.binds),
            pool="" if new.mode is None else new.mode.pool,
            nodes=len(new.nodes) or None,
            attempt=new.attempt or None,
        )
        known = self.sight.known.get(new.name)
        waits = new.phase in (Phase.WAITING, Phase.SUSPENDED, Phase.FAILED)
        if known is not None and (waits or new.why.reason in EVICTED) and new.why.message:
            text = new.why.message
            if known.adopted and new.why.reason == Cause.IDLE:
                text = f"{text}: its annotation {names.IDLE} taken away"
            self._note(known, word(new.why.reason), text, warning=waits)

    def _tell_of_scaling(self, old: Tracked | None, new: Tracked | None) -> None:
        """A service has more or fewer replicas than in the slot before, and for which demand."""
        if old is None or new is None or not new.scales or not (old.holds and new.holds):
            return
        if old.replicas == new.replicas:
            return
        text = scaled_in_words(old, new, self.state.grid)
        self.log.say("scaled", job=new.name, what=text)
        if (known := self.sight.known.get(new.name)) is not None:
            self._note(known, "Scaled", text)

    def _tell_of_idle(self, old: Tracked | None, new: Tracked | None) -> None:
        if new is None or new.idle_since is None or (old is not None and old.idle_since):
            return
        text = idle_in_words(status_of(new, self.state))
        self.log.warning("idle", job=new.name, what=text)
        if (known := self.sight.known.get(new.name)) is not None:
            self._note(known, "IdleWorkload", text, warning=True)

    def _tell_of_unheard(self, old: Tracked | None, new: Tracked | None) -> None:
        if new is None or not new.unheard or (old is not None and old.unheard == new.unheard):
            return
        self.log.warning("a token is refused", job=new.name, what=new.unheard)
        if (known := self.sight.known.get(new.name)) is not None:
            self._note(known, JobCondition.TOKEN_REFUSED, new.unheard, warning=True)

    def _note(self, known: Known, reason: str, text: str, *, warning: bool = False) -> None:
        if self.settings.observe_only and known.adopted:
            return
        self._notes.say(
            Note(
                resource=known.resource,
                namespace=known.manifest.metadata.namespace,
                name=known.name,
                uid=known.uid,
                reason=reason,
                text=text,
                warning=warning,
            )
        )

    def _planned(self, answer: Answer) -> list[Event]:
        if answer.plan is None or answer.grid is None:
            self.log.warning("no plan of the whole queue", why=answer.error)
            return []
        self.metrics.gap.set(min(answer.plan.gap_fraction, 1e9))
        self.metrics.solve.set(answer.plan.solve_seconds)
        return [PlanArrived(at=self._clock(), plan=answer.plan, grid=answer.grid)]

    def _heard(self, reading: Reading) -> list[Event]:
        """What the GPUs do: who leaves theirs idle, and which nodes are given nothing new."""
        self.metrics.readings.set(0.0 if reading.error else 1.0)
        if reading.error:
            self.log.warning("nothing is told of the GPUs", why=reading.error)
            return []
        self.sight.distrust(reading.bad)
        since = {
            self.sight.job_of_pod(each.owner.namespace, each.owner.job, each.owner.pod): each.since
            for each in reading.idle
        }
        running = (n for n, one in self.state.jobs.items() if one.phase is Phase.RUNNING)
        return [JobIdle(at=self._clock(), name=n, since=since.get(n)) for n in running]

    def _calibrate(self) -> None:
        found = self._measured.changed()
        if isinstance(found, str):
            self.log.warning("the calibration is not used", why=found)
        elif found is not None:
            self.sight.calibrate(found)
            self.log.say("calibrated", measurements=len(found.measurements))
            for drift in drifts(found.measurements):
                self.log.warning("a drift", subject=str(drift.subject), what=str(drift))

    def _planner_died(self, why: str) -> None:
        self.metrics.restarts.inc()
        self.log.warning("the planner's process died, and is started again", why=why)

    # -- acting ------------------------------------------------------------------------------------

    def _act(self) -> None:
        stopping = {k for k, one in self.state.jobs.items() if one.phase is Phase.STOPPING}
        keys = self._dirty | stopping
        self._dirty = set()
        self._notices.keep(stopping)
        part = {key: self.state.jobs[key] for key in keys if key in self.state.jobs}
        observed = replace(self._observed(keys), waited=self._waited(stopping))
        for action in diff(observed, replace(self.state, jobs=part)):
            self._hand_out(action)
        self.metrics.pending.set(len(self._hands))
        self._faults()

    def _observed(self, keys: Iterable[str]) -> Observed:
        workloads = {k: self.sight.workloads[k] for k in keys if k in self.sight.workloads}
        statuses = {k: self._told[k] for k in keys if k in self._told}
        return Observed(workloads=workloads, statuses=statuses)

    def _waited(self, stopping: Iterable[str]) -> Mapping[str, float]:
        """Seconds since those that are to stop were told."""
        now = datetime.now(UTC)
        return {
            key: self._notices.waited_seconds(key, workload.told, now)
            for key in stopping
            if (workload := self.sight.workloads.get(key)) is not None and workload.told is not None
        }

    def _hand_out(self, action: Action) -> None:
        key = action.job
        if isinstance(action, Report):
            if not self._hands.is_busy(("work", key)):  # else it is told what came of that
                self._report(key, action.status)
        elif not self.settings.observe_only:
            lane = "work", key
            waits = self._again.get(key, 0.0) > time.monotonic()
            told_first = isinstance(action, Delete) and self._hands.is_busy(("report", key))
            if waits or self._hands.is_busy(lane) or told_first:
                return  # it is looked at again when that is over
            order = self._order(action)
            self._hands.put(lane, ORDER.index(type(action)), lambda: self._carry(order))

    def _order(self, action: Action) -> Order:
        key = action.job
        plural, name = self.sight.carriers.get(key, ("", ""))
        one = self.state.jobs.get(key)
        workload = self.sight.workloads.get(key)
        held = {node for node, _ in workload.record.nodes} if workload is not None else set()
        return Order(
            action=action,
            known=self.sight.who(key),
            job=one.job if one is not None else None,
            resource=WORKLOADS.get(plural),
            raw=self.sight.raw[plural].get(name) if plural else None,
            fleet=self.sight.fleet,
            lost=self.sight.lost & held,
        )

    def _carry(self, order: Order) -> Any:
        """In a writer's thread."""
        if not self.leader.is_leader():
            raise NotLeading
        self.metrics.writes.labels(type(order.action).__name__.lower()).inc()
        return self._hand.carry(order)

    def _report(self, key: str, status: Status) -> None:
        known = self.sight.known.get(key)
        self._told[key] = status
        if known is None or known.adopted:  # its object has no status of ours
            return
        raw = self.sight.raw[GPU_JOBS.plural].get(key)
        if raw is None:
            return
        carrier = self.sight.carriers.get(key)
        launched = None
        if carrier is not None:
            launched = WORKLOADS[carrier[0]].kind, carrier[1].partition("/")[2]
        decision = self._decision()

        def write() -> Any:
            if not self.leader.is_leader():
                raise NotLeading
            self.metrics.writes.labels("status").inc()
            patch = status_patch(
                status,
                raw.get("status") or {},
                self._clock().replace(microsecond=0),
                decision=decision,
                launched=launched,
                observe_only=self.settings.observe_only,
            )
            namespace = known.manifest.metadata.namespace
            made = self._api.patch(GPU_JOBS, known.name, patch, namespace, subresource="status")
            return ((GPU_JOBS.plural, key, made),)

        self._hands.put(("report", key), REPORT_RANK, write)

    def _ask_ray(self) -> None:
        """How Ray jobs do, where KubeRay cannot know: it has no token."""
        now = time.monotonic()
        if not self._asks_ray or now - self._asked_at < self.settings.ask_seconds:
            return
        self._asked_at = now
        for key, (plural, name) in self.sight.carriers.items():
            raw = self.sight.raw[plural].get(name)
            workload = self.sight.workloads[key]
            if plural != names.RAY_JOBS.plural or raw is None or workload.adopted:
                continue
            one, known = self.state.jobs.get(key), self.sight.known.get(key)
            if one is None or known is None or not one.holds or self._hands.is_busy(("ask", key)):
                continue
            launch = starting.Launch(
                job=known.manifest, uid=known.uid, gangs=(), start=self.state.now
            )
            asks = partial(heard, self._api, raw, launch, self._keys)
            self._hands.put(("ask", key), ASK_RANK, asks)

    def _of_ray(self, key: str, answer: Heard) -> list[Event]:
        """What a Ray said of its job; one that was not reached says nothing, also not of tokens."""
        self.sight.hear(key, answer.word)
        one = self.state.jobs.get(key)
        if one is None or not (answer.word or answer.refused):
            return []
        if one.unheard == answer.refused and not (answer.mends and one.job.may_stop):
            return []
        at, why, mends = self._clock(), answer.refused, answer.mends
        return [JobUnheard(at=at, name=key, why=why, mends=mends)]

    # -- what became of it -------------------------------------------------------------------------

    def _is_done(self, lane: Any, result: Any, error: Exception | None) -> None:
        """In a writer's thread."""
        self.inbox.put(("done", lane), (result, error))

    def _finish(self, lane: Any, result: Any, error: Exception | None) -> None:
        what, key = lane
        self._dirty.add(key)
        if error is None:
            self._failures.pop(key, None)
            for plural, name, raw in result or ():
                self.sight.take(plural, name, raw)
            return
        if what in ("report", "summary"):
            self._told.pop(key, None)
            self._summaries.pop(key, None)
        told = what != "work" and isinstance(error, errors.NotFound)
        if told or isinstance(error, NotLeading):
            return  # it is gone: the watch tells, or has told already
        self._back_off(what, key, error)

    def _back_off(self, what: str, key: str, error: Exception) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        seconds = back_off_seconds(failures)
        self._again[key] = time.monotonic() + seconds
        self._dirty.discard(key)
        self.metrics.errors.labels(type(error).__name__).inc()
        if isinstance(error, errors.Conflict) and failures < 3:
            return  # somebody was faster: what they wrote is on its way to us
        text = f"{type(error).__name__}: {error}"
        self.log.warning(
            "a write failed", job=key, what=what, why=text, againSeconds=round(seconds, 1)
        )
        known = self.sight.known.get(key)
        if known is not None and isinstance(error, errors.AlreadyExists):
            text = "what would carry it out has the name of something that is there"
            self._note(known, "NameTaken", text, warning=True)
        if known is not None and isinstance(error, errors.Invalid | errors.Refused | Unsupported):
            self._note(known, "CannotLaunch", str(error), warning=True)
            self._refused(key, error)

    def _refused(self, key: str, error: Exception) -> None:
        """A launch that the API server does not take frees its nodes, and counts as a failure."""
        one = self.state.jobs.get(key)
        if one is not None and one.phase is Phase.LAUNCHING and key not in self.sight.workloads:
            final = isinstance(error, Unsupported | errors.Terminating)
            self._run([JobFailed(at=self._clock(), name=key, message=str(error), final=final)])

    def _trouble(self, resource: names.Resource, why: str) -> None:
        self.metrics.errors.labels("watch").inc()
        self.log.warning("a watch failed", kind=resource.kind, why=why)

    def _faults(self) -> None:
        """Objects that are left alone: said once, as long as the reason is the same."""
        for handle, why in self.sight.faults.items():
            if self._said.get(handle) == why:
                continue
            self._said[handle] = why
            plural, key = handle
            raw = self.sight.raw[plural].get(key)
            self.log.warning("left alone", kind=plural, name=key, why=why)
            if raw is not None and "kind" in raw and not self.settings.observe_only:
                self._notes.say(_of_object(raw, "NotPlanned", why))
        for handle in self._said.keys() - self.sight.faults.keys():
            del self._said[handle]

    # -- pools, queues, metrics --------------------------------------------------------------------

    def _sum_up(self) -> None:
        now = time.monotonic()
        objects = len(self.sight.raw[names.GPU_QUEUES.plural])
        every = max(SUMMARY_SECONDS, objects / SUMMARIES_A_SECOND)
        if now - self._summed_at < every and self.led:
            return
        self._summed_at = now
        self._measure()
        found = sums(self.state)
        for key, raw in self.sight.raw[names.GPU_QUEUES.plural].items():
            fault = self.sight.faults.get((names.GPU_QUEUES.plural, key), "") or self.state.refused
            held = found.get(raw["metadata"]["name"], Sums())
            observed = self._keeper.told(raw["metadata"]["name"])
            self._summary(names.GPU_QUEUES, key, raw, queue_status(raw, held, fault, observed))
        stocked = stocks(self.state)
        for key, raw in self.sight.raw[names.GPU_POOLS.plural].items():
            name = raw["metadata"]["name"]
            fault = self.sight.faults.get((names.GPU_POOLS.plural, key), "")
            remark = self.sight.remarks.get(f"GpuPool {name}", "")
            status = pool_status(raw, stocked.get(name, Stock()), fault, remark)
            self._summary(names.GPU_POOLS, key, raw, status)

    def _summary(self, resource: names.Resource, key: str, raw: Any, status: Any) -> None:
        handle = f"{resource.plural}{key}"
        if self._summaries.get(handle) == status:
            return
        self._summaries[handle] = status
        name = raw["metadata"]["name"]

        def write() -> Any:
            if not self.leader.is_leader():
                raise NotLeading
            self.metrics.writes.labels("status").inc()
            made = self._api.patch(resource, name, {"status": status}, subresource="status")
            return ((resource.plural, key, made),)

        self._hands.put(("summary", handle), REPORT_RANK, write)

    def _measure(self) -> None:
        jobs = self.state.jobs.values()
        phases = Counter(one.phase for one in jobs)
        for phase in Phase:
            self.metrics.jobs.labels(str(phase)).set(phases[phase])
        queues = Counter(one.job.queue for one in jobs if one.phase in states.PENDING)
        for rules in self.state.queues:
            self.metrics.waiting.labels(rules.queue.name).set(queues[rules.queue.name])
        usd = flops = 0.0
        used: Counter[str] = Counter()
        for one in jobs:
            mode = one.mode
            if one.holds and mode is not None:
                usd += one.replicas * mode.usd_per_replica_hour
                flops += one.replicas * mode.work_per_replica_hour * mode.flops_per_work
                used[mode.pool] += round(gpus_of(one))
        self.metrics.committed.set(usd)
        self.metrics.usd_per_pflop.set(usd / (flops / 1e15) if flops else 0.0)
        total = Counter(node.pool for node in self.state.nodes if not node.cordoned)
        for pool in self.state.pools:
            gpus = total[pool.name] * pool.gpus_per_node
            self.metrics.gpus.labels(pool.name, "total").set(gpus)
            self.metrics.gpus.labels(pool.name, "held").set(used[pool.name])


def _nothing(settings: Settings, now: datetime) -> State:
    """A world in which nothing is known yet."""
    seconds = int(settings.slot.total_seconds())
    start = datetime.fromtimestamp(now.timestamp() // seconds * seconds, UTC)
    slots = max(1, int(settings.horizon.total_seconds()) // seconds)
    grid = Grid(start=start, slot_seconds=seconds, slots=slots)
    return State(now=now, grid=grid, pools=(), nodes=(), settings=settings.decisions)


def _of_object(raw: Any, reason: str, text: str) -> Note:
    metadata = raw["metadata"]
    return Note(
        resource=RESOURCES[raw["apiVersion"], raw["kind"]],
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        uid=metadata["uid"],
        reason=reason,
        text=text,
        warning=True,
    )
