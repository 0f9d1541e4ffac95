"""Scenes around the embedded server.

As root every test runs twice: as root (the server runs as another account) and as an ordinary user made for the tests.
Otherwise it runs as whoever we are, and what needs a second account is skipped.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from embedded_scene import Account, Scene

from cirkelline.state import embedded

_ENOUGH = 4 * 1024**3  # bytes


def runs(account: Account, program: Path) -> bool:
    """Say whether an account can run a program."""
    try:
        return not subprocess.run(
            [program, "--version"], **account.identity(), cwd="/", stdout=subprocess.DEVNULL, check=False
        ).returncode
    except PermissionError:
        return False


@pytest.fixture(scope="session")
def ordinary() -> Iterator[Account]:
    """An account without rights: ourselves, or as root one made for these tests."""
    if os.geteuid() != 0:
        entry = pwd.getpwuid(os.geteuid())
        yield Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
        return
    name = f"ck-test-{os.getpid()}"
    subprocess.run(
        ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", name], check=True
    )
    entry = pwd.getpwnam(name)
    account = Account(name, entry.pw_uid, entry.pw_gid)
    try:
        if not runs(account, embedded.binary("postgres")):
            pytest.skip("this installation lies where an ordinary account cannot run its programs")
        yield account
    finally:
        subprocess.run(["userdel", name], check=True)


@pytest.fixture(scope="session")
def stranger() -> Account:
    """A second account, which must not get in."""
    if os.geteuid() != 0:
        pytest.skip("needs root to act as a second account")
    entry = pwd.getpwnam("nobody")
    return Account("nobody", entry.pw_uid, entry.pw_gid)


def _place() -> Path:
    """Where a thousand files are made quickly: in memory, where there is enough of it."""
    memory = Path("/dev/shm")  # noqa: S108 - what is made in it has a name of its own
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > _ENOUGH else Path("/tmp")  # noqa: S108


@pytest.fixture(scope="session")
def left() -> Iterator[list[Path]]:
    """Folders that are removed at the end."""
    folders: list[Path] = []
    yield folders
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def open_scene(left: list[Path]) -> Iterator[Callable[[Account], Scene]]:
    """Makes scenes, and clears them away with their servers."""
    scenes: list[Scene] = []

    def make(account: Account) -> Scene:
        # Not tmp_path: its parents are closed to other accounts, and it is too long for a socket.
        root = Path(tempfile.mkdtemp(prefix="ck-", dir=_place()))
        os.chown(root, account.user, account.group)
        scenes.append(Scene(account, root, root / "home"))
        return scenes[-1]

    yield make
    for scene in scenes:
        left += scene.close()


@pytest.fixture
def user_scene(open_scene: Callable[[Account], Scene], ordinary: Account) -> Scene:
    """A scene of an ordinary account."""
    return open_scene(ordinary)


@pytest.fixture
def root_scene(open_scene: Callable[[Account], Scene]) -> Scene:
    """A scene of root, whose server runs as another account."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return open_scene(Account("root", 0, 0))


@pytest.fixture(params=["user", "root"])
def scene(request: pytest.FixtureRequest) -> Scene:
    """A scene of an ordinary account, and one of root."""
    found: Scene = request.getfixturevalue(f"{request.param}_scene")
    return found
