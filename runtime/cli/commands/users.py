"""`cirkelline users`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from cirkelline.runtime.cli import parameters
from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group
from cirkelline.runtime.cli.parameters import ANY_TEXT, FILE_OR_FOLDER, NAME

_user: Final = click.argument("user", type=NAME)


@click.group("users", cls=Group)
def command() -> None:
    """See who there is, what is theirs, and let them in or go."""


@command.add("add", example="cirkelline users add ivo@example.com")
@_user
def add(user: str) -> Work:
    """Give a user a login, and make the user where there is none.

    USER is an email, or a bare name for name@localhost. The password is asked for, or read from the first line of stdin:
    never from the command line, which other users of the machine can see. What is kept is its bcrypt hash.
    """
    from cirkelline.runtime.cli.actions import users

    return users.add(user)


@command.add("list", example="cirkelline users list --json")
def list_users() -> Work:
    """List the users: who can log in, who was switched off, and what other programs call them."""
    from cirkelline.runtime.cli.actions import users

    return users.find()


@command.add("login", example="cirkelline users login ivo@example.com")
@_user
@click.option("--replace-token", is_flag=True, help="Also when the token they have is another program's.")
def login(user: str, *, replace_token: bool) -> Work:
    """Print a new token for a user who knows their password.

    The password is asked for, or read from the first line of stdin. The token stands for the user in programs
    (`Runtime.user(token)`) until the next login; only its hash is kept. After five wrong passwords in 15 minutes no more
    are looked at, whichever process they come from.
    """
    from cirkelline.runtime.cli.actions import users

    return users.login(user, replace_token=replace_token)


@command.add("password", example="cirkelline users password ivo@example.com")
@_user
def password(user: str) -> Work:
    """Give a user who has a login another password; the token they had ends.

    The new password is asked for, or read from the first line of stdin. Whoever may run this needs not know the old one.
    """
    from cirkelline.runtime.cli.actions import users

    return users.change_password(user)


@command.add("profile", example="cirkelline users profile ivo@example.com --role accountant")
@_user
@click.option("--name", type=ANY_TEXT, help="What to call them.")
@click.option("--role", type=ANY_TEXT, help="What they do.")
@click.option("--context", type=ANY_TEXT, help="What an agent should know about them.")
@click.option("--preferences", type=ANY_TEXT, metavar="JSON", help="Anything, as JSON.")
@click.option("--instructions", type=ANY_TEXT, help="What they ask of every answer.")
def profile(
    *,
    user: str,
    name: str | None,
    role: str | None,
    context: str | None,
    preferences: str | None,
    instructions: str | None,
) -> Work:
    """Show what agents are told about a user, or change it; an empty text removes a field.

    Every later run for that user has it in its prompt; runs for others never.
    """
    from cirkelline.runtime.cli.actions import inputs, users

    given: dict[str, Any] = {"name": name, "role": role, "context": context, "custom_instructions": instructions}
    changes = {field: text.strip() or None for field, text in given.items() if text is not None}
    if preferences is not None:
        said = preferences.strip()
        changes["preferences"] = inputs.parsed(said, "the preferences") if said else None
    return users.profile(user, changes)


@command.add("adopt", example="cirkelline users adopt user-123 --as ivo@example.com")
@click.argument("owner", type=parameters.NAME, required=False)
@click.option("--as", "user", type=NAME, help="The user whose rows these are.")
@click.option("--list", "list_them", is_flag=True, help="List the owners' texts that name nobody.")
@click.option("--undo", is_flag=True, help="Let the text name nobody again.")
def adopt(*, owner: str | None, user: str | None, list_them: bool, undo: bool) -> Work:
    """Give a user the rows that other programs wrote for them.

    OWNER is the text in the rows' user_id. No row is changed: from now on the text names the user as their own id does.
    """
    if [owner is not None and user is not None, owner is not None and undo, list_them].count(True) != 1 or (
        list_them and (owner or user)
    ):
        raise click.UsageError("give OWNER --as USER, or OWNER --undo, or --list", click.get_current_context())
    from cirkelline.runtime.cli.actions import users

    if list_them:
        return users.list_unowned()
    return users.undo(str(owner)) if user is None else users.adopt(str(owner), user)


@command.add("deactivate", example="cirkelline users deactivate ivo@example.com")
@_user
@click.option("--undo", is_flag=True, help="Switch the user on again; they need a new token.")
def deactivate(*, user: str, undo: bool) -> Work:
    """Switch a user off: no login, no token, no chat, and nothing done on their behalf.

    Whatever was in line, parked or running for them is cancelled. All their data stays.
    """
    from cirkelline.runtime.cli.actions import leaving

    return leaving.activate(user) if undo else leaving.deactivate(user)


@command.add("export", example="cirkelline users export ivo@example.com --output ivo.zip")
@_user
@click.option("--output", type=FILE_OR_FOLDER, help="The new file; by default NAME-DAY.zip in this folder.")
def export(user: str, output: Path | None) -> Work:
    """Write everything the database holds of a user into one zip archive, as of one moment.

    It has a file for each table, with a row as JSON on each line. Only whoever runs the command may read it.
    """
    from cirkelline.runtime.cli.actions import leaving

    return leaving.export(user, output)


@command.add("delete", example="cirkelline users delete ivo@example.com")
@_user
@click.option("--yes", is_flag=True, help="Do not ask; needed without a terminal.")
def delete(*, user: str, yes: bool) -> Work:
    """Erase a user with everything of theirs: conversations, tasks, journal, memories, documents, vectors, login.

    What is left is a note that the user was erased, by id alone, and what was spent, under no name. It cannot be undone;
    `users export` takes the data along first. Given the id again, it erases what other programs wrote since, or what a
    restored backup brought back.
    """
    from cirkelline.runtime.cli.actions import leaving

    return leaving.erase(user, yes=yes)
