"""Manifests as text that reads back to the same values."""

from __future__ import annotations

from collections.abc import Iterable

import yaml

from planner.manifests.schema import Manifest
from planner.manifests.text import scalar


def dump(documents: Iterable[Manifest]) -> str:
    """The manifests as YAML, a document each; what is not stated is left out."""
    return yaml.dump_all(
        map(document, documents),
        Dumper=_Dumper,
        sort_keys=False,
        explicit_start=True,
        allow_unicode=True,
        width=100,
    )


def document(manifest: Manifest) -> dict[str, object]:
    """The manifest as JSON has it; what is not stated is left out."""
    stated = manifest.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {"apiVersion": manifest.api_version, "kind": manifest.kind, **stated}


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # a base chosen by what is installed
    """Quotes also the text that our reading, but not PyYAML's, takes for something else."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None if scalar(value) == value else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def plain_yaml(document: dict[str, object]) -> str:
    """Any JSON document as YAML."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
