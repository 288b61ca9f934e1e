"""How far a solve is, on one line of standard error: only where a person watches."""

from __future__ import annotations

import math
import shutil
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.solve.clock import Step

CLEAR_LINE = "\r\x1b[K"
WIDTH = 10  # marks of the bar


@dataclass(slots=True)
class Progress:
    """A bar of the time used, what is being done, and the best plan and bound known."""

    limit_seconds: float
    step: Step | None = None
    stopping: bool = False
    began: float = field(default_factory=time.monotonic)
    shown: str = ""

    def hear(self, step: Step) -> None:
        """Keep what the solver knows; any thread may call it."""
        self.step = step

    def draw(self) -> None:
        """Draw the line anew where it has changed."""
        line = self.line(time.monotonic() - self.began)
        line = line[: shutil.get_terminal_size().columns - 1]  # one that wraps cannot be cleared
        if line != self.shown and sys.stderr.isatty():
            sys.stderr.write(CLEAR_LINE + line)
            sys.stderr.flush()
            self.shown = line

    def clear(self) -> None:
        """Leave an empty line behind."""
        if self.shown:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()

    def line(self, seconds: float) -> str:
        """The line after ``seconds``."""
        done = min(WIDTH, int(WIDTH * seconds / self.limit_seconds))
        bar = f"[{'#' * done}{'.' * (WIDTH - done)}] {seconds:5.1f} s"
        if self.step is None:
            return f"{bar}  preparing"
        doing = "stopping" if self.stopping else self.step.doing
        return f"{bar}  {doing}: {_known(self.step)}"


def _known(step: Step) -> str:
    best = f"${step.best_usd:,.0f}" if step.best_usd < math.inf else "none yet"
    gap = f"{100 * step.gap_fraction:.2f} %" if step.gap_fraction < math.inf else "-"
    return f"best {best}, bound ${step.bound_usd:,.0f}, gap {gap}"
