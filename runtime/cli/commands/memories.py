"""`cirkelline memories`."""

from __future__ import annotations

from typing import Final

import click

from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group
from cirkelline.runtime.cli.parameters import ANY_TEXT, CRON, DURATION, LIMIT, MODEL, NAME, NEVER, ZONE, Name

_TOPIC: Final = Name(60)
_user: Final = click.option("--user", type=NAME, help="Whose; by default $CIRKELLINE_USER, or the system's user.")


@click.group("memories", cls=Group)
def command() -> None:
    """See what is remembered of a user, and change it."""


@command.add("list", example="cirkelline memories list --topic work")
@_user
@click.option("--topic", type=_TOPIC, help="Only memories with this topic.")
@click.option("--archived", is_flag=True, help="What was forgotten, replaced or merged instead.")
@click.option("--limit", type=LIMIT, default=50, show_default=True, help="How many at most.")
def list_memories(*, user: str | None, topic: str | None, archived: bool, limit: int) -> Work:
    """List what is remembered of a user, the latest first."""
    if topic and archived:
        raise click.UsageError("--topic is for what is remembered, not for --archived", click.get_current_context())
    from cirkelline.runtime.cli.actions import memories

    return memories.find(user, topic=topic, archived=archived, limit=limit)


@command.add("search", example="cirkelline memories search 'where does she live'")
@click.argument("words", nargs=-1, required=True, type=ANY_TEXT)
@_user
@click.option("--limit", type=LIMIT, default=8, show_default=True, help="How many at most.")
def search(words: tuple[str, ...], user: str | None, limit: int) -> Work:
    """Search what is remembered of a user by meaning, the nearest first."""
    if not " ".join(words).strip():
        raise click.UsageError("say what to look for", click.get_current_context())
    from cirkelline.runtime.cli.actions import memories

    return memories.search(" ".join(words), user, limit)


@command.add("add", example="cirkelline memories add 'Lives in Aarhus' --topic home")
@click.argument("fact", type=ANY_TEXT)
@_user
@click.option("--topic", "topics", multiple=True, type=_TOPIC, help="What it is about; again for one more.")
@click.option(
    "--replaces", multiple=True, type=NAME, help="The id of a memory that is not true any more; again for one more."
)
def add(fact: str, user: str | None, topics: tuple[str, ...], replaces: tuple[str, ...]) -> Work:
    """Remember a fact about a user.

    FACT is one short sentence. What it says anew is not added twice, and what it replaces goes into the archive.
    """
    from cirkelline.runtime.cli.actions import memories

    return memories.add(fact, user, topics=topics, replaces=replaces)


@command.add("forget", example="cirkelline memories forget 12")
@click.argument("memory", nargs=-1, required=True, type=NAME)
@_user
def forget(memory: tuple[str, ...], user: str | None) -> Work:
    """Forget memories; `memories undo` brings them back.

    MEMORY is an id, or the first digits of its UUID.
    """
    from cirkelline.runtime.cli.actions import memories

    return memories.forget(memory, user)


@command.add("undo", example="cirkelline memories undo 12")
@click.argument("what", type=NAME)
@_user
def undo(what: str, user: str | None) -> Work:
    """Bring back a memory that was forgotten or replaced, or all that a run of memory_optimization changed.

    WHAT is the memory's id, or the run's.
    """
    from cirkelline.runtime.cli.actions import memories

    return memories.undo(what, user)


@command.add("optimize", example="cirkelline memories optimize --wait")
@_user
@click.option("--model", type=MODEL, help="The model that decides; without one only exact restatements are merged.")
@click.option("--every", type=CRON, help="Do it by the clock instead, as five cron fields say; `never` ends that.")
@click.option("--tz", type=ZONE, help="The time zone of --every, such as Europe/Copenhagen; without it UTC.")
@click.option("--wait", "wait_for_it", is_flag=True, help="Wait for the end, and show what was done.")
@click.option("--timeout", type=DURATION, help="How long to wait at most, such as 30s or 5m.")
def optimize(
    *, user: str | None, model: str | None, every: str | None, tz: str | None, wait_for_it: bool, timeout: float | None
) -> Work:
    """Go through what is remembered of a user for what is said twice, or is not true any more.

    A run of the workflow memory_optimization, which a worker does (`cirkelline up`). What it merges or deletes goes into the
    archive, and `memories undo RUN` takes all of it back. It also begins by itself once much is new ($CIRKELLINE_OPTIMIZE_AFTER).
    """
    context = click.get_current_context()
    if timeout is not None and not wait_for_it:
        raise click.UsageError("--timeout goes with --wait", context)
    if every is not None and wait_for_it:
        raise click.UsageError("--wait is for a run that begins now, not for --every", context)
    if tz is not None and every in {None, NEVER}:
        raise click.UsageError("--tz goes with a time in --every", context)
    if model is not None and every == NEVER:
        raise click.UsageError("--model is for runs, and with --every never there are none", context)
    from cirkelline.runtime.cli.actions import memories

    if every is not None:
        return memories.optimize_every(user, model, cron=None if every == NEVER else every, tz=tz or "UTC")
    return memories.optimize(user, model, wait_for_it=wait_for_it, patience=timeout)


@command.add("why", example="cirkelline memories why 12")
@click.argument("memory", type=NAME)
@_user
def why(memory: str, user: str | None) -> Work:
    """Show where a memory came from: the message, the session and the task; and when it was last used.

    MEMORY is an id, or the first digits of its UUID.
    """
    from cirkelline.runtime.cli.actions import memories

    return memories.why(memory, user)


@command.add("capture", example="cirkelline memories capture on")
@click.argument("choice", type=click.Choice(["on", "off"]), required=False)
@_user
def capture(choice: str | None, user: str | None) -> Work:
    """Show or say whether chats may be looked through for what to remember of a user.

    It is off until the user has agreed, and then on for agents with `memory: {capture: auto}`.
    """
    from cirkelline.runtime.cli.actions import memories

    return memories.capture(choice, user)
