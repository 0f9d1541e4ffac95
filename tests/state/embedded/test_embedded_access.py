"""Nobody but its owner gets at the embedded server, and nobody's permissions change for it."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
import pytest
from embedded_scene import Account, Failed, Scene, select, server_processes
from psycopg.conninfo import conninfo_to_dict

from cirkelline.state import embedded

Permissions = dict[Path, tuple[int, int, int]]


def permissions(paths: Iterable[Path]) -> Permissions:
    return {path: (found.st_mode, found.st_uid, found.st_gid) for path in paths for found in [path.lstat()]}


def around(home: Path) -> list[Path]:
    """All that lies on the way to the server's files and programs, and that belongs to others."""
    programs = embedded.binary("postgres").parents[1]
    system = Path("/var/lib")
    return [*home.parents, *programs.parents, programs, *programs.rglob("*"), system, *system.glob("*")]


def test_no_permission_changes_outside_its_own_folders(scene: Scene) -> None:
    scene.root.chmod(0o700)
    before = permissions(around(scene.home))
    own = Path("/var/lib/cirkelline")
    driver = scene.driver()
    for _ in ("first start", "restart"):
        driver.ensure()
        driver.release()
    after = permissions(around(scene.home))
    if scene.account.is_root:
        before.pop(own, None)
        assert after.pop(own) == (stat.S_IFDIR | 0o755, 0, 0)
    assert after == before


def test_its_own_folders_are_closed_to_others(scene: Scene) -> None:
    found = scene.driver().ensure()
    server = psutil.Process(scene.drivers[0].status()["pid"])
    folder, data = Path(found["folder"]), Path(found["data"])
    assert scene.home.stat().st_mode & 0o077 == 0
    assert folder.stat().st_mode & 0o067 == 0
    assert folder.stat().st_uid == scene.account.user
    assert data.stat().st_mode & 0o077 == 0
    assert Path(found["socket"]).stat().st_mode & 0o077 == 0
    assert (folder / "password").stat().st_mode & 0o177 == 0
    assert server.uids().real == data.stat().st_uid != 0
    assert not [path for path in data.rglob("*") if path.lstat().st_mode & 0o077]


def test_the_server_of_root_cannot_change_what_root_trusts(root_scene: Scene) -> None:
    found = root_scene.driver().ensure()
    folder = Path(found["folder"])
    program = Path(psutil.Process(root_scene.drivers[0].status()["pid"]).exe())
    trusted = [
        folder,
        folder / "password",
        folder / "postgresql.conf",
        folder / "server.json",
        *program.parents,
        program,
    ]
    assert [path for path in trusted if path.stat().st_uid != 0 or path.stat().st_mode & 0o022] == []
    theirs = {path.name.partition("-")[0] for path in folder.iterdir() if path.stat().st_uid != 0}
    assert theirs == {"data", "socket"}


def attack(account: Account, socket: str, password: str | None) -> str:
    """Try to connect as an account and return psql's complaint."""
    secret = {"PGPASSWORD": password} if password else {}
    command = [
        str(embedded.binary("psql")),
        "--no-password",
        "-U",
        "cirkelline",
        "-h",
        socket,
        "-p",
        "5432",
        "-c",
        "SELECT 1",
    ]
    done = subprocess.run(
        command, **account.identity(), env=secret, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stdout
    return str(done.stderr)


def test_a_second_account_cannot_connect_even_with_the_password(scene: Scene, stranger: Account) -> None:
    found = scene.driver().ensure()
    password = str(conninfo_to_dict(found["url"])["password"])
    for guess in (None, "wrong", password):
        assert "Permission denied" in attack(stranger, found["socket"], guess)


def test_without_the_password_nobody_connects_not_even_root(scene: Scene) -> None:
    socket = scene.driver().ensure()["socket"]
    for account in {scene.account, Account("root", 0, 0)} if os.geteuid() == 0 else {scene.account}:
        assert "no password supplied" in attack(account, socket, None)
        assert "password authentication failed" in attack(account, socket, "wrong")


def test_it_listens_on_its_socket_alone(scene: Scene) -> None:
    found = scene.driver().ensure()
    server = psutil.Process(scene.drivers[0].status()["pid"])
    assert [str(connection.laddr) for connection in server.net_connections(kind="all")] == [
        f"{found['socket']}/.s.PGSQL.5432"
    ]


def said_by(server: int) -> Iterator[str]:
    """Command lines and environments of the server's processes, which `ps` shows."""
    for process in server_processes(server):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that has done its work
            yield from process.cmdline()
            yield from (f"{name}={value}" for name, value in process.environ().items())


def test_no_password_and_no_key_of_its_starter_can_be_read_from_its_processes(scene: Scene) -> None:
    driver = scene.driver(GOOGLE_API_KEY="key-of-the-person", PGOPTIONS="-c jit=on")
    found = driver.ensure()
    password = str(conninfo_to_dict(found["url"])["password"])
    seen = " ".join(said_by(driver.status()["pid"]))
    assert "PATH=" in seen
    assert found["data"] in seen
    for secret in (password, "key-of-the-person", "PGOPTIONS"):
        assert secret not in seen
    assert not list(Path(found["folder"]).glob("password.*"))


def test_a_folder_of_another_account_is_refused_with_its_owner(user_scene: Scene, stranger: Account) -> None:
    folder = user_scene.home / "postgres"
    folder.mkdir(parents=True)
    os.chown(folder, stranger.user, stranger.group)
    with pytest.raises(Failed, match=rf"{folder} belongs to nobody: run cirkelline as nobody"):
        user_scene.driver().ensure()
    assert folder.stat().st_uid == stranger.user
    assert list(folder.iterdir()) == []


def test_root_takes_over_no_server_of_a_user(user_scene: Scene) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    user_scene.driver().ensure()
    with pytest.raises(Failed, match=rf"is the database of {user_scene.account.name}, not of root"):
        user_scene.driver(account=Account("root", 0, 0)).ensure()


def test_root_follows_no_pointer_out_of_its_own_folders(root_scene: Scene) -> None:
    bait = root_scene.root / "bait"
    bait.mkdir(mode=0o750)
    root_scene.home.mkdir()
    (root_scene.home / "postgres").symlink_to(bait)
    before = permissions([bait])
    with pytest.raises(Failed, match=rf"points to {bait}, which is not below /var/lib/cirkelline"):
        root_scene.driver().ensure()
    assert permissions([bait]) == before
    assert list(bait.iterdir()) == []


def test_a_socket_folder_that_somebody_put_in_its_stead_is_not_used(user_scene: Scene, stranger: Account) -> None:
    home = user_scene.root / ("long" * 30)
    driver = user_scene.driver(home=home)
    first = Path(driver.ensure()["socket"])
    assert first.name.startswith(f"cirkelline-{user_scene.account.user}-")
    driver.release()
    shutil.rmtree(first)
    first.mkdir(mode=0o777)
    os.chown(first, stranger.user, stranger.group)
    try:
        found = driver.ensure()
        assert Path(found["socket"]) != first
        assert select(found["url"], "SELECT 1") == 1
        assert list(first.iterdir()) == []
    finally:
        shutil.rmtree(first)
    driver.release()
    shutil.rmtree(found["socket"])


def test_an_account_without_a_name_is_told_what_to_do(open_scene: object, stranger: Account) -> None:
    del stranger
    assert callable(open_scene)
    scene: Scene = open_scene(Account("nameless", 54321, 54321))
    with pytest.raises(Failed, match="this user id has no name in /etc/passwd: give it one, or set DATABASE_URL"):
        scene.driver().ensure()


def test_replication_is_not_open_either(user_scene: Scene) -> None:
    url = user_scene.driver().ensure()["url"]
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba.conf entry"):
        psycopg.connect(url + "&replication=" + quote("true"))
