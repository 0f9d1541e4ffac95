"""The engines that the dispatch benchmarks compare: how each gets a database, jobs and a worker process.

The peers come from the package index into a virtual environment that is kept for later runs, and work as their own
documentation says. Their programs stand here as text, since they are run by another Python than ours.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from dispatch_place import database
from dispatch_scene import agents_and_tasks, servable

from cirkelline.state import migrations

PACKAGES: Final = ("pgqueuer==1.6.0", "asyncpg", "procrastinate>=3.10,<4", "psycopg[binary,pool]", "dbos>=3.4,<3.5")
_PROTOCOL: Final = """
import asyncio, json, logging, sys, time
logging.disable(logging.CRITICAL)
given = json.loads(sys.argv[1])
def tell(**facts): print(json.dumps(facts) + "\\n", end="", flush=True)
def told(): return sys.stdin.readline().strip()
marks = []
"""

PGQUEUER: Final = (
    _PROTOCOL
    + """
import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.domain.types import QueueExecutionMode

NAMES = [f"job{n}" for n in range(given["agents"])]

async def opened():
    if given.get("pool"):
        pool = await asyncpg.create_pool(given["url"], min_size=given["pool"], max_size=given["pool"])
        return pool, PgQueuer.from_asyncpg_pool(pool)
    connection = await asyncpg.connect(given["url"])
    return connection, PgQueuer.from_asyncpg_connection(connection)

async def fill():
    connection, engine = await opened()
    if given["install"]:
        await engine.qm.queries.install()
    for begin in range(0, given["jobs"], 1000):
        part = range(begin, min(begin + 1000, given["jobs"]))
        await engine.qm.queries.enqueue([NAMES[n % len(NAMES)] for n in part], [b"{}"] * len(part), [0] * len(part))
    await connection.close()

async def drain():
    connection, engine = await opened()
    async def job(job): pass
    for name in NAMES:
        engine.entrypoint(name)(job)
    keep = engine.qm.queries.log_jobs
    async def log_jobs(ended):
        await keep(ended)
        marks.append((time.monotonic(), len(ended)))
    engine.qm.queries.log_jobs = log_jobs
    await connection.fetchval("SELECT 1")
    tell(ready=True)
    told()
    began, cpu = time.monotonic(), time.process_time()
    await engine.qm.run(batch_size=given["batch"], mode=QueueExecutionMode.drain)
    tell(began=began, marks=marks, cpu=(time.process_time() - cpu) * 1000)
    told()

async def serve():
    connection, engine = await opened()
    @engine.entrypoint("job0")
    async def job(job):
        said = json.loads(job.payload)
        tell(began=time.monotonic(), given=said)
        await asyncio.sleep(said.get("seconds", 0))
    asyncio.get_running_loop().call_later(1, lambda: tell(ready=True))
    await engine.qm.run()

async def submit():
    connection, engine = await opened()
    for pause in given["pauses"]:
        await asyncio.sleep(pause)
        said = {"at": time.monotonic(), "seconds": given["seconds"]}
        await engine.qm.queries.enqueue("job0", json.dumps(said).encode())
    tell(seconds=[])

async def enqueue():
    connection, engine = await opened()
    await engine.qm.queries.enqueue("job0", b"{}")
    began = time.monotonic()
    for _ in range(given["single"]):
        await engine.qm.queries.enqueue("job0", b"{}")
    single = time.monotonic() - began
    began = time.monotonic()
    for begin in range(0, given["bulk"], 1000):
        await engine.qm.queries.enqueue(["job0"] * 1000, [b"{}"] * 1000, [0] * 1000)
    tell(single=single, bulk=time.monotonic() - began)

asyncio.run(globals()[given["do"]]())
"""
)

PROCRASTINATE: Final = (
    _PROTOCOL
    + """
import procrastinate

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=given["url"], max_size=given.get("batch", 4)))

@app.task(name="job", queue="default")
async def job(**_):
    marks.append((time.monotonic(), 1))

async def fill():
    async with app.open_async():
        if given["install"]:
            await app.schema_manager.apply_schema_async()
        for begin in range(0, given["jobs"], 1000):
            part = range(begin, min(begin + 1000, given["jobs"]))
            await job.batch_defer_async(*[{"n": n} for n in part])

async def drain():
    async with app.open_async():
        tell(ready=True)
        told()
        began, cpu = time.monotonic(), time.process_time()
        await app.run_worker_async(concurrency=given["batch"], wait=False, install_signal_handlers=False)
        tell(began=began, marks=marks, cpu=(time.process_time() - cpu) * 1000)
        told()

@app.task(name="said", queue="default")
async def said(**given):
    tell(began=time.monotonic(), given=given)
    await asyncio.sleep(given["seconds"])

async def serve():
    async with app.open_async():
        asyncio.get_running_loop().call_later(1, lambda: tell(ready=True))
        await app.run_worker_async(concurrency=8, install_signal_handlers=False)

async def submit():
    async with app.open_async():
        for pause in given["pauses"]:
            await asyncio.sleep(pause)
            await said.defer_async(at=time.monotonic(), seconds=given["seconds"])

async def enqueue():
    async with app.open_async():
        await job.defer_async()
        began = time.monotonic()
        for _ in range(given["single"]):
            await job.defer_async()
        single = time.monotonic() - began
        began = time.monotonic()
        for begin in range(0, given["bulk"], 1000):
            await job.batch_defer_async(*[{}] * 1000)
        tell(single=single, bulk=time.monotonic() - began)

asyncio.run(globals()[given["do"]]())
"""
)

DBOS: Final = (
    _PROTOCOL
    + """
import os, threading
import sqlalchemy
from dbos import DBOS, DBOSClient
from dbos._sys_db import SystemDatabase

JOB = {"workflow_name": "job", "queue_name": "line"}
SAID = {"workflow_name": "said", "queue_name": "line"}

@DBOS.workflow()
def job(): pass

@DBOS.workflow()
def said(at, seconds):
    tell(began=time.monotonic(), given={"at": at, "seconds": seconds})
    time.sleep(seconds)

def client():
    return DBOSClient(system_database_url=given["url"])

def transaction():
    return sqlalchemy.create_engine(given["url"].replace("postgresql://", "postgresql+psycopg://")).begin()

def launch(concurrency):
    # Without a name of its own, a worker that starts takes the running workflows of another one for its own earlier ones.
    own = {"executor_id": str(os.getpid()), "application_version": "bench"}
    DBOS(config={"name": "bench", "system_database_url": given["url"], **own})
    DBOS.launch()
    every = {"polling_interval_sec": given["poll"]} if "poll" in given else {}
    DBOS.register_queue("line", worker_concurrency=concurrency, **every)

def fill():
    if given["install"]:
        DBOS.migrate(given["url"])
    engine = client()
    for begin in range(0, given["jobs"], 1000):
        with transaction() as conn:
            for _ in range(begin, min(begin + 1000, given["jobs"])):
                engine.enqueue_in_transaction(conn, JOB)

def drain():
    ready, gate, empty = threading.Event(), threading.Event(), threading.Event()
    claim, finish, claimed = SystemDatabase.start_queued_workflows, SystemDatabase.update_workflow_outcome, []
    def gated(self, queue, *rest, **more):
        if queue.name != "line":
            return claim(self, queue, *rest, **more)
        ready.set()
        gate.wait()
        ids, full = claim(self, queue, *rest, **more)
        claimed.extend(ids)
        if not ids and not full and len(marks) == len(claimed):
            empty.set()
        return ids, full
    def marked(*rest, **more):
        finished = finish(*rest, **more)
        marks.append((time.monotonic(), 1))
        return finished
    SystemDatabase.start_queued_workflows, SystemDatabase.update_workflow_outcome = gated, marked
    launch(given["batch"])
    ready.wait()
    tell(ready=True)
    told()
    began, cpu = time.monotonic(), time.process_time()
    gate.set()
    empty.wait()
    cpu = (time.process_time() - cpu) * 1000
    DBOS.destroy()
    tell(began=began, marks=marks, cpu=cpu)
    told()

def serve():
    launch(None)
    threading.Timer(3, lambda: tell(ready=True)).start()
    threading.Event().wait()

def submit():
    engine = client()
    for pause in given["pauses"]:
        time.sleep(pause)
        engine.enqueue(SAID, at=time.monotonic(), seconds=given["seconds"])

def enqueue():
    engine = client()
    engine.enqueue(JOB)
    began = time.monotonic()
    for _ in range(given["single"]):
        engine.enqueue(JOB)
    single = time.monotonic() - began
    began = time.monotonic()
    for _ in range(0, given["bulk"], 1000):
        with transaction() as conn:
            conn.exec_driver_sql("SELECT dbos.enqueue_workflow('job', 'line') FROM generate_series(1, 1000)")
    tell(single=single, bulk=time.monotonic() - began)

globals()[given["do"]]()
"""
)


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine: its name, and how its process is started. `options` are what it is told besides."""

    name: str
    command: tuple[str, ...]
    options: dict[str, Any]

    def fill(self, url: str, jobs: int, agents: int, *, install: bool = True) -> None:
        """Put jobs in line; with `install` into a database that has nothing of this engine yet."""
        given = {"do": "fill", "url": url, "jobs": jobs, "agents": agents, "install": install, **self.options}
        subprocess.run([*self.command, json.dumps(given)], check=True)

    def start(self, url: str, do: str = "drain", **given: Any) -> subprocess.Popen[str]:
        """Start its program; the one that drains waits for a word."""
        said = json.dumps({"do": do, "url": url, "agents": 1, **given, **self.options})
        return subprocess.Popen([*self.command, said], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @contextmanager
    def database(self, url: str) -> Iterator[str]:
        """A new database for this engine."""
        with database(url) as own:
            yield own


class Ours(Engine):
    """This engine: its database is migrated, and its jobs are tasks."""

    def start(self, url: str, do: str = "drain", **given: Any) -> subprocess.Popen[str]:
        """Start its program; what serves is a whole worker as the daemon has it."""
        if do != "serve":
            return Engine.start(self, url, do, **given)
        folder = tempfile.mkdtemp(prefix="dispatch")
        with psycopg.connect(url, autocommit=True) as conn:
            servable(conn, Path(folder))
        said = json.dumps({"url": url, "folder": folder, "settings": {"concurrency": 8}})
        command = [sys.executable, str(Path(__file__).with_name("dispatch_daemon.py")), said]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def fill(self, url: str, jobs: int, agents: int, *, install: bool = True) -> None:
        with psycopg.connect(url, autocommit=True) as conn:
            agents_and_tasks(conn, agents if install else 0, jobs)

    @contextmanager
    def database(self, url: str) -> Iterator[str]:
        with database(url) as own:
            asyncio.run(migrations.migrate(own))
            yield own


def ours(name: str = "cirkelline", **options: Any) -> Ours:
    """This engine, as the real functions of `cirkelline.state`."""
    program = Path(__file__).with_name("dispatch_worker.py")
    return Ours(name, (sys.executable, str(program)), options)


def peers_python() -> Path:
    """A Python that has the peers; made at the first use and kept."""
    mark = hashlib.sha256("\n".join(PACKAGES).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"cirkelline-peers-{os.getuid()}-{mark}"
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        print(f"installing {', '.join(PACKAGES)} into {folder} (once)", file=sys.stderr)  # noqa: T201
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *PACKAGES]
        subprocess.run(install, check=True)
        (folder / "made").touch()
    return python


def pgqueuer(**options: Any) -> Engine:
    """pgqueuer 1.6 on asyncpg, its fastest driver."""
    return Engine("pgqueuer", (str(peers_python()), "-c", PGQUEUER), options)


def procrastinate() -> Engine:
    """procrastinate 3 on psycopg."""
    return Engine("procrastinate", (str(peers_python()), "-c", PROCRASTINATE), {})


def dbos(**options: Any) -> Engine:
    """DBOS 3 on psycopg. Its queues poll, each second unless `poll` says how many seconds."""
    name = f"DBOS, polling each {options['poll'] * 1000:.0f} ms" if "poll" in options else "DBOS"
    return Engine(name, (str(peers_python()), "-c", DBOS), options)
