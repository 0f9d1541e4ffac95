"""A change of a file is seen, once, whether the operating system tells of it or not."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from cirkelline.runtime.watching import Watch, Watched


@asynccontextmanager
async def watched(*folders: Watched, poll: float = 0.1) -> AsyncIterator[asyncio.Queue[list[Watched]]]:
    seen: asyncio.Queue[list[Watched]] = asyncio.Queue()
    watching = Watch(folders, poll=poll)
    await watching.look()

    async def watch() -> None:
        async with aclosing(watching.changes()) as changes:
            async for changed in changes:
                seen.put_nowait(changed)

    task = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait({task})


async def next_of(seen: asyncio.Queue[list[Watched]]) -> list[Watched]:
    return await asyncio.wait_for(seen.get(), 20)


@pytest.fixture(params=["told by the system", "polled"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "polled":
        monkeypatch.setitem(sys.modules, "watchfiles", None)


@pytest.mark.usefixtures("_way")
async def test_a_file_that_comes_changes_and_goes_is_seen_each_time(tmp_path: Path) -> None:
    configs = Watched(tmp_path, (".yaml",))
    file = tmp_path / "below" / "agent.yaml"
    file.parent.mkdir()
    async with watched(configs) as seen:
        for act in (lambda: file.write_text("a"), lambda: file.write_text("bb"), file.unlink):
            await asyncio.to_thread(act)
            assert await next_of(seen) == [configs]


@pytest.mark.usefixtures("_way")
async def test_only_the_folder_in_which_something_that_matters_changed_is_told(tmp_path: Path) -> None:
    for name in ("configs", "tools", "tools/__pycache__"):
        (tmp_path / name).mkdir()
    configs, tools = Watched(tmp_path / "configs", (".yaml",)), Watched(tmp_path / "tools", (".py",))
    async with watched(configs, tools) as seen:
        (tmp_path / "configs" / "notes.txt").write_text("not an agent")
        (tmp_path / "tools" / "__pycache__" / "tool.py").write_text("not a tool")
        (tmp_path / "tools" / "tool.py").write_text("a tool")
        assert await next_of(seen) == [tools]
        assert seen.empty()


async def test_a_folder_that_is_made_later_is_seen(tmp_path: Path) -> None:
    later = Watched(tmp_path / "later", (".yaml",))
    async with watched(later) as seen:
        later.folder.mkdir()
        (later.folder / "agent.yaml").write_text("a")
        assert await next_of(seen) == [later]


async def test_an_editors_exchange_of_a_file_for_one_of_the_same_size_and_time_is_seen(tmp_path: Path) -> None:
    configs = Watched(tmp_path, (".yaml",))
    file, new = tmp_path / "agent.yaml", tmp_path / "agent.yaml.new"
    for each, text in ((file, "a"), (new, "b")):
        each.write_text(text)
        os.utime(each, (1, 1))
    async with watched(configs) as seen:
        new.rename(file)
        assert await next_of(seen) == [configs]


async def test_links_that_lead_back_to_their_parent_end_nowhere(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    configs = Watched(tmp_path, (".yaml",))
    async with watched(configs) as seen:
        (tmp_path / "agent.yaml").write_text("a")
        assert await next_of(seen) == [configs]
