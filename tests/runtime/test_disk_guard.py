"""A worker on a full disk claims nothing, says so once, and goes on when there is room."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from workplace import Workplace

from cirkelline.configs.settings import Settings
from cirkelline.runtime import disk

Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - as shutil has it


class Disk:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, megabytes: int) -> None:
        self.megabytes = megabytes
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, self.megabytes * 1_000_000))


async def test_nothing_is_claimed_below_the_limit_and_work_goes_on_above(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.agent("parrot", [{"text": "hi"}])
    full = Disk(monkeypatch, 1200)
    with capture_logs() as logs:
        async with place.working() as worker:
            (first,) = await place.ended(await place.submit("parrot"))
            full.megabytes = 999
            while not any(line["event"] == "worker.disk_low" for line in logs):
                await worker._disk.look()
            task_id = await place.submit("parrot")
            for _ in range(3):
                assert await worker._claim(4, worker._registry.servable) == []
                await worker._disk.look()
            await place.becomes("pending", "SELECT status FROM runtime.tasks WHERE id = %s", task_id)
            await place.becomes(0, "SELECT count(*) FROM runtime.offers")
            full.megabytes = 1000
            (second,) = await place.ended(task_id)
    assert (first.status, second.status) == ("completed", "completed")
    assert [line["event"] for line in logs if "disk" in line["event"]] == ["worker.disk_low", "worker.disk_enough"]


def test_both_the_home_and_the_embedded_data_are_watched(tmp_path: Path) -> None:
    found = disk.guard(Settings(home=tmp_path / "not" / "yet"))
    assert found.folders[0] == tmp_path / "not" / "yet"
    assert len(found.folders) == 2
    assert disk.free_megabytes(found.folders[0]) > 0
    assert len(disk.guard(Settings(home=tmp_path, database_url="postgresql://h/d")).folders) == 1


async def test_nought_turns_it_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Disk(monkeypatch, 0)
    found = disk.DiskGuard([tmp_path], 0)
    assert (await found.look(), found.is_low) == (False, False)
