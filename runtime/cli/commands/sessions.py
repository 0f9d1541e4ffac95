"""`cirkelline sessions`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group
from cirkelline.runtime.cli.parameters import FILE_OR_FOLDER, LIMIT, NAME

_user: Final = click.option("--user", type=NAME, help="Whose; by default $CIRKELLINE_USER, or the system's user.")


@click.group("sessions", cls=Group)
def command() -> None:
    """Look at a user's conversations, put them away, take them along."""


@command.add("list", example="cirkelline sessions list --agent assistant")
@_user
@click.option("--agent", type=NAME, help="Only sessions with this agent.")
@click.option("--archived", is_flag=True, help="Those that were put away.")
@click.option("--limit", type=LIMIT, default=50, show_default=True, help="How many at most.")
def list_sessions(*, user: str | None, agent: str | None, archived: bool, limit: int) -> Work:
    """List a user's newest sessions that are in use."""
    from cirkelline.runtime.cli.actions import sessions

    return sessions.find(user, agent, limit, archived=archived)


@command.add("show", example="cirkelline sessions show 8b1f22c0")
@click.argument("session", type=NAME)
@_user
def show(session: str, user: str | None) -> Work:
    """Show one of a user's sessions with all that was said.

    SESSION is an id, or its first digits.
    """
    from cirkelline.runtime.cli.actions import sessions

    return sessions.show(session, user)


@command.add("archive", example="cirkelline sessions archive 8b1f22c0")
@click.argument("session", type=NAME)
@_user
@click.option("--undo", is_flag=True, help="Take it out of the archive again.")
def archive(*, session: str, user: str | None, undo: bool) -> Work:
    """Put one of a user's sessions away: nothing of it is lost, and lists leave it out.

    `chat --session` goes on with an archived one and takes it out again.
    """
    from cirkelline.runtime.cli.actions import sessions

    return sessions.archive(session, user, undo=undo)


@command.add("export", example="cirkelline sessions export 8b1f22c0 --output trip.md")
@click.argument("session", type=NAME)
@_user
@click.option("--output", type=FILE_OR_FOLDER, help="A new file to write it to; by default it is printed.")
def export(session: str, user: str | None, output: Path | None) -> Work:
    """Write one of a user's sessions down as Markdown; with --json as the document that `sessions show` gives."""
    from cirkelline.runtime.cli.actions import sessions

    return sessions.export(session, user, output)
