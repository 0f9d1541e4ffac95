"""Reaching, migrating and adopting the database."""

from __future__ import annotations

import asyncio
from typing import Any

from cirkelline.configs.errors import UsageError
from cirkelline.runtime import composition
from cirkelline.runtime.cli import console, display, opening
from cirkelline.runtime.cli.answers import Answer, Block, Facts, Text
from cirkelline.state import adoption, connection, embedded, migrations
from cirkelline.state.adoption import Report


class NotEmbedded(UsageError):
    """The database in use was given, and is not ours to stop."""


async def url() -> Answer:
    """Return the URL of the database in use, password included: printing it is what was asked for."""
    settings = opening.settings()
    if settings.database_url is not None:
        address = connection.with_search_path(settings.database_url.get_secret_value())
        return Answer({"url": address, "embedded": False}, [Text(address)])
    server = await asyncio.to_thread(embedded.ensure, settings.home, progress=console.note)
    try:
        await migrations.migrate(server.url())
        address = connection.with_search_path(server.url())
    finally:
        # Whoever asked for the URL wants to connect: not to find the server stopped with us.
        await asyncio.to_thread(server.release, keep_running=True)
    console.note(
        "the embedded server keeps running for this until the last cirkelline process ends, or `cirkelline db stop`"
    )
    return Answer({"url": address, "embedded": True}, [Text(address)])


async def status() -> Answer:
    """Show which database is in use, its versions, and what is applied; a given one is not changed."""
    settings = opening.settings()
    ours = settings.database_url is None
    async with composition.open_database(settings, migrate=ours) as opened, opened.db.connection() as conn:
        found = await migrations.status(conn)
        server, vector = await migrations.versions(conn)
        report = None if found.pending else await adoption.report(conn)
    document = {
        "database": opened.place,
        "embedded": opened.embedded,
        "server": server,
        "pgvector": vector,
        "applied": [{"name": name, "applied": moment} for name, moment in found.applied],
        "pending": list(found.pending),
        "adopted": _adopted(report) if report else None,
    }
    applied = f"{display.count(len(found.applied), 'migration')}" + (
        f", the last {display.ago(found.applied[-1][1])}" if found.applied else ""
    )
    pairs = [
        ("database", opened.place),
        ("PostgreSQL", server),
        ("pgvector", vector or "not installed"),
        ("applied", applied),
        (
            "pending",
            ", ".join(found.pending) + " (`cirkelline db migrate` applies them)" if found.pending else "nothing",
        ),
    ]
    return Answer(document, [Facts(pairs)])


def _adopted(report: Report) -> dict[str, Any]:
    held = report.held
    return {
        "agents": held.agents,
        "tasks": held.tasks,
        "pending_tasks": held.pending,
        "states": held.snapshots,
        "in_public": list(report.in_public),
    }


async def migrate() -> Answer:
    """Bring the database to this release's schema."""
    settings = opening.settings()
    given = settings.database_url
    if given is not None:
        done = (await migrations.migrate(given.get_secret_value())).names
        place = connection.describe(given.get_secret_value())
    else:
        server = await asyncio.to_thread(embedded.ensure, settings.home, progress=console.note)
        try:
            done = (await migrations.migrate(server.url())).names
        finally:
            await asyncio.to_thread(server.release)
        place = f"embedded database in {settings.home}"
    words = f"applied {', '.join(done)} to {place}" if done else f"{place} is up to date: nothing to apply"
    return Answer({"database": place, "applied": list(done)}, [Text(words)])


async def adopt(*, release: bool, from_public: bool) -> Answer:
    """Show what was in the database before cirkelline; move or release it only when told to."""
    moved: list[str] = []
    async with opening.database(migrate=True) as opened:
        if from_public:
            moved = await adoption.from_public(opened.url)
        async with opened.db.connection() as conn:
            released = await adoption.release(conn) if release else 0
            report = await adoption.report(conn)
    document = _adopted(report) | {"released": released, "moved": moved}
    blocks: list[Block] = []
    if moved:
        blocks.append(Text(f"moved from public to runtime: {', '.join(moved)}"))
    if release:
        blocks.append(Text(f"released {display.count(released, 'pending task')}: workers run them now"))
    return Answer(document, [*blocks, *_held(report)])


def _held(report: Report) -> list[Block]:
    held = report.held
    blocks: list[Block] = []
    if held.agents or held.tasks or held.snapshots:
        found = f"{display.count(held.agents, 'agent')}, {display.count(held.tasks, 'task')} and {display.count(held.snapshots, 'state version')}"
        blocks.append(Text(f"here before cirkelline: {found}; they are never changed by themselves"))
    if held.pending:
        blocks.append(
            Text(
                f"{display.count(held.pending, 'task')} of these {'is' if held.pending == 1 else 'are'} pending and held: `cirkelline db adopt --release` lets them run"
            )
        )
    if report.in_public:
        blocks.append(
            Text(
                f"the agents database's tables {', '.join(report.in_public)} stand in public, where cirkelline does not use them: "
                "`cirkelline db adopt --from public` moves them"
            )
        )
    return blocks or [Text("nothing was here before cirkelline: there is nothing to adopt")]


async def stop(*, force: bool) -> Answer:
    """Stop the embedded server."""
    settings = opening.settings()
    if settings.database_url is not None:
        raise NotEmbedded("DATABASE_URL is set, so that database is in use: stop its server with its own tools")
    stopped = await asyncio.to_thread(embedded.stop, settings.home, force=force, progress=console.note)
    words = "the embedded server has stopped" if stopped else "the embedded server was not running"
    return Answer({"stopped": stopped, "home": settings.home}, [Text(words)])
