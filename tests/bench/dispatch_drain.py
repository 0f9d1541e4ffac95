"""How fast a line of jobs that do nothing is drained, and what one of them costs.

Ours writes a result and a snapshot of 1 KB with each, the peers write neither. The clock stops when 98 of 100 jobs are
done, so that nobody's way to end is measured.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from dataclasses import dataclass
from typing import Any

import dispatch_engines as engines
from dispatch_engines import Engine
from dispatch_place import checkpoint, counted, postmaster, server_ms
from dispatch_tables import Table, number

HEADER = (
    "engine",
    "batch",
    "workers",
    "agents",
    "jobs/s",
    "ours ÷ it",
    "commits/job",
    "fsyncs/job",
    "WAL bytes/job",
    "server ms/job",
    "worker ms/job",
)
LANES = {10: 4, 100: 2}
OFTEN = 0.005  # seconds between two looks of DBOS at its line: it is not faster with fewer
SLOW = {"procrastinate": 6, "DBOS": 3}


@dataclass(frozen=True, slots=True)
class Drained:
    """What draining a line took: jobs a second, and per job."""

    rate: float
    commits: float
    fsyncs: float
    wal: float
    server_ms: float
    worker_ms: float


def line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of a worker process."""
    assert process.stdout is not None
    text = process.stdout.readline()
    if not text:
        raise SystemExit(f"a worker process ended with {process.wait()}")
    return dict(json.loads(text))


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def rate(jobs: int, reports: list[dict[str, Any]]) -> float:
    """Jobs a second, up to the moment at which 98 of 100 were done: nobody's way to end is measured."""
    began = min(report["began"] for report in reports)
    done = 0
    for moment, amount in sorted(tuple(mark) for report in reports for mark in report["marks"]):
        done += amount
        if done >= jobs * 0.98:
            return done / (moment - began)
    raise SystemExit(f"only {done} of {jobs} jobs were done")


def drain(url: str, engine: Engine, *, jobs: int, agents: int, batch: int, workers: int) -> Drained:
    """Let some worker processes drain a line that was there before them."""
    pid = postmaster(url)
    with engine.database(url) as own:
        checkpoint(own)
        engine.fill(own, jobs, agents)
        processes = [engine.start(own, batch=batch, agents=agents) for _ in range(workers)]
        for process in processes:
            line(process)
        before, cpu = counted(own), server_ms(pid) if pid else 0.0
        for process in processes:
            go(process)
        reports = [line(process) for process in processes]
        used = server_ms(pid) - cpu if pid else 0.0
        for process in processes:
            go(process)
            process.wait()
        after = counted(own)
    return Drained(
        rate=rate(jobs, reports),
        commits=(after.commits - before.commits) / jobs,
        fsyncs=(after.fsyncs - before.fsyncs) / jobs,
        wal=(after.wal_bytes - before.wal_bytes) / jobs,
        server_ms=used / jobs,
        worker_ms=sum(report["cpu"] for report in reports) / jobs,
    )


def median(runs: list[Drained]) -> Drained:
    """The median of each figure."""
    return Drained(*(statistics.median(getattr(run, name) for run in runs) for name in Drained.__slots__))


@dataclass(frozen=True, slots=True)
class Shape:
    """What is drained: by how many worker processes, in batches of what size, of how many agents."""

    batch: int
    workers: int
    agents: int


def compared(shape: Shape) -> list[Engine]:
    """Ours first. With the entrypoints of a peer that are its agents, or the limit that is its batch, it is not fastest:
    that is measured too."""
    found: list[Engine] = [engines.ours(lanes=LANES.get(shape.batch, 2)), engines.pgqueuer()]
    if shape.agents > 1:
        found.append(engines.pgqueuer(agents=1))
    if shape.batch == 10:
        found.append(engines.procrastinate())
    found.append(engines.dbos(poll=OFTEN))
    if shape.batch == 10 and shape.agents > 1:
        found.append(engines.dbos(poll=OFTEN, batch=None))
    return found


def jobs_for(engine: Engine, jobs: int) -> int:
    """The slow ones get fewer."""
    return jobs // SLOW.get(engine.name.partition(",")[0], 1)


def measure(url: str, shape: Shape, *, jobs: int, rounds: int) -> list[tuple[str, ...]]:
    """Let the engines take turns, and give each one's medians; a ratio is the median of those of single rounds."""
    every = compared(shape)
    runs: list[list[Drained]] = [[] for _ in every]
    for _ in range(rounds):
        for engine, its in zip(every, runs, strict=True):
            amount = jobs_for(engine, jobs)
            its.append(drain(url, engine, jobs=amount, agents=shape.agents, batch=shape.batch, workers=shape.workers))
    ours = runs[0]
    rows = []
    for engine, its in zip(every, runs, strict=True):
        ratio = statistics.median(mine.rate / its_own.rate for mine, its_own in zip(ours, its, strict=True))
        rows.append(_row(engine, shape, median(its), None if its is ours else ratio))
    return rows


def _row(engine: Engine, shape: Shape, found: Drained, ratio: float | None) -> tuple[str, ...]:
    agents = str(engine.options.get("agents", shape.agents))
    batch = engine.options.get("batch", shape.batch)
    figures = (number(found.commits, 3), number(found.fsyncs, 3), number(found.wal, 0), number(found.server_ms, 3))
    rate = number(found.rate, 0)
    return (
        engine.name,
        "no limit" if batch is None else str(batch),
        str(shape.workers),
        agents,
        rate,
        number(ratio),
        *figures,
        number(found.worker_ms, 3),
    )


def table(url: str, shapes: list[Shape], *, jobs: int, rounds: int, command: str) -> Table:
    """Drain in each of these shapes."""
    rows = [row for shape in shapes for row in measure(url, shape, jobs=jobs, rounds=rounds)]
    return Table(
        "drain", f"Draining {jobs:,} queued jobs that do nothing, {rounds} rounds in turn", HEADER, rows, command
    )
