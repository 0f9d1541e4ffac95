"""Which numbers in brackets are citations, and how those are marked that nobody gave."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cirkelline.agents import citing

FOUND = {
    "The limit is 40 km/h [1].": [1],
    "Copenhagen[1], Aarhus [2]; and again [1].": [1, 2],
    "Both say so [1, 2].": [1, 2],
    "Both say so [1,2].": [1, 2],
    "Both say so [1; 2] or [3 & 4] or [5 and 6] or [7 og 8].": [1, 2, 3, 4, 5, 6, 7, 8],
    "Both say so [1][2][3].": [1, 2, 3],
    "All of them [1-3].": [1, 2, 3],
    "All of them [1\u20133, 7].": [1, 2, 3, 7],
    "As a footnote[^4].": [4],
    "As some models write it【5】【6†handbook】.": [5, 6],
    "With its page [7, p. 3] and [8, side 12].": [7, 8],
    '"A quotation"[1] and (a remark) [2].': [1, 2],
    "Grøn energi[1] og øl[2].": [1, 2],
    "PostgreSQL[1], JavaScript[2], MP3[3], version 3.11[4] and the year 2020[5].": [1, 2, 3, 4, 5],
    "- a list's entry [1]\n    - and one in it [2]\n\n      with a paragraph [3]": [1, 2, 3],
    "| a table | [1] |\n|---|---|\n| x | [2] |": [1, 2],
    "[1]: handbook.pdf, page 3": [1],
    "**[1]** and *[2]* and ([3])": [1, 2, 3],
    "See [[4]].": [4],
    "An opened ` tick [1].": [1],
    "1\\. What is [2]": [2],
}
NOT_FOUND = [
    "a[0] = 1",
    "the value of a[1] and x[2]",
    "my_list[1], os.environ[2], self.rows[3], row2[4], myRows[5], f(x)[6], a[1][2]",
    "`items[1]` and ``a ` [2]``",
    "```python\nrows[1] = [2]\n```",
    "~~~\n[1]\n~~~",
    "```\n[1] and no end",
    "So:\n\n    rows [1]\n    more [2]\n\n",
    '[1](https://example.com/a) and [2](page.html "Title") and [3](https://e.com/(x))',
    "![1](image.png)",
    "a [label][1] of a reference",
    "\\[1\\] is escaped, and so is \\[2]",
    "[0], [0, 1], [007], [-1], [1.5], [1-1000], [3-1], [ ], [x], [], [1a]",
    "https://example.com/x?rows[1]=2",
    "[text] (1) {2} <3>",
]


@pytest.mark.parametrize(("text", "numbers"), FOUND.items())
def test_a_citation_is_found_as_people_and_models_write_it(text: str, numbers: list[int]) -> None:
    assert citing.cited(text) == numbers
    assert citing.check(text, set(numbers)) == citing.Checked(text, tuple(numbers))


@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_only_looks_like_one_is_left_alone(text: str) -> None:
    assert citing.cited(text) == []
    assert citing.check(text, set()) == citing.Checked(text)


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("So [7].", "So [7?]."),
        ("So [1, 7].", "So [1, 7?]."),
        ("So [1][7][2].", "So [1][7?][2]."),
        ("So [1-3].", "So [1, 2, 3?]."),
        ("So [7-9].", "So [7-9?]."),
        ("So [^7].", "So [^7?]."),
        ("So【7】.", "So【7?】."),
        ("So [7, p. 3].", "So [7?, p. 3]."),
        ("Copenhagen[7].", "Copenhagen[7?]."),
        ("`a[7]` [7]", "`a[7]` [7?]"),
    ],
)
def test_a_number_that_was_never_given_is_marked(text: str, marked: str) -> None:
    checked = citing.check(text, {1, 2})
    assert checked.text == marked
    assert checked.unknown
    assert not {1, 2} & set(checked.unknown)
    assert citing.check(marked, {1, 2}).text == marked, "what was marked is not marked again"


def test_a_mark_that_a_model_copies_stays_one_when_its_number_is_given_later() -> None:
    assert citing.check("As I said [7?].", {7}) == citing.Checked("As I said [7?].", (), (7,))


def test_a_year_is_no_citation_until_there_are_so_many_sources() -> None:
    assert citing.check("in [2024]", {1}) == citing.Checked("in [2024]")
    assert citing.check("in [2024]", {2024}).used == (2024,)


@given(st.text(alphabet="[]1290,-? `~\n()a_x.:^\\【】", max_size=200), st.sets(st.integers(1, 30)))
@settings(max_examples=400)
def test_checking_changes_nothing_but_marks_and_settles(text: str, numbers: set[int]) -> None:
    checked = citing.check(text, numbers)
    assert citing.check(text, {*numbers, *checked.unknown}).text == text or "?" in text
    assert citing.check(checked.text, numbers).text == checked.text
    assert set(checked.used) <= numbers
    assert not (set(checked.used) & set(checked.unknown)) or "?" in text


@pytest.mark.parametrize(
    "piece", ["[1", "`", "``` \n", "[1" + " " * 50, "1, ", "    x\n\n", "(", "a.", "]", "\\", "x("]
)
def test_a_long_hostile_answer_is_read_to_its_end(piece: str) -> None:
    text = "[" + piece * (200_000 // len(piece))  # an expression that tries all ways would not come back
    assert citing.check(text + "\n\n```\n```\n[9]", {1}).text[-4:] in {"[9?]", "\n[9]"}
