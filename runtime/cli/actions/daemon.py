"""Running the daemon."""

from __future__ import annotations

from pathlib import Path

from cirkelline.runtime import up as daemon
from cirkelline.runtime.cli import failures, opening
from cirkelline.runtime.cli.answers import Answer


async def up(
    *,
    configs: Path | None,
    tools: Path | None,
    concurrency: int | None,
    drain: bool,
    listen: bool,
    migrate: bool,
    strict: bool,
) -> Answer:
    """Run a worker until it is stopped, or drained; its log is on stderr."""
    code = await daemon.up(
        opening.settings(),
        configs=configs,
        tools=tools,
        concurrency=concurrency,
        drain=drain,
        listen=listen,
        migrate=migrate,
        strict=strict,
    )
    ended = {0: "drained" if drain else "stopped", failures.INTERRUPTED: "interrupted"}.get(code, "failed")
    return Answer({"ended": ended}, exit_code=code)
