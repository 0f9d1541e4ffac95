"""Archiving a conversation and writing it down."""

from __future__ import annotations

from pathlib import Path

from command_runs import Commands, Filled


def test_an_archived_session_is_left_out_of_lists_until_it_is_taken_out_again(
    cirkelline: Commands, filled: Filled
) -> None:
    session = str(filled.session(filled.agent(), "ivo", "good morning"))
    ivo = ("--user", "ivo")
    assert f"sessions archive {session[:8]} --undo" in cirkelline("sessions", "archive", session[:8], *ivo).out
    assert cirkelline("sessions", "list", *ivo, "--json").document["sessions"] == []
    (put_away,) = cirkelline("sessions", "list", "--archived", *ivo, "--json").document["sessions"]
    assert (put_away["id"], put_away["status"], put_away["title"]) == (session, "archived", "good morning")
    assert "archived before" in cirkelline("sessions", "archive", session, *ivo).out
    assert "in use again" in cirkelline("sessions", "archive", session, "--undo", *ivo).out
    assert "is not archived" in cirkelline("sessions", "archive", session, "--undo", *ivo).out
    assert cirkelline("sessions", "list", "--archived", *ivo).out == "user ivo has no archived sessions\n"


def test_a_session_is_written_down_as_it_was_said(cirkelline: Commands, filled: Filled, tmp_path: Path) -> None:
    session = str(filled.session(filled.agent(), "ivo", "good morning", "what\nnow?"))
    printed = cirkelline("sessions", "export", session, "--user", "ivo").out
    assert printed.startswith("# good morning\n\nivo with helper, begun ")
    assert printed.count("\n## ivo, ") == printed.count("\n## helper, ") == 2
    assert "\n\nwhat\nnow?\n\n" in printed
    place = tmp_path / "talk.md"
    told = cirkelline("sessions", "export", session, "--user", "ivo", "--output", str(place))
    assert (told.code, place.read_text()) == (0, printed)
    assert str(place) in told.out
    assert place.stat().st_mode & 0o077 == 0
    document = cirkelline("sessions", "export", session, "--user", "ivo", "--json").document
    assert [each["content"] for each in document["messages"] if each["role"] == "user"] == [
        "good morning",
        "what\nnow?",
    ]


def test_a_file_that_is_there_is_never_written_over(cirkelline: Commands, filled: Filled, tmp_path: Path) -> None:
    session = str(filled.session(filled.agent(), "ivo", "hello"))
    there = tmp_path / "mine.txt"
    there.write_text("mine")
    for place, said in [
        (there, "is there already"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "x.md", "there is no folder"),
        (tmp_path / ("x" * 300), "cannot write"),
    ]:
        result = cirkelline("sessions", "export", session, "--user", "ivo", "--output", str(place))
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), (place, result)
        assert said in result.err
    assert there.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_another_users_session_is_neither_archived_nor_written_down(cirkelline: Commands, filled: Filled) -> None:
    session = str(filled.session(filled.agent(), "ivo", "a secret"))
    filled.session(filled.agent("other"), "eve")
    for command in ("archive", "export"):
        result = cirkelline("sessions", command, session, "--user", "eve")
        assert (result.code, result.out, "no session of this user" in result.err) == (2, "", True)
