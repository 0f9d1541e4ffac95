"""Google's embedding model, over its REST interface.

Not through google-genai: its import takes seconds, which every `knowledge search` on a command line would pay for one
request of one shape.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from cirkelline.configs import secrecy
from cirkelline.tools.embedding.contract import DIMENSIONS, EmbedderUnavailable

if TYPE_CHECKING:
    import httpx

NAME: Final = "gemini-embedding-001"
LABEL: Final = f"gemini:{NAME}"
WINDOW: Final = 2048
BATCH: Final = 50
"""Texts of one request, which may have 100 and some 20,000 tokens; a chunk has at most a few hundred."""

KEY: Final = "GOOGLE_API_KEY"
ADDRESS: Final = "GOOGLE_GEMINI_BASE_URL"
HOME: Final = "https://generativelanguage.googleapis.com"

ATTEMPTS: Final = 5
LONGEST_WAIT: Final = 60.0  # seconds; a server that asks for more is an error that says so
_TIMEOUT: Final = 60.0
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_WORDS: Final = 300
_OVERLONG: Final = WINDOW * 4  # characters; the server cuts by itself, but a query may be a whole book

Pause = Callable[[float], Awaitable[None]]


class Gemini:
    """The model as an Embedder, over one pool of connections; `close` ends it."""

    label = LABEL
    window = WINDOW

    def __init__(self, environ: Mapping[str, str], *, pause: Pause = asyncio.sleep) -> None:
        self._key = environ.get(KEY, "").strip()
        self._address = environ.get(ADDRESS, "").strip().rstrip("/") or HOME
        self._pause = pause
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()
        if fault := _fault_of(self._key):
            raise EmbedderUnavailable(fault)

    @property
    def leaves_machine(self) -> str:
        """Where the text goes: Google, or the server that the environment names in its place."""
        return "Google (Gemini)" if self._address == HOME else f"{urlsplit(self._address).hostname} (Gemini)"

    def count(self, text: str) -> int:
        """Return about how many tokens a text has, rather too many than too few; Google publishes no counter."""
        letters = sum(1 for letter in text if letter.isascii() and (letter.isalpha() or letter.isspace()))
        return 2 + math.ceil(letters / 3) + len(text) - letters

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> list[list[float]]:
        """Return a vector for each text, for storing or, with `query`, for searching; several requests if need be."""
        vectors: list[list[float]] = []
        for start in range(0, len(texts), BATCH):
            vectors += await self._batch(texts[start : start + BATCH], query=query)
        return vectors

    async def close(self) -> None:
        """End the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _batch(self, texts: Sequence[str], *, query: bool) -> list[list[float]]:
        settings = {
            "model": f"models/{NAME}",
            "taskType": "RETRIEVAL_QUERY" if query else "RETRIEVAL_DOCUMENT",
            "outputDimensionality": DIMENSIONS,
        }
        # A text of nothing but space is refused; a full stop stands for it.
        requests = [{**settings, "content": {"parts": [{"text": text[:_OVERLONG].strip() or "."}]}} for text in texts]
        body = await self._ask({"requests": requests})
        try:
            vectors = [_unit(each["values"]) for each in body["embeddings"]]
        except (KeyError, TypeError, ValueError):
            raise EmbedderUnavailable(self._unreadable("it holds no vectors of 768 numbers")) from None
        if len(vectors) != len(texts):
            raise EmbedderUnavailable(self._unreadable(f"{len(vectors)} vectors for {len(texts)} texts"))
        return vectors

    async def _ask(self, body: Mapping[str, Any]) -> Any:
        """Post a request, again after a pause where that may help."""
        for attempt in range(1, ATTEMPTS + 1):
            response, reason = await self._post(body)
            if response is not None and response.status_code == 200:  # noqa: PLR2004 - HTTP's
                with contextlib.suppress(ValueError):
                    return response.json()
                raise EmbedderUnavailable(self._unreadable("it is not JSON"))
            if response is not None and response.status_code not in _BUSY:
                raise EmbedderUnavailable(self._refused(response))
            wait = _asked_wait(response)
            if attempt == ATTEMPTS or (wait or 0) > LONGEST_WAIT:
                raise EmbedderUnavailable(self._gave_up(response, reason, attempt, wait))
            # Up to half as much again, so that workers who were refused together do not return together.
            backoff = min(LONGEST_WAIT, 0.5 * 2**attempt) * (1 + random.random() / 2)  # noqa: S311 - no secret
            await self._pause(backoff if wait is None else wait)
        raise AssertionError  # the last attempt returns or raises

    async def _post(self, body: Mapping[str, Any]) -> tuple[httpx.Response | None, str]:
        import httpx  # noqa: PLC0415

        async with self._opening:  # several documents are embedded at once, and one client is enough
            if self._client is None:
                self._client = await asyncio.to_thread(httpx.AsyncClient, timeout=_TIMEOUT)
        url = f"{self._address}/v1beta/models/{NAME}:batchEmbedContents"
        try:
            return await self._client.post(url, json=body, headers={"x-goog-api-key": self._key}), ""
        except (httpx.TransportError, httpx.InvalidURL) as error:
            return None, self._masked(str(error)) or type(error).__name__

    def _refused(self, response: httpx.Response) -> str:
        said = f"HTTP {response.status_code}: {self._words(response)}"
        if response.status_code in {401, 403} or "API_KEY_INVALID" in response.text:
            return f"{LABEL} refused us ({said}); put a valid key with access to this model into {KEY}"
        return f"{LABEL} rejected the request ({said}); check {KEY} and {ADDRESS}, or choose the embedder minilm"

    def _gave_up(self, response: httpx.Response | None, reason: str, attempts: int, wait: float | None) -> str:
        if response is None:
            address = secrecy.mask_url(self._address)
            return f"{LABEL} cannot be reached at {address} ({reason}); check the network and try again"
        said = f"HTTP {response.status_code}: {self._words(response)}"
        advice = "try again later" if wait is None else f"try again in {wait:g} s"
        return f"{LABEL} did not answer in {attempts} attempts ({said}); {advice}"

    def _unreadable(self, reason: str) -> str:
        return f"the answer of {LABEL} could not be read ({reason}); check {ADDRESS}"

    def _words(self, response: httpx.Response) -> str:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return self._masked(str(json.loads(response.text)["error"]["message"]))
        return self._masked(response.text) or response.reason_phrase

    def _masked(self, words: str) -> str:
        """Words of others on one line, shortened, and without the key."""
        words = re.sub(r"\s+", " ", words.replace(self._key, secrecy.HIDDEN)).strip().rstrip(".")
        words = "words that hold what looks like a secret" if secrecy.looks_secret(words) else words
        return words if len(words) <= _LONGEST_WORDS else f"{words[:_LONGEST_WORDS]}…"


def _fault_of(key: str) -> str | None:
    if not key:
        return f"{LABEL} needs a key in the environment variable {KEY}, which is not set: set it, or reindex with another embedder (cirkelline knowledge reindex --embedder minilm)"
    if not (key.isascii() and key.isprintable()):
        return f"the environment variable {KEY} holds characters that no key has: copy the key again"
    return None


def _unit(values: Sequence[float]) -> list[float]:
    """Bring a vector to unit length, which Google does only for 3072 numbers."""
    length = math.sqrt(math.fsum(value * value for value in values))
    if len(values) != DIMENSIONS or not math.isfinite(length) or not length:
        raise ValueError(len(values))
    return [value / length for value in values]


def _asked_wait(response: httpx.Response | None) -> float | None:
    """Return the seconds that a server asks us to wait, in its header or in Google's RetryInfo."""
    if response is None:
        return None
    header = response.headers.get("retry-after", "")
    if (seconds := _seconds(header)) is not None:
        return seconds
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        for detail in response.json()["error"]["details"]:
            if (seconds := _seconds(str(detail.get("retryDelay", "")).removesuffix("s"))) is not None:
                return seconds
    return None


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None
