"""Commands and groups as this command line has them: each with an example and --json, groups loaded when they are used."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import click

from cirkelline.runtime.cli.answers import Work

_CONTEXT: MutableMapping[str, Any] = {"help_option_names": ["-h", "--help"]}
_LONGEST_WORD = 64  # difflib is quadratic, and nobody mistypes a longer command
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed command, ready to run; one that `owns_stdout` writes there while it runs."""

    work: Work
    owns_stdout: bool


class Command(click.Command):
    """A command with an example in its help and --json among its options; its function returns the work to do."""

    def __init__(self, name: str | None = None, *, example: str, owns_stdout: bool = False, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.context_settings = _CONTEXT
        self.example = example
        self.owns_stdout = owns_stdout
        self.params.append(
            click.Option(
                ["--json", "as_json"],
                is_flag=True,
                expose_value=False,
                callback=_remember_json,
                help="Print one JSON document and nothing else on stdout.",
            )
        )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example as it is to be typed, never wrapped."""
        del ctx
        formatter.write(f"\nExample: {self.example}\n")

    def invoke(self, ctx: click.Context) -> Call:
        """Return the work; it begins only after all of the command line is parsed."""
        return Call(super().invoke(ctx), self.owns_stdout)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options, turning a mistyped one into a question."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = [
                name for parameter in self.get_params(ctx) for name in (*parameter.opts, *parameter.secondary_opts)
            ]
            _refuse(f"no such option {error.option_name}", error.option_name, known, ctx)


def _remember_json(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    ctx.meta["cirkelline.json"] = value


def as_json(ctx: click.Context) -> bool:
    """Whether the command was asked for JSON."""
    return bool(ctx.meta.get("cirkelline.json"))


def command(name: str, *, example: str, owns_stdout: bool = False) -> Callable[[Callable[..., Work]], Command]:
    """Make a function a command; its docstring is the help.

    What it answers is all that reaches stdout, unless it `owns_stdout` and writes there itself.
    """

    def make(function: Callable[..., Work]) -> Command:
        return click.command(name, cls=Command, example=example, owns_stdout=owns_stdout)(function)

    return make


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that is imported when it is used; `help` is its first sentence, so that listing it imports nothing."""

    module: str
    help: str

    def load(self) -> click.Command:
        """Import the module and return its `command`."""
        loaded: click.Command = importlib.import_module(self.module).command
        return loaded


class Group(click.Group):
    """A group of commands; `lazy` ones are listed in sections without being imported."""

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, Lazy] | None = None,
        sections: Sequence[tuple[str, Sequence[str]]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, context_settings=_CONTEXT, **kwargs)
        self._lazy = lazy or {}
        self._sections = sections

    def add(self, name: str, *, example: str) -> Callable[[Callable[..., Work]], Command]:
        """Make a function a command of this group."""

        def make(function: Callable[..., Work]) -> Command:
            made = command(name, example=example)(function)
            self.add_command(made)
            return made

        return make

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order they were declared, which is the order of use."""
        del ctx
        return [*self._lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing it if need be."""
        lazy = self._lazy.get(cmd_name)
        return lazy.load() if lazy else super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments begin with, turning a mistyped one into a question."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            _refuse(f"no such command '{args[0]}'", args[0], known, ctx)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the group's own options, turning a mistyped one into a question."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = [name for parameter in self.get_params(ctx) for name in parameter.opts]
            _refuse(f"no such option {error.option_name}", error.option_name, known, ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, in sections where there are any, without importing one."""
        if not self._sections:
            return super().format_commands(ctx, formatter)
        for title, names in self._sections:
            with formatter.section(title):
                formatter.write_dl([(name, self._lazy[name].help) for name in names])
        return None


def _refuse(problem: str, word: str, known: Sequence[str], ctx: click.Context) -> NoReturn:
    close = difflib.get_close_matches(word, known, n=1) if len(word) <= _LONGEST_WORD else []
    raise click.UsageError(problem + (f"; did you mean '{close[0]}'?" if close else ""), ctx)
