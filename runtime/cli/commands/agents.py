"""`cirkelline agents`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group
from cirkelline.runtime.cli.parameters import FILE_OR_FOLDER, FOLDER, NAME, VERSION

_paths: Final = click.argument("paths", nargs=-1, type=FILE_OR_FOLDER)
_tools: Final = click.option(
    "--tools", type=FOLDER, help="Folder of the agents' Python tools; by default `tools` beside the agent files."
)


@click.group("agents", cls=Group)
def command() -> None:
    """Check, apply and look at agents and their versions."""


@command.add("validate", example="cirkelline agents validate configs/")
@_paths
@_tools
def validate(paths: tuple[Path, ...], tools: Path | None) -> Work:
    """Check agent files and report everything that is wrong with them.

    PATHS are files or folders; by default $CIRKELLINE_CONFIGS, or ./configs. Every problem of every file is one line,
    `file:line:column: what is wrong`, on stderr. No database is needed. Exit code 2 if there is any problem.
    """
    from cirkelline.runtime.cli.actions import definitions

    return definitions.validate(paths, tools)


@command.add("apply", example="cirkelline agents apply configs/ --dry-run")
@_paths
@_tools
@click.option("--dry-run", is_flag=True, help="Show what would change and change nothing.")
@click.option("--prune", is_flag=True, help="Retire the agents that came from these files and are in none any more.")
@click.option("--resolve-auto", is_flag=True, help="Ask anew what `model: auto` stands for, also where it has a model.")
def apply(paths: tuple[Path, ...], tools: Path | None, dry_run: bool, prune: bool, resolve_auto: bool) -> Work:
    """Take agents from files into the database.

    Each changed definition becomes a new version; running tasks keep theirs. `model: auto` is resolved now, once. If
    any file has a problem, nothing is changed. A file whose content is an older version never replaces a newer one.
    """
    from cirkelline.runtime.cli.actions import definitions

    return definitions.apply(paths, tools, definitions.Options(dry_run=dry_run, prune=prune, resolve_auto=resolve_auto))


@command.add("list", example="cirkelline agents list --json")
@click.option("--all", "everything", is_flag=True, help="Retired agents too.")
def list_agents(everything: bool) -> Work:
    """List the agents: what they are doing, or what keeps them from doing anything."""
    from cirkelline.runtime.cli.actions import agents

    return agents.find(everything=everything)


@command.add("show", example="cirkelline agents show assistant")
@click.argument("agent", type=NAME)
def show(agent: str) -> Work:
    """Show one agent: its model, tools, limits, version and state."""
    from cirkelline.runtime.cli.actions import agents

    return agents.show(agent)


@command.add("search", example="cirkelline agents search research")
@click.argument("words", nargs=-1, required=True, type=NAME)
def search(words: tuple[str, ...]) -> Work:
    """List the agents whose name holds every one of the words, or words that begin so."""
    from cirkelline.runtime.cli.actions import agents

    return agents.search(" ".join(words))


@command.add("history", example="cirkelline agents history assistant")
@click.argument("agent", type=NAME)
def history(agent: str) -> Work:
    """List the versions of an agent's definition, newest first."""
    from cirkelline.runtime.cli.actions import agents

    return agents.history(agent)


@command.add("rollback", example="cirkelline agents rollback assistant 3")
@click.argument("agent", type=NAME)
@click.argument("version", type=VERSION)
def rollback(agent: str, version: int) -> Work:
    """Make an older version of an agent's definition the current one.

    Running tasks keep the version they started with. A file with the replaced content does not bring it back.
    """
    from cirkelline.runtime.cli.actions import agents

    return agents.roll_back(agent, version)


@command.add("pause", example="cirkelline agents pause assistant")
@click.argument("agent", type=NAME)
def pause(agent: str) -> Work:
    """Let an agent begin no more tasks; those that run go on, the others wait in line."""
    from cirkelline.runtime.cli.actions import agents

    return agents.set_status(agent, "paused")


@command.add("resume", example="cirkelline agents resume assistant")
@click.argument("agent", type=NAME)
def resume(agent: str) -> Work:
    """Let a paused or retired agent take tasks again."""
    from cirkelline.runtime.cli.actions import agents

    return agents.set_status(agent, "idle")


@command.add("retire", example="cirkelline agents retire assistant")
@click.argument("agent", type=NAME)
def retire(agent: str) -> Work:
    """Take an agent out of service; its tasks, states and versions are kept."""
    from cirkelline.runtime.cli.actions import agents

    return agents.set_status(agent, "retired")


@command.add("schema", example="cirkelline agents schema > agent.schema.json")
def schema() -> Work:
    """Print the JSON Schema of an agent file, with which editors check and complete it."""
    from cirkelline.runtime.cli.actions import definitions

    return definitions.schema()
