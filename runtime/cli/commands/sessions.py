"""`cirkelline sessions`."""

from __future__ import annotations

from typing import Final

import click

from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group
from cirkelline.runtime.cli.parameters import LIMIT, NAME

_user: Final = click.option("--user", type=NAME, help="Whose; by default $CIRKELLINE_USER, or the system's user.")


@click.group("sessions", cls=Group)
def command() -> None:
    """Look at a user's conversations."""


@command.add("list", example="cirkelline sessions list --agent assistant")
@_user
@click.option("--agent", type=NAME, help="Only sessions with this agent.")
@click.option("--limit", type=LIMIT, default=50, show_default=True, help="How many at most.")
def list_sessions(user: str | None, agent: str | None, limit: int) -> Work:
    """List a user's newest sessions."""
    from cirkelline.runtime.cli.actions import sessions

    return sessions.find(user, agent, limit)


@command.add("show", example="cirkelline sessions show 8b1f22c0")
@click.argument("session", type=NAME)
@_user
def show(session: str, user: str | None) -> Work:
    """Show one of a user's sessions with all that was said.

    SESSION is an id, or its first digits.
    """
    from cirkelline.runtime.cli.actions import sessions

    return sessions.show(session, user)
