"""Two conversations with the real embedded model: what was told in the first is known in the second.

What the model says is its own affair; these tests look at what is kept, from where, and what the model is shown of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from typing import Any

import local_weights
import pytest
from workplace import Workplace

from cirkelline.agents import asking, capturing
from cirkelline.agents.models import ModelPool
from cirkelline.tools import builtins
from cirkelline.tools.capturing import NotKept, gate
from cirkelline.tools.remembering import Heard

pytestmark = pytest.mark.xdist_group("local model")

PATIENCE = 240
TOLD = "Please remember: I live in Aarhus and work as a nurse."
ASKED = "In which town is my home, and what is my job?"


async def command(place: Workplace, *arguments: str, stdin: str = "") -> str:
    """Run a command in a process of its own; return its stdout."""
    environ = {**os.environ, "DATABASE_URL": place.db.url, "CIRKELLINE_USER": "ivo"}
    whole = [sys.executable, "-m", "cirkelline", *arguments]
    ran = await asyncio.to_thread(
        subprocess.run,
        whole,
        env=environ,
        cwd=place.folder,
        input=stdin.encode(),
        capture_output=True,
        timeout=PATIENCE,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout.decode()


async def document(place: Workplace, *arguments: str) -> Any:
    return json.loads(await command(place, *arguments, "--json"))


async def test_what_is_told_in_one_chat_is_before_the_model_in_the_next_and_says_which_message_it_came_from(
    place: Workplace,
) -> None:
    path = await asyncio.to_thread(local_weights.small_model)
    model = {"use": f"local:{path}", "temperature": 0, "max_tokens": 200}
    limits = {"wall": "200s"}
    instructions = "Help. Keep with remember what the user asks you to remember."
    await place.agent("listener", [], model=model, instructions=instructions, tools=["remember"], limits=limits)
    await place.agent("knower", [], model=model, instructions="Help.", memory={}, limits=limits)
    await command(place, "chat", "listener", stdin=f"{TOLD}\n")
    (kept,) = (await document(place, "memories", "list"))["memories"]
    assert "aarhus" in kept["memory"].lower()
    ((first, told_in),) = await place.rows("SELECT id, session_id FROM runtime.tasks WHERE task_type = 'chat'")
    why = await document(place, "memories", "why", str(kept["id"]))
    assert (why["message"]["content"], why["message"]["task"]) == (TOLD, str(first))
    assert (why["origin"], why["task"], why["session"], why["last_used"]) == ("told", str(first), str(told_in), None)

    await command(place, "chat", "knower", stdin=f"{ASKED}\n")
    ((second, session),) = await place.rows(
        "SELECT id, session_id FROM runtime.tasks WHERE task_type = 'chat' AND id <> %s", first
    )
    assert session != told_in
    system, shown, noted, asked = (await document(place, "tasks", "trace", str(second), "--prompt"))["messages"]
    assert f"[{kept['id']}] {kept['memory']} (" in shown["content"]
    assert "aarhus" not in (system["content"] + noted["content"] + asked["content"]).lower()
    assert asked["content"] == ASKED
    (used,) = (await document(place, "memories", "list"))["memories"]
    assert used["last_used"] is not None


async def test_memories_are_gone_through_with_the_embedded_model_and_nothing_that_is_true_is_lost(
    place: Workplace,
) -> None:
    path = await asyncio.to_thread(local_weights.small_model)
    for each in ("The landlord is Mrs. Novak", "Likes green tea", "Rents from the landlord Mr. Dubois"):
        await command(place, "memories", "add", each)
    submitted = await document(place, "memories", "optimize", "--model", f"local:{path}")
    async with place.working(environ=dict(os.environ)):
        await place.ended(submitted["run_id"])
    done = (await document(place, "workflows", "show", submitted["run_id"]))["output"]
    left = {each["memory"] for each in (await document(place, "memories", "list"))["memories"]}
    # So small a model may be found unfit to decide, and then both stay; the later one stays in any case.
    assert (done["deleted"], done["undecided"]) in {(1, 0), (0, 1), (0, 0)}
    assert {"Likes green tea", "Rents from the landlord Mr. Dubois"} <= left
    assert len(left) == 3 - done["deleted"]


async def test_what_a_user_says_of_themselves_is_found_by_the_embedded_model() -> None:
    path = await asyncio.to_thread(local_weights.small_model)
    said = "I have a dog called Bella, and I work as a nurse in Odense."
    async with ModelPool(os.environ) as pool:
        question = capturing.question(None, [("user", said)])
        found = await asking.ask(
            pool, f"local:{path}", capturing.INSTRUCTIONS, question, builtins.KEEP_FACTS, examples=capturing.SHOWN
        )
    kept: list[str] = []
    for each in found["facts"]:
        with contextlib.suppress(NotKept):
            gate(each, [Heard(1, said)])
            kept.append(each.fact)
    assert any("nurse" in each.lower() for each in kept)
