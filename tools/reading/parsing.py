"""From bytes to text, in a process of its own for each document: see `parser_server`."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from cirkelline.configs import secrecy, wording
from cirkelline.tools.reading import kinds
from cirkelline.tools.reading.contract import Block, Content, Limits, Parsed, Unreadable, Verdict
from cirkelline.tools.reading.kinds import Kind
from cirkelline.tools.reading.parser_server import BEGUN, ORDER

_ATTEMPTS: Final = 3
_STEP: Final = 1_048_576
_GRACE: Final = 15.0  # seconds beyond the parser's own, for a machine that is busy
_SPACIOUS: Final = 1_048_576
_KEPT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "LD_LIBRARY_PATH")


async def parse(content: Content, *, limits: Limits = Limits()) -> Parsed:  # noqa: B008 - frozen
    """Return a document's text and its blocks. Whatever the document does ends one process at most. Raises: Unreadable."""
    if not content.data.strip():
        raise _verdict(content, Verdict.EMPTY, "is empty")
    kind = kinds.of(content)
    began = asyncio.get_running_loop().time()
    answer = b""
    try:
        async with asyncio.timeout(limits.parsing + _GRACE):
            answer = await _asked(content, kind, limits)
    except TimeoutError:
        pass
    if not answer:
        if asyncio.get_running_loop().time() - began >= limits.parsing:
            raise _verdict(content, Verdict.TOO_SLOW, f"took longer than {limits.parsing:g} s to read: split it")
        raise _verdict(content, Verdict.BROKEN, "is damaged in a way that ended its parser: save it again")
    return await asyncio.to_thread(_parsed, content, kind, answer)


def _verdict(content: Content, verdict: Verdict, predicate: str) -> Unreadable:
    return Unreadable(verdict, f"{wording.shown(secrecy.mask_url(content.source.uri))} {predicate}")


async def _asked(content: Content, kind: Kind, limits: Limits) -> bytes:
    """Return a parser's answer; empty when it died over the document."""
    for _ in range(_ATTEMPTS):  # again when it was the server that died
        sock, theirs = socket.socketpair()
        try:
            sock.setblocking(False)
            await _ordered(kind, limits, theirs)
            if answer := await _exchanged(sock, content, most=_SPACIOUS + 8 * limits.size):
                return answer.removeprefix(BEGUN)
        finally:
            sock.close()  # a parser that is still at it dies of this
    raise _verdict(content, Verdict.BROKEN, "could not be read, as the process for it was ended each time: try again")


async def _ordered(kind: Kind, limits: Limits, theirs: socket.socket) -> None:
    ordered = _orders.submit(_server.order, kind, limits, theirs)
    try:
        await asyncio.wrap_future(ordered)
    finally:
        if ordered.cancel():  # it never began, so it closes nothing
            theirs.close()


async def _exchanged(sock: socket.socket, content: Content, most: int) -> bytes:
    work = asyncio.get_running_loop()
    answer = bytearray()
    try:
        await work.sock_sendall(sock, json.dumps({"charset": content.charset}).encode() + b"\n")
        await work.sock_sendall(sock, content.data)
        sock.shutdown(socket.SHUT_WR)
        while step := await work.sock_recv(sock, _STEP):
            answer += step
            if len(answer) > most:
                raise _verdict(content, Verdict.TOO_LARGE, "holds far more text than it has bytes: it is not read")
    except OSError:  # the parser is gone
        return b""
    return bytes(answer)


def _parsed(content: Content, kind: Kind, answer: bytes) -> Parsed:
    try:
        found: dict[str, Any] = json.loads(answer)
    except ValueError:  # it died in the middle of its answer
        raise _verdict(content, Verdict.BROKEN, "is damaged in a way that ended its parser: save it again") from None
    if "verdict" in found:
        raise _verdict(content, Verdict(found["verdict"]), found["predicate"])
    text: str = found["text"]
    if not found["spans"]:
        raise _verdict(content, Verdict.NO_TEXT, "holds no text: there is nothing to search in it")
    return Parsed(
        text=text,
        document_type=kind.value,
        content_type=kinds.CONTENT_TYPES[kind],
        title=found["title"],
        pages=found["pages"],
        blocks=tuple(
            Block(text[start:end], page, start, heading, rows, title)
            for start, end, page, heading, rows, title in found["spans"]
        ),
    )


class _ParserServer:
    """This process's parser server: made at the first document, and again should it die."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def order(self, kind: Kind, limits: Limits, theirs: socket.socket) -> None:
        """Have a parser of that format wait for its document on a socket, which is closed here."""
        with theirs, self._lock:
            order = ORDER.pack(kind.value.encode(), limits.parsing, limits.memory)
            try:
                socket.send_fds(self._running(), [order], [theirs.fileno()])
            except OSError:  # it has died since
                self._end()
                socket.send_fds(self._running(), [order], [theirs.fileno()])

    def close(self) -> None:
        """End it, if there is one."""
        with self._lock:
            self._end()

    def _running(self) -> socket.socket:
        if self._control is None or self._process is None or self._process.poll() is not None:
            self._end()
            self._control, theirs = socket.socketpair()
            with theirs:
                # Without the environment's keys and passwords, and out of reach of a terminal's Ctrl-C.
                self._process = subprocess.Popen(  # noqa: S603 - our own module
                    [sys.executable, "-P", "-m", f"{__package__}.parser_server"],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={name: os.environ[name] for name in _KEPT if name in os.environ},
                    start_new_session=True,
                )
        return self._control

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


_server: Final = _ParserServer()
_orders: Final = ThreadPoolExecutor(1, "parser-orders")
atexit.register(_server.close)
