"""What the operator does, as JSON lines: one object a line, with the id of the decision.

Lines are values first: a `Log` made with a list to keep them is what tests look at.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any


class Log:
    """Writes lines; safe between threads."""

    def __init__(
        self,
        write: Callable[[str], object] = sys.stderr.write,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._write, self._now = write, now
        self._lock = threading.Lock()
        self.decision = ""  # put on each line from now on

    def say(self, message: str, level: str = "info", **fields: Any) -> None:
        """A line; fields that are empty are left out."""
        stated = {k: v for k, v in fields.items() if v not in ("", None)}
        line: dict[str, Any] = {"time": self._now().isoformat(), "level": level, "message": message}
        if self.decision:
            line["decision"] = self.decision
        text = json.dumps(line | stated, default=str) + "\n"
        with self._lock:
            self._write(text)

    def warning(self, message: str, **fields: Any) -> None:
        """A line about what went wrong, and is tried again."""
        self.say(message, "warning", **fields)

    def error(self, message: str, **fields: Any) -> None:
        """A line about what went wrong for good."""
        self.say(message, "error", **fields)
