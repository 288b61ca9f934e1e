"""The command as a fixture."""

from __future__ import annotations

import pytest

from tests.flopwise.command import Command, in_process


@pytest.fixture
def flopwise(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``flopwise("plan", "-f", path)`` as a shell would run it: exit code, output, messages."""
    return in_process(monkeypatch, capsys)
