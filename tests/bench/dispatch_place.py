"""One server for every engine of the dispatch benchmarks, a database for each run, and what a run costs them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

import psycopg
from psycopg import conninfo, sql

from cirkelline.state import embedded

TICKS: Final = os.sysconf("SC_CLK_TCK")
_NS: Final = 1_000_000
COUNTS: Final = """
SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database())::bigint,
       (SELECT wal_bytes FROM pg_stat_wal)::bigint
"""
FSYNCS: Final = {
    18: "SELECT coalesce(sum(fsyncs), 0)::bigint FROM pg_stat_io WHERE object = 'wal'",
    15: "SELECT wal_sync::bigint FROM pg_stat_wal",
}


@dataclass(frozen=True, slots=True)
class Counted:
    """Counters of a server so far: commits of one database, and of the whole server fsyncs and bytes of its log."""

    commits: int
    wal_bytes: int
    fsyncs: int


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server with fsync on: DATABASE_URL's, or an embedded one of our own."""
    given = os.environ.get("DATABASE_URL")
    if given:
        yield given.replace("postgresql+psycopg://", "postgresql://")
        return
    home = Path(tempfile.mkdtemp(prefix="dispatch"))
    started = embedded.ensure(home / "server")
    try:
        yield started.url()
    finally:
        if started.release():  # as root the data is not below its home
            shutil.rmtree(started.folder, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def at(url: str, database: str) -> str:
    """The URL of another database of that server, as every driver reads it."""
    fields = conninfo.conninfo_to_dict(url)
    host, port = str(fields.get("host") or "localhost"), fields.get("port") or 5432
    login = str(fields.get("user") or "") + (f":{fields['password']}" if fields.get("password") else "")
    if host.startswith("/"):
        return f"postgresql://{login}@/{database}?host={host}&port={port}"
    return f"postgresql://{login}@{host}:{port}/{database}"


@contextmanager
def database(url: str, *, template: str = "template0") -> Iterator[str]:
    """The URL of a new database, for as long as it is needed."""
    name = f"bench_{uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as conn:
        make = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        conn.execute(make)
        try:
            # Else the log that the copy wrote is counted once this connection has idled, in the middle of a run.
            conn.execute("SELECT pg_stat_force_next_flush()")
            yield at(url, name)
        finally:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def counted(url: str) -> Counted:
    """What the server has counted so far; of processes that have ended, all of it."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SELECT pg_stat_force_next_flush()")
        fsyncs = conn.execute(FSYNCS[18 if conn.info.server_version >= 180000 else 15]).fetchone()  # type: ignore[call-overload]
        row = conn.execute(COUNTS).fetchone()
        if row is None or fsyncs is None:
            raise SystemExit("the server keeps no statistics")
        return Counted(row[0], row[1], fsyncs[0])


def checkpoint(url: str) -> None:
    """Let no checkpoint that an earlier run owes fall into the next one."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CHECKPOINT")


def postmaster(url: str) -> int | None:
    """The server's first process; None where it is not on this machine."""
    with psycopg.connect(url, autocommit=True) as conn:
        backend = conn.info.backend_pid
        name = _stat(backend)[0] if Path(f"/proc/{backend}").exists() else ""
        return int(_stat(backend)[2]) if name == "postgres" else None


def server_ms(pid: int) -> float:
    """Milliseconds of processor time that all of a server's processes have used, those that have ended included."""
    live = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    reaped = sum(map(int, _stat(pid)[14:16])) * 1000 / TICKS
    return reaped + sum(process_ms(each) for each in [pid, *live])


def process_ms(pid: int) -> float:
    """Milliseconds of processor time of one process; nothing once it has ended."""
    try:
        tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
        return sum(int(each.read_text().split()[0]) for each in tasks) / _NS
    except OSError:
        return 0.0


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the pid: the name, the state, the parent, …"""
    text = Path(f"/proc/{pid}/stat").read_text()
    name, _, rest = text.partition("(")[2].rpartition(")")
    return [name, *rest.split()]
