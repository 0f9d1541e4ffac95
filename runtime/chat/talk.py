"""One start of the chat: from the database it opens, through what is said, to the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

from cirkelline.configs import scalars
from cirkelline.configs.errors import CirkellineError
from cirkelline.configs.settings import Settings
from cirkelline.runtime import composition, pulling
from cirkelline.runtime.chat import commands, opening, questions, quiet, remembering
from cirkelline.runtime.chat.conversation import Conversation
from cirkelline.runtime.chat.interrupts import Interrupts
from cirkelline.runtime.chat.lines import Lines
from cirkelline.runtime.chat.opening import Partners, Wanted
from cirkelline.runtime.chat.own_worker import OwnWorker
from cirkelline.runtime.chat.screen import Left, Screen, Turn
from cirkelline.runtime.chat.showing import quoted
from cirkelline.runtime.chat.terminal import Terminal
from cirkelline.runtime.cli import console, display
from cirkelline.runtime.composition import Opened
from cirkelline.runtime.patience import first_line
from cirkelline.state import sessions, workers
from cirkelline.state.connection import QueryError
from cirkelline.state.tenant import tenant
from cirkelline.tools.toolbox import Toolbox

INTERRUPTED: Final = 130
_SHOWN_AGAIN: Final = 6  # messages of a session that is gone on with
_KEYS: Final = "Ctrl-C stops an answer, Ctrl-D or /quit leaves, /help says more."


async def chat(
    settings: Settings,
    *,
    agent: str | None = None,
    user: str | None = None,
    session: str | None = None,
    as_json: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Talk with an agent until the person ends it, and return the exit code; with `as_json` print one document.

    Raises: DatabaseUnavailable, MigrationError, AgentNotFound, SessionNotFound, UsageError.
    """
    interrupts = Interrupts()
    this = asyncio.current_task()
    assert this is not None  # noqa: S101 - a coroutine that runs is in a task; told to the type checkers
    talk = _Talk(settings, Wanted(agent, user, session), environ, sys.stderr)
    with interrupts.handled():
        try:
            if _on_terminals(environ) and not as_json:
                return await _on_terminal(talk, interrupts)
            return await _over_pipes(talk, interrupts, as_json=as_json)
        except Left as left:  # while nobody was asked anything: the terminal, or who reads, is gone
            return INTERRUPTED if left.interrupted else 0
        except asyncio.CancelledError:
            if not interrupts.left:
                raise
            this.uncancel()
            if as_json:
                console.write_document({"error": {"type": "Interrupted", "message": "interrupted"}})
            return INTERRUPTED


def _on_terminals(environ: Mapping[str, str]) -> bool:
    return console.on_terminal(sys.stdin) and console.on_terminal(sys.stdout) and environ.get("TERM") != "dumb"


async def _on_terminal(talk: _Talk, interrupts: Interrupts) -> int:
    screen = Terminal(sys.stdin, sys.stdout, interrupts, talk.environ)
    with screen.opened(), quiet.logging_beside(talk.settings, talk.environ):
        screen.status("opening the database")
        left = await talk.run(screen, screen)
    return INTERRUPTED if left.interrupted else 0


async def _over_pipes(talk: _Talk, interrupts: Interrupts, *, as_json: bool) -> int:
    stdin = sys.stdin.buffer if sys.stdin is not None else None  # pyright: ignore[reportUnnecessaryComparison] - closed by whoever started us
    screen = Lines(stdin, sys.stdout, sys.stderr, interrupts, silent=as_json)
    if console.on_terminal(sys.stdin):
        console.note("each line is a turn; Ctrl-D on a line of its own ends the chat")
    with quiet.logging_beside(talk.settings, talk.environ):
        left = await talk.run(screen, None)
    if as_json and talk.conversation is not None:
        console.write_document(_document(talk.conversation, screen.turns))
    return INTERRUPTED if left.interrupted else screen.exit_code


@dataclass(slots=True)
class _Talk:
    """What was asked for, and the conversation that it came to."""

    settings: Settings
    wanted: Wanted
    environ: Mapping[str, str]
    stderr: TextIO
    conversation: Conversation | None = field(default=None, init=False)

    async def run(self, screen: Screen, terminal: Terminal | None) -> Left:
        """Open what a chat needs and talk; return how the person left."""
        settings = self.settings
        async with composition.open_database(settings) as opened:
            folder = composition.configs_folder(settings, None)
            toolbox = Toolbox(composition.tools_folder(folder, None), settings.tool_modules)
            for line in await opening.bring_agents(opened, folder, toolbox, self.environ):
                screen.say(line, "quiet")
            partners = await opening.introduce(opened.db, self.wanted, settings.user, screen)
            async with OwnWorker(opened, toolbox, self.environ) as worker:
                self.conversation = Conversation(opened.db, screen, worker, partners.user, partners.agent)
                if partners.session:
                    self.conversation.session = partners.session.id
                screen.status(None)
                await self._bring_weights(opened, partners)
                if terminal:
                    await _greet(opened, partners, terminal)
                    for task in await self.conversation.unfinished():
                        await questions.settle(self.conversation, screen, await self.conversation.resume(task))
                left = await _converse(self.conversation, screen)
                if terminal and self.conversation.session:
                    going_on = f"cirkelline chat --session {display.short(self.conversation.session)}"
                    screen.say(f"everything said is kept: `{going_on}` goes on", "quiet")
                screen.status("closing")
        return left

    async def _bring_weights(self, opened: Opened, partners: Partners) -> None:
        """Fetch what a local model lacks, with progress; where a daemon is alive, that is its business."""
        async with opened.db.connection() as conn:
            if not partners.model.startswith("local:") or await workers.any_alive(conn):
                return
        with contextlib.redirect_stderr(self.stderr):
            await pulling.pull_missing(opened.db, self.settings.home, agent=partners.agent.id)


async def _greet(opened: Opened, partners: Partners, terminal: Terminal) -> None:
    """Say with whom and where one talks and how to stop it; then what was said last."""
    agent, user = partners.agent, partners.user
    async with tenant(opened.db, user.id) as rows:
        terminal.remember(await opening.earlier_inputs(rows))
        before = partners.session
        said = await sessions.messages(rows, before.id, limit=_SHOWN_AGAIN) if before else []
    model, place = display.line(partners.model, 100), display.line(opened.place, 200)
    terminal.say(f"{agent.label} ({model}) on the {place}. {_KEYS}", "quiet")
    if obstacle := opening.obstacle(agent):
        terminal.say(f"nobody will answer at present: {display.safe(obstacle)}", "bad")
    if before and before.turns * 2 > len(said):
        shown = f"`cirkelline sessions show {display.short(before.id)}` shows all of it"
        terminal.say(f"session {display.short(before.id)} goes on, after {before.turns} turns ({shown}):", "quiet")
    for message in said:
        terminal.say(quoted(message.content, ours=message.role == "user"))


async def _converse(conversation: Conversation, screen: Screen) -> Left:
    """Take one thing after another that the person says; return how they left."""
    told = remembering.Told(conversation)
    try:
        await told.begin(screen)
        while True:
            await told.tell(screen)
            if not await _done(conversation, screen, await screen.ask()):
                screen.went_wrong()
    except Left as left:
        if not left.interrupted:
            await told.finish(screen)
        return left


async def _done(conversation: Conversation, screen: Screen, said: str) -> bool:
    """Do what the person typed, and tell whether that worked; whatever went wrong has been said, and the chat goes on."""
    try:
        if word := commands.typed(said):
            return await commands.run(word, conversation, screen)
        turn = await questions.settle(conversation, screen, await conversation.turn(said))
    except CirkellineError as error:
        screen.say(f"error: {display.safe(str(error))}", "bad")
    except QueryError as error:
        screen.say(f"the database did not do that: {display.line(first_line(error), 300)}", "bad")
    else:
        return turn is not None and turn.completed
    return False


def _document(conversation: Conversation, turns: Sequence[Turn]) -> dict[str, Any]:
    return {
        "agent": conversation.agent.label,
        "user": conversation.user.email,
        "session": conversation.session,
        "turns": [
            {
                "task": turn.task.id,
                "status": turn.task.status,
                "input": turn.said,
                "output": turn.output,
                "citations": _kept(turn, "citations"),
                "citations_unknown": _kept(turn, "citations_unknown"),
                "error": dict(zip(("type", "message"), turn.error, strict=True)) if turn.error else None,
            }
            for turn in turns
        ],
    }


def _kept(turn: Turn, key: str) -> Any:
    return turn.task.result.get(key, []) if scalars.is_mapping(turn.task.result) else []
