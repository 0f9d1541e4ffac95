"""`cirkelline workflows`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from cirkelline.runtime.cli import parameters
from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group
from cirkelline.runtime.cli.parameters import DURATION, FOLDER, LIMIT, NAME

STATUSES: Final = ("PENDING", "RUNNING", "COMPLETED", "FAILED")


@click.group("workflows", cls=Group)
def command() -> None:
    """Run named steps that survive any crash, and follow them."""


@command.add("run", example='cirkelline workflows run reports:digest --input \'{"folder": "inbox"}\' --wait')
@click.argument("name", type=NAME)
@click.option(
    "--input", "given", type=parameters.ANY_TEXT, help="The workflow's input, a JSON object; `-` reads stdin."
)
@click.option("--user", type=NAME, help="On whose behalf it runs.")
@click.option(
    "--tools", type=FOLDER, help="Folder of Python tools and workflows; by default `tools` beside the agent files."
)
@click.option("--wait", "wait_for_it", is_flag=True, help="Wait for the end, show the steps, and print the output.")
@click.option("--timeout", type=DURATION, help="How long to wait at most, such as 30s or 5m.")
def run(
    *, name: str, given: str | None, user: str | None, tools: Path | None, wait_for_it: bool, timeout: float | None
) -> Work:
    """Put a run of a workflow in line.

    NAME is module:function, or the function's name alone where no other module has one. Without --wait the command ends
    at once and prints the run's id, which is its task's too: `tasks wait`, `cancel` and `retry` take it. With it the exit
    code is 1 if the run fails or is cancelled, 3 if --timeout passes first, 4 if it waits for a decision.
    """
    if timeout is not None and not wait_for_it:
        raise click.UsageError("--timeout goes with --wait", click.get_current_context())
    from cirkelline.runtime.cli.actions import inputs, workflows

    whole: Any = inputs.read([given], None, as_json=True) if given is not None else {}
    return workflows.run(name, whole, user=user, folder=tools, wait_for_it=wait_for_it, patience=timeout)


@command.add("list", example="cirkelline workflows list --status FAILED")
@click.option("--status", type=click.Choice(STATUSES, case_sensitive=False), help="Only runs of this status.")
@click.option("--workflow", type=NAME, help="Only runs of this workflow.")
@click.option("--user", type=NAME, help="Only runs on behalf of this user.")
@click.option("--limit", type=LIMIT, default=50, show_default=True, help="How many at most.")
def list_runs(status: str | None, workflow: str | None, user: str | None, limit: int) -> Work:
    """List the newest runs: how far each one is."""
    from cirkelline.runtime.cli.actions import workflows

    return workflows.find(status=status, workflow=workflow, user=user, limit=limit)


@command.add("show", example="cirkelline workflows show 5f0c7d1e")
@click.argument("run", type=NAME)
@click.option("--user", type=NAME, help="Only if it runs on behalf of this user.")
def show(run: str, user: str | None) -> Work:
    """Show one run: its steps and what they gave, what it waits for, what went wrong.

    RUN is an id, or its first digits. What steps gave is shortened; --json prints it whole.
    """
    from cirkelline.runtime.cli.actions import workflows

    return workflows.show(run, user)
