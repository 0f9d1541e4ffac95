"""A worker: claims tasks while slots are free, runs them, and keeps the house in order while they run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any, Self, TypeVar
from uuid import UUID, uuid4

import structlog

import cirkelline
from cirkelline.agents.models import ModelPool
from cirkelline.configs.settings import Settings
from cirkelline.runtime import background, disk, ending, patience, running, schedules, taking_over
from cirkelline.runtime.claiming import Claiming
from cirkelline.runtime.finishing import Finishing
from cirkelline.runtime.heartbeat import BEATS_PER_LEASE, Heartbeat
from cirkelline.runtime.holding import Holding, key_of
from cirkelline.runtime.patience import first_line, on_the_way_out, until_answered, wait_briefly
from cirkelline.runtime.registry import Registry
from cirkelline.runtime.running import LAST_WRITES, Run, Runner
from cirkelline.runtime.waiting import Waiting
from cirkelline.state import claims, routing, upkeep, wakeups, workers
from cirkelline.state.claims import Claim, Finished
from cirkelline.state.connection import Conn, Database, QueryError
from cirkelline.state.transactions import ToolConnections
from cirkelline.state.upkeep import Seen
from cirkelline.state.workers import Beat
from cirkelline.tools.execution import Executor
from cirkelline.tools.library import Embedders

log = structlog.get_logger(__name__)

Result = TypeVar("Result")


class Worker:
    """One worker; enter it to be registered and to beat, `serve` to work, leave it to be gone.

    `slots` tasks run at once. With `session` only that session's tasks are claimed. With `drain`, `serve` returns when
    nothing is left to do for the agents this worker can serve. Without `listen` it only polls.
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        registry: Registry,
        executor: Executor,
        model_pool: ModelPool,
        *,
        embedders: Embedders | None = None,
        slots: int | None = None,
        session: UUID | None = None,
        drain: bool = False,
        listen: bool = True,
    ) -> None:
        self.id = uuid4()
        self.slots = slots or settings.concurrency
        self._for_turns = 0 if session is not None else min(settings.chat_slots, self.slots - 1)
        self._db = db
        self._settings = settings
        self._registry = registry
        self._embedders = embedders
        self._session = session
        self._drain = drain
        self._listens = listen
        self._finishing = Finishing(db, state_limit=settings.state_limit, store=self._turn)
        self._connections = ToolConnections(db, role=settings.tool_role)
        self._holding = Holding(db, settings.model_pause, heeded=session is None)
        self._disk = disk.guard(settings)
        self._runner = Runner(
            db, registry, model_pool, executor, self._finishing, self._connections, self._holding, embedders
        )
        self._runs: set[Run] = set()
        self._waiting = Waiting()
        self._asks, self._unrouted = False, True
        self._seen = Seen()
        self._claiming = Claiming(db, self._waiting, self._known)
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._refresh_at = 0.0
        self._tools_changed = False
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._heartbeat: Heartbeat | None = None
        self._stack = contextlib.AsyncExitStack()
        self._background: list[asyncio.Task[None]] = []
        self._reborn: asyncio.Task[None] | None = None

    def _known(self) -> set[UUID]:
        return {run.claim.id for run in self._runs} | {claim.id for _, claim in self._waiting.handed}

    @property
    def running(self) -> int:
        """How many tasks this worker holds."""
        return sum(not run.written for run in self._runs)

    async def __aenter__(self) -> Self:
        await self._registry.refresh(again=True)
        await self._look_at_holds()
        await self._disk.look()
        await self._register()
        await self._stack.enter_async_context(self._connections)
        await self._stack.enter_async_context(self._finishing)
        loop = asyncio.get_running_loop()

        def heard(worker: UUID, beat: Beat) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(self._heard_beat, worker, beat)

        heartbeat = Heartbeat(self._db.url, self.id, lease=self._settings.lease, heard=heard)
        self._heartbeat = self._stack.enter_context(heartbeat)
        self._background = [asyncio.create_task(job, name=f"worker-{name}") for name, job in self._jobs().items()]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        await running.end([*self._runs])
        await ending.end([*self._background, *([self._reborn] if self._reborn else [])])
        await self._stack.aclose()
        await self._leave()

    async def serve(self) -> None:
        """Claim tasks while slots are free; return once stopped and drained."""
        log.info("worker.ready", worker=self.id, slots=self.slots)
        while not self._stopping.is_set():
            self._wake.clear()
            if self._claiming.unsure:
                await self._say(lambda conn: self._claiming.give_back_unknown(conn, self.id), "look what it holds")
            free = self.slots - self.running
            claimed = await self._claim_for(free)
            if len(claimed) < free:
                await self._probe()
            if self._unrouted and await self._route():
                continue
            if self._drain and not self._runs and not await self._route() and await self._nothing_left():
                break
            if len(claimed) == free or self.running >= self.slots:  # we are full
                await self._say_waiting(waiting=False)
                await self._wake.wait()
            elif await self._say_waiting(waiting=True):  # said already, and claimed once more since
                await self._offer()
                await wait_briefly(self._wake, self._poll())
                self._waiting.doubt(after=self._settings.poll, silent=not self._wake.is_set())
        await self._let_finish()

    def stop(self) -> None:
        """Claim nothing more, and let what runs finish within the grace period."""
        self._stopping.set()
        self._wake.set()

    def stop_at_once(self) -> None:
        """Give back what runs, without waiting for it."""
        self._at_once.set()
        self.stop()

    def tools_changed(self) -> None:
        """Look every tool up again."""
        self._tools_changed = True
        self._changed.set()

    @property
    def _eager(self) -> list[UUID]:
        """The agents that may be claimed for now: their models are not on hold."""
        models = ((agent, self._registry.model(agent)) for agent in self._registry.servable)
        return [agent for agent, model in models if model is None or not self._holding.is_held(model)]

    async def _route(self) -> bool:
        """Choose agents for tasks that name capabilities, for as many as this worker runs at once; whether there were any."""
        self._unrouted = False
        if self._session is not None or self._disk.is_low:
            return False

        route = partial(routing.route, agents=self._eager, most=self.slots)
        return bool(await self._say(route, "route tasks", alone=False))

    async def _probe(self) -> None:
        """Let one task try each held model whose time has come, unless another worker does."""
        for key in self._holding.due:
            served = ((agent, self._registry.model(agent)) for agent in self._registry.servable)
            agents = [agent for agent, model in served if model is not None and key_of(model) == key]
            if agents and await self._took_probe(key) and not await self._claim(1, agents, probe=key):
                await self._holding.gave_nothing(self.id, key)

    async def _took_probe(self, key: str) -> bool:
        return await self._say(lambda conn: self._holding.take_probe(conn, self.id, key), "take a probe") is True

    async def _claim_for(self, free: int) -> list[Claim]:
        """Claim for the free slots; those that are kept for conversations take nothing else."""
        if not self._for_turns:
            return await self._claim(free, self._eager)
        turns = await self._claim(free, self._eager, turns=True)
        others = sum(run.claim.session_id is None for run in self._runs if not run.written)
        rest = min(free - len(turns), self.slots - self._for_turns - others)
        return turns + await self._claim(max(rest, 0), self._eager)

    async def _claim(
        self, free: int, agents: Sequence[UUID], *, turns: bool = False, probe: str | None = None
    ) -> list[Claim]:
        if free <= 0 or not agents or self._disk.is_low:
            return []

        async def claim() -> list[Claim]:
            async with self._claiming.connection() as conn:
                await self._claiming.give_back_unknown(conn, self.id)
                if (room := min(free, self.slots - self.running)) <= 0:
                    return []
                try:
                    self._asks = True  # what is handed to us meanwhile waits for the answer
                    with self._claiming.answered():
                        if turns:
                            claimed = await claims.claim_turns(conn, self.id, agents, slots=room)
                        else:
                            claimed = await claims.claim(conn, self.id, agents, slots=room, session=self._session)
                    for each in claimed:  # before anybody else looks what we know
                        self._start(each, probe=probe)
                    return claimed
                finally:
                    self._asks = False
                    self._begin_handed()

        return await self._asked(claim, "claim tasks") or []

    async def _turn(self, owner: UUID, runs: Sequence[str]) -> list[Finished]:
        """Write ended runs and claim as many tasks in their place, in one round trip and one commit."""
        limit = self._settings.state_limit
        async with self._claiming.connection() as conn:
            agents = self._eager
            # Kept slots, a full disk and a probe are weighed where claiming is all there is to do.
            elsewhere = self._for_turns or self._disk.is_low or self._holding.due
            if owner != self.id or self._stopping.is_set() or elsewhere or not agents:
                return await claims.finish(conn, owner, runs, state_limit=limit)
            await self._claiming.give_back_unknown(conn, self.id)
            room = min(len(runs), self.slots - self.running + len(runs))
            with self._claiming.answered():
                turned = await claims.finish_and_claim(
                    conn, owner, runs, agents, slots=room, state_limit=limit, session=self._session
                )
            written = {finished.id for finished in turned.finished}
            for run in self._runs:
                run.written = run.written or run.claim.id in written
            for claim in turned.claimed:
                self._start(claim)
            return turned.finished

    def _start(self, claim: Claim, *, probe: str | None = None, declined: str | None = None) -> None:
        run = Run(claim, self.id, probe=probe)
        log.info("task.claimed", agent=self._registry.name(claim.agent_id), task_id=claim.id, attempt=claim.attempt)
        lost = [each for each in self._runs if each.fence == run.fence]
        self._runs.add(run)
        if declined is not None:
            work = self._runner.decline(run, declined)
        else:
            work = self._run_again(run, lost) if lost else self._runner.run(run)
        run.task = asyncio.create_task(work, name=f"task-{claim.id}")
        run.task.add_done_callback(lambda task: self._over(run, task))

    async def _run_again(self, run: Run, lost: Sequence[Run]) -> None:
        """Run a task whose claim a crash of the server took back once more, when the runs of that claim are over."""
        await running.end(lost)
        if not any(each.written for each in lost):
            await self._runner.run(run)

    def _over(self, run: Run, task: asyncio.Task[None]) -> None:
        self._runs.discard(run)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("worker.run_broke", task_id=run.claim.id, exc_info=error)

    async def _say_waiting(self, *, waiting: bool) -> bool:
        """Tell submitters whether to notify us; return whether they knew."""
        if self._waiting.is_said == waiting or not self._listens:
            return True
        self._believe(
            await self._say(lambda conn: self._waiting.say(conn, self.id, waiting=waiting), "say that it waits")
        )
        return False

    @property
    def _welcome(self) -> tuple[UUID, ...]:
        """The agents whose tasks may be handed to us: none, where more is to be weighed than whether there is a place."""
        weighs = self._drain or self._session is not None or self._for_turns or self._disk.is_low or not self._listens
        return () if weighs or self._stopping.is_set() or self.running >= self.slots else tuple(self._eager)

    async def _offer(self) -> None:
        """Let whoever submits next hand the task to us."""
        agents = self._welcome
        if self._waiting.stands(agents):
            return
        self._believe(await self._say(lambda conn: self._waiting.offer(conn, self.id, agents), "offer a place"))

    def _believe(self, told: bool | None) -> None:
        """Look what we hold, where we may not have been told of it."""
        if told is False:
            self._claiming.unsure = True
            self._wake.set()

    async def _say(self, word: Callable[[Conn], Awaitable[Result]], what: str, *, alone: bool = True) -> Result | None:
        async def say() -> Result:
            async with self._claiming.connection() if alone else self._db.connection() as conn:
                return await word(conn)

        return await self._asked(say, what)

    def _take(self, payload: str) -> None:
        """Start what was handed to us, or give it back; while we claim, once it is clear what else we have."""
        if not self._waiting.hear(payload):
            self._claiming.unsure = True
        if not self._asks:
            self._begin_handed()
        self._wake.set()  # behind the run, which is to begin before this worker looks what else there is

    def _begin_handed(self) -> None:
        while self._waiting.handed:
            owner, claim = self._waiting.handed.popleft()
            if owner == self.id:  # what an id has that was declared dead is taken over
                welcome = claim.agent_id in self._welcome
                self._start(claim, declined=None if welcome else "its worker has no place any more")

    async def _nothing_left(self) -> bool:
        outstanding = partial(claims.outstanding, agents=self._registry.servable)
        return await self._say(outstanding, "count what is left", alone=False) == 0

    async def _asked(self, action: Callable[[], Awaitable[Result]], what: str) -> Result | None:
        return await patience.unless_stopped(action, what, self._stopping)

    async def _let_finish(self) -> None:
        self._stopping.set()
        async with on_the_way_out(LAST_WRITES), self._db.connection() as conn:
            await workers.drain(conn, self.id)
        self._claiming.unsure = True  # nobody will look again
        async with on_the_way_out(LAST_WRITES), self._claiming.connection() as conn:
            await self._claiming.give_back_unknown(conn, self.id)
        if self._runs:
            log.info("worker.draining", tasks=len(self._runs), seconds=self._settings.grace)
        over = asyncio.create_task(self._all_over())
        at_once = asyncio.create_task(self._at_once.wait())
        await asyncio.wait({over, at_once}, timeout=self._settings.grace, return_when=asyncio.FIRST_COMPLETED)
        await ending.end([over, at_once])
        if self._runs:
            log.warning("worker.gives_back", tasks=len(self._runs))

    async def _all_over(self) -> None:
        while tasks := [run.task for run in self._runs if run.task is not None]:
            await asyncio.wait(tasks)

    async def _register(self, *, instead_of: UUID | None = None) -> None:
        async with self._db.connection() as conn:
            if instead_of is not None:
                await workers.deregister(conn, instead_of)
            await workers.register(
                conn,
                self.id,
                host=socket.gethostname(),
                pid=os.getpid(),
                release=cirkelline.__version__,
                slots=self.slots,
                lease=self._settings.lease,
                session=self._session,
            )

    async def _leave(self) -> None:
        async with on_the_way_out(LAST_WRITES), self._db.connection() as conn:
            await workers.deregister(conn, self.id)
        log.info("worker.left", worker=self.id)

    def _heard_beat(self, worker: UUID, beat: Beat) -> None:
        if worker != self.id:
            return
        if not beat.known and self._reborn is None:
            self._reborn = asyncio.create_task(self._start_anew(worker), name="worker-anew")
        if beat.draining and not self._stopping.is_set():
            log.info("worker.asked_to_drain")
            self.stop()
        self._cancel(beat.to_cancel)

    def _lose(self, owner: UUID) -> int:
        lost = [run.task for run in self._runs if run.owner == owner and not run.ended and run.task is not None]
        for task in lost:
            task.cancel()
        return len(lost)

    async def _start_anew(self, old: UUID) -> None:
        """Go on under a new id: this one was declared dead, and its tasks are in line again or with others."""
        log.warning("worker.declared_dead", worker=old, tasks=self._lose(old))
        async with self._claiming.alone():
            self._lose(old)  # and what was on its way
            self.id = uuid4()
            self._waiting.begin_anew()
            await until_answered(lambda: self._register(instead_of=old), "register anew")
        if self._heartbeat is not None:
            self._heartbeat.beat_for(self.id)
        self._reborn = None
        self._wake.set()

    def _cancel(self, task_ids: Collection[UUID]) -> None:
        for run in self._runs:
            if run.claim.id in task_ids and not run.cancel.is_set():
                log.info("task.cancelling", task_id=run.claim.id)
                run.cancel.set()

    async def _listen(self) -> None:
        async with contextlib.aclosing(self._waiting.listen(self._db.url)) as told:
            async for notices in told:
                if not notices:  # what was told while nobody listened
                    self._claiming.unsure = True
                    self._changed.set()
                    self._wake.set()
                self._heard(notices)
                await asyncio.sleep(0)  # what this has begun goes first

    def _heard(self, notices: Sequence[tuple[str, str]]) -> None:
        for channel, payload in notices:
            if channel == "":
                self._take(payload)
            elif channel == wakeups.TASKS:
                self._unrouted = self._unrouted or payload == wakeups.ROUTE
                self._wake.set()
            elif channel == wakeups.AGENTS:
                self._changed.set()
            else:
                with contextlib.suppress(ValueError):
                    self._cancel([UUID(payload)])

    def _jobs(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What this worker does beside its tasks, until it leaves; each of these goes on for ever."""
        jobs = background.jobs(self._db, self._settings, self._embedders, whole=self._session is None)
        return jobs | {"house": self._keep_house()} | ({"listen": self._listen()} if self._listens else {})

    async def _keep_house(self) -> None:
        """Do what cannot wait, at every poll; what one of these fails at keeps none of the others from being done."""
        while True:
            # More often than the poll where leases are short: a dead worker's tasks should not wait for a lazy one.
            await wait_briefly(self._changed, min(self._poll(), self._settings.lease / BEATS_PER_LEASE))
            seen = self._seen = await self._look_around()
            for what, chore, wanted in (
                ("take_over", self._take_over, seen.lost),
                ("refresh", self._refresh, True),
                ("look_at_holds", self._look_at_holds, seen.held or self._holding.any),
                ("fire_schedules", partial(schedules.fire, self._db), seen.due and self._session is None),
                ("look_for_room", self._look_for_room, True),
            ):
                try:
                    if wanted:
                        await chore()
                except QueryError as error:
                    log.warning("worker.poll_failed", at=what, error=first_line(error))

    async def _look_around(self) -> Seen:
        """Ask in one round trip what there is to do; where that fails, each is asked for itself."""
        try:
            async with self._db.connection() as conn:
                return await upkeep.look(conn)
        except QueryError as error:
            log.warning("worker.poll_failed", at="look_around", error=first_line(error))
            return Seen()

    async def _refresh(self) -> None:
        """Look at what agents there are, when that has changed or not been looked at for a poll."""
        now = asyncio.get_running_loop().time()
        if not self._changed.is_set() and now < self._refresh_at:
            return
        self._refresh_at = now + self._poll()
        changed, tools_changed = self._changed.is_set(), self._tools_changed
        self._changed.clear()
        self._tools_changed = False
        try:
            more = await self._registry.refresh(
                again=changed, tools_changed=tools_changed, unchecked=self._seen.unchecked
            )
        except QueryError:
            self._tools_changed = tools_changed
            raise
        if more:
            self._wake.set()

    async def _look_at_holds(self) -> None:
        async with self._db.connection() as conn:
            if await self._holding.refresh(conn):
                self._wake.set()

    async def _look_for_room(self) -> None:
        """Look whether tasks can be claimed again that had to wait: for free disk, or for an agent that is able."""
        if await self._disk.look() or (self._seen.unrouted and await self._route()):
            self._wake.set()

    async def _take_over(self) -> None:
        settled = self._heartbeat is not None and self._heartbeat.settled
        if settled and await taking_over.take_over(self._db, self.id):
            self._wake.set()

    def _poll(self) -> float:
        return self._settings.poll * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
