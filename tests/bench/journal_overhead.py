"""What the journal and the database cost a run: `python tests/bench/journal_overhead.py`.

Processor time of this process for a run that calls one tool and answers, per run, in one JSON line of medians:

- agno: agno's own loop with a model that costs nothing and the same tool, with neither journal nor database;
- journal: our run with such a model and its journal, whose steps are encoded and kept in memory, so without a database;
- task: the whole way of a task in a line of many, from its claim to its written end, with the server's processor time,
  commits and WAL.

Blocks of each take turns. The ratios are to agno's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

import structlog
from agno.agent import Agent
from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse
from journal_kills import workplace
from processors import client_and_server
from workplace import Workplace

from cirkelline.agents.chat_model import ChatMessage, Delta, ToolCall, ToolSchema
from cirkelline.agents.journaling import Journal
from cirkelline.agents.models import ModelPool
from cirkelline.agents.run import RunRequest, run
from cirkelline.configs.loading import parse_config
from cirkelline.configs.schema import ModelSpec
from cirkelline.state import journal, jsonb
from cirkelline.state.journal import Step
from cirkelline.tools import ToolContext, tool
from cirkelline.tools.contract import tool_from_function
from cirkelline.tools.execution import Executor
from cirkelline.tools.state import State

ANSWER = "It is 7."
TOOL = '''
from cirkelline.tools import tool

@tool(effects="read")
def add(one: int, other: int) -> int:
    """Add two numbers."""
    return one + other
'''
TURNS = [{"text": "Let me see.", "tool": "add", "arguments": {"one": 3, "other": 4}}, {"text": ANSWER}]
UNFINISHED = "SELECT count(*) FROM (SELECT FROM runtime.queue UNION ALL SELECT FROM runtime.claims) unfinished"
COUNTS = """
SELECT xact_commit, (SELECT wal_bytes FROM pg_stat_wal)::bigint FROM pg_stat_database WHERE datname = current_database()
"""


@tool(effects="read")
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


class Answers:
    """Our view of that model."""

    label = "openai:answers"

    async def stream(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolSchema], *, must_call: bool = False
    ) -> AsyncIterator[Delta]:
        """Give the answer that comes next."""
        del tools, must_call
        if messages[-1].role == "tool":
            yield Delta(text=ANSWER)
        else:
            yield Delta(text="Let me see.", tool_calls=(ToolCall("c1", "add", '{"one": 3, "other": 4}'),))


class OneModel(ModelPool):
    """A pool that has this one model."""

    async def get(self, spec: ModelSpec) -> Answers:
        """Return it."""
        del spec
        return Answers()


async def bare(runs: int) -> float:
    """Milliseconds of processor per run of agno's loop; an agent per run, as it keeps the last run's state."""
    began = time.process_time()
    for _ in range(runs):
        model = Scripted(id="scripted", name="scripted", provider="scripted")
        agent = Agent(name="adder", model=model, instructions="Add.", tools=[add], telemetry=False)
        result = await agent.arun("3 and 4?")
        assert ANSWER in str(result.content), result.content
    return (time.process_time() - began) * 1000 / runs


class Memory:
    """Where a journal's steps go that no database keeps."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    async def write(self, steps: Sequence[Step]) -> None:
        self.kept.append(jsonb.dumps([journal.as_json(step) for step in steps]))

    def transaction(self, *, plain: bool) -> Any:
        raise NotImplementedError


async def journaled(runs: int) -> float:
    """Milliseconds of processor per run of ours, journaled into memory."""
    spec = parse_config({"name": "adder", "model": "openai:answers", "instructions": "Add."})
    tools = [tool_from_function(add)]
    async with OneModel({}) as pool, Executor() as executor:
        began = time.process_time()
        for _ in range(runs):
            memory, context = Memory(), ToolContext(state=State(), agent="adder", task_id=uuid4())
            start = Step(position=0, call=-1, kind="context", name="adder", format=1, output={"definition": 1})
            book = Journal(memory, task_id=context.task_id, model=spec.model.label, state=context.state, context=start)
            request = RunRequest(
                spec=spec,
                model=spec.model,
                input="3 and 4?",
                ctx=context,
                tools=tools,
                around_model_call=book.around_model_call,
                around_tool_call=book.around_tool_call,
            )
            outcome = await run(request, model_pool=pool, executor=executor)
            assert (outcome.output, len(memory.kept)) == (ANSWER, 2), outcome
        return (time.process_time() - began) * 1000 / runs


@asynccontextmanager
async def adder() -> AsyncIterator[Workplace]:
    """A workplace with the same agent, and a worker."""
    async with workplace() as place:
        place.tool("adding", TOOL)
        await place.agent("adder", TURNS, tools=[{"python": "adding:add"}])
        async with place.working():
            yield place


async def counts(place: Workplace) -> tuple[int, int]:
    """Return the database's commits and the server's bytes of WAL, once every connection has reported its own."""
    await asyncio.sleep(2.0)  # they report when they have done nothing for a second
    return (await place.rows(COUNTS))[0]  # type: ignore[return-value]


async def ours(place: Workplace, runs: int) -> dict[str, float]:
    """The same figure for tasks, and what they cost the server."""
    client, server = await client_and_server(place)
    await place.submit_many("adder", runs)
    while await place.value(UNFINISHED):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.1)  # seldom, as each look costs what is measured
    client_after, server_after = await client_and_server(place)
    found = {"client_ms": (client_after - client) / runs}
    if server is not None and server_after is not None:
        found["server_ms"] = (server_after - server) / runs
    return found


async def measure(runs: int, blocks: int) -> dict[str, Any]:
    """Take blocks of each in turn."""
    agno: list[float] = []
    ours_alone: list[float] = []
    tasks: list[dict[str, float]] = []
    async with adder() as place:
        await bare(20)
        await journaled(20)
        await ours(place, 20)
        before = await counts(place)
        for _ in range(blocks):
            agno.append(await bare(runs))
            ours_alone.append(await journaled(runs))
            tasks.append(await ours(place, runs))
        commits, wal = (after - earlier for after, earlier in zip(await counts(place), before, strict=True))
    written = {"commits": round(commits / runs / blocks, 2), "wal_kb": round(wal / runs / blocks / 1000, 2)}

    def medians(found: list[dict[str, float]]) -> dict[str, float]:
        return {key: round(statistics.median(each[key] for each in found), 2) for key in found[0]}

    def ratio(costs: list[float]) -> float:
        return round(statistics.median(cost / alone for cost, alone in zip(costs, agno, strict=True)), 2)

    return {
        "runs": runs,
        "blocks": blocks,
        "agno": {"client_ms": round(statistics.median(agno), 2)},
        "journal": {"client_ms": round(statistics.median(ours_alone), 2), "ratio": ratio(ours_alone)},
        "task": medians(tasks) | written | {"ratio": ratio([each["client_ms"] for each in tasks])},
    }


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--blocks", type=int, default=21)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    print(json.dumps(asyncio.run(measure(given.runs, given.blocks))))  # noqa: T201 - its result


if __name__ == "__main__":
    main()
