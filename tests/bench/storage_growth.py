"""What a long conversation costs to store: `python tests/bench/storage_growth.py --turns 1000`.

Bytes in the database against bytes of what was said (user and assistant text, 2.2 KB a turn), for a session of ours and
for a conversation that LangGraph's PostgresSaver keeps on the same server. Bytes are those of all tables that the turns
wrote to, with their indexes and TOAST, less what they take while empty: `stored` compacted by VACUUM FULL, `loose` after
VACUUM alone (every hundred turns, as autovacuum would have done in a conversation of days); `said_ratio` is of those alone that hold what was said (tasks with their results, journal, messages), without
the agent's snapshots and the rows that are there once. Prints one JSON line per point.

LangGraph comes from the package index into a virtual environment that is thrown away; it gets fewer turns, as what it
stores grows with their square (--peer-turns 0 leaves it out). Works on DATABASE_URL's server, or on the embedded one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

import psycopg
import structlog
from journal_kills import workplace
from listening_model import Shown, listening
from talking import Text

SAID, ANSWERED, SUMMARY = 1_100, 1_100, 1_200
SAID_IN = ("tasks", "journal", "messages", "session_summaries")
PEER = ("langgraph", "langgraph-checkpoint-postgres", "psycopg[binary]")
SIZES = """
SELECT c.relname::text, pg_total_relation_size(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname = ANY (%s) ORDER BY 2 DESC
"""


Sizes = dict[str, int]


def sizes(url: str, *schemas: str) -> tuple[Sizes, Sizes]:
    """The tables of these schemas with what each takes, compacted and not."""
    with psycopg.connect(url, autocommit=True) as conn:
        found: list[Sizes] = []
        for vacuum in ("VACUUM", "VACUUM FULL"):
            conn.execute(vacuum)
            found.append({str(name): int(size) for name, size in conn.execute(SIZES, [list(schemas)])})
    return found[1], found[0]


def vacuum(url: str) -> None:
    """Do what autovacuum does in a conversation that takes more than its minute."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("VACUUM")


def point(who: str, turns: int, raw: int, before: tuple[Sizes, Sizes], after: tuple[Sizes, Sizes]) -> dict[str, Any]:
    """One line of the result."""
    compacted, loose = (
        {name: size - then.get(name, 0) for name, size in now.items() if size > then.get(name, 0)}
        for then, now in zip(before, after, strict=True)
    )
    stored = sum(compacted.values())
    line = {"who": who, "turns": turns, "raw": raw, "stored": stored, "ratio": round(stored / raw, 2)}
    said = sum(compacted.get(table, 0) for table in SAID_IN)
    line |= {"said_ratio": round(said / raw, 2)} if said else {}
    return line | {"loose_ratio": round(sum(loose.values()) / raw, 2), "tables": compacted}


def show(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201 - its result


async def ours(who: str, points: Sequence[int], history: dict[str, Any]) -> None:
    """Hold one conversation and look at its size on the way."""
    text = Text()

    def answer(shown: Shown) -> str:
        return text.of(SUMMARY if shown[-1][1].startswith("Summarize") else ANSWERED)

    async with workplace() as place, listening(answer) as model:
        await place.agent("talker", [], model=model.spec, history=history)
        before = sizes(place.db.url, "runtime")
        session, user = await place.session("talker")
        async with place.working():
            for turn in range(1, max(points) + 1):
                await place.ended(await place.turn(session, user, text.of(SAID)))
                if turn % 100 == 0:
                    await asyncio.to_thread(vacuum, place.db.url)
                if turn in points:
                    await place.becomes(0, "SELECT count(*) FROM runtime.tasks WHERE status IN ('pending', 'running')")
                    raw = "SELECT sum(octet_length(runtime.said(m)))::bigint FROM runtime.messages m"
                    after = await asyncio.to_thread(sizes, place.db.url, "runtime")
                    show(point(who, turn, await place.value(raw), before, after))


# What a user of LangGraph writes, in the environment where it is.
PEER_TALK = """
import json, sys
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import START, MessagesState, StateGraph
from talking import Text

url, turns = sys.argv[1], int(sys.argv[2])
text = Text()
graph = StateGraph(MessagesState)
graph.add_node("model", lambda state: {"messages": [AIMessage(text.of(1100))]})
graph.add_edge(START, "model")
with PostgresSaver.from_conn_string(url) as saver:
    saver.setup()
    if turns:
        app = graph.compile(checkpointer=saver)
        raw = 0
        for turn in range(turns):
            said = text.of(1100)
            state = app.invoke({"messages": [HumanMessage(said)]}, {"configurable": {"thread_id": "1"}})
            raw += len(said.encode()) + len(state["messages"][-1].content.encode())
        print(json.dumps(raw))
"""


@contextmanager
def peer() -> Iterator[Path]:
    """A Python that has LangGraph, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="peer") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEER], check=True)
        yield python


def talk(python: Path, url: str, turns: int) -> str:
    """Let the peer hold its conversation."""
    arguments = [str(python), "-c", PEER_TALK, url, str(turns)]
    return subprocess.check_output(arguments, text=True, cwd=Path(__file__).parent)


async def theirs(python: Path, turns: int) -> None:
    """Let LangGraph hold a conversation of so many turns."""
    async with workplace() as place:
        await asyncio.to_thread(talk, python, place.db.url, 0)
        # Its tables have no schema of their own: they are in the one that comes first.
        schemas = ("public", "runtime")
        before = await asyncio.to_thread(sizes, place.db.url, *schemas)
        raw = json.loads(await asyncio.to_thread(talk, python, place.db.url, turns))
        after = await asyncio.to_thread(sizes, place.db.url, *schemas)
        show(point("langgraph PostgresSaver", turns, raw, before, after))


def main() -> None:
    """Measure ours at a tenth and at all of the turns, and the peer at its own number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--peer-turns", type=int, default=200)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    points = sorted({max(given.turns // 10, 1), given.turns})
    began = time.monotonic()
    asyncio.run(ours("cirkelline", points, {"messages": 20}))
    asyncio.run(ours("cirkelline, summarize", points, {"messages": 20, "summarize": True}))
    if given.peer_turns:
        with peer() as python:
            for turns in sorted({max(given.peer_turns // 2, 1), given.peer_turns}):
                asyncio.run(theirs(python, turns))
    show({"seconds": round(time.monotonic() - began)})


if __name__ == "__main__":
    main()
