"""A sample of the canaries (`tests/bench/foreign_rows.py` asks ten thousand): no question reaches a row of somebody else."""

from __future__ import annotations

import asyncio
import random

import canaries
import pytest
from canaries import Asked, Aviary, Notes, Person
from command_runs import Commands, Filled

from cirkelline.state.connection import Database

PEOPLE = 60
PAIRS = 500


def chance(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - the same questions each time


@pytest.fixture
def people(filled: Filled) -> list[Person]:
    async def fill() -> list[Person]:
        async with Database.open(filled.url) as db:
            return await canaries.fill(db, PEOPLE, chance(4))

    return filled.do(fill())


async def _ask_all(url: str, notes: Notes) -> None:
    async with Database.open(url) as db, Aviary.open(db) as aviary:
        await aviary.ask_all(notes, canaries.QUESTIONS, PAIRS)


def test_functions_tools_and_the_runtime_give_nothing_of_somebody_else(filled: Filled, people: list[Person]) -> None:
    notes = Notes(people, chance(5))
    asyncio.run(_ask_all(filled.url, notes))
    assert (notes.asked, notes.foreign, notes.telling) == (PAIRS * 2, [], [])


def test_commands_give_nothing_of_somebody_else(cirkelline: Commands, filled: Filled, people: list[Person]) -> None:
    def run(arguments: list[str]) -> str:
        result = cirkelline(*arguments)
        return f"{result.code}\n{result.out}\n{result.err}"

    notes = Notes(people, chance(6))
    before = filled.sql("SELECT id, status FROM runtime.tasks ORDER BY id")
    for command, pair in zip(canaries.COMMANDS, notes.pairs(), strict=False):
        canaries.ask_command(notes, run, command, pair)
    assert (notes.asked, notes.foreign, notes.telling) == (len(canaries.COMMANDS) * 2, [], [])
    assert filled.sql("SELECT id, status FROM runtime.tasks ORDER BY id") == before
    me = people[0]
    assert me.secret in run(canaries.typed("tasks show TASK", Asked(me, me, "", 0)))


async def _seen(url: str, person: Person) -> set[str]:
    asked = Asked(person, person, person.document, 2)
    async with Database.open(url) as db, Aviary.open(db) as aviary:
        return {
            name
            for name, question in canaries.QUESTIONS.items()
            if name != "knowledge.remove" and person.secret in (await aviary.ask(question, asked))[1]
        }


def test_whoever_asks_for_their_own_gets_it(filled: Filled, people: list[Person]) -> None:
    # Or the canaries would be silent because nothing is answered at all.
    for person in people[:3]:
        seen = asyncio.run(_seen(filled.url, person))
        assert seen >= {
            "sessions.find",
            "sessions.messages",
            "sessions.kept",
            "citations.given",
            "tasks.find",
            "workflows.get",
            "profiles.read",
            "knowledge.get",
            "memories",
            "journal",
            "search hybrid",
            "search words",
            "search_knowledge documents",
            "search rrf",
            "search vector",
            "read_document",
        }, seen
