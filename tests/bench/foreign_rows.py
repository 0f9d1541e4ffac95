"""Whether anybody ever sees a row of somebody else: `python tests/bench/foreign_rows.py`.

10,000 questions by 1,000 users whose every row holds a secret word, each about somebody else: through state functions, every
way of searching, the tools of agents, `Runtime` and the command line, with hostile values in every field (ids and names of
others, SQL, JSON, patterns, paths). Every question is asked about a user who is there and about one who is not, and the
two answers must be the same but for the names. Prints one JSON line: how many questions of each kind, how many foreign rows,
and how many answers that told one from the other; both must be 0. Exits 1 otherwise. Works on DATABASE_URL's server, or on
the embedded one, in a database of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import logging
import os
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import canaries
import structlog
from canaries import Aviary, Notes
from corpora import database

from cirkelline.runtime.cli import entry
from cirkelline.state.connection import Database


def run(arguments: list[str]) -> str:
    """Run a command in this process, as the executable does."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = entry.run(arguments)
    out.flush()
    written = out.buffer.getvalue() if isinstance(out.buffer, io.BytesIO) else b""
    return f"{code}\n{written.decode()}"


async def measure(users: int, questions: int, commands: int, seed: int) -> dict[str, object]:
    began = time.monotonic()
    async with database() as url:
        async with Database.open(url) as db:
            people = await canaries.fill(db, users, random.Random(seed))  # noqa: S311 - the same ones each time
            filled = time.monotonic()
            notes = Notes(people, random.Random(seed + 1))  # noqa: S311
            async with Aviary.open(db) as aviary:
                await aviary.ask_all(notes, canaries.QUESTIONS, (questions - commands) // 2)
        asked = notes.asked
        # A place that a command reads its settings from.
        os.environ["DATABASE_URL"] = url
        await asyncio.to_thread(_type, notes, commands)
    return {
        "users": users,
        "questions": notes.asked,
        "functions_tools_runtime": asked,
        "commands": notes.asked - asked,
        "foreign_rows": len(notes.foreign),
        "telling_answers": len(notes.telling),
        "filling_s": round(filled - began, 1),
        "asking_s": round(time.monotonic() - filled, 1),
        "first": [*notes.foreign, *notes.telling][:5],
    }


def _type(notes: Notes, amount: int) -> None:
    pairs = notes.pairs()
    for number in range(amount // 2):
        canaries.ask_command(notes, run, canaries.COMMANDS[number % len(canaries.COMMANDS)], next(pairs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--commands", type=int, default=440, help="how many of them at the command line")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    found = asyncio.run(measure(given.users, given.questions, given.commands, given.seed))
    sys.stdout.write(json.dumps(found) + "\n")
    return 1 if found["foreign_rows"] or found["telling_answers"] else 0


if __name__ == "__main__":
    sys.exit(main())
