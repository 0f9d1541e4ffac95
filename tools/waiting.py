"""What a tool returns when its result is still to come: the task is parked, and holds nothing while it waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cirkelline.configs.errors import CirkellineError


class WaitUnusable(CirkellineError):
    """A tool returned a `Wait` for something that cannot come."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A result that a person or the clock will give; return it as the last thing a tool does.

    With a `question`, the model reads what a person answers (one of the `choices`, where there are some), or after
    `until` that nobody did. Without one it reads `result` once `until` has come. Times have a zone.
    """

    question: str = ""
    choices: Sequence[str] = ()
    until: datetime | None = None
    result: str = ""

    def __post_init__(self) -> None:
        """Refuse what would wait for ever, or at a time that depends on where one stands."""
        if not self.question.strip() and self.until is None:
            raise WaitUnusable("a Wait needs a question for a person, or a moment in until=")
        if self.until is not None and self.until.tzinfo is None:
            raise WaitUnusable("a Wait's until= needs a time zone: take ctx.now() and add a timedelta")
