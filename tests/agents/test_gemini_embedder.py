"""`gemini:` embeddings against a server that speaks its protocol."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from provider_server import ProviderServer, json_reply

from cirkelline.tools.embedding import EmbedderPool, EmbedderUnavailable, gemini, labelled, preferred

KEY = "AIzaSyD-3141592653589793238462643383279"


def vectors(*first: float) -> dict[str, Any]:
    """An answer with one vector per number, of which only the first of 768 is not zero."""
    return {"embeddings": [{"values": [number, 0.5 * number, *[0.0] * 766]} for number in first]}


@pytest.fixture
async def pauses() -> list[float]:
    return []


@pytest.fixture
async def embedder(server: ProviderServer, pauses: list[float]) -> AsyncIterator[gemini.Gemini]:
    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    opened = gemini.Gemini({"GOOGLE_API_KEY": f" {KEY}\n", "GOOGLE_GEMINI_BASE_URL": f"{server.url}/"}, pause=pause)
    yield opened
    await opened.close()


async def test_documents_and_queries_are_embedded_for_what_they_are(
    server: ProviderServer, embedder: gemini.Gemini
) -> None:
    server.will(json_reply(vectors(2, 4)), json_reply(vectors(1)))
    [one, two] = await embedder.embed(["a text", "another"])
    await embedder.embed(["a question"], query=True)
    assert len(one) == 768
    assert one == pytest.approx(two)  # 2 and 4, at unit length
    assert math.fsum(value * value for value in one) == pytest.approx(1)
    stored, asked = server.received
    assert stored.path == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    assert stored.headers["x-goog-api-key"] == KEY
    assert KEY not in stored.path
    assert stored.body["requests"][1] == {
        "model": "models/gemini-embedding-001",
        "content": {"parts": [{"text": "another"}]},
        "taskType": "RETRIEVAL_DOCUMENT",
        "outputDimensionality": 768,
    }
    assert asked.body["requests"][0]["taskType"] == "RETRIEVAL_QUERY"


async def test_many_texts_go_in_several_requests_and_come_back_in_order(
    server: ProviderServer, embedder: gemini.Gemini
) -> None:
    server.will(json_reply(vectors(*[1] * gemini.BATCH)), json_reply(vectors(-1, 1)))
    found = await embedder.embed([str(number) for number in range(gemini.BATCH + 2)])
    assert [vector[0] < 0 for vector in found] == [False] * gemini.BATCH + [True, False]
    assert [len(each.body["requests"]) for each in server.received] == [gemini.BATCH, 2]


async def test_a_busy_server_is_asked_again_when_it_said(
    server: ProviderServer, embedder: gemini.Gemini, pauses: list[float]
) -> None:
    info = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}]
    server.will(
        json_reply({}, 429, {"Retry-After": "3"}),
        json_reply({"error": {"message": "quota", "details": info}}, 429),
        json_reply({"error": {"message": "overloaded"}}, 503),
        json_reply(vectors(1)),
    )
    assert len(await embedder.embed(["a text"])) == 1
    assert pauses[:2] == [3.0, 7.5]
    assert 4 <= pauses[2] <= 6  # its own: 0.5 * 2**3, and up to half as much again


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (json_reply({"error": {"message": f"bad key {KEY}", "code": 400, "status": "API_KEY_INVALID"}}, 400), "put a valid key"),
        (json_reply({"error": {"message": f"no {KEY}"}}, 403), "put a valid key"),
        (json_reply({"error": {"message": "no such model"}}, 404), "no such model"),
        (json_reply({"error": {"message": "slow down"}}, 429, {"Retry-After": "86400"}), "try again in 86400 s"),
        (json_reply({"embeddings": [{"values": [1.0, 2.0]}]}), "768 numbers"),
        (json_reply({"embeddings": [{"values": [0.0] * 768}]}), "768 numbers"),
        (json_reply(vectors(1, 2)), "2 vectors for 1 texts"),
        (json_reply({}), "could not be read"),
    ],
)  # fmt: skip
async def test_what_cannot_help_to_repeat_is_said_at_once_and_without_the_key(
    server: ProviderServer, embedder: gemini.Gemini, pauses: list[float], reply: Any, said: str
) -> None:
    server.will(reply)
    with pytest.raises(EmbedderUnavailable) as caught:
        await embedder.embed(["a text"])
    assert said in str(caught.value)
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert pauses == []


async def test_a_server_that_stays_busy_is_given_up(
    server: ProviderServer, embedder: gemini.Gemini, pauses: list[float]
) -> None:
    server.will(*[json_reply({"error": {"message": "overloaded"}}, 503)] * gemini.ATTEMPTS)
    with pytest.raises(EmbedderUnavailable, match=r"5 attempts \(HTTP 503: overloaded\); try again later"):
        await embedder.embed(["a text"])
    assert len(pauses) == gemini.ATTEMPTS - 1
    assert pauses == sorted(pauses)


async def test_a_server_that_is_not_there_is_named(pauses: list[float]) -> None:
    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async with ProviderServer() as gone:
        address = gone.url
    embedder = gemini.Gemini({"GOOGLE_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": address}, pause=pause)
    with pytest.raises(EmbedderUnavailable, match="cannot be reached at " + address):
        await embedder.embed(["a text"])
    await embedder.close()


async def test_one_says_where_its_texts_go(embedder: gemini.Gemini) -> None:
    assert embedder.leaves_machine == "127.0.0.1 (Gemini)"
    async with EmbedderPool({"GOOGLE_API_KEY": KEY}) as pool:
        assert (await pool.get("gemini")).leaves_machine == "Google (Gemini)"


async def test_without_a_key_it_is_unavailable_and_not_preferred() -> None:
    assert preferred({"GOOGLE_API_KEY": KEY}) == labelled("gemini")
    assert preferred({"GOOGLE_API_KEY": " "}) == labelled("MiniLM ")
    async with EmbedderPool({}) as pool:
        with pytest.raises(EmbedderUnavailable, match="GOOGLE_API_KEY, which is not set"):
            await pool.get("gemini")


def test_tokens_are_counted_rather_too_high() -> None:
    counting = gemini.Gemini({"GOOGLE_API_KEY": KEY})
    assert counting.count("") == 2
    assert 2 + 9 <= counting.count("The quick brown fox jumps over the lazy dog") <= 2 + 18
    assert counting.count("日本語") == 5
    assert counting.count("31415") == 7
