"""`local:NAME`: a language model on this machine, with no key, no server and no network once its weights are here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

import psutil

from cirkelline.agents import local_answer, local_engine, local_prompt, weights
from cirkelline.agents.chat_model import (
    AnswerTruncated,
    ChatMessage,
    Delta,
    ModelRequestRejected,
    ToolCall,
    ToolSchema,
    Usage,
)
from cirkelline.agents.local_answer import AnswerMalformed, AnswerReader, Call, Reply
from cirkelline.agents.local_engine import Engine, default_threads, open_engine
from cirkelline.agents.local_prompt import Prompt
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


@dataclass(slots=True)
class _Answer:
    """One answer as it is written: its reader, and what the engine says of it at its end."""

    reader: AnswerReader | None
    written: str = ""
    finish: str = ""
    usage: Usage = field(default_factory=Usage)

    def take(self, chunk: dict[str, Any]) -> str:
        """Take one chunk of the engine's; return the text it adds for the user."""
        if counted := chunk.get("usage"):
            self.usage = Usage(counted["prompt_tokens"], counted["completion_tokens"])
        if not (choices := chunk.get("choices")):
            return ""
        self.finish = choices[0].get("finish_reason") or self.finish
        text = choices[0]["delta"].get("content") or ""
        self.written += text
        return self.reader.feed(text) if self.reader else text


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

    async def stream(self, messages: Sequence[ChatMessage], tools: Sequence[ToolSchema]) -> AsyncGenerator[Delta]:
        """Answer in text as it is written, or with one tool call.

        A turn of many calls, or one that asks again for what it was given, gets to reply and nothing else. Raises
        AnswerTruncated at the token limit, ModelRequestRejected when the conversation is too long, EngineFailed.
        """
        made = local_prompt.turn(messages)
        may_call = len(made) < local_prompt.CALLS_PER_TURN
        usage = Usage()
        while True:
            prompt = local_prompt.compose(messages, tools, may_call=may_call)
            answer = _Answer(AnswerReader(prompt.reply) if prompt.schema else None)
            async with contextlib.aclosing(self._write(prompt, answer)) as pieces:
                async for text in pieces:
                    yield Delta(text=text)
            usage += answer.usage
            call = self._finish(answer)
            if isinstance(call, Reply) or not local_prompt.is_repeated(call, made):
                break
            may_call = False
        if isinstance(call, Call):
            # The id tells calls of one conversation apart, and comes out the same when the conversation is replayed.
            number = sum(len(message.tool_calls) for message in messages) + 1
            yield Delta(tool_calls=(ToolCall(f"call-{number}", call.name, json.dumps(call.arguments)),))
        yield Delta(usage=usage)

    async def _write(self, prompt: Prompt, answer: _Answer) -> AsyncGenerator[str]:
        request: dict[str, Any] = {
            "messages": prompt.messages,
            "temperature": self._temperature,
            "max_tokens": self._max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "cache_prompt": True,
        }
        if self._seed is not None:
            request["seed"] = self._seed
        if prompt.schema:
            form = {"name": "answer", "schema": prompt.schema, "strict": True}
            request["response_format"] = {"type": "json_schema", "json_schema": form}
        async with contextlib.aclosing(self._engine.chat(request)) as chunks:
            async for chunk in chunks:
                if text := answer.take(dict(chunk)):
                    yield text
                if local_answer.goes_round(answer.written):
                    raise AnswerTruncated(
                        f"{self.label} went round in circles; ask in other words, or use a larger model"
                    )

    def _finish(self, answer: _Answer) -> Reply | Call:
        if answer.finish == "length":
            used = answer.usage.input_tokens + answer.usage.output_tokens
            if used >= self._engine.order.context:
                limit, remedy = (
                    f"the {self._engine.order.context} tokens a conversation may have here",
                    "shorten its history",
                )
            else:
                limit, remedy = f"the limit of {self._max_tokens} tokens", "raise max_tokens or ask for less"
            raise AnswerTruncated(f"the answer of {self.label} was cut at {limit}; {remedy}")
        if answer.reader is None:
            return Reply()
        try:
            return answer.reader.finish()
        except AnswerMalformed as error:
            raise AnswerTruncated(f"{self.label} gave no usable answer: {error}; try again") from None
