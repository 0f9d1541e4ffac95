"""The very first start on an empty embedded database shows a newcomer the whole way of a task; no other start does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from workplace import Daemon, Workplace

from cirkelline.configs.settings import Settings
from cirkelline.runtime import composition
from cirkelline.state import embedded
from cirkelline.state.connection import Database

Start = Callable[..., Daemon]


class Provider(BaseHTTPRequestHandler):
    """Speaks as much of the OpenAI protocol as one short answer needs."""

    def do_GET(self) -> None:
        self._answer("application/json", json.dumps({"object": "list", "data": [{"id": "tiny", "object": "model"}]}))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        base = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
        said = {"index": 0, "delta": {"role": "assistant", "content": "I help. It is 391."}, "finish_reason": None}
        chunks = [{**base, "choices": [each]} for each in (said, {"index": 0, "delta": {}, "finish_reason": "stop"})]
        self._answer("text/event-stream", "".join(f"data: {json.dumps(x)}\n\n" for x in chunks) + "data: [DONE]\n\n")

    def _answer(self, kind: str, body: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def provider() -> Iterator[dict[str, str]]:
    """The environment of a daemon that has this provider, a home of its own, and no given database."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    Thread(target=server.serve_forever, daemon=True).start()
    yield {"DATABASE_URL": "", "CIRKELLINE_CONFIGS": "", "OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1"}
    server.shutdown()
    server.server_close()


@pytest.fixture
def home(place: Workplace) -> Iterator[Path]:
    """A home whose embedded server is gone with the test, its data too (which root keeps elsewhere)."""
    home = place.folder / "home"
    yield home
    embedded.stop(home, force=True)
    shutil.rmtree(embedded.status(home).folder, ignore_errors=True)


def last(daemon: Daemon, event: str) -> list[dict[str, object]]:
    return [{key: line.get(key) for key in ("agent", "status", "state")} for line in daemon.said(event)]


async def test_examples_and_one_welcome_task_the_first_time_and_nothing_the_second(
    place: Workplace, start: Start, provider: dict[str, str], home: Path
) -> None:
    environ = {**provider, "CIRKELLINE_HOME": str(home)}
    # A look at the database before (`cirkelline doctor`, `tasks list`) does not cost a newcomer their welcome.
    async with composition.open_database(Settings(home=home)) as opened:
        assert opened.fresh
    first = start("first", environ=environ, drain=True)
    assert await first.ends() == 0, (place.folder / "first.log").read_text()
    assert first.lines[0]["database"] == f"embedded database in {home}"
    created = {line["agent"] for line in first.said("agent.created")}
    assert "assistant" in created
    assert last(first, "task.finished") == [{"agent": "assistant", "status": "completed", "state": 1}]

    second = start("second", environ=environ, drain=True)
    assert await second.ends() == 0
    assert second.said("agent.created") == second.said("task.finished") == []

    with embedded.ensure(home) as server:
        async with Database.open(server.url()) as db, db.connection() as conn:
            rows = await (
                await conn.execute("SELECT task_type, status, result ->> 'output' FROM runtime.tasks")
            ).fetchall()
    assert rows == [("welcome", "completed", "I help. It is 391.")]


async def test_an_authors_own_files_are_served_instead_of_the_examples(
    place: Workplace, start: Start, provider: dict[str, str], home: Path
) -> None:
    place.write("mine", [{"text": "hi"}])
    environ = {**provider, "CIRKELLINE_HOME": str(home), "CIRKELLINE_CONFIGS": str(place.configs)}
    daemon = start(environ=environ, drain=True)
    assert await daemon.ends() == 0
    assert [line["agent"] for line in daemon.said("agent.created")] == ["mine"]
    assert daemon.said("task.finished") == []


async def test_a_given_database_gets_neither_examples_nor_a_task(
    start: Start, provider: dict[str, str], empty_database_url: str
) -> None:
    daemon = start(environ={**provider, "DATABASE_URL": empty_database_url}, drain=True)
    assert await daemon.ends() == 0
    async with Database.open(empty_database_url) as db, db.connection() as conn:
        for table in ("agents", "tasks", "agent_states"):
            assert await (await conn.execute(f"SELECT FROM runtime.{table}")).fetchall() == []
