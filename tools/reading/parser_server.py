"""The process that parses: it knows the formats, and makes a process of itself for each document.

Run with `-m` by `parsing`. Whatever a document does to its parser (a loop, all the memory, a crash of a C library) ends
that one process. Forked, since a fresh interpreter costs half a second to import what a document's few milliseconds need;
forked from here and not from the worker, whose threads would not survive it and whose memory is nobody's business.

Standard input is a socket. Each order on it is `ORDER` (the format, seconds, bytes of memory) together with another
socket: there the document comes until its end is said, and there the answer goes as JSON. Closing that socket kills the
parser; closing standard input ends the server.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import math
import os
import resource
import signal
import socket
import struct
from typing import Any, Final, NoReturn

from cirkelline.tools.reading.contract import Verdict
from cirkelline.tools.reading.formats.draft import Draft, Refusal

ORDER: Final = struct.Struct("16sdq")
BEGUN: Final = b"+"
"""What a parser says before it begins; one that ends without a word was none yet."""

_FORMATS: Final = f"{__package__}.formats"
_STEP: Final = 1_048_576


def main() -> None:
    """Take orders until there can be no more."""
    control = socket.socket(fileno=os.dup(0))
    silent = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(silent, number)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a parser ended: its socket tells
    while order := _received(control):
        (format_name, seconds, memory), document = order
        with contextlib.suppress(Exception):  # it fails again in the document's own process, which can say so
            _module(format_name)
        gc.freeze()
        if os.fork() == 0:
            control.close()
            _parse_one(document, format_name, seconds, memory)
        document.close()


def _received(control: socket.socket) -> tuple[tuple[str, float, int], socket.socket] | None:
    data, numbers, _, _ = socket.recv_fds(control, ORDER.size, 1)
    while data and len(data) < ORDER.size:
        data += control.recv(ORDER.size - len(data)) or b" " * ORDER.size
    if len(data) != ORDER.size or not numbers:
        return None
    name, seconds, memory = ORDER.unpack(data)
    return (name.rstrip(b"\0").decode(), seconds, memory), socket.socket(fileno=numbers[0])


def _module(format_name: str) -> Any:
    return importlib.import_module(f"{_FORMATS}.{format_name}")


def _parse_one(document: socket.socket, format_name: str, seconds: float, memory: int) -> NoReturn:
    """Parse one document in a process that ends with it, one way or another."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)  # its signal kills
        _limit(resource.RLIMIT_CPU, math.ceil(seconds))
        _limit(resource.RLIMIT_FSIZE, 0)
        _limit(resource.RLIMIT_CORE, 0)
        charset, data = _request(document)
        document.sendall(BEGUN)
        _limit(resource.RLIMIT_AS, memory)
        _die_when_left(document, leave=True)
        answer = _answer(format_name, data, charset)
        _die_when_left(document, leave=False)
        document.sendall(json.dumps(answer).encode())
        document.close()
    finally:
        os._exit(0)


def _limit(what: int, value: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # a lower limit is in force, or this system knows none
        resource.setrlimit(what, (value, value))


def _request(document: socket.socket) -> tuple[str | None, bytes]:
    received = bytearray()
    while step := document.recv(_STEP):
        received += step
    head, _, data = bytes(received).partition(b"\n")
    charset: str | None = json.loads(head)["charset"]
    return charset, data


def _die_when_left(document: socket.socket, *, leave: bool) -> None:
    """Have the kernel end this process, in the middle of whatever it does, as soon as the other end is closed."""
    fcntl.fcntl(document, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(document, fcntl.F_GETFL)
    signal.signal(signal.SIGIO, signal.SIG_DFL if leave else signal.SIG_IGN)
    fcntl.fcntl(document, fcntl.F_SETFL, flags | os.O_ASYNC if leave else flags & ~os.O_ASYNC)


def _answer(format_name: str, data: bytes, charset: str | None) -> dict[str, Any]:
    try:
        draft: Draft = _module(format_name).parse(data, charset=charset)
        return _described(draft)
    except Refusal as refusal:
        return {"verdict": refusal.verdict, "predicate": str(refusal)}
    except MemoryError:
        return {"verdict": Verdict.TOO_LARGE, "predicate": "takes more memory to read than a document may: split it"}
    except RecursionError:
        return {"verdict": Verdict.BROKEN, "predicate": "is nested too deeply to be read"}
    except Exception as error:  # noqa: BLE001 - a parser may fail in any way, and the document is what is wrong
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return {"verdict": Verdict.BROKEN, "predicate": f"is damaged and cannot be read ({reason})"}


def _described(draft: Draft) -> dict[str, Any]:
    spans = [(s.start, s.end, s.page, s.heading, s.rows, s.title) for s in draft.spans]
    return {"text": draft.whole, "title": draft.title, "pages": draft.pages, "spans": spans}


if __name__ == "__main__":
    main()
