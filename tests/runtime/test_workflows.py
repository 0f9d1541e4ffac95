"""A workflow's run: its steps are recorded once, in order, and a later attempt goes on after the last one."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from workflow_scene import DIGEST, WorkflowScene
from workplace import Workplace, until

from cirkelline.state import claims, journal, parking, tasks, workers
from cirkelline.state.journal import Fence, Step


@pytest.fixture
def scene(place: Workplace) -> WorkflowScene:
    return WorkflowScene(place)


async def ended(scene: WorkflowScene, run_id: UUID) -> Any:
    """Let a worker run a run to its end; return its result."""
    async with scene.place.working():
        (task,) = await scene.place.ended(run_id)
    return task.result


async def fails(scene: WorkflowScene, name: str, given: Any = None) -> tuple[str, str]:
    """Run a workflow that fails; return the kind of its error and the sentence."""
    result = await ended(scene, await scene.submit(name, given))
    return result["error"]["type"], result["error"]["message"]


async def retried(scene: WorkflowScene, run_id: UUID, *, from_start: bool = False) -> Any:
    async with scene.place.db.connection() as conn:
        await tasks.retry(conn, run_id, from_start=from_start)
    return await ended(scene, run_id)


async def test_a_run_gives_what_its_workflow_returns_and_records_every_step_once(scene: WorkflowScene) -> None:
    scene.write("reports", DIGEST)
    run_id = await scene.submit("reports:digest", {"folder": "x"})
    assert await scene.run(run_id) == ("reports:digest", "PENDING", None, [], {"folder": "x"}, None, None)
    assert await ended(scene, run_id) == {"output": {"pages": 2, "limit": 3}, "steps": 2}
    done = ("reports:digest", "COMPLETED", None, ["fetch", "count"], {"folder": "x"}, {"pages": 2, "limit": 3}, None)
    assert await scene.run(run_id) == done
    metrics = await scene.place.value("SELECT metrics FROM ai.workflow_runs")
    assert (metrics["attempts"], set(metrics["steps"]), metrics["steps"]["count"]["attempt"]) == (
        1,
        {"fetch", "count"},
        1,
    )


async def test_a_failed_run_is_retried_at_the_step_that_failed(scene: WorkflowScene) -> None:
    scene.write("reports", DIGEST)
    (scene.place.folder / "fail").touch()
    run_id = await scene.submit("digest", {"folder": "x"})
    error = (await ended(scene, run_id))["error"]
    assert error == {"type": "StepFailed", "message": "step 'count' failed: ValueError: no counting today"}
    assert (await scene.run(run_id))[1:4] == ("FAILED", "count", ["fetch"])
    assert (await scene.run(run_id))[6] == error["message"]
    (scene.place.folder / "fail").unlink()
    assert (await retried(scene, run_id))["output"] == {"pages": 2, "limit": 3}
    assert scene.marks == ["fetch", "count", "count"]
    assert (await scene.run(run_id))[1:4] == ("COMPLETED", None, ["fetch", "count"])


async def test_a_retry_from_the_start_forgets_the_steps_in_the_record_too(scene: WorkflowScene) -> None:
    scene.write("reports", DIGEST)
    (scene.place.folder / "fail").touch()
    run_id = await scene.submit("digest", {"folder": "x"})
    await ended(scene, run_id)
    async with scene.place.db.connection() as conn:
        await tasks.retry(conn, run_id, from_start=True)
    assert (await scene.run(run_id))[1:4] == ("PENDING", None, [])
    await ended(scene, run_id)
    assert scene.marks == ["fetch", "count"] * 2


async def test_what_a_step_gave_has_the_type_its_function_says_also_when_it_is_read_from_the_record(
    scene: WorkflowScene,
) -> None:
    scene.write(
        "typed",
        """
        @dataclass
        class Page:
            name: str
            day: date
            size: tuple[int, int]

        def fetch() -> dict[str, Page]:
            day = date(2026, 1, 2)
            return {"long": Page("a", day, (1, 2)), "b": Page("b", day, (3, 4))}

        def stop(said: str) -> None:
            if (PLACE / "fail").exists():
                raise RuntimeError(said)

        @workflow
        async def typed(run: WorkflowRun) -> str:
            pages = await run.step("fetch", fetch)
            said = "; ".join(f"{key} {page.name} {page.day:%d} {page.size[1]} {type(page.size).__name__}"
                             for key, page in pages.items())
            await run.step("stop", stop, said)
            return said
        """,
    )
    (scene.place.folder / "fail").touch()
    run_id = await scene.submit("typed")
    said = "b b 02 4 tuple; long a 02 2 tuple"
    assert (await ended(scene, run_id))["error"]["message"].endswith(said)
    (scene.place.folder / "fail").unlink()
    assert (await retried(scene, run_id))["output"] == said  # or the step `stop` would have had other arguments


async def test_a_workflow_may_catch_a_failed_step_and_finds_it_failed_when_it_goes_on(scene: WorkflowScene) -> None:
    scene.write(
        "careful",
        """
        def risky() -> None:
            mark("risky")
            raise KeyError("gone")

        def last() -> int:
            mark("last")
            if (PLACE / "fail").exists():
                raise RuntimeError("not yet")
            return 7

        @workflow
        async def careful(run: WorkflowRun) -> list:
            try:
                await run.step("risky", risky)
            except StepFailed as error:
                caught = [error.step, error.kind]
            return [*caught, await run.step("last", last)]
        """,
    )
    (scene.place.folder / "fail").touch()
    run_id = await scene.submit("careful")
    await ended(scene, run_id)
    (scene.place.folder / "fail").unlink()
    assert (await retried(scene, run_id))["output"] == ["risky", "KeyError", 7]
    assert scene.marks == ["risky", "last", "last"]
    assert (await scene.run(run_id))[3] == ["last"]


WRONG = """
def one(*given, **named) -> int:
    return 1

@workflow
async def twice(run: WorkflowRun) -> None:
    await run.step("one", one)
    await run.step("one", one)

@workflow
async def together(run: WorkflowRun) -> None:
    await asyncio.gather(run.step("one", one), run.step("two", one))

@workflow
async def nameless(run: WorkflowRun) -> None:
    await run.step("", one)

@workflow
async def unwritable(run: WorkflowRun) -> None:
    await run.step("one", one, object())

@workflow
async def swallowed(run: WorkflowRun) -> str:
    try:
        await run.step("one", one, object())
    except Exception:
        return "all is well"

@workflow
async def unkept(run: WorkflowRun) -> object:
    return object()

def lies() -> int:
    return "seven"

@workflow
async def liar(run: WorkflowRun) -> None:
    await run.step("lies", lies)

@workflow
async def lent(run: WorkflowRun) -> None:
    await run.step("one", lies, effects="transactional")

@workflow
async def silent(run: WorkflowRun) -> None:
    await run.step("one", one, effects="perhaps")
"""


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("twice", "BadStep", "this run has a step 'one' already"),
        ("together", "BadStep", "do several things at once inside of one step"),
        ("nameless", "BadStep", "cannot be a step's name"),
        ("unwritable", "BadStep", "an argument of step 'one' cannot be written as JSON"),
        ("swallowed", "BadStep", "an argument of step 'one' cannot be written as JSON"),
        ("unkept", "BadStep", "what workflow 'unkept' returned cannot be written as JSON"),
        ("liar", "StepFailed", "gave something else than its function says it returns"),
        ("lent", "BadStep", "its function has no parameter ctx: ToolContext"),
        (
            "silent",
            "WorkflowDefinitionError",
            "effects is one of read, idempotent, transactional or once, not 'perhaps'",
        ),
    ],
)
async def test_a_wrong_step_fails_the_run_with_a_sentence(
    scene: WorkflowScene, name: str, kind: str, says: str
) -> None:
    scene.write("wrong", WRONG)
    found, message = await fails(scene, name)
    assert (found, says in message) == (kind, True), message


THREE = """
def give(what: str) -> str:
    mark(what)
    if (PLACE / "fail").exists() and what == "c":
        raise RuntimeError("not yet")
    return what

@workflow
async def three(run: WorkflowRun) -> list:
    first = await run.step("a", give, "a")
    second = await run.step("b", give, "b")
    return [first, second, await run.step("c", give, "c")]
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('run.step("b", give', 'run.step("z", give', "came to step 'z' where 'b' is on record"),
        ('"b", give, "b"', '"b", give, "z"', "calls step 'b' with other arguments than those on record"),
        ("    second =", '    return "early"\n    second =', "returned before step 2, 'b', which is on record"),
        ("what: str) -> str:", "what: str) -> int:", "reads what step 'a' gave as another type than it was"),
    ],
)
async def test_a_run_whose_code_asks_for_other_steps_than_are_on_record_diverges(
    scene: WorkflowScene, old: str, new: str, says: str
) -> None:
    scene.write("steps", THREE)
    (scene.place.folder / "fail").touch()
    run_id = await scene.submit("three")
    await ended(scene, run_id)
    scene.write("steps", THREE.replace(old, new))
    error = (await retried(scene, run_id))["error"]
    assert error["type"] == "JournalDiverged"
    assert says in error["message"]
    assert f"`cirkelline tasks retry {run_id} --from-start`" in error["message"]
    assert scene.marks == ["a", "b", "c"]
    (scene.place.folder / "fail").unlink()
    scene.write("steps", THREE.replace('"c"', '"d"'))
    assert (await retried(scene, run_id, from_start=True))["output"] == ["a", "b", "d"]


async def begun_by_a_dead_worker(scene: WorkflowScene, run_id: UUID, *steps: Step) -> None:
    """Leave a run as a worker leaves it that died in the last of these steps."""
    agent = await scene.place.value("SELECT agent_id FROM runtime.tasks WHERE id = %s", run_id)
    worker = uuid4()
    async with scene.place.db.connection() as conn:
        await workers.register(conn, worker, host="here", pid=1, release="0", slots=1, lease=60.0)
        (claim,) = await claims.claim(conn, worker, [agent], slots=1)
        clock = {"clock": "2026-01-02T03:04:05+00:00", "state": None}
        context = Step(position=0, call=-1, kind="context", name="paying", format=1, output=clock)
        await journal.write(conn, Fence(worker, run_id, claim.attempt), [context, *steps])
        await conn.execute("UPDATE runtime.workers SET seen = now() - lease * 2 WHERE id = %s", [worker])


async def parked(scene: WorkflowScene, run_id: UUID) -> str:
    """Wait until a run is parked, and return what for."""
    await scene.place.becomes("waiting", "SELECT status FROM runtime.tasks WHERE id = %s", run_id)
    assert (await scene.run(run_id))[1] == "RUNNING"
    async with scene.place.db.connection() as conn:
        (question,) = await parking.find(conn, run_id)
    return str(question.kind)


@pytest.mark.parametrize(
    ("said", "again"),
    [
        ("", True),
        (', effects="read"', True),
        (', effects="once", on_unknown="retry"', True),
        (', effects="once", on_unknown="fail"', False),
    ],
)
async def test_what_becomes_of_a_step_that_had_begun_is_what_its_effects_say(
    scene: WorkflowScene, said: str, again: bool
) -> None:
    scene.write(
        "money",
        f"""
        def pay(cents: int) -> int:
            mark("pay")
            return cents

        @workflow
        async def paying(run: WorkflowRun) -> list:
            return [await run.step("pay", pay, 500{said}), run.attempt, str(run.began)]
        """,
    )
    run_id = await scene.submit("paying")
    begun = Step(position=1, call=-1, kind="step", name="pay", format=0)  # of another format: its hash is not compared
    await begun_by_a_dead_worker(scene, run_id, begun)
    assert (await scene.run(run_id))[1:4] == ("RUNNING", "pay", [])
    result = await ended(scene, run_id)
    if again:
        assert (result["output"], scene.marks) == ([500, 2, "2026-01-02 03:04:05+00:00"], ["pay"])
        return
    assert (result["error"]["type"], scene.marks) == ("OutcomeUnknown", [])
    assert result["error"]["message"].startswith("nobody knows whether step 'pay' happened")
    assert (await scene.run(run_id))[1:4] == ("FAILED", "pay", [])


BOOKS = """
async def book(ctx: ToolContext, n: int) -> int:
    mark("book")
    await ctx.connection.execute("INSERT INTO public.booked VALUES (%s)", [n])
    if n < 0:
        raise ValueError("no such number")
    return n

def leave(ctx: ToolContext) -> None:
    mark("leave")
    ctx.connection.execute("INSERT INTO public.booked VALUES (7)")
    ctx.connection.execute("COMMIT")

@workflow
async def booking(run: WorkflowRun, n: int) -> int:
    return await run.step("book", book, n, effects="transactional")

@workflow
async def leaving(run: WorkflowRun) -> None:
    await run.step("leave", leave, effects="transactional")
"""


async def test_a_transactional_step_that_raises_has_done_nothing(scene: WorkflowScene) -> None:
    scene.write("books", BOOKS)
    await scene.place.execute("CREATE TABLE public.booked (n INTEGER)")
    assert (await ended(scene, await scene.submit("booking", {"n": 3})))["output"] == 3
    assert (await fails(scene, "booking", {"n": -1}))[0] == "StepFailed"
    assert await scene.place.rows("SELECT n FROM public.booked") == [(3,)]


COLLIDE = """
CREATE SEQUENCE public.tries;
CREATE FUNCTION public.collide() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('public.tries') < 3 THEN
        RAISE EXCEPTION 'could not serialize' USING ERRCODE = '40001';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER collide AFTER INSERT ON public.booked DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION public.collide()
"""


async def test_a_transactional_step_whose_commit_collides_is_done_again_and_counts_once(scene: WorkflowScene) -> None:
    counting = BOOKS.replace("    if n < 0:", '    ctx.state.increment("booked")\n    if n < 0:')
    scene.write("books", counting)
    await scene.place.execute("CREATE TABLE public.booked (n INTEGER)")
    await scene.place.execute(COLLIDE)
    assert (await ended(scene, await scene.submit("booking", {"n": 3})))["output"] == 3
    assert scene.marks == ["book"] * 3
    assert await scene.place.rows("SELECT n FROM public.booked") == [(3,)]
    assert await scene.place.value("SELECT state -> 'work' FROM runtime.agent_states") == {"booked": 1}


async def test_what_a_failed_step_did_to_the_state_does_not_count(scene: WorkflowScene) -> None:
    scene.write(
        "ends",
        """
        def end(ctx: ToolContext, how: str) -> None:
            ctx.state.increment(how)
            raise EndRun("enough") if how == "end" else ValueError("enough")

        @workflow
        async def ending(run: WorkflowRun) -> list:
            kinds = []
            for how in ("end", "fail"):
                try:
                    await run.step(how, end, how)
                except StepFailed as error:
                    kinds.append(error.kind)
            return kinds
        """,
    )
    assert (await ended(scene, await scene.submit("ending")))["output"] == ["StepEnded", "ValueError"]
    assert await scene.place.value("SELECT state -> 'work' FROM runtime.agent_states") == {}


async def test_a_step_that_left_its_transaction_is_never_done_again_by_itself(scene: WorkflowScene) -> None:
    scene.write("books", BOOKS)
    await scene.place.execute("CREATE TABLE public.booked (n INTEGER)")
    run_id = await scene.submit("leaving")
    assert (await ended(scene, run_id))["error"]["type"] == "LeftTransaction"
    async with scene.place.db.connection() as conn:
        await tasks.retry(conn, run_id)
    async with scene.place.working():
        await parked(scene, run_id)
    assert scene.marks == ["leave"]


SLOW = """
async def wait(name: str) -> str:
    mark(f"wait {name}")
    while (PLACE / f"hold-{name}").exists():
        await asyncio.sleep(0.01)
    return name

def wait_plainly(name: str) -> str:
    mark(f"wait {name}")
    hold(name)
    return name

@workflow(wall="300ms")
async def short(run: WorkflowRun) -> str:
    return await run.step("wait", wait, "gate")

@workflow
async def long(run: WorkflowRun) -> list:
    first = await run.step("first", wait, "first")
    return [first, await run.step("second", wait, "gate")]

@workflow
async def plain(run: WorkflowRun) -> str:
    return await run.step("wait", wait_plainly, "gate")
"""


async def is_at(scene: WorkflowScene, mark: str) -> None:
    async def look() -> bool:
        return mark in scene.marks

    await until(look, mark)


async def test_a_cancelled_run_failed_with_that_word_at_the_step_where_it_was(scene: WorkflowScene) -> None:
    scene.write("slow", SLOW)
    scene.hold("gate")
    run_id = await scene.submit("long")
    async with scene.place.working():
        await is_at(scene, "wait gate")
        async with scene.place.db.connection() as conn:
            assert await tasks.cancel(conn, run_id) == "asked"
        (task,) = await scene.place.ended(run_id)
    assert (task.status, task.error) == ("cancelled", "cancelled")
    assert (await scene.run(run_id))[1:] == ("FAILED", "second", ["first"], {}, None, "cancelled")
    scene.let_go("gate")
    assert (await retried(scene, run_id))["output"] == ["first", "gate"]
    assert scene.marks == ["wait first", "wait gate", "wait gate"]


async def test_an_attempt_that_takes_longer_than_its_workflow_allows_fails(scene: WorkflowScene) -> None:
    scene.write("slow", SLOW)
    scene.hold("gate")
    kind, message = await fails(scene, "short")
    assert (kind, message.startswith("the run took longer than 300ms in one attempt")) == ("WallLimit", True)


async def test_a_run_that_a_leaving_worker_gave_back_goes_on_at_its_step(scene: WorkflowScene) -> None:
    scene.write("slow", SLOW)
    scene.hold("gate")
    run_id = await scene.submit("long")
    async with scene.place.working():
        await is_at(scene, "wait gate")
    assert (await scene.run(run_id))[1:4] == ("PENDING", "second", ["first"])
    scene.let_go("gate")
    assert (await ended(scene, run_id))["output"] == ["first", "gate"]
    assert scene.marks == ["wait first", "wait gate", "wait gate"]


async def test_a_plain_step_holds_up_nothing_else_of_its_worker(scene: WorkflowScene) -> None:
    scene.write("slow", SLOW)
    scene.write("reports", DIGEST)
    scene.hold("gate")
    held = await scene.submit("plain")
    async with scene.place.working():
        await is_at(scene, "wait gate")
        (other,) = await scene.place.ended(await scene.submit("digest", {"folder": "x"}))
        assert (other.status, (await scene.run(held))[1]) == ("completed", "RUNNING")
        scene.let_go("gate")
        await scene.place.ended(held)


async def test_a_worker_without_the_workflow_leaves_its_runs_to_others(scene: WorkflowScene) -> None:
    scene.write("reports", DIGEST)
    run_id = await scene.submit("digest", {"folder": "x"})
    file = scene.place.tools / "reports.py"
    text = file.read_text()
    file.unlink()
    await scene.place.agent("helper", [{"text": "hello"}])
    async with scene.place.working():
        await scene.place.ended(await scene.place.submit("helper"))
        assert (await scene.run(run_id))[1] == "PENDING"
    file.write_text(text)
    assert (await ended(scene, run_id))["output"] == {"pages": 2, "limit": 3}


async def test_steps_may_keep_something_in_the_workflow_s_own_state(scene: WorkflowScene) -> None:
    scene.write(
        "news",
        """
        def fetch(ctx: ToolContext) -> int:
            ctx.state.increment("seen", 2)
            return ctx.state["seen"]

        @workflow
        async def news(run: WorkflowRun) -> int:
            return await run.step("fetch", fetch)
        """,
    )
    assert [(await ended(scene, await scene.submit("news")))["output"] for _ in range(2)] == [2, 4]


async def test_a_task_of_a_workflow_that_is_no_run_is_refused_in_writing(scene: WorkflowScene) -> None:
    scene.write("reports", DIGEST)
    await ended(scene, await scene.submit("digest", {"folder": "x"}))
    stray = await scene.place.submit("workflow:reports:digest")
    error = (await ended(scene, stray))["error"]
    assert (error["type"], "`cirkelline workflows run reports:digest`" in error["message"]) == ("NoRun", True)
    assert await scene.place.value("SELECT count(*) FROM ai.workflow_runs") == 1
