"""`cirkelline up`."""

from __future__ import annotations

from pathlib import Path

import click

from cirkelline.runtime.cli import frame
from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.parameters import FOLDER


@frame.command("up", example="cirkelline up --configs configs/")
@click.option("--configs", type=FOLDER, help="Folder of agent files; by default $CIRKELLINE_CONFIGS, or ./configs.")
@click.option(
    "--tools", type=FOLDER, help="Folder of the agents' Python tools; by default `tools` beside the agent files."
)
@click.option("--concurrency", type=click.IntRange(1, 1000), help="How many tasks to run at once.")
@click.option("--drain", is_flag=True, help="End when nothing is left to do.")
@click.option("--no-listen", is_flag=True, help="Look for tasks now and then instead of listening, as behind a pooler.")
@click.option("--no-migrate", is_flag=True, help="Leave the database's schema as it is.")
@click.option("--strict", is_flag=True, help="Refuse to start while an agent file has a problem.")
def command(
    *,
    configs: Path | None,
    tools: Path | None,
    concurrency: int | None,
    drain: bool,
    no_listen: bool,
    no_migrate: bool,
    strict: bool,
) -> Work:
    """Run the daemon: apply agent files and run tasks until stopped.

    Changed files are applied as they change; one with a problem stops nobody, its last good version goes on serving.
    Ctrl-C (or SIGTERM) lets running tasks finish; a second one gives them back at once. Without DATABASE_URL it brings
    a database of its own.
    """
    from cirkelline.runtime.cli.actions import daemon

    return daemon.up(
        configs=configs,
        tools=tools,
        concurrency=concurrency,
        drain=drain,
        listen=not no_listen,
        migrate=not no_migrate,
        strict=strict,
    )
