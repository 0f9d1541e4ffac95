"""What a worker does beside its tasks that has a clock of its own: taking documents in, embedding, and removing what is old."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from cirkelline.configs.settings import Settings
from cirkelline.runtime import memory_rounds, memory_upkeep, retention, taking_in
from cirkelline.state.connection import Database
from cirkelline.tools.library import Embedders


def jobs(
    db: Database, settings: Settings, embedders: Embedders | None, *, whole: bool
) -> dict[str, Coroutine[Any, Any, None]]:
    """Return by its name what goes on for ever; without `whole` what concerns the whole database is left to others."""
    found = {"knowledge": taking_in.take_in(db)}
    if embedders is not None:
        found["memories"] = memory_upkeep.keep_up(db, embedders)
    if whole:
        found["retention"] = retention.keep_swept(db, settings)
        if settings.optimize_after:
            found["rounds"] = memory_rounds.keep_begun(db, settings)
    return found
