"""What the session benchmarks share: text as people write it, and a database of their own."""

from __future__ import annotations

import random
from itertools import accumulate

_WORDS = 4_000


class Text:
    """Words that are drawn as often as in a language, the same for the same seed; about as compressible as English."""

    def __init__(self, seed: int = 7) -> None:
        self._random = random.Random(seed)  # noqa: S311 - not a secret
        self._words = [self._word() for _ in range(_WORDS)]
        self._weights = list(accumulate(1 / (rank + 12) for rank in range(_WORDS)))

    def _word(self) -> str:
        syllables = self._random.choices(range(4), (2, 5, 3, 1))[0] + 1
        return "".join(
            self._random.choice("bcdfghklmnprstvw") + self._random.choice(["a", "e", "i", "o", "u", "er", "an", "in"])
            for _ in range(syllables)
        )

    def of(self, size: int) -> str:
        """Return about so many characters."""
        words: list[str] = []
        length = 0
        while length < size:
            words.append(self._random.choices(self._words, cum_weights=self._weights)[0])
            length += len(words[-1]) + 1
        return " ".join(words)[:size]
