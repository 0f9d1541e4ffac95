"""Real processes of real accounts that use the embedded server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg

DRIVER = """
import json, os, signal, sys
from pathlib import Path
import psycopg
from cirkelline.state import embedded

home, servers = Path(os.fsdecode(bytes.fromhex(sys.argv[1]))), []
user, group = map(int, sys.argv[2:])
if user != os.geteuid():  # only now: the interpreter itself may lie where the account cannot look
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)

def ensure(**options):
    server = embedded.ensure(home, **options)
    servers.append(server)
    return dict(url=server.url(), started=server.started, version=server.version, data=str(server.data),
                folder=str(server.folder), socket=str(server.socket), shown=repr(server))

def release(**options):
    return dict(stopped=servers.pop().release(**options))

def status():
    found = embedded.status(home)
    return dict(running=found.running, exists=found.exists, pid=found.pid, users=found.users, folder=str(found.folder))

def stop(**options):
    return dict(stopped=embedded.stop(home, **options))

def churn(rounds):
    starts = 0
    for _ in range(rounds):
        with embedded.ensure(home) as server, psycopg.connect(server.url(), autocommit=True) as conn:
            conn.execute("INSERT INTO visits DEFAULT VALUES")
            starts += server.started
    return dict(starts=starts)

def fork():
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, b"x")  # it is out of os.fork, with whatever that does in a child
    while not child:
        signal.pause()
    os.read(reading, 1)
    return dict(pid=child)

def release_in_child():
    child = os.fork()
    if not child:
        servers[-1].release()
        os._exit(0)
    os.waitpid(child, 0)
    return {}

for line in sys.stdin:
    name, options = json.loads(line)
    try:
        answer = globals()[name](**options)
    except embedded.EmbeddedServerError as error:
        answer = dict(error=str(error))
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Account:
    """Whose processes a test starts."""

    name: str
    user: int
    group: int

    @property
    def is_root(self) -> bool:
        return self.user == 0

    def identity(self) -> dict[str, Any]:
        """Arguments for subprocess."""
        if self.user == os.geteuid():
            return {}
        return {"user": self.user, "group": self.group, "extra_groups": []}


class Failed(Exception):
    """What a driver answered instead of a result."""


class Driver:
    """A process that uses the server as it is told to."""

    def __init__(self, home: Path, account: Account, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-c",
                DRIVER,
                os.fsencode(home).hex(),
                str(account.user),
                str(account.group),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ} | environment,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def begin(self, name: str, **options: object) -> None:
        """Ask without waiting for the answer."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps([name, options]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def ask(self, name: str, **options: object) -> dict[str, Any]:
        self.begin(name, **options)
        return self.answer()

    def ensure(self, **options: object) -> dict[str, Any]:
        return self.ask("ensure", **options)

    def release(self, **options: object) -> bool:
        return bool(self.ask("release", **options)["stopped"])

    def status(self) -> dict[str, Any]:
        return self.ask("status")

    def end(self, what: signal.Signals | None = None) -> str:
        """End the process (by the end of its input, or a signal to its group) and return what it still said."""
        if what is not None:
            os.killpg(self.process.pid, what)
        rest, _ = self.process.communicate(timeout=60)
        return rest


@dataclass
class Scene:
    """One home, one account, and the processes that a test starts there."""

    account: Account
    root: Path  # a folder of the account's, the parent of the home
    home: Path
    drivers: list[Driver] = field(default_factory=list)
    homes: set[Path] = field(default_factory=set)

    def driver(self, *, home: Path | None = None, account: Account | None = None, **environment: str) -> Driver:
        self.homes.add(home or self.home)
        driver = Driver(home or self.home, account or self.account, environment)
        self.drivers.append(driver)
        return driver

    def close(self) -> list[Path]:
        """End all of it; return the folders outside its own that are left, with empty files, to be removed at the end.

        After a thousand files were removed, ext4 takes seconds to make the next thousand.
        """
        left = []
        for driver in self.drivers:
            driver.process.kill()
            driver.process.communicate()
        for home in self.homes:
            folder = (home / "postgres").resolve()
            with suppress(FileNotFoundError, NotADirectoryError, psutil.NoSuchProcess):
                shutil.rmtree(json.loads((folder / "server.json").read_text())["socket"])
                end_server(folder / "data")
            if not folder.is_relative_to(self.root) and folder.is_dir():
                empty(folder)
                left.append(folder)
        shutil.rmtree(self.root, ignore_errors=True)
        return left


def empty(folder: Path) -> None:
    """Give back the space of a folder's files."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)


def server_processes(pid: int) -> list[psutil.Process]:
    """The server and its children."""
    server = psutil.Process(pid)
    return [server, *server.children(recursive=True)]


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def end_of(processes: list[psutil.Process]) -> bool:
    """Wait until all of these have ended; a child of the server may outlive it by the blink that its own end takes."""
    deadline = time.monotonic() + 10
    while any(map(_lives, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def end_server(data: Path) -> None:
    """Kill the server on a data folder, if one is left, and wait until all of it has ended."""
    pid = int((data / "postmaster.pid").read_text().split()[0])
    if Path(f"/proc/{pid}/cwd").resolve() == data:
        processes = server_processes(pid)
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # the others end by themselves once the first has
                process.kill()
        assert end_of(processes)  # a zombie has: an init process may take its time to bury it


def select(url: str, query: str) -> Any:
    """Run one statement on a connection of its own and return its first value, if it has one."""
    with psycopg.connect(url, autocommit=True) as conn:
        cursor = conn.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None
