"""The errors that reach a person: one sentence, its facts, and the remedy."""

from __future__ import annotations


class CirkellineError(Exception):
    """A failure whose message is one sentence that names the remedy; the command ends with `exit_code`."""

    exit_code = 1
    passing = False
    """Whether a task that failed of it may succeed when it is simply tried again."""


class UsageError(CirkellineError):
    """What was asked for cannot be done as written; nothing was changed."""

    exit_code = 2
