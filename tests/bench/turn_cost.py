"""What a turn costs late in a conversation: `python tests/bench/turn_cost.py --turns 2000`.

Processor time of one turn with a full window (20 messages, 1.1 KB each), of this process (which is the worker) and of the
server's processes that serve it, after many turns and after fifty. The two conversations take turns of a block each on
one database; the medians of the blocks are printed, and their ratio, one JSON line per kind of history. The model is
scripted. Works on DATABASE_URL's server, or on the embedded one; without /proc the server's part is null.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

import structlog
from journal_kills import workplace
from processors import client_and_server
from talking import Text
from workplace import Workplace

EARLY = 50
SIZE = 1_100

Session = tuple[UUID, UUID]


async def talk(place: Workplace, session: Session, turns: int, text: Text) -> None:
    for _ in range(turns):
        await place.ended(await place.turn(*session, text.of(SIZE)))


async def block(place: Workplace, session: Session, turns: int, text: Text) -> tuple[float, float | None]:
    """Processor milliseconds per turn of the client and of the server."""
    client, server = await client_and_server(place)
    await talk(place, session, turns, text)
    client_after, server_after = await client_and_server(place)
    spent = (server_after - server) / turns if server is not None and server_after is not None else None
    return (client_after - client) / turns, spent


async def measure(history: dict[str, Any], late: int, blocks: int, turns: int) -> dict[str, Any]:
    """Fill two conversations, then hold a block of each in turn."""
    text = Text()
    async with workplace() as place:
        await place.agent("talker", [{"text": text.of(SIZE)}], history=history)
        sessions = {late: await place.session("talker"), EARLY: await place.session("talker")}
        found: dict[int, list[tuple[float, float | None]]] = {after: [] for after in sessions}
        async with place.working():
            # A conversation that is new for each block, so that it is early in it; the late one only gets later.
            await talk(place, sessions[late], late, text)
            for _ in range(blocks):
                early = await place.session("talker")
                await talk(place, early, EARLY, text)
                await place.execute("VACUUM ANALYZE")
                found[EARLY].append(await block(place, early, turns, text))
                found[late].append(await block(place, sessions[late], turns, text))
    line: dict[str, Any] = {"history": history, "blocks": blocks, "turns_per_block": turns}
    for part, name in enumerate(("client_ms", "server_ms")):
        of = {after: [cost for each in costs if (cost := each[part]) is not None] for after, costs in found.items()}
        if all(of.values()):
            line[name] = {f"after {after}": round(statistics.median(costs), 2) for after, costs in of.items()}
            line[f"{name}_ratio"] = round(statistics.median(of[late]) / statistics.median(of[EARLY]), 3)
    both = {after: [one + (two or 0) for one, two in costs] for after, costs in found.items()}
    line["ratio"] = round(statistics.median(both[late]) / statistics.median(both[EARLY]), 3)
    return line


def main() -> None:
    """Measure a plain window and one with a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=2000)
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--block", type=int, default=20)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    for history in ({"messages": 20}, {"messages": 20, "summarize": True}):
        print(json.dumps(asyncio.run(measure(history, given.turns, given.blocks, given.block))), flush=True)  # noqa: T201 - its result


if __name__ == "__main__":
    main()
