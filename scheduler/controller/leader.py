"""Who of several operators acts: the one that holds a Lease, renews it, and stops when it cannot.

As client-go does it: the holder writes the time every `retry_seconds`; another takes over when it
has seen no write for `lease_seconds` by its own clock. The holder that could not write for
`renew_seconds`, which is less, stops acting: so two never act at once, whatever their clocks say,
as long as they run at about the same speed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scheduler.kube import names
from scheduler.kube.api import Api, Raw
from scheduler.kube.errors import Conflict, KubeError, NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Of a lease. Raises `ValueError` where they cannot keep two holders apart."""

    lease_seconds: float = 15.0
    renew_seconds: float = 10.0
    retry_seconds: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_seconds < self.renew_seconds < self.lease_seconds:
            raise ValueError(
                f"found lease {self.lease_seconds:g} s, renew {self.renew_seconds:g} s, retry "
                f"{self.retry_seconds:g} s; allowed: retry below renew below lease"
            )


class Leader:
    """One candidate. `is_leader` may be asked by any thread, at any time, and costs nothing."""

    def __init__(
        self,
        api: Api,
        *,
        name: str,
        namespace: str,
        identity: str,
        terms: Terms | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.identity = identity
        self.terms = terms or Terms()
        self._api, self._name, self._namespace = api, name, namespace
        self._clock, self._now = clock, now
        self._until = -1e9  # up to when we act
        self._seen: tuple[Any, float] = (None, clock())  # what the lease said, and since when
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.trouble = ""

    def is_leader(self) -> bool:
        """Whether we act."""
        return self._clock() < self._until

    def start(self) -> None:
        """Try from now on, in a thread."""
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give the lease up, if we have it."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(self.terms.retry_seconds)
        if self.is_leader():
            self._until = -1e9
            self.give_up()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.attempt()
            self._stopped.wait(self.terms.retry_seconds)

    def attempt(self) -> bool:
        """Take or renew it once; whether we have it."""
        began = self._clock()
        try:
            held = self._attempt()
            self.trouble = ""
        except Conflict:
            held = False
        except KubeError as error:
            self.trouble = f"{type(error).__name__}: {error}"
            return self.is_leader()
        if held:  # counted from before the write: it can only have happened later
            self._until = began + self.terms.renew_seconds
        elif self.is_leader():
            self._until = -1e9
        return held

    def _attempt(self) -> bool:
        try:
            lease = self._api.get(names.LEASES, self._name, self._namespace)
        except NotFound:
            if not self._may_create():
                return False
            self._api.create(names.LEASES, self._made({}, transitions=0))
            return True
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        said = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        if said != self._seen[0]:
            self._seen = said, self._clock()
        if holder not in ("", self.identity) and not self._is_over(spec):
            return False
        transitions = int(spec.get("leaseTransitions") or 0) + (holder != self.identity)
        self._api.replace(names.LEASES, self._made(lease, transitions=transitions))
        return True

    def _may_create(self) -> bool:
        """Whether nobody can still act by a lease that somebody has deleted."""
        said, at = self._seen
        is_other = said is not None and said[0] not in ("", self.identity)
        return not is_other or self._clock() - at > self.terms.lease_seconds

    def _is_over(self, spec: Raw) -> bool:
        """Whether its holder has been silent for too long, by our clock."""
        seconds = float(spec.get("leaseDurationSeconds") or self.terms.lease_seconds)
        return self._clock() - self._seen[1] > seconds

    def _made(self, lease: Raw, *, transitions: int) -> Raw:
        now = self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = lease.get("spec") or {}
        mine = old.get("holderIdentity") == self.identity
        metadata = {"name": self._name, "namespace": self._namespace, **lease.get("metadata", {})}
        return {
            "apiVersion": names.LEASES.api_version,
            "kind": names.LEASES.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": max(1, round(self.terms.lease_seconds)),
                "acquireTime": old.get("acquireTime") if mine else now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }

    def give_up(self) -> None:
        """Let the next one have it at once."""
        try:
            lease = self._api.get(names.LEASES, self._name, self._namespace)
            if (lease.get("spec") or {}).get("holderIdentity") == self.identity:
                lease["spec"]["holderIdentity"] = ""
                lease["spec"]["leaseDurationSeconds"] = 1
                self._api.replace(names.LEASES, lease)
        except KubeError:
            return  # it runs out by itself
