"""What a task is shown of its session: the window, the running summary before it, and the state that its tools keep.

A session with `summarize` shows all messages after its summary. They are between one and two windows; when there are two,
a task beside the session is put in line that folds the older half into the next summary. A turn never waits for it: until
it is made, or if it never is, up to three windows are shown and what is older is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from cirkelline.agents import prompts
from cirkelline.configs.errors import CirkellineError
from cirkelline.configs.schema import Capture
from cirkelline.runtime.registry import Prepared
from cirkelline.state import captures, memories, profiles, sessions
from cirkelline.state.claims import Claim
from cirkelline.state.connection import Database
from cirkelline.state.sessions import Message, Summary
from cirkelline.state.tenant import Tenant, tenant

SUMMARY: Final = "summary"
"""The type of the tasks that make summaries."""

CAPTURE: Final = "capture"
"""The type of the tasks that look through what a user said for what is worth remembering."""

_HEARD: Final = 16
"""Messages that are looked through at once."""

_WANTED: Final = 2
"""Windows of messages after the summary at which the next one is wanted."""
_MOST: Final = 3
"""Windows of messages that a turn is shown at most."""


class NothingToHear(CirkellineError):
    """A session has no message that has not been looked through."""


class NothingToSummarize(CirkellineError):
    """A session has no message that would fall out of its window."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """What an earlier attempt saw, as its journal has it: positions of messages, the session's state, the user's profile."""

    last_message: int | None = None
    summary: int | None = None
    session_state: Mapping[str, Any] | None = None
    about: str | None = None
    memories: str | None = None
    captured: int | None = None


@dataclass(frozen=True, slots=True)
class Past:
    """What a task is shown of its session and its user; `state` is None where it has none.

    `of` is the session it summarizes, `about` what it is told of its user. `captured` is set where it looks through
    messages for facts: up to there that has been done in `session`. `capture` says whether its own turn is to be looked through.
    """

    messages: Sequence[Message] = ()
    summary: Summary | None = None
    state: Mapping[str, Any] | None = None
    of: UUID | None = None
    about: str | None = None
    captured: int | None = None
    capture: bool = False
    session: UUID | None = None

    @property
    def pinned(self) -> Pinned:
        """What has to be kept so that a later attempt sees the same."""
        return Pinned(
            last_message=self.messages[-1].position if self.messages else None,
            summary=self.summary.covers if self.summary else None,
            session_state=self.state,
            about=self.about,
            captured=self.captured,
        )


async def look(db: Database, claim: Claim, prepared: Prepared, earlier: Pinned | None) -> Past:
    """Return what a task is shown of its session and user, the same as `earlier` where there was an attempt.

    Raises: NothingToSummarize, NothingToHear.
    """
    if claim.user_id is None:
        return Past()
    if claim.task_type == CAPTURE:
        async with tenant(db, claim.user_id) as door:
            capture = await captures.of(door, claim.id)
            if capture is not None:
                return await _to_hear(door, capture, earlier)
    if claim.task_type == SUMMARY:
        async with tenant(db, claim.user_id) as door:
            session = await sessions.summarized(door, claim.id)
            if session is not None:
                return await _to_summarize(door, session, prepared.spec.history.messages, earlier)
    history = prepared.spec.history
    takes_state = any(tool.wants_context for tool in prepared.tools)
    async with tenant(db, claim.user_id) as door:
        about = earlier.about if earlier else prompts.about(await profiles.read(door))
        looked_through = claim.session_id is not None and await _agreed(door, prepared)
        if claim.session_id is None or not (history.messages or takes_state):
            return Past(about=about, capture=looked_through)
        kept = None
        if history.summarize or takes_state:
            covers = (earlier.summary or 0) if earlier else None
            kept = await sessions.kept(door, claim.session_id, covers=covers)
        summary = kept.summary if kept and history.summarize else None
        messages: list[Message] = []
        if history.messages:
            messages = await sessions.messages(
                door,
                claim.session_id,
                limit=history.messages * (_MOST if history.summarize else 1),
                after=summary.covers if summary else 0,
                until=(earlier.last_message or 0) if earlier else None,
            )
    state = earlier.session_state if earlier else kept.work if kept and takes_state else None
    return Past(messages, summary, state, about=about, capture=looked_through)


async def _agreed(door: Tenant, prepared: Prepared) -> bool:
    """Whether what is said may be looked through: the agent's author and the user both have to have said so."""
    memory = prepared.spec.memory
    return memory is not None and memory.capture is Capture.AUTO and bool(await memories.consent(door))


async def _to_hear(door: Tenant, capture: captures.Capture, earlier: Pinned | None) -> Past:
    """Return the oldest messages that have not been looked through."""
    after = (earlier.captured or 0) if earlier else capture.after
    found = await sessions.messages(
        door,
        capture.session_id,
        limit=_HEARD,
        after=after,
        until=(earlier.last_message or 0) if earlier else None,
        oldest=True,
    )
    if not found or not await memories.consent(door):
        raise NothingToHear(f"nothing of session {capture.session_id} is to be looked through")
    return Past(found, captured=after, session=capture.session_id)


async def _to_summarize(door: Tenant, session: UUID, window: int, earlier: Pinned | None) -> Past:
    """Return the messages that the next summary takes in: all after the last one but a window of them."""
    kept = await sessions.kept(door, session, covers=(earlier.summary or 0) if earlier else None)
    summary = kept.summary if kept else None
    found = await sessions.messages(
        door,
        session,
        limit=window * _MOST,
        after=summary.covers if summary else 0,
        until=(earlier.last_message or 0) if earlier else None,
        oldest=True,
    )
    # What is left begins with a question: a turn is not cut in two.
    end = len(found) if earlier else len(found) - window
    while not earlier and end > 0 and found[end].role != "user":
        end -= 1
    if end <= 0:
        raise NothingToSummarize(f"nothing of session {session} has fallen out of its window by now")
    return Past(found[:end], summary, of=session)


def wants_summary(past: Past, prepared: Prepared, added: int) -> bool:
    """Whether a turn that adds so many messages leaves enough of them for the next summary."""
    history = prepared.spec.history
    return history.summarize and len(past.messages) + added >= history.messages * _WANTED
