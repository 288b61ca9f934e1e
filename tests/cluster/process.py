"""One program of the cluster, running: started, stopped, killed, started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cluster.build import dying_with_us


class Died(Exception):
    """A program ended by itself; the message has the end of what it wrote."""


class Process:
    """A program that dies with whoever started it, however that ends.

    ``tail`` and the log's path say what it wrote; the log goes on over restarts.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.log = name, log
        self.command = [str(word) for word in command]
        self._environment = {**os.environ, **(environment or {})}
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; it must not be running."""
        assert not self.alive, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                [*dying_with_us(), *self.command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal is for the tests
            )

    @property
    def pid(self) -> int:
        """Its process id; it must have been started."""
        assert self._running is not None, f"{self.name} was never started"
        return self._running.pid

    @property
    def alive(self) -> bool:
        """Whether it runs (a paused one does)."""
        return self._running is not None and self._running.poll() is None

    def check(self) -> None:
        """`Died` where it does not run any more."""
        if not self.alive:
            code = self._running.returncode if self._running else None
            raise Died(f"{self.name} ended with {code}; {self.log} ends:\n{self.tail()}")

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal; nothing happens where it has ended."""
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError):
                self._running.send_signal(number)

    def pause(self) -> None:
        """Stops it where it is (SIGSTOP): it keeps its connections and answers nothing."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused one go on."""
        self.signal(signal.SIGCONT)

    def stop(self, within_seconds: float = 5) -> None:
        """Asks it to end, and kills it where that takes too long."""
        self.signal(signal.SIGTERM)
        self.resume()
        if self._running is not None:
            try:
                self._running.wait(within_seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL, and waits for its end."""
        self.signal(signal.SIGKILL)
        if self._running is not None:
            self._running.wait(30)

    def restart(self, after_seconds: float = 0) -> None:
        """Kills it and starts it again."""
        self.kill()
        time.sleep(after_seconds)
        self.start()

    def tail(self, lines: int = 15) -> str:
        """The end of what it wrote."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
