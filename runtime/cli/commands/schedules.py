"""`cirkelline schedules`."""

from __future__ import annotations

from typing import Final

import click

from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group
from cirkelline.runtime.cli.parameters import NAME

_schedule: Final = click.argument("schedule", type=NAME)


@click.group("schedules", cls=Group)
def command() -> None:
    """See and steer what agents do by the clock."""


@command.add("list", example="cirkelline schedules list")
def list_schedules() -> Work:
    """List the schedules: when each is due next, and when it was last."""
    from cirkelline.runtime.cli.actions import schedules

    return schedules.find()


@command.add("pause", example="cirkelline schedules pause assistant/1")
@_schedule
def pause(schedule: str) -> Work:
    """Let a schedule rest: what is due meanwhile is not caught up on.

    SCHEDULE is AGENT/NAME as `schedules list` shows it, or the agent alone where it has only one.
    """
    from cirkelline.runtime.cli.actions import schedules

    return schedules.set_paused(schedule, paused=True)


@command.add("resume", example="cirkelline schedules resume assistant/1")
@_schedule
def resume(schedule: str) -> Work:
    """Let a schedule go on, from its next time."""
    from cirkelline.runtime.cli.actions import schedules

    return schedules.set_paused(schedule, paused=False)


@command.add("run", example="cirkelline schedules run assistant/1")
@_schedule
def run(schedule: str) -> Work:
    """Submit a schedule's task now, beside its times."""
    from cirkelline.runtime.cli.actions import schedules

    return schedules.run(schedule)
