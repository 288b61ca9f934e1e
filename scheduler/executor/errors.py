"""What can go wrong, in one line each for a user to read."""

from __future__ import annotations


class ExecutorError(Exception):
    """The executor cannot go on."""


class BadRequestError(ExecutorError):
    """What was asked for cannot be run as it stands: a plan or a job to be mended first."""


class NotFoundError(ExecutorError):
    """No such job in this state directory."""


class RayUnreachableError(ExecutorError):
    """Ray did not answer: nothing is known of what was asked."""


class RayRefusedError(ExecutorError):
    """Ray answered, and said no."""
