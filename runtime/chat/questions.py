"""What a parked turn needs of the person, asked in the chat and decided there."""

from __future__ import annotations

from typing import Final

from cirkelline.runtime import deciding
from cirkelline.runtime.chat.conversation import Conversation
from cirkelline.runtime.chat.screen import Screen, Turn
from cirkelline.runtime.cli import display, waiting
from cirkelline.state import parking, tasks
from cirkelline.state.connection import Conn
from cirkelline.state.parking import For, Verdict, Waiting
from cirkelline.state.tasks import Task

LATER: Final = "/later"
_YES: Final = frozenset({"y", "yes", "ok", "approve", "allow"})
_NO: Final = frozenset({"n", "no", "reject", "deny"})


async def settle(conversation: Conversation, screen: Screen, turn: Turn | None) -> Turn | None:
    """Ask the person for what a turn waits for, until it has ended or is left for later. Raises: Left."""
    while turn is not None and turn.parked and screen.waits:
        if not await _decided(conversation, screen, turn.task):
            needs = await _needs(conversation, turn.task)
            screen.say(f"{needs}; this turn goes on when that has been decided", "quiet")
            return turn
        turn = await conversation.go_on(turn)
    return turn


async def _needs(conversation: Conversation, task: Task) -> str:
    async with conversation.db.connection() as conn:
        now, open_ones = await tasks.get(conn, task.id), await parking.find(conn, task.id)
    return "; ".join(waiting.needs(now, open_ones))


async def _decided(conversation: Conversation, screen: Screen, task: Task) -> bool:
    """Ask one question after another; False when the person leaves one for later, or there is none to ask here."""
    async with conversation.db.connection() as conn:
        questions = await parking.find(conn, task.id)
    asked = [question for question in questions if question.kind is not For.TIME]
    for question in asked:
        screen.say(_words(question), "plain")
        while True:
            said = (await screen.ask()).strip()
            if said == LATER:
                return False
            try:
                async with conversation.db.connection() as conn:
                    understood = await _decide(conn, conversation, task, question, said)
            except deciding.NotAsked as late:
                screen.say(display.safe(str(late)), "quiet")
                break
            except deciding.NoSuchChoice as wrong:
                screen.say(display.safe(str(wrong)), "bad")
                continue
            if understood:
                break
            screen.say(_hint(question), "quiet")
    return bool(asked)


def _words(question: Waiting) -> str:
    until = f" until {display.local(question.until)}" if question.until else ""
    match question.kind:
        case For.APPROVAL:
            return f"May the agent call {waiting.call(question)}? It waits for that{until}. {_hint(question)}"
        case For.OUTCOME:
            return f"Nobody knows whether {waiting.call(question)} happened, as it was cut off. Look, then: " + _hint(
                question
            )
        case _:
            asked = waiting.asked(question)
            return f"{asked[0].upper()}{asked[1:]} ({LATER} leaves it open{until})"


def _hint(question: Waiting) -> str:
    match question.kind:
        case For.APPROVAL:
            return f"(yes, or no and why, or {LATER})"
        case For.OUTCOME:
            return f"(retry, or fail and why, or done and its result, or {LATER})"
        case _:
            return f"(your next line is the answer; {LATER} leaves it open)"


async def _decide(conn: Conn, conversation: Conversation, task: Task, question: Waiting, said: str) -> bool:
    """Decide what was said; False for what is no decision."""
    by, call = conversation.user.email, question.place
    first, _, rest = said.partition(" ")
    word, rest = first.lower().rstrip(",.:!"), rest.strip()
    match question.kind:
        case For.ANSWER:
            await deciding.answer(conn, task.id, said, call=call, by=by)
        case For.APPROVAL if word in _YES and not rest:
            await deciding.approve(conn, task.id, call=call, by=by)
        case For.APPROVAL if word in _NO:
            await deciding.reject(conn, task.id, reason=rest or None, call=call, by=by)
        case For.OUTCOME if word == "fail" or (word == "retry" and not rest) or (word == "done" and rest):
            await deciding.outcome(conn, task.id, _OUTCOMES[word], value=rest or None, call=call, by=by)
        case _:
            return False
    return True


_OUTCOMES: Final = {"retry": Verdict.RETRY, "fail": Verdict.FAIL, "done": Verdict.RESULT}
