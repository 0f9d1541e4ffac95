"""Where the embedded server lives: its folders, who may look into them, and what is written down there.

For a user everything is in `home/postgres`, 0700. For root, `home/postgres` is a symbolic link to a folder below
/var/lib/cirkelline: the server runs as another account, which must reach its data, and the way to root's home
stays closed. That folder is root's and only passed through by the account's group; the account owns `data` and the
socket's folder in it, so that a database superuser (who can run programs as the account) cannot change what root reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import secrets
import stat
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cirkelline.state.embedded import accounts, failures
from cirkelline.state.embedded.accounts import Account

SYSTEM_FOLDER: Final = Path("/var/lib/cirkelline")
PORT: Final = 5432  # only names the socket's file; the server listens on no network
_SOCKET_LIMIT: Final = 103 if sys.platform == "darwin" else 107  # bytes, sockaddr_un.sun_path without its NUL


@dataclass(frozen=True, slots=True)
class Place:
    """One server's folder, and the account it runs as (None: our own)."""

    home: Path
    folder: Path
    account: Account | None

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder; it exists only once it is whole."""
        return self.folder / "data"

    @property
    def lock(self) -> Path:
        """Held by the one process that is starting or stopping the server."""
        return self.folder / "lock"

    @property
    def alive(self) -> Path:
        """Held by the server itself and its children, from start to end."""
        return self.folder / "server.lock"

    @property
    def users(self) -> Path:
        """One held file for each registered use."""
        return self.folder / "users"

    @property
    def password(self) -> Path:
        """The password of the role `cirkelline`."""
        return self.folder / "password"

    @property
    def settings(self) -> Path:
        """The server's settings, written anew at each start."""
        return self.folder / "postgresql.conf"

    @property
    def access(self) -> Path:
        """Who may connect (pg_hba.conf), written anew at each start."""
        return self.folder / "pg_hba.conf"

    @property
    def output(self) -> Path:
        """What the server says before its own log begins."""
        return self.folder / "startup.log"

    @property
    def logs(self) -> Path:
        """The folder of the server's own log, a file for each day of the week."""
        return self.data / "log"

    @property
    def record(self) -> Path:
        """What other processes need to know of the server (`Record`)."""
        return self.folder / "server.json"

    @property
    def owner(self) -> int:
        """The user id that owns the data and runs the server."""
        return self.account.user if self.account else os.geteuid()


@dataclass(frozen=True, slots=True)
class Record:
    """What the process that starts the server writes down for all others."""

    version: str  # of PostgreSQL, "18.4"
    socket: Path  # the folder of the server's socket


def find(home: Path) -> Place:
    """Return where the server of `home` is or would be; nothing is made."""
    home = _usable(home)
    if os.geteuid() != 0:
        return Place(home, home / "postgres", None)
    return Place(home, _linked(home / "postgres") or _system_folder(home), accounts.find())


def prepare(home: Path) -> Place:
    """Return where the server of `home` is, with every folder made, ours and closed to others."""
    home = _usable(home)
    with failures.explained(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            place = _prepare_for_account(home)
        else:
            place = Place(home, home / "postgres", None)
            _make_private(place.folder)
        _make_private(place.users)
    return place


def prepare_system_folder() -> None:
    """Make the folder that all of root's servers share: open to look into, written by root alone."""
    if _make(SYSTEM_FOLDER):
        SYSTEM_FOLDER.chmod(0o755)
    found = SYSTEM_FOLDER.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise failures.EmbeddedServerError(
            f"{SYSTEM_FOLDER} must be a folder that only root can write, and it belongs to {_name(found.st_uid)} with mode"
            f" {stat.S_IMODE(found.st_mode):o}: run cirkelline as another user than root, or {failures.OWN_SERVER}"
        )


def _prepare_for_account(home: Path) -> Place:
    account = accounts.ensure()
    pointer = home / "postgres"
    linked = _linked(pointer)
    if linked and not linked.exists():
        raise failures.EmbeddedServerError(
            f"the database of {home} was in {linked}, which is gone: bring it back (a container needs a volume for"
            f" {SYSTEM_FOLDER} too), or remove {pointer} to begin with an empty one"
        )
    folder = linked or _system_folder(home)
    _make(folder)
    _check_owner(folder)
    os.chown(folder, 0, account.group)
    folder.chmod(0o710)  # the account passes through and lists nothing
    if linked is None:
        pointer.symlink_to(folder)
    return Place(home, folder, account)


def _usable(home: Path) -> Path:
    """Return `home` as one absolute path without symbolic links; PostgreSQL's own files cannot hold a line break."""
    resolved = Path(os.path.realpath(home.expanduser()))
    if any(character in str(resolved) for character in "\n\r\0"):
        raise failures.EmbeddedServerError(f"CIRKELLINE_HOME holds a line break: {str(home)!r} cannot be used")
    return resolved


def _system_folder(home: Path) -> Path:
    return SYSTEM_FOLDER / hashlib.sha256(os.fsencode(home)).hexdigest()[:16]


def _linked(pointer: Path) -> Path | None:
    """Return the folder that root's home points to, or None; a pointer to anywhere else than our own folder is refused.

    The home can be another account's (sudo that keeps HOME), which must not make root write where it likes.
    """
    if not os.path.lexists(pointer):
        return None
    if not pointer.is_symlink():
        raise failures.EmbeddedServerError(
            f"{pointer} is the database of {_name(pointer.lstat().st_uid)}, not of root:"
            f" run cirkelline as {_name(pointer.lstat().st_uid)}, or {failures.ELSEWHERE}"
        )
    target = pointer.readlink()
    if target.parent != SYSTEM_FOLDER or target.name == "..":
        raise failures.EmbeddedServerError(
            f"{pointer} points to {target}, which is not below {SYSTEM_FOLDER}: remove it, or {failures.ELSEWHERE}"
        )
    return target


def _make(folder: Path) -> bool:
    """Make a folder that only we can enter; return False when something is there already."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def _make_private(folder: Path) -> None:
    _make(folder)
    _check_owner(folder)
    if folder.lstat().st_mode & 0o077:
        folder.chmod(0o700)


def _check_owner(folder: Path) -> None:
    found = folder.lstat()
    if found.st_uid != os.geteuid():
        name = _name(found.st_uid)
        raise failures.EmbeddedServerError(
            f"{folder} belongs to {name}: run cirkelline as {name}, or {failures.ELSEWHERE}"
        )
    if not stat.S_ISDIR(found.st_mode):
        raise failures.EmbeddedServerError(f"{folder} is not a folder: move it away, or {failures.ELSEWHERE}")


def _name(user: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(user).pw_name
    return f"user {user}"


def write_private(path: Path, text: str, *, group: int | None = None) -> None:
    """Write a file at once and whole, readable by us alone, or by a group too."""
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.fsencode(text))
            if group is not None:
                os.fchown(file.fileno(), -1, group)
                os.fchmod(file.fileno(), 0o640)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def read_record(place: Place) -> Record | None:
    """Return what the last start wrote down, or None before the first one (or when the file is damaged)."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        found = json.loads(os.fsdecode(place.record.read_bytes()))
        return Record(version=str(found["version"]), socket=Path(found["socket"]))
    return None


def write_record(place: Place, record: Record) -> None:
    """Write down what other processes need to know."""
    text = json.dumps({"version": record.version, "socket": str(record.socket)}, ensure_ascii=False)
    write_private(place.record, text + "\n")


def socket_file(folder: Path) -> Path:
    """Return the path of the socket that PostgreSQL makes in `folder`."""
    return folder / f".s.PGSQL.{PORT}"


def socket_folder(place: Place) -> Path:
    """Return a private folder for the server's socket: the one it had, else a new one.

    The name is kept from start to start, so that a client that was there before reaches a restarted server. It is
    random, because PostgreSQL removes its socket by name at its end: were the name fixed, the server of a removed home,
    which ends within a minute, would take away the socket of the server that was started in its stead.
    """
    record = read_record(place)
    if record and _socket_fits(record.socket) and _claim(record.socket, place):
        return record.socket
    for parent, prefix in ((place.folder, "socket"), *_short_parents()):
        folder = parent / f"{prefix}-{secrets.token_hex(4)}"
        if _socket_fits(folder) and _claim(folder, place):
            return folder
    raise failures.EmbeddedServerError(
        f"no folder for the server's socket can be had, {place.folder} is too long: {failures.ELSEWHERE}"
    )


def _short_parents() -> list[tuple[Path, str]]:
    """Return where sockets go whose home has too long a path.

    Not $XDG_RUNTIME_DIR: it vanishes when its user logs out, and a server may stay.
    """
    parents = (Path("/tmp"), Path(tempfile.gettempdir()))  # noqa: S108 - the folder in it is private, see `_claim`
    prefix = f"cirkelline-{os.geteuid()}"
    return [(parent, prefix) for parent in parents if parent.is_dir() and _names_are_safe(parent)]


def _names_are_safe(parent: Path) -> bool:
    """Say whether nobody else can rename or remove what we make in a folder."""
    found = parent.stat()
    return bool(found.st_mode & stat.S_ISVTX) or not found.st_mode & 0o022


def _socket_fits(folder: Path) -> bool:
    """Say whether clients can name a socket in this folder: short, no comma (hosts' separator), and text to psycopg."""
    path = os.fsencode(socket_file(folder))
    with suppress(UnicodeDecodeError):
        return len(path) <= _SOCKET_LIMIT and "," not in path.decode()
    return False


def _claim(folder: Path, place: Place) -> bool:
    """Make a private folder for the server's account; return False when the name is taken by something else."""
    try:
        made = _make(folder)
    except FileNotFoundError:
        return False
    if made and place.account:
        os.chown(folder, place.account.user, place.account.group)
    return is_private(folder, place.owner)


def is_private(folder: Path, owner: int) -> bool:
    """Say whether `folder` is a real folder of `owner` into which nobody else can look."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == owner and not found.st_mode & 0o077
