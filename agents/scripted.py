"""`scripted:FILE` - a model that plays a YAML script of turns: for tests, an author's own too; never a default.

Which turn is next is read off the conversation and kept nowhere: the first conversation whose `match` is found in the
last user message, and in it the turn after as many as the model has answered since. A restart or a replay therefore
goes on where it was. The format, with an example, is in docs/scripted-models.md.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, assert_never

from cirkelline.agents import chat_model, script_file
from cirkelline.agents.chat_model import ChatMessage, Delta, ModelError, ToolCall, ToolSchema, Usage
from cirkelline.agents.script_file import Script, ScriptError, Turn
from cirkelline.configs import scalars, wording

__all__ = ["ScriptError", "ScriptMismatch", "ScriptedModel", "load"]

_WORD: Final = re.compile(r"\s*\S+\s*|\s+")


class ScriptMismatch(ModelError):
    """The conversation went another way than the script says."""


def load(path: Path) -> ScriptedModel:
    """Return the model that plays a script; raises ScriptError, located, when it cannot be played."""
    return ScriptedModel(path, script_file.load(path))


@dataclass(frozen=True, slots=True)
class _Moment:
    """Where in the conversation a turn is taken: what templates stand for, and how many answers came before it."""

    input: str
    last_tool: str
    answered: int

    def fill(self, text: str) -> str:
        return script_file.TEMPLATE.sub(lambda match: self.input if match[1] == "input" else self.last_tool, text)

    def fill_all(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.fill(value)
        if scalars.is_mapping(value):
            return {key: self.fill_all(each) for key, each in value.items()}
        return [self.fill_all(each) for each in value] if scalars.is_list(value) else value


class ScriptedModel:
    """A model without a mind; safe for any number of runs at once, as it remembers nothing."""

    def __init__(self, path: Path, script: Script) -> None:
        self.label = f"scripted:{path}"
        self._path = path
        self._script = script

    async def stream(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolSchema], *, must_call: bool = False
    ) -> AsyncGenerator[Delta, None]:
        """Play the next turn, word by word; raises its error, or ScriptMismatch when no turn fits."""
        del tools, must_call  # a script says itself what is called
        moment = _moment(messages)
        turn = self._turn(moment)
        await asyncio.sleep(turn.delay)
        text = moment.fill(turn.text)
        for index, word in enumerate(_WORD.findall(text)):
            if index:
                await asyncio.sleep(turn.pace)
            yield Delta(text=word)
        yield Delta(usage=_usage(turn, messages, text))
        if turn.error is not None:
            raise self._error(turn, moment)
        if calls := tuple(_calls(turn, moment)):
            yield Delta(tool_calls=calls)

    def _turn(self, moment: _Moment) -> Turn:
        number = 0
        for turn in self._turns(moment):
            number += turn.repeat
            if moment.answered < number:
                if turn.expect is not None and turn.expect not in moment.input:
                    raise ScriptMismatch(
                        f"turn {moment.answered + 1} of {self._path} expects {wording.shown(turn.expect)} in the last user"
                        f" message, which is {wording.shown(moment.input)}; change the input or the script"
                    )
                return turn
        raise ScriptMismatch(
            f"{self._path} has no turn {moment.answered + 1} for the input {wording.shown(moment.input)}; add one that"
            " answers without calling a tool"
        )

    def _turns(self, moment: _Moment) -> tuple[Turn, ...]:
        for conversation in self._script.conversations:
            if conversation.match is None or conversation.match.search(moment.input):
                return conversation.turns
        raise ScriptMismatch(
            f"no conversation of {self._path} matches the input {wording.shown(moment.input)}; add one, or one without match:"
        )

    def _error(self, turn: Turn, moment: _Moment) -> ModelError:
        said = turn.message or f"turn {moment.answered + 1} of {self._path} is an error of kind {turn.error}"
        match turn.error:
            case "rate_limit":
                return chat_model.ModelRateLimited(said, retry_after=turn.retry_after)
            case "auth" | "quota":
                return chat_model.ModelRefused(said)
            case "rejected":
                return chat_model.ModelRequestRejected(said)
            case "connection" | "server" | None:
                return chat_model.ModelUnavailable(said)
            case "truncated":
                return chat_model.AnswerTruncated(said)
            case "blocked":
                return chat_model.AnswerBlocked(said)
            case _:
                assert_never(turn.error)


def _moment(messages: Sequence[ChatMessage]) -> _Moment:
    asked = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
    since = messages[asked + 1 :]
    results = [message.content for message in since if message.role == "tool"]
    answered = sum(message.role == "assistant" for message in since)
    return _Moment(messages[asked].content if asked >= 0 else "", results[-1] if results else "", answered)


def _calls(turn: Turn, moment: _Moment) -> list[ToolCall]:
    return [
        ToolCall(
            id=call.id or f"call_{moment.answered}_{index}",
            name=call.tool,
            arguments=moment.fill(call.arguments)
            if isinstance(call.arguments, str)
            else json.dumps(moment.fill_all(call.arguments), ensure_ascii=False),
        )
        for index, call in enumerate(turn.asks)
    ]


def _usage(turn: Turn, messages: Sequence[ChatMessage], text: str) -> Usage:
    if turn.usage is not None:
        return Usage(turn.usage.input, turn.usage.output)
    return Usage(sum(len(message.content.split()) for message in messages), len(text.split()))
