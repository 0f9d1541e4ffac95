"""What the journal and the database cost a run: `python tests/bench/journal_overhead.py --runs 200`.

Processor time of this process for a run that calls one tool and answers: a task of ours, from its claim to its written
end, beside the same answers and the same tool in agno's own loop with neither journal nor database. Blocks of each take
turns; medians, and their ratio, in one JSON line, with the server's processor time, commits and WAL per task. Ours is
also shown with the tasks submitted one after the other, each waited for, as a chat does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from agno.agent import Agent
from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse
from journal_kills import workplace
from processors import client_and_server
from workplace import Workplace

ANSWER = "It is 7."
COUNTS = """
SELECT xact_commit, (SELECT wal_bytes FROM pg_stat_wal)::bigint FROM pg_stat_database WHERE datname = current_database()
"""


def add(one: int, other: int) -> int:
    """Add two numbers."""
    return one + other


class Scripted(Model):
    """agno's view of a model that calls the tool and then answers."""

    async def ainvoke(self, messages: list[Message], **_options: Any) -> ModelResponse:  # type: ignore[override]
        if any(message.role == "tool" for message in messages):
            return ModelResponse(role="assistant", content=ANSWER)
        call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"one": 3, "other": 4}'}}
        return ModelResponse(role="assistant", content="Let me see.", tool_calls=[call])

    def invoke(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def invoke_stream(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def ainvoke_stream(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def _parse_provider_response(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def _parse_provider_response_delta(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


async def bare(runs: int) -> float:
    """Milliseconds of processor per run of agno's loop; an agent per run, as it keeps the last run's state."""
    began = time.process_time()
    for _ in range(runs):
        model = Scripted(id="scripted", name="scripted", provider="scripted")
        agent = Agent(name="adder", model=model, instructions="Add.", tools=[add], telemetry=False)
        result = await agent.arun("3 and 4?")
        assert result.content == ANSWER
    return (time.process_time() - began) * 1000 / runs


@asynccontextmanager
async def adder() -> AsyncIterator[Workplace]:
    """A workplace with the same agent, and a worker."""
    async with workplace() as place:
        place.tool("adding", 'def add(one: int, other: int) -> int:\n    """Add two numbers."""\n    return one + other\n')
        turns = [{"text": "Let me see.", "tool": "add", "arguments": {"one": 3, "other": 4}}, {"text": ANSWER}]
        tools = [{"python": "adding:add", "effects": None}]
        for tool in tools:
            tool.pop("effects")
        await place.agent("adder", turns, tools=tools)
        async with place.working():
            yield place


async def ours(place: Workplace, runs: int, *, at_once: bool) -> dict[str, float]:
    """The same figure for tasks, and what they cost the server."""
    await place.value("SELECT pg_stat_force_next_flush()::text")
    client, server = await client_and_server(place)
    commits, wal = (await place.rows(COUNTS))[0]
    for _ in range(1 if at_once else runs):
        await place.submit_many("adder", runs if at_once else 1)
        await place.becomes(0, "SELECT count(*) FROM (SELECT FROM runtime.queue UNION ALL SELECT FROM runtime.claims) x")
    client_after, server_after = await client_and_server(place)
    commits_after, wal_after = (await place.rows(COUNTS))[0]
    found = {"client_ms": (client_after - client) / runs, "commits": (commits_after - commits) / runs}
    found["wal_kb"] = (wal_after - wal) / runs / 1000
    if server is not None and server_after is not None:
        found["server_ms"] = (server_after - server) / runs
    return found


async def measure(runs: int, blocks: int) -> dict[str, Any]:
    """Take blocks of each in turn."""
    agno: list[float] = []
    together: list[dict[str, float]] = []
    single: list[dict[str, float]] = []
    async with adder() as place:
        await bare(20)
        await ours(place, 20, at_once=True)
        for _ in range(blocks):
            agno.append(await bare(runs))
            together.append(await ours(place, runs, at_once=True))
            single.append(await ours(place, max(runs // 4, 1), at_once=False))

    def medians(found: list[dict[str, float]]) -> dict[str, float]:
        return {key: round(statistics.median(each[key] for each in found), 2) for key in found[0]}

    line = {"agno_client_ms": round(statistics.median(agno), 2), "many": medians(together), "one_by_one": medians(single)}
    ratio = statistics.median(each["client_ms"] / alone for each, alone in zip(together, agno, strict=True))
    return {"runs": runs, "blocks": blocks, **line, "ratio": round(ratio, 2)}


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--blocks", type=int, default=7)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(measure(given.runs, given.blocks))))  # noqa: T201 - its result


if __name__ == "__main__":
    main()
