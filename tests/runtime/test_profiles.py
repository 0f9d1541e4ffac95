"""What a profile says stands in the prompts of its user, as it was when the run began, and in nobody else's."""

from __future__ import annotations

from uuid import UUID

from workplace import Workplace

from cirkelline.runtime import replaying
from cirkelline.state import logins, profiles, users
from cirkelline.tools.toolbox import Toolbox

PROFILE = {
    "name": "Ivo",
    "role": "accountant",
    "context": "Works in Aarhus.\nHas two cats.",
    "preferences": {"language": "da", "note": 'a "quote"'},
    "custom_instructions": "Be brief.",
}
TOLD = """You are helper.

Do as the script says.

You work for this user.
Name: Ivo
Role: accountant
Context: Works in Aarhus.
Has two cats.
Preferences: {"note": "a \\"quote\\"", "language": "da"}
What they ask of every answer: Be brief.

Today is """
BARE = "You are helper.\n\nDo as the script says.\n\nToday is "
ANSWER = [{"text": "hello"}]


async def person(place: Workplace, who: str, **changes: object) -> UUID:
    async with place.db.connection() as conn:
        user = await users.ensure(conn, who)
        if changes:
            await logins.add(conn, users.email_of(who), "hash")
            await profiles.change(conn, user.id, changes)
    return user.id


async def prompt(place: Workplace, task_id: UUID) -> str:
    task = await place.task(task_id)
    made = await replaying.prompt(place.db, task, Toolbox(place.tools), {})
    return str(made.messages[0].content)


async def ran(place: Workplace, user: UUID | None) -> UUID:
    task_id = await place.submit("helper", user_id=user)
    async with place.working():
        await place.ended(task_id)
    return task_id


async def test_a_profile_stands_in_its_users_prompts_alone(place: Workplace) -> None:
    await place.agent("helper", ANSWER)
    ivo, eva = await person(place, "ivo", **PROFILE), await person(place, "eva")
    zoe = await person(place, "zoe", name="Zoe")
    assert (await prompt(place, await ran(place, ivo))).startswith(TOLD)
    assert "Name: Zoe\n\nToday is " in await prompt(place, await ran(place, zoe))
    for nobody in (eva, None):
        task_id = await ran(place, nobody)
        assert (await prompt(place, task_id)).startswith(BARE)
        context = "SELECT output FROM runtime.journal WHERE task_id = %s AND kind = 'context'"
        assert "about" not in await place.value(context, task_id)


async def test_a_turn_of_a_session_is_told_too(place: Workplace) -> None:
    await place.agent("helper", ANSWER, history={"messages": 4})
    await person(place, "ivo", **PROFILE)
    session, user = await place.session("helper")
    task_id = await place.turn(session, user, "hi")
    async with place.working():
        await place.ended(task_id)
    assert (await prompt(place, task_id)).startswith(TOLD)


async def test_a_replay_sees_what_the_run_saw_whatever_the_profile_says_by_now(place: Workplace) -> None:
    await place.agent("helper", ANSWER)
    ivo = await person(place, "ivo", **PROFILE)
    told, before = await ran(place, ivo), await person(place, "eva")
    untold = await ran(place, before)
    async with place.db.connection() as conn:
        await profiles.change(conn, ivo, {"name": "Somebody else", "custom_instructions": "Shout."})
        await logins.add(conn, "eva@localhost", "hash")
        await profiles.change(conn, before, {"name": "Eva"})
    assert (await prompt(place, told)).startswith(TOLD)
    assert (await prompt(place, untold)).startswith(BARE)
    for task_id in (told, untold):
        assert (await replaying.replay(place.db, await place.task(task_id))).difference is None
    assert "Name: Somebody else" in await prompt(place, await ran(place, ivo))


async def test_a_profile_that_says_nothing_changes_no_byte_and_a_long_one_is_cut(place: Workplace) -> None:
    await place.agent("helper", ANSWER)
    ivo = await person(place, "ivo", name=" ", preferences={}, context=None)
    assert (await prompt(place, await ran(place, ivo))).startswith(BARE)
    async with place.db.connection() as conn:
        await profiles.change(conn, ivo, {"context": "x" * 100_000})
    assert len(await prompt(place, await ran(place, ivo))) < 2_500


async def test_without_a_table_of_profiles_runs_go_on(place: Workplace) -> None:
    await place.agent("helper", ANSWER)
    ivo = await person(place, "ivo")
    await place.execute("DROP TABLE public.admin_profiles")
    assert (await prompt(place, await ran(place, ivo))).startswith(BARE)
