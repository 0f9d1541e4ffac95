"""Requests for runs of an agent named `tester`, and what their models saw."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from cirkelline.agents import run, steps
from cirkelline.agents.chat_model import ChatMessage
from cirkelline.configs.schema import AgentSpec, LimitsSpec, ModelSpec
from cirkelline.tools.contract import ToolContext, tool_from_function
from cirkelline.tools.state import State

TASK = UUID("00000000-0000-0000-0000-00000000007a")
NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)

Script = Callable[..., ModelSpec]


def write_script(path: Path, turns: object) -> ModelSpec:
    """Write a script of turns and return the model that plays it."""
    path.write_text(json.dumps(turns), encoding="utf-8")  # JSON is YAML
    return ModelSpec(provider="scripted", name=str(path))


def ask(
    model: ModelSpec,
    input: str = "hello",
    *,
    tools: Sequence[Callable[..., Any]] = (),
    messages: Sequence[ChatMessage] = (),
    state: State | None = None,
    instructions: str = "Be brief.",
    limits: LimitsSpec | None = None,
    **more: Any,
) -> run.RunRequest:
    """Return a request for one run."""
    spec = AgentSpec(name="tester", model=model, instructions=instructions, limits=limits or LimitsSpec(wall=60))
    return run.RunRequest(
        spec=spec,
        model=model,
        input=input,
        messages=tuple(messages),
        tools=[tool_from_function(function) for function in tools],
        ctx=ToolContext(state=state or State(), agent="tester", task_id=TASK, clock=lambda: NOW),
        **more,
    )


async def watched(request: run.RunRequest, **options: Any) -> tuple[run.RunOutcome, list[steps.ModelCall]]:
    """Run a request and return its outcome with every model call as it was about to be made."""
    calls: list[steps.ModelCall] = []

    async def watch(call: steps.ModelCall, proceed: Callable[[], Awaitable[steps.Answer]]) -> steps.Answer:
        calls.append(call)
        return await proceed()

    outcome = await run.run(dataclasses.replace(request, around_model_call=watch), **options)
    return outcome, calls


async def tool_results(request: run.RunRequest, **options: Any) -> list[tuple[str | None, str, bool]]:
    """Run a request to its end and return the results its model saw last: name, text, whether it is an error."""
    outcome, calls = await watched(request, **options)
    assert outcome.status is run.RunStatus.COMPLETED, outcome
    seen = calls[-1].messages
    return [(message.tool_name, message.content, message.tool_error) for message in seen if message.role == "tool"]
