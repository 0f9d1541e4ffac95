"""`knowledge search`: what is found, why it was, whose it is, and what to do when there is nothing."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import Any

import pytest
import shelves
from command_runs import Commands, Filled

from cirkelline.state.connection import Database

LEAVE = "Everybody has 25 days of leave a year; leave is taken in whole days."
NO_EMBEDDER = "only the words were searched for, not their meaning: there is no embedder 'scripted:bag'"


def shelve(filled: Filled, user: str | None, name: str, *passages: str, **more: Any) -> int:
    async def add() -> int:
        async with Database.open(filled.url, connections=2) as db:
            return await shelves.add(db, user, name, *passages, **more)

    return filled.do(add())


@pytest.fixture
def library(filled: Filled) -> Filled:
    """Three users' documents and a shared one."""
    shelve(
        filled, "ivo", "handbook.pdf", LEAVE, "Trains are paid.", tags=["Handbook", "2026"], pages=True, heading="A > B"
    )
    shelve(filled, "ivo", "notes.txt", "I asked for leave.", document_type="markdown")
    shelve(filled, "eve", "diary.txt", "Eve's leave is a secret.")
    shelve(filled, None, "notice.txt", "All leave is granted.")
    return filled


def found(cirkelline: Commands, *arguments: str) -> list[str]:
    result = cirkelline("knowledge", "search", *arguments, "--json")
    assert result.code == 0, result.err
    return [hit["document"] for hit in result.document["hits"]]


def test_each_passage_has_its_scores_its_place_and_its_words(cirkelline: Commands, library: Filled) -> None:
    del library
    result = cirkelline("knowledge", "search", "leave", "days", "--user", "ivo")
    lines = result.out.splitlines()
    assert (result.code, NO_EMBEDDER in result.err) == (0, True)
    assert lines[0] == "1. handbook.pdf, page 1 (A > B)"
    assert lines[1].startswith("   score 0.")
    assert ", meaning -, words " in lines[1]
    assert lines[2] == f"   {LEAVE}"
    assert "3. notice.txt, everybody's" in result.out
    assert "diary.txt" not in result.out


def test_the_document_has_all_of_it(cirkelline: Commands, library: Filled) -> None:
    del library
    document = cirkelline("knowledge", "search", "leave days", "--user", "ivo", "--json").document
    assert {key: document[key] for key in ("query", "user", "mode", "why")} == {
        "query": "leave days", "user": "ivo", "mode": "hybrid", "why": None,
    }  # fmt: skip
    assert "there is no embedder" in document["words_only"]
    hit = document["hits"][0]
    assert (hit["document"], hit["page"], hit["heading"], hit["text"]) == ("handbook.pdf", 1, "A > B", LEAVE)
    assert (hit["matches"], hit["tags"], hit["similarity"]) == (["days", "leave"], ["Handbook", "2026"], None)
    assert hit["score"] > document["hits"][1]["score"] > 0
    assert (hit["chunk_index"], hit["chunk_total"], hit["shared"], hit["source"]) == (
        0,
        2,
        False,
        "/shelf/handbook.pdf",
    )


@pytest.mark.parametrize(
    ("limits", "documents"),
    [
        (["--tag", "handbook"], {"handbook.pdf"}),
        (["--tag", "handbook", "--tag", "2026"], {"handbook.pdf"}),
        (["--tag", "handbook", "--tag", "2027"], set()),
        (["--type", "markdown"], {"notes.txt"}),
        (["--type", "markdown", "--type", "text"], {"handbook.pdf", "notes.txt", "notice.txt"}),
        (["--since", "1d"], {"handbook.pdf", "notes.txt", "notice.txt"}),
        (["--until", "2020-01-01"], set()),
        (["--since", "2099-01-01"], set()),
        (["--document", "notes.txt"], {"notes.txt"}),
        (["--document", "notes.txt", "--document", "/shelf/notice.txt"], {"notes.txt", "notice.txt"}),
        (["--limit", "1"], {"handbook.pdf"}),
        (["--threshold", "1"], set()),
        (["--mode", "words"], {"handbook.pdf", "notes.txt", "notice.txt"}),
        (["--tag", "'); DROP TABLE ai.agno_knowledge; --"], set()),
    ],
)
def test_a_search_is_limited_as_it_says(
    cirkelline: Commands, library: Filled, limits: list[str], documents: set[str]
) -> None:
    del library
    assert set(found(cirkelline, "days of leave", "--user", "ivo", *limits)) == documents


def test_a_user_finds_nothing_of_another_by_any_name(cirkelline: Commands, library: Filled) -> None:
    assert set(found(cirkelline, "leave secret", "--user", "eve")) == {"diary.txt", "notice.txt"}
    ((theirs,),) = library.sql("SELECT id FROM ai.agno_knowledge WHERE name = 'diary.txt'")
    said = []
    for reference in (str(theirs), "diary.txt", "/shelf/diary.txt", str(theirs + 1000)):
        result = cirkelline("knowledge", "search", "leave", "--user", "ivo", "--document", reference)
        assert (result.code, result.out) == (2, "")
        said.append(result.err.replace(reference, "X"))
    assert len(set(said)) == 1, "what is somebody else's and what is not there are the same"


def test_nothing_found_says_why_and_what_next(cirkelline: Commands, library: Filled) -> None:
    del library
    nothing = cirkelline("knowledge", "search", "zebra", "--user", "ivo")
    assert (nothing.code, nothing.out) == (
        0,
        "nothing fits: try other words (`cirkelline knowledge list` shows the documents)\n",
    )
    limited = cirkelline("knowledge", "search", "leave", "--user", "ivo", "--tag", "x", "--json").document
    assert limited["why"].startswith("nothing fits within these limits: leave out --tag")
    assert limited["hits"] == []


def test_where_there_is_no_document_that_is_said(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    result = cirkelline("knowledge", "search", "leave")
    assert result.code == 0
    assert "has no documents, and none are everybody's (`cirkelline knowledge add PATH` adds some)" in result.out


def test_whoever_was_never_here_finds_what_is_everybodys_but_a_mistyped_user_is_an_error(
    cirkelline: Commands, library: Filled
) -> None:
    del library
    assert found(cirkelline, "leave") == ["notice.txt"]
    result = cirkelline("knowledge", "search", "leave", "--user", "iwo")
    assert result.code == 2
    assert "no user 'iwo'" in result.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "missing argument"),
        (["  "], "say what to look for"),
        (["x", "--since", "2026-02-01", "--until", "2026-01-01"], "--since 2026-02-01 is after --until 2026-01-01"),
        (["x", "--since", "soon"], "is no day"),
        (["x", "--mode", "bm25"], "'bm25' is not one of"),
        (["x", "--type", "exe"], "'exe' is not one of"),
        (["x", "--limit", "0"], "0 is not in the range"),
        (["x", "--threshold", "2"], "2.0 is not in the range"),
        (["x", "--threshold", "nan"], "--threshold is a number from 0 to 1"),
        (["x", "--tag", ""], "it is empty"),
        (["x", "--document", "nothing.txt"], "there is no document 'nothing.txt'"),
    ],
)
def test_wrong_use_is_one_sentence(cirkelline: Commands, library: Filled, arguments: list[str], told: str) -> None:
    del library
    result = cirkelline("knowledge", "search", *arguments)
    assert (result.code, result.out) == (2, "")
    assert told in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "words", ["\x00", "'\"; --", "%s %(x)s {}", "\ue000x\ue001", "🙂" * 5000, "& | ! <-> :*", "\\"]
)
def test_any_words_can_be_looked_for(cirkelline: Commands, library: Filled, words: str) -> None:
    del library
    assert cirkelline("knowledge", "search", words, "--user", "ivo").code == 0


def test_a_terminal_shows_the_matching_words_in_color_and_obeys_no_document(
    cirkelline: Commands, filled: Filled
) -> None:
    del cirkelline
    long = "before " * 40 + "the zebra crossing" + " after" * 100
    shelve(filled, "ivo", "zoo\x1b]0;evil\x07.txt", long, "A zebra\x1b[2J\x07 escapes.")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cirkelline", "knowledge", "search", "zebra", "--user", "ivo"]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(command, env=environment, stdout=theirs, stderr=subprocess.DEVNULL) as running:
        os.close(theirs)
        written = b""
        while chunk := _read(ours):
            written += chunk
        assert running.wait(timeout=60) == 0
    os.close(ours)
    assert written.count(b"\x1b[32mzebra\x1b[0m") == 2
    assert not [each for each in (b"\x1b[2J", b"\x07", b"\x1b]0") if each in written]
    assert "… before".encode() in written
    assert "after …".encode() in written


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


def test_a_task_is_shown_with_its_sources(cirkelline: Commands, filled: Filled) -> None:
    cited = [{"n": 1, "document": "handbook.pdf", "page": 3, "heading": None}]
    result = {"output": "25 days [1], or 30 [7?].", "citations": cited, "citations_unknown": [7]}
    agent = filled.agent()
    filled.task(agent)
    task = filled.end(agent, result=result)
    shown = cirkelline("tasks", "show", str(task)).out
    assert shown.endswith("Sources:\n[1] handbook.pdf, page 3\n[7?] was made up: no source has that number\n")
    assert cirkelline("tasks", "show", str(task), "--json").document["result"] == result
