"""What is known of who has the GPUs, kept fresh beside the loop that reads them.

The kubelet and the API server may take seconds to answer, and a tick has none to spare: a thread
of its own asks them, and a tick takes what they said last. Processes are looked up in the tick that
first sees them; what one has said is kept for a while, because a pid is soon another's.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from telemetry.apiserver import ApiServer, ApiServerError
from telemetry.cgroups import PROC, Origin, origin
from telemetry.owners import Known
from telemetry.podresources import PodResources
from telemetry.samples import GpuSample

ASK_SECONDS = 10.0
ORIGIN_SECONDS = 60.0
_UUID = re.compile(r"^GPU UUID:\s*(\S+)", re.MULTILINE)
_MINOR = re.compile(r"^Device Minor:\s*(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is known at a tick, and how old that is."""

    known: Known
    pods_age_seconds: float | None = None  # since the kubelet answered; None: it never has


class Watch:
    """Asks who has what. ``tell`` hears of each new failure, and of its end."""

    def __init__(
        self,
        kubelet: PodResources,
        *,
        node: str,
        api: ApiServer | None = None,
        proc: Path = PROC,
        tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kubelet, self._node, self._api = kubelet, node, api
        self._proc, self._tell, self._clock = proc, tell, clock
        self._known = Known()
        self._answered_at: float | None = None
        self._failures: dict[str, str] = {}
        self._origins: dict[int, tuple[float, Origin]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, every_seconds: float = ASK_SECONDS) -> None:
        """Asks once, and from then on in a thread."""
        self.ask()

        def go_on() -> None:
            while not self._stop.wait(every_seconds):
                self.ask()

        self._thread = threading.Thread(target=go_on, name="who", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Asks no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=1)

    def ask(self) -> None:
        """Asks all there is to ask, once; what does not answer leaves what it said last."""
        held = self._kubelet.held()
        self._note("kubelet", held.failure)
        if held.age_seconds is not None:
            self._answered_at = self._clock() - held.age_seconds
        known = replace(self._known, held=held.pods, devices=devices(self._proc))
        if self._api is not None:
            known = self._of_api(self._api, known)
        self._known = known

    def told(self, samples: Sequence[GpuSample]) -> Told:
        """What is known now of those who could have these GPUs."""
        pids = {pid for sample in samples for pid in _pids(sample)}
        age = None if self._answered_at is None else self._clock() - self._answered_at
        known = replace(
            self._known,
            origins=self._of(pids),
            devices=with_instances(self._known.devices, samples),
        )
        return Told(known=known, pods_age_seconds=age)

    def _of_api(self, api: ApiServer, known: Known) -> Known:
        try:
            known = replace(known, pods=api.pods(self._node))
            if any(container.claimed for pod in known.held for container in pod.containers):
                known = replace(known, claimed=api.claimed(self._node))
        except ApiServerError as error:
            self._note("API server", str(error))
        else:
            self._note("API server", None)
        return known

    def _of(self, pids: Iterable[int]) -> dict[int, Origin]:
        now = self._clock()
        kept: dict[int, tuple[float, Origin]] = {}
        for pid in pids:
            until, found = self._origins.get(pid, (0.0, None))
            if found is None or now >= until:
                until, found = now + ORIGIN_SECONDS, origin(pid, self._proc)
            kept[pid] = (until, found)
        self._origins = kept
        return {pid: found for pid, (_, found) in kept.items()}

    def _note(self, whom: str, failure: str | None) -> None:
        # Whose figures are old is seen at each tick; in words it is said when it changes.
        if failure == self._failures.get(whom):
            return
        if failure is None:
            del self._failures[whom]
            self._tell(f"the {whom} answers again")
        else:
            self._failures[whom] = failure
            self._tell(f"the {whom} does not say who has the GPUs: {failure}")


def devices(proc: Path = PROC) -> dict[str, str]:
    """The UUIDs of this machine's GPUs by the name of their device: nvidia0, nvidia1, ..."""
    found = {}
    for file in sorted((proc / "driver" / "nvidia" / "gpus").glob("*/information")):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        uuid, minor = _UUID.search(text), _MINOR.search(text)
        if uuid and minor:
            found[f"nvidia{minor[1]}"] = uuid[1]
    return found


def with_instances(devices: Mapping[str, str], samples: Iterable[GpuSample]) -> dict[str, str]:
    """With the MIG instances of those GPUs, by the names that GKE has for them: nvidia0/gi3."""
    names = {uuid: name for name, uuid in devices.items()}
    return dict(devices) | {
        f"{names[one.parent_uuid]}/gi{one.gpu_instance_id}": one.uuid
        for one in samples
        if one.parent_uuid in names and one.gpu_instance_id is not None
    }


def _pids(sample: GpuSample) -> Iterable[int]:
    if sample.processes is not None:
        return (process.pid for process in sample.processes)
    return sample.pids or ()
