"""Which embedders there are, which one a new database gets, and the pool that opens them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from cirkelline.configs import settings, wording
from cirkelline.configs.errors import UsageError
from cirkelline.tools.embedding import gemini, minilm
from cirkelline.tools.embedding.contract import Embedder

LABELS: Final = (minilm.LABEL, gemini.LABEL)
_SHORT: Final = {label.partition(":")[0]: label for label in LABELS}


def preferred(environ: Mapping[str, str]) -> str:
    """Return the label of the embedder that a new database gets here: Gemini where there is a key, else MiniLM."""
    return gemini.LABEL if environ.get(gemini.KEY, "").strip() else minilm.LABEL


def labelled(name: str) -> str:
    """Return the label that a person means by `minilm`, `gemini` or a whole label. Raises: UsageError."""
    if name in LABELS:
        return name
    if found := _SHORT.get(name.strip().lower()):
        return found
    hint = wording.did_you_mean(name, [*_SHORT, *LABELS])
    raise UsageError(
        f"there is no embedder {wording.shown(name)}{hint or '; there are ' + wording.listed(sorted(_SHORT))}"
    )


class EmbedderPool:
    """Opens embedders as they are asked for and keeps what is costly (connections) until the pool is left."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._gemini: gemini.Gemini | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened, self._gemini = self._gemini, None
        if opened is not None:
            await opened.close()

    async def get(self, label: str) -> Embedder:
        """Return an embedder that is ready; cheap after the first time. Raises: EmbedderUnavailable, UsageError."""
        if labelled(label) == minilm.LABEL:
            threads = settings.load_settings(self._environ).embedding_threads
            # In a thread: loading takes half a second.
            return await asyncio.to_thread(minilm.load, threads)
        if self._gemini is None:
            self._gemini = gemini.Gemini(self._environ)
        return self._gemini
