"""JobSet's own controller on the wide cluster, for the tests that want it.

Its webhooks see JobSets and not each pod, as they would where it is installed: those of pods are
for placements that nobody asks for here, and would be asked about every pod of every test.
"""

from __future__ import annotations

import base64
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import yaml

from tests.cluster import build
from tests.cluster.api import Api, Object, Refused, eventually
from tests.cluster.cluster import Cluster
from tests.cluster.process import Process

GROUP, VERSION = "jobset.x-k8s.io", "v1alpha2"
DEFINITION = f"jobsets.{GROUP}"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
PATIENCE = 120  # seconds, on a machine that does much else
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@contextmanager
def controller(cluster: Cluster, folder: Path) -> Iterator[Process]:
    """The kind is served and its controller runs; in the end neither is there, nor any JobSet."""
    cluster.install(*sorted(build.share_of("jobset", "crds").glob("*.yaml")))
    webhooks, health = _free_port(), _free_port()
    process = Process("jobset", _command(cluster, folder, webhooks, health), folder / "jobset.log")
    process.start()
    try:
        eventually(lambda: _is_ready(process, health), "JobSet's controller is ready", PATIENCE)
        for hook, made in _webhooks(cluster, webhooks):
            cluster.api.apply(hook, made)
        probe = job_set("probe", "none")  # it says that it is ready before its webhooks answer
        eventually(
            lambda: cluster.api.post(path("default"), probe, dryRun="All"),
            "JobSet's webhooks answer",
            PATIENCE,
        )
        yield process
    finally:
        process.kill()
        print(process.tail(40))  # noqa: T201  # pytest shows it where the test failed
        for hook, _ in _webhooks(cluster, webhooks):
            cluster.remove(hook)
        kind = f"{DEFINITIONS}/{DEFINITION}"
        cluster.remove(kind)
        eventually(lambda: not cluster.api.exists(kind), "JobSets are no kind any more", PATIENCE)


def _command(cluster: Cluster, folder: Path, webhooks: int, health: int) -> list[str | Path]:
    certificates = folder / "jobset"
    certificates.mkdir()
    shutil.copy(cluster.pem("server.crt"), certificates / "tls.crt")
    shutil.copy(cluster.pem("server.key"), certificates / "tls.key")
    config = {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "internalCertManagement": {"enable": False},
        "leaderElection": {"leaderElect": False},
        "webhook": {"port": webhooks, "host": "127.0.0.1", "certDir": str(certificates)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "clientConnection": {"qps": 2000, "burst": 4000},
    }
    (folder / "jobset.yaml").write_text(yaml.safe_dump(config))
    return [
        build.path_of("jobset"),
        f"--kubeconfig={cluster.kubeconfig}",
        f"--config={folder / 'jobset.yaml'}",
    ]


def _free_port() -> int:
    with closing(socket.socket()) as made:
        made.bind(("127.0.0.1", 0))
        number: int = made.getsockname()[1]
        return number


def _is_ready(process: Process, port: int) -> bool:
    process.check()
    with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), 5)) as made:
        made.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        return b" 200 " in made.recv(200)
    return False


def _webhooks(cluster: Cluster, port: int) -> Iterator[tuple[str, Object]]:
    authority = base64.b64encode(cluster.pem("ca.crt").read_bytes()).decode()
    kinds = (("Mutating", "mutate", ["CREATE"]), ("Validating", "validate", ["CREATE", "UPDATE"]))
    for kind, word, operations in kinds:
        name = f"tests-jobset-{word}"
        url = f"https://127.0.0.1:{port}/{word}-jobset-x-k8s-io-{VERSION}-jobset"
        rule = {
            "apiGroups": [GROUP],
            "apiVersions": [VERSION],
            "operations": operations,
            "resources": ["jobsets"],
        }
        hook = {
            "name": f"{word}.{DEFINITION}",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": url, "caBundle": authority},
            "failurePolicy": "Fail",
            "rules": [rule],
            "sideEffects": "None",
        }
        configuration = f"{kind}WebhookConfiguration"
        made = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": configuration,
            "metadata": {"name": name},
            "webhooks": [hook],
        }
        yield f"{ADMISSION}/{configuration.lower()}s/{name}", made


def path(namespace: str, name: str = "") -> str:
    """Where JobSets of a namespace are, or one of them."""
    found = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/jobsets"
    return f"{found}/{name}" if name else found


def job_set(name: str, queue: str, lasts: str = "") -> Object:
    """A suspended JobSet of one pod of eight GPUs, of somebody who never heard of GpuJobs."""
    notes = {"tests.flopwise.dev/succeeds-after": lasts} if lasts else {}
    limits = {"nvidia.com/gpu": "8"}
    pods = {
        "metadata": {"annotations": notes},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "none", "resources": {"limits": limits}}],
        },
    }
    job = {"parallelism": 1, "completions": 1, "backoffLimit": 0, "template": pods}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "labels": {"flopwise.dev/queue": queue},
            "annotations": {"flopwise.dev/hours": "1"},
        },
        "spec": {
            "suspend": True,
            "replicatedJobs": [{"name": "w", "replicas": 1, "template": {"spec": job}}],
        },
    }


def condition(api: Api, namespace: str, name: str, kind: str) -> bool:
    """Whether it says that of itself."""
    try:
        found = api.get(path(namespace, name)).get("status", {}).get("conditions", ())
    except Refused:
        return False
    return any(each["type"] == kind and each["status"] == "True" for each in found)
