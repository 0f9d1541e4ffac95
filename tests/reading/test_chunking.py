"""Pieces are exact slices that fit their embedder, lose no word, and say where they stand."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from papers import content, pdf

from cirkelline.tools.embedding import Embedder, gemini, minilm
from cirkelline.tools.reading import Block, Parsed, Piece, chunk, parse
from cirkelline.tools.reading.chunking import CHARACTERS, WORDS

MINILM = minilm.load(1)
GEMINI = gemini.Gemini({"GOOGLE_API_KEY": "none"})
LOREM = "The quick brown fox jumps over the lazy dog. It was late! Was it? Nobody knew, and nobody asked."


def pieces(document: Parsed, embedder: Embedder = MINILM) -> list[Piece]:
    """The document's pieces, after what must hold of any was checked."""
    found = chunk(document, embedder)
    for piece in found:
        assert document.text[piece.offset : piece.offset + len(piece.text)] == piece.text
        assert piece.text.strip() == piece.text
        assert len(piece.text.split()) <= WORDS
        assert len(piece.text) <= CHARACTERS
        assert embedder.count(piece.embedded) <= embedder.window
    assert [piece.offset for piece in found] == sorted({piece.offset for piece in found})
    covered = {place for piece in found for place in range(piece.offset, piece.offset + len(piece.text))}
    marked = {place for block in document.blocks for place in range(block.offset, block.offset + len(block.text))}
    assert [place for place in sorted(marked - covered) if not document.text[place].isspace()] == []
    return found


def document(*blocks: tuple[str, int | None, str | None, bool]) -> Parsed:
    """A document of blocks: text, page, heading, whether it is rows."""
    text, made = "", list[Block]()
    for words, page, heading, rows in blocks:
        text += "\n\n" if text else ""
        made.append(Block(words, page, len(text), heading, rows))
        text += words
    return Parsed(text=text, document_type="text", content_type="text/plain", blocks=tuple(made))


def prose(text: str) -> Parsed:
    return document((text, None, None, False))


def of(name: str, data: bytes) -> Parsed:
    return asyncio.run(parse(content(name, data)))


WORDY = st.text(st.sampled_from("ab .!?\n\té日本。|-*1"), max_size=1500)
LONG = st.lists(
    st.sampled_from([*LOREM.split(), "x" * 3000, "日本語のテキスト。" * 40, "\n\n", "\n- item"]), max_size=500
)
BLOCKS = st.lists(
    st.tuples(
        st.one_of(WORDY, LONG.map(" ".join)).filter(str.strip),
        st.one_of(st.none(), st.integers(1, 3)),
        st.one_of(st.none(), st.just("Guide > Install"), st.text("ab >日", max_size=800)),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(BLOCKS, st.sampled_from([MINILM, GEMINI]))
def test_of_any_document_every_word_is_in_a_piece_and_every_piece_fits(
    blocks: Sequence[tuple[str, int | None, str | None, bool]], embedder: Embedder
) -> None:
    pieces(document(*blocks), embedder)


def test_a_short_document_is_one_piece() -> None:
    assert pieces(prose(f"  {LOREM}\n")) == [Piece(LOREM, None, 2)]


def test_prose_is_cut_after_sentences_into_pieces_of_about_one_size() -> None:
    found = pieces(prose(" ".join([LOREM] * 30)))  # 570 words
    assert all(re.search(r"[.!?]\Z", piece.text) for piece in found)
    lengths = [len(piece.text.split()) for piece in found]
    assert min(lengths) > WORDS / 2


def test_neighbors_overlap_by_a_few_whole_sentences() -> None:
    sentences = [f"Sentence number {number} has exactly these eight words." for number in range(80)]
    found = pieces(prose(" ".join(sentences)))
    for before, after in itertools.pairwise(found):
        shared = before.offset + len(before.text) - after.offset
        assert 0 < shared <= len(before.text) / 4
        assert after.text.startswith("Sentence")


def test_pieces_stay_on_their_page() -> None:
    found = pieces(of("paper.pdf", pdf(LOREM, " ".join([LOREM] * 15), "Last.")))
    assert [piece.page for piece in found] == sorted(piece.page or 0 for piece in found)
    assert {piece.page for piece in found} == {1, 2, 3}
    assert found[0].text.startswith("The quick")
    assert found[-1] == Piece("Last.", 3, found[-1].offset)


def test_headings_are_carried_and_never_stand_alone() -> None:
    guide = f"# Guide\n\n## Install\n\n{' '.join([LOREM] * 20)}\n\n## Use\n\nPress it.\n\n## Nothing\n"
    found = pieces(of("guide.md", guide.encode()))
    assert {piece.heading for piece in found} == {"Guide > Install", "Guide > Use", "Guide > Nothing"}
    assert found[0].text.startswith("# Guide\n\n## Install\n\nThe quick")
    assert found[0].embedded == found[0].text  # it begins with its heading
    assert found[1].embedded == f"Guide > Install\n{found[1].text}"
    assert [piece.text for piece in found[-2:]] == ["## Use\n\nPress it.", "## Nothing"]


def test_rows_of_a_table_stay_whole() -> None:
    rows = [f"row {number},{'some words of it ' * (number % 7)},end" for number in range(200)]
    found = pieces(of("t.csv", "\n".join(["name,words,last", *rows]).encode()))
    lines = [line for piece in found for line in piece.text.split("\n")]
    assert len(lines) == 200
    assert all(line.startswith("name: row") and line.endswith("last: end") for line in lines)


def test_lines_of_code_stay_whole_and_prose_around_it_does_not_matter() -> None:
    code = "\n".join(f"    call_{number}(argument, another)  # why. Because!" for number in range(60))
    found = pieces(of("a.md", f"Do this:\n\n```\n{code}\n```\n\nDone.".encode()))
    inside = [line for piece in found for line in piece.text.split("\n") if "call_" in line]
    assert sorted(inside) == sorted(set(inside))
    assert all(line.endswith("Because!") for line in inside)


@pytest.mark.parametrize(
    "text", ["日本語のテキストです。" * 300, "QUJD" * 5000, "x" * 10_001, "a " * 5000, "🙂" * 3000]
)
@pytest.mark.parametrize("embedder", [MINILM, GEMINI])
def test_text_without_words_is_cut_too(text: str, embedder: Embedder) -> None:
    assert len(pieces(prose(text), embedder)) > 1


def test_chinese_and_japanese_are_cut_after_sentences() -> None:
    found = pieces(prose("これは日本語の文章です。" * 60))
    assert len(found) > 2
    assert all(piece.text.endswith("。") and piece.text.startswith("これ") for piece in found)


def test_a_heading_as_long_as_the_window_leaves_room() -> None:
    found = pieces(document((LOREM, None, " > ".join(["heading"] * 300), False)))
    assert found[0].heading is not None
    assert found[0].heading.endswith("heading > heading")
