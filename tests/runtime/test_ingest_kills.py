"""A little of what tests/bench/ingest_kills.py does a hundred times."""

from __future__ import annotations

from embedding_server import EmbeddingServer
from ingest_kills import killed_again_and_again
from workplace import Workplace


async def test_a_killed_ingest_leaves_every_document_wholly_old_or_wholly_new(place: Workplace) -> None:
    with EmbeddingServer() as server:
        outcome = await killed_again_and_again(place, server, documents=24, kills=4, seed=4)
    assert outcome.faults == []
    assert outcome.killed == 4
    assert outcome.looks > 10
    assert outcome.stored_before_the_last > 0
    assert "RUNNING" not in outcome.runs
