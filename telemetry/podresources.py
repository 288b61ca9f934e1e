"""The door to the kubelet: which pod holds which GPU, by its PodResources API (v1).

The API is one call over a unix socket that every node has. Its messages are few, so they are read
by their published numbers, without generated code; fields of later versions are passed over. It
names pods by namespace and name, without their UIDs.

The kubelet answers all its clients together at a limited rate, and not at all while it restarts.
Then the last answer stays, with its age, and the next attempt waits longer: who holds a GPU changes
in minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from telemetry.plain import plain

SOCKET = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
LIST = "/v1.PodResourcesLister/List"
CALL_SECONDS = 5.0
ANSWER_BYTES_MOST = 16 * 2**20
TEXT_CHARACTERS_MOST = 1024  # a resource is at most 317, a name 253
FIRST_WAIT_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 120.0
GPU_RESOURCES = ("nvidia.com/gpu", "nvidia.com/gpu.shared")
MIG_RESOURCES = "nvidia.com/mig-"  # and a profile
DRA_DRIVER = "gpu.nvidia.com"


class PodResourcesError(RuntimeError):
    """The kubelet gave no answer that can be read; the message says which socket, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedDevice:
    """A device that a pod holds by a ResourceClaim; its pool's ResourceSlice has the UUID."""

    driver: str
    pool: str
    device: str
    claim: str = ""
    claim_namespace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What one container of a pod was given."""

    name: str
    devices: tuple[tuple[str, str], ...] = ()  # resource and device id, as the kubelet has them
    claimed: tuple[ClaimedDevice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PodDevices:
    """What one pod was given, container by container."""

    namespace: str
    name: str
    containers: tuple[Container, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the kubelet said last."""

    pods: tuple[PodDevices, ...]
    age_seconds: float | None  # None: it has never answered
    failure: str | None = None  # why the last attempt gave nothing new


class PodResources:
    """The pods of this node that hold GPUs. ``close`` it, or use it as a context.

    ``resources`` are the names of GPUs; all of MIG's count too.
    """

    def __init__(
        self,
        socket: Path = SOCKET,
        *,
        resources: Iterable[str] = GPU_RESOURCES,
        call_seconds: float = CALL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._socket, self._call_seconds, self._clock = socket, call_seconds, clock
        self._resources = frozenset(resources)
        self._channel: Any = None
        self._pods: tuple[PodDevices, ...] = ()
        self._answered_at: float | None = None
        self._failure: str | None = None
        self._failed = 0  # attempts in a row
        self._not_before = 0.0

    def __enter__(self) -> PodResources:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the socket go; the next call connects again."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def held(self) -> Held:
        """Asks the kubelet, unless it is to be left alone; what it said last where it fails."""
        now = self._clock()
        if now >= self._not_before:
            try:
                self._pods = self._ask()
            except PodResourcesError as error:
                self._wait(now, str(error))
            else:
                self._answered_at, self._failure, self._failed = now, None, 0
        age = None if self._answered_at is None else now - self._answered_at
        return Held(pods=self._pods, age_seconds=age, failure=self._failure)

    def _wait(self, now: float, why: str) -> None:
        wait = min(FIRST_WAIT_SECONDS * 2.0**self._failed, LONGEST_WAIT_SECONDS)
        self._failed += 1
        self._failure, self._not_before = why, now + wait

    def _ask(self) -> tuple[PodDevices, ...]:
        if not self._socket.exists():
            self.close()
            raise PodResourcesError(f"{self._socket}: found no socket, allowed: the kubelet's")
        grpc = _binding()
        try:
            answer = self._connection(grpc)(b"", timeout=self._call_seconds)
        except grpc.RpcError as error:
            # A kubelet that restarts makes its socket anew: the next attempt must connect to that.
            self.close()
            raise PodResourcesError(f"{self._socket}: {_wording(error)}") from None
        try:
            return tuple(self._gpus_of(pod) for pod in parsed(answer))
        except ValueError as error:
            raise PodResourcesError(f"{self._socket}: {error}") from None

    def _connection(self, grpc: ModuleType) -> Any:
        if self._channel is None:
            self._channel = grpc.insecure_channel(
                f"unix:{self._socket}",
                options=[
                    # Else the path goes out as the authority, percent-encoded: servers refuse it.
                    ("grpc.default_authority", "localhost"),
                    ("grpc.max_receive_message_length", ANSWER_BYTES_MOST),
                    ("grpc.enable_retries", 0),
                ],
            )
        return self._channel.unary_unary(LIST, request_serializer=None, response_deserializer=None)

    def _gpus_of(self, pod: PodDevices) -> PodDevices:
        containers = tuple(
            Container(
                name=one.name,
                devices=tuple(found for found in one.devices if self._is_gpu(found[0])),
                claimed=tuple(found for found in one.claimed if found.driver == DRA_DRIVER),
            )
            for one in pod.containers
        )
        return PodDevices(
            namespace=pod.namespace,
            name=pod.name,
            containers=tuple(one for one in containers if one.devices or one.claimed),
        )

    def _is_gpu(self, resource: str) -> bool:
        return resource in self._resources or resource.startswith(MIG_RESOURCES)


def _binding() -> ModuleType:
    try:
        import grpc
    except ModuleNotFoundError:
        advice = "the gRPC library is missing: pip install 'flopwise[telemetry]'"
        raise PodResourcesError(advice) from None
    return grpc  # type: ignore[no-any-return]  # it ships no types


def _wording(error: Any) -> str:
    """gRPC's code and what it says of it, in one line."""
    details = " ".join(str(error.details() or "").split())[:200]
    return f"{error.code().name}: {details}" if details else str(error.code().name)


def parsed(answer: bytes) -> tuple[PodDevices, ...]:
    """A ListPodResourcesResponse. Raises ``ValueError`` where it is none."""
    return tuple(_pod(value) for value in _messages(answer, 1))


def _pod(data: bytes) -> PodDevices:
    return PodDevices(
        name=_text(data, 1),
        namespace=_text(data, 2),
        containers=tuple(_container(value) for value in _messages(data, 3)),
    )


def _container(data: bytes) -> Container:
    return Container(
        name=_text(data, 1),
        devices=tuple(
            (_text(device, 1), identity.decode())
            for device in _messages(data, 2)
            for identity in _messages(device, 2)
        ),
        claimed=tuple(
            ClaimedDevice(
                driver=_text(device, 2),
                pool=_text(device, 3),
                device=_text(device, 4),
                claim=_text(claim, 2),
                claim_namespace=_text(claim, 3),
            )
            for claim in _messages(data, 5)
            for device in _messages(claim, 4)
        ),
    )


def _text(data: bytes, number: int) -> str:
    """A text field; of several the last counts, and none is empty, as the format has it."""
    found = b""
    for value in _messages(data, number):
        found = value
    return plain(found.decode(), most=TEXT_CHARACTERS_MOST)


def _messages(data: bytes, number: int) -> Iterator[bytes]:
    """The values of a field of texts or messages, in order."""
    for found, value in _fields(data):
        if found == number and value is not None:
            yield value


_FIXED_BYTES = {1: 8, 5: 4}


def _fields(data: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Each field's number, with its bytes where it has a length: the wire format of protobuf."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        value: bytes | None = None
        if kind == 0:
            _, at = _varint(data, at)
        elif kind in _FIXED_BYTES:
            at += _FIXED_BYTES[kind]
        elif kind == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            raise ValueError(f"found a field of kind {kind}, allowed: 0, 1, 2, 5")
        if at > len(data):
            raise ValueError("found an answer that ends within a field, allowed: a whole one")
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("found a number without its end, allowed: one of at most 10 bytes")
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
