"""Who talks with whom: the user, the agent, perhaps a session to go on with; and agents for a newcomer who has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cirkelline.configs.errors import UsageError
from cirkelline.runtime import composition
from cirkelline.runtime.chat.screen import Screen
from cirkelline.runtime.cli import display, waiting
from cirkelline.runtime.composition import Opened
from cirkelline.runtime.reloading import AgentFiles
from cirkelline.runtime.welcome import AGENT
from cirkelline.state import agents, sessions, users
from cirkelline.state.agents import Agent
from cirkelline.state.connection import Conn, Database
from cirkelline.state.sessions import Session
from cirkelline.state.tenant import Tenant, tenant
from cirkelline.state.users import User, UserNotFound
from cirkelline.tools.toolbox import Toolbox

_NAMED: Final = 12
_EARLIER_SESSIONS: Final = 5
_EARLIER_INPUTS: Final = 50


class WhichAgent(UsageError):
    """There are several agents to talk with, or none, and it was not said which."""


class OtherAgent(UsageError):
    """The session is with another agent than the one that was named."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for on the command line."""

    agent: str | None
    user: str | None
    session: str | None


@dataclass(frozen=True, slots=True)
class Partners:
    """Who talks with whom; `model` is the label of the agent's model, `session` the one to go on with."""

    user: User
    agent: Agent
    model: str
    session: Session | None


async def bring_agents(opened: Opened, folder: Path | None, toolbox: Toolbox, environ: Mapping[str, str]) -> list[str]:
    """Give an empty embedded database its first agents, as `up` does; return what to tell the person.

    A given database is left alone: its agents are its operator's business.
    """
    async with opened.db.connection() as conn:
        if not opened.embedded or await agents.find(conn):
            return []
    plan = await AgentFiles(opened.db, folder, toolbox, environ).apply() if folder else None
    if plan is None or not (plan.items or plan.problems):
        await AgentFiles(opened.db, composition.EXAMPLES, toolbox, environ).apply()
        return ["This is the first start: the example agents have been set up."]
    names = ", ".join(item.name for item in plan.items)
    return [
        *([f"This is the first start: set up {names} from {folder}."] if names else ()),
        *(f"{problem}" for problem in plan.problems),
    ]


async def introduce(db: Database, wanted: Wanted, default_user: str, screen: Screen) -> Partners:
    """Find the two partners, and create the user at first sight. Raises: AgentNotFound, SessionNotFound, UsageError."""
    name = wanted.user or default_user
    async with db.connection() as conn:
        named = await agents.answering(conn, wanted.agent) if wanted.agent else None  # before a row is made for anybody
        user = await _user(conn, name, screen, create=wanted.session is None)
    session = None
    if wanted.session:
        async with tenant(db, user.id) as rows:
            session = await sessions.get(rows, wanted.session)
            if session.archived and await sessions.archive(rows, session.id, archived=False):
                screen.say(f"session {display.short(session.id)} was archived, and is in use again.", "quiet")
    async with db.connection() as conn:
        agent = await _partner(conn, named, session)
        return Partners(user, agent, await _model(conn, agent), session)


async def _user(conn: Conn, name: str, screen: Screen, *, create: bool) -> User:
    try:
        return await users.acting(conn, name)
    except UserNotFound:
        if not create:
            raise
    user = await users.ensure(conn, name)
    screen.say(f"{display.safe(users.email_of(name))} is new here: a user of that name has been created.", "quiet")
    return user


async def _partner(conn: Conn, named: Agent | None, session: Session | None) -> Agent:
    if session is None:
        return named or await _default_agent(conn)
    if session.agent_id is None:
        raise WhichAgent(
            f"session {display.short(session.id)} has no agent: begin a new one with `cirkelline chat AGENT`"
        )
    if named is not None and named.id != session.agent_id:
        raise OtherAgent(
            f"session {display.short(session.id)} is with {session.agent}, not with {named.label}:"
            f" leave out the agent, or begin a new session with `cirkelline chat {named.label}`"
        )
    return await agents.get(conn, str(session.agent_id))


async def _default_agent(conn: Conn) -> Agent:
    there = [agent for agent in await agents.find(conn) if agent.status != "retired"]
    if len(there) == 1:
        return there[0]
    for agent in there:
        if agent.handle == AGENT:
            return agent
    if not there:
        raise WhichAgent("there is no agent yet: `cirkelline agents apply FOLDER` takes in agent files")
    names = ", ".join(agent.label for agent in there[:_NAMED]) + (", …" if len(there) > _NAMED else "")
    raise WhichAgent(f"say with whom, as there are several agents and none is called {AGENT}: {names}")


async def _model(conn: Conn, agent: Agent) -> str:
    """Return the label of the model that the agent's current definition was resolved to."""
    if agent.definition_version is None:
        return "not checked yet"
    from cirkelline.configs.schema import ModelSpec  # noqa: PLC0415 - 0.1 s that the prompt need not wait for twice

    stored = await agents.definition(conn, agent.id, agent.definition_version)
    return ModelSpec.model_validate(stored.model).label


def obstacle(agent: Agent) -> str | None:
    """Return why an agent would not answer at present, with the remedy, or None."""
    unchecked = agent.definition_version is None and not agent.problem
    return None if unchecked else waiting.unfit(agent)


async def earlier_inputs(rows: Tenant) -> list[str]:
    """Return what the user said last in any session, oldest first."""
    found = await sessions.find(rows, limit=_EARLIER_SESSIONS)
    said: list[str] = []
    for session in reversed(found):
        messages = await sessions.messages(rows, session.id, limit=_EARLIER_INPUTS)
        said += [message.content for message in messages if message.role == "user"]
    return said[-_EARLIER_INPUTS:]
