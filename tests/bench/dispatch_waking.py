"""How long a task waits for an idle worker, how long for another when its own is killed, and what idling costs."""

from __future__ import annotations

import contextlib
import json
import queue
import random
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import dispatch_engines as engines
from dispatch_engines import Engine
from dispatch_place import counted, process_ms
from dispatch_tables import Table, number

HELD: Final = 4  # tasks that the worker which is killed has
PAUSE: Final = (0.15, 0.3)  # seconds between two tasks of an engine: seldom does one meet another engine's
PICKUP = ("engine", "p50 ms", "p95 ms", "ours ÷ it, p50")
RECOVERY = ("engine", "seconds until all its tasks run again")
IDLE = ("engine", "CPU %", "transactions/min")
ENQUEUE = ("engine", "one by one, jobs/s", "a thousand at once, jobs/s", "ours ÷ it", "ours ÷ it, bulk")


class Serving:
    """A worker process and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for text in self.process.stdout or ():
            self._said.put(json.loads(text))

    def says(self, timeout: float) -> dict[str, Any] | None:
        """The next thing it says, None when it says nothing for so long."""
        with contextlib.suppress(queue.Empty):
            return self._said.get(timeout=timeout)
        return None


@contextmanager
def serving(engine: Engine, url: str) -> Iterator[Serving]:
    """A worker that is ready; killed at the end."""
    worker = Serving(engine.start(url, "serve"))
    try:
        if worker.says(60) is None:
            raise SystemExit(f"{engine.name} does not get ready")
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()


def submit(engine: Engine, url: str, pauses: list[float], seconds: float = 0) -> None:
    """Let another process submit."""
    _submitted(engine, engine.start(url, "submit", pauses=pauses, seconds=seconds))


def _submitted(engine: Engine, process: subprocess.Popen[str]) -> None:
    if process.wait() != 0:
        raise SystemExit(f"{engine.name} cannot submit")


def as_they_come() -> list[Engine]:
    return [engines.ours(), engines.pgqueuer(), engines.procrastinate(), engines.dbos()]


def every() -> list[Engine]:
    """These, and the one that only polls as it does so twenty times as often."""
    return [*as_they_come(), engines.dbos(poll=0.05)]


def latencies(url: str, compared: list[Engine], amount: int, dice: random.Random) -> list[list[float]]:
    """Milliseconds from just before a submit to the begin of the run, of engines that are all there at the same time."""
    with ExitStack() as stack:
        places = [stack.enter_context(engine.database(url)) for engine in compared]
        for engine, own in zip(compared, places, strict=True):
            engine.fill(own, 0, 1)
        workers = [stack.enter_context(serving(engine, own)) for engine, own in zip(compared, places, strict=True)]
        pauses = [[1.0, *(dice.uniform(*PAUSE) for _ in range(amount))] for _ in compared]
        submitters = [
            engine.start(own, "submit", pauses=its, seconds=0)
            for engine, own, its in zip(compared, places, pauses, strict=True)
        ]
        for engine, process in zip(compared, submitters, strict=True):
            _submitted(engine, process)
        return [
            [_waited(engine, worker.says(10)) for _ in range(amount + 1)][1:]
            for engine, worker in zip(compared, workers, strict=True)
        ]


def _waited(engine: Engine, said: dict[str, Any] | None) -> float:
    if said is None:
        raise SystemExit(f"{engine.name} did not run all of its tasks")
    return float(said["began"] - said["given"]["at"]) * 1000


def pickup(url: str, *, amount: int, rounds: int, command: str) -> Table:
    """Measure the latencies of ours and of each peer side by side, so that both have their share of what disturbs them."""
    ours, *peers = [*every(), engines.ours("cirkelline, from the line", keyed=True)]
    dice = random.Random(1)  # noqa: S311 - the same pauses each time
    mine: list[list[float]] = [[] for _ in peers]
    theirs: list[list[float]] = [[] for _ in peers]
    for _ in range(rounds):
        for n, peer in enumerate(peers):
            both = latencies(url, [ours, peer], amount, dice)
            mine[n].extend(both[0])
            theirs[n].extend(both[1])
    rows = [(ours.name, *_halves([each for its in mine for each in its]), number(1))]
    rows += [
        (peer.name, *_halves(its), number(statistics.median(own) / statistics.median(its)))
        for peer, own, its in zip(peers, mine, theirs, strict=True)
    ]
    title = (
        f"From the call that submits to the begin of the run in an idle worker, {amount * rounds} tasks of each peer"
    )
    return Table("pickup", title, PICKUP, rows, command)


def _halves(waits: list[float]) -> tuple[str, str]:
    return number(statistics.median(waits), 1), number(statistics.quantiles(waits, n=20)[-1], 1)


def recovered(url: str, engine: Engine, patience: float) -> float | None:
    """Seconds from the kill of a worker to the moment at which another runs all it held; None for longer than that."""
    with engine.database(url) as own:
        engine.fill(own, 0, 1)
        with serving(engine, own) as first:
            submit(engine, own, [0.1] * HELD, seconds=120)
            if None in [first.says(20) for _ in range(HELD)]:
                raise SystemExit(f"{engine.name} did not begin")
            with serving(engine, own) as second:
                began = time.monotonic()
                first.process.kill()
                for _ in range(HELD):
                    if second.says(max(patience - (time.monotonic() - began), 0.1)) is None:
                        return None
                return time.monotonic() - began


def recovery(url: str, *, patience: float, command: str) -> Table:
    """Kill a worker of each engine, with its default settings."""
    rows = []
    for engine in as_they_come():
        found = recovered(url, engine, patience)
        rows.append((engine.name, f"not within {patience:.0f}" if found is None else number(found, 1)))
    title = f"kill -9 of a worker that runs {HELD} tasks, beside another one that is idle; default settings"
    return Table("recovery", title, RECOVERY, rows, command)


def idle(url: str, *, seconds: float, command: str) -> Table:
    """Watch a worker of each engine that has nothing to do."""
    rows = []
    for engine in every():
        with engine.database(url) as own:
            engine.fill(own, 0, 1)
            with serving(engine, own) as worker:
                time.sleep(3)  # what it does once, at its start
                before, cpu = counted(own), process_ms(worker.process.pid)
                time.sleep(seconds)
                used, after = process_ms(worker.process.pid) - cpu, counted(own)
        commits = after.commits - before.commits - 3  # our own look at the counters
        rows.append((engine.name, number(used / seconds / 10), number(commits / seconds * 60, 0)))
    title = f"A worker that has nothing to do, over {seconds:.0f} s; default settings, where nothing is said"
    return Table("idle", title, IDLE, rows, command)


def enqueue(url: str, *, jobs: int, rounds: int, command: str) -> Table:
    """Put jobs in line: one by one, each with its own commit, and in bulk."""
    compared = as_they_come()
    rates: list[list[tuple[float, float]]] = [[] for _ in compared]
    single, bulk = jobs // 5, max(jobs // 1000, 1) * 1000
    for _ in range(rounds):
        for engine, its in zip(compared, rates, strict=True):
            with engine.database(url) as own:
                engine.fill(own, 0, 1)
                said = Serving(engine.start(own, "enqueue", single=single, bulk=bulk)).says(600)
                if said is None:
                    raise SystemExit(f"{engine.name} cannot enqueue")
                its.append((single / said["single"], bulk / said["bulk"]))
    rows = []
    for engine, its in zip(compared, rates, strict=True):
        ratios = [
            statistics.median(mine[n] / other[n] for mine, other in zip(rates[0], its, strict=True)) for n in (0, 1)
        ]
        medians = [statistics.median(each[n] for each in its) for n in (0, 1)]
        rows.append((engine.name, *(number(each, 0) for each in medians), *(number(each) for each in ratios)))
    title = f"Putting {single:,} jobs in line one by one, and {bulk:,} in bulk"
    return Table("enqueue", title, ENQUEUE, rows, command)
