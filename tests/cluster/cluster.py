"""A Kubernetes control plane on this machine, with as many GPU nodes as a test wants.

The API server is a real one (TLS, RBAC, audit log), and so are etcd, the controller-manager with
all its default controllers, the scheduler and the KubeRay operator. Nodes are KWOK's: objects in
the API server that behave like nodes, whose pods run as far as anyone can tell, and compute
nothing.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from cost_models.accelerators import resolve_accelerator
from tests.cluster import build
from tests.cluster.api import Api, Credentials, Object, Refused, eventually
from tests.cluster.folder import RunFolder, claim
from tests.cluster.process import Process

WIDE = ("node", "kubernetes", "kwok", "kuberay")  # the modules it is made of
SERVICES = "10.243.0.0/16"
FIRST_SERVICE = "10.243.0.1"  # the API server's own

# A node says that it is alive four times in that time. Hundreds of nodes shall be little work.
LEASE_SECONDS = 200

# Requests per second, and at once, of each client: as many as they like, since defaults (20 for the
# controller-manager) would hide everything else in a measurement. Benchmarks print them.
RATES: Mapping[str, tuple[int, int]] = {
    "kube-controller-manager": (2000, 4000),
    "kube-scheduler": (2000, 4000),
    "ray-operator": (2000, 4000),
}

# Who everybody is: file -> (user, groups).
_IDENTITIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "admin": ("admin", ("system:masters",)),
    "kube-controller-manager": ("system:kube-controller-manager", ()),
    "kube-scheduler": ("system:kube-scheduler", ()),
    "kwok": ("kwok", ("system:masters",)),
    "ray-operator": ("ray-operator", ("system:masters",)),
}

_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


class Cluster:
    """A running cluster; use it in a ``with`` statement.

    ``api`` asks it as its administrator, ``kubeconfig`` is the file for others to do so,
    ``processes`` are its programs by name, for those who want to stop and start them.
    ``environment`` is what they find in theirs besides ours.
    """

    kind = "wide"
    address = "127.0.0.1"
    ports: Sequence[str] = ("api", "etcd", "etcd-peers", "ray-metrics", "ray-health")

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment
        self.folder: RunFolder = claim(self.kind, self.ports)
        self.path = self.folder.path
        self.logs = self.path / "logs"
        self.url = f"https://{self.address}:{self.folder.ports['api']}"
        self.kubeconfig = self.path / "admin.kubeconfig"
        self.processes: dict[str, Process] = {}
        self._added: dict[str, int] = {}  # nodes, by the first part of their name

    # -- up and down --------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # whatever ended it: what runs already is stopped
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Starts everything; returns when the API server serves Ray's types too."""
        self.logs.mkdir()
        self._certify()
        self.start_early()
        self._run("etcd", self._etcd())
        self._run("kube-apiserver", self._api_server())
        self.api = Api(self.url, self.credentials("admin"))
        self.wait_until_ready()
        self._run("kube-controller-manager", self._controller_manager())
        self._run("kube-scheduler", self._scheduler())
        self._run("kwok", self._kwok())
        self.start_late()
        self.install(*ray_definitions())
        self._run("ray-operator", self._ray_operator())
        self._wait(self._has_default_account, "the controller-manager makes service accounts")

    def start_early(self) -> None:
        """What starts beside the API server: nothing here."""

    def start_late(self) -> None:
        """What starts once the API server is ready: nothing here."""

    def close(self) -> None:
        """Kills everything and leaves nothing behind. What it held is of no more use to anyone."""
        for process in reversed(self.processes.values()):
            process.kill()
        self.folder.remove()

    def check(self) -> None:
        """`Died` where one of the programs is gone."""
        for process in self.processes.values():
            process.check()

    def wait_until_ready(self) -> None:
        """Returns when the API server says that it is, which it does not without etcd."""
        self._wait(lambda: self.api.text("/readyz") == "ok", "the API server is ready")

    def _run(self, name: str, command: Sequence[str | Path]) -> None:
        process = Process(name, command, self.logs / f"{name}.log", self._environment)
        self.processes[name] = process
        process.start()

    def _wait(self, ready: Callable[[], object], what: str) -> None:
        def unless_dead() -> object:
            self.check()
            return ready()

        eventually(unless_dead, what, within_seconds=120)

    def _has_default_account(self) -> bool:
        return self.api.exists("/api/v1/namespaces/default/serviceaccounts/default")

    # -- identities ---------------------------------------------------------------------------

    def identities(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Who has a certificate: file -> (user, groups)."""
        return dict(_IDENTITIES)

    def certified_hosts(self) -> list[str]:
        """Names and addresses that the API server is called by."""
        return ["localhost", self.address, FIRST_SERVICE, "kubernetes.default.svc"]

    def _certify(self) -> None:
        hosts = self.certified_hosts()
        leaves: list[dict[str, object]] = [
            {"file": "server", "name": "kube-apiserver", "hosts": hosts},
            {"file": "front", "name": "front-proxy-client"},
            {"file": "to-kubelets", "name": "kube-apiserver", "groups": ["system:masters"]},
        ]
        for file, (name, groups) in self.identities().items():
            leaves.append({"file": file, "name": name, "groups": groups})
        self._make_certificates(leaves)
        for file in self.identities():
            self._write_kubeconfig(self.path / f"{file}.kubeconfig", self._own_user(file))

    def _make_certificates(self, leaves: Sequence[Mapping[str, object]]) -> None:
        pki = self.path / "pki"
        pki.mkdir()
        order = json.dumps({"folder": str(pki), "leaves": leaves})
        command = [str(build.path_of("certificates"))]
        subprocess.run(command, input=order, text=True, check=True, timeout=30)

    def pem(self, name: str) -> Path:
        """A file among the keys and certificates."""
        return self.path / "pki" / name

    def credentials(self, file: str) -> Credentials:
        """Those of a component, or of the administrator."""
        return Credentials(
            authority=self.pem("ca.crt"),
            certificate=self.pem(f"{file}.crt"),
            key=self.pem(f"{file}.key"),
        )

    def _own_user(self, file: str) -> Object:
        return {
            "client-certificate": str(self.pem(f"{file}.crt")),
            "client-key": str(self.pem(f"{file}.key")),
        }

    def _write_kubeconfig(self, path: Path, user: Object, namespace: str = "default") -> Path:
        server = {"server": self.url, "certificate-authority": str(self.pem("ca.crt"))}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": self.kind, "cluster": server}],
            "users": [{"name": "user", "user": user}],
            "contexts": [
                {
                    "name": self.kind,
                    "context": {"cluster": self.kind, "user": "user", "namespace": namespace},
                }
            ],
            "current-context": self.kind,
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def token_of(self, account: str, namespace: str) -> str:
        """A token of that service account, good for an hour; the account must exist."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token: str = self.api.post(path, asked)["status"]["token"]
        return token

    def api_as(self, account: str, namespace: str) -> Api:
        """The API server as that service account sees it."""
        token = self.token_of(account, namespace)
        return Api(self.url, Credentials(authority=self.pem("ca.crt"), token=token))

    def kubeconfig_of(self, account: str, namespace: str) -> Path:
        """A kubeconfig with which a program is that service account, in that namespace."""
        path = self.path / f"{namespace}.{account}.kubeconfig"
        return self._write_kubeconfig(path, {"token": self.token_of(account, namespace)}, namespace)

    # -- the programs -------------------------------------------------------------------------

    def _etcd(self) -> list[str | Path]:
        port = self.folder.ports
        clients, peers = (
            f"http://127.0.0.1:{number}" for number in (port["etcd"], port["etcd-peers"])
        )
        return [
            build.path_of("etcd"),
            f"--data-dir={self.path / 'etcd'}",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",  # it need not outlive the machine
            "--log-level=warn",
        ]

    def _api_server(self) -> list[str | Path]:
        policy = self.path / "audit-policy.yaml"
        policy.write_text(yaml.safe_dump(_AUDIT_POLICY))
        keys = self.pem("service-accounts.key")
        return [
            build.path_of("kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{self.folder.ports['etcd']}",
            f"--bind-address={self.address}",
            f"--secure-port={self.folder.ports['api']}",
            f"--tls-cert-file={self.pem('server.crt')}",
            f"--tls-private-key-file={self.pem('server.key')}",
            f"--client-ca-file={self.pem('ca.crt')}",
            f"--requestheader-client-ca-file={self.pem('ca.crt')}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={self.pem('front.crt')}",
            f"--proxy-client-key-file={self.pem('front.key')}",
            f"--kubelet-client-certificate={self.pem('to-kubelets.crt')}",
            f"--kubelet-client-key={self.pem('to-kubelets.key')}",
            f"--kubelet-certificate-authority={self.pem('ca.crt')}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={keys}",
            f"--service-account-key-file={keys}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={SERVICES}",
            "--allow-privileged=true",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
            *self.api_server_flags(),
        ]

    def api_server_flags(self) -> list[str]:
        """Where pods find the API server: nowhere, as no pod runs."""
        return ["--endpoint-reconciler-type=none"]

    def _controller_manager(self) -> list[str | Path]:
        config = self.path / "kube-controller-manager.kubeconfig"
        return [
            build.path_of("kube-controller-manager"),
            f"--kubeconfig={config}",
            f"--service-account-private-key-file={self.pem('service-accounts.key')}",
            f"--root-ca-file={self.pem('ca.crt')}",
            "--use-service-account-credentials",
            f"--node-monitor-grace-period={LEASE_SECONDS + 40}s",
            *_limits("kube-controller-manager", "--kube-api-qps", "--kube-api-burst"),
            *_ALONE,
        ]

    def _scheduler(self) -> list[str | Path]:
        return [
            build.path_of("kube-scheduler"),
            f"--kubeconfig={self.path / 'kube-scheduler.kubeconfig'}",
            *_limits("kube-scheduler", "--kube-api-qps", "--kube-api-burst"),
            *_ALONE,
        ]

    def _kwok(self) -> list[str | Path]:
        stages = build.share_of("kwok", "stages")
        taken = ("node/fast/node-initialize", "pod/fast/pod-ready", "pod/fast/pod-delete")
        files = [
            *(stages / f"{name}.yaml" for name in taken),
            Path(__file__).parent / "stages.yaml",
        ]
        return [
            build.path_of("kwok"),
            f"--kubeconfig={self.path / 'kwok.kubeconfig'}",
            "--manage-all-nodes=false",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            f"--node-lease-duration-seconds={LEASE_SECONDS}",
            "--v=WARN",
            *(f"--config={file}" for file in files),
        ]

    def _ray_operator(self) -> list[str | Path]:
        port = self.folder.ports
        return [
            build.path_of("ray-operator"),
            f"-kubeconfig={self.path / 'ray-operator.kubeconfig'}",
            f"-metrics-addr=127.0.0.1:{port['ray-metrics']}",
            f"-health-probe-bind-address=127.0.0.1:{port['ray-health']}",
            "-enable-leader-election=false",
            "-use-kubernetes-proxy",  # it runs beside the cluster, not in it
            "-reconcile-concurrency=4",
            *_limits("ray-operator", "-qps", "-burst"),
        ]

    # -- what tests put into it ---------------------------------------------------------------

    def install(self, *files: Path) -> None:
        """Applies files of custom resource definitions, and waits until their types are served.

        They are sent as they are: reading a megabyte of YAML here would take seconds. What a busy
        machine did not answer in time is sent again: to apply it twice changes nothing.
        """
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        texts = [text for file in files for text in _documents(file.read_text())]
        names = [_name_of(text) for text in texts]
        for name, text in zip(names, texts, strict=True):
            self._apply_patiently(f"{path}/{name}", text)
        eventually(lambda: all(map(self.serves, names)), f"{', '.join(names)} are served", 120)

    def _apply_patiently(self, path: str, text: str) -> None:
        for left in reversed(range(4)):
            try:
                self.api.apply(path, text)
            except TimeoutError:
                if not left:
                    raise
            else:
                return

    def serves(self, definition: str) -> bool:
        """Whether the API server has the type of a definition, ``rayjobs.ray.io``."""
        plural, group = definition.split(".", 1)
        version = self.api.get(f"/apis/{group}")["preferredVersion"]["groupVersion"]
        return any(kind["name"] == plural for kind in self.api.get(f"/apis/{version}")["resources"])

    def add_nodes(
        self,
        accelerator: str,
        count: int,
        *,
        gpus: int = 8,
        prefix: str = "",
        labels: Mapping[str, str] | None = None,
        taints: Sequence[Mapping[str, str]] = (),
        per_clique: int = 4,
        zone: str = "zone-a",
    ) -> list[str]:
        """Adds nodes with that accelerator of the catalog, and returns their names.

        They bear the labels of GPU Feature Discovery (product, count, memory in MiB, and an NVLink
        clique of ``per_clique`` nodes), and zone and region; ``labels`` come on top. They are ready
        a moment later: `wait_for_nodes`. No name comes twice: controllers remember the nodes that
        were there, and take their time to forget.
        """
        known = resolve_accelerator(accelerator)
        prefix = prefix or known.id
        first = self._added.get(prefix, 0)
        self._added[prefix] = first + count
        names = [f"{prefix}-{number}" for number in range(first, first + count)]
        common = {
            # GPU Feature Discovery's
            "nvidia.com/gpu.product": known.gfd_product,
            "nvidia.com/gpu.count": str(gpus),
            "nvidia.com/gpu.memory": f"{known.memory_gib * 1024:.0f}",
            "nvidia.com/gpu.present": "true",
            # the kubelet's and the cloud's
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": zone,
            "topology.kubernetes.io/region": "region-1",
            "type": "kwok",
            **(labels or {}),
        }

        def add(number: int) -> None:
            own = {
                "kubernetes.io/hostname": names[number],
                "nvidia.com/gpu.clique": f"{prefix}-{first}.{number // per_clique}",
            }
            self.api.post("/api/v1/nodes", _node(names[number], gpus, own | common, taints))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(add, range(count)))
        return names

    def wait_for_nodes(self, names: Sequence[str]) -> None:
        """Returns when all of them are ready and free of the taint of those that are not."""

        def ready() -> bool:
            nodes = self.api.get("/api/v1/nodes")["items"]
            fit = {node["metadata"]["name"] for node in nodes if _is_ready(node)}
            return fit.issuperset(names)

        eventually(ready, f"{len(names)} nodes are ready", within_seconds=120, every_seconds=0.3)

    def lose_node(self, name: str) -> None:
        """Lets a KWOK node fail: it is heard of no more, and seconds later its pods are evicted.

        Another node must be well: a controller that sees none takes itself for cut off, and waits.
        """
        path = f"/api/v1/nodes/{name}"
        self.api.patch(path, {"metadata": {"annotations": {"kwok.x-k8s.io/node": None}}})
        node = self.api.get(path)
        for condition in node["status"]["conditions"]:
            condition.update(status="Unknown", reason="NodeStatusUnknown")
        self.api.patch(f"{path}/status", {"status": {"conditions": node["status"]["conditions"]}})

    def remove_nodes(self, names: Sequence[str]) -> None:
        """Deletes them; pods that were there are collected a while later."""
        for name in names:
            self.remove(f"/api/v1/nodes/{name}")

    def remove(self, path: str, grace_seconds: int | None = None) -> None:
        """Deletes an object; nothing happens where it is gone already."""
        try:
            self.api.delete(path, grace_seconds)
        except Refused as why:
            if why.code != http.client.NOT_FOUND:
                raise

    def add_namespace(self, name: str) -> str:
        """Makes a namespace and waits until pods can be made in it."""
        self.api.post(
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        )
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        eventually(lambda: self.api.exists(account), f"{account} is there")
        return name

    def remove_namespace(self, name: str) -> None:
        """Has it deleted, pods at once; does not wait for the end."""
        self.remove(f"/api/v1/namespaces/{name}")
        pods = f"/api/v1/namespaces/{name}/pods"
        self.api.delete(pods, grace_seconds=0)

    # -- what tests read from it --------------------------------------------------------------

    @property
    def audit_log(self) -> Path:
        """The file with a line for each request."""
        return self.logs / "audit.jsonl"

    def audit(self, user: str = "", since: int = 0) -> Iterator[Object]:
        """What was asked of the API server, by that user (all, where none is named).

        ``since`` is an offset into the file, from `audit_offset`.
        """
        with self.audit_log.open() as lines:
            lines.seek(since)
            for line in lines:
                if not line.endswith("\n"):  # still being written
                    return
                entry: Object = json.loads(line)
                entry.setdefault("objectRef", {})  # a request for no object: /version
                if not user or entry["user"]["username"] == user:
                    yield entry

    def audit_offset(self) -> int:
        """Where the audit log ends now."""
        return self.audit_log.stat().st_size

    def kubectl(self, *arguments: str, stdin: str = "", timeout_seconds: float = 30) -> str:
        """What kubectl prints, as the administrator; `CalledProcessError` where it fails."""
        own = [f"--kubeconfig={self.kubeconfig}", f"--request-timeout={timeout_seconds:.0f}s"]
        done = subprocess.run(
            [str(build.path_of("kubectl")), *own, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=True,
            timeout=timeout_seconds + 5,
        )
        return done.stdout

    def stop_api_server(self, seconds: float) -> None:
        """Takes the API server away for that long, and waits until it is back."""
        self.processes["kube-apiserver"].restart(seconds)
        self.wait_until_ready()

    def restart_etcd(self) -> None:
        """Kills etcd and starts it again on the same data."""
        self.processes["etcd"].restart()
        self.wait_until_ready()


# One of each: no election, and nothing served that nobody asks.
_ALONE = ("--leader-elect=false", "--secure-port=0")


def _limits(name: str, qps: str, burst: str) -> list[str]:
    per_second, at_once = RATES[name]
    return [f"{qps}={per_second}", f"{burst}={at_once}"]


def _node(
    name: str, gpus: int, labels: Mapping[str, str], taints: Sequence[Mapping[str, str]]
) -> Object:
    holds = {"cpu": "192", "memory": "2000Gi", "pods": "250", "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": dict(labels),
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "spec": {"taints": [dict(taint) for taint in taints]},
        "status": {"capacity": holds, "allocatable": holds},
    }


def _is_ready(node: Object) -> bool:
    conditions = {c["type"]: c["status"] for c in node["status"].get("conditions", ())}
    taints = {taint["key"] for taint in node["spec"].get("taints", ())}
    return conditions.get("Ready") == "True" and "node.kubernetes.io/not-ready" not in taints


def ray_definitions() -> list[Path]:
    """KubeRay's definitions with the one version in use: half the work for the API server.

    They are read and written once, and then kept beside the programs.
    """
    kept = build.cache_folder() / "definitions" / build.folder_of("kuberay").name
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=kept.parent))
        for file in sorted(build.share_of("kuberay", "crds").glob("*.yaml")):
            definition = yaml.load(file.read_text(), _Loader)
            versions = definition["spec"]["versions"]
            definition["spec"]["versions"] = [one for one in versions if one["storage"]]
            (making / file.with_suffix(".json").name).write_text(json.dumps(definition))
        try:
            making.rename(kept)
        except OSError:  # another has made them meanwhile
            shutil.rmtree(making)
    return sorted(kept.iterdir())


# The one in C, where PyYAML has it, takes a tenth of the time for their megabytes.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _documents(text: str) -> list[str]:
    """The definitions in a file of YAML, or the one in a file of JSON."""
    if text.startswith("{"):
        return [text]
    parts = re.split(r"^---.*$", text, flags=re.MULTILINE)
    return [part for part in parts if "\nkind: CustomResourceDefinition" in f"\n{part}"]


def _name_of(definition: str) -> str:
    """Its ``metadata.name``; in YAML the only name at that depth with a dot."""
    if definition.startswith("{"):
        name: str = json.loads(definition)["metadata"]["name"]
        return name
    found = re.search(r"^  name: ([a-z0-9-]+\.[a-z0-9.-]+)$", definition, re.MULTILINE)
    assert found, definition[:200]
    return found[1]
