"""The folder of an author's own tools: finding its modules, loading them, and loading them again when they change."""

from __future__ import annotations

import ast
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

import structlog

PACKAGE: Final = "cirkelline_tools"

log = structlog.get_logger(__name__)

# Python has one table of modules and one search path for a whole process, so what follows is the process's too.
_lock: Final = threading.RLock()
_loaded: Final[dict[str, tuple[int, int] | None]] = {}  # source file -> its stamp just before it was read


class OutsideFolder(Exception):
    """A module's file is a link to somewhere outside the folder."""


class Folder:
    """One folder of Python files; its modules are `cirkelline_tools.NAME`, and import each other by either name.

    The folder goes to the end of `sys.path`: a file of it never stands in for an installed or standard module.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    def modules(self) -> list[str]:
        """Return the dotted names of the modules an agent may name, sorted."""
        return sorted(name for name, _ in self._files())

    def functions(self) -> list[str]:
        """Return every `module:function` an agent may name, sorted, without importing anything."""
        return sorted(f"{name}:{function}" for name, path in self._files() for function in _public_functions(path))

    def find(self, module: str) -> Path | None:
        """Return a module's file, or None; OutsideFolder when a link on the way leads out, OSError when it is hidden."""
        *parents, last = module.split(".")
        place = self.path
        for parent in parents:
            place /= parent
            self._stays_inside(place / "__init__.py")
        # The order of Python's own finder: a package goes before a module of the same name.
        for file in (place / last / "__init__.py", place / f"{last}.py"):
            if file.is_file():
                return self._stays_inside(file)
        return None

    def load(self, module: str) -> ModuleType:
        """Return a module that is as its file is now; raises whatever the module raises when it is imported."""
        with _lock:
            self._install()
            name = f"{PACKAGE}.{module}"
            if name not in sys.modules:
                importlib.invalidate_caches()
            return importlib.import_module(name)

    def _stays_inside(self, file: Path) -> Path:
        if not self._is_inside(file):
            raise OutsideFolder(str(file))
        return file

    def _is_inside(self, file: Path) -> bool:
        try:
            return file.resolve().is_relative_to(self.path)
        except (OSError, RuntimeError):  # a link to itself
            return False

    def _files(self) -> Iterator[tuple[str, Path]]:
        for folder, inner, files in os.walk(self.path):
            here = Path(folder)
            environment = "pyvenv.cfg" in files
            inner[:] = [name for name in inner if _is_public(name) and not environment]
            package = here.relative_to(self.path).parts
            for file in map(Path, files):
                parts = package if file.name == "__init__.py" else (*package, file.stem)
                named = file.suffix == ".py" and parts and all(map(_is_public, parts)) and not environment
                if named and self._is_inside(here / file):
                    yield ".".join(parts), here / file

    def _install(self) -> None:
        """Make this folder the one behind `cirkelline_tools`, with nothing in memory that is older than its file."""
        package = sys.modules.get(PACKAGE)
        if package is not None and list(package.__path__) == [str(self.path)] and not _changed():
            return
        _forget()
        package = ModuleType(PACKAGE, "The functions of an author's tools folder.")
        package.__path__ = [str(self.path)]
        sys.modules[PACKAGE] = package
        if str(self.path) not in sys.path:
            sys.path.append(str(self.path))
        if _finder not in sys.path_hooks:
            sys.path_hooks.insert(0, _finder)
        for entry in [entry for entry in sys.path_importer_cache if Path(entry).is_relative_to(self.path)]:
            del sys.path_importer_cache[entry]


class _FreshLoader(SourceFileLoader):
    """Reads the source every time: cached bytecode is told from its source by whole seconds, edits are faster."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        _loaded[path] = _stamp(path)
        return self.source_to_code(self.get_data(path), path)


def _finder(entry: str) -> FileFinder:
    """Find modules in the installed folder and below it; ImportError leaves other places to Python."""
    package = sys.modules.get(PACKAGE)
    root = Path(package.__path__[0]) if package is not None else None
    place = Path(entry)
    if root is None or not place.is_relative_to(root):
        raise ImportError(entry)
    # The folder may hold a whole environment; whatever has its own place on the search path is not an author's tool.
    own = [other for other in map(Path, sys.path) if other != root and other.is_relative_to(root)]
    if any(place.is_relative_to(other) for other in own):
        raise ImportError(entry)
    return FileFinder(entry, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_FreshLoader, SOURCE_SUFFIXES))


def _changed() -> bool:
    return any(_stamp(path) != stamp for path, stamp in _loaded.items())


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _forget() -> None:
    """Drop every module that came from a folder: one that did not change may hold parts of one that did."""
    for name, module in list(sys.modules.items()):
        if isinstance(getattr(getattr(module, "__spec__", None), "loader", None), _FreshLoader):
            del sys.modules[name]
    package = sys.modules.pop(PACKAGE, None)
    if package is not None and package.__path__[0] in sys.path:
        sys.path.remove(package.__path__[0])
    _loaded.clear()


def _is_public(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_")


def _public_functions(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        log.debug("tools.unreadable", path=str(path), error=str(error))
        return []
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and _is_public(node.name)]
