"""`cirkelline states`."""

from __future__ import annotations

from typing import Final

import click

from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group
from cirkelline.runtime.cli.parameters import LIMIT, NAME, VERSION

_agent: Final = click.argument("agent", type=NAME)


@click.group("states", cls=Group)
def command() -> None:
    """Look at what agents keep between tasks, version by version."""


@command.add("list", example="cirkelline states list assistant --limit 10")
@_agent
@click.option("--limit", type=LIMIT, default=50, show_default=True, help="How many at most.")
def list_states(agent: str, limit: int) -> Work:
    """List the newest versions of an agent's state; each task it ends leaves one."""
    from cirkelline.runtime.cli.actions import states

    return states.find(agent, limit)


@command.add("show", example="cirkelline states show assistant 12")
@_agent
@click.argument("version", type=VERSION, required=False)
def show(agent: str, version: int | None) -> Work:
    """Show one version of an agent's state, the newest by default."""
    from cirkelline.runtime.cli.actions import states

    return states.show(agent, version)


@command.add("diff", example="cirkelline states diff assistant 11 12")
@_agent
@click.argument("first", metavar="[FROM]", type=VERSION, required=False)
@click.argument("second", metavar="[TO]", type=VERSION, required=False)
def diff(agent: str, first: int | None, second: int | None) -> Work:
    """Show what changed between two versions of an agent's state.

    By default the last two; with FROM alone, from there to the newest.
    """
    from cirkelline.runtime.cli.actions import states

    return states.diff(agent, first, second)


@command.add("rollback", example="cirkelline states rollback assistant 11")
@_agent
@click.argument("version", type=VERSION)
def rollback(agent: str, version: int) -> Work:
    """Make an older version's work the newest version; the counters go on."""
    from cirkelline.runtime.cli.actions import states

    return states.roll_back(agent, version)
