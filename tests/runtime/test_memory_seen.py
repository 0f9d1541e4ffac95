"""What was recalled for a run is on record with it: `tasks trace --prompt --body` writes the bytes that were sent."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from uuid import UUID

from recording_server import RecordingServer, said, used
from shelves import LABEL, Bags
from workplace import Workplace

from cirkelline.state import knowledge_settings, memories
from cirkelline.state.memories import Origin, Reason
from cirkelline.state.tenant import tenant
from cirkelline.tools.remembering import UserMemories

MEMORIES = ("Owns a sailing boat called “Ærø”", "Likes green tea", 'Says "ahoy" \\ to everybody', "Speaks Danish")


async def written(place: Workplace, task_id: UUID, *more: str) -> bytes:
    """What the command writes to stdout, in a process of its own without a key or a worker."""
    environ = {**os.environ, "DATABASE_URL": place.db.url}
    command = [sys.executable, "-m", "cirkelline", "tasks", "trace", str(task_id), "--prompt", *more]
    ran = await asyncio.to_thread(
        subprocess.run, command, env=environ, cwd=place.folder, capture_output=True, check=True, timeout=60
    )
    return ran.stdout


async def test_the_body_of_a_call_with_recalled_memories_is_what_was_sent_whatever_is_remembered_by_now(
    place: Workplace,
) -> None:
    async with place.db.connection() as conn:
        await knowledge_settings.fix_embedder(conn, LABEL)
    async with RecordingServer() as server:
        model = {"use": "openai:m", "base_url": f"{server.url}/v1"}
        await place.agent("talker", [], model=model, memory={"recall": 2, "budget": 30}, tools=["recall", "remember"])
        session, user = await place.session("talker")
        kept = UserMemories(place.db, Bags(), user)
        ids = [(await kept.remember(text, origin=Origin.ADDED)).id for text in MEMORIES]
        server.will(
            used("", ("recall", '{"question": "Danish"}')),
            used("", ("remember", '{"fact": "Wants to sail to Bornholm"}')),
            said("Ahoy."),
            said("Again."),
        )
        async with place.working(embedders=Bags()):
            (first,) = await place.ended(await place.turn(session, user, "What is my sailing boat called?"))
            (second,) = await place.ended(await place.turn(session, user, "And where does it sail to?"))
        assert [first.status, second.status] == ["completed", "completed"]
        sent = list(server.bodies)
    # What is remembered by now is another thing, and neither the server nor a worker is there any more.
    async with tenant(place.db, user) as door:
        await memories.archive(door, ids, Reason.FORGOTTEN)
    await kept.remember("Sold the sailing boat", origin=Origin.ADDED)
    assert len(sent) == 4
    for position, body in enumerate(sent[:3], 1):
        assert await written(place, first.id, str(position), "--body") == body
        (note, noted) = json.loads(body)["messages"][1:3]
        assert f"[{ids[0]}] {MEMORIES[0]} (" in note["content"]
        assert noted["content"] == "[noted]"
    assert await written(place, second.id, "--body") == sent[3]
    assert "Wants to sail to Bornholm" in json.loads(sent[3])["messages"][-3]["content"]
    recorded = await place.value(
        "SELECT output ->> 'memories' FROM runtime.journal WHERE task_id = %s AND position = 0", first.id
    )
    assert recorded in json.loads(sent[0])["messages"][1]["content"]
