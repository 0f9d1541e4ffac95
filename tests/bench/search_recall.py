"""Whether search finds what is nearest, for users of every size, and what it costs: `python tests/bench/search_recall.py`.

100,000 chunks of 768 numbers: one user has half of them, others 10, 5, 2, 1 % …, and hundreds have 10 to 50. Each is asked
about topics it has and about topics it has not; recall@10 is against brute force over the numbers as they were before they
were stored. `cpu_ms` is the backend's processor time for a whole search through the tenant's door, its transaction
included; `hnsw` is the first schema document's query with its index, on the same rows. Brute force in numpy runs in a
process of its own, on one user's rows alone, without the settings of OpenBLAS that this machine may have.

Prints one JSON line per size, and at the end what was asked for. Works on DATABASE_URL's server (on this machine), or on
an embedded one. --hnsw 0 leaves out the document's index, which takes minutes to make.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from corpora import DIMENSIONS, EMBEDDER, Matrix, Owner, Space, alone, database, fill, processor_ms
from pgvector.psycopg import register_vector

from cirkelline.state import searching
from cirkelline.state.connection import Database
from cirkelline.state.searching import Mode
from cirkelline.state.tenant import tenant

K = 10
HNSW = """
SELECT id FROM ai.cirkelline_knowledge_vectors
WHERE metadata->>'user_id' = %s
ORDER BY embedding <=> %s
LIMIT 10
"""
BRUTE_FORCE = """
import json, sys, time
import numpy as np
rows, questions = np.load(sys.argv[1]), np.load(sys.argv[2])
def ask(question):
    cosines = rows @ question
    best = np.argpartition(-cosines, min(10, len(cosines) - 1))[:10]
    return best[np.argsort(-cosines[best])]
for question in questions:
    ask(question)
began = time.process_time()
for _ in range(3):
    for question in questions:
        ask(question)
print(json.dumps((time.process_time() - began) * 1000 / len(questions) / 3))
"""


def tenant_mix(chunks: int, random: np.random.Generator) -> list[int]:
    """The sizes of users that make up so many chunks: a half, some 10 to 1 %, and the rest in tens."""
    sizes = [chunks // 2] + [chunks * percent // 1000 for percent in (100, 50, 20, 20, 10, 10)]
    while (left := chunks - sum(sizes)) > 0:
        sizes.append(min(left, int(random.integers(10, 51))))
    return sizes


def nearest(owner: Owner, question: Matrix) -> list[int]:
    """The truth: the ids of the nearest chunks."""
    cosines = owner.embeddings @ question
    return [owner.ids[index] for index in np.argsort(-cosines, kind="stable")[:K]]


def brute_force(owner: Owner, questions: Matrix) -> float:
    """The processor's milliseconds of one question in numpy, with nothing else on the mind."""
    environ = {
        name: value for name, value in os.environ.items() if name not in {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"}
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in (("rows", owner.embeddings), ("questions", questions)):
            np.save(Path(folder) / f"{name}.npy", rows)
        files = [str(Path(folder) / f"{name}.npy") for name in ("rows", "questions")]
        return float(json.loads(subprocess.check_output([sys.executable, "-c", BRUTE_FORCE, *files], env=environ)))


async def ours(db: Database, owner: Owner, questions: Matrix) -> dict[str, Any]:
    """Recall, rows and cost of our search for one user."""
    async with db.connection() as conn:
        backend = conn.info.backend_pid
    for question in questions[:2]:
        await ask(db, owner, question)
    recalls, rows, began = [], [], processor_ms(backend)
    found = [await ask(db, owner, question) for question in questions]
    spent = processor_ms(backend) - began
    for question, ids in zip(questions, found, strict=True):
        truth = nearest(owner, question)
        recalls.append(len(set(ids) & set(truth)) / len(truth))
        rows.append(len(ids) == len(truth))
    return {"recall": recalls, "all_rows": all(rows), "cpu_ms": spent / len(questions)}


async def ask(db: Database, owner: Owner, question: Matrix) -> list[int]:
    async with tenant(db, owner.id) as door:
        hits = await searching.search(
            door, "", embedding=question.tolist(), embedder=EMBEDDER, limit=K, mode=Mode.VECTOR
        )
    return [hit.chunk_id for hit in hits]


def document_query(url: str, owner: Owner, questions: Matrix) -> dict[str, float]:
    """The same of the document's own query."""
    with psycopg.connect(url, autocommit=True) as conn:
        register_vector(conn)
        conn.execute("SET enable_seqscan = off")
        conn.execute(HNSW, [str(owner.id), questions[0]]).fetchall()
        began = processor_ms(conn.info.backend_pid)
        found = [[row[0] for row in conn.execute(HNSW, [str(owner.id), each]).fetchall()] for each in questions]
        spent = processor_ms(conn.info.backend_pid) - began
    right = [len(set(ids) & set(nearest(owner, each))) for ids, each in zip(found, questions, strict=True)]
    share = sum(right) / sum(len(nearest(owner, each)) for each in questions)
    return {"recall": round(share, 3), "cpu_ms": round(spent / len(questions), 2)}


async def measure(
    url: str, db: Database, space: Space, owners: list[Owner], amount: int, *, hnsw: bool
) -> dict[str, Any]:
    """One line: users of about one size, asked on and off their topics."""
    line: dict[str, Any] = {
        "chunks": round(sum(len(owner.ids) for owner in owners) / len(owners)),
        "users": len(owners),
    }
    costs: list[float] = []
    for about in ("on_topic", "off_topic"):
        recalls: list[float] = []
        theirs: list[dict[str, float]] = []
        for owner in owners:
            topics = owner.topics if about == "on_topic" else space.some_topics(TOPICS_ASKED, but=owner.topics)
            questions = space.around(space.random.choice(topics, size=amount))
            said = await ours(db, owner, questions)
            recalls += said["recall"]
            costs.append(said["cpu_ms"])
            line["all_rows"] = line.get("all_rows", True) and said["all_rows"]
            if hnsw:
                theirs.append(await asyncio.to_thread(document_query, url, owner, questions))
        line[about] = {"recall": round(sum(recalls) / len(recalls), 4), "worst": min(recalls)}
        if theirs:
            line[about]["hnsw"] = {key: round(sum(each[key] for each in theirs) / len(theirs), 3) for key in theirs[0]}
    line["cpu_ms"] = round(sum(costs) / len(costs), 2)
    line["numpy_ms"] = round(brute_force(owners[0], space.around(space.some_topics(amount))), 3)
    return line


TOPICS_ASKED = 8


async def run(chunks: int, amount: int, *, hnsw: bool) -> None:
    space = Space(4)
    sizes = tenant_mix(chunks, space.random)
    show({"chunks": sum(sizes), "users": len(sizes), "dimensions": DIMENSIONS})
    async with database() as url:
        owners = await asyncio.to_thread(fill, url, space, sizes)
        if hnsw:
            await asyncio.to_thread(index, url)
        lines = []
        async with alone(url) as db:
            for size in sorted(set(sizes[:7])):
                group = [owner for owner, own in zip(owners, sizes, strict=True) if own == size]
                lines.append(await measure(url, db, space, group[:2], amount, hnsw=hnsw))
                show(lines[-1])
            for low, high in ((10, 20), (20, 51)):
                group = [owner for owner in owners[7:] if low <= len(owner.ids) < high][:40]
                lines.append(await measure(url, db, space, group, max(amount // 10, 2), hnsw=hnsw))
                show(lines[-1])
    show(verdict(lines, chunks))


def index(url: str) -> None:
    """Make the document's index as it says."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SET maintenance_work_mem = '1GB'")
        conn.execute(
            "CREATE INDEX idx_vectors_embedding ON ai.cirkelline_knowledge_vectors"
            " USING HNSW (embedding vector_cosine_ops) WITH (m=16, ef_construction=200)"
        )


def verdict(lines: list[dict[str, Any]], chunks: int) -> dict[str, Any]:
    """What was asked for, and whether it is so."""
    by_size = {line["chunks"]: line for line in lines}
    small, large = by_size[chunks // 100], by_size[chunks // 10]
    ratio = large["cpu_ms"] / large["numpy_ms"]
    return {
        "recall_at_10": min(line[about]["recall"] for line in lines for about in ("on_topic", "off_topic")),
        "all_rows": all(line["all_rows"] for line in lines),
        f"cpu_ms_at_{chunks // 100}": small["cpu_ms"],
        f"cpu_ms_at_{chunks // 10}": large["cpu_ms"],
        f"times_numpy_at_{chunks // 10}": round(ratio, 2),
        "asked": {"recall_at_10": 0.99, "cpu_ms": [2, 12], "times_numpy": 6},
    }


def show(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201 - its result


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=50, help="for each large user, on and off its topics")
    parser.add_argument("--hnsw", type=int, default=1, help="0: without the document's index")
    given = parser.parse_args()
    began = time.monotonic()
    asyncio.run(run(given.chunks, given.questions, hnsw=bool(given.hnsw)))
    show({"seconds": round(time.monotonic() - began)})


if __name__ == "__main__":
    main()
