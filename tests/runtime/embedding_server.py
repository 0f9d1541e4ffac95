"""A server that speaks Gemini's embedding protocol, in threads of this process: vectors from a text's words, and faults.

Commands in other processes are pointed at it by GOOGLE_API_KEY and GOOGLE_GEMINI_BASE_URL, as an operator would.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

DIMENSIONS = 768

Fault = Callable[[int, list[str]], int | None]
"""Given the number of a request and its texts, the HTTP status that it fails with, or None."""


def vector(text: str) -> list[float]:
    """A bag of words, hashed: the same text gives the same vector, and a shared word makes two texts alike."""
    values = [0.0] * DIMENSIONS
    for word in text.lower().split():
        place = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big")
        values[place % DIMENSIONS] += 1.0
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / length for value in values] if any(values) else [1.0, *values[1:]]


class EmbeddingServer:
    """`texts` counts what was embedded, `seen` is all of it; `fault` says which requests fail."""

    def __init__(self) -> None:
        self.texts = 0
        self.requests = 0
        self.seen: list[str] = []
        self.fault: Fault = lambda _number, _texts: None
        self.held = threading.Event()
        self.held.set()
        self.reached = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                texts = [each["content"]["parts"][0]["text"] for each in body["requests"]]
                status, answer = server.answer(texts)
                self._send(status, answer)

            def _send(self, status: int, answer: dict[str, Any]) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                if status == 503:
                    self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Killed clients close their connections: nobody wants to read that."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.held.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs to embed here."""
        host, port = self._server.server_address[:2]
        return {"GOOGLE_API_KEY": "a-key-for-tests", "GOOGLE_GEMINI_BASE_URL": f"http://{host!s}:{port}"}

    def hold(self) -> None:
        """Keep every request waiting until `held` is set; `reached` is set by the first that waits."""
        self.reached.clear()
        self.held.clear()

    def answer(self, texts: list[str]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.requests += 1
            number = self.requests
        status = self.fault(number, texts)
        self.reached.set()
        self.held.wait(60)
        if status is not None:
            return status, {"error": {"code": status, "message": "a fault of the test", "status": "UNAVAILABLE"}}
        with self._lock:
            self.texts += len(texts)
            self.seen += texts
        return 200, {"embeddings": [{"values": vector(text)} for text in texts]}


def now_and_then(seed: int, share: float) -> Fault:
    """Fail this share of the requests: half of them for good, half in a way that a client asks again after."""
    chance, lock = random.Random(seed), threading.Lock()  # noqa: S311 - to be repeated

    def fault(_number: int, _texts: list[str]) -> int | None:
        with lock:
            drawn = chance.random()
        return None if drawn >= share else (400 if drawn < share / 2 else 503)

    return fault
