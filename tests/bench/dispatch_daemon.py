"""A worker of ours as the daemon has it, around runs that do nothing, for the dispatch benchmarks.

It is told in JSON on its command line which database and settings it has, and tells on standard output when each task's
run began, by the clock that all processes of the machine share.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from cirkelline.configs.settings import Settings
from cirkelline.runtime import composition
from cirkelline.runtime.composition import Opened
from cirkelline.runtime.finishing import Finishing
from cirkelline.runtime.running import Run
from cirkelline.state.claims import Finish
from cirkelline.state.connection import Database
from cirkelline.tools.toolbox import Toolbox


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)  # noqa: T201 - it is read by the benchmark


@dataclass(frozen=True, slots=True)
class Nothing:
    """In the place of what runs agents: says that a run began, waits as long as it is told, and ends it."""

    finishing: Finishing

    async def run(self, run: Run) -> None:
        """Run a claimed task."""
        tell(began=time.monotonic(), given=run.claim.payload["input"], attempt=run.claim.attempt)
        await asyncio.sleep(float(run.claim.payload.get("seconds", 0)))
        run.ended = True
        await self.finishing.write(run.owner, Finish(run.claim.id, run.claim.attempt, "completed", {"output": "done"}))


async def serve(given: dict[str, Any]) -> None:
    """Work until killed."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    settings = Settings(database_url=given["url"], home=Path(given["folder"]), **given["settings"])
    async with Database.open(given["url"]) as db:
        opened = Opened(settings, db, given["url"], embedded=False, fresh=False)
        async with composition.open_worker(opened, Toolbox(None), {}) as worker:
            worker._runner = Nothing(worker._finishing)  # type: ignore[assignment]
            serving = asyncio.create_task(worker.serve())
            tell(ready=True)
            await serving


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
