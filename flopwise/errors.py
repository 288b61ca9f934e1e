"""What a command raises to end with a message and an exit code; no traceback reaches a user."""

from __future__ import annotations

FAILED = 1
BAD_INPUT = 2
INFEASIBLE = 3
NOT_FOUND = 4
OUT_OF_TIME = 5
INTERRUPTED = 130


class Fail(Exception):  # it is how a command ends, not a fault of the program
    """End the command with ``code``; the message goes to standard error, a line each."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code
