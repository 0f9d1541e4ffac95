"""The whole command line, listed without importing any of it."""

from __future__ import annotations

from typing import Final

import click

import cirkelline
from cirkelline.runtime.cli.frame import Group, Lazy

_COMMANDS: Final = "cirkelline.runtime.cli.commands."

LAZY: Final = {
    "up": Lazy(_COMMANDS + "up", "Run the daemon: apply agent files and run tasks until stopped."),
    "chat": Lazy(_COMMANDS + "chat", "Talk with an agent in this terminal."),
    "agents": Lazy(_COMMANDS + "agents", "Check, apply and look at agents and their versions."),
    "tasks": Lazy(_COMMANDS + "tasks", "Give agents work and see what became of it."),
    "workflows": Lazy(_COMMANDS + "workflows", "Run named steps that survive any crash, and follow them."),
    "states": Lazy(_COMMANDS + "states", "Look at what agents keep between tasks, version by version."),
    "sessions": Lazy(_COMMANDS + "sessions", "Look at a user's conversations, put them away, take them along."),
    "knowledge": Lazy(_COMMANDS + "knowledge", "Give documents to agents, and search them."),
    "memories": Lazy(_COMMANDS + "memories", "See what is remembered of a user, and change it."),
    "users": Lazy(_COMMANDS + "users", "See who there is, what is theirs, and let them in or go."),
    "usage": Lazy(_COMMANDS + "usage", "See what model calls, tokens and money were spent, and by whom."),
    "schedules": Lazy(_COMMANDS + "schedules", "See and steer what agents do by the clock."),
    "workers": Lazy(_COMMANDS + "workers", "See which workers are alive, and let them stop."),
    "models": Lazy(_COMMANDS + "models", "See which language models work here, and fetch local ones."),
    "db": Lazy(_COMMANDS + "db", "Reach, migrate and adopt the database."),
    "doctor": Lazy(_COMMANDS + "doctor", "Check everything this installation needs, and say the remedy."),
}
SECTIONS: Final = (
    ("Run", ("up", "chat")),
    (
        "Look and steer",
        (
            "agents",
            "tasks",
            "workflows",
            "schedules",
            "states",
            "sessions",
            "knowledge",
            "memories",
            "users",
            "usage",
            "workers",
        ),
    ),
    ("This installation", ("models", "db", "doctor")),
)


class Root(Group):
    """The program itself."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Say what holds for every command."""
        del ctx
        formatter.write(
            '\nExample: cirkelline tasks submit assistant "What can you do?" --wait\n'
            "\nExit codes: 0 done, 1 failed, 2 wrong use, 3 not finished in time,\n"
            "4 waits for a decision, 130 interrupted.\n"
        )


@click.group("cirkelline", cls=Root, lazy=LAZY, sections=SECTIONS)
@click.version_option(cirkelline.__version__, prog_name="cirkelline", message="%(prog)s %(version)s")
def root() -> None:
    """A runtime for many AI agents on one PostgreSQL."""
