"""The engine of local models: one process per model file, shared by all who open it, started at the first request.

Requests go over a socket that only we can reach, and wait there in the order they came: the engine answers one at a
time, since two at once on the same cores take as long and forget each other's prompts.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, cast

import psutil
import structlog

from cirkelline.agents import local_process, local_wire
from cirkelline.agents.chat_model import ModelRequestRejected, ModelUnavailable

log = structlog.get_logger(__name__)

CONTEXT: Final = 8192
"""Tokens of a conversation with its answer; 230 MB of memory with the default model, and a minute to read on one core."""
_BATCH: Final = 64
_CACHE: Final = 256  # MiB of read prompts kept, so that agents that take turns need not be read again each time
_CONNECTIONS: Final = 64
_NICE: Final = 5  # the worker's heartbeat and the database go first
_VERBOSITY: Final = 2  # errors and warnings
_LONGEST_SOCKET: Final = 100  # bytes; the system's own limit is 103 on some
_PASSED_ON: Final = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_PASSED_ON_STARTS: Final = ("LC_", "OMP_", "PYTHON")


class EngineFailed(ModelUnavailable):
    """The engine could not load the model, or ended."""


@dataclass(frozen=True, slots=True)
class Order:
    """Which engine is wanted: a model file, and what it may use."""

    path: Path
    threads: int
    context: int = CONTEXT


def default_threads() -> int:
    """Return one thread less than there are cores for us: a second one on a busy core makes both wait for each other."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or usable, usable) - 1)


@dataclass(slots=True)
class _Process:
    """A started engine: its process, the folder of its socket, and the last it said."""

    process: subprocess.Popen[str]
    folder: Path
    key: str
    said: deque[str] = field(default_factory=lambda: deque(maxlen=8))

    @property
    def socket(self) -> Path:
        return self.folder / "engine.sock"

    def listen(self) -> None:
        """Log what the engine prints, line by line, until it ends."""
        with cast("IO[str]", self.process.stderr) as lines:
            for line in lines:
                self.said.append(line.strip())
                log.debug("local.engine", says=line.strip())

    def end(self) -> None:
        """End the process and remove its socket; nothing of it is left afterwards."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                cast("IO[str]", pipe).close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def obituary(self) -> str:
        """Return how the process ended, in words, with the engine's own last ones."""
        code = self.process.wait()
        how = {
            -4: "this processor lacks instructions it needs",
            -9: "killed by the system, most likely for want of memory",
        }
        words = "; ".join(line for line in self.said if line)
        return how.get(code, f"ended with {code}" if code else "ended") + (f": {words[-400:]}" if words else "")


class Engine:
    """One model file being served; safe to use from several threads and event loops at once."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.users = 0
        self._lock = threading.Lock()
        self._running: Future[_Process] | None = None

    async def chat(self, request: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any]]:
        """Send a chat completion and give back the engine's chunks as they come.

        Closing the generator stops the engine's work on it. Raises EngineFailed or ModelRequestRejected.
        """
        running = await asyncio.wrap_future(self._start())
        try:
            async with contextlib.aclosing(local_wire.chat(running.socket, running.key, request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except local_wire.Refused as refusal:
            raise ModelRequestRejected(_objection(refusal)) from None
        except (OSError, EOFError):
            raise EngineFailed(await asyncio.to_thread(self._explain, running)) from None

    async def start(self) -> int:
        """Load the model unless it is loaded; return the process id of its engine."""
        return (await asyncio.wrap_future(self._start())).process.pid

    def _start(self) -> Future[_Process]:
        with self._lock:
            if self._running is None or _is_over(self._running):
                self._running = Future()
                # From here on nobody can cancel it: who gives up waiting for the model must not stop the others' engine.
                self._running.set_running_or_notify_cancel()
                threading.Thread(target=self._load, args=(self._running,), name="local engine", daemon=True).start()
            return self._running

    def _load(self, started: Future[_Process]) -> None:
        try:
            started.set_result(_launch(self.order))
        except BaseException as error:  # noqa: BLE001 - it is raised again in whoever waits
            started.set_exception(error)

    def _explain(self, running: _Process) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(1)
        if running.process.poll() is None:
            return "the local model's engine closed the connection; try again"
        return f"the local model's engine {running.obituary()}; the next request starts it again"

    def close(self) -> None:
        """End the engine's process; a later request starts another."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            # A load under way cannot be stopped, but its process can, once there is one.
            running.add_done_callback(lambda done: None if done.exception() else done.result().end())


def _is_over(running: Future[_Process]) -> bool:
    """Tell whether a start failed, or what it started has ended; what is left of it then goes."""
    if not running.done():
        return False
    if running.exception() is not None:
        return True
    if running.result().process.poll() is None:
        return False
    running.result().end()
    return True


def _objection(refusal: local_wire.Refused) -> str:
    if refusal.prompt_tokens and refusal.context:
        return (
            f"the conversation has {refusal.prompt_tokens} tokens, and the local model reads {refusal.context} with its "
            "answer; keep fewer messages (history.messages) or shorten the instructions"
        )
    return f"the local model refuses the request: {refusal}"


def _launch(order: Order) -> _Process:
    """Start the process and return once its model is loaded; raises EngineFailed with its reason."""
    folder = Path(tempfile.mkdtemp(prefix="cirkelline-"))
    if len(os.fsencode(folder)) > _LONGEST_SOCKET - 20:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="cirkelline-", dir="/tmp"))
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and file
        [sys.executable, "-P", str(local_process.__file__)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=_environment(),
        cwd=folder,
        start_new_session=True,  # Ctrl-C in the terminal is for us to handle
    )
    running = _Process(process, folder, secrets.token_urlsafe(32))
    threading.Thread(target=running.listen, name="local engine's log", daemon=True).start()
    try:
        answer = _ask(running, order)
    except BaseException:
        running.end()
        raise
    if "address" not in answer:
        running.end()
        words = "; ".join(line for line in running.said if line)
        raise EngineFailed(
            f"the local model {order.path} cannot be loaded: {answer.get('error', '')} {words[-400:]}".strip()
        )
    log.info("local.loaded", path=str(order.path), threads=order.threads, context=order.context, pid=process.pid)
    return running


def _ask(running: _Process, order: Order) -> dict[str, str]:
    wanted = {
        "path": str(order.path),
        "threads": order.threads,
        "context": order.context,
        "batch": _BATCH,
        "cache": _CACHE,
        "connections": _CONNECTIONS,
        "nice": _NICE,
        "verbosity": _VERBOSITY,
        "socket": str(running.socket),
        "key": running.key,
    }
    try:
        print(json.dumps(wanted), file=cast("IO[str]", running.process.stdin), flush=True)
        line = cast("IO[str]", running.process.stdout).readline()
    except OSError:
        line = ""
    if not line:
        raise EngineFailed(f"the local model {order.path} cannot be loaded: its engine {running.obituary()}")
    return cast("dict[str, str]", json.loads(line))


def _environment() -> dict[str, str]:
    """Return the engine's environment: what a program needs to start, and none of our keys and passwords."""
    return {key: value for key, value in os.environ.items() if key in _PASSED_ON or key.startswith(_PASSED_ON_STARTS)}


# --- shared engines ---

_engines: Final[dict[Order, Engine]] = {}
_engines_lock: Final = threading.Lock()


def open_engine(path: Path, *, threads: int | None = None, context: int = CONTEXT) -> Engine:
    """Return the engine of a model file, the same one to all who open it alike; give it back with `release`."""
    order = Order(path.resolve(), threads or default_threads(), context)
    with _engines_lock:
        engine = _engines.setdefault(order, Engine(order))
        engine.users += 1
        return engine


def release(engine: Engine) -> None:
    """Give an engine back; its process ends with its last user."""
    with _engines_lock:
        engine.users -= 1
        if engine.users > 0:
            return
        _engines.pop(engine.order, None)
    engine.close()


@atexit.register
def _close_all() -> None:
    with _engines_lock:
        engines = list(_engines.values())
        _engines.clear()
    for engine in engines:
        engine.close()
