"""Many processes that start, use and stop the embedded server at once."""

from __future__ import annotations

import fcntl
import os
import signal

import pytest
from embedded_scene import Driver, Failed, Scene, select


def answers(drivers: list[Driver], name: str) -> list[dict[str, object]]:
    """Ask all drivers at the same moment, then collect what they answer."""
    for driver in drivers:
        driver.begin(name)
    return [driver.answer() for driver in drivers]


def test_of_many_first_starts_one_makes_the_database_and_all_get_it(scene: Scene) -> None:
    drivers = [scene.driver() for _ in range(6)]
    found = answers(drivers, "ensure")
    assert sorted(bool(one["started"]) for one in found) == [False] * 5 + [True]
    assert len({str(one["url"]) for one in found}) == 1
    assert select(str(found[0]["url"]), "SELECT 1") == 1
    assert drivers[0].status()["users"] == sorted(driver.pid for driver in drivers)
    stopped = [one["stopped"] for one in answers(drivers, "release")]
    assert sorted(map(bool, stopped)) == [False] * 5 + [True]
    assert drivers[0].status()["running"] is False


def test_a_start_while_another_process_stops_it_always_gets_a_server(user_scene: Scene) -> None:
    drivers = [user_scene.driver() for _ in range(4)]
    select(drivers[0].ensure()["url"], "CREATE TABLE visits (id serial)")
    drivers[0].release()
    for driver in drivers:
        driver.begin("churn", rounds=6)
    assert 1 <= sum(driver.answer()["starts"] for driver in drivers) <= 24
    assert select(drivers[0].ensure()["url"], "SELECT count(*) FROM visits") == 24
    assert drivers[0].release() is True


def test_a_start_that_is_killed_half_way_leaves_nothing_in_the_way(user_scene: Scene) -> None:
    """Killed while initdb works: what it left is thrown away and made anew."""
    killed, driver = user_scene.driver(), user_scene.driver()
    killed.begin("ensure")
    folder = user_scene.home / "postgres"
    while not (folder / "data.new" / "base").exists() and not (folder / "data").exists():
        os.sched_yield()
    killed.end(signal.SIGKILL)
    assert not (folder / "data").exists()
    found = driver.ensure()
    assert found["started"] is True
    assert select(found["url"], "SELECT 1") == 1


def test_a_start_behind_a_process_that_hangs_names_it(user_scene: Scene) -> None:
    driver = user_scene.driver()
    driver.ensure()
    driver.release()
    with (user_scene.home / "postgres" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4242")
        lock.flush()
        with pytest.raises(Failed, match="process 4242 has been starting or stopping"):
            driver.ensure(patience=0.3)
    assert driver.ensure()["started"] is True
