"""`cirkelline models`."""

from __future__ import annotations

import click

from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group
from cirkelline.runtime.cli.parameters import NAME


@click.group("models", cls=Group)
def command() -> None:
    """See which language models work here, and fetch local ones."""


@command.add("list", example="cirkelline models list")
def list_models() -> Work:
    """List the models that agents can use here, what the others lack, and what `model: auto` stands for."""
    from cirkelline.runtime.cli.actions import models

    return models.find()


@command.add("pull", example="cirkelline models pull")
@click.argument("name", type=NAME, required=False)
@click.option("--from", "source", type=NAME, help="A file or an http address to take the same bytes from.")
def pull(name: str | None, source: str | None) -> Work:
    """Fetch a language model that runs on this machine, without any key.

    NAME is as `models list` shows it; by default the one that fits this machine's memory. Size, memory and disk are
    said first. An interrupted pull goes on where it stopped, and what has arrived is checked against its hash.
    """
    from cirkelline.runtime.cli.actions import models

    return models.pull(name, source)
