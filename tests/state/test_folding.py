"""What runs do to an agent's state is folded onto the latest one: the database and a few lines of Python agree."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KEYS = st.sampled_from(["a", "b", "list", "n", "", "é😀", 'quo"te', "work"])
NUMBERS = st.integers(-(10**20), 10**20) | st.decimals(-1000, 1000, places=3).map(float)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | NUMBERS
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
OPERATIONS = st.one_of(
    st.fixed_dictionaries({"op": st.just("set"), "key": KEYS, "value": VALUES}),
    st.fixed_dictionaries({"op": st.just("remove"), "key": KEYS, "value": st.none()}),
    st.fixed_dictionaries({"op": st.just("increment"), "key": KEYS, "value": NUMBERS}),
    st.fixed_dictionaries({"op": st.just("append"), "key": KEYS, "value": VALUES}),
)
RUNS = st.lists(
    st.fixed_dictionaries(
        {
            "status": st.sampled_from(["completed", "completed", "failed"]),
            "operations": st.lists(OPERATIONS, max_size=6),
        }
    ),
    min_size=1,
    max_size=6,
)

FOLD = """
SELECT fold ->> 'problem' IS NOT NULL, fold -> 'state'
  FROM (SELECT place, runtime.fold(CASE WHEN place = 1 THEN %s::jsonb END, run, %s) OVER (ORDER BY place) AS fold
          FROM jsonb_array_elements(%s::jsonb) WITH ORDINALITY AS listed (run, place)) folded ORDER BY place
"""


class Refused(Exception):
    """A run's operations do not fit the state."""


def exactly(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def applied(work: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    work = dict(work)
    for operation in operations:
        name, value = operation["key"], operation["value"]
        match operation["op"]:
            case "set":
                work[name] = value
            case "remove":
                work.pop(name, None)
            case "increment":
                if not isinstance(work.get(name, Decimal(0)), Decimal):
                    raise Refused
                work[name] = work.get(name, Decimal(0)) + value
            case "append":
                if not isinstance(work.get(name, []), list):
                    raise Refused
                work[name] = [*work.get(name, []), value]
    return work


def folded(work: dict[str, Any], runs: list[dict[str, Any]]) -> list[tuple[bool, dict[str, Any], dict[str, int]]]:
    outcomes = []
    counts = {"completed": 0, "failed": 0}
    for run in runs:
        refused = False
        if run["status"] == "completed":
            try:
                work = applied(work, run["operations"])
            except Refused:
                refused = True
        counts["failed" if refused else run["status"]] += 1
        outcomes.append((refused, work, dict(counts)))
    return outcomes


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(initial=st.dictionaries(KEYS, VALUES, max_size=4), runs=RUNS)
def test_the_database_folds_runs_as_python_does(
    shared_database: psycopg.Connection, initial: dict[str, Any], runs: list[dict[str, Any]]
) -> None:
    state = json.dumps({"work": initial, "stats": {}})
    rows = shared_database.execute(FOLD, [state, 10**9, json.dumps(runs)])
    rows.adapters.register_loader("jsonb", psycopg.types.string.TextLoader)
    got = [(refused, exactly(text)) for refused, text in rows.fetchall()]
    expected = folded(exactly(json.dumps(initial)), exactly(json.dumps(runs)))
    assert [(refused, state["work"]) for refused, state in got] == [(refused, work) for refused, work, _ in expected]
    for (_, state_), (_, _, counts) in zip(got, expected, strict=True):
        assert {name: int(state_["stats"].get(name, 0)) for name in counts} == counts
