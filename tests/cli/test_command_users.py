"""Users at the command line: logins, tokens, profiles, and other programs' rows."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import subprocess
import sys
from uuid import UUID

import pytest
from command_runs import Commands, Filled

from cirkelline.runtime.accounts import LoginRefused
from cirkelline.runtime.api import Runtime

EMAIL = "ivo@example.com"
PASSWORD = "correct horse"
STDIN = PASSWORD.encode() + b"\n"


@pytest.fixture
def ivo(cirkelline: Commands, filled: Filled) -> str:
    """A user with a login."""
    del filled
    assert cirkelline("users", "add", EMAIL, stdin=STDIN).code == 0
    return EMAIL


def test_a_password_becomes_a_token_and_that_a_user(cirkelline: Commands, filled: Filled, ivo: str) -> None:
    ((kept,),) = filled.sql("SELECT hashed_password FROM public.users")
    assert kept.startswith("$2b$")
    result = cirkelline("users", "login", ivo, stdin=STDIN)
    assert result.code == 0
    token = result.out.strip()
    ((stored,),) = filled.sql("SELECT auth_token FROM runtime.users")
    assert token not in stored
    assert PASSWORD not in result.err

    async def who(given: str) -> str | None:
        async with Runtime.open() as runtime:
            return (await runtime.user(given)).email

    assert asyncio.run(who(token)) == EMAIL
    with pytest.raises(LoginRefused):
        asyncio.run(who(token + "x"))
    (user,) = cirkelline("users", "list", "--json").document["users"]
    assert (user["email"], user["login"], user["active"], user["last_login"] is not None) == (EMAIL, True, True, True)


def test_another_password_ends_the_old_one_the_token_and_what_was_mistyped(
    cirkelline: Commands, filled: Filled, ivo: str
) -> None:
    cirkelline("users", "login", ivo, stdin=STDIN)
    for _ in range(5):
        cirkelline("users", "login", ivo, stdin=b"wrong password\n")
    changed = cirkelline("users", "password", ivo, stdin=b"battery staple\n")
    assert (changed.code, changed.err, f"{EMAIL} logs in with the new password" in changed.out) == (0, "", True)
    assert filled.sql("SELECT auth_token FROM runtime.users") == [(None,)]
    assert cirkelline("users", "login", ivo, stdin=STDIN).code == 1
    assert cirkelline("users", "login", ivo, stdin=b"battery staple\n").code == 0


def test_another_password_is_refused_in_one_sentence(cirkelline: Commands, filled: Filled, ivo: str) -> None:
    before = filled.sql("SELECT hashed_password FROM public.users")
    for user, stdin, said in ((ivo, b"short\n", "too short"), ("zoe", STDIN, "zoe has no login")):
        refused = cirkelline("users", "password", user, stdin=stdin)
        assert (refused.code, said in refused.err, refused.err.count("\n")) == (2, True, 1)
    assert filled.sql("SELECT hashed_password FROM public.users") == before


def test_a_wrong_password_and_an_unknown_email_are_refused_alike_and_not_for_ever(
    cirkelline: Commands, filled: Filled, ivo: str
) -> None:
    del filled
    wrong = cirkelline("users", "login", ivo, stdin=b"wrong password\n")
    unknown = cirkelline("users", "login", "zoe@example.com", stdin=b"wrong password\n")
    assert (
        (wrong.code, wrong.err)
        == (unknown.code, unknown.err)
        == (1, "error: that email and password do not belong together\n")
    )
    for _ in range(4):
        assert cirkelline("users", "login", ivo, stdin=b"wrong password\n").code == 1
    right = cirkelline("users", "login", ivo, stdin=STDIN)
    assert (right.code, right.out) == (1, "")
    assert "too many passwords" in right.err
    assert "wait 15 minutes" in right.err


@pytest.mark.parametrize(
    ("stdin", "said"),
    [
        (b"", "no password was given"),
        (b"\n", "no password was given"),
        (b"short\n", "too short"),
        (b"x" * 73, "73 bytes"),
        ("ø".encode() * 37, "74 bytes"),
        (b"null\x00null", "NUL"),
        (b"\xff" * 10, "not UTF-8"),
    ],
)
def test_a_password_that_cannot_be_one_is_refused_and_makes_nobody(
    cirkelline: Commands, filled: Filled, stdin: bytes, said: str
) -> None:
    result = cirkelline("users", "add", EMAIL, stdin=stdin)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert filled.sql("SELECT 1 FROM runtime.users") == filled.sql("SELECT 1 FROM public.users") == []


def test_a_password_of_72_bytes_is_read_to_its_end(cirkelline: Commands, filled: Filled) -> None:
    del filled
    assert cirkelline("users", "add", "eva", stdin=b"x" * 72).code == 0
    assert cirkelline("users", "login", "eva", stdin=b"x" * 71 + b"y").code == 1
    assert cirkelline("users", "login", "eva", stdin=b"x" * 72).code == 0


def test_a_login_is_given_once(cirkelline: Commands, filled: Filled, ivo: str) -> None:
    again = cirkelline("users", "add", ivo, stdin=b"another password\n")
    assert (again.code, "has a login already" in again.err) == (1, True)
    assert len(filled.sql("SELECT 1 FROM public.users")) == 1
    assert cirkelline("users", "login", ivo, stdin=STDIN).code == 0


def test_a_login_that_another_program_made_is_one(cirkelline: Commands, filled: Filled) -> None:
    import bcrypt  # noqa: PLC0415 - as another program would

    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    filled.sql("INSERT INTO public.users (email, hashed_password) VALUES (%s, %s), ('eva@x', 'plain')", EMAIL, hashed)
    listed = cirkelline("users", "list", "--json").document["users"]
    assert [(user["id"], user["email"], user["login"]) for user in listed] == [
        (None, "eva@x", True),
        (None, EMAIL, True),
    ]
    assert cirkelline("users", "login", EMAIL, stdin=STDIN).code == 0
    assert filled.sql("SELECT account FROM runtime.users") == filled.sql(
        "SELECT id FROM public.users WHERE email = %s", EMAIL
    )
    assert cirkelline("users", "login", "eva@x", stdin=b"plain\n").code == 1  # what stands there is no hash


def test_for_whoever_was_switched_off_nothing_is_done(cirkelline: Commands, filled: Filled, ivo: str) -> None:
    filled.agent()
    filled.sql("UPDATE public.users SET is_active = FALSE")
    login = cirkelline("users", "login", ivo, stdin=STDIN)
    assert (login.code, login.out, "switched off" in login.err) == (1, "", True)
    for arguments in (
        ("chat", "helper", "--user", ivo),
        ("sessions", "list", "--user", ivo),
        ("tasks", "list", "--user", ivo),
        ("tasks", "submit", "helper", "hello", "--user", ivo),
        ("workflows", "list", "--user", ivo),
        ("usage", "--user", ivo),
    ):
        result = cirkelline(*arguments)
        assert (result.code, "switched off" in result.err) == (1, True), arguments
    assert "switched off" in cirkelline("users", "list").out
    assert filled.sql("SELECT 1 FROM runtime.tasks") == []


def test_a_password_is_asked_for_without_showing_it(filled: Filled) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cirkelline", "users", "add", EMAIL]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as running:
        os.close(theirs)
        shown = b""
        for prompt in (b"Password: ", b"Once more: "):
            while prompt not in shown:
                ready, _, _ = select.select([ours], [], [], 60)
                assert ready, shown
                shown += os.read(ours, 1000)
            os.write(ours, STDIN)
        assert running.wait(60) == 0
        shown += os.read(ours, 1000)
    os.close(ours)
    assert PASSWORD.encode() not in shown
    assert filled.sql("SELECT email FROM public.users") == [(EMAIL,)]


# Profiles -------------------------------------------------------------------------------------------------------------


def test_a_profile_is_set_field_by_field_and_shown(cirkelline: Commands, filled: Filled, ivo: str) -> None:
    empty = cirkelline("users", "profile", ivo)
    assert "told nothing" in empty.out
    cirkelline("users", "profile", ivo, "--name", "Ivo", "--role", "accountant", "--preferences", '{"tone": "dry"}')
    shown = cirkelline("users", "profile", ivo, "--role", "", "--instructions", "Be brief.", "--json").document
    assert shown["profile"] == {
        "name": "Ivo",
        "role": None,
        "context": None,
        "preferences": {"tone": "dry"},
        "custom_instructions": "Be brief.",
    }
    assert len(filled.sql("SELECT 1 FROM public.admin_profiles")) == 1


def test_a_profile_that_does_not_fit_or_has_no_login_is_refused(cirkelline: Commands, filled: Filled, ivo: str) -> None:
    filled.session(filled.agent(), "eva")
    for arguments, said in (
        (("eva", "--name", "Eva"), "users add"),
        (("zoe", "--name", "Zoe"), "no user 'zoe'"),
        ((ivo, "--role", "x" * 101), "at most 100 characters"),
        ((ivo, "--preferences", "{"), "the preferences"),
    ):
        result = cirkelline("users", "profile", *arguments)
        assert (result.code, said in result.err) == (2, True), result.err
    assert filled.sql("SELECT 1 FROM public.admin_profiles") == []


# Other programs' rows -------------------------------------------------------------------------------------------------

THEIRS = """
INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES
    (gen_random_uuid(), 'user-123', 'tea'), (gen_random_uuid(), 'user-123', 'cats'), (gen_random_uuid(), 'user-9', 'x')
"""


def test_adopting_says_what_becomes_whose_and_can_be_undone(cirkelline: Commands, filled: Filled, ivo: str) -> None:
    filled.sql(THEIRS)
    unowned = cirkelline("users", "adopt", "--list", "--json").document["unowned"]
    assert [(each["owner"], each["rows"]) for each in unowned] == [("user-123", 2), ("user-9", 1)]
    adopted = cirkelline("users", "adopt", "user-123", "--as", ivo)
    assert adopted.out == f"user-123 is {EMAIL} now: 2 rows (2 of ai.agno_memories) became theirs\n"
    assert "user-123" in cirkelline("users", "list").out
    assert len(cirkelline("users", "adopt", "--list", "--json").document["unowned"]) == 1
    assert cirkelline("users", "adopt", "user-123", "--undo").code == 0
    assert len(cirkelline("users", "adopt", "--list", "--json").document["unowned"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cirkelline:shared", "--as", EMAIL), "everybody may read"),
        (("user-123", "--as", "zoe"), "no user 'zoe'"),
        (("user-123",), "give OWNER --as USER"),
        (("user-123", "--as", EMAIL, "--undo"), "give OWNER --as USER"),
        (("--list", "--as", EMAIL), "give OWNER --as USER"),
        (("user-123", "--undo"), "adopted as nobody"),
    ],
)
def test_what_cannot_be_adopted_is_refused(
    cirkelline: Commands, filled: Filled, ivo: str, arguments: tuple[str, ...], said: str
) -> None:
    del ivo
    result = cirkelline("users", "adopt", *arguments)
    assert (result.code, result.out, said in result.err) == (2, "", True), result.err
    assert filled.sql("SELECT 1 FROM runtime.user_aliases") == []


def test_doctor_counts_what_belongs_to_nobody_and_says_the_remedy(
    cirkelline: Commands, filled: Filled, ivo: str
) -> None:
    filled.sql(THEIRS)
    filled.sql("INSERT INTO ai.agno_knowledge (name) VALUES ('nobodys')")
    document = cirkelline("doctor", "--json").document
    named, nameless = [check for check in document["checks"] if check["topic"] == "owners"]
    assert named["says"] == "3 rows of ai.agno_memories with owners that are nobody: 'user-123', 'user-9'"
    assert "users adopt OWNER --as USER" in named["remedy"]
    assert nameless["says"] == "1 row of ai.agno_knowledge without a user_id, which nobody sees"
    assert "isolation" in {check["topic"] for check in document["checks"] if check["verdict"] == "fine"}
    cirkelline("users", "adopt", "user-123", "--as", ivo)
    (named, _) = [check for check in cirkelline("doctor", "--json").document["checks"] if check["topic"] == "owners"]
    assert named["says"].startswith("1 row ")


# --user ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def theirs(filled: Filled) -> tuple[UUID, str]:
    """A task of eva's that has ended, with a step on record, and a run of a workflow of hers."""
    agent = filled.agent()
    session = filled.session(agent, "eva", "the secret word is xyzzy")
    ((task,),) = filled.sql("SELECT id FROM runtime.tasks WHERE session_id = %s", session)
    filled.sql(
        "INSERT INTO runtime.journal (task_id, position, call, attempt, format, kind, name, output)"
        " VALUES (%s, 0, -1, 1, 1, 'context', 'helper', '{\"secret\": \"xyzzy\"}')",
        task,
    )
    ((eva,),) = filled.sql("SELECT id::text FROM runtime.users")
    filled.sql(
        "INSERT INTO ai.workflow_runs (run_id, workflow_name, status, user_id, input_data)"
        " VALUES ('night-7', 'nightly', 'ODD', %s, '\"xyzzy\"')",
        eva,
    )
    filled.session(agent, "ivo", "hello")
    return task, eva


OF_ONE = [
    ("tasks", "show", "TASK"),
    ("tasks", "wait", "TASK"),
    ("tasks", "cancel", "TASK"),
    ("tasks", "retry", "TASK"),
    ("tasks", "approve", "TASK"),
    ("tasks", "reject", "TASK"),
    ("tasks", "answer", "TASK", "yes"),
    ("tasks", "resolve", "TASK", "--retry"),
    ("tasks", "trace", "TASK"),
    ("tasks", "trace", "TASK", "--prompt"),
    ("tasks", "replay", "TASK"),
    ("workflows", "show", "night-7"),
]


def test_with_a_user_what_is_somebody_elses_is_not_there(
    cirkelline: Commands, filled: Filled, theirs: tuple[UUID, str]
) -> None:
    task, _ = theirs
    before = filled.sql("SELECT * FROM runtime.tasks ORDER BY id")
    for arguments in OF_ONE:
        given = [str(task) if each == "TASK" else each for each in arguments]
        result = cirkelline(*given, "--user", "ivo")
        nowhere = [
            str(UUID(int=7)) if each == "TASK" else "night-8" if each == "night-7" else each for each in arguments
        ]
        absent = cirkelline(*nowhere, "--user", "ivo")
        assert (result.code, result.out) == (absent.code, absent.out) == (2, ""), arguments
        # In the same words as for what is nowhere.
        assert result.err.replace(str(task), "") == absent.err.replace(str(UUID(int=7)), "").replace(
            "night-8", "night-7"
        )
    assert filled.sql("SELECT * FROM runtime.tasks ORDER BY id") == before
    assert "xyzzy" in cirkelline("tasks", "show", str(task), "--user", "eva").out
    assert "xyzzy" in cirkelline("tasks", "trace", str(task), "--user", "eva", "--json").out
    assert "night-7" in cirkelline("workflows", "show", "night-7", "--user", "eva").out


def test_with_a_user_lists_hold_that_users_alone_and_without_all(
    cirkelline: Commands, filled: Filled, theirs: tuple[UUID, str]
) -> None:
    del filled
    task, eva = theirs
    assert [each["id"] for each in cirkelline("tasks", "list", "--user", "eva", "--json").document["tasks"]] == [
        str(task)
    ]
    assert {each["user_id"] for each in cirkelline("tasks", "list", "--json").document["tasks"]} > {eva}
    for arguments in (
        ("tasks", "list"),
        ("tasks", "search", "secret"),
        ("workflows", "list"),
        ("usage", "--by", "user"),
    ):
        assert "xyzzy" not in cirkelline(*arguments, "--user", "ivo", "--json").out
        assert eva not in cirkelline(*arguments, "--user", "ivo", "--json").out
    assert "xyzzy" in cirkelline("tasks", "search", "secret", "--user", "eva").out
    assert "night-7" in cirkelline("workflows", "list", "--user", "eva").out


def test_a_task_can_be_given_on_a_users_behalf(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    given = cirkelline("tasks", "submit", "helper", "hello", "--user", "eva", "--json").document
    assert filled.sql("SELECT user_id, email FROM runtime.tasks t JOIN runtime.users u ON u.id = t.user_id") == [
        (UUID(given["user_id"]), "eva@localhost")
    ]
