"""Canaries: users whose every row holds a secret word, and questions that ask for somebody else's in every way there is.

Each question is asked twice: about a user who is there, and about one who is not. No answer may hold a secret of anybody but
the one who asks, and the two answers must be the same in all but the names that were given: an error that knows the one
from the other has told something.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import psycopg
import shelves

from cirkelline.configs.errors import CirkellineError
from cirkelline.configs.settings import Settings
from cirkelline.runtime.api import Runtime
from cirkelline.state import citations, knowledge, profiles, searching, sessions, tasks, workflows
from cirkelline.state.connection import Database
from cirkelline.state.searching import Filter, Mode
from cirkelline.state.tenant import Tenant, tenant
from cirkelline.tools.builtins import BUILTINS
from cirkelline.tools.contract import ToolContext
from cirkelline.tools.execution import Executor
from cirkelline.tools.library import UserLibrary
from cirkelline.tools.state import State

SECRET = re.compile(r"secret[0-9a-f]{16}")
_NAMES = re.compile(r"[0-9a-f]{2,}(?:-[0-9a-f]{2,})*|\d+", re.IGNORECASE)

Answer = tuple[str, str]
"""Whether it was an answer or an error, and what it said."""


@dataclass(frozen=True, slots=True)
class Person:
    """What others may know about somebody: every name that can be given as a value. `secret` is what they may not know."""

    user: UUID
    secret: str
    document_id: int
    chunk_id: int

    @property
    def email(self) -> str:
        return f"u{self.user.hex}@example.com"

    @property
    def session(self) -> UUID:
        return UUID(int=self.user.int ^ 1)

    @property
    def task(self) -> UUID:
        return UUID(int=self.user.int ^ 2)

    @property
    def document(self) -> str:
        return f"plan-{self.user.hex}.txt"

    @property
    def source(self) -> str:
        return f"/home/{self.user.hex}/plan.txt"

    @property
    def alias(self) -> str:
        return f"user-{self.user.hex}"

    @property
    def names(self) -> list[str]:
        return [
            str(self.user),
            self.email,
            str(self.session),
            self.session.hex[:12],
            str(self.task),
            self.document,
            self.source,
            self.alias,
            str(self.document_id),
        ]


def _uuid(chance: random.Random) -> UUID:
    return UUID(int=(chance.getrandbits(128) & ~3) | 0x4000 << 64, version=4)


# Everybody's rows say the same but for the secret, so that every question fits everybody's; sessions began so long ago that
# no two answers differ in how long.
_FILL = """
CREATE TEMPORARY TABLE person ON COMMIT DROP AS
    SELECT * FROM unnest(%(users)s::uuid[], %(secrets)s::text[], %(sessions)s::uuid[], %(tasks)s::uuid[])
        WITH ORDINALITY AS p (id, secret, session, task, n);
INSERT INTO public.users (email, hashed_password) SELECT 'u' || replace(id::text, '-', '') || '@example.com', secret FROM person;
INSERT INTO runtime.users (id, email, auth_token)
    SELECT id, 'u' || replace(id::text, '-', '') || '@example.com', secret FROM person;
INSERT INTO public.admin_profiles (user_id, name, context)
    SELECT u.id, p.secret, p.secret FROM person p
      JOIN public.users u ON u.email = 'u' || replace(p.id::text, '-', '') || '@example.com';
INSERT INTO runtime.user_aliases (alias, user_id) SELECT 'user-' || replace(id::text, '-', ''), id FROM person;
INSERT INTO runtime.sessions (id, user_id, agent_id, created_at)
    SELECT session, id, %(agent)s::uuid, '2020-01-01' FROM person;
INSERT INTO runtime.tasks (id, agent_id, task_type, status, payload, result, session_id, user_id, attempt, definition_version)
    SELECT task, %(agent)s::uuid, 'chat', 'completed', jsonb_build_object('input', 'the annual budget report ' || secret),
           jsonb_build_object('output', 'answer ' || secret), session, id, 1, 1 FROM person;
INSERT INTO runtime.messages (session_id, task_id, user_id, role, content)
    SELECT session, task, id, role, 'the annual budget report ' || secret FROM person, (VALUES ('user'), ('assistant')) r (role);
INSERT INTO runtime.session_heads (session_id, user_id, work) SELECT session, id, jsonb_build_object('kept', secret) FROM person;
INSERT INTO runtime.session_summaries (session_id, covers, user_id, task_id, summary)
    SELECT session, 1, id, task, secret FROM person;
INSERT INTO runtime.journal (task_id, position, call, attempt, format, kind, name, output)
    SELECT task, 1, -1, 1, 1, 'model', secret, jsonb_build_object('text', secret) FROM person;
INSERT INTO runtime.citations (session_id, n, user_id, task_id, chunk, citation)
    SELECT session, 1, id, task, 1, jsonb_build_object('n', 1, 'document', secret) FROM person;
INSERT INTO runtime.failures (task_id, attempt, message) SELECT task, 1, secret FROM person;
UPDATE ai.agno_sessions a SET name = secret FROM person WHERE a.session_id = session;
INSERT INTO ai.agno_memories (memory_id, user_id, memory, topics)
    SELECT id, CASE WHEN n %% 2 = 0 THEN id::text ELSE 'user-' || replace(id::text, '-', '') END, secret,
           jsonb_build_array(secret) FROM person;
INSERT INTO ai.agno_memories_archive (original_memory_id, user_id, memory)
    SELECT id::text, id::text, jsonb_build_object('memory', secret) FROM person;
INSERT INTO ai.workflow_runs (run_id, workflow_name, status, user_id, input_data, output_data)
    SELECT task::text, 'nightly:report', 'COMPLETED', id::text, to_jsonb(secret), to_jsonb(secret) FROM person;
INSERT INTO ai.agno_knowledge (name, file_path, metadata)
    SELECT 'plan-' || replace(id::text, '-', '') || '.txt', '/home/' || replace(id::text, '-', '') || '/plan.txt',
           jsonb_build_object('user_id', CASE WHEN n %% 3 = 0 THEN 'user-' || replace(id::text, '-', '') ELSE id::text END,
               'source', '/home/' || replace(id::text, '-', '') || '/plan.txt', 'document_type', 'text',
               'tags', jsonb_build_array('work', secret), 'content_hash', secret, 'chunks', 2) FROM person;
INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)
    SELECT %(vector)s::public.vector, 'the annual budget report says ' || p.secret, d.id,
           jsonb_build_object('chunk_index', c, 'chunk_total', 2, 'page', c + 1, 'heading', p.secret, 'embedder', %(embedder)s::text)
        || CASE WHEN p.n %% 5 = 0 THEN '{}' ELSE jsonb_build_object('user_id', d.metadata ->> 'user_id') END
      FROM person p JOIN ai.agno_knowledge d ON d.name = 'plan-' || replace(p.id::text, '-', '') || '.txt',
           generate_series(0, 1) c;
"""
_KNOWN = """
SELECT d.id, (SELECT min(v.id) FROM ai.cirkelline_knowledge_vectors v WHERE v.document_id = d.id)
  FROM ai.agno_knowledge d WHERE d.name = %s::text
"""
_AGENT = """
INSERT INTO runtime.agents (name, type, handle) VALUES ('helper', 'assistant', 'helper') RETURNING id
"""


async def fill(db: Database, amount: int, chance: random.Random) -> list[Person]:
    """Make so many users, each with rows in every table."""
    async with db.transaction() as conn:
        await conn.execute(
            "DROP INDEX IF EXISTS ai.idx_vectors_embedding"
        )  # ten milliseconds a chunk, and not asked here
        row = await (await conn.execute(_AGENT)).fetchone()
        assert row is not None
        made = [_uuid(chance) for _ in range(amount)]
        secrets = [f"secret{chance.getrandbits(64):016x}" for _ in made]
        values = {
            "users": made,
            "secrets": secrets,
            "sessions": [UUID(int=each.int ^ 1) for each in made],
            "tasks": [UUID(int=each.int ^ 2) for each in made],
            "agent": row[0],
            "vector": str(shelves.vector("the annual budget report")),
            "embedder": shelves.LABEL,
        }
        for statement in _FILL.split(";\n")[:-1]:
            named = {name: value for name, value in values.items() if f"%({name})s" in statement}
            await conn.execute(statement, named)  # type: ignore[call-overload]
        people = []
        for user, secret in zip(made, secrets, strict=True):
            known = await (await conn.execute(_KNOWN, [f"plan-{user.hex}.txt"])).fetchone()
            assert known is not None
            people.append(Person(user, secret, *known))
    async with db.connection() as conn:
        await shelves.knowledge_settings.fix_embedder(conn, shelves.LABEL)
        await conn.execute("ANALYZE")
    return people


def ghost(chance: random.Random, like: Person) -> Person:
    """Somebody who is not there, whose names look like everybody's."""
    return Person(_uuid(chance), "", like.document_id + 1_000_000_000, like.chunk_id + 1_000_000_000)


TEMPLATES = [
    "{}",
    "{}' OR '1'='1",
    "{}'; DROP TABLE runtime.tasks; --",
    '{{"user_id": "{}"}}',
    "{}%",
    "%{}%",
    "_{}",
    "\\{}\\",
    "../../{}",
    "$({})",
    "${{{}}}",
    "{}\u202e",
    "{}) UNION SELECT chunk_text FROM ai.cirkelline_knowledge_vectors --",
    "the annual budget report OR {}",
    "'{}' | secret:*",
    "[{}]",
]


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, about whom, and a hostile value that is made of the latter's names."""

    me: Person
    other: Person
    value: str
    pick: int


Pair = tuple[Asked, Asked]
Question = Callable[["Aviary", Asked], Awaitable[object]]


# State functions, through the door ------------------------------------------------------------------------------------


def through_the_door(ask: Callable[[Tenant, Asked], Awaitable[object]]) -> Question:
    async def asked(aviary: Aviary, asked: Asked) -> object:
        async with tenant(aviary.db, asked.me.user) as door:
            return await ask(door, asked)

    return asked


async def _plain(door: Tenant, statement: str, **values: object) -> list[Any]:
    return await (await door.conn.execute(statement, values)).fetchall()  # type: ignore[call-overload]


def _filter(asked: Asked) -> Filter:
    return [
        Filter(tags=[asked.value]),
        Filter(types=[asked.value, "text"]),
        Filter(documents=[asked.other.document_id]),
        Filter(since=date(1990, 1, 1), documents=[asked.other.document_id, 0, -1, 2**40]),
        Filter(tags=["work"]),
        Filter(),
    ][asked.pick % 6]


def _search(mode: Mode) -> Question:
    async def ask(door: Tenant, asked: Asked) -> object:
        return await searching.search(
            door,
            asked.value if asked.pick % 2 else "the annual budget report",
            embedding=shelves.vector("annual budget report"),
            embedder=shelves.LABEL if asked.pick % 5 else asked.value,
            limit=[1, 10, 1000, -1][asked.pick % 4],
            mode=mode,
            filter=_filter(asked),
        )

    return through_the_door(ask)


STATE: dict[str, Question] = {
    "sessions.find": through_the_door(lambda door, _: sessions.find(door, limit=100)),
    "sessions.get": through_the_door(lambda door, asked: sessions.get(door, asked.value)),
    "sessions.messages": through_the_door(lambda door, asked: sessions.messages(door, asked.other.session)),
    "sessions.messages as": through_the_door(
        lambda door, asked: sessions.messages(Tenant(door.conn, asked.other.user), asked.other.session)
    ),
    "sessions.kept": through_the_door(
        lambda door, asked: sessions.kept(Tenant(door.conn, asked.other.user), asked.other.session)
    ),
    "sessions.submit_turn": through_the_door(
        lambda door, asked: sessions.submit_turn(
            Tenant(door.conn, asked.other.user), asked.other.session, {"input": asked.value}
        )
    ),
    "citations.given": through_the_door(
        lambda door, asked: citations.given(Tenant(door.conn, asked.other.user), asked.other.session, [1, 2])
    ),
    "tasks.find": through_the_door(lambda door, asked: tasks.find(door.conn, session_id=asked.other.session)),
    "tasks.get": through_the_door(lambda door, asked: tasks.get(door.conn, asked.other.task)),
    "tasks.resolve": through_the_door(lambda door, asked: tasks.resolve(door.conn, asked.value)),
    "tasks.search": through_the_door(lambda door, asked: tasks.search(door.conn, asked.value)),
    "workflows.find": through_the_door(lambda door, asked: workflows.find(door.conn, workflow=asked.value)),
    "workflows.resolve": through_the_door(lambda door, asked: workflows.resolve(door.conn, asked.value)),
    "workflows.get": through_the_door(lambda door, asked: workflows.get(door.conn, str(asked.other.task))),
    "profiles.read": through_the_door(lambda door, _: profiles.read(door)),
    "knowledge.documents": through_the_door(
        lambda door, asked: knowledge.documents(door, words=asked.value, tag="work" if asked.pick % 2 else None)
    ),
    "knowledge.get": through_the_door(lambda door, asked: knowledge.get(door, asked.value)),
    "knowledge.find_source": through_the_door(lambda door, asked: knowledge.find_source(door, asked.other.source)),
    "knowledge.sources_under": through_the_door(lambda door, asked: knowledge.sources_under(door, asked.value)),
    "knowledge.read": through_the_door(lambda door, asked: knowledge.read(door, asked.other.document_id)),
    "knowledge.remove": through_the_door(lambda door, asked: knowledge.remove(door, asked.other.document_id)),
    "knowledge.touch_tags": through_the_door(
        lambda door, asked: knowledge.touch_tags(door, asked.other.document_id, [asked.value])
    ),
    "memories": through_the_door(
        lambda door, asked: _plain(
            door,
            "SELECT * FROM ai.agno_memories WHERE memory = %(value)s::text OR user_id = %(value)s::text OR TRUE",
            value=asked.value,
        )
    ),
    "journal": through_the_door(
        lambda door, asked: _plain(
            door, "SELECT * FROM runtime.journal WHERE task_id = %(task)s::uuid", task=asked.other.task
        )
    ),
    "documents by metadata": through_the_door(
        lambda door, asked: _plain(
            door,
            "SELECT * FROM ai.agno_knowledge WHERE metadata @> %(metadata)s::jsonb OR name = %(value)s::text",
            metadata=json.dumps({"user_id": str(asked.other.user)}),
            value=asked.value,
        )
    ),
    "chunks": through_the_door(
        lambda door, asked: _plain(
            door,
            "SELECT id, chunk_text, metadata FROM ai.cirkelline_knowledge_vectors WHERE document_id = %(id)s::integer",
            id=asked.other.document_id,
        )
    ),
    "a memory of theirs": through_the_door(
        lambda door, asked: _plain(
            door,
            "INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), %(owner)s::text, %(value)s::text)",
            owner=str(asked.other.user),
            value=asked.value,
        )
    ),
    "a chunk in their document": through_the_door(
        lambda door, asked: _plain(
            door,
            "INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)"
            " VALUES (array_fill(0.1, ARRAY[768])::public.vector, 'x', %(id)s::integer, %(metadata)s::jsonb)",
            id=asked.other.document_id,
            metadata=json.dumps({"user_id": str(asked.me.user)}),
        )
    ),
}
SEARCHES: dict[str, Question] = {f"search {mode.value}": _search(mode) for mode in Mode}


# What agents call -----------------------------------------------------------------------------------------------------


def tool(name: str, arguments: Callable[[Asked], dict[str, object]]) -> Question:
    async def ask(aviary: Aviary, asked: Asked) -> object:
        library = UserLibrary(aviary.db, shelves.Bags(), asked.me.user, session_id=asked.other.session)
        ctx = ToolContext(state=State(), agent="helper", task_id=asked.me.task, user_id=asked.me.user, library=library)
        return await aviary.executor.call(BUILTINS[name], arguments(asked), ctx)

    return ask


TOOLS: dict[str, Question] = {
    "search_knowledge": tool("search_knowledge", lambda asked: {"query": asked.value[:2000], "limit": 50}),
    "search_knowledge documents": tool(
        "search_knowledge",
        lambda asked: {
            "query": "budget report",
            "documents": [asked.value if asked.pick % 2 else asked.other.document],
        },
    ),
    "search_knowledge tags": tool(
        "search_knowledge", lambda asked: {"query": "budget", "tags": ["work", asked.value[:100]], "limit": 50}
    ),
    "list_documents": tool("list_documents", lambda asked: {"words": asked.value[:200], "limit": 100}),
    "list_documents tag": tool("list_documents", lambda asked: {"tag": asked.value[:100]}),
    "read_document": tool("read_document", lambda asked: {"document": asked.value}),
    "read_document id": tool("read_document", lambda asked: {"document": str(asked.other.document_id)}),
}


# Python ---------------------------------------------------------------------------------------------------------------


async def _runtime_search(aviary: Aviary, asked: Asked) -> object:
    return await aviary.runtime.search_knowledge(asked.value, user=asked.me.email)


async def _runtime_user(aviary: Aviary, asked: Asked) -> object:
    return await aviary.runtime.user(asked.value)


RUNTIME: dict[str, Question] = {"Runtime.search_knowledge": _runtime_search, "Runtime.user": _runtime_user}

# What is typed; words in capitals stand for the names of whom it is about, VALUE for the hostile value.
COMMANDS = [
    "sessions list --limit 1000",
    "sessions show VALUE",
    "sessions show SESSION",
    "tasks list --session SESSION",
    "tasks show TASK",
    "tasks wait TASK",
    "tasks trace BEGINNING",
    "tasks trace TASK --prompt",
    "tasks replay TASK",
    "tasks cancel TASK",
    "tasks retry TASK",
    "tasks approve TASK",
    "tasks search budget",
    "tasks search VALUE",
    "workflows list",
    "workflows show TASK",
    "usage --by user --by agent",
    "knowledge list --limit 1000",
    "knowledge list VALUE",
    "knowledge search VALUE",
    "knowledge search budget --document DOCUMENT",
    "knowledge remove --yes DOCUMENT",
]


def typed(command: str, asked: Asked) -> list[str]:
    """A command line as whoever asks would type it."""
    values = {
        "VALUE": _typed(asked.value),
        "SESSION": str(asked.other.session),
        "TASK": str(asked.other.task),
        "BEGINNING": asked.other.task.hex[:12],
        "DOCUMENT": asked.other.document,
    }
    words = [values.get(word, word) for word in command.split()]
    return (
        [*words[:2], "--user", asked.me.email, *words[2:]]
        if words[0] != "usage"
        else [*words, "--user", asked.me.email]
    )


def _typed(value: str) -> str:
    return "".join(each for each in value if each.isprintable()).lstrip("-") or "x"


# Asking ---------------------------------------------------------------------------------------------------------------


def alike(text: str) -> str:
    """A text without the names in it: what is left has to be the same for whoever is there and whoever is not."""
    return _NAMES.sub("#", text)


@dataclass
class Notes:
    """What was asked among these people, and what an answer should not have held."""

    people: Sequence[Person]
    chance: random.Random
    asked: int = 0
    foreign: list[str] = field(default_factory=list)
    telling: list[str] = field(default_factory=list)

    def pairs(self) -> Iterator[Pair]:
        """Who asks about whom, and the same about nobody, for ever; each user asks in turn."""
        while True:
            for me in self.people:
                other = self.chance.choice([each for each in self.people if each is not me])
                nobody = ghost(self.chance, other)
                place, template = self.chance.randrange(len(other.names)), self.chance.choice(TEMPLATES)
                pick = self.chance.randrange(1_000)
                there, nowhere = (Asked(me, each, template.format(each.names[place]), pick) for each in (other, nobody))
                yield there, nowhere

    def answered(self, name: str, pair: Pair, answers: Sequence[Answer]) -> None:
        """Look for secrets of others in two answers, and whether they tell who is there."""
        for asked, (_, said) in zip(pair, answers, strict=True):
            self.asked += 1
            secrets = set(SECRET.findall(said)) - {asked.me.secret}
            if secrets:
                self.foreign.append(f"{name} by {asked.me.user} about {asked.other.user} ({asked.value!r}): {secrets}")
        there, nowhere = (alike(f"{kind} {said}") for kind, said in answers)
        if there != nowhere:
            self.telling.append(f"{name} ({pair[0].value!r}): {answers[0][1][:300]!r} and {answers[1][1][:300]!r}")


def ask_command(notes: Notes, run: Callable[[list[str]], str], command: str, pair: Pair) -> None:
    """Ask about both at the command line; `run` returns the exit code and all that was written."""
    notes.answered(command, pair, [("written", run(typed(command, each))) for each in pair])


@dataclass(frozen=True, slots=True)
class Aviary:
    """An open runtime on a database full of canaries."""

    db: Database
    runtime: Runtime
    executor: Executor

    @classmethod
    @asynccontextmanager
    async def open(cls, db: Database) -> AsyncIterator[Self]:
        settings = Settings(database_url=db.url, home=Path("/nonexistent"))  # type: ignore[arg-type]
        async with Runtime.open(settings, environ={}) as runtime, Executor() as executor:
            yield cls(db, runtime, executor)

    async def ask(self, question: Question, asked: Asked) -> Answer:
        """Ask once; an error is an answer too."""
        try:
            return "answer", repr(await question(self, asked))
        except (CirkellineError, psycopg.Error, ValueError) as error:
            return "error", f"{type(error).__name__}: {error}"

    async def ask_all(self, notes: Notes, questions: Mapping[str, Question], pairs: int) -> None:
        """Ask so many pairs of questions, one kind after the other."""
        kinds = itertools.cycle(questions.items())
        for pair, (name, question) in zip(itertools.islice(notes.pairs(), pairs), kinds, strict=False):
            notes.answered(name, pair, [await self.ask(question, each) for each in pair])


QUESTIONS: dict[str, Question] = STATE | SEARCHES | TOOLS | RUNTIME
