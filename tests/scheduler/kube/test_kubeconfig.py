"""Where a cluster is: kubeconfigs, a pod's service account, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from planner.manifests.write import plain_yaml
from scheduler.kube import errors, names
from scheduler.kube import kubeconfig as door
from scheduler.kube.client import Kube
from scheduler.kube.kubeconfig import connect
from tests.scheduler.kube.serving import Server


def test_the_context_says_who_where_and_in_which_namespace(server: Server, kube: Kube) -> None:
    assert kube.namespace == "ml"
    kube.get(names.PODS, "a", "ml")
    assert server.asked == [("GET", "/api/v1/namespaces/ml/pods/a", {}, None)]
    assert server.headers[0]["authorization"] == "Bearer secret"


def test_another_context_can_be_chosen_and_an_unknown_one_is_named(kubeconfig: Path) -> None:
    assert connect(kubeconfig=str(kubeconfig), context="two").namespace == "default"
    with pytest.raises(errors.Unconfigured, match=r"no context 'three', allowed: one, two"):
        connect(kubeconfig=str(kubeconfig), context="three")


def test_without_any_configuration_it_says_what_it_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(errors.Unconfigured, match="no KUBECONFIG"):
        connect()
    (tmp_path / "broken").write_text("clusters: 3\n")
    with pytest.raises(errors.Unconfigured, match="broken"):
        connect(kubeconfig=str(tmp_path / "broken"))


def test_in_a_pod_the_service_account_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, text in (("token", "of-the-pod"), ("ca.crt", "-"), ("namespace", "ops\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    loader = "kubernetes.config.incluster_config"
    monkeypatch.setattr(f"{loader}.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(f"{loader}.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(door, "_IN_POD", tmp_path)
    kube = connect()
    assert (kube.url, kube.namespace) == ("https://10.0.0.1:443", "ops")
    assert "of-the-pod" in kube._headers("x")["authorization"]


def test_an_address_that_is_none_is_named(tmp_path: Path, kubeconfig: Path) -> None:
    text = kubeconfig.read_text()
    (line,) = (each for each in text.splitlines() if "server:" in each)
    (tmp_path / "odd").write_text(text.replace(line.split("server: ")[1], "ftp://x"))
    with pytest.raises(errors.Unconfigured, match="odd: server: found 'ftp://x'"):
        connect(kubeconfig=str(tmp_path / "odd"))


def test_a_command_for_credentials_that_fails_is_said(tmp_path: Path, kubeconfig: Path) -> None:
    how = {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/false"}
    config = yaml.safe_load(kubeconfig.read_text())
    config["users"] = [{"name": "me", "user": {"exec": {**how, "interactiveMode": "Never"}}}]
    (tmp_path / "exec").write_text(plain_yaml(config))
    with pytest.raises(errors.Unconfigured, match="exec:"):
        connect(kubeconfig=str(tmp_path / "exec"))


def test_a_token_that_no_header_can_hold_is_not_sent(
    tmp_path: Path, kubeconfig: Path, server: Server
) -> None:
    config = yaml.safe_load(kubeconfig.read_text())
    config["users"] = [{"name": "me", "user": {"token": "a\nX-Remote-User: admin"}}]
    (tmp_path / "odd").write_text(plain_yaml(config))
    with pytest.raises(errors.Unconfigured, match="characters of no token"):
        connect(kubeconfig=str(tmp_path / "odd")).get(names.PODS, "a", "ml")
    assert server.asked == []
