"""`cirkelline workers`."""

from __future__ import annotations

import click

from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group


@click.group("workers", cls=Group)
def command() -> None:
    """See which workers are alive."""


@command.add("list", example="cirkelline workers list")
def list_workers() -> Work:
    """List the workers: where they run, how busy they are, and whether they are alive."""
    from cirkelline.runtime.cli.actions import workers

    return workers.find()
