"""What a chat model is to us: messages in, a stream of deltas out, and one family of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from cirkelline.configs import errors

Role = Literal["system", "user", "assistant", "tool"]

NOTED: Final = "[noted]"
"""What stands as the answer to a note of ours among the messages, as providers want turns that alternate."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call a model asked for; `arguments` is the JSON text as the model gave it, valid or not.

    `signature` is opaque text that the provider wants back with the call (Gemini's thought signature).
    """

    id: str
    name: str
    arguments: str
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation; `tool_calls` belongs to the assistant's, the last three fields to a tool's."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    tool_name: str | None = None
    tool_error: bool = False


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """A tool as a model sees it; `parameters` is a JSON Schema object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written, as the model counted them."""

    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.input_tokens - other.input_tokens, self.output_tokens - other.output_tokens)

    @property
    def tokens(self) -> int:
        """Both together."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer: text to append, whole tool calls (never fragments), or the call's usage."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None


class ChatModel(Protocol):
    """A model that answers a conversation; one object may serve many runs at once."""

    @property
    def label(self) -> str:
        """Name the model as definitions write it: `provider:NAME`."""
        ...

    def stream(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolSchema], *, must_call: bool = False
    ) -> AsyncIterator[Delta]:
        """Answer `messages`, offering `tools`; ends normally only when the answer is whole, else raises ModelError.

        With `must_call` it is held to calling one of them, as far as the provider can hold it to that. Closing the iterator early must stop the model's work promptly.
        """
        ...


class ModelError(errors.CirkellineError):
    """A model gave no usable answer; the subclass says whose turn it is to act."""


class ModelUnavailable(ModelError):
    """The model could not be reached, timed out or failed on its side: the same call may succeed later."""

    passing = True


class ModelTimedOut(ModelUnavailable):
    """The model did not answer in time."""


class ModelRefused(ModelError):
    """The provider refused us (key, permission, quota): nothing changes until an operator acts."""


class ModelRequestRejected(ModelError):
    """The provider rejects the request itself (unknown model, bad parameter, conversation too long)."""


class ModelRateLimited(ModelError):
    """The provider asked us to slow down; `retry_after` is its own advice in seconds, when it gave one."""

    passing = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AnswerTruncated(ModelError):
    """The answer stopped before it was whole: a cut stream, or the token limit in the middle of it."""

    passing = True


class AnswerMalformed(ModelError):
    """The answer is whole but unreadable: the model or its server broke the protocol."""

    passing = True


class AnswerBlocked(ModelError):
    """The provider's content filter withheld the answer."""
