"""What an agent is: the typed form of its definition, its stored form, and the hash that names a version of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from cirkelline.configs import durations, fields, models, names, scalars, schedules
from cirkelline.configs.effects import Effects, OnUnknown
from cirkelline.configs.fields import Text, refuse

FORMAT_VERSION: Final = 1
STEPS: Final = (1, 1000)
CONCURRENCY: Final = (1, 1000)
HISTORY: Final = (0, 1000)
TOP_K: Final = (1, 50)
THRESHOLD: Final = (0.0, 1.0)
LEAST_SUMMARIZED: Final = 2  # messages: a question and its answer
TEMPERATURE: Final = (0.0, 2.0)
MAX_TOKENS: Final = (1, 1_000_000)
WALL: Final = (0.1, 86_400.0)
TIMEOUT: Final = (0.1, 3600.0)
ATTEMPTS: Final = (1, 100)
BACKOFF: Final = (0.1, 86_400.0)
APPROVE_WITHIN: Final = (1.0, 366 * 86_400.0)
LONGEST_TYPE: Final = 100  # the documents' agents.type is VARCHAR(100)
LONGEST_CAPABILITY: Final = 100
MOST_CAPABILITIES: Final = 64
MOST_TOOLS: Final = 64
MOST_SCHEDULES: Final = 64
LONGEST_TAG: Final = 100
MOST_TAGS: Final = 20
RECALL: Final = (0, 50)
RECALL_BUDGET: Final = (20, 4000)
WRITES_MEMORY: Final = "remember"
SEARCHES_KNOWLEDGE: Final = "search_knowledge"
KNOWLEDGE_TOOLS: Final = (SEARCHES_KNOWLEDGE, "list_documents", "read_document")
LONGEST_QUERY: Final = 2000  # characters


@dataclass(frozen=True, slots=True)
class Source:
    """Where a definition comes from: the folder of its file, or a row of `agents`, whose own columns are free text."""

    folder: Path | None = None
    row: bool = False


def _source(info: ValidationInfo) -> Source | None:
    return info.context if isinstance(info.context, Source) else None


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(_Strict):
    """The language model an agent speaks with; written `provider:NAME`, or as a mapping with `use:`."""

    provider: models.Provider = Field(default="auto", description="auto, gemini, openai, local or scripted")
    name: str | None = Field(default=None, description="the provider's own name of the model, or a file's path")
    base_url: Annotated[str, BeforeValidator(models.read_base_url)] | None = Field(
        default=None, description="Address of an OpenAI-compatible server, for `openai:` models only."
    )
    api_key_env: Annotated[str, BeforeValidator(models.read_api_key_env)] | None = Field(
        default=None, description="Name of the environment variable that holds the key, never the key itself."
    )
    temperature: Annotated[float, BeforeValidator(fields.number(*TEMPERATURE))] | None = Field(
        default=None, description="How much the answers vary; without it the provider's own default holds."
    )
    max_tokens: Annotated[int, BeforeValidator(fields.integer(*MAX_TOKENS))] | None = Field(
        default=None, description="The longest answer, in tokens."
    )

    @field_validator("provider", mode="before")
    @classmethod
    def _report_bad_use(cls, value: object) -> object:
        if isinstance(value, models.BadUse):
            raise refuse(value.message)
        return value

    @model_validator(mode="after")
    def _fits_provider(self) -> Self:
        if self.base_url and self.provider != "openai":
            raise refuse(f"is for openai: models only, and this one is {self.label}", "base_url")
        if self.api_key_env and self.provider not in {"openai", "gemini"}:
            raise refuse(f"is for openai: and gemini: models only, and this one is {self.label}", "api_key_env")
        if not self.name and self.provider in models.NEEDS_NAME:
            raise refuse(f"needs a name after {self.provider}:")
        return self

    @property
    def label(self) -> str:
        """The model as `use:` writes it: `openai:NAME`, or the provider alone."""
        return f"{self.provider}:{self.name}" if self.name else self.provider


class ToolSpec(_Strict):
    """One thing an agent can call: a built-in by `name`, or a Python function as `module:function`."""

    name: Annotated[str, BeforeValidator(names.read_tool)] | None = Field(
        default=None, description="Name of a built-in tool."
    )
    python: Annotated[str, BeforeValidator(names.read_function)] | None = Field(
        default=None, description='A Python function as "module:function", from the tools folder or an allowed module.'
    )
    timeout: Annotated[float, BeforeValidator(fields.seconds(*TIMEOUT))] | None = Field(
        default=None, description="The longest one call may take; without it the tool's own limit holds."
    )

    effects: Annotated[Effects, BeforeValidator(fields.choice(Effects))] | None = Field(
        default=None,
        description="What a second execution would do, if stricter than what the tool's code says: idempotent or once.",
    )
    on_unknown: Annotated[OnUnknown, BeforeValidator(fields.choice(OnUnknown))] | None = Field(
        default=None, description="What becomes of a `once` tool of which nobody knows whether it ended: ask or fail."
    )

    approval: Annotated[bool, BeforeValidator(fields.yes_no)] = Field(
        default=False, description="Whether each call waits until a person has approved it."
    )
    approve_within: Annotated[float, BeforeValidator(fields.seconds(*APPROVE_WITHIN))] | None = Field(
        default=None, description="How long a call waits for that; after it the model is told that nobody decided."
    )

    @model_validator(mode="after")
    def _is_one_tool(self) -> Self:
        if self.approve_within is not None and not self.approval:
            raise refuse("is for tools with approval: true: add that, or remove approve_within", "approve_within")
        if self.name and self.python:
            raise refuse("has both name: and python:, but is one tool: remove one of them")
        if not self.name and not self.python:
            raise refuse("names no tool: write name: for a built-in, or python: for a function of yours")
        return self

    @property
    def label(self) -> str:
        """What tells this tool from the others: the built-in's name, or `module:function`."""
        return self.name or self.python or ""


class HistorySpec(_Strict):
    """How much of a session an agent is shown again."""

    messages: Annotated[int, BeforeValidator(fields.integer(*HISTORY))] = Field(
        default=20, description="How many of the session's latest messages the agent sees."
    )
    summarize: Annotated[bool, BeforeValidator(fields.yes_no)] = Field(
        default=False, description="Whether the agent also sees a running summary of what came before those."
    )

    @model_validator(mode="after")
    def _has_a_window(self) -> Self:
        if self.summarize and self.messages < LEAST_SUMMARIZED:
            raise refuse(
                f"needs a window of at least {LEAST_SUMMARIZED} messages, and messages is {self.messages}", "summarize"
            )
        return self


class SearchMode(StrEnum):
    """How documents are searched; the words of `state.searching.Mode`."""

    HYBRID = "hybrid"
    VECTOR = "vector"
    WORDS = "words"
    RRF = "rrf"


class KnowledgeSpec(_Strict):
    """What an agent finds in the documents of the user it works for, and how."""

    top_k: Annotated[int, BeforeValidator(fields.integer(*TOP_K))] = Field(
        default=6, description="How many passages one search gives, unless the agent asks for another number."
    )
    mode: Annotated[SearchMode, BeforeValidator(fields.choice(SearchMode))] = Field(
        default=SearchMode.HYBRID,
        description="How passages are ranked: hybrid (by meaning and words), vector, words, or rrf (by both ranks).",
    )
    threshold: Annotated[float, BeforeValidator(fields.number(*THRESHOLD))] | None = Field(
        default=None, description="The least score of a passage that is given; without it the best ones always are."
    )
    tags: Annotated[
        tuple[Annotated[str, BeforeValidator(fields.line(LONGEST_TAG, "handbook"))], ...],
        BeforeValidator(fields.items("[handbook]", MOST_TAGS)),
    ] = Field(
        default=(), description="The agent sees only documents that have all of these tags; without it every one."
    )
    search_first: Annotated[bool, BeforeValidator(fields.yes_no)] = Field(
        default=False,
        description="Search for each message before the model reads it, so that it has passages to answer from.",
    )

    @field_validator("tags")
    @classmethod
    def _tags_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        _refuse_repeated(value)
        return value


class Capture(StrEnum):
    """How an agent comes to remember what the user it works for has told."""

    AUTO = "auto"
    TOOLS = "tools"
    OFF = "off"


def _capture(value: object) -> object:
    return fields.choice(Capture)("off" if value is False else value)  # YAML 1.1, and so some editors, reads `off` so


class MemorySpec(_Strict):
    """What an agent knows of the user it works for from earlier conversations, with whichever agent they were."""

    recall: Annotated[int, BeforeValidator(fields.integer(*RECALL))] = Field(
        default=8, description="How many memories that bear on the input the agent is shown at most; 0 shows none."
    )
    budget: Annotated[int, BeforeValidator(fields.integer(*RECALL_BUDGET))] = Field(
        default=150, description="How many tokens they may have; when all of a user's memories fit, all are shown."
    )
    capture: Annotated[Capture, BeforeValidator(_capture)] = Field(
        default=Capture.TOOLS,
        description="What is remembered: tools (what its tool `remember` is given), auto (also lasting facts about the"
        " user that a chat brings up, once the user has agreed), or off.",
    )


class LimitsSpec(_Strict):
    """What one agent may use."""

    concurrency: Annotated[int, BeforeValidator(fields.integer(*CONCURRENCY))] | None = Field(
        default=None, description="How many tasks of this agent may run at once, on all workers; without it any number."
    )
    steps: Annotated[int, BeforeValidator(fields.integer(*STEPS))] = Field(
        default=20, description="How many model calls one task may make."
    )
    wall: Annotated[float, BeforeValidator(fields.seconds(*WALL))] = Field(
        default=300.0, description="The longest one task may run."
    )


class ScheduleSpec(_Strict):
    """One thing an agent does by the clock."""

    name: Annotated[str, BeforeValidator(names.read_agent)] | None = Field(
        default=None, description="The schedule's name; without it its place in the list, from 1."
    )
    cron: Annotated[str, BeforeValidator(schedules.read_cron)] = Field(
        description='When: minute, hour, day, month, weekday, such as "0 9 * * MON-FRI".'
    )
    tz: Annotated[str, BeforeValidator(schedules.read_zone)] = Field(
        default="UTC", description="The time zone of the times, such as Europe/Copenhagen."
    )
    user: Annotated[str, BeforeValidator(fields.line(255, "ivo@example.com"))] | None = Field(
        default=None, description="The user for whom it is done, who has to exist; without it nobody."
    )
    input: Text = Field(description="What the agent is asked each time.")

    @field_validator("input")
    @classmethod
    def _asks_something(cls, value: str) -> str:
        if not value.strip():
            raise refuse("must not be empty: say what the agent is to do")
        return value.strip()


class RetrySpec(_Strict):
    """What becomes of a task whose run failed in a way that may pass."""

    attempts: Annotated[int, BeforeValidator(fields.integer(*ATTEMPTS))] = Field(
        default=1, description="How often a task is tried in all; 1 tries it once."
    )
    backoff: Annotated[float, BeforeValidator(fields.seconds(*BACKOFF))] = Field(
        default=2.0, description="The pause after the first failure; it doubles with each further one."
    )
    longest: Annotated[float, BeforeValidator(fields.seconds(*BACKOFF))] = Field(
        default=600.0, description="The longest pause."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.attempts == 1 and (self.backoff, self.longest) != (2.0, 600.0):
            raise refuse("needs attempts: of 2 or more for a pause to be of use")
        if self.longest < self.backoff:
            longest, backoff = durations.render(self.longest), durations.render(self.backoff)
            raise refuse(f"is {longest}, shorter than the first pause of {backoff}", "longest")
        return self


def _model_fields(value: object, info: ValidationInfo) -> object:
    source = _source(info)
    return value if isinstance(value, ModelSpec) else models.read(value, source.folder if source else None)


def _tool_fields(value: object) -> object:
    if isinstance(value, str):
        return {"name": value}
    if scalars.is_mapping(value) or isinstance(value, ToolSpec):
        return value
    raise refuse(f"must be a tool's name or a mapping, not {fields.described(value)}")


def _own_words(read: Callable[[object], str]) -> Callable[[object, ValidationInfo], str]:
    """Return a reader for YAML that leaves a row's columns as they are: they are free text there."""

    def read_or_keep(value: object, info: ValidationInfo) -> str:
        source = _source(info)
        return value if source and source.row and isinstance(value, str) else read(value)

    return read_or_keep


class AgentSpec(_Strict):
    """A checked definition of one agent."""

    name: Annotated[str, BeforeValidator(_own_words(names.read_agent))] = Field(
        description=f"The agent's name: {names.AGENT_RULE}."
    )
    type: Annotated[str, BeforeValidator(_own_words(fields.line(LONGEST_TYPE, "assistant")))] = Field(
        default="assistant", description="What kind of agent this is, in your own word."
    )
    description: Text = Field(default="", description="What the agent is for, in a sentence people read in lists.")
    capabilities: Annotated[
        tuple[Annotated[str, BeforeValidator(_own_words(fields.line(LONGEST_CAPABILITY, "research")))], ...],
        BeforeValidator(fields.items("[research, cite]", MOST_CAPABILITIES)),
    ] = Field(default=(), description="What the agent can do, as words by which it can be found.")
    model: Annotated[ModelSpec, BeforeValidator(_model_fields)] = Field(
        default=ModelSpec(), description="The language model; `auto` takes the first one that is there."
    )
    instructions: Text = Field(description="What the agent is told to do, and how; the model reads this first.")
    tools: Annotated[
        tuple[Annotated[ToolSpec, BeforeValidator(_tool_fields)], ...],
        BeforeValidator(fields.items("[calculate]", MOST_TOOLS)),
    ] = Field(default=(), description="What the agent can call.")
    knowledge: Annotated[KnowledgeSpec, BeforeValidator(fields.mapping("{top_k: 6}"))] = Field(
        default=KnowledgeSpec(), description="How the agent searches documents, and which ones it sees."
    )
    memory: Annotated[MemorySpec, BeforeValidator(fields.mapping("{recall: 8}"))] | None = Field(
        default=None, description="What the agent remembers of the users it works for; without it, nothing by itself."
    )
    history: Annotated[HistorySpec, BeforeValidator(fields.mapping("{messages: 20}"))] = Field(
        default=HistorySpec(), description="How much of a session the agent sees again."
    )
    limits: Annotated[LimitsSpec, BeforeValidator(fields.mapping("{steps: 20, wall: 5m}"))] = Field(
        default=LimitsSpec(), description="What one task, and the agent as a whole, may use."
    )
    retry: Annotated[RetrySpec, BeforeValidator(fields.mapping("{attempts: 3, backoff: 2s}"))] = Field(
        default=RetrySpec(), description="How often a task is tried that fails in a way that may pass."
    )

    schedules: Annotated[
        tuple[Annotated[ScheduleSpec, BeforeValidator(fields.mapping('{cron: "0 9 * * *", input: "…"}'))], ...],
        BeforeValidator(fields.items('[{cron: "0 9 * * *", input: "…"}]', MOST_SCHEDULES)),
    ] = Field(default=(), description="What the agent does by the clock.")

    @field_validator("schedules")
    @classmethod
    def _schedules_differ(cls, value: tuple[ScheduleSpec, ...]) -> tuple[ScheduleSpec, ...]:
        _refuse_repeated(tuple(each.name or str(place) for place, each in enumerate(value, 1)))
        return value

    @field_validator("instructions")
    @classmethod
    def _says_something(cls, value: str) -> str:
        # Stripped, so that `|`, `|-` and quotes around the same words are one version, not three.
        if not value.strip():
            raise refuse("must not be empty: say what the agent is to do")
        return value.strip()

    @field_validator("capabilities")
    @classmethod
    def _capabilities_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        _refuse_repeated(value)
        return value

    @field_validator("tools")
    @classmethod
    def _tools_differ(cls, value: tuple[ToolSpec, ...]) -> tuple[ToolSpec, ...]:
        _refuse_repeated(tuple(tool.label for tool in value))
        return value

    @model_validator(mode="after")
    def _remembers_as_it_says(self) -> Self:
        off = self.memory is not None and self.memory.capture is Capture.OFF
        if off and any(tool.name == WRITES_MEMORY for tool in self.tools):
            raise refuse(f"is off, and the agent has the tool {WRITES_MEMORY}: remove one of them", "memory", "capture")
        return self

    @model_validator(mode="after")
    def _can_search_first(self) -> Self:
        if self.knowledge.search_first and not any(tool.name == SEARCHES_KNOWLEDGE for tool in self.tools):
            raise refuse(
                f"needs the tool {SEARCHES_KNOWLEDGE}: add it to tools, or leave this out", "knowledge", "search_first"
            )
        return self

    @model_validator(mode="after")
    def _can_use_knowledge(self) -> Self:
        if self.knowledge != KnowledgeSpec() and not any(
            tool.python or tool.name in KNOWLEDGE_TOOLS for tool in self.tools
        ):
            raise refuse(
                f"is for agents with a tool that reads documents: add {SEARCHES_KNOWLEDGE} to tools", "knowledge"
            )
        return self


def _refuse_repeated(words: tuple[str, ...]) -> None:
    for index, word in enumerate(words):
        if (first := words.index(word)) < index:
            raise refuse(f"repeats {fields.described(word)}, which is already entry {first + 1}: remove one", index)


def canonical(spec: AgentSpec) -> dict[str, Any]:
    """Return the JSON form that is stored: what says who the agent is, and beyond that only what is not a default.

    Defaults are left out so that a field added by a later release does not make a new version of every agent; for the
    same reason the meaning of a default never changes within one `version` of the format. `parse_config` reads it back.
    """
    form: dict[str, Any] = {
        "name": spec.name,
        "type": spec.type,
        "model": _model_form(spec.model),
        "instructions": spec.instructions,
        "description": spec.description,
        "capabilities": list(spec.capabilities),
        "tools": [_tool_form(tool) for tool in spec.tools],
        "knowledge": _changed(spec.knowledge),
        "history": _changed(spec.history),
        "limits": _changed(spec.limits),
        "retry": _changed(spec.retry),
        "schedules": [_changed(schedule) for schedule in spec.schedules],
    }
    # Without the key nothing is remembered, so an empty one says something.
    memory = {} if spec.memory is None else {"memory": _changed(spec.memory)}
    return {key: value for key, value in form.items() if value or key in {"name", "type"}} | memory


def content_hash(spec: AgentSpec) -> str:
    """Return the SHA-256 (hex) of the canonical JSON: equal for equal meaning, however it was written."""
    text = json.dumps(canonical(spec), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _model_form(model: ModelSpec) -> str | dict[str, Any]:
    options = {key: value for key, value in _changed(model).items() if key not in {"provider", "name"}}
    return {"use": model.label, **options} if options else model.label


def _tool_form(tool: ToolSpec) -> str | dict[str, Any]:
    form = _changed(tool)
    return tool.label if form.keys() == {"name"} else form


def _changed(part: BaseModel) -> dict[str, Any]:
    return {key: _number(value) for key, value in part.model_dump(exclude_defaults=True).items()}


def _number(value: object) -> object:
    """Return `300` for `300.0` and a word for one of ours, so that the stored form reads as it was written."""
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return list(cast("tuple[object, ...]", value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def surface_keys() -> Mapping[tuple[str, ...], tuple[str, ...]]:
    """Return the keys an author may write, by where they stand; `*` is any entry of a list."""
    model = ["use" if key == "name" else key for key in ModelSpec.model_fields if key != "provider"]
    return {
        (): ("version", *AgentSpec.model_fields),
        ("model",): tuple(model),
        ("tools", "*"): tuple(ToolSpec.model_fields),
        ("knowledge",): tuple(KnowledgeSpec.model_fields),
        ("memory",): tuple(MemorySpec.model_fields),
        ("history",): tuple(HistorySpec.model_fields),
        ("limits",): tuple(LimitsSpec.model_fields),
        ("retry",): tuple(RetrySpec.model_fields),
        ("schedules", "*"): tuple(ScheduleSpec.model_fields),
    }


# What the design gives to later releases. It is refused, never accepted and ignored: an author who writes
# `tokens: 50_000` must not find out from a bill that it meant nothing yet.
LATER: Final[Mapping[tuple[str, ...], frozenset[str]]] = {
    ("limits",): frozenset({"tokens"}),
}
