"""The cluster with one real node more: pods that run, Ray jobs that end with a result.

The node is containerd, runc and a kubelet on this machine, in namespaces of its own, with GPUs in
name (`nvidia.com/gpu`) and a Ray image. Its pods reach each other and the API server by a bridge,
and nothing else: no address is translated, no packet forwarded. All names of the machine that it
takes (the bridge, two address ranges, a table of nftables) are the same on every machine, so there
is one such node on a machine at a time; a second one waits.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cost_models.accelerators import resolve_accelerator
from tests.cluster import build, image
from tests.cluster.api import eventually
from tests.cluster.build import Say, to_standard_error
from tests.cluster.cluster import FIRST_SERVICE, SERVICES, WIDE, Cluster

DEEP = (*WIDE, "containerd")  # the modules it is made of
TOOLS = ("runc", "nft", "ip", "unshare", "mount", "mmdebstrap")
PLUGINS = Path("/usr/lib/cni")
ACCELERATOR, GPUS = "h100-sxm5-80gb", 2
NODE = "real-0"
BRIDGE, GATEWAY, PODS = "flopwise0", "10.244.0.1", "10.244.0.0/24"
TABLE = "flopwise_test"
LOCK = Path("/run/lock/flopwise-test-node.lock")
FAKE = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}


def why_not() -> str:
    """Why this machine cannot have such a node; "" where it can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "a real node needs Linux and root"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not (PLUGINS / "bridge").exists():
        absent.append(f"{PLUGINS}/bridge")
    if absent:
        return f"a real node needs {', '.join(absent)}: scripts/cluster-packages installs them"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "a real node needs overlayfs"
    if not os.access("/sys/fs/cgroup", os.W_OK) or not _controllers():
        return "a real node needs cgroups that it can write"
    return ""


def _controllers() -> list[Path]:
    """Where cgroups can be made: a folder for each controller, or one for all."""
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.controllers").exists():
        return [top]
    return [path for path in top.iterdir() if (path / "cgroup.procs").exists()]


def _pod_groups() -> list[Path]:
    return [path / "kubepods" for path in _controllers()]


class Deep(Cluster):
    """A running cluster with one real node, `NODE`; else as `Cluster`.

    KWOK's nodes bear a taint here that keeps other pods off; the real one has no taint. A pod for
    the real node needs ``imagePullPolicy: Never`` and an image of `tests.cluster.image`.
    """

    kind = "deep"
    address = GATEWAY
    ports = (*Cluster.ports, "kubelet", "kubelet-health")

    def __init__(
        self, say: Say = to_standard_error, environment: Mapping[str, str] | None = None
    ) -> None:
        LOCK.parent.mkdir(parents=True, exist_ok=True)
        self._lock = LOCK.open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for the other cluster with a real node on this machine")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        _clean_machine()
        self._images = image.folder()
        super().__init__(environment)

    def start(self) -> None:
        """Starts everything; returns when the node is ready and has its GPUs."""
        self.make_bridge()
        super().start()
        path = f"/api/v1/nodes/{NODE}"
        self._wait(
            lambda: self.api.get(path)["status"]["allocatable"].get("nvidia.com/gpu") == str(GPUS),
            f"node {NODE} has {GPUS} GPUs",
        )
        self.wait_for_nodes([NODE])

    def start_early(self) -> None:
        """The node takes longest: it starts while the API server does."""
        self._run("node", self._node())

    def close(self) -> None:
        """Kills everything and gives the machine back its names."""
        super().close()
        _clean_machine()
        self._lock.close()

    def make_bridge(self) -> None:
        """The network of the pods, with the API server on it, also by its address as a service."""
        to_server = f"tcp dport 443 redirect to :{self.folder.ports['api']}"
        for command in (
            f"ip link add {BRIDGE} type bridge",
            f"ip address add {GATEWAY}/24 dev {BRIDGE}",
            f"ip link set {BRIDGE} up",
            # A stray packet to a service's address stays on this machine.
            f"ip route add {SERVICES} dev {BRIDGE}",
            f"nft add table ip {TABLE}",
            f"nft add chain ip {TABLE} in {{ type nat hook prerouting priority dstnat; }}",
            f"nft add rule ip {TABLE} in ip daddr {FIRST_SERVICE} {to_server}",
        ):
            subprocess.run(command.split(), check=True, timeout=30)

    def identities(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Those of the wide cluster, the node, and who resolves names."""
        ours = {
            "kubelet": (f"system:node:{NODE}", ("system:nodes",)),
            "names": ("names", ("system:masters",)),
        }
        return super().identities() | ours

    def api_server_flags(self) -> list[str]:
        """Pods find it on the bridge."""
        return [f"--advertise-address={GATEWAY}"]

    def certified_hosts(self) -> list[str]:
        """The kubelet serves by its node's name and address."""
        return [*super().certified_hosts(), NODE]

    def start_late(self) -> None:
        """Names are resolved once there is an API server to ask."""
        super().start_late()
        command: list[str | Path] = [
            build.path_of("names"),
            f"-listen={GATEWAY}:53",
            f"-api={self.url}",
            f"-ca={self.pem('ca.crt')}",
            f"-certificate={self.pem('names.crt')}",
            f"-key={self.pem('names.key')}",
        ]
        self._run("names", command)

    def add_nodes(self, accelerator: str, count: int, **more: Any) -> list[str]:
        """As `Cluster.add_nodes`, with a taint that keeps real pods off."""
        more.setdefault("taints", (FAKE,))
        return super().add_nodes(accelerator, count, **more)

    def _node(self) -> Sequence[str | Path]:
        """The command that starts it, in namespaces that end with it."""
        state = self.path / "node"
        state.mkdir()
        etc = self.path / "etc"
        (etc / "cni").mkdir(parents=True)
        (etc / "resolv.conf").touch()  # nothing of the machine's
        (etc / "cni" / "pods.conflist").write_text(json.dumps(_NETWORK))
        (etc / "containerd.toml").write_text(_containerd(etc))
        (etc / "kubelet.yaml").write_text(yaml.safe_dump(self._kubelet(etc)))
        containerd = build.path_of("containerd")
        labels = ",".join(f"{key}={value}" for key, value in _labels().items())
        order = {
            "state": str(state),
            "logs": str(self.logs),
            "containerd": [str(containerd), f"--config={etc / 'containerd.toml'}"],
            "import": [str(containerd.with_name("ctr")), "--namespace=k8s.io", "images", "import"],
            "images": [str(self._images / name) for name in ("pause.tar", "ray.tar")],
            "kubelet": [
                str(build.path_of("kubelet")),
                f"--config={etc / 'kubelet.yaml'}",
                f"--kubeconfig={self.path / 'kubelet.kubeconfig'}",
                f"--hostname-override={NODE}",
                f"--node-ip={GATEWAY}",
                f"--node-labels={labels}",
            ],
            "gpus": [str(build.path_of("gpus")), f"-count={GPUS}"],
        }
        (self.path / "order.json").write_text(json.dumps(order))
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        script = Path(__file__).with_name("node.py")
        # containerd looks for its shim on the PATH.
        path = f"PATH={containerd.parent}:{os.environ['PATH']}"
        return [*apart, "env", path, sys.executable, script, self.path / "order.json"]

    def _kubelet(self, etc: Path) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": GATEWAY,
            "port": self.folder.ports["kubelet"],
            "readOnlyPort": 0,
            "healthzPort": self.folder.ports["kubelet-health"],
            "tlsCertFile": str(self.pem("server.crt")),
            "tlsPrivateKeyFile": str(self.pem("server.key")),
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(self.pem("ca.crt"))},
            },
            "authorization": {"mode": "AlwaysAllow"},  # of whom the authority has certified
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,  # lowering it takes a capability that containers lack
            "clusterDNS": [GATEWAY],
            "clusterDomain": "cluster.local",
            "resolvConf": str(etc / "resolv.conf"),
            "podLogsDir": "/var/lib/pod-logs",
            "makeIPTablesUtilChains": False,
            "nodeStatusUpdateFrequency": "5s",
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        }


_NETWORK = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": False,  # the bridge has its address already; nothing is forwarded
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-addresses",
                "ranges": [[{"subnet": PODS, "gateway": GATEWAY}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
    ],
}


def _containerd(etc: Path) -> str:
    runc = shutil.which("runc")
    return f"""version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
disabled_plugins = ['io.containerd.nri.v1.nri']
[plugins.'io.containerd.internal.v1.opt']
  path = '/var/lib/containerd-opt'
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{image.PAUSE}'
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE each sandbox would fail on -998
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = 'runc'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = '{runc}'
  SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['{PLUGINS}']
  conf_dir = '{etc / "cni"}'
"""


def _labels() -> Mapping[str, str]:
    known = resolve_accelerator(ACCELERATOR)
    return {
        "nvidia.com/gpu.product": known.gfd_product,
        "nvidia.com/gpu.count": str(GPUS),
        "nvidia.com/gpu.memory": f"{known.memory_gib * 1024:.0f}",
        "nvidia.com/gpu.present": "true",
    }


def _clean_machine() -> None:
    """Removes what outlives the processes: bridge, table, empty cgroups. We hold the lock.

    `CannotBuild` where the cgroups do not get empty: then a kubelet that is not ours has pods here.
    """
    for command in (f"ip link delete {BRIDGE}", f"nft delete table ip {TABLE}"):
        subprocess.run(command.split(), capture_output=True, check=False, timeout=30)
    try:
        eventually(_remove_pod_groups, "the cgroups of pods are empty", within_seconds=10)
    except AssertionError as why:
        raise build.CannotBuild("another kubelet has pods on this machine") from why


def _remove_pod_groups() -> bool:
    """Whether they are gone: not while one has processes."""
    if any(path.read_text() for group in _pod_groups() for path in group.rglob("cgroup.procs")):
        return False
    for group in _pod_groups():
        deepest_first = sorted(group.rglob("*/"), reverse=True)
        for path in [*deepest_first, group]:
            if path.is_dir():
                path.rmdir()
    return True
