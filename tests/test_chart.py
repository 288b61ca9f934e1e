"""The chart's values and files, read as text: what each value means, and what may be given.

That Helm renders and installs it, and that the API server takes it, is tested in tests/cluster.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flopwise.command import Command, in_process

CHART = Path(__file__).parent.parent / "charts" / "flopwise"
TEMPLATES = sorted(path for path in (CHART / "templates").rglob("*.yaml"))
# Kubernetes' own types: a chart that lists their fields is behind the next release.
OF_KUBERNETES = {
    *("resources", "podSecurityContext", "securityContext", "tolerations", "affinity"),
    *("topologySpreadConstraints", "imagePullSecrets"),
    *("networkPolicy.metricsFrom", "networkPolicy.extraEgress", "extraEnv"),
    *("extraVolumes", "extraVolumeMounts", "updateStrategy"),
}
# Names that are the user's: labels, annotations.
OF_USERS = {"nodeSelector", "podAnnotations"}


@pytest.fixture
def flopwise(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line."""
    return in_process(monkeypatch, capsys)


def values() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return read


def leaves(of: dict[str, Any], above: str = "") -> Iterator[str]:
    """The path of each value."""
    for name, value in of.items():
        path = f"{above}{name}"
        whole = {*OF_KUBERNETES, *OF_USERS}
        if isinstance(value, dict) and value and path.removeprefix("collector.") not in whole:
            yield from leaves(value, f"{path}.")
        else:
            yield path


def schema_of(path: str) -> dict[str, Any]:
    here: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    for step in path.split("."):
        here = here["properties"][step]
    return here


def documented() -> set[str]:
    """The paths of values that a comment of ``# --`` stands above."""
    found, trail, told = set(), list[tuple[int, str]](), False
    for line in (CHART / "values.yaml").read_text().splitlines():
        if line.strip().startswith("#"):
            told = told or line.strip().startswith("# -- ")
        elif match := re.match(r"( *)([A-Za-z]+):", line):
            trail = [step for step in trail if step[0] < len(match[1])]
            trail.append((len(match[1]), match[2]))
            if told:
                found.add(".".join(name for _, name in trail))
            told = False
    return found


def test_each_value_is_documented() -> None:
    assert set(leaves(values())) - documented() == set()


def test_each_value_has_a_schema_and_each_schema_a_value() -> None:
    def named(of: dict[str, Any], above: str = "") -> Iterator[str]:
        for name, inner in of["properties"].items():
            path = f"{above}{name}"
            yield from named(inner, f"{path}.") if "properties" in inner else [path]

    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(named(schema)) - {"global"} == set(leaves(values()))


def test_a_value_that_is_not_known_is_refused_at_every_level() -> None:
    parts = {path.rpartition(".")[0] for path in leaves(values())} - {""}
    assert [part for part in parts if schema_of(part)["additionalProperties"] is not False] == []


def test_names_of_values_are_in_camel_case() -> None:
    steps = {step for path in leaves(values()) for step in path.split(".")}
    assert [step for step in steps if not re.fullmatch(r"[a-z]+([A-Z][a-z]*)*", step)] == []


def used() -> str:
    """All templates, with what a variable or a helper stands for written out."""
    files = [path for path in (CHART / "templates").rglob("*") if path.is_file()]
    text = "\n".join(_written_out(path.read_text()) for path in files)
    helper = re.search(r'define "flopwise\.imageOf".*?(?=define|\Z)', text, re.DOTALL)
    assert helper is not None
    fields = set(re.findall(r"[ (](\.[a-z]+)", helper[0]))
    images = re.findall(r'imageOf" \(list \. (\.Values[.\w]*)\)', text)
    return "\n".join([text, *(f"{image}{field}" for image in images for field in fields)])


def _written_out(template: str) -> str:
    for name, of in re.findall(r"{{- \$(\w+) := (\.Values[.\w]*) }}", template):
        template = template.replace(f"${name}.", f"{of}.")
    return template


def test_each_value_is_used() -> None:
    text = used()
    unused = [p for p in leaves(values()) if not re.search(rf"\.Values\.{re.escape(p)}\b", text)]
    assert unused == []


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: str(path.stem))
def test_a_template_is_one_kind_of_object_and_its_file_says_which(template: Path) -> None:
    kinds = re.findall(r"^kind: (\w+)$", template.read_text(), re.MULTILINE)
    assert len(kinds) == 1
    assert template.stem.split("-")[0] == kinds[0].lower()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: str(path.stem))
def test_no_template_says_the_namespace_of_what_lies_in_the_release(template: Path) -> None:
    # Helm says it. Only what lies in the watched namespaces has one of its own.
    own = re.findall(r"^metadata:\n(?:  .*\n)*?  namespace:", template.read_text(), re.MULTILINE)
    assert bool(own) == (template.stem == "rolebinding-workloads")


def test_each_argument_is_an_option_of_the_operator(flopwise: Command) -> None:
    told = flopwise("operator", "run", "--help")
    if "No such command" in told.err:
        pytest.skip("the command line has no operator yet")
    text = (CHART / "templates" / "deployment.yaml").read_text()
    options = set(re.findall(r"^ +- (--[a-z-]+)", text, re.MULTILINE))
    assert len(options) == 9
    assert options - set(re.findall(r"--[a-z-]+", told.out)) == set()


def test_the_chart_is_of_the_packages_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (CHART.parents[1] / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.*)"$', project, re.MULTILINE)
    assert version is not None
    assert chart["appVersion"] == version[1]


def test_an_operator_has_memory_for_the_process_that_plans_the_whole_queue_too() -> None:
    resources = values()["resources"]
    assert (resources["requests"]["memory"], resources["limits"]["memory"]) == ("600Mi", "1Gi")
