"""Thousands of tasks against a model that answers 429 for a while, then 401 for a while, then works: none may fail.

python tests/bench/model_outage.py [TASKS] [SECONDS] [WORKERS]     (10,000 tasks, 60 s of each, 2 workers)
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
sys.path.append(str(HERE.parent / "runtime"))

from flaky_provider import serving  # noqa: E402
from workplace import Workplace  # noqa: E402

from cirkelline.state import embedded, migrations  # noqa: E402
from cirkelline.state.connection import Database  # noqa: E402

ENVIRON = {"OPENAI_API_KEY": "sk-test-0123456789", "NO_PROXY": "*"}
COUNTS = "SELECT status, count(*)::integer FROM runtime.tasks GROUP BY 1 ORDER BY 1"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def measure(url: str, folder: Path, tasks: int, seconds: float, workers: int) -> None:
    async with Database.open(url, connections=16) as db, serving() as provider:
        place = Workplace(db, folder, concurrency=16)
        await place.agent("caller", [], model={"use": "openai:m", "base_url": provider.base_url})
        await place.submit_many("caller", tasks)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(workers):
                await stack.enter_async_context(place.working(environ=ENVIRON))
            for status in (429, 401):
                provider.status, provider.retry_after = status, 5.0
                await asyncio.sleep(seconds)
                say(
                    f"after {seconds:g} s of {status}: {dict(await place.rows(COUNTS))}, asked {dict(provider.answered)}"
                )
            provider.status = 200
            began = time.monotonic()
            while await place.value("SELECT count(*) FROM runtime.tasks WHERE status IN ('pending', 'running')"):  # noqa: ASYNC110 - another process may change it
                await asyncio.sleep(0.5)
            say(f"then {time.monotonic() - began:.0f} s of work: {dict(await place.rows(COUNTS))}")
        attempts = await place.value("SELECT max(attempt) FROM runtime.tasks")
        failed = await place.value("SELECT count(*) FROM runtime.tasks WHERE status <> 'completed' OR failures > 0")
        say(f"{failed} failed; most claims of one task: {attempts}; requests {dict(provider.answered)}")


def main() -> None:
    tasks, seconds, workers = (float(given) for given in [*sys.argv[1:], *("10000", "60", "2")[len(sys.argv) - 1 :]])
    with tempfile.TemporaryDirectory() as folder:
        server = embedded.ensure(Path(folder) / "home")
        try:
            asyncio.run(migrations.migrate(server.url()))
            asyncio.run(measure(server.url(), Path(folder), int(tasks), seconds, int(workers)))
        finally:
            server.release()


if __name__ == "__main__":
    main()
