"""Workflows written by a test into a tools folder, submitted, and looked at in `ai.workflow_runs`."""

from __future__ import annotations

import textwrap
from typing import Any
from uuid import UUID

from workplace import Workplace

from cirkelline.runtime import workflows
from cirkelline.tools.toolbox import Toolbox

HEADER = """
from __future__ import annotations

import asyncio, os, pathlib, time
from dataclasses import dataclass
from datetime import date

from cirkelline.tools import EndRun, StepFailed, ToolContext, WorkflowRun, tool, workflow

PLACE = pathlib.Path({place!r})

def mark(line):
    with (PLACE / "marks").open("a") as file:
        file.write(line + "\\n")

def hold(name):
    while (PLACE / f"hold-{{name}}").exists():
        time.sleep(0.01)

"""

DIGEST = """
def fetch(folder: str) -> list[str]:
    mark("fetch")
    return [folder + "/a", folder + "/b"]

async def count(pages: list[str]) -> int:
    mark("count")
    if (PLACE / "fail").exists():
        raise ValueError("no counting today")
    return len(pages)

@workflow
async def digest(run: WorkflowRun, folder: str, limit: int = 3) -> dict:
    pages = await run.step("fetch", fetch, folder)
    return {"pages": await run.step("count", count, pages), "limit": limit}
"""

RUN = """
SELECT workflow_name, status, current_step, steps_completed, input_data, output_data, error_message
  FROM ai.workflow_runs WHERE run_id = %s
"""


class WorkflowScene:
    """A tools folder with workflows; their steps leave marks, and can be held by a file."""

    def __init__(self, place: Workplace) -> None:
        self.place = place

    def write(self, module: str, text: str) -> None:
        path = self.place.tools / f"{module}.py"
        path.write_text(HEADER.format(place=str(self.place.folder)) + textwrap.dedent(text))

    async def submit(self, name: str, given: Any = None, *, user: str | None = None) -> UUID:
        run_id, _ = await workflows.submit(self.place.db, Toolbox(self.place.tools), name, given, user=user)
        return run_id

    async def run(self, run_id: UUID) -> tuple[Any, ...]:
        (row,) = await self.place.rows(RUN, str(run_id))
        return row

    def hold(self, name: str) -> None:
        (self.place.folder / f"hold-{name}").touch()

    def let_go(self, name: str) -> None:
        (self.place.folder / f"hold-{name}").unlink()

    @property
    def marks(self) -> list[str]:
        file = self.place.folder / "marks"
        return file.read_text().splitlines() if file.exists() else []
