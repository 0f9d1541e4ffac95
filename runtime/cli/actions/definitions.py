"""Checking agent files and applying them to the database."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cirkelline.agents import models
from cirkelline.configs import effects as words
from cirkelline.configs import json_schema, loading
from cirkelline.configs.effects import Effects
from cirkelline.configs.errors import UsageError
from cirkelline.configs.loading import Loaded, Problem
from cirkelline.configs.schema import ModelSpec
from cirkelline.runtime import applying, composition
from cirkelline.runtime.applying import Action, Applied, Plan, PlanItem
from cirkelline.runtime.cli import console, display, failures, opening
from cirkelline.runtime.cli.answers import Answer, Block, Table, Text, Tone
from cirkelline.tools.contract import Tool
from cirkelline.tools.toolbox import Toolbox

_CRASH: Final = ("agent", "tool", "effects", "after a crash")


class NoDefinitions(UsageError):
    """There is no agent file to work on."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `agents apply` was asked for besides the files."""

    dry_run: bool = False
    prune: bool = False
    resolve_auto: bool = False


async def validate(paths: Sequence[Path], tools: Path | None) -> Answer:
    """Check files and folders without a database; every problem of every file goes to stderr, one line each."""
    chosen = _chosen(paths)
    loaded = await _checked(chosen, tools)
    used = {} if loaded.problems else await asyncio.to_thread(_tools, loaded, _toolbox(chosen, tools))
    names = [definition.spec.name for definition in loaded.definitions]
    document = {
        "valid": not loaded.problems,
        "agents": [
            {
                "name": each.spec.name,
                "file": each.path,
                "line": each.line,
                "tools": [_tool(tool) for tool in used.get(each.spec.name, ())],
            }
            for each in loaded.definitions
        ],
        "problems": _problems(loaded.problems),
    }
    if loaded.problems:
        return _refused(loaded.problems, document, "")
    files = len({definition.path for definition in loaded.definitions})
    summary = f"{display.count(len(names), 'agent')} in {display.count(files, 'file')}, all valid: {', '.join(names)}"
    rows = [
        (name, tool.name, tool.effects.value, words.after_a_crash(tool.effects, tool.on_unknown))
        for name, tools_of_one in used.items()
        for tool in tools_of_one
    ]
    table = [Text("A tool that was running when its process died:", apart=True), Table(_CRASH, rows, "")]
    asked = [f"{tool.name} of {name}" for name, of_one in used.items() for tool in of_one if tool.approval]
    approvals = [Text(f"Every call waits for a person's approval: {', '.join(asked)}", apart=True)] if asked else []
    return Answer(document, [Text(summary), *(table if rows else ()), *approvals])


def _tools(loaded: Loaded, toolbox: Toolbox) -> dict[str, list[Tool]]:
    return {each.spec.name: [toolbox.resolve(tool) for tool in each.spec.tools] for each in loaded.definitions}


def _tool(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "effects": tool.effects.value,
        "on_unknown": tool.on_unknown.value if tool.effects is Effects.ONCE else None,
        "after_a_crash": words.after_a_crash(tool.effects, tool.on_unknown),
        "approval": tool.approval,
        "approve_within": tool.approve_within,
    }


async def apply(paths: Sequence[Path], tools: Path | None, options: Options) -> Answer:
    """Show what would change and change it in one transaction; nothing at all when any file has a problem."""
    scope = _chosen(paths)
    loaded = await _checked(scope, tools)
    if loaded.problems:
        return _not_applied(loaded.problems)
    async with opening.database(migrate=not options.dry_run) as opened:
        again = options.resolve_auto
        plan = await applying.plan(opened.db, loaded, os.environ, resolve_auto=True, resolve_again=again, scope=scope)
        if plan.problems:  # a model that `auto` finds nowhere is known only now
            return _not_applied(plan.problems)
        done = [] if options.dry_run else await applying.apply(opened.db, plan, prune=options.prune)
    _warn_unservable(plan)
    return _applied(plan, done, options)


def _chosen(paths: Sequence[Path]) -> list[Path]:
    if paths:
        return list(paths)
    folder = composition.configs_folder(opening.settings(), None)
    if folder is None:
        raise NoDefinitions(
            "there are no agent files here: name files or folders, set CIRKELLINE_CONFIGS, or put them into ./configs"
        )
    return [folder]


async def _checked(paths: Sequence[Path], tools: Path | None) -> Loaded:
    toolbox = _toolbox(paths, tools)
    loaded = await asyncio.to_thread(loading.load, paths, os.environ)
    if not loaded.definitions and not loaded.problems:
        raise NoDefinitions(f"no agent file (*.yaml, *.yml) in {', '.join(map(str, paths))}: nothing to check")
    return await asyncio.to_thread(applying.check, loaded, toolbox, os.environ)


def _toolbox(paths: Sequence[Path], tools: Path | None) -> Toolbox:
    return Toolbox(composition.tools_folder(_folder_of(paths[0]), tools), opening.settings().tool_modules)


def _folder_of(path: Path) -> Path:
    return (path if os.path.isdir(path) else path.parent).absolute()  # noqa: PTH112 - Path.is_dir raises for a long name


def _problems(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    return [
        {"file": problem.path, "line": problem.line, "column": problem.column, "message": problem.message}
        for problem in problems
    ]


def _refused(problems: Sequence[Problem], document: object, consequence: str) -> Answer:
    for problem in problems:
        console.note(str(problem))
    files = len({problem.path for problem in problems})
    complaint = f"{display.count(len(problems), 'problem')} in {display.count(files, 'file')}{consequence}"
    return Answer(document, exit_code=failures.WRONG_USE, complaint=complaint)


def _not_applied(problems: Sequence[Problem]) -> Answer:
    document = {"applied": False, "agents": [], "problems": _problems(problems)}
    return _refused(problems, document, "; nothing was changed")


def _applied(plan: Plan, done: Sequence[Applied], options: Options) -> Answer:
    versions = {applied.name: applied.version for applied in done}
    retired = [applied.name for applied in done if applied.action is None]
    document = {
        "applied": not options.dry_run,
        "agents": [_item(item, versions.get(item.name, item.current_version)) for item in plan.items],
        "missing": list(plan.missing),
        "retired": retired,
        "problems": [],
    }
    blocks = [block for item in plan.items for block in _described(item)]
    blocks += [Text(f"retired    {name}: no file defines it any more", tone="busy") for name in retired]
    if plan.missing and not retired:
        blocks.append(Text(f"not in any file any more: {', '.join(plan.missing)} (`--prune` retires what is missing)"))
    return Answer(document, [*blocks, Text(_summary(plan, len(retired), options), apart=True)])


def _item(item: PlanItem, version: int | None) -> dict[str, Any]:
    return {
        "name": item.name,
        "action": item.action.value,
        "version": version,
        "previous_version": item.current_version,
        "same_as_version": item.same_as_version,
        "model": item.model.label,
        "file": item.definition.path,
        "line": item.definition.line,
        "diff": list(item.diff),
        "retired": item.retired,
    }


def _described(item: PlanItem) -> list[Block]:
    retired = f"; it is retired, `cirkelline agents resume {item.name}` brings it back" if item.retired else ""
    match item.action:
        case Action.CREATE:
            return [Text(f"create     {item.name} with {item.model.label}", tone="good")]
        case Action.UPDATE:
            before = f"version {item.current_version}" if item.current_version else "an invalid definition"
            head = Text(f"update     {item.name}, replacing {before}, with {item.model.label}{retired}", tone="busy")
            return [head, *(Text(f"  {line}", tone=_tone(line)) for line in item.diff)]
        case Action.UNCHANGED:
            return [Text(f"unchanged  {item.name}, version {item.current_version} with {item.model.label}{retired}")]
        case Action.OLDER:
            return [
                Text(
                    f"older      {item.name}: the file is version {item.same_as_version}, version {item.current_version}"
                    f" stays (`cirkelline agents rollback {item.name} {item.same_as_version}` goes back){retired}",
                    tone="busy",
                )
            ]


def _tone(line: str) -> Tone:
    return "good" if line.startswith("+") else "bad" if line.startswith("-") else "quiet"


def _summary(plan: Plan, retired: int, options: Options) -> str:
    amounts = {action: sum(item.action is action for item in plan.items) for action in Action}
    said = {"created": amounts[Action.CREATE], "updated": amounts[Action.UPDATE], "retired": retired}
    said |= {"unchanged": amounts[Action.UNCHANGED], "kept as they are": amounts[Action.OLDER]}
    words = ", ".join(f"{amount} {what}" for what, amount in said.items() if amount)
    return f"dry run, nothing was changed; it would be: {words}" if options.dry_run else words


def _warn_unservable(plan: Plan) -> None:
    """Say which models this machine could not run; a worker elsewhere may."""
    reasons = {_reason(item.model): item.name for item in plan.items}
    for reason, name in reasons.items():
        if reason:
            console.warn(f"agent {name} cannot run on this machine: {reason}")


def _reason(model: ModelSpec) -> str | None:
    return models.why_not_servable(model, os.environ)


async def schema() -> Answer:
    """Return the JSON Schema of an agent file, for editors."""
    found = json_schema.agent_json_schema()
    return Answer(found, [Text(json.dumps(found, indent=2, ensure_ascii=False))])
