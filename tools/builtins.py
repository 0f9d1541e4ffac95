"""The tools every agent may name without any code of its author, from arithmetic to memories of the user."""

from __future__ import annotations

import zoneinfo
from collections.abc import Mapping
from datetime import UTC, timedelta, tzinfo
from types import MappingProxyType
from typing import Annotated, Final

from pydantic import Field

from cirkelline.configs import durations, wording
from cirkelline.configs.errors import CirkellineError
from cirkelline.tools import calculation, capturing, knowledge, memory
from cirkelline.tools.contract import Tool, ToolContext, tool, tool_from_function
from cirkelline.tools.waiting import Wait

NOTE_PREFIX: Final = "note:"  # a state key per note, so that notes of overlapping runs do not overwrite each other
NOTES_LIMIT: Final = 16 * 1024  # bytes of all notes; a state over its cap would fail the whole task when it ends

LONGEST_SLEEP: Final = 366 * 86_400.0  # seconds

Key = Annotated[str, Field(min_length=1, max_length=100)]
Question = Annotated[str, Field(min_length=1, max_length=4000)]


class UnknownTimeZone(CirkellineError):
    """There is no time zone of that name on this machine."""


class NoteError(CirkellineError):
    """A note that is not there, or for which there is no room."""


class SleepError(CirkellineError):
    """That is no time one can sleep for."""


@tool(effects="read")
def calculate(expression: str) -> str:
    """Calculate an arithmetic expression exactly, in decimals. Use it for every sum instead of guessing.

    It knows + - * / // % ** and parentheses, pi, e, abs, ceil, exp, floor, ln, log10, max, min, round, sqrt and sum.

    Args:
        expression: The expression, such as (19.99 + 5) * 3 or round(100 / 7, 2).
    """
    return calculation.value(expression)


@tool(effects="read")
def current_time(ctx: ToolContext, time_zone: str = "UTC") -> str:  # noqa: D417 (the model does not give ctx)
    """Tell the date, the time and the day of the week.

    Args:
        time_zone: An IANA time zone such as Europe/Copenhagen.
    """
    now = ctx.now().astimezone(_zone(time_zone))
    return f"{now:%A} {now.isoformat(timespec='seconds')} ({time_zone})"


# What a call does to ctx.state is kept with the record of its end, so one that was cut off has done nothing.
@tool(effects="idempotent")
def note(ctx: ToolContext, key: Key, text: str) -> str:  # noqa: D417 (the model does not give ctx)
    """Keep a short note for later tasks, replacing the note of the same key.

    Notes belong to the agent and are shared by all its users: never note anything personal.

    Args:
        key: A short name for the note.
        text: What to keep.
    """
    notes = {**_notes(ctx), key: text}
    needed = sum(len(f"{name}{kept}".encode("utf-8", "replace")) for name, kept in notes.items())
    if needed > NOTES_LIMIT:
        raise NoteError(
            f"all notes together may have {NOTES_LIMIT:,} bytes and would have {needed:,}: forget some first"
        )
    ctx.state[NOTE_PREFIX + key] = text
    return f"noted {key!r}"


@tool(effects="read")
def read_notes(ctx: ToolContext) -> dict[str, str] | str:
    """Read every note that this agent keeps. Notes are shared by all users of the agent."""
    return _notes(ctx) or "there are no notes"


@tool(effects="idempotent")
def forget_note(ctx: ToolContext, key: Key) -> str:  # noqa: D417 (the model does not give ctx)
    """Delete one note, for all users of this agent.

    Args:
        key: The name of the note.
    """
    notes = _notes(ctx)
    if key not in notes:
        there = f"there are {wording.listed(sorted(notes))}" if notes else "there are no notes"
        raise NoteError(f"there is no note {wording.shown(key)}{wording.did_you_mean(key, list(notes))} ({there})")
    ctx.state.pop(NOTE_PREFIX + key, None)
    return f"forgot {key!r}"


@tool(effects="read")
def ask_human(question: Question, choices: list[str] | None = None) -> Wait:
    """Ask a person and wait for the answer, however long it takes. Use it only for what you cannot find out yourself.

    Args:
        question: The question, with all that the person needs to know to answer it.
        choices: The possible answers, where there are only a few.
    """
    return Wait(question=question, choices=choices or ())


@tool(effects="read")
def sleep(ctx: ToolContext, duration: str) -> Wait:  # noqa: D417 (the model does not give ctx)
    """Wait before going on, for instance until something has had time to happen.

    Args:
        duration: How long, such as 30s, 10m or 12h.
    """
    seconds = durations.parse(duration.strip())
    if not seconds or seconds > LONGEST_SLEEP:
        longest = durations.render(LONGEST_SLEEP)
        raise SleepError(f"{wording.shown(duration)} is not a time to sleep; write 30s, 10m or 12h, at most {longest}")
    until = ctx.now() + timedelta(seconds=seconds)
    return Wait(until=until, result=f"{durations.render(seconds)} have passed")


_FUNCTIONS: Final = (
    calculate,
    current_time,
    note,
    read_notes,
    forget_note,
    ask_human,
    sleep,
    knowledge.search_knowledge,
    knowledge.list_documents,
    knowledge.read_document,
    memory.remember,
    memory.recall,
    memory.forget,
)
BUILTINS: Final[Mapping[str, Tool]] = MappingProxyType(
    {each.name: each for each in (tool_from_function(function) for function in _FUNCTIONS)}
)
KEEP_FACTS: Final = tool_from_function(capturing.keep_facts)
"""What a run that looks through a conversation calls; it is found by its name, and no list shows it."""


def _notes(ctx: ToolContext) -> dict[str, str]:
    return {key.removeprefix(NOTE_PREFIX): str(text) for key, text in ctx.state.items() if key.startswith(NOTE_PREFIX)}


def _zone(name: str) -> tzinfo:
    if name.upper() in {"UTC", "Z", "GMT"}:  # known without a time zone database
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # a folder's name and a path are OSError, ValueError
        raise UnknownTimeZone(_unknown_zone(name)) from None


def _unknown_zone(name: str) -> str:
    zones = sorted(zoneinfo.available_timezones())
    if not zones:
        return "this machine has no time zone database, so only UTC is known; install the package tzdata"
    cities = {zone.rpartition("/")[2]: zone for zone in zones}
    near = wording.nearest(name, zones) or cities.get(wording.nearest(name.replace(" ", "_"), list(cities)) or "")
    hint = f"; did you mean {near!r}?" if near else "; names are like Europe/Copenhagen"
    return f"there is no time zone {wording.shown(name)}{hint}"
