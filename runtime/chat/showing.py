"""One turn as it is shown: words as they come, a line for each tool, and at the end what the task's row says."""

from __future__ import annotations

import json
from typing import Final

from cirkelline.configs import scalars
from cirkelline.runtime import sources
from cirkelline.runtime.chat import cleaning
from cirkelline.runtime.chat.screen import Screen, Tone, Turn
from cirkelline.runtime.chat.situation import THINKING
from cirkelline.runtime.cli import display
from cirkelline.runtime.streaming import Told
from cirkelline.state.tasks import Task, TaskStatus

_ARGUMENTS: Final = 60  # characters of a tool's arguments
_ARGUMENT: Final = 30
_SOURCE: Final = 200
_LONGEST_QUOTED: Final = 1500
_LOST: Final = "some words were lost on the way: the whole answer comes at its end"
_LATE: Final = "this is being answered already: the whole answer comes at its end"


class Shown:
    """Shows one turn on a screen. The row has the last word: what was streamed is only compared with it.

    `late` is for a turn that somebody submitted earlier: its first words may have been told before we listened.
    """

    def __init__(self, screen: Screen, said: str, *, late: bool = False) -> None:
        self._screen = screen
        self._said = said
        self._lost_words = _LATE if late else _LOST
        self._attempt = 0
        self._given_up: str | None = None
        self._stopping = False
        self._away = False
        self._worried = False  # whether the status tells of something that is over once the task runs
        self._tools: list[tuple[str, str]] = []
        self._said_once: set[str] = set()
        self._needs: str | None = None
        self._recorded = 0  # characters of this attempt that are on record
        self._replayed = 0  # characters of an earlier one, which this one tells again
        self._finished: list[tuple[str, str]] = []  # tools whose lines were shown
        self._repeats: list[tuple[str, str]] = []  # those of them that this attempt is still to tell again
        self._parks = False
        self._begin()

    def _begin(self) -> None:
        self._at = 0  # characters of the attempt's text that were told
        self._before = ""  # the last text that was shown before a tool was called
        self._segment = ""  # the text since then, as it was told
        self._lost = False  # whether a part of the segment is missing
        self._cleaner = cleaning.Cleaner()
        self._space = ""  # held back: the end of an answer has no blank lines
        self._visible = False
        self._tools.clear()

    def parked(self, needs: str) -> None:
        """Take note that the turn waits for a person, and what for."""
        self._needs = needs

    def take(self, told: Told) -> None:
        """Show one thing that the running task told."""
        if told.attempt > self._attempt:
            self._begin_attempt(told.attempt)
        if self._is_replay(told):
            return
        match told.kind:
            case "started":
                self.doing(THINKING)
            case "text":
                self._take_text(told)
            case "tool_started":
                self._end_segment()
                self._recorded = self._at  # an answer is on record before its tools begin
                self._tools.append((told.name, told.arguments))
                self.doing(f"running {display.line(told.name, 40)}")
            case "tool_finished":
                self._end_segment()
                self._say_tool(told)
                self.doing(f"running {display.line(self._tools[0][0], 40)}" if self._tools else THINKING)
            case "tool_parked":
                self._end_segment()
                self._take_parked(told)
            case "done":
                pass

    def _begin_attempt(self, attempt: int) -> None:
        """Go on after what another attempt is going to tell a second time: all that is on record of the one before."""
        if self._attempt and not self._parks:
            self.note("its worker is gone: the answer goes on with another one")
        before = self._before
        self._begin()
        self._before, self._replayed, self._repeats = before, self._recorded, list(self._finished)
        self._attempt, self._parks = attempt, False

    def _is_replay(self, told: Told) -> bool:
        end = told.at + len(told.text)
        if told.kind != "text" or end > self._replayed:
            return False
        self._at = end
        return True

    def _take_parked(self, told: Told) -> None:
        self._parks = True
        started = self._started(told.name)
        self._screen.say(f"  {_call(*started)}  waits", "quiet")

    def _take_text(self, told: Told) -> None:
        expected, self._at = self._at, told.at + len(told.text)
        if told.at != expected and not self._lost:
            self._lost = True
            self.note(self._lost_words)
        if not self._lost:
            self._segment += told.text
            self._show(self._cleaner.feed(told.text))

    def _show(self, text: str) -> None:
        if not self._screen.streams:
            return
        text = self._space + text
        if not self._visible:
            text = text.lstrip()
        shown = text.rstrip()
        self._space = text[len(shown) :]
        if shown:
            self._visible = True
            self._screen.stream(shown)

    def _end_segment(self) -> None:
        self._show(self._cleaner.rest())
        if self._segment.strip():
            self._before = self._segment
        self._segment, self._space, self._visible, self._lost = "", "", False, False

    def _started(self, name: str) -> tuple[str, str]:
        """Return the call of this name that was begun, which is over now."""
        started = next((tool for tool in self._tools if tool[0] == name), (name, ""))
        if started in self._tools:
            self._tools.remove(started)
        return started

    def _say_tool(self, told: Told) -> None:
        started = self._started(told.name)
        if started in self._repeats:
            self._repeats.remove(started)
            return
        self._finished.append(started)
        self._screen.say(f"  {_call(*started)}  {'ok' if told.ok else 'failed'}  {told.ms} ms", "quiet")

    def doing(self, words: str) -> None:
        """Show what is going on, unless something more important is."""
        if not (self._stopping or self._away):
            self._screen.status(words)

    def waiting(self, words: str) -> None:
        """Show what a task waits for; that it is running only where it has not told more than that itself."""
        if words != THINKING or self._worried or not self._attempt:
            self.doing(words)
        self._worried = words != THINKING

    def note(self, sentence: str) -> None:
        """Say something about this turn, once."""
        if sentence not in self._said_once:
            self._said_once.add(sentence)
            self._interrupt(display.safe(sentence), "quiet")

    def _interrupt(self, sentence: str, tone: Tone) -> None:
        """Say something of ours between the words, which then go on at the beginning of a line."""
        self._screen.say(sentence, tone)
        self._visible, self._space = False, ""

    def give_up(self, why: str) -> None:
        """Take note of why the turn is being stopped."""
        self._given_up = self._given_up or why

    def stopping(self) -> None:
        """Show that the answer is being stopped."""
        self._stopping = True
        self._screen.status("stopping")

    def away(self, reason: str) -> None:
        """Say that the database is away, and that it is tried again."""
        if not self._away:
            self._away = True
            self._interrupt(
                f"the database does not answer ({display.line(reason, 200)}): trying again until it does;"
                " Ctrl-C twice gives up waiting",
                "bad",
            )
            self._screen.status("waiting for the database")

    def back(self) -> None:
        """Say that the database is there again."""
        if self._away:
            self._away = False
            self._interrupt("the database is back", "quiet")
            self._screen.status("stopping" if self._stopping else THINKING)

    def end(self, task: Task) -> Turn:
        """Show how the turn ended, and what of its answer was not shown yet."""
        turn = Turn(self._said, task, self._given_up, self._needs)
        self._screen.status(None)
        if turn.parked and self._screen.waits:  # what it waits for is asked at once
            self._tools.clear()
            self._needs = None
            return turn
        self._show_rest(turn.output, sources.marked_as(task.result, self._segment))
        for tool in self._tools:
            self._screen.say(f"  {_call(*tool)}  {'' if turn.completed else 'did not finish'}".rstrip(), "quiet")
        if task.status == TaskStatus.CANCELLED and not turn.given_up:
            self._screen.say("stopped", "quiet")
        elif turn.error is not None:
            self._screen.say(f"error: {display.safe(turn.error[1])}", "bad")
            if not turn.given_up:
                self._screen.say(_after_failure(turn), "quiet")
        elif not turn.output.strip():
            self._screen.say("(an empty answer)", "quiet")
        if self._screen.streams:
            self._say_sources(task)
        self._screen.ended(turn)
        if not self._screen.streams:  # the answer has only now been shown
            self._say_sources(task)
        return turn

    def _say_sources(self, task: Task) -> None:
        if lines := sources.lines(task.result):
            said = "\n".join(f"  {display.line(each, _SOURCE)}" for each in lines)
            self._screen.say(f"Sources:\n{said}", "quiet")

    def _show_rest(self, output: str, marked: str) -> None:
        """Show what of an answer was not; `marked` is what was, with the marks of made-up numbers that only the end knows."""
        if self._lost:  # it is shown whole, on lines of its own
            self._end_segment()
        if not self._segment.strip():
            self._show("" if output == self._before else cleaning.clean(output))
        elif output == marked:
            self._show(self._cleaner.rest())
        elif output.startswith(self._segment):
            self._show(self._cleaner.feed(output[len(self._segment) :]) + self._cleaner.rest())
        elif output:
            self._end_segment()
            self.note("the answer as it was kept:")
            self._show(cleaning.clean(output))


def quoted(text: str, *, ours: bool) -> str:
    """Return a message as it stands in a conversation: the person's as it was typed, the agent's with a line after it."""
    words = cleaning.clean(text).strip()
    shown = words if len(words) <= _LONGEST_QUOTED else words[:_LONGEST_QUOTED] + " […]"
    return "> " + shown.replace("\n", "\n  ") if ours else shown + "\n"


def _call(name: str, arguments: str) -> str:
    """Return a tool call on one short line: `calculate(expression="17 * 23")`."""
    try:
        given = json.loads(arguments or "{}")
    except ValueError:  # cut on its way, or not JSON in the first place
        return f"{display.line(name, 40)}({display.line(arguments, _ARGUMENTS)})"
    if not scalars.is_mapping(given):
        return f"{display.line(name, 40)}({display.line(arguments, _ARGUMENTS)})"
    pairs = (f"{key}={_value(value)}" for key, value in given.items())
    return f"{display.line(name, 40)}({display.line(', '.join(pairs), _ARGUMENTS)})"


def _value(value: object) -> str:
    return display.line(json.dumps(value, ensure_ascii=False), _ARGUMENT)


def _after_failure(turn: Turn) -> str:
    seen = f"`cirkelline tasks show {display.short(turn.task.id)}` shows the task"
    if turn.parked:
        return f"it goes on when that has been decided ({seen})"
    return f"this turn is not part of the conversation: send it again when you like ({seen})"
