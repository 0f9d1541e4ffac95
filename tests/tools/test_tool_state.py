"""What a tool does to `ctx.state` is read back by it, and is recorded as operations that fold to the same."""

from __future__ import annotations

import contextlib
import copy
import enum
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cirkelline.tools.state import Operation, State, StateError

KEYS = st.sampled_from(["a", "b", "c", ""])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.text(st.characters(codec="ascii", min_codepoint=1), max_size=5)
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
SNAPSHOTS = st.dictionaries(KEYS, VALUES, max_size=4)
STEPS = st.lists(
    st.tuples(st.just("set"), KEYS, VALUES)
    | st.tuples(st.just("append"), KEYS, VALUES)
    | st.tuples(st.just("increment"), KEYS, st.integers(-1000, 1000))
    | st.tuples(st.sampled_from(["remove", "pop", "setdefault", "update", "popitem", "clear"]), KEYS, VALUES),
    max_size=12,
)


def fold(work: dict[str, Any], operations: list[Operation]) -> dict[str, Any]:
    """The meaning of operations, written as plainly as possible and apart from the code that records them."""
    work = copy.deepcopy(work)
    for operation in json.loads(json.dumps(operations)):
        key, value = operation["key"], operation["value"]
        match operation["op"]:
            case "set":
                work[key] = value
            case "remove":
                work.pop(key, None)
            case "increment":
                work[key] = work.get(key, 0) + value
            case "append":
                work[key] = [*work.get(key, []), value]
    return work


WRITES: dict[str, Callable[[State, str, Any], object]] = {
    "set": State.__setitem__,
    "append": State.append,
    "increment": State.increment,
    "remove": lambda state, key, _: state.__delitem__(key),
    "pop": lambda state, key, _: state.pop(key, None),
    "setdefault": State.setdefault,
    "update": lambda state, key, value: state.update({key: value}),
    "popitem": lambda state, _, __: state.popitem(),
    "clear": lambda state, _, __: state.clear(),
}


def apply(state: State, steps: list[tuple[str, str, Any]]) -> None:
    """Do every step that the state allows; what it refuses must leave no trace."""
    for verb, key, value in steps:
        with contextlib.suppress(StateError, KeyError):
            WRITES[verb](state, key, value)


@given(SNAPSHOTS, STEPS)
def test_folding_the_operations_onto_the_snapshot_gives_what_the_tool_read(
    work: dict[str, Any], steps: list[tuple[str, str, Any]]
) -> None:
    state = State(work)
    apply(state, steps)
    assert fold(work, state.operations) == dict(state)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(work=SNAPSHOTS, steps=STEPS)
def test_the_database_folds_the_operations_to_what_the_tool_read(
    database: psycopg.Connection[Any], work: dict[str, Any], steps: list[tuple[str, str, Any]]
) -> None:
    state = State(work)
    apply(state, steps)
    run = {"status": "completed", "operations": state.operations, "task": None, "tokens": 0}
    row = database.execute(
        "SELECT runtime.fold_run(NULL, %s::jsonb, %s::jsonb, 65536)",
        [json.dumps({"work": work, "stats": {}}), json.dumps(run)],
    ).fetchone()
    assert row is not None
    assert row[0]["problem"] is None
    assert row[0]["state"]["work"] == dict(state)


@pytest.fixture
def database(database_url: str) -> Any:
    with psycopg.connect(database_url, autocommit=True) as conn:
        yield conn


def test_operations_are_exactly_op_key_and_value() -> None:
    state = State({"old": 1})
    state["name"] = "x"
    state.increment("n")
    state.increment("n", 2.5)
    state.append("list", {"a": 1})
    del state["old"]
    assert state.operations == [
        {"op": "set", "key": "name", "value": "x"},
        {"op": "increment", "key": "n", "value": 1},
        {"op": "increment", "key": "n", "value": 2.5},
        {"op": "append", "key": "list", "value": {"a": 1}},
        {"op": "remove", "key": "old", "value": None},
    ]


def test_reading_sees_ones_own_writes() -> None:
    state = State({"n": 1})
    assert state.increment("n", by=4) == 5
    state.append("list", 1)
    assert (state["n"], state["list"], len(state), "list" in state, state.get("none")) == (5, [1], 2, True, None)


def test_what_was_read_or_written_is_a_copy_on_both_sides() -> None:
    work = {"list": [1]}
    written = {"inner": [1]}
    state = State(work)
    state["written"] = written
    state["list"].append(2)
    state.append("list", 3)
    written["inner"].append(2)
    work["list"].append(4)
    state.operations.clear()
    for value in state.values():
        value.clear()
    assert dict(state) == {"list": [1, 3], "written": {"inner": [1]}}
    assert state.operations[0]["value"] == {"inner": [1]}


def test_an_append_after_a_set_does_not_change_the_recorded_set() -> None:
    state = State()
    state["list"] = []
    state.append("list", 1)
    assert state.operations[0]["value"] == []


cycle: list[Any] = []
cycle.append(cycle)
deep: list[Any] = []
for _ in range(5000):
    deep = [deep]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "state['x'] is nan, which JSON does not have"),
        (float("-inf"), "state['x'] is -inf"),
        ({"a": [1, float("inf")]}, "state['x']['a'][1] is inf"),
        ((1, 2), "a value of type tuple"),
        ({1}, "a value of type set"),
        (b"x", "a value of type bytes"),
        (datetime(2026, 1, 1, tzinfo=UTC), "a value of type datetime"),
        ({"a": object()}, "state['x']['a'] is a value of type object"),
        ({1: "a"}, "has the key 1"),
        ({None: "a"}, "has the key None"),
        (cycle, "nests deeper than 100 levels or contains itself"),
        (deep, "nests deeper than 100 levels"),
        (2**5000, "is an integer of more than 4096 bits"),
    ],
)
def test_what_is_not_json_is_refused_at_once_and_leaves_nothing(value: object, said: str) -> None:
    state = State({"list": []})
    for write in (
        lambda: state.__setitem__("x", value),
        lambda: state.append("x", value),
        lambda: state.setdefault("x", value),
        lambda: state.update({"y": 1, "x": value}),
    ):
        with pytest.raises(StateError) as refused:
            write()
        assert said in str(refused.value)
        assert len(str(refused.value)) < 300
    assert dict(state) == {"list": []}
    assert state.operations == []


def test_values_of_subclasses_are_kept_as_plain_json() -> None:
    class Level(enum.IntEnum):
        HIGH = 3

    class Word(enum.StrEnum):
        YES = "yes"

    state = State()
    state[Word.YES] = OrderedDict(level=Level.HIGH, word=Word.YES)
    kept = state.operations[0]
    assert json.dumps(kept) == '{"op": "set", "key": "yes", "value": {"level": 3, "word": "yes"}}'
    assert {type(value) for value in kept["value"].values()} == {int, str}
    assert type(next(iter(state))) is str


@pytest.mark.parametrize("key", [1, None, b"x", ("a",)])
def test_a_key_that_is_no_string_is_refused(key: Any) -> None:
    state = State()
    with pytest.raises(StateError, match="must be a string"):
        state[key] = 1
    with pytest.raises(StateError):
        state.increment(key)
    with pytest.raises(StateError):
        state.append(key, 1)
    assert state.operations == []


@pytest.mark.parametrize("held", ["1", None, True, [1], {"a": 1}])
def test_what_is_no_number_cannot_be_incremented(held: object) -> None:
    state = State({"n": held})
    with pytest.raises(StateError, match=r"cannot increment state\['n'\]: it holds"):
        state.increment("n")
    assert state.operations == []


@pytest.mark.parametrize("by", ["1", None, True, [1], float("nan"), float("inf")])
def test_an_increment_by_no_number_is_refused(by: Any) -> None:
    state = State()
    with pytest.raises(StateError):
        state.increment("n", by)
    assert dict(state) == {}


@pytest.mark.parametrize(("held", "by"), [(1.7e308, 1.7e308), (2**1200, 0.5), (2**4096 - 1, 1)])
def test_an_increment_past_every_number_is_refused(held: float, by: float) -> None:
    state = State({"n": held})
    with pytest.raises(StateError):
        state.increment("n", by)
    assert (state["n"], state.operations) == (held, [])


@pytest.mark.parametrize("held", ["x", None, 1, {"a": 1}])
def test_what_is_no_list_cannot_be_appended_to(held: object) -> None:
    state = State({"list": held})
    with pytest.raises(StateError, match=r"cannot append to state\['list'\]: it holds"):
        state.append("list", 1)
    assert state.operations == []


def test_what_is_not_there_cannot_be_removed() -> None:
    state = State()
    with pytest.raises(KeyError):
        del state["nothing"]
    assert state.operations == []


def test_a_closed_view_refuses_writes_and_says_why_while_others_go_on() -> None:
    state = State({"n": 1})
    view = state.view()
    view.increment("n")
    view.close("the call of count is over")
    for write in (lambda: view.increment("n"), lambda: view.append("l", 1), view.clear, lambda: view.update(a=1)):
        with pytest.raises(StateError, match="the call of count is over"):
            write()
    assert view["n"] == 2
    state.increment("n")
    assert (view["n"], len(view.operations)) == (3, 2)


def test_threads_that_write_at_once_lose_nothing() -> None:
    state = State({"n": 0})
    start = threading.Barrier(8)
    problems: list[BaseException] = []

    def work(name: int) -> None:
        start.wait()
        try:
            for number in range(100):
                state.increment("n")
                state.append("list", [name, number])
                state[f"key{name}"] = number
                dict(state.items())
                state.pop(f"key{name}")
        except BaseException as problem:  # noqa: BLE001
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert state["n"] == 800
    assert sorted(state["list"]) == [[name, number] for name in range(8) for number in range(100)]
    assert fold({"n": 0}, state.operations) == dict(state)
