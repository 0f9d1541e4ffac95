"""The daemon: what it says first, what it does with its files while it runs, and how it stops."""

from __future__ import annotations

import signal
from collections.abc import Callable

from psycopg import conninfo
from workplace import Daemon, Workplace

Start = Callable[..., Daemon]

SAY = [{"text": "You said: {{input}}"}]
CURRENT = "SELECT definition_version FROM runtime.agents WHERE handle = 'helper'"


async def test_its_first_line_says_which_database_it_is_on_without_the_password(place: Workplace, start: Start) -> None:
    daemon = start(drain=True)
    assert await daemon.ends() == 0
    first = daemon.lines[0]
    assert first["event"] == "cirkelline.up"
    assert first["database"].startswith(f"database {conninfo.conninfo_to_dict(place.db.url)['dbname']} at ")


async def test_drain_does_all_there_is_to_do_and_ends(place: Workplace, start: Start) -> None:
    place.write("helper", SAY)
    daemon = start("first", drain=True)
    assert await daemon.ends() == 0  # the agent is there by now
    await place.submit_many("helper", 30)
    later = await place.submit("helper")
    await place.execute("UPDATE runtime.tasks SET run_at = now() + interval '1 day' WHERE id = %s", later)
    assert await start("second", drain=True).ends() == 0
    assert await place.value("SELECT count(*) FROM runtime.tasks WHERE status = 'completed'") == 30
    assert (await place.task(later)).status == "pending"
    assert await place.value("SELECT count(*) FROM runtime.workers") == 0


async def test_a_changed_file_is_applied_and_a_running_task_keeps_the_version_it_started_with(
    place: Workplace, start: Start
) -> None:
    place.write("helper", [{"text": "old", "delay": "3s"}])
    daemon = start()
    await daemon.says("worker.ready")
    before = await place.submit("helper")
    await place.running(before)
    path = place.write("other", [{"text": "new"}])
    path.unlink()  # only its script is wanted
    place.write("helper", [{"text": "old", "delay": "3s"}], model=f"scripted:{place.configs}/other.script.yaml")
    await place.becomes(2, CURRENT)
    await daemon.says("agent.ready", agent="helper", version=2)
    after = await place.submit("helper")
    old, new = await place.ended(before, after)
    assert (old.result["output"], old.definition_version) == ("old", 1)
    assert (new.result["output"], new.definition_version) == ("new", 2)


async def test_a_bad_file_is_reported_at_its_place_while_the_last_good_version_and_the_others_serve(
    place: Workplace, start: Start
) -> None:
    path = place.write("helper", SAY)
    place.write("other", SAY)
    (place.configs / "broken.yaml").write_text("name: broken\ninstrutions: hm\n")
    daemon = start()
    await daemon.says("worker.ready")
    wrong = daemon.said("agent_file.wrong")
    assert [line["problem"].split(": ")[0] for line in wrong] == [
        f"{place.configs}/broken.yaml:{at}" for at in ("1:1", "2:1")
    ]
    assert any("did you mean" in line["problem"] for line in wrong)

    path.write_text(path.read_text() + "}")
    await daemon.says("files.changed")
    outputs = [await place.result(await place.submit(name, "hi")) for name in ("helper", "other")]
    assert [output["output"] for output in outputs] == ["You said: hi"] * 2
    assert await place.value(CURRENT) == 1

    path.unlink()
    (place.configs / "broken.yaml").unlink()
    gone = await daemon.says("agent_file.gone")
    assert (gone["agent"], gone["still"]) == ("helper", "serving")
    assert (await place.result(await place.submit("helper", "hi")))["output"] == "You said: hi"


async def test_a_strict_daemon_refuses_a_bad_file_and_applies_nothing(place: Workplace, start: Start) -> None:
    place.write("helper", SAY)
    (place.configs / "broken.yaml").write_text("name: broken\ninstrutions: hm\n")
    daemon = start(strict=True)
    assert await daemon.ends() == 2
    assert await place.value("SELECT count(*) FROM runtime.agents") == 0


async def test_a_changed_tool_is_used_by_the_next_task(place: Workplace, start: Start) -> None:
    place.tool("price", "def price() -> str:\n    return 'ten'\n")
    place.write("helper", [{"tool": "price"}, {"text": "{{last_tool}}"}], tools=[{"python": "price:price"}])
    daemon = start()
    await daemon.says("worker.ready")
    assert (await place.result(await place.submit("helper")))["output"] == "ten"
    place.tool("price", "def price() -> str:\n    return 'eleven, since prices rise'\n")
    await daemon.says("files.changed")
    await daemon.says("agent.ready", agent="helper")
    assert (await place.result(await place.submit("helper")))["output"] == "eleven, since prices rise"


async def test_an_agent_without_its_tool_waits_for_it_and_then_serves(place: Workplace, start: Start) -> None:
    place.tool("price", "def price() -> str:\n    return 'ten'\n")
    await place.agent("helper", [{"tool": "price"}, {"text": "{{last_tool}}"}], tools=[{"python": "price:price"}])
    (place.tools / "price.py").unlink()
    daemon = start()
    refused = await daemon.says("agent.unservable", agent="helper")
    assert "price.py" in refused["reason"]
    task_id = await place.submit("helper")
    place.tool("price", "def price() -> str:\n    return 'ten'\n")
    (task,) = await place.ended(task_id)
    assert (task.result["output"], task.attempt) == ("ten", 1)


async def test_sigterm_lets_running_tasks_finish_and_claims_no_more(place: Workplace, start: Start) -> None:
    place.write("helper", [{"text": "done", "delay": "2s"}])
    daemon = start()
    await daemon.says("worker.ready")
    running = await place.submit("helper")
    await place.running(running)
    daemon.signal(signal.SIGTERM)
    await daemon.says("worker.draining")
    late = await place.submit("helper")
    assert await daemon.ends() == 0
    assert ((await place.task(running)).status, (await place.task(late)).status) == ("completed", "pending")
    assert await place.value("SELECT count(*) FROM runtime.workers") == 0


async def test_a_second_ctrl_c_gives_running_tasks_back_at_once(place: Workplace, start: Start) -> None:
    place.write("helper", [{"text": "done", "delay": "60s"}])
    daemon = start()
    await daemon.says("worker.ready")
    task_id = await place.submit("helper")
    await place.running(task_id)
    daemon.signal(signal.SIGINT)
    await daemon.says("worker.draining")
    daemon.signal(signal.SIGINT)
    assert await daemon.ends() == 130
    task = await place.task(task_id)
    assert (task.status, task.error, task.deaths) == ("pending", "its worker stopped", 0)
    assert await place.value("SELECT count(*) FROM runtime.queue") == 1


async def test_what_outlasts_the_grace_period_is_given_back(place: Workplace, start: Start) -> None:
    place.write("helper", [{"text": "done", "delay": "60s"}])
    daemon = start(environ={"CIRKELLINE_GRACE": "1"})
    await daemon.says("worker.ready")
    task_id = await place.submit("helper")
    await place.running(task_id)
    daemon.signal(signal.SIGTERM)
    assert await daemon.ends() == 0
    assert (await place.task(task_id)).status == "pending"


async def test_a_daemon_asked_to_drain_through_the_database_does_so(place: Workplace, start: Start) -> None:
    daemon = start()
    await daemon.says("worker.ready")
    await place.execute("UPDATE runtime.workers SET draining = TRUE")
    assert await daemon.ends() == 0
    assert daemon.said("worker.asked_to_drain")


async def test_a_given_database_that_does_not_answer_is_an_error_and_never_replaced(
    place: Workplace, start: Start
) -> None:
    url = "postgresql://nobody:hunter22@127.0.0.1:1/nothing"
    daemon = start(environ={"DATABASE_URL": url, "CIRKELLINE_HOME": str(place.folder / "home")})
    assert await daemon.ends() == 1
    said = (place.folder / "daemon.log").read_text()
    assert "cannot reach database nothing at 127.0.0.1:1" in said
    assert "hunter22" not in said
    assert not (place.folder / "home").exists()
