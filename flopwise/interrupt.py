"""Work that Ctrl-C ends at once, though a solver's threads would go on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
ASK_SECONDS = 0.05


def interruptible(work: Callable[[], T]) -> T:
    """``work()``, done in a thread; on Ctrl-C KeyboardInterrupt here while the thread goes on.

    CP-SAT takes SIGINT for itself while it searches and forgets Python's handler after. So the
    signal is blocked, for the threads of the work too, and asked for. Main thread only.
    """
    answer: Future[T] = Future()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        Thread(target=_fill, args=(answer, work), daemon=True).start()
        while True:
            try:
                return answer.result(timeout=ASK_SECONDS)
            except TimeoutError:
                if answer.done():
                    raise
            if signal.SIGINT in signal.sigpending():
                signal.sigwait({signal.SIGINT})
                raise KeyboardInterrupt
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _fill(answer: Future[T], work: Callable[[], T]) -> None:
    try:
        answer.set_result(work())
    except BaseException as error:  # noqa: BLE001  # it is raised again where it is awaited
        answer.set_exception(error)
