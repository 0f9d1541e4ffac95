"""`local:NAME`: a language model on this machine, with no key, no server and no network once its weights are here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

import psutil

from cirkelline.agents import local_actions, local_answer, local_engine, local_prompt, weights
from cirkelline.agents.chat_model import (
    AnswerTruncated,
    ChatMessage,
    Delta,
    ModelRequestRejected,
    ToolCall,
    ToolSchema,
    Usage,
)
from cirkelline.agents.local_answer import Call
from cirkelline.agents.local_engine import Engine, default_threads, open_engine
from cirkelline.configs import errors

__all__ = ["LocalChatModel", "LocalServer", "default_name", "default_threads", "open_engine", "unavailable_reason"]

MAX_TOKENS: Final = 1024
TEMPERATURE: Final = 0.2
"""Low: a small model wanders easily, and goes round in circles at 0."""


def default_name() -> str:
    """Return the model that this machine's free memory has room for."""
    return weights.default_name(psutil.virtual_memory().available)


def unavailable_reason(name: str, home: Path) -> str | None:
    """Return in one sentence why a model cannot run here, with the remedy, or None; asks no network and loads nothing."""
    if find_spec("xllamacpp") is None:
        return "the engine of local models is not installed here: pip install xllamacpp"
    if weights.is_path(name):
        return weights.gguf_fault(weights.where(home, name))
    try:
        entry = weights.find(name)
    except errors.UsageError as error:
        return str(error)
    if weights.is_present(home, name):
        return None
    return f"the weights of {entry.name} are not here yet: cirkelline models pull {entry.name}"


class LocalServer:
    """Serves one model file to any number of agents; give it back with `close`, or use it as an `async with`."""

    def __init__(self, path: Path, *, threads: int | None = None, context: int = local_engine.CONTEXT) -> None:
        self._engine: Engine | None = open_engine(path, threads=threads, context=context)

    def model(self, label: str, name: str, temperature: float | None, max_tokens: int | None) -> LocalChatModel:
        """Return a model that speaks through this engine, with its own settings."""
        del name  # the file is the model
        if self._engine is None:
            raise ModelRequestRejected(f"{label} was closed")
        return LocalChatModel(label, self._engine, temperature=temperature, max_tokens=max_tokens)

    async def close(self) -> None:
        """Give the engine back; its process ends when nobody else uses it."""
        engine, self._engine = self._engine, None
        if engine is not None:
            local_engine.release(engine)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _filled(written: str, tool: ToolSchema) -> Call:
    """Return the call of the one tool that had to be called; raises DecisionMalformed."""
    choice = local_actions.only_choice(tool)
    return local_answer.arguments(f"{{{json.dumps(choice[0])}: {written}}}" if choice else written, tool.name)


def _numbered(call: Call, messages: Sequence[ChatMessage]) -> ToolCall:
    """Return a call with an id that tells calls of one conversation apart, and is the same when it is replayed."""
    number = sum(len(message.tool_calls) for message in messages) + 1
    return ToolCall(f"call-{number}", call.name, json.dumps(call.arguments))


@dataclass(slots=True)
class _Answer:
    """One answer of the engine's as it is written, and what it says of it at its end."""

    text: str = ""
    finish: str = ""
    usage: Usage = field(default_factory=Usage)

    def take(self, chunk: Mapping[str, Any]) -> str:
        """Take one chunk; return the text it adds."""
        if counted := chunk.get("usage"):
            self.usage = Usage(counted["prompt_tokens"], counted["completion_tokens"])
        if not (choices := chunk.get("choices")):
            return ""
        self.finish = choices[0].get("finish_reason") or self.finish
        added: str = choices[0]["delta"].get("content") or ""
        self.text += added
        return added


class LocalChatModel:
    """A ChatModel on this machine; any number of conversations may use it at once, and take turns."""

    def __init__(
        self,
        label: str,
        engine: Engine,
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.label = label
        self._engine = engine
        self._temperature = TEMPERATURE if temperature is None else temperature
        self._max_tokens = max_tokens or MAX_TOKENS
        self._seed = seed

    async def stream(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolSchema], *, must_call: bool = False
    ) -> AsyncGenerator[Delta]:
        """Answer in text as it is written, or with one tool call.

        A turn of many calls, or one that asks again for what it was given, gets to reply and nothing else, unless it
        must call. Raises AnswerTruncated at the token limit, ModelRequestRejected when the conversation is too long,
        EngineFailed.
        """
        made = local_prompt.turn(messages)
        deciding = _Answer()
        if tools and (must_call or len(made) < local_prompt.CALLS_PER_TURN):
            call = await self._decide(messages, tools, deciding, must_call=must_call)
            if call is not None and (must_call or not local_prompt.is_repeated(call, made)):
                yield Delta(tool_calls=(_numbered(call, messages),))
                yield Delta(usage=deciding.usage)
                return
        reply = _Answer()
        async with contextlib.aclosing(self._write(local_prompt.to_reply(messages, tools), reply)) as pieces:
            async for text in pieces:
                yield Delta(text=text)
        yield Delta(usage=deciding.usage + reply.usage)

    async def _decide(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolSchema], answer: _Answer, *, must_call: bool
    ) -> Call | None:
        only = tools[0] if must_call and len(tools) == 1 else None
        action = None if must_call else local_prompt.reply_action(tools)
        held = local_actions.filled(only) if only else local_actions.schema(tools, action)
        told = (
            local_prompt.to_fill(messages, only)
            if only
            else local_prompt.to_decide(messages, tools, must_call=must_call)
        )
        form = {"type": "json_schema", "json_schema": {"name": "decision", "schema": held, "strict": True}}
        async with contextlib.aclosing(self._write(told, answer, form)) as pieces:
            async for _ in pieces:
                pass
        try:
            return _filled(answer.text, only) if only else local_answer.decision(answer.text, action)
        except local_answer.DecisionMalformed as error:
            raise AnswerTruncated(f"{self.label} gave no usable answer: {error}; try again") from None

    async def _write(self, told: local_prompt.Told, answer: _Answer, form: object = None) -> AsyncGenerator[str]:
        """Have the engine write an answer; yield its text as it comes, and raise unless it is whole."""
        request: dict[str, Any] = {
            "messages": told,
            "temperature": self._temperature,
            "max_tokens": self._max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "cache_prompt": True,
        }
        request |= {"seed": self._seed} if self._seed is not None else {}
        request |= {"response_format": form} if form else {}
        async with contextlib.aclosing(self._engine.chat(request)) as chunks:
            async for chunk in chunks:
                if text := answer.take(chunk):
                    yield text
                if local_answer.goes_round(answer.text):
                    raise AnswerTruncated(
                        f"{self.label} went round in circles; ask in other words, or use a larger model"
                    )
        if answer.finish == "length":
            raise AnswerTruncated(self._cut(answer.usage))

    def _cut(self, usage: Usage) -> str:
        context = self._engine.order.context
        if usage.input_tokens + usage.output_tokens >= context:
            return f"the answer of {self.label} was cut at the {context} tokens of a conversation here; shorten its history"
        return f"the answer of {self.label} was cut at {self._max_tokens} tokens; raise max_tokens or ask for less"
