"""What docs/knowledge.md shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

import yaml

from cirkelline.configs.loading import parse_config
from cirkelline.state.searching import Hit
from cirkelline.tools.contract import ToolContext, tool_from_function
from cirkelline.tools.execution import Executor
from cirkelline.tools.library import Found
from cirkelline.tools.state import State

PAGE = (Path(__file__).parents[2] / "docs" / "knowledge.md").read_text(encoding="utf-8")
HIT = Hit(
    chunk_id=7, document_id=1, document="handbook.pdf", source=None, page=3, offset=0, index=0, total=1, heading=None,
    text="25 days.", marked="", score=1, similarity=None, bm25=None, document_type=None, tags=[], uploaded=None, shared=False,
)  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


async def test_the_tool_of_ones_own_searches_and_gives_a_number() -> None:
    class Mine:
        async def search(self, query: str, *, limit: int) -> Found:
            assert (query, limit) == ("days of leave in Denmark", 1)
            return Found([HIT])

    (code,) = [block for block in blocks("python") if "async def leave" in block]
    names: dict[str, object] = {}
    exec(compile(code, "knowledge.md", "exec", dont_inherit=True), names)  # noqa: S102 - it is our own page
    leave = tool_from_function(names["leave"])  # type: ignore[arg-type]
    ctx = ToolContext(state=State(), agent="a", task_id=uuid4(), library=Mine())  # type: ignore[arg-type]
    async with Executor() as executor:
        result = await executor.call(leave, {"country": "Denmark"}, ctx)
    assert result.text == "[1] 25 days."
    assert [citation["document"] for citation in result.citations] == ["handbook.pdf"]


def test_the_agent_is_one() -> None:
    (text,) = blocks("yaml")
    parse_config({"name": "clerk", "instructions": "Answer.", **yaml.safe_load(text)})
