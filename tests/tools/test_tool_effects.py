"""What a tool says of its own repetition: said in code, made stricter by a definition, never laxer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cirkelline.configs import effects as words
from cirkelline.configs.effects import Effects, OnUnknown
from cirkelline.configs.schema import ToolSpec
from cirkelline.tools import builtins
from cirkelline.tools.contract import NoConnection, Tool, ToolContext, ToolDefinitionError, tool, tool_from_function
from cirkelline.tools.execution import Executor
from cirkelline.tools.state import State
from cirkelline.tools.toolbox import Toolbox, ToolNotFound


def said(**marks: Any) -> Tool:
    @tool(**marks)
    def act(ctx: ToolContext) -> str:
        return ctx.idempotency_key

    return tool_from_function(act)


def test_a_tool_that_says_nothing_must_not_run_twice_and_a_person_is_asked() -> None:
    plain = said()
    assert (plain.effects, plain.on_unknown, plain.transactional) == (Effects.ONCE, OnUnknown.ASK, False)


@pytest.mark.parametrize("word", list(Effects))
def test_each_word_is_kept(word: Effects) -> None:
    found = said(effects=word.value)
    assert (found.effects, found.transactional) == (word, word is Effects.TRANSACTIONAL)


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ({"effects": "readonly"}, "effects is one of read, idempotent, transactional or once, not 'readonly'"),
        ({"effects": True}, "not True"),
        ({"on_unknown": "skip"}, "on_unknown is one of retry, ask or fail, not 'skip'"),
        ({"effects": "read", "on_unknown": "ask"}, "on_unknown is for effects='once', and this one is 'read'"),
    ],
)
def test_a_word_that_means_nothing_is_refused_where_the_tool_is_written(marks: Any, message: str) -> None:
    with pytest.raises(ToolDefinitionError, match=message.replace("(", r"\(")):
        said(**marks)


def test_a_transactional_tool_needs_the_context_that_holds_its_connection() -> None:
    def act(n: int) -> int:
        return n

    with pytest.raises(ToolDefinitionError, match="take ctx: ToolContext"):
        tool(effects="transactional")(act)


def test_a_connection_that_is_not_there_says_who_gets_one() -> None:
    ctx = ToolContext(state=State(), agent="tester", task_id=builtins_id())
    with pytest.raises(NoConnection, match=r'@tool\(effects="transactional"\)'):
        _ = ctx.connection


def builtins_id() -> Any:
    from uuid import uuid4  # noqa: PLC0415

    return uuid4()


ALLOWED = {
    ("read", "read"), ("read", "idempotent"), ("read", "once"),
    ("idempotent", "idempotent"), ("idempotent", "once"),
    ("transactional", "transactional"), ("transactional", "once"),
    ("once", "once"),
}  # fmt: skip


@pytest.mark.parametrize("wanted", list(Effects))
@pytest.mark.parametrize("code", list(Effects))
def test_a_definition_makes_effects_stricter_and_never_laxer(tmp_path: Path, code: Effects, wanted: Effects) -> None:
    (tmp_path / "own.py").write_text(
        "from cirkelline.tools import ToolContext, tool\n"
        f"@tool(effects='{code}')\ndef act(ctx: ToolContext) -> str:\n    return ''\n"
    )
    spec = ToolSpec(python="own:act", effects=wanted)
    if (code.value, wanted.value) in ALLOWED:
        found = Toolbox(tmp_path).resolve(spec)
        assert (found.effects, found.transactional) == (wanted, code is Effects.TRANSACTIONAL)
    else:
        with pytest.raises(ToolNotFound, match="own:act"):
            Toolbox(tmp_path).resolve(spec)


@pytest.mark.parametrize("wanted", list(OnUnknown))
@pytest.mark.parametrize("code", list(OnUnknown))
def test_a_definition_makes_on_unknown_more_cautious_and_never_less(
    tmp_path: Path, code: OnUnknown, wanted: OnUnknown
) -> None:
    (tmp_path / "own.py").write_text(
        f"from cirkelline.tools import tool\n@tool(on_unknown='{code}')\ndef act() -> str:\n    return ''\n"
    )
    caution = [OnUnknown.RETRY, OnUnknown.ASK, OnUnknown.FAIL]
    spec = ToolSpec(python="own:act", on_unknown=wanted)
    if caution.index(wanted) >= caution.index(code):
        assert Toolbox(tmp_path).resolve(spec).on_unknown is wanted
    else:
        with pytest.raises(ToolNotFound, match="laxer"):
            Toolbox(tmp_path).resolve(spec)


def test_on_unknown_of_a_tool_that_runs_again_anyway_is_refused() -> None:
    with pytest.raises(ToolNotFound, match="this one is read: remove on_unknown"):
        Toolbox(None).resolve(ToolSpec(name="calculate", on_unknown=OnUnknown.FAIL))


def test_no_built_in_tool_has_to_be_decided_about_after_a_crash() -> None:
    assert {name: each.effects.value for name, each in builtins.BUILTINS.items()} == {
        "calculate": "read",
        "current_time": "read",
        "note": "idempotent",
        "read_notes": "read",
        "forget_note": "idempotent",
        "ask_human": "read",
        "sleep": "read",
        "search_knowledge": "read",
        "list_documents": "read",
        "read_document": "read",
        "remember": "idempotent",
        "recall": "read",
        "forget": "idempotent",
    }


def test_every_effect_is_explained_in_other_words() -> None:
    once = [words.after_a_crash(Effects.ONCE, each) for each in OnUnknown]
    others = [words.after_a_crash(each, OnUnknown.ASK) for each in Effects if each is not Effects.ONCE]
    assert len({*once, *others}) == 6


def writes() -> list[Callable[..., Any]]:
    def left(ctx: ToolContext) -> None:
        ctx.state["x"] = 1
        ctx.state.append("list", "left")

    def right(ctx: ToolContext) -> None:
        del ctx.state["x"]
        ctx.state.increment("n", 2)

    return [left, right]


async def test_a_call_tells_what_it_did_to_the_state_and_nothing_of_what_others_did() -> None:
    ctx = ToolContext(state=State({"list": []}), agent="tester", task_id=builtins_id())
    async with Executor() as executor:
        left, right = [await executor.call(tool_from_function(each), {}, ctx) for each in writes()]
    assert [(each["op"], each["at"]) for each in left.operations] == [("set", 0), ("append", 1)]
    assert [(each["op"], each["at"]) for each in right.operations] == [("remove", 2), ("increment", 3)]


async def test_operations_put_back_give_the_same_state_whatever_order_they_come_in() -> None:
    ctx = ToolContext(state=State({"list": []}), agent="tester", task_id=builtins_id())
    async with Executor() as executor:
        left, right = [await executor.call(tool_from_function(each), {}, ctx) for each in writes()]
    again = State({"list": []})
    again.replay([*right.operations, *left.operations])
    assert dict(again) == dict(ctx.state) == {"list": ["left"], "n": 2}
    assert again.operations == ctx.state.operations
    view = again.view()
    view["y"] = 1
    assert [each["at"] for each in view.own] == [4]


def test_discarded_operations_have_never_been() -> None:
    state = State({"n": 1, "gone": "x"})
    state.increment("n")
    view = state.view()
    view.increment("n", 10)
    del view["gone"]
    state.discard({each["at"] for each in view.own})
    assert dict(state) == {"n": 2, "gone": "x"}
    assert [each["op"] for each in state.operations] == ["increment"]


def test_operations_that_do_not_fit_any_more_are_kept_for_the_end_to_judge() -> None:
    state = State({"n": "a text"})
    state.replay(
        [{"op": "increment", "key": "n", "value": 1, "at": 0}, {"op": "remove", "key": "no", "value": None, "at": 1}]
    )
    assert dict(state) == {"n": "a text"}
    assert [each["op"] for each in state.operations] == ["increment", "remove"]
