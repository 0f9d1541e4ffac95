"""A real PostgreSQL for every test: one server per run, one migrated template, one database copied from it per test."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis
import psycopg
import pytest
import structlog
from nursery import Nursery
from psycopg import conninfo

from cirkelline.state import embedded, migrations
from cirkelline.state.connection import Database

_OUR_VARIABLES = re.compile("^(CIRKELLINE_|OPENAI_|GOOGLE_|GEMINI_|DATABASE_URL$)")
_KEPT = {"CIRKELLINE_TEST_MODELS"}
_OLD = 3600.0  # s since a run began; one that is being started has no user yet
_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder in it is private
_ROOM = 2 * 1024**3  # bytes
GIVEN = os.environ.get("DATABASE_URL")

# CI tries the same examples each time; at home Hypothesis goes on looking for new ones.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Begun in a shell's background: without this every command that a test starts would ignore Ctrl-C as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings of whoever runs it, nor their home."""
    for name in os.environ:
        if _OUR_VARIABLES.match(name) and name not in _KEPT:
            monkeypatch.delenv(name)
    monkeypatch.setenv("CIRKELLINE_HOME", str(tmp_path / "home"))
    # A command that ran inside an earlier test may have sent the log to that test's own, now closed, standard error.
    structlog.reset_defaults()
    logging.root.handlers = [each for each in logging.root.handlers if type(each) is not logging.StreamHandler]


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A server on which tests may create databases: DATABASE_URL's, or one embedded server for the whole run."""
    if GIVEN:
        yield GIVEN.replace("postgresql+psycopg://", "postgresql://")
        return
    # All xdist workers share it; the path stays short, since a socket's may not be longer than 107 bytes.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid4().hex)[:12]
    runs = Path(tempfile.gettempdir()) / f"cirkelline-tests-{os.getuid()}"
    _clear_old_runs(runs)
    server = embedded.ensure(runs / run)
    _hurry(server, _MEMORY / f"{runs.name}-{run}")
    yield server.url()
    if server.release():
        shutil.rmtree(_MEMORY / f"{runs.name}-{run}", ignore_errors=True)


def _hurry(server: embedded.EmbeddedServer, memory: Path) -> None:
    """Let a server that holds nothing but tests never wait for the disk, as none of them cuts its power.

    A database is 450 files, and a disk takes longer to make and remove them than most tests do: where there is memory enough
    (a few MB for each database that is in use) they are kept in that.
    """
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(hashtext('cirkelline.tests'))")
        if conn.execute("SELECT FROM pg_tablespace WHERE spcname = 'memory'").fetchone() is None:
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                conn.execute(f"ALTER SYSTEM SET {setting} = off")  # type: ignore[call-overload]
            conn.execute("SELECT pg_reload_conf()")
            if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM:
                memory.mkdir(mode=0o700)
                found = (server.folder / "data").stat()
                os.chown(memory, found.st_uid, found.st_gid)
                conn.execute(f"CREATE TABLESPACE memory LOCATION '{memory}'")  # type: ignore[call-overload]


def _clear_old_runs(runs: Path) -> None:
    """Remove what earlier runs left; as root the data is not below their homes, so nothing else ever clears it."""
    for home in runs.glob("*"):
        with contextlib.suppress(OSError, embedded.EmbeddedServerError):  # another worker clears it too
            found = embedded.status(home)
            if not found.users and time.time() - home.stat().st_mtime > _OLD:
                embedded.stop(home)
                shutil.rmtree(found.folder, ignore_errors=True)
                shutil.rmtree(home, ignore_errors=True)
                shutil.rmtree(_MEMORY / f"{runs.name}-{home.name}", ignore_errors=True)


def _database(url: str, name: str) -> str:
    return conninfo.make_conninfo(url, dbname=name)


@pytest.fixture(scope="session")
def template(server_url: str) -> str:
    """The name of a database that holds this release's schema and nothing else."""
    digest = hashlib.sha256("".join(item.sha256 for item in migrations.release_migrations()).encode()).hexdigest()[:12]
    name = f"cirkelline_template_{digest}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(hashtext('cirkelline.tests'))")
        if conn.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            conn.execute(f'CREATE DATABASE "{name}_new" TEMPLATE template0 {_tablespace(conn)}')  # type: ignore[call-overload]
            asyncio.run(migrations.migrate(_database(server_url, f"{name}_new")))
            conn.execute(f'ALTER DATABASE "{name}_new" RENAME TO "{name}"')  # type: ignore[call-overload]
    return name


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A database of the test's own with nothing in it."""
    yield from _own_database(server_url, "template0")


@pytest.fixture
def database_url(server_url: str, template: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    yield from _own_database(server_url, template)


def _own_database(server_url: str, template: str) -> Iterator[str]:
    name = f"cirkelline_test_{uuid4().hex[:16]}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" {_tablespace(conn)}')  # type: ignore[call-overload]
        try:
            yield _as_url(_database(server_url, name))
        finally:
            conn.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')  # type: ignore[call-overload]


def _tablespace(conn: psycopg.Connection[Any]) -> str:
    found = None if GIVEN else conn.execute("SELECT FROM pg_tablespace WHERE spcname = 'memory'").fetchone()
    return "" if found is None else "TABLESPACE memory"


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where daemons start that have imported what they need."""
    kept = Nursery()
    yield kept
    kept.close()


def _as_url(info: str) -> str:
    """A URL, as an operator would give it, for what may be key=value pairs."""
    fields = conninfo.conninfo_to_dict(info)
    host, password = str(fields.get("host") or "localhost"), fields.get("password")
    login = f"{fields.get('user') or ''}{f':{password}' if password else ''}"
    place = "" if host.startswith("/") else f"{host}:{fields.get('port') or 5432}"
    options = f"?host={host}&port={fields.get('port') or 5432}" if host.startswith("/") else ""
    return f"postgresql://{login}@{place}/{fields['dbname']}{options}"


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """An open pool on the test's own database."""
    async with Database.open(database_url) as database:
        yield database
