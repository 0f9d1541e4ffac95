"""How knowledge is searched in this database: the embedder, the language of the words, and what a score is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.rows import class_row

from cirkelline.configs.errors import UsageError
from cirkelline.state import jsonb
from cirkelline.state.connection import Conn


class BadSetting(UsageError):
    """A setting of knowledge that cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeSettings:
    """What is in force here.

    `embedder` is fixed by the first ingest (None before it). Chunks that do not say who embedded them, as other programs'
    do not, are taken for those of `unlabelled`; None compares them with nothing, and only their words are found.
    A score is `vector_weight * cosine + word_weight * s / (s + saturation)` for the BM25 score `s`.
    """

    embedder: str | None
    language: str
    unlabelled: str | None
    saturation: float
    vector_weight: float
    word_weight: float


READ: Final = """
SELECT embedder, language, unlabelled, saturation, vector_weight, word_weight FROM runtime.knowledge_settings()
"""


async def read(conn: Conn) -> KnowledgeSettings:
    """Return the settings in force."""
    async with conn.cursor(row_factory=class_row(KnowledgeSettings)) as cursor:
        await cursor.execute(READ)
        settings = await cursor.fetchone()
    if settings is None:
        raise RuntimeError("runtime.knowledge_settings() returned no row")
    return settings


FIX_EMBEDDER: Final = """
INSERT INTO runtime.settings AS s (name, value) VALUES ('knowledge', jsonb_build_object('embedder', %(label)s::text))
ON CONFLICT (name) DO UPDATE
   SET value = s.value || CASE WHEN s.value ->> 'embedder' IS NULL THEN excluded.value ELSE '{}' END
RETURNING value ->> 'embedder'
"""


async def fix_embedder(conn: Conn, label: str) -> str:
    """Make this the database's embedder unless it has one already; return the one in force."""
    row = await (await conn.execute(FIX_EMBEDDER, {"label": jsonb.clean_text(label)})).fetchone()
    if row is None:
        raise RuntimeError("the embedder was not stored")
    return str(row[0])


# In a query of its own, as the name of a configuration that is not there is an error.
LANGUAGE: Final = """
SELECT CASE WHEN n.nspname = 'pg_catalog' THEN quote_ident(c.cfgname)
            ELSE quote_ident(n.nspname) || '.' || quote_ident(c.cfgname) END
  FROM pg_ts_config c JOIN pg_namespace n ON n.oid = c.cfgnamespace
 WHERE c.oid = %(language)s::text::regconfig
"""
LANGUAGES: Final = "SELECT cfgname FROM pg_ts_config WHERE pg_ts_config_is_visible(oid) ORDER BY cfgname"
CHANGE: Final = """
INSERT INTO runtime.settings AS s (name, value) VALUES ('knowledge', %(changed)s::jsonb)
ON CONFLICT (name) DO UPDATE SET value = s.value || excluded.value
"""
TAKE_IN_AGAIN: Final = "SELECT runtime.take_in_again()"


async def change(
    conn: Conn,
    *,
    embedder: str | None = None,
    language: str | None = None,
    unlabelled: str | None = None,
    saturation: float | None = None,
    vector_weight: float | None = None,
    word_weight: float | None = None,
) -> KnowledgeSettings:
    """Change what is given and return what is in force then; an empty `unlabelled` takes it back.

    Another language has every chunk's words taken in again, by the back-fill. Raises: BadSetting.
    """
    numbers = {"saturation": saturation, "vector_weight": vector_weight, "word_weight": word_weight}
    changed: dict[str, object] = {name: _number(name, value) for name, value in numbers.items() if value is not None}
    if embedder is not None:
        changed["embedder"] = embedder
    if unlabelled is not None:
        changed["unlabelled"] = unlabelled or None
    async with conn.transaction():
        before = await read(conn)
        if language is not None:
            changed["language"] = await _language(conn, language)
        await conn.execute(CHANGE, {"changed": jsonb.dumps(changed)})
        if changed.get("language", before.language) != before.language:
            await conn.execute(TAKE_IN_AGAIN)
        return await read(conn)


def _number(name: str, value: float) -> float:
    if not math.isfinite(value) or value < 0 or (value == 0 and name == "saturation"):
        raise BadSetting(f"{name} cannot be {value}: give a number from 0 on (the saturation must be more than 0)")
    return float(value)


async def _language(conn: Conn, name: str) -> str:
    try:
        async with conn.transaction():
            row = await (await conn.execute(LANGUAGE, {"language": jsonb.clean_text(name)})).fetchone()
    except psycopg.Error:
        row = None
    if row is None:
        known = [str(each[0]) for each in await (await conn.execute(LANGUAGES)).fetchall()]
        raise BadSetting(f"PostgreSQL has no text search configuration {name!r} here: it has {', '.join(known)}")
    return str(row[0])
