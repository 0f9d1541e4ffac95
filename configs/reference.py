"""docs/agents.md, made from the schema and the settings: `python -m cirkelline.configs.reference` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from cirkelline.configs import schema, settings

PLACE: Final = Path(__file__).resolve().parents[1] / "docs" / "agents.md"

_HEAD: Final = """\
# An agent's file

Made from the schema by `make docs`. One or more agents in a YAML file, separated by `---`; `cirkelline agents validate`
checks them, `cirkelline agents schema` prints the JSON Schema with which an editor completes them, and the files that
are shipped with Cirkelline (`configs/examples/`) explain themselves.

```yaml
name: researcher
description: Works out numbers and keeps notes.
capabilities: [research, calculate]
model: auto                    # or gemini:gemini-2.5-flash | openai:NAME | local:NAME | scripted:FILE
instructions: |
  Work out what is asked. Answer in one sentence.
tools:
  - calculate
  - search_knowledge
  - remember
  - {python: "billing:charge_card", timeout: 30s}
knowledge: {top_k: 6}
memory: {recall: 8, capture: tools}
history: {messages: 20, summarize: true}
limits: {concurrency: 4, steps: 20, wall: 5m}
retry: {attempts: 3, backoff: 2s}
schedules:
  - {cron: "0 9 * * MON-FRI", tz: Europe/Copenhagen, user: ivo@example.com, input: Sum up what is new.}
```

An unknown key is an error. `${NAME}` and `${NAME:-default}` take a value from the environment (`$${` writes the two
characters themselves); a name that looks like a secret is refused, since definitions are stored: use `api_key_env`.
Durations are `250ms`, `30s`, `5m`, `1h30m`, or a number of seconds. `python: "module:function"` is looked for in the
folder `tools/` beside the agents' folder (or `up --tools DIR`), and in the modules that `CIRKELLINE_TOOL_MODULES` names.

An agent may also be put into the table `agents` by plain SQL, with the same keys as JSON in `config`. Its columns
`name`, `type` and `capabilities` count, nothing is taken from the environment, and files must be named by their whole path.
A row that cannot run says why in its column `problem`.
"""

_SECTIONS: Final[dict[tuple[str, ...], tuple[str, type[BaseModel]]]] = {
    (): ("Keys", schema.AgentSpec),
    ("model",): ("`model`, written as a mapping", schema.ModelSpec),
    ("tools", "*"): ("`tools`, an entry written as a mapping", schema.ToolSpec),
    ("knowledge",): ("`knowledge`", schema.KnowledgeSpec),
    ("memory",): ("`memory`", schema.MemorySpec),
    ("history",): ("`history`", schema.HistorySpec),
    ("limits",): ("`limits`", schema.LimitsSpec),
    ("retry",): ("`retry`", schema.RetrySpec),
    ("schedules", "*"): ("`schedules`, an entry", schema.ScheduleSpec),
}
_NOT_IN_THE_MODEL: Final = {
    "version": "Version of this file format: 1, or left out.",
    "use": "`provider:NAME`, as it would be written without a mapping.",
}


def reference() -> str:
    """Return the whole page as Markdown."""
    parts = [_HEAD]
    for place, keys in schema.surface_keys().items():
        title, model = _SECTIONS[place]
        parts.append(f"## {title}\n\n| key | meaning |\n|---|---|\n" + "".join(_rows(keys, model)))
    parts.append("## Environment variables\n\n| name | meaning |\n|---|---|\n" + "".join(_variables()))
    return "\n".join(parts)


def _rows(keys: tuple[str, ...], model: type[BaseModel]) -> Iterator[str]:
    for key in keys:
        meaning = _NOT_IN_THE_MODEL.get(key) or model.model_fields[key].description or ""
        yield f"| `{key}` | {_cell(meaning)} |\n"


def _variables() -> Iterator[str]:
    for variable in settings.variables():
        yield f"| `{variable.name}` | {_cell(variable.description)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PLACE.write_text(reference(), encoding="utf-8")
