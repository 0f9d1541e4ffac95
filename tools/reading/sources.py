"""From what a person names (files, folders, patterns, URLs) to the documents that are meant."""

from __future__ import annotations

import fnmatch
import mimetypes
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from cirkelline.configs import secrecy, wording
from cirkelline.configs.errors import UsageError
from cirkelline.tools.reading.contract import NothingFound, Source

_SKIPPED_FOLDERS: Final = frozenset({"CVS", "__pycache__", "_darcs", "node_modules"})
_MAGIC: Final = frozenset("*?[")
_WITHOUT_TEXT: Final = ("image/", "audio/", "video/", "font/")
_PROGRAMS: Final = frozenset(
    {
        ".7z",
        ".a",
        ".bin",
        ".bz2",
        ".class",
        ".db",
        ".deb",
        ".dll",
        ".dylib",
        ".exe",
        ".gguf",
        ".gz",
        ".iso",
        ".jar",
        ".o",
    }
    | {".onnx", ".otf", ".pyc", ".pyo", ".rar", ".rpm", ".so", ".sqlite", ".sqlite3", ".tar", ".tgz", ".ttf", ".wasm"}
    | {".whl", ".woff", ".woff2", ".xz", ".zip", ".zst"}
)


def find(arguments: Sequence[str]) -> list[Source]:
    """Return the documents that the arguments name, each once: files, folders, patterns (`**` too) and URLs.

    A folder means every file below it but hidden ones, those of version control, and pictures, archives and programs by
    their name. Links inside folders are not followed: they may lead in a circle or out of it. What is named itself is
    taken, whatever it is. Raises: UsageError for what is not there, NothingFound where nothing is to be read.
    """
    found: dict[str, Source] = {}
    for argument in arguments:
        for source in _named(argument):
            found.setdefault(source.uri, source)
    return list(found.values())


def _named(argument: str) -> list[Source]:
    if "://" in argument:
        return [_address(argument)]
    if not argument.strip() or "\0" in argument:
        raise UsageError(f"{wording.shown(argument)} is no path: name a file, a folder, a pattern or a URL")
    path = _at_home(argument)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if _MAGIC.isdisjoint(argument):
            raise UsageError(_not_there(path)) from None
        return _matching(path)
    except OSError as error:  # no permission, a circle of links, a name that is too long
        raise UsageError(f"cannot look at {wording.shown(argument)}: {error.strerror}") from None
    if not stat.S_ISDIR(mode):
        return [_file(path)]
    if members := [_file(each, below=path) for each in _walk(path)]:
        return members
    raise NothingFound(f"the folder {wording.shown(argument)} holds no file that could be read")


def _at_home(argument: str) -> Path:
    try:
        return Path(argument).expanduser()
    except RuntimeError:
        raise UsageError(
            f"{wording.shown(argument)} is in a home folder that is not there: write the whole path"
        ) from None


def _file(path: Path, below: Path | None = None) -> Source:
    name = path.relative_to(below).as_posix() if below else path.name
    whole = path.resolve()
    return Source(_clean(str(whole)), _clean(name), whole)


def _clean(name: str) -> str:
    """A file's name as text: bytes that are none are spelled out, as no database takes them otherwise."""
    return name.encode("utf-8", "backslashreplace").decode()


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in the order of their names. What may not be looked into is passed by."""
    files, folders = _entries(folder)
    yield from (file for file in files if not _is_textless(file.name))
    for each in folders:
        yield from _walk(each)


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return a folder's files and folders, without hidden ones and links."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted((each for each in scan if not each.name.startswith(".")), key=lambda each: each.name)
            files = [Path(each) for each in entries if each.is_file(follow_symlinks=False)]
            folders = [Path(each) for each in entries if each.is_dir(follow_symlinks=False)]
    except OSError:
        return [], []
    return files, [each for each in folders if each.name not in _SKIPPED_FOLDERS]


def _is_textless(name: str) -> bool:
    kind = mimetypes.guess_type(name, strict=False)[0] or ""
    return kind.startswith(_WITHOUT_TEXT) or Path(name).suffix.lower() in _PROGRAMS


def _matching(pattern: Path) -> list[Source]:
    parts = pattern.parts
    plain = next(place for place, part in enumerate(parts) if not _MAGIC.isdisjoint(part))
    root = Path(*parts[:plain])
    members: list[Source] = []
    for match in _expand(root, parts[plain:]):
        members += [_file(each, below=root) for each in (_walk(match) if match.is_dir() else (match,))]
    if members:
        return members
    raise NothingFound(f"nothing matches {wording.shown(str(pattern))}: check the pattern")


def _expand(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield what a pattern's parts match below a folder. Not glob: its `**` follows links, in circles for ever."""
    first, rest = parts[0], parts[1:]
    if first == "**" and not rest:
        yield from (folder,) if folder.is_dir() else ()
    elif first == "**":
        yield from _expand(folder, rest)
        for each in _entries(folder)[1]:
            yield from _expand(each, parts)
    elif _MAGIC.isdisjoint(first):
        named = folder / first
        if not named.is_symlink() and named.exists():
            yield from _expand(named, rest) if rest else (named,)
    else:
        files, folders = _entries(folder)
        for each in folders if rest else (*files, *folders):
            if fnmatch.fnmatchcase(each.name, first):
                yield from _expand(each, rest) if rest else (each,)


def _not_there(path: Path) -> str:
    folder = path.parent
    try:
        neighbors = os.listdir(folder)  # noqa: PTH208 - names are all that is wanted
    except OSError:
        return f"there is nothing at {wording.shown(str(path))}: check the path"
    hint = wording.did_you_mean(path.name, [each for each in neighbors if not each.startswith(".")])
    return f"there is nothing at {wording.shown(str(path))}{hint or ': check the path'}"


def _address(argument: str) -> Source:
    """A URL as a source: without its fragment, its scheme and host in small letters."""
    shown = wording.shown(secrecy.mask_url(argument))
    try:
        parts = urlsplit(argument.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError(f"{shown} is no address: write it like https://example.com/guide.html") from None
    if parts.scheme.lower() not in {"http", "https"}:
        raise UsageError(f"{shown} cannot be fetched: only http:// and https:// addresses and paths can")
    if not host:
        raise UsageError(f"{shown} names no host: write it like https://example.com/guide.html")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{shown} carries a user's name or password, which would be stored: fetch it to a file first")
    place = f"[{host}]" if ":" in host else host
    netloc = place if port is None else f"{place}:{port}"
    uri = parts._replace(scheme=parts.scheme.lower(), netloc=netloc, fragment="").geturl()
    return Source(_clean(uri), unquote(parts.path.rstrip("/").rpartition("/")[2]) or host)
