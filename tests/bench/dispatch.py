"""Dispatch beside its peers: `python tests/bench/dispatch.py drain|enqueue|pickup|recovery|backlog|idle|endtoend|all`.

Each command measures one thing on ours and on the engines that do the same, in turn (`pickup`: beside each) on one
server with fsync on, and prints a table; `--write` puts it into docs/dispatch.md. Works on DATABASE_URL's server, or on an
embedded one. The peers are installed from the package index into a virtual environment of their own, once.

Ratios of one run, counts and milliseconds of processor time can be compared with those of another day; jobs per second
and latencies only on a quiet machine. `drain --batch 10 --workers 1 --agents 100` takes half a minute, `all` a quarter
of an hour.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

import dispatch_backlog
import dispatch_drain
import dispatch_endtoend
import dispatch_tables
import dispatch_waking
from dispatch_drain import Shape
from dispatch_place import server
from dispatch_tables import Table

Command = Callable[[str, argparse.Namespace, str], Table]


def drain(url: str, given: argparse.Namespace, command: str) -> Table:
    shapes = [
        Shape(batch, workers, agents) for agents in given.agents for batch in given.batch for workers in given.workers
    ]
    return dispatch_drain.table(url, shapes, jobs=given.jobs, rounds=given.rounds, command=command)


def backlog(url: str, given: argparse.Namespace, command: str) -> Table:
    return dispatch_backlog.table(url, finished=given.finished, agents=max(given.agents), command=command)


def enqueue(url: str, given: argparse.Namespace, command: str) -> Table:
    return dispatch_waking.enqueue(url, jobs=given.jobs, rounds=given.rounds, command=command)


def pickup(url: str, given: argparse.Namespace, command: str) -> Table:
    return dispatch_waking.pickup(url, amount=given.picked, rounds=given.rounds, command=command)


def recovery(url: str, given: argparse.Namespace, command: str) -> Table:
    return dispatch_waking.recovery(url, patience=given.patience, command=command)


def idle(url: str, given: argparse.Namespace, command: str) -> Table:
    return dispatch_waking.idle(url, seconds=given.seconds, command=command)


def endtoend(url: str, given: argparse.Namespace, command: str) -> Table:
    return dispatch_endtoend.table(url, tasks=given.jobs, lines=given.lines, command=command)


COMMANDS: dict[str, Command] = {
    "drain": drain,
    "enqueue": enqueue,
    "pickup": pickup,
    "recovery": recovery,
    "backlog": backlog,
    "idle": idle,
    "endtoend": endtoend,
}


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*COMMANDS, "all"])
    parser.add_argument("--jobs", type=int, default=5000, help="jobs to drain, or to put in line")
    parser.add_argument("--rounds", type=int, default=3, help="how often the engines take turns")
    parser.add_argument("--batch", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="worker processes")
    parser.add_argument("--agents", type=int, nargs="+", default=[100, 1])
    parser.add_argument("--finished", type=int, nargs="+", default=[0, 100_000, 1_000_000], help="for `backlog`")
    parser.add_argument("--picked", type=int, default=100, help="for `pickup`: tasks of a round")
    parser.add_argument("--patience", type=float, default=45, help="for `recovery`: seconds")
    parser.add_argument("--seconds", type=float, default=30, help="for `idle`")
    parser.add_argument("--lines", action="store_true", help="for `endtoend`: print the functions that cost most")
    parser.add_argument("--write", action="store_true", help="put the table into docs/dispatch.md")
    return parser


def main() -> None:
    given = options().parse_args()
    said = [word for word in sys.argv[1:] if word != "--write"]
    with server() as url:
        for name in COMMANDS if given.what == "all" else [given.what]:
            command = " ".join(["python tests/bench/dispatch.py", name, *(word for word in said if word != given.what)])
            found = COMMANDS[name](url, given, command)
            print(found.markdown(), flush=True)  # noqa: T201 - its result
            if given.write:
                dispatch_tables.write(found)


if __name__ == "__main__":
    main()
