"""`cirkelline chat`."""

from __future__ import annotations

import click

from cirkelline.runtime.cli import frame
from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.parameters import NAME


@frame.command("chat", example="cirkelline chat assistant", owns_stdout=True)
@click.argument("agent", type=NAME, required=False)
@click.option("--user", type=NAME, help="Who is talking; by default $CIRKELLINE_USER, or the system's user.")
@click.option("--session", type=NAME, help="Go on with this session: an id, or its first digits.")
@click.pass_context
def command(ctx: click.Context, agent: str | None, user: str | None, session: str | None) -> Work:
    """Talk with an agent in this terminal.

    AGENT is the one called assistant, or the only one there is, when it is left out. Each turn is a task of the session,
    so the daemon runs it; where none is alive, the chat runs it itself, and logs to chat.log in CIRKELLINE_HOME. Ctrl-C
    stops the answer, Ctrl-D ends the chat; all that was said is kept.

    Where stdin is no terminal, each line of it is a turn and only answers are written on stdout; the first turn that is
    not answered ends the chat with exit code 1, or 4 if it waits for a decision.
    """
    from cirkelline.runtime.cli.actions import chatting

    return chatting.talk(agent, user, session, as_json=frame.as_json(ctx))
