"""What every embedder is to the rest of the house."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from cirkelline.configs.errors import CirkellineError

DIMENSIONS: Final = 768
"""How many numbers a vector has: what the documents' tables declare."""


class EmbedderUnavailable(CirkellineError):
    """Texts cannot be embedded now; nothing was stored. The message names the remedy."""


class Embedder(Protocol):
    """Turns texts into vectors. Vectors of embedders with different labels are never compared."""

    @property
    def label(self) -> str:
        """The name under which its vectors are stored, such as `minilm:all-MiniLM-L6-v2-int8`."""
        ...

    @property
    def window(self) -> int:
        """How many tokens of a text it reads; it does not see what follows."""
        ...

    @property
    def leaves_machine(self) -> str | None:
        """Where the text goes, such as `Google (Gemini)`; None when it stays on this machine."""
        ...

    def count(self, text: str) -> int:
        """Return how many tokens a text has, or a little more where that is only estimated."""
        ...

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> list[list[float]]:
        """Return 768 numbers of unit length for each text, in order; `query` for what is searched with.

        Batches and retries by itself. Raises: EmbedderUnavailable.
        """
        ...
