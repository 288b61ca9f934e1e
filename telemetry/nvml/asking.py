"""Calls that may fail alone: what fails is None, and its cause is counted, and told once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")
Tell = Callable[[str], None]

# What a GPU or its driver lacks by nature: no news, and told together.
_LACKING = ("Not Supported", "Function Not Found")
# What ails the whole GPU fails every call: the first one tells of it.
_OF_THE_GPU = ("GPU is lost", "GPU requires restart", "Uninitialized", "Driver Not Loaded")
SKIPPED = "left out: the tick was over its budget"


class Causes:
    """Why calls failed: how often, by call and cause; ``tell`` hears of each cause once.

    Once for each GPU; once for the node of what it lacks by nature, in one line a ``flush``.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told: set[tuple[str, str, str]] = set()
        self._lacking: list[str] = []
        self.counts: Counter[tuple[str, str]] = Counter()

    def note(self, call: str, cause: str, where: str) -> None:
        """Counts one failure; ``where`` is the UUID, or what else was asked."""
        self.counts[call, cause] += 1
        if cause in _LACKING:
            key = (call, cause, "")
        elif cause in _OF_THE_GPU:
            key = ("", cause, where)
        else:
            key = (call, cause, where)
        if key in self._told:
            return
        self._told.add(key)
        if cause in _LACKING:
            self._lacking.append(call)
        else:
            self._tell(f"{where}: {call}: {cause}")

    def flush(self) -> None:
        """Tells what was found lacking since the last time."""
        if self._lacking:
            self._tell(f"not given here: {', '.join(self._lacking)}")
            self._lacking.clear()


class Asking:
    """One session's way to ask: NVML, the causes, and the time that is left for this tick."""

    def __init__(self, nvml: ModuleType, causes: Causes, clock: Callable[[], float]) -> None:
        self.nvml = nvml
        self.causes = causes
        self.clock = clock
        self.deadline = float("inf")
        self.answered = 0  # calls, since the session began
        self.last_cause = ""
        self._texts: dict[int, str] = {}

    def ask(self, call: str, where: str, function: Callable[[], T]) -> T | None:
        """What ``function`` gives, or None where NVML refuses."""
        try:
            found = function()
        except self.nvml.NVMLError as error:
            self.refused(call, where, error.value)
            return None
        self.answered += 1
        return found

    def refused(self, call: str, where: str, code: int) -> None:
        """Notes NVML's code as the cause that ``call`` failed."""
        self.last_cause = self.text(code)
        self.causes.note(call, self.last_cause, where)

    def text(self, code: int) -> str:
        """NVML's own words for one of its codes."""
        if code not in self._texts:
            self._texts[code] = str(self.nvml.NVMLError(code))
        return self._texts[code]

    def has_time(self, what: str, where: str) -> bool:
        """Whether this tick has time left for ``what``; that it has not is noted."""
        if self.clock() < self.deadline:
            return True
        self.causes.note(what, SKIPPED, where)
        return False
