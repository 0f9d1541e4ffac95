"""Giving agents many tasks at once, from a file with one to a line."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

from cirkelline.configs import durations, scalars, wording
from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.runtime.cli import console, display, opening, progressing
from cirkelline.runtime.cli.actions import inputs
from cirkelline.runtime.cli.actions.inputs import BadInput
from cirkelline.runtime.cli.answers import Answer, Text
from cirkelline.state import agents, submitting, users
from cirkelline.state.connection import Conn
from cirkelline.state.submitting import NewTask, OneKeyTaken

BATCH: Final = 2000
_KEYS: Final = ("agent", "input", "type", "priority", "at", "in", "key")
_LONGEST_PATH: Final = 400  # characters: nobody finds a file by a part of its path
_STDIN: Final = "-"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the file that asks for a task: its number from 1, the agent, and what the task is without it."""

    number: int
    agent: str
    task: Mapping[str, Any]


async def submit(file: str, agent: str | None, user: str | None) -> Answer:
    """Put every task of a file in line, or none of them: all lines are read before the first is written.

    `agent` gets the tasks of lines that name none; all of them run on behalf of `user`.
    """
    lines = list(read(file, agent))
    if not lines:
        raise BadInput(f"{_name(file)} holds no task: write one JSON object to a line, such as {_EXAMPLE}")
    async with opening.database(migrate=True) as opened, opened.db.transaction() as conn:
        found = await _agents(conn, lines, file)
        user_id = (await users.ensure(conn, user)).id if user is not None else None
        tasks = [_task(line, found[line.agent], user_id, file) for line in lines]
        try:
            new = await _written(conn, lines, tasks, file)
        except asyncio.CancelledError:  # Ctrl-C
            console.note("nothing was submitted")
            raise
    known = len(lines) - new
    per_agent = Counter(line.agent for line in lines)
    document = {"submitted": new, "known": known, "agents": dict(per_agent)}
    had = f"; {display.count(known, 'line')} had a key that was known already" if known else ""
    return Answer(document, [Text(f"{display.count(new, 'task')} submitted from {_name(file)}{had}")])


async def _agents(conn: Conn, lines: list[Line], file: str) -> dict[str, UUID]:
    found: dict[str, UUID] = {}
    for line in lines:
        if line.agent not in found:
            try:
                found[line.agent] = (await agents.answering(conn, line.agent)).id
            except UsageError as error:
                raise _bad(file, line.number, str(error)) from None
    return found


def _task(line: Line, agent: UUID, user: UUID | None, file: str) -> NewTask:
    task = NewTask(agent_id=agent, user_id=user, **line.task)
    try:
        task.as_json()
    except UsageError as error:
        raise _bad(file, line.number, str(error)) from None
    return task


async def _written(conn: Conn, lines: list[Line], tasks: list[NewTask], file: str) -> int:
    new = 0
    with progressing.counted(len(tasks), "task") as tell:
        for begin in range(0, len(tasks), BATCH):
            batch = tasks[begin : begin + BATCH]
            try:
                new += await submitting.submit_many(conn, batch)
            except OneKeyTaken as error:
                raise _bad(file, lines[begin + error.index].number, str(error)) from None
            tell(begin + len(batch))
    return new


# Reading ---------------------------------------------------------------------------------------------------------

_EXAMPLE: Final = '{"agent": "assistant", "input": "Hello"}'


def read(file: str, agent: str | None) -> Iterator[Line]:
    """Yield the lines of a file that are not empty, checked. Raises: BadInput, which names the line."""
    for number, content in enumerate(_lines(file), 1):
        if content.strip():
            try:
                yield _line(number, content, agent)
            except CirkellineError as error:
                raise _bad(file, number, str(error)) from None


def _lines(file: str) -> Iterator[bytes]:
    if file == _STDIN:
        if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - closed by whoever started us
            raise BadInput("there is no stdin to read tasks from")
        yield from sys.stdin.buffer
        return
    try:
        with Path(file).expanduser().open("rb") as opened:
            yield from opened
    except OSError as error:
        raise BadInput(
            f"cannot read {display.line(file, _LONGEST_PATH)}: {(error.strerror or str(error)).lower()}"
        ) from None


def _line(number: int, content: bytes, agent: str | None) -> Line:
    if len(content) > inputs.LARGEST:
        raise BadInput(f"it holds more than {display.size(inputs.LARGEST)}, which is the most a task's input may be")
    try:
        text = content.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise BadInput("it is not UTF-8 text: convert the file first (iconv -t UTF-8)") from None
    given = inputs.parsed(text.rstrip("\r\n"), "it")
    if not scalars.is_mapping(given):
        raise BadInput(f"it is no JSON object: write something like {_EXAMPLE}")
    given = cast("Mapping[str, Any]", given)
    for key in given:
        if key not in _KEYS:
            hint = wording.did_you_mean(key, _KEYS) or f"; there are {wording.listed(_KEYS)}"
            raise BadInput(f"it has an unknown key {wording.shown(key)}{hint}")
    return Line(number, _agent(given, agent), _wanted(given))


def _agent(given: Mapping[str, Any], agent: str | None) -> str:
    named = given.get("agent", agent)
    if named is None:
        raise BadInput('it names no agent: give it "agent", or one for all such lines: `tasks submit AGENT --from …`')
    if not isinstance(named, str) or not named.strip():
        raise BadInput(f'"agent" is an agent\'s name, not {display.value(named, 40)}')
    return named.strip()


def _wanted(given: Mapping[str, Any]) -> dict[str, Any]:
    if given.get("input") in (None, "") or (isinstance(given["input"], str) and not given["input"].strip()):
        raise BadInput('it has no input: write "input", which is text or any JSON')
    wanted: dict[str, Any] = {"payload": {"input": given["input"]}}
    for key, column in (("type", "task_type"), ("key", "key")):
        if key in given:
            if not isinstance(given[key], str) or not given[key].strip():
                raise BadInput(f'"{key}" is a text, not {display.value(given[key], 40)}')
            wanted[column] = given[key]
    if "priority" in given:
        if not isinstance(given["priority"], int) or isinstance(given["priority"], bool):
            raise BadInput(f'"priority" is a whole number, not {display.value(given["priority"], 40)}')
        wanted["priority"] = given["priority"]
    if "at" in given:
        wanted["run_at"] = _moment(given["at"])
    if "in" in given:
        wanted["delay"] = _seconds(given["in"])
    return wanted


def _moment(given: object) -> datetime:
    try:
        if isinstance(given, str) and len(given) > len("2026-03-01"):
            return datetime.fromisoformat(given).astimezone()
    except (ValueError, OverflowError, OSError):
        pass
    raise BadInput(f'"at" is a time such as "2026-03-01T09:00+01:00", not {display.value(given, 40)}')


def _seconds(given: object) -> float:
    seconds = durations.parse(given) if isinstance(given, str) else given
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 < seconds <= LONGEST_DELAY:
        return float(seconds)
    raise BadInput(f'"in" is a time to wait of at most 30 days, {durations.EXAMPLES}, not {display.value(given, 40)}')


LONGEST_DELAY: Final = 30 * 86_400


def _name(file: str) -> str:
    return "stdin" if file == _STDIN else display.line(file, _LONGEST_PATH)


def _bad(file: str, number: int, what: str) -> BadInput:
    what = what.replace("at line 1, column", "at column")
    return BadInput(f"{_name(file)}, line {number}: {what}; nothing was submitted")
