"""Log lines are events for machines or for people, and hold no secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import structlog

from cirkelline.configs.settings import Settings
from cirkelline.runtime import logs

TASK = UUID("00000000-0000-0000-0000-00000000007a")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before, level
    structlog.reset_defaults()


def logged(stream: io.StringIO, environ: dict[str, str] | None = None, **settings: Any) -> Any:
    logs.configure(Settings(**settings), environ or {}, stream=stream)
    return structlog.get_logger()


def test_elsewhere_than_on_a_terminal_each_line_is_one_json_document() -> None:
    out = io.StringIO()
    logged(out).info("task.finished", task_id=TASK, ms=12, error=ValueError("no"))
    line = json.loads(out.getvalue())
    assert (line["event"], line["level"], line["task_id"], line["ms"], line["error"]) == (
        "task.finished",
        "info",
        str(TASK),
        12,
        "no",
    )
    assert line["timestamp"].endswith("Z")


def test_on_a_terminal_a_line_is_for_people() -> None:
    out = Terminal()
    logged(out, {"NO_COLOR": "1"}).warning("task.finished", status="failed", error="it said no")
    assert out.getvalue().split(" ", 1)[1] == "warning task.finished  status=failed  error='it said no'\n"


def test_the_form_can_be_chosen() -> None:
    out = Terminal()
    logged(out, log_format="json").info("up")
    assert json.loads(out.getvalue())["event"] == "up"


def test_nothing_below_the_level_is_shown() -> None:
    out = io.StringIO()
    log = logged(out, log_level="warning")
    log.info("quiet")
    log.warning("loud")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["loud"]


SECRET = "correct-horse-battery"
LEAKS: dict[str, dict[str, Any]] = {
    "the value of a variable named like a secret": {"error": f"the server said: bad key {SECRET}!"},
    "inside lists and mappings": {"facts": {"headers": [{"x": f"Bearer {SECRET}"}]}},
    "a field named like one": {"api_key": "anything at all"},
    "the form of a known service's key": {"error": "sk-abcdefghijklmnop is not valid"},
    "a password in a URL": {"database": "at postgresql://ivo:anything@host/db"},
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("form", ["json", "pretty"])
def test_secrets_are_masked(leak: str, form: str) -> None:
    out = io.StringIO()
    logged(out, {"BANK_API_KEY": SECRET}, log_format=form).info("event", **LEAKS[leak])
    for secret in (SECRET, "anything", "abcdefghijklmnop"):
        assert secret not in out.getvalue()
    assert "***" in out.getvalue()


def test_a_secret_in_a_traceback_is_masked() -> None:
    out = io.StringIO()
    log = logged(out, {"BANK_API_KEY": SECRET})
    try:
        int(SECRET)
    except ValueError:
        log.exception("broke")
    assert "invalid literal for int() with base 10: '***'" in json.loads(out.getvalue())["exception"]


def test_libraries_that_log_in_the_standard_way_take_the_same_form() -> None:
    out = io.StringIO()
    logged(out, {"BANK_API_KEY": SECRET})
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("discarding %s", SECRET)
    (line,) = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (line["event"], line["level"]) == ("discarding ***", "warning")


def test_what_a_model_or_a_user_says_cannot_move_the_readers_cursor() -> None:
    out = Terminal()
    logged(out, {"NO_COLOR": "1"}).info("said", text="a\x1b[2Jb\nc\x07")
    assert "\x1b" not in out.getvalue()
    assert "\x07" not in out.getvalue()
    assert out.getvalue().count("\n") == 1
