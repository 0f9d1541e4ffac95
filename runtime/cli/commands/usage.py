"""`cirkelline usage`."""

from __future__ import annotations

from datetime import date
from typing import Final

import click

from cirkelline.runtime.cli import frame
from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.parameters import DAY, NAME

_BY: Final = ("day", "agent", "user", "model")


@frame.command("usage", example="cirkelline usage --by agent --since 7d")
@click.option(
    "--by",
    type=click.Choice(_BY),
    multiple=True,
    default=("day",),
    show_default=True,
    help="What to add up by; give it again for more.",
)
@click.option(
    "--since",
    type=DAY,
    default="30d",
    show_default=True,
    help="The first day: 2026-03-01, 30d for 30 days ago, or all.",
)
@click.option("--user", type=NAME, help="Only what was spent for this user.")
def command(by: tuple[str, ...], since: date | None, user: str | None) -> Work:
    """See what model calls, tokens and money were spent, and by whom.

    Days are UTC. Costs are in US dollars, by the price list that held when the call was made; a model without a known
    price is counted as unknown, never as nothing. What was spent stays when tasks are removed.
    """
    from cirkelline.runtime.cli.actions import spending

    return spending.show(by, since, user)
