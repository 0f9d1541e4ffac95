"""Who starts the embedded server, who stops it, and what it survives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import psycopg
import pytest
from embedded_scene import Failed, Scene, end_of, select, server_processes

from cirkelline.state import embedded


def test_the_first_process_starts_it_and_the_last_one_stops_it(scene: Scene) -> None:
    first, second = scene.driver(), scene.driver()
    assert first.ensure()["started"] is True
    found = second.ensure()
    assert found["started"] is False
    assert first.status()["users"] == sorted([first.pid, second.pid])
    assert first.release() is False
    assert select(found["url"], "SELECT 1") == 1
    processes = server_processes(second.status()["pid"])
    assert second.release() is True
    assert end_of(processes)
    assert second.status() | {"folder": ""} == {
        "running": False,
        "exists": True,
        "pid": None,
        "users": [],
        "folder": "",
    }


def test_rows_and_url_survive_a_restart(user_scene: Scene) -> None:
    driver = user_scene.driver()
    url = driver.ensure()["url"]
    select(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    driver.release()
    assert driver.ensure()["url"] == url
    assert select(url, "SELECT answer FROM kept") == 42


def test_it_is_durable_utc_private_and_of_our_collation(user_scene: Scene) -> None:
    url = user_scene.driver().ensure()["url"]
    expected = {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "data_checksums": "on",
        "TimeZone": "UTC",
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "max_connections": "200",
        "jit": "off",
    }
    with psycopg.connect(url) as conn:
        rows = conn.execute("SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)", [[*expected]])
        assert dict(rows.fetchall()) == expected
        row = conn.execute(
            "SELECT datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datlocprovider, datlocale"
            " FROM pg_database WHERE datname = current_database()"
        ).fetchone()
        assert row == ("cirkelline", "cirkelline", "UTF8", "b", "C.UTF-8")
        # One round for our own random password; whoever makes a role with a password of their own gets PostgreSQL's many.
        rounds = "SELECT split_part(split_part(rolpassword, '$', 2), ':', 1), current_setting('scram_iterations') FROM pg_authid"
        assert conn.execute(f"{rounds} WHERE rolname = 'cirkelline'").fetchall() == [("1", "4096")]
        conn.execute("CREATE EXTENSION vector; CREATE ROLE somebody")


def test_a_process_that_was_killed_is_not_counted(scene: Scene) -> None:
    killed, left = scene.driver(), scene.driver()
    killed.ensure()
    left.ensure()
    killed.end(signal.SIGKILL)
    assert left.status()["users"] == [left.pid]
    assert left.release() is True


def test_the_next_start_goes_on_with_the_server_of_a_last_process_that_was_killed(scene: Scene) -> None:
    killed, next_one = scene.driver(), scene.driver()
    url = killed.ensure()["url"]
    pid = killed.status()["pid"]
    # The end of its output is reached although the server lives: the server holds nothing of the process that started it.
    assert killed.end(signal.SIGKILL) == ""
    assert select(url, "SELECT 1") == 1
    assert next_one.status() | {"folder": ""} == {
        "running": True,
        "exists": True,
        "pid": pid,
        "users": [],
        "folder": "",
    }
    assert next_one.ensure()["started"] is False
    assert next_one.release() is True


def test_ctrl_c_in_the_terminal_of_its_starter_does_not_reach_it(user_scene: Scene) -> None:
    starter, other = user_scene.driver(), user_scene.driver()
    starter.ensure()
    url = other.ensure()["url"]
    starter.end(signal.SIGINT)
    assert select(url, "SELECT 1") == 1


def test_a_process_that_ends_without_release_lets_go(user_scene: Scene) -> None:
    forgetful, other = user_scene.driver(), user_scene.driver()
    forgetful.ensure()
    forgetful.end()
    assert other.status()["running"] is False


def test_two_uses_of_one_process_are_two(user_scene: Scene) -> None:
    driver = user_scene.driver()
    driver.ensure()
    driver.ensure()
    assert driver.status()["users"] == [driver.pid]
    assert driver.release() is False
    assert driver.release() is True


def test_it_can_be_left_running_on_purpose(user_scene: Scene) -> None:
    driver = user_scene.driver()
    url = driver.ensure()["url"]
    assert driver.release(keep_running=True) is False
    assert select(url, "SELECT 1") == 1


def test_a_forked_child_neither_releases_nor_keeps_its_parents_use(user_scene: Scene) -> None:
    parent, other = user_scene.driver(), user_scene.driver()
    parent.ensure()
    parent.ask("release_in_child")
    other.ensure()
    assert other.status()["users"] == sorted([parent.pid, other.pid])
    child = parent.ask("fork")["pid"]
    os.kill(parent.pid, signal.SIGKILL)
    parent.process.wait()
    try:
        assert psutil.pid_exists(child)
        assert other.status()["users"] == [other.pid]
    finally:
        os.kill(child, signal.SIGKILL)


def test_committed_rows_survive_a_crash_of_the_server(scene: Scene) -> None:
    driver = scene.driver()
    url = driver.ensure()["url"]
    select(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(driver.status()["pid"], signal.SIGKILL)
    found = driver.ensure()
    assert (found["started"], found["url"]) == (True, url)
    assert select(url, "SELECT answer FROM kept") == 42


def test_a_process_id_given_to_another_process_after_a_reboot_is_not_taken_for_the_server(scene: Scene) -> None:
    driver = scene.driver()
    data = Path(driver.ensure()["data"])
    processes = server_processes(driver.status()["pid"])
    innocent = (
        subprocess.Popen(["sleep", "1000"], user=data.stat().st_uid) if os.geteuid() == 0 else scene.driver().process
    )
    processes[0].kill()
    psutil.wait_procs(processes)  # the others end on their own
    pid_file = data / "postmaster.pid"
    _, *rest = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(innocent.pid), *rest, ""]))
    try:
        assert driver.status()["running"] is False
        assert driver.ensure()["started"] is True
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.communicate()


def test_a_server_that_was_started_by_hand_is_left_alone(user_scene: Scene) -> None:
    driver = user_scene.driver()
    found = driver.ensure()
    driver.release()
    command = [embedded.binary("postgres"), "-D", found["data"], "-c", f"unix_socket_directories={found['socket']}"]
    foreign = subprocess.Popen(
        [*command, "-c", "listen_addresses="],
        **user_scene.account.identity(),
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    try:
        assert foreign.stderr
        assert any("ready to accept connections" in line for line in foreign.stderr)
        with pytest.raises(Failed, match=rf"did not start runs on .*kill -INT {foreign.pid}"):
            driver.ensure()
        assert foreign.poll() is None
    finally:
        foreign.send_signal(signal.SIGINT)
        foreign.communicate()
    assert driver.ensure()["started"] is True


def test_stop_names_the_processes_that_use_it_and_stops_it_only_by_force(scene: Scene) -> None:
    user, another, operator = scene.driver(), scene.driver(), scene.driver()
    user.ensure()
    url = another.ensure()["url"]
    with pytest.raises(Failed, match=", ".join(map(str, sorted([user.pid, another.pid])))):
        operator.ask("stop")
    assert select(url, "SELECT 1") == 1
    assert operator.ask("stop", force=True) == {"stopped": True}
    assert operator.status()["running"] is False
    assert operator.ask("stop") == {"stopped": False}
    assert user.release() is False
    assert another.ensure()["started"] is True


def test_stop_takes_no_notice_of_its_own_process(user_scene: Scene) -> None:
    driver = user_scene.driver()
    driver.ensure()
    assert driver.ask("stop") == {"stopped": True}


def test_asking_for_the_status_makes_nothing(scene: Scene) -> None:
    driver = scene.driver()
    assert driver.status() | {"folder": ""} == {
        "running": False,
        "exists": False,
        "pid": None,
        "users": [],
        "folder": "",
    }
    assert driver.ask("stop") == {"stopped": False}
    assert not scene.home.exists()


def test_a_home_that_was_removed_is_made_anew_and_stays_reachable_when_its_old_server_ends(user_scene: Scene) -> None:
    driver = user_scene.driver()
    driver.ensure()
    old = psutil.Process(driver.status()["pid"])
    old.suspend()  # it ends by itself within a minute of losing its files: let that be after the next start
    shutil.rmtree(user_scene.home)
    fresh = driver.ensure()
    assert fresh["started"] is True
    old.terminate()
    old.resume()
    old.wait()
    assert select(fresh["url"], "SELECT 1") == 1


def test_a_lost_socket_is_told_with_its_remedy(user_scene: Scene) -> None:
    driver = user_scene.driver()
    shutil.rmtree(driver.ensure()["socket"])
    with pytest.raises(Failed, match=r"socket has been removed.*cirkelline db stop --force"):
        driver.ensure()
    assert driver.ask("stop", force=True) == {"stopped": True}
    assert driver.ensure()["started"] is True


def test_a_url_names_any_database(user_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATABASE", "nowhere")
    url = user_scene.driver().ensure()["url"]
    name = "it's a/b?c%d #1"
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))


def test_a_released_server_shows_no_password(user_scene: Scene) -> None:
    found = user_scene.driver().ensure()
    password = psycopg.conninfo.conninfo_to_dict(found["url"])["password"]
    assert isinstance(password, str)
    assert len(password) > 40
    assert password not in found["shown"]
