"""Removing what is old, by hand."""

from __future__ import annotations

from cirkelline.runtime import retention
from cirkelline.runtime.cli import display, opening
from cirkelline.runtime.cli.answers import Answer, Text


async def sweep(*, dry: bool) -> Answer:
    """Remove what is older than it is kept, or say what would be."""
    async with opening.database() as opened:
        removed = await retention.sweep(opened.db, retention.ages(opened.settings), dry=dry)
    what = (
        f"{display.count(removed.tasks, 'task')}, {display.count(removed.states, 'snapshot')} and"
        f" {display.count(removed.runs, 'workflow run')}"
    )
    return Answer(
        {"dry_run": dry, "tasks": removed.tasks, "states": removed.states, "runs": removed.runs},
        [Text(f"{what} {'would be' if dry else 'were'} removed")],
    )
