"""Taking over from workers that died, and waking tasks whose answer did not come in time."""

from __future__ import annotations

from uuid import UUID

import structlog

from cirkelline.state import claims, parking, transactions, workers
from cirkelline.state.connection import Database

log = structlog.get_logger(__name__)


async def take_over(db: Database, worker: UUID) -> bool:
    """Put what dead workers held back in line, if this worker may judge the others; return whether there was something."""
    async with db.connection() as conn:
        if not await workers.may_take_over(conn, worker):
            return False
        taken = await claims.take_over(conn)
        if taken:
            await transactions.cut_off_dead(conn)
        woken = await parking.expire(conn)
    if woken:
        log.info("tasks.woken", tasks=woken)
    if taken:
        log.warning("tasks.taken_over", tasks=taken)
    return taken > 0
