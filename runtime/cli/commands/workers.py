"""`cirkelline workers`."""

from __future__ import annotations

import click

from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group
from cirkelline.runtime.cli.parameters import NAME


@click.group("workers", cls=Group)
def command() -> None:
    """See which workers are alive, and let them stop."""


@command.add("list", example="cirkelline workers list")
def list_workers() -> Work:
    """List the workers: where they run, how busy they are, and whether they are alive."""
    from cirkelline.runtime.cli.actions import workers

    return workers.find()


@command.add("drain", example="cirkelline workers drain 5f0c7d1e")
@click.argument("worker", type=NAME, nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="Every worker that is alive.")
def drain(worker: tuple[str, ...], *, everyone: bool) -> Work:
    """Ask workers to claim nothing more, to finish what they run, and to stop.

    WORKER is an id of `cirkelline workers list`, or its first digits. What does not finish within the worker's grace period
    (CIRKELLINE_GRACE) goes back in line.
    """
    if bool(worker) is everyone:
        raise click.UsageError("name the workers, or give --all", click.get_current_context())
    from cirkelline.runtime.cli.actions import workers

    return workers.drain(worker)
