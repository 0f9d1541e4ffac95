"""What holds for every command: help, examples, --json, suggestions, and what starting costs."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from command_runs import Commands

from cirkelline.runtime.cli import reference
from cirkelline.runtime.cli.commands.tasks import STATUSES
from cirkelline.runtime.cli.frame import Command
from cirkelline.runtime.cli.root import LAZY, SECTIONS, root
from cirkelline.state.tasks import TaskStatus

HEAVY = [
    "agno",
    "anyio",
    "asyncio",
    "google",
    "httpx",
    "httpx2",
    "openai",
    "pandas",
    "pgvector",
    "prompt_toolkit",
    "psutil",
    "psycopg",
    "psycopg_pool",
    "pydantic",
    "pydantic_settings",
    "rich",
    "sqlalchemy",
    "structlog",
    "watchfiles",
    "xllamacpp",
    "yaml",
]

EXPECTED = """
up chat doctor usage
agents validate|apply|list|show|history|rollback|retire|schema|search|pause|resume
tasks submit|list|show|wait|cancel|retry|approve|reject|answer|resolve|trace|replay|search
workflows run|list|show
schedules list|pause|resume|run
states list|show|diff|rollback
workers list|drain
sessions list|show|archive|export
knowledge add|list|search|show|remove|reindex
memories list|search|add|forget|undo|optimize|why|capture
users add|list|login|password|profile|adopt|deactivate|export|delete
models list|pull
db url|status|migrate|adopt|retention|stop
"""


def commands(group: click.Group = root, *path: str) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from commands(found, *path, name)
        else:
            yield (*path, name)


def find(path: tuple[str, ...]) -> click.Command:
    found: click.Command | None = root
    for name in path:
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), name)
    assert found is not None
    return found


COMMANDS = sorted(commands())
GROUPS = sorted({path[:1] for path in COMMANDS if len(path) > 1})


def imported_by(*arguments: str) -> set[str]:
    code = (
        "import sys, io\nfrom cirkelline.runtime.cli import entry\nstdout, sys.stdout = sys.stdout, io.StringIO()\n"
        f"code = entry.run({list(arguments)!r})\nsys.stdout = stdout\nassert code == 0, code\n"
        "import json; print(json.dumps(sorted(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(ran.stdout)}


def test_every_promised_command_is_there_and_no_other() -> None:
    promised: set[tuple[str, ...]] = set()
    for line in EXPECTED.split("\n"):
        first, _, rest = line.partition(" ")
        promised |= (
            {(first, name) for name in rest.split("|")}
            if "|" in rest or first == "workers"
            else {(name,) for name in line.split()}
        )
    assert set(COMMANDS) == promised


def test_help_of_the_whole_imports_nothing_heavy() -> None:
    assert imported_by("--help") & set(HEAVY) == set()


@pytest.mark.parametrize("group", GROUPS, ids=" ".join)
def test_help_of_a_group_imports_nothing_heavy(group: tuple[str, ...]) -> None:
    assert imported_by(*group, "--help") & set(HEAVY) == set()


def test_help_of_a_command_imports_nothing_heavy() -> None:
    assert imported_by("tasks", "submit", "--help") & set(HEAVY) == set()


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_usage_json_and_an_example_that_begins_with_this_command(
    path: tuple[str, ...], cirkelline: Commands
) -> None:
    result = cirkelline(*path, "--help")
    assert (result.code, result.err) == (0, "")
    assert f"Usage: cirkelline {' '.join(path)}" in result.out
    assert "--json" in result.out
    example = result.out.split("Example: ")[1]
    assert f"cirkelline {' '.join(path)}" in example


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_an_example_is_a_command_line_that_parses(path: tuple[str, ...]) -> None:
    command = find(path)
    assert isinstance(command, Command)
    words = command.example.removeprefix('psql "$(').removesuffix(')"').split(" > ")[0]
    arguments = shlex.split(words)
    assert arguments[: len(path) + 1] == ["cirkelline", *path]
    existing = ["." if argument.endswith("/") else argument for argument in arguments[len(path) + 1 :]]
    command.make_context(" ".join(path), existing)


@pytest.mark.parametrize("name", LAZY)
def test_the_listed_help_is_the_first_sentence_of_the_command(name: str) -> None:
    said = find((name,)).help or ""
    assert " ".join(said.split("\n\n")[0].split()) == LAZY[name].help


def test_every_listed_help_fits_on_one_line_of_a_terminal() -> None:
    assert {name: lazy.help for name, lazy in LAZY.items() if len(lazy.help) > 66} == {}


def test_every_command_stands_in_one_section() -> None:
    assert sorted(name for _, names in SECTIONS for name in names) == sorted(LAZY)


def test_the_statuses_to_filter_by_are_those_that_tasks_have() -> None:
    assert set(STATUSES) == {status.value for status in TaskStatus}


def test_the_reference_in_docs_is_what_the_parser_says() -> None:
    assert reference.PLACE.read_text(encoding="utf-8") == reference.reference(), "run `make docs`"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tasksx"], "no such command 'tasksx'; did you mean 'tasks'? (`cirkelline --help`)"),
        (["tasks", "submits"], "no such command 'submits'; did you mean 'submit'? (`cirkelline tasks --help`)"),
        (["tasks", "list", "--statsu", "x"], "no such option --statsu; did you mean '--status'?"),
        (["--versoin"], "no such option --versoin; did you mean '--version'?"),
        (["tasks", "list", "--status", "complete"], "'complete'"),
        (["tasks", "list", "--limit", "many"], "'many' is not a valid integer"),
        (["tasks", "list", "extra"], "unexpected extra argument"),
        (["tasks", "list", "--limit"], "requires an argument"),
        (["tasks", "show"], "missing argument 'TASK'"),
        (["zzz" * 5000], "no such command"),
        (["agents", "--bogus"], "no such option --bogus"),
        ([""], "no such command"),
    ],
)
def test_what_cannot_be_parsed_is_one_sentence_and_exit_code_2(
    arguments: list[str], said: str, cirkelline: Commands
) -> None:
    result = cirkelline(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert said in result.err


def test_a_usage_error_with_json_is_a_document_too(cirkelline: Commands) -> None:
    result = cirkelline("tasks", "list", "--limit", "0", "--json")
    assert result.code == 2
    assert result.document["error"]["type"] == "BadParameter"
    assert result.document["error"]["message"] in result.err


@pytest.mark.parametrize("path", [(), *GROUPS], ids=" ".join)
def test_a_group_alone_shows_its_commands_and_is_wrong_use(path: tuple[str, ...], cirkelline: Commands) -> None:
    result = cirkelline(*path)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"Usage: cirkelline {' '.join(path)}".rstrip())


def test_the_version_is_one_line(cirkelline: Commands) -> None:
    result = cirkelline("--version")
    assert result.code == 0
    assert result.out.startswith("cirkelline ")
    assert result.out.count("\n") == 1


def test_the_module_is_the_same_command() -> None:
    ran = subprocess.run([sys.executable, "-m", "cirkelline", "--version"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.split()[0]) == (0, "cirkelline")
