"""What is wrong with manifests, a line each, all of it at once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

MOST_FOUND = 40  # characters of a value that an error repeats: enough to find it, no garbage


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong, and where."""

    place: str  # "jobs.yaml: document 3 (GpuJob llama-8b-sft)"
    message: str  # "found -2, allowed: a number above 0"
    path: str = ""  # "spec.training.tokens"

    def __str__(self) -> str:
        return ": ".join(plain(part) for part in (self.place, self.path, self.message) if part)


class ManifestErrors(Exception):  # of any number of faults
    """Input that cannot be used; ``faults`` has everything that is wrong with it, in its order."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))

    @property
    def errors(self) -> tuple[str, ...]:
        """A line for each fault."""
        return tuple(map(str, self.faults))


def plain(text: str) -> str:
    """The text on one line: what does not print is escaped."""
    return text if text.isprintable() else "".join(map(_printable, text))


def found(value: object) -> str:
    """How an error shows a value: as it would be written, cut short; never a whole structure.

    >>> found("yes"), found(-2), found(None), found([1, 2])
    ('"yes"', '-2', 'nothing', 'a list')
    """
    if value is None:
        return "nothing"
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return json.dumps(_cut(value), ensure_ascii=False)
    if isinstance(value, int) and abs(value) >= 10**MOST_FOUND:
        return "a number of too many digits"
    return str(value).lower() if isinstance(value, bool) else _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= MOST_FOUND else f"{text[: MOST_FOUND - 1]}…"


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")
