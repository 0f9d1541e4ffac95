"""What this worker knows of models on hold, and what it does when one of its runs meets one that fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from cirkelline.agents.run import RunError
from cirkelline.agents.steps import Answer, AroundModelCall, ModelCall
from cirkelline.configs.schema import ModelSpec
from cirkelline.runtime.patience import until_answered
from cirkelline.state import holds
from cirkelline.state.claims import Finish
from cirkelline.state.connection import Conn, Database
from cirkelline.state.holds import Hold
from cirkelline.state.journal import Fence

_BEHIND: Final = 1.0
"""Pauses by which a task that was the failed probe stands behind the others: the next probe is another one's turn."""

log = structlog.get_logger(__name__)


def key_of(model: ModelSpec) -> str:
    """Return what a hold is on: the model, at its own server and with its own key where the definition names them."""
    server = f" at {model.base_url}" if model.base_url else ""
    return f"{model.label}{server}" + (f" with {model.api_key_env}" if model.api_key_env else "")


@dataclass(slots=True)
class Holding:
    """The holds as this worker last saw them; its own failures at once, those of others at the next `refresh`."""

    db: Database
    pause: float
    heeded: bool = True
    """Whether this worker waits for them. A chat's own asks all the same: its person is told at once what is wrong."""
    _held: dict[str, Hold | None] = field(default_factory=dict[str, Hold | None])

    def is_held(self, model: ModelSpec) -> bool:
        """Whether a model is not to be tried, but by a probe."""
        return self.heeded and bool(self._held) and key_of(model) in self._held

    @property
    def any(self) -> bool:
        """Whether this worker knows of a held model, which another may have found to work again."""
        return bool(self._held)

    @property
    def due(self) -> list[str]:
        """The held models that a probe may try now."""
        return [key for key, hold in self._held.items() if hold is not None and hold.due]

    async def refresh(self, conn: Conn) -> bool:
        """Read the holds; return whether there is more to do than before."""
        before, self._held = self._held, {hold.model: hold for hold in await holds.find(conn)}
        return not before.keys() <= self._held.keys() or bool(self.due)

    async def take_probe(self, conn: Conn, worker: UUID, key: str) -> bool:
        """Take the right to let one task try a held model."""
        taken = await holds.take_probe(conn, worker, key)
        if not taken:
            self._held[key] = None  # as far as we know, until the next look
        return taken

    async def failed(self, fence: Fence, model: ModelSpec, error: RunError, finish: Finish, *, probe: bool) -> bool:
        """Hold the model that failed a run, and put the task back; return whether it was, or has to be finished."""
        away = error.away
        if away is None or model.provider == "scripted":  # a script that fails means it
            return False
        key = key_of(model)

        async def hold() -> holds.Held:
            async with self.db.connection() as conn:
                return await holds.hold(
                    conn,
                    fence.worker,
                    key,
                    refused=away.refused,
                    reason=error.message,
                    wait=away.retry_after,
                    pause=self.pause * (5 if away.refused else 1),
                )

        held = await until_answered(hold, "hold a model")
        self._held.setdefault(key, None)
        blamed = held.fresh and not away.refused and away.retry_after is None
        # A worker that does not wait for the model must not take the task again before then.
        due = held.until + timedelta(seconds=_BEHIND * self.pause * probe) if probe or not self.heeded else None

        async def put_back() -> bool:
            async with self.db.connection() as conn:
                return await holds.put_back(conn, fence, finish.steps, reason=error.message, due=due, blamed=blamed)

        back = await until_answered(put_back, "put a task back")
        if held.fresh:
            log.warning("model.held", model=key, reason=error.message, until=held.until)
        return back

    async def worked(self, key: str) -> None:
        """Let everybody use a held model again: a probe got an answer."""

        async def lift() -> bool:
            async with self.db.connection() as conn:
                return await holds.lift(conn, key)

        if await until_answered(lift, "lift a hold"):
            log.info("model.works_again", model=key)
        self._held.pop(key, None)

    async def gave_nothing(self, worker: UUID, key: str) -> None:
        """Leave the probe to another: this one did not ask the model."""

        async def give_up() -> None:
            async with self.db.connection() as conn:
                await holds.give_up_probe(conn, worker, key)

        await until_answered(give_up, "give up a probe")

    def lifting(self, key: str, around: AroundModelCall, lifted: Callable[[], None]) -> AroundModelCall:
        """Return a seam that lifts a hold as soon as the model has answered."""

        async def around_model_call(call: ModelCall, proceed: Callable[[], Awaitable[Answer]]) -> Answer:
            async def ask() -> Answer:
                answer = await proceed()
                await self.worked(key)
                lifted()
                return answer

            return await around(call, ask)

        return around_model_call
