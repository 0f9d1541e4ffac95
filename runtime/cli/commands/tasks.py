"""`cirkelline tasks`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource

from cirkelline.runtime.cli import parameters
from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group
from cirkelline.runtime.cli.parameters import DURATION, FOLDER, LIMIT, NAME

STATUSES: Final = ("pending", "running", "waiting", "completed", "failed", "cancelled")

_task: Final = click.argument("task", type=NAME)
_of_user: Final = click.option("--user", type=NAME, help="Only if it is this user's.")
_limit: Final = click.option("--limit", type=LIMIT, default=50, show_default=True, help="How many at most.")
_timeout: Final = click.option("--timeout", type=DURATION, help="How long to wait at most, such as 30s or 5m.")


@click.group("tasks", cls=Group)
def command() -> None:
    """Give agents work and see what became of it."""


@command.add("submit", example='cirkelline tasks submit assistant "What is 17 * 23?" --wait')
@click.argument("agent", type=parameters.ANY_TEXT, required=False)
@click.argument("input", nargs=-1, metavar="[INPUT]...", type=parameters.ANY_TEXT)
@click.option("--file", type=click.Path(allow_dash=True), help="Read the input from a file, or from stdin with `-`.")
@click.option(
    "--from",
    "lines",
    type=click.Path(allow_dash=True),
    metavar="FILE.jsonl",
    help='Submit a file of tasks, one JSON object to a line: {"agent": …, "input": …}; or stdin with `-`.',
)
@click.option("--json-input", is_flag=True, help="The input is JSON, not text.")
@click.option(
    "--type",
    "task_type",
    type=parameters.TASK_TYPE,
    default="task",
    show_default=True,
    help="Your own word for the kind of task.",
)
@click.option(
    "--priority", type=parameters.PRIORITY, default=0, show_default=True, help="Higher ones of those in line go first."
)
@click.option("--at", "run_at", type=parameters.MOMENT, help="Run it from then on: 2026-03-01T09:00, or with a zone.")
@click.option("--in", "delay", type=DURATION, help="Run it after this long, such as 30s or 2h.")
@click.option("--key", type=parameters.KEY, help="A key of yours: however often it is submitted, it is one task.")
@click.option(
    "--capabilities",
    type=parameters.WORDS,
    help="Instead of AGENT: what the agent has to be able to do; the least loaded idle one that can gets the task.",
)
@click.option("--user", type=NAME, help="On whose behalf it runs.")
@click.option("--wait", "wait_for_it", is_flag=True, help="Wait for the end and print the output.")
@_timeout
def submit(
    *,
    agent: str | None,
    input: tuple[str, ...],
    file: str | None,
    lines: str | None,
    json_input: bool,
    task_type: str,
    priority: int,
    run_at: datetime | None,
    delay: float | None,
    key: str | None,
    capabilities: tuple[str, ...] | None,
    user: str | None,
    wait_for_it: bool,
    timeout: float | None,
) -> Work:
    """Give an agent a task.

    INPUT is text (several words are one text), or `-` for stdin. Without --wait the command ends at once, and a worker
    (`cirkelline up`) runs the task. With it the exit code is 1 if the task fails, 3 if --timeout passes first, and 4 if it
    waits for a decision.

    With --key the same submission is the same task until that task is removed; another input for the key is refused.

    With --from a whole file is submitted, or nothing of it: a line may have agent, input, type, priority, at, in and key,
    and AGENT gets those that name no agent. --user is on whose behalf all of them run.
    """
    if lines is not None:
        _goes_alone("lines", but=("agent", "user"))
        from cirkelline.runtime.cli.actions import bulk

        return bulk.submit(lines, _name(agent) if agent is not None else None, user)
    if capabilities is not None:
        words, agent = (*([agent] if agent is not None else []), *input), None
    elif agent is None:
        raise click.UsageError("name the agent, then the input", click.get_current_context())
    else:
        words, agent = input, _name(agent)
    if timeout is not None and not wait_for_it:
        raise click.UsageError("--timeout goes with --wait", click.get_current_context())
    if run_at is not None and delay is not None:
        raise click.UsageError("give --at or --in, not both", click.get_current_context())
    from cirkelline.runtime.cli.actions import inputs, submitting

    wanted = submitting.Wanted(
        inputs.read(words, file, as_json=json_input),
        task_type,
        priority,
        run_at=run_at,
        delay=delay,
        key=key,
        capabilities=capabilities or (),
        user=user,
    )
    return submitting.submit(agent, wanted, wait_for_it=wait_for_it, patience=timeout)


def _name(agent: str) -> str:
    """Return the agent's name checked: where capabilities are given, the same words are input."""
    context = click.get_current_context()
    return NAME.convert(agent, next(each for each in context.command.params if each.name == "agent"), context)


def _goes_alone(option: str, but: tuple[str, ...]) -> None:
    """Refuse what else was given on the command line."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if given and parameter.name not in {option, "as_json", *but}:
            name = parameter.opts[-1] if parameter.param_type_name == "option" else parameter.make_metavar(context)
            raise click.UsageError(f"--from takes everything from its file: leave {name} away", context)


@command.add("list", example="cirkelline tasks list --status failed")
@click.option("--status", type=click.Choice(STATUSES), help="Only tasks of this status.")
@click.option("--agent", type=NAME, help="Only tasks of this agent.")
@click.option("--session", type=NAME, help="Only tasks of this session.")
@click.option("--user", type=NAME, help="Only tasks of this user.")
@_limit
def list_tasks(*, status: str | None, agent: str | None, session: str | None, user: str | None, limit: int) -> Work:
    """List the newest tasks."""
    from cirkelline.runtime.cli.actions import tasks

    return tasks.find(status=status, agent=agent, session=session, user=user, limit=limit)


@command.add("show", example="cirkelline tasks show 5f0c7d1e")
@_task
@_of_user
def show(task: str, user: str | None) -> Work:
    """Show one task in words: what it waits for, what went wrong, what came out.

    TASK is an id, or its first digits.
    """
    from cirkelline.runtime.cli.actions import tasks

    return tasks.show(task, user)


@command.add("wait", example="cirkelline tasks wait 5f0c7d1e --timeout 5m")
@_task
@_of_user
@_timeout
def wait(task: str, user: str | None, timeout: float | None) -> Work:
    """Wait for a task's end and print its output.

    Exit code 1 if the task fails or is cancelled, 3 if --timeout passes first, 4 if it waits for a decision. Ctrl-C ends
    the waiting, not the task.
    """
    from cirkelline.runtime.cli.actions import tasks

    return tasks.wait(task, user, timeout)


@command.add("cancel", example="cirkelline tasks cancel 5f0c7d1e")
@_task
@_of_user
def cancel(task: str, user: str | None) -> Work:
    """Cancel a task: at once while it waits, by asking its worker when it runs."""
    from cirkelline.runtime.cli.actions import tasks

    return tasks.cancel(task, user)


@command.add("retry", example="cirkelline tasks retry 5f0c7d1e")
@_task
@click.option("--from-start", is_flag=True, help="Forget its recorded steps: model and tools are called again.")
@_of_user
def retry(task: str, user: str | None, *, from_start: bool) -> Work:
    """Put a failed or cancelled task back in line.

    It goes on after its last recorded step, with the definition it began with. With --from-start, or if it has no
    steps, it begins again with its agent's current definition; tools that had run will then run once more.
    """
    from cirkelline.runtime.cli.actions import tasks

    return tasks.retry(task, user, from_start=from_start)


_call: Final = click.option("--call", type=NAME, help="Which call, where several wait: 2.0 is what `tasks show` says.")


@command.add("approve", example="cirkelline tasks approve 5f0c7d1e")
@_task
@_call
@_of_user
def approve(task: str, user: str | None, call: str | None) -> Work:
    """Let a tool call run that waits for approval; `tasks show` shows its arguments.

    The task goes on, on any worker, once nothing else of it waits. Of decisions that race, the first one counts.
    """
    from cirkelline.runtime.cli.actions import deciding

    return deciding.approve(task, user, call)


@command.add("reject", example='cirkelline tasks reject 5f0c7d1e --reason "too expensive, ask for an offer first"')
@_task
@click.option("--reason", type=parameters.ANY_TEXT, help="Why; the model reads it.")
@_call
@_of_user
def reject(task: str, user: str | None, reason: str | None, call: str | None) -> Work:
    """Refuse a tool call that waits for approval: it does not run, and the model is told so."""
    from cirkelline.runtime.cli.actions import deciding

    return deciding.reject(task, user, call, reason)


@command.add("answer", example='cirkelline tasks answer 5f0c7d1e "the blue one"')
@_task
@click.argument("text", nargs=-1, required=True, type=parameters.ANY_TEXT)
@_call
@_of_user
def answer(task: str, user: str | None, text: tuple[str, ...], call: str | None) -> Work:
    """Answer what an agent asks a person (several words are one text)."""
    from cirkelline.runtime.cli.actions import deciding

    return deciding.answer(task, user, call, " ".join(text))


@command.add("resolve", example="cirkelline tasks resolve 5f0c7d1e --retry")
@_task
@click.option("--retry", is_flag=True, help="It did not happen: run it (again).")
@click.option("--result", "result", type=parameters.ANY_TEXT, metavar="JSON", help="It happened: this is its result.")
@click.option("--fail", is_flag=True, help="End the task as failed.")
@click.option("--reason", type=parameters.ANY_TEXT, help="With --fail: why; it is the task's error.")
@_call
@_of_user
def resolve(
    *, task: str, user: str | None, retry: bool, result: str | None, fail: bool, reason: str | None, call: str | None
) -> Work:
    """Decide what became of a tool that was running when its worker died, or about a task whose workers keep dying.

    Give exactly one of --retry, --result and --fail.
    """
    if [retry, result is not None, fail].count(True) != 1:
        raise click.UsageError("give exactly one of --retry, --result JSON and --fail", click.get_current_context())
    if reason is not None and not fail:
        raise click.UsageError("--reason goes with --fail", click.get_current_context())
    from cirkelline.runtime.cli.actions import deciding, inputs

    if result is not None:
        return deciding.resolve_result(task, user, call, inputs.parsed(result, "the result"))
    return deciding.resolve(task, user, call, again=retry, reason=reason)


@command.add("trace", example="cirkelline tasks trace 5f0c7d1e")
@_task
@click.option(
    "--prompt",
    type=parameters.POSITION,
    is_flag=False,
    flag_value="last",
    metavar="[STEP]",
    help="Show what the model saw at this step; without a number, at its last call.",
)
@click.option("--body", is_flag=True, help="With --prompt: the body of the request that was sent, to the byte.")
@click.option(
    "--tools", type=FOLDER, help="With --prompt: folder of the agent's Python tools; by default as `cirkelline up`."
)
@_of_user
def trace(task: str, user: str | None, prompt: int | None, tools: Path | None, *, body: bool) -> Work:
    """Show every step of a task's run, or what its model saw at one of them.

    Steps are numbered by model call: 2 is the second answer, 2.0 the first tool call that it asked for. A step that a
    later attempt found on record is marked as replayed. Prompts are not stored: they are rebuilt from the record.
    """
    from cirkelline.runtime.cli.actions import tracing

    if prompt is None and (body or tools):
        raise click.UsageError(f"--{'body' if body else 'tools'} goes with --prompt", click.get_current_context())
    return tracing.trace(task, user) if prompt is None else tracing.prompt(task, user, prompt or None, tools, body=body)


@command.add("replay", example="cirkelline tasks replay 5f0c7d1e")
@_task
@_of_user
def replay(task: str, user: str | None) -> Work:
    """Run a task once more from its journal alone, and say whether it comes to the same.

    No model is asked, no tool is called, and nothing is written. Exit code 1 if the run comes to something else.
    """
    from cirkelline.runtime.cli.actions import tracing

    return tracing.replay(task, user)


@command.add("search", example="cirkelline tasks search invoice march")
@click.argument("words", nargs=-1, required=True, type=NAME)
@click.option("--user", type=NAME, help="Only tasks of this user.")
@_limit
def search(words: tuple[str, ...], user: str | None, limit: int) -> Work:
    """List the newest tasks whose type or input holds every one of the words, or words that begin so."""
    from cirkelline.runtime.cli.actions import tasks

    return tasks.search(" ".join(words), user, limit)
