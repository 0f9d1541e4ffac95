"""What is hidden of the environment in a message, and what is not."""

from __future__ import annotations

import pytest

from cirkelline.tools import docstrings, failures


@pytest.mark.parametrize(
    ("environ", "text", "masked"),
    [
        ({"API_KEY": "abcdef"}, "key abcdef!", "key ***!"),
        ({"api_key": "abcdef"}, "key abcdef!", "key ***!"),
        ({"DATABASE_URL": "postgresql://u:secret@h/d"}, "to postgresql://u:secret@h/d", "to ***"),
        ({"DATABASE_URL": "postgresql://u:secret@h/d"}, 'password "secret" is wrong', 'password "***" is wrong'),
        ({"WEBHOOK": "https://u:p%23ss@h/"}, "p#ss and p%23ss", "*** and ***"),
        ({"A_TOKEN": "abc-def", "B_TOKEN": "abc-def-ghi"}, "abc-def-ghi", "***"),
        ({"HOME": "/home/ivo", "MAX_TOKENS": "1000"}, "1000 in /home/ivo", "1000 in /home/ivo"),
        ({"A_TOKEN": "", "B_SECRET": "abc"}, "abc", "abc"),
        ({"A_SECRET": "http://[broken"}, "http://[broken", "***"),
        ({"ADDRESS": "http://[broken"}, "http://[broken", "http://[broken"),
    ],
)
def test_values_of_variables_that_name_secrets_are_hidden(environ: dict[str, str], text: str, masked: str) -> None:
    assert failures.masked(text, environ) == masked


def test_a_docstring_may_be_missing_or_hold_only_sections() -> None:
    assert docstrings.describe(None).text == ""
    only = docstrings.describe(
        "Args:\n    a: One.\n\n        More of it.\n    b (int): Two: with a colon.\nReturns:\n    x: no"
    )
    assert (only.text, only.arguments) == ("", {"a": "One. More of it.", "b": "Two: with a colon."})
