"""Text of others as one plain line: names of pods, teams and nodes may hold anything."""

from __future__ import annotations

import re

CHARACTERS_MOST = 256  # Kubernetes' names have 253 at most
# What moves a terminal's cursor, breaks a line, or turns the direction of what follows.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(found: object, most: int = CHARACTERS_MOST) -> str:
    """One line, not endless, and such as can be written and shown.

    >>> plain("a" + chr(27) + "[31mred")
    'a?[31mred'
    """
    return _CONTROL.sub("?", str(found)[:most]).encode(errors="replace").decode()
