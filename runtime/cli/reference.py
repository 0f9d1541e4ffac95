"""docs/commands.md, made from the parser: `python -m cirkelline.runtime.cli.reference` writes it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from cirkelline.runtime.cli.frame import Command
from cirkelline.runtime.cli.root import SECTIONS, root

PLACE: Final = Path(__file__).resolve().parents[2] / "docs" / "commands.md"

_HEAD: Final = """\
# Commands

Made from the parser by `make docs`; `cirkelline COMMAND --help` says the same.

Every command takes `--json`: it then prints one JSON document on stdout and nothing else. What went wrong is one
sentence on stderr, with and without `--json`; with it, a command that has nothing else to answer also prints
`{"error": {"type": …, "message": …}}`. Notes, warnings, progress and logs are on stderr. Names of agents and ids of tasks
and sessions may be given as `list` shows them: an id's first digits are enough.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: the task, a check of `doctor`, the database |
| 2 | wrong use: an unknown option, a name that does not exist, an agent file with a problem; nothing was changed |
| 3 | not finished in time |
| 4 | waits for a decision |
| 130 | interrupted with Ctrl-C |

`CIRKELLINE_DEBUG=1` shows the traceback behind an error, and `NO_COLOR=1` turns colors off. Tab completion:
`eval "$(_CIRKELLINE_COMPLETE=bash_source cirkelline)"` (or `zsh_source`, `fish_source`).
"""


def reference() -> str:
    """Return the whole reference as Markdown."""
    context = click.Context(root, info_name="cirkelline")
    parts = [_HEAD]
    for title, names in SECTIONS:
        parts.append(f"## {title}\n")
        for name in names:
            command = root.get_command(context, name)
            if command is not None:
                parts += _described(command, click.Context(command, parent=context, info_name=name))
    return "\n".join(parts)


def _described(command: click.Command, context: click.Context) -> Iterator[str]:
    if isinstance(command, click.Group):
        yield f"### `{context.command_path}`\n\n{_help(command)}\n"
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _described(inner, click.Context(inner, parent=context, info_name=name))
        return
    level = "####" if context.parent and context.parent.parent else "###"
    yield f"{level} `{context.command_path}`\n"
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    example = f"\n\n# for example\n{command.example}" if isinstance(command, Command) else ""
    yield f"```sh\n{usage}{example}\n```\n\n{_help(command)}\n"
    yield from _options(command, context)


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "")


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    options = [each for each in command.params if isinstance(each, click.Option) and each.name != "as_json"]
    records = [option.get_help_record(context) for option in options]
    rows = [_row(name, text) for name, text in filter(None, records)]
    if rows:
        yield "| option | |\n|---|---|\n" + "\n".join(rows) + "\n"


def _row(name: str, text: str) -> str:
    bar = r"\|"  # alone it would end the cell, also inside code
    return f"| `{name.replace('|', bar)}` | {text.replace('  [', ' [').replace('|', bar)} |"


if __name__ == "__main__":
    PLACE.write_text(reference(), encoding="utf-8")
    sys.stdout.write(f"wrote {PLACE}\n")
