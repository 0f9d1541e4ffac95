"""The embedder of the database, to embed with here; the first who adds documents fixes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cirkelline.state import knowledge_settings
from cirkelline.state.connection import Database
from cirkelline.tools import embedding
from cirkelline.tools.embedding import Embedder, EmbedderPool


@dataclass(frozen=True, slots=True)
class Chosen:
    """The embedder in force, opened; `fixed` when this call made it the database's."""

    embedder: Embedder
    fixed: bool

    @property
    def says(self) -> str:
        """Which it is, and whether text leaves the machine."""
        where = self.embedder.leaves_machine
        goes = f"the documents' text is sent to {where}" if where else "no text leaves this machine"
        return f"documents of this database are embedded by {self.embedder.label}: {goes}"


async def in_force(db: Database, pool: EmbedderPool, environ: Mapping[str, str]) -> Chosen:
    """Open the embedder of the database, or fix the one that this machine prefers if there is none yet.

    Raises: EmbedderUnavailable, before anything is fixed.
    """
    async with db.connection() as conn:
        label = (await knowledge_settings.read(conn)).embedder
    if label is not None:
        return Chosen(await pool.get(label), fixed=False)
    mine = embedding.preferred(environ)
    embedder = await pool.get(mine)
    async with db.connection() as conn:
        label = await knowledge_settings.fix_embedder(conn, mine)
    return Chosen(embedder if label == mine else await pool.get(label), fixed=label == mine)
