"""Whatever is done to tasks in whatever order, the database agrees with a model that fits on one screen."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

import scene
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cirkelline.state import agents, claims, connection, journal, offers, parking, tasks
from cirkelline.state.claims import Claim
from cirkelline.state.journal import Fence, Step, Written
from cirkelline.state.parking import Decided, Verdict

Ending = Literal["completed", "failed", "cancelled"]
ENDINGS = st.sampled_from(["completed", "failed", "cancelled"])


@dataclass
class Task:
    id: UUID
    agent: int
    priority: int
    place: int
    status: str = "pending"
    claim: Claim | None = None
    holder: UUID | None = None
    attempt: int = 0
    deaths: int = 0
    asked: bool = False
    questions: int = 0
    open_questions: int = 0


@dataclass
class Agent:
    id: UUID
    cap: int | None
    paused: bool = False
    increments: int = 0
    versions: int = 0
    passed: dict[int, Counter[int]] = field(default_factory=dict)


@dataclass
class Model:
    agents: list[Agent] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    workers: list[UUID] = field(default_factory=list)
    stale: list[tuple[UUID, Claim]] = field(default_factory=list)
    offers: dict[UUID, set[int]] = field(default_factory=dict)

    def takers(self, agent: int) -> set[UUID]:
        """The workers that may be handed a task of this agent, were one submitted now."""
        its = self.agents[agent]
        if its.paused or its.cap is not None or any(task.status == "pending" for task in self.tasks):
            return set()
        return {worker for worker, agents in self.offers.items() if agent in agents}

    def running(self, agent: int | None = None) -> list[Task]:
        return [task for task in self.tasks if task.status == "running" and agent in {None, task.agent}]

    def line(self, agent: int) -> list[Task]:
        """What an agent has in line, in the order in which it runs."""
        pending = [task for task in self.tasks if task.status == "pending" and task.agent == agent]
        return sorted(pending, key=lambda task: (-task.priority, task.place))

    def room(self, agent: Agent) -> int:
        number = self.agents.index(agent)
        return 0 if agent.paused else 99 if agent.cap is None else agent.cap - len(self.running(number))

    def next(self, slots: int) -> list[Task]:
        """What a claim may take: the best first, as far as each agent has room; which of equals is a matter of turns."""
        runnable = [task for n, agent in enumerate(self.agents) for task in self.line(n)[: max(self.room(agent), 0)]]
        return sorted(runnable, key=lambda task: -task.priority)[:slots]

    def take_turns(self, taken: list[Task]) -> None:
        """Of those that could have run, none is passed over twice for the same other one."""
        priority = min((task.priority for task in taken), default=0)
        last = Counter(task.agent for task in taken if task.priority == priority)
        for number, agent in enumerate(self.agents):
            runnable = self.line(number)[: max(self.room(agent), 0)]
            could = any(task.priority == priority for task in runnable)
            if last and (number in last or not could):
                agent.passed.pop(priority, None)
            elif could:
                agent.passed.setdefault(priority, Counter()).update(last)
                assert max(agent.passed[priority].values(), default=0) <= 1
            for other in [other for other in agent.passed if not any(task.priority == other for task in runnable)]:
                del agent.passed[other]  # it cannot run at all just now

    def ended(self, task: Task, status: str) -> None:
        if task.holder and task.claim:
            self.stale.append((task.holder, task.claim))
        task.status, task.holder, task.claim = status, None, None

    def given_back(self, task: Task) -> None:
        self.ended(task, "cancelled" if task.asked else "pending")


class Dispatch(RuleBasedStateMachine):
    """One connection does what many would do, in any order."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.model = Model()
        self.runner = asyncio.Runner()
        self.conn = self.run(connection.connect(url))

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    def rows(self, statement: str, *parameters: Any) -> Any:
        return self.run(scene.rows(self.conn, statement, *parameters))

    def teardown(self) -> None:
        self.run(self.conn.close())
        self.runner.close()

    def worker(self, data: st.DataObject) -> UUID:
        return data.draw(st.sampled_from(self.model.workers))

    @initialize(caps=st.lists(st.none() | st.integers(0, 2), min_size=1, max_size=3))
    def begin(self, caps: list[int | None]) -> None:
        for table in ("tasks", "agent_states", "agents", "agent_heads", "claims", "workers", "offers", "definitions"):
            self.rows_deleted(table)
        for number, cap in enumerate(caps):
            self.model.agents.append(Agent(self.run(scene.agent(self.conn, f"a{number}", cap=cap)), cap))
        self.join()

    def rows_deleted(self, table: str) -> None:
        self.run(self.conn.execute(f"DELETE FROM runtime.{table}"))  # type: ignore[arg-type]

    @rule()
    def join(self) -> None:
        self.model.workers.append(self.run(scene.worker(self.conn)))

    @rule(data=st.data(), priority=st.integers(-1, 1))
    def submit(self, data: st.DataObject, priority: int) -> None:
        agent = data.draw(st.integers(0, len(self.model.agents) - 1))
        insert = "INSERT INTO runtime.tasks (agent_id, priority) VALUES (%s, %s) RETURNING id, sequence"
        ((identity, place),) = self.rows(insert, self.model.agents[agent].id, priority)
        self.model.tasks.append(Task(identity, agent, priority, place))

    @rule(data=st.data(), agents=st.sets(st.integers(0, 2)))
    def offer(self, data: st.DataObject, agents: set[int]) -> None:
        owner, agents = self.worker(data), agents & set(range(len(self.model.agents)))
        listed = [self.model.agents[number].id for number in agents]
        stood = self.run(offers.make(self.conn, owner, "cirkelline_own", listed))
        assert stood is (owner in self.model.offers)
        self.model.offers.pop(owner, None)
        if agents:
            self.model.offers[owner] = agents

    @rule(data=st.data())
    def submit_to_be_handed_over(self, data: st.DataObject) -> None:
        agent = data.draw(st.integers(0, len(self.model.agents) - 1))
        takers, its = self.model.takers(agent), self.model.agents[agent].id
        identity = self.run(tasks.submit(self.conn, agent_id=its, payload=None))
        ((place, status, holder),) = self.rows(
            "SELECT sequence, status, worker FROM runtime.tasks WHERE id = %s", identity
        )
        task = Task(identity, agent, 0, place)
        if takers:
            assert (status, holder in takers) == ("running", True)
            del self.model.offers[holder]
            task.status, task.holder, task.attempt = "running", holder, 1
            task.claim = Claim(identity, its, "task", None, None, None, 1, 1)
        self.model.tasks.append(task)

    @rule(data=st.data(), slots=st.integers(0, 4))
    def claim(self, data: st.DataObject, slots: int) -> None:
        owner = self.worker(data)
        everybody = [agent.id for agent in self.model.agents]
        taken = {claim.id: claim for claim in self.run(claims.claim(self.conn, owner, everybody, slots=slots))}
        started = [task for task in self.model.tasks if task.id in taken]
        best = sorted(-task.priority for task in self.model.next(slots))
        assert sorted(-task.priority for task in started) == best
        for number in range(len(everybody)):
            its = {task.id for task in started if task.agent == number}
            assert its == {task.id for task in self.model.line(number)[: len(its)]}
        self.model.take_turns(started)
        for task in started:
            task.claim = taken[task.id]
            task.status, task.holder, task.attempt = "running", owner, task.attempt + 1
            assert task.claim.attempt == task.attempt

    @precondition(lambda self: self.model.running())
    @rule(data=st.data(), endings=st.lists(ENDINGS, min_size=1, max_size=3))
    def finish(self, data: st.DataObject, endings: list[Ending]) -> None:
        first = data.draw(st.sampled_from(self.model.running()))
        batch = [task for task in self.model.running() if task.holder == first.holder][: len(endings)]
        runs = []
        for task, ending in zip(batch, endings, strict=False):
            assert task.claim is not None
            runs.append(scene.ended(task.claim, ending, operations=[{"op": "increment", "key": "n", "value": 1}]))
        assert first.holder is not None
        finished = self.run(scene.finish(self.conn, first.holder, *runs))
        assert {each.id for each in finished} == {task.id for task in batch}
        for task, ending in zip(batch, endings, strict=False):
            agent = self.model.agents[task.agent]
            agent.versions += ending != "cancelled"
            agent.increments += ending == "completed"
            self.model.ended(task, ending)

    @precondition(lambda self: self.model.stale)
    @rule(data=st.data(), ending=ENDINGS)
    def finish_too_late(self, data: st.DataObject, ending: Ending) -> None:
        late, claim = data.draw(st.sampled_from(self.model.stale))
        assert self.run(scene.finish(self.conn, late, scene.ended(claim, ending))) == []

    @precondition(lambda self: self.model.running())
    @rule(data=st.data(), before=st.booleans())
    def park(self, data: st.DataObject, *, before: bool) -> None:
        """Park a run on a question, which may be decided before the run has ended."""
        task = data.draw(st.sampled_from(self.model.running()))
        assert task.claim is not None
        assert task.holder is not None
        task.questions += 1
        asked = Step(
            position=task.questions, call=0, kind="tool", name="ask", format=1, waits={"for": "answer", "question": "?"}
        )
        fence = Fence(task.holder, task.id, task.attempt)
        assert self.run(journal.write(self.conn, fence, [asked])) is Written.WRITTEN
        task.open_questions += 1
        if before:
            self.answer(task, status="running")
        (finished,) = self.run(scene.finish(self.conn, task.holder, scene.ended(task.claim, "waiting")))
        waits = "waiting" if task.open_questions else "pending"
        self.model.ended(task, "cancelled" if task.asked else waits)
        assert finished.status == task.status

    @precondition(lambda self: any(task.open_questions for task in self.model.tasks))
    @rule(data=st.data())
    def decide(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from([task for task in self.model.tasks if task.open_questions]))
        self.answer(task, status=task.status)

    def answer(self, task: Task, *, status: str) -> None:
        question = self.run(parking.find(self.conn, task.id))[0]
        decided = self.run(parking.decide(self.conn, task.id, question, Verdict.ANSWER, value="yes"))
        if status not in {"waiting", "running"}:
            assert decided is Decided.LATE
            return
        assert decided is Decided.DECIDED
        task.open_questions -= 1
        if status == "waiting" and not task.open_questions and task.deaths < claims.DEATHS_ALLOWED:
            task.status = "pending"

    @precondition(lambda self: any(task.deaths >= claims.DEATHS_ALLOWED for task in self.model.tasks))
    @rule(data=st.data(), again=st.booleans())
    def decide_deaths(self, data: st.DataObject, *, again: bool) -> None:
        dead = [task for task in self.model.tasks if task.deaths >= claims.DEATHS_ALLOWED]
        task = data.draw(st.sampled_from(dead))
        decided = self.run(
            parking.decide_deaths(self.conn, task.id, again=again, reason="enough", state_limit=scene.LIMIT)
        )
        assert decided is (Decided.DECIDED if task.status == "waiting" else Decided.LATE)
        if task.status == "waiting" and again:
            task.deaths = 0
            task.status = "waiting" if task.open_questions else "pending"
        elif task.status == "waiting":
            self.model.agents[task.agent].versions += 1
            task.status = "failed"

    @precondition(lambda self: self.model.running())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.model.running()))
        assert task.holder is not None
        assert self.run(claims.release(self.conn, task.holder, [task.id], reason="x")) == 1
        self.model.given_back(task)

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        dead = self.worker(data)
        self.run(scene.die(self.conn, dead))
        held = [task for task in self.model.running() if task.holder == dead]
        assert self.run(claims.take_over(self.conn)) == len(held)
        for task in held:
            progress = "SELECT count(*) FROM runtime.journal WHERE task_id = %s AND attempt = %s AND output IS NOT NULL"
            task.deaths = 1 if self.rows(progress, task.id, task.attempt) != [0] else task.deaths + 1
        begun_last = "SELECT id FROM runtime.tasks WHERE id = ANY (%s) ORDER BY started_at DESC, id DESC LIMIT 1"
        hopeless = [task.id for task in held if task.deaths >= claims.DEATHS_ALLOWED]
        charged = self.rows(begun_last, hopeless)
        for task in held:
            if task.id in charged and not task.asked:
                task.status, task.holder = "waiting", None
            else:
                task.deaths = min(task.deaths, claims.DEATHS_ALLOWED - 1)
                self.model.given_back(task)
        self.run(scene.time_passes(self.conn))
        self.model.workers.remove(dead)
        self.model.offers.pop(dead, None)
        if not self.model.workers:
            self.join()

    @precondition(lambda self: self.model.tasks)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.model.tasks))
        answer = self.run(tasks.cancel(self.conn, task.id))
        match task.status:
            case "pending" | "waiting":
                task.status = "cancelled"
                assert answer == "cancelled"
            case "running":
                task.asked = True
                assert answer == "asked"
            case ended:
                assert answer == ended

    @precondition(lambda self: any(task.status in {"failed", "cancelled"} for task in self.model.tasks))
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        ended = [task for task in self.model.tasks if task.status in {"failed", "cancelled"}]
        task = data.draw(st.sampled_from(ended))
        self.run(tasks.retry(self.conn, task.id))
        task.status, task.deaths, task.asked = "pending", 0, False

    @rule(data=st.data(), paused=st.booleans())
    def pause(self, data: st.DataObject, *, paused: bool) -> None:
        agent = data.draw(st.sampled_from(self.model.agents))
        self.run(agents.set_status(self.conn, agent.id, "paused" if paused else "idle"))
        agent.paused = paused

    @invariant()
    def every_task_is_where_the_model_has_it(self) -> None:
        found = dict(self.rows("SELECT id, status FROM runtime.tasks"))
        assert found == {task.id: task.status for task in self.model.tasks}

    @invariant()
    def what_the_living_offer_stands(self) -> None:
        found = "SELECT worker FROM runtime.offers WHERE worker IN (SELECT id FROM runtime.workers)"
        assert sorted(self.rows(found)) == sorted(self.model.offers)

    @invariant()
    def exactly_what_is_pending_is_in_line(self) -> None:
        queued = set(self.rows("SELECT task_id FROM runtime.queue"))
        assert queued == {task.id for task in self.model.tasks if task.status == "pending"}

    @invariant()
    def exactly_what_runs_is_claimed_by_its_owner_at_its_attempt(self) -> None:
        claimed = set(self.rows("SELECT task_id, worker, attempt, cancelled FROM runtime.claims"))
        assert claimed == {(task.id, task.holder, task.attempt, task.asked) for task in self.model.running()}

    @invariant()
    def versions_have_no_gap_and_increments_are_not_lost(self) -> None:
        for agent in self.model.agents:
            assert self.run(scene.versions(self.conn, agent.id)) == list(range(1, agent.versions + 1))
            if agent.versions:
                kept = self.run(scene.work(self.conn, agent.id))
                assert kept.get("n", 0) == agent.increments


def test_the_database_agrees_with_the_model(database_url: str) -> None:
    rules = settings(max_examples=25, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(lambda: Dispatch(database_url), settings=rules)  # type: ignore[no-untyped-call]
