"""What embedding costs on this machine: `python tests/bench/embedding_rate.py [--chunks 200] [--threads 1]`.

Cuts the standard library's longest docstrings to chunks as ingest does, embeds them with MiniLM, and prints one JSON line:
chunks per second, processor milliseconds per chunk for embedding and for cutting, tokens per chunk, what one query takes, and how the
time depends on how many texts are embedded at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence

import knowledge_sets

from cirkelline.tools.embedding import Embedder, minilm
from cirkelline.tools.reading import Piece


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=200)
    parser.add_argument("--threads", type=int, default=None, help="by default as the embedder chooses")
    given = parser.parse_args()
    loading = time.perf_counter()
    embedder = minilm.load(given.threads)
    loaded = time.perf_counter() - loading
    found = asyncio.run(measured(embedder, given.chunks))
    sys.stdout.write(json.dumps({"load_ms": round(loaded * 1000), **found}) + "\n")


async def measured(embedder: Embedder, amount: int) -> dict[str, object]:
    began = time.process_time()
    pieces = [piece for passage in knowledge_sets.docstrings(embedder).passages for piece in passage]
    cutting = (time.process_time() - began) * 1000 / len(pieces)
    # The longest: chunks of documents are near the limit, those of short docstrings are not.
    texts = [piece.embedded for piece in sorted(pieces, key=_length)[-amount:]]
    await embedder.embed(texts[:4])
    wall, processor = await _timed(embedder, [texts])
    one_wall, one_processor = await _timed(embedder, [[text] for text in texts])
    query, _ = await _timed(embedder, [["how do I read a file line by line"]] * 20)
    return {
        "chunks": len(texts),
        "tokens_per_chunk": round(statistics.mean(map(embedder.count, texts))),
        "chunks_per_s": round(len(texts) / wall, 1),
        "cpu_ms_per_chunk": round(processor * 1000 / len(texts), 1),
        "cpu_ms_per_chunk_one_by_one": round(one_processor * 1000 / len(texts), 1),
        "chunks_per_s_one_by_one": round(len(texts) / one_wall, 1),
        "query_ms": round(query * 1000 / 20, 1),
        "gathering_and_cutting_cpu_ms_per_chunk": round(cutting, 1),
    }


def _length(piece: Piece) -> int:
    return len(piece.text.split())


async def _timed(embedder: Embedder, calls: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Return the seconds that some calls take, by the clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    for texts in calls:
        await embedder.embed(texts)
    return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main()
