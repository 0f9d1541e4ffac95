"""Finds the tool that an agent's definition names: a built-in, or a function this worker's operator allows."""

from __future__ import annotations

import importlib
import inspect
import re
import threading
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from cirkelline.configs import effects as words
from cirkelline.configs import names, wording
from cirkelline.configs.effects import Effects
from cirkelline.configs.errors import UsageError
from cirkelline.configs.schema import ToolSpec
from cirkelline.tools import builtins, contract, failures, workflows
from cirkelline.tools.contract import Tool, ToolDefinitionError
from cirkelline.tools.folder import PACKAGE, Folder, OutsideFolder
from cirkelline.tools.workflows import Workflow, WorkflowDefinitionError

LONGEST: Final = 200  # characters of module:function; no file system holds much longer names


class ToolNotFound(UsageError):
    """This worker has no such tool, or may not call it; the sentence says why and what to write instead."""


class EffectsRefused(ToolNotFound):
    """A definition says less of a tool's effects than its code does: only the author of the code can know that."""


class Toolbox:
    """The tools of one worker: the built-ins, the functions of its tools folder, and those of modules it was allowed.

    A definition in the database is a value anybody with a connection may write, so it names functions and never reaches
    further: only public functions *written in* the folder or in an allowed module, or marked with `@tool` there.
    """

    def __init__(self, folder: Path | None, modules: Sequence[str] = ()) -> None:
        self._folder = Folder(folder) if folder is not None else None
        self._modules = tuple(modules)
        self._built: dict[str, Tool] = {}
        self._lock = threading.Lock()

    def resolve(self, spec: ToolSpec) -> Tool:
        """Return the tool a definition names, from its file as it is now; imports it, so call it off the loop.

        Raises ToolNotFound with one sentence: no such tool and the nearest there is, not allowed, or broken and where.
        """
        with self._lock:
            found = self._function(spec.python) if spec.python is not None else self._builtin(spec.name or "")
        return _as_defined(found, spec)

    def available(self) -> list[str]:
        """Return the built-ins' names, then every `module:function` of the folder; nothing is imported."""
        return [*sorted(builtins.BUILTINS), *(self._folder.functions() if self._folder else ())]

    def _builtin(self, name: str) -> Tool:
        if name in builtins.BUILTINS:
            return builtins.BUILTINS[name]
        if name == builtins.KEEP_FACTS.name:
            return builtins.KEEP_FACTS
        own = [label for label in self.available() if label.endswith(f":{name}")]
        hint = f'; did you mean python: "{own[0]}"?' if own else wording.did_you_mean(name, list(builtins.BUILTINS))
        known = wording.listed(sorted(builtins.BUILTINS))
        raise ToolNotFound(f"there is no built-in tool {wording.shown(name)}{hint} (built in are {known})")

    def _function(self, label: str) -> Tool:
        function = self._named("tool", label)
        built = self._built.get(label)
        if built is None or built.function is not function:
            built = self._built[label] = _tool(label, function)
        return built

    def workflow(self, label: str) -> Workflow:
        """Return the workflow that `module:function` is, under the rule for tools; imports it, so call it off the loop.

        Raises ToolNotFound.
        """
        with self._lock:
            function = self._named("workflow", label)
        found = workflows.marked(function)
        if found is None:
            raise ToolNotFound(
                f"{label!r} is no workflow: mark it with @workflow (from cirkelline.tools import workflow)"
            )
        return found

    def workflows(self, name: str) -> list[str]:
        """Return every `module:function` of the folder whose function has this name; nothing is imported."""
        return [label for label in (self._folder.functions() if self._folder else ()) if label.endswith(f":{name}")]

    def _named(self, kind: str, label: str) -> Any:
        """Return the function of that name, if this worker may call it; `kind` is what the sentences call it."""
        if not re.fullmatch(names.FUNCTION_PATTERN, label) or len(label) > LONGEST:
            raise ToolNotFound(f'a Python {kind} is named "module:function", not {wording.shown(label)}')
        what = f"{kind} {label!r}"
        module_name, _, function_name = label.partition(":")
        if private := next((part for part in re.split("[.:]", label) if part.startswith("_")), None):
            raise ToolNotFound(f"{what} is private: {private!r} begins with _; name a public function")
        return self._own(what, self._module(what, module_name), function_name)

    def _module(self, what: str, name: str) -> ModuleType:
        # What the operator listed goes first: a file put into the folder must not take its place.
        if name in self._modules:
            return _loaded(what, name, None)
        if self._folder is None:
            raise ToolNotFound(self._refusal(what, name))
        try:
            file = self._folder.find(name)
        except OutsideFolder as outside:
            raise ToolNotFound(
                f"{what} is refused: {outside} is a link out of the tools folder; put the file itself there"
            ) from None
        except OSError as error:  # a name too long for a file, or a folder this user may not open
            raise ToolNotFound(f"{what} cannot be loaded: {error.strerror}") from None
        if file is None:
            raise ToolNotFound(self._refusal(what, name))
        return _loaded(what, name, self._folder)

    def _refusal(self, what: str, name: str) -> str:
        known = [*self._modules, *(self._folder.modules() if self._folder else ())]
        if self._folder is None:
            where = "this worker has no tools folder (cirkelline up --tools DIR)"
        else:
            where = f"there is no {name.replace('.', '/')}.py in the tools folder {self._folder.path}"
        return (
            f"{what} is not allowed: {where}, and {name!r} is not listed in CIRKELLINE_TOOL_MODULES"
            f"{wording.did_you_mean(name, known) or '; write a function of your own in the folder and name that one'}"
        )

    def _own(self, what: str, module: ModuleType, name: str) -> Any:
        """Return a function that was written in this very module, or marked as a tool wherever it was written."""
        members = vars(module)  # not getattr: a module's __getattr__ answers to any name
        if name not in members:
            own = [
                each for each, value in members.items() if _is_written_in(module, value) and not each.startswith("_")
            ]
            hint = wording.did_you_mean(name, own) or (f"; it has {wording.listed(sorted(own)[:10])}" if own else "")
            raise ToolNotFound(f"{what} is not there: {_place(module)} has no function {name!r}{hint}")
        found = members[name]
        if contract.marked(found) or workflows.marked(found) or _is_written_in(module, found):
            return found
        if not inspect.isroutine(found):
            raise ToolNotFound(
                f"{what} is refused: {name!r} in {_place(module)} is a {type(found).__name__}, not a function"
            )
        origin = str(getattr(found, "__module__", None)).removeprefix(f"{PACKAGE}.")
        raise ToolNotFound(
            f"{what} is refused: {name!r} is only imported there, from {origin!r}; "
            f"write a function in {_place(module)} that calls it"
        )


def _as_defined(tool: Tool, spec: ToolSpec) -> Tool:
    """Return a tool with what its definition adds: another timeout, stricter effects."""
    effects = spec.effects or tool.effects
    if not words.may_become(tool.effects, effects):
        code = "cannot be made transactional here, its code has to work through ctx.connection"
        laxer = f"is {tool.effects.value!r} by its code, and {effects.value!r} would be laxer"
        raise EffectsRefused(
            f"tool {spec.label!r} {code if effects is Effects.TRANSACTIONAL else laxer}: "
            'remove effects here, or change it in @tool(effects="…")'
        )
    on_unknown = spec.on_unknown or tool.on_unknown
    if spec.on_unknown is not None and effects is not Effects.ONCE:
        raise EffectsRefused(
            f"tool {spec.label!r}: on_unknown is for effects: once, and this one is {effects.value}: remove on_unknown"
        )
    if tool.effects is Effects.ONCE and not words.may_decide(tool.on_unknown, on_unknown):
        raise EffectsRefused(
            f"tool {spec.label!r} says on_unknown={tool.on_unknown.value!r} in its code, and {on_unknown.value!r} would be "
            'laxer: remove on_unknown here, or change it in @tool(on_unknown="…")'
        )
    made = replace(
        tool,
        timeout=tool.timeout if spec.timeout is None else spec.timeout,
        effects=effects,
        on_unknown=on_unknown,
        approval=tool.approval or spec.approval,
        approve_within=_sooner(tool.approve_within, spec.approve_within),
    )
    return tool if made == tool else made


def _sooner(code: float | None, definition: float | None) -> float | None:
    given = [each for each in (code, definition) if each is not None]
    return min(given) if given else None


def _is_written_in(module: ModuleType, value: object) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__


def _tool(label: str, function: Any) -> Tool:
    try:
        return contract.tool_from_function(function)
    except ToolDefinitionError as error:
        raise ToolNotFound(f"tool {label!r} cannot be used: {error}") from None


def _loaded(what: str, name: str, folder: Folder | None) -> ModuleType:
    try:
        return importlib.import_module(name) if folder is None else folder.load(name)
    except (ToolDefinitionError, WorkflowDefinitionError) as error:  # they know their own place
        raise ToolNotFound(f"{what} cannot be loaded: {error}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 (an author's module may raise anything, sys.exit included)
        place = _where(error, folder) or (str(folder.find(name)) if folder else name)
        said = " ".join(failures.told(error).removeprefix("error: ").split())
        remedy = "; install it where the worker runs" if isinstance(error, ModuleNotFoundError) else ""
        raise ToolNotFound(f"{what} cannot be loaded: {place}: {said}{remedy}") from None


def _where(error: BaseException, folder: Folder | None) -> str:
    """Return file:line of the author's own code that failed, or an empty text."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}" if error.lineno else error.filename
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_authors(frame.filename, folder)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _is_authors(filename: str, folder: Folder | None) -> bool:
    if folder is not None:
        return Path(filename).is_relative_to(folder.path)
    return not filename.startswith("<frozen") and Path(filename) != Path(importlib.__file__)


def _place(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or module.__name__
