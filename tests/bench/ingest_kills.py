"""`knowledge add` killed with -9 a hundred times: `python tests/bench/ingest_kills.py --kills 100`.

Documents change between the kills and embedding fails now and then, while a searcher looks all along. Prints one JSON
line: every fault is a moment at which a document was a mix of two versions or gone. Twenty minutes on two cores. It works on
DATABASE_URL's server, or on the embedded one, in a database of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from embedding_server import EmbeddingServer
from ingest_kills import killed_again_and_again
from journal_kills import workplace


async def measured(documents: int, kills: int, seed: int) -> dict[str, object]:
    """Kill, and say what went wrong."""
    began = time.monotonic()
    async with workplace() as place:
        with EmbeddingServer() as server:
            outcome = await killed_again_and_again(place, server, documents=documents, kills=kills, seed=seed)
        return {
            **dataclasses.asdict(outcome),
            "embedded": server.texts,
            "requests": server.requests,
            "seed": seed,
            "s": round(time.monotonic() - began, 1),
        }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(json.dumps({"ingest_kills": asyncio.run(measured(given.documents, given.kills, given.seed))}))  # noqa: T201 - its result


if __name__ == "__main__":
    main()
