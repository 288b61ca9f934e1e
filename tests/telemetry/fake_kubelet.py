"""A kubelet's PodResources socket: a real gRPC server, whose messages protobuf itself writes.

The messages are those of kubernetes/kubelet, pkg/apis/podresources/v1/api.proto, by its numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

TEXT, NUMBER, MESSAGE = 9, 3, 11  # FieldDescriptorProto.Type: string, int64, message
MESSAGES: Mapping[str, tuple[tuple[int, str, int, str, bool], ...]] = {
    "ListPodResourcesRequest": (),
    "ListPodResourcesResponse": ((1, "pod_resources", MESSAGE, "PodResources", True),),
    "PodResources": (
        (1, "name", TEXT, "", False),
        (2, "namespace", TEXT, "", False),
        (3, "containers", MESSAGE, "ContainerResources", True),
        (4, "cpu_ids", NUMBER, "", True),
    ),
    "ContainerResources": (
        (1, "name", TEXT, "", False),
        (2, "devices", MESSAGE, "ContainerDevices", True),
        (3, "cpu_ids", NUMBER, "", True),
        (4, "memory", MESSAGE, "ContainerMemory", True),
        (5, "dynamic_resources", MESSAGE, "DynamicResource", True),
    ),
    "ContainerMemory": ((1, "memory_type", TEXT, "", False), (2, "size", NUMBER, "", False)),
    "ContainerDevices": (
        (1, "resource_name", TEXT, "", False),
        (2, "device_ids", TEXT, "", True),
        (3, "topology", MESSAGE, "TopologyInfo", False),
    ),
    "TopologyInfo": ((1, "nodes", MESSAGE, "NUMANode", True),),
    "NUMANode": ((1, "ID", NUMBER, "", False),),
    "DynamicResource": (
        (2, "claim_name", TEXT, "", False),
        (3, "claim_namespace", TEXT, "", False),
        (4, "claim_resources", MESSAGE, "ClaimResource", True),
    ),
    "ClaimResource": (
        (1, "cdi_devices", MESSAGE, "CDIDevice", True),
        (2, "driver_name", TEXT, "", False),
        (3, "pool_name", TEXT, "", False),
        (4, "device_name", TEXT, "", False),
        (5, "share_id", TEXT, "", False),
    ),
    "CDIDevice": ((1, "name", TEXT, "", False),),
}


def _classes() -> Mapping[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="api.proto", package="v1", syntax="proto3")
    for message, fields in MESSAGES.items():
        made = file.message_type.add(name=message)
        for number, name, kind, of, repeats in fields:
            label = 3 if repeats else 1
            field = made.field.add(name=name, number=number, type=kind, label=label)
            if of:
                field.type_name = f".v1.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1.{name}"))
        for name in MESSAGES
    }


API = _classes()


def pod(namespace: str, name: str, *containers: Any) -> Any:
    """A pod with its containers, on two CPUs."""
    return API["PodResources"](
        namespace=namespace, name=name, containers=containers, cpu_ids=[3, 400]
    )


def container(
    name: str, devices: Mapping[str, Iterable[str]] = {}, claims: Iterable[Any] = ()
) -> Any:
    """A container with device ids by resource, on one NUMA node, with CPUs and memory too."""
    topology = API["TopologyInfo"](nodes=[API["NUMANode"](ID=1)])
    return API["ContainerResources"](
        name=name,
        devices=[
            API["ContainerDevices"](resource_name=resource, device_ids=ids, topology=topology)
            for resource, ids in devices.items()
        ],
        cpu_ids=[3, 400],
        memory=[API["ContainerMemory"](memory_type="memory", size=2**34)],
        dynamic_resources=claims,
    )


def claim(namespace: str, name: str, driver: str, pool: str, device: str) -> Any:
    """A claim that was given one device."""
    given = API["ClaimResource"](
        cdi_devices=[API["CDIDevice"](name=f"{driver}/{device}")],
        driver_name=driver,
        pool_name=pool,
        device_name=device,
        share_id="7",
    )
    return API["DynamicResource"](
        claim_name=name, claim_namespace=namespace, claim_resources=[given]
    )


class FakeKubelet:
    """Answers with ``pods``, or fails with ``refusal``, or hangs; counts what it was asked."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.pods: list[Any] = []
        self.refusal: grpc.StatusCode | None = None
        self.answer: bytes | None = None  # instead of pods: what the wire carries
        self.hangs = False
        self.calls = 0
        self.authorities: list[str] = []
        self._go_on = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(2))
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self._server.add_insecure_port(f"unix:{socket}")
        self._server.start()

    def list(self, request: Any, context: Any) -> bytes:
        """The method itself."""
        self.calls += 1
        if self.hangs:
            self._go_on.wait(30)
        if self.refusal is not None:
            context.abort(self.refusal, "rejected by rate limit")
        if self.answer is not None:
            return self.answer
        found = API["ListPodResourcesResponse"](pod_resources=self.pods)
        return bytes(found.SerializeToString())

    def __enter__(self) -> FakeKubelet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """As a kubelet that stops: its socket goes."""
        self._go_on.set()
        self._server.stop(None).wait()
        self.socket.unlink(missing_ok=True)


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # the library ships no types
    def __init__(self, kubelet: FakeKubelet) -> None:
        self._kubelet = kubelet

    def service(self, details: Any) -> Any:
        if details.method != "/v1.PodResourcesLister/List":
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._kubelet.list,
            request_deserializer=API["ListPodResourcesRequest"].FromString,
            response_serializer=None,
        )
